"""Every way to get an app file wrong that we could think of, and how well each refusal helps: eight rules, scored.

1. The first line says what and why in at most 25 words, without names of classes.
2. The file, the line and the column, the line itself, and a caret under the very word.
3. The value seen and the value wanted, where a value is wrong.
4. A note that names the other place, where there is one.
5. One remedy; what it says, done to the file, mends it.
6. All independent mistakes at once, and none that only follow from others.
7. A stable code with a lesson, and every field for programs.
8. Never a traceback.

A row of the table is a mistake; the scorer knows nothing of the reader but what it prints.
"""

from __future__ import annotations

import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

from miniorch.appfile import read
from miniorch.appfile.read import read_app_files
from miniorch.errors import AppFileError, UsageError

LESSONS = Path(read.__file__).parents[1] / "lessons.md"
FIELDS = {"code", "message", "file", "line", "column", "hint", "note", "remedy"}
BLAME = re.compile(r"\b(you must|you forgot|your|please|illegal|invalid|bad|stupid|must|fatal)\b|!$", re.IGNORECASE)
CLASSES = re.compile(r"\b[A-Z][a-z]+[A-Z]\w+|\b(str|int|dict|bool|NoneType|object at)\b|Traceback|Error\b")
UNQUOTED = re.compile("[\"']")
SEVERAL = re.compile(r", or |\bor (write|add|use|delete|correct|run)\b")
W = "services:\n  web:\n    image: nginx\n"


@dataclass(frozen=True)
class Mistake:
    """A file, and what must be said about it.

    `mend` is the change that the remedy speaks of: (what is there, what it becomes). What is new in it must stand in
    the remedy, and the file must be accepted afterwards. "$", "export" and "--profile" stand for commands.
    """

    title: str
    text: str
    place: str  # line:column of the caret; "" for a file without lines
    first: str  # code and first line
    mend: tuple[str, str]
    seen: str = ""  # the value that is wrong
    wanted: str = ""  # what it should be
    other: str = ""  # line:column of the other place involved


MISTAKES = [
    # --- not YAML ---
    Mistake("an empty file", "", "", "E0100: the file is empty", ("", "services: {web: {image: nginx}}")),
    Mistake("only a comment", "# nothing\n", "", "E0100: the file is empty",
            ("# nothing", "services: {web: {image: nginx}}")),
    Mistake("a tab", "services:\n\tweb: {image: x}\n", "2:1", "E0103: not YAML: a line is indented with a tab",
            ("\t", "  ")),
    Mistake("an open bracket", "services: {web: {image: x}\n", "1:27",
            "E0103: not YAML: a { is not closed, or a comma is missing", ("\n", "}\n"), other="1:11"),
    Mistake("an open quotation mark", 'services: {web: {image: "x}}\n', "1:29",
            "E0103: not YAML: a quotation mark is not closed", ("}}\n", '"}}\n'), other="1:25"),
    Mistake("a wrong indent", W + "   command: x\n", "4:4",
            "E0103: not YAML: this line begins in another column than its neighbours", ("   command", "    command"),
            other="2:3"),
    Mistake("two documents", W + "---\nservices: {}\n", "5:1", "E0103: a second document begins here",
            ("---\nservices: {}\n", "")),
    Mistake("an own tag", "services: !mine {web: {image: x}}\n", "1:11", "E0103: the tag !mine is not read",
            ("!mine ", "")),
    Mistake("a key that is a list", W + "? [a]\n: b\n", "4:3", "E0103: a key is a list or a mapping",
            ("? [a]\n: b\n", "")),
    Mistake("an alias inside itself", "services: &a\n  web: {image: x}\n  api: *a\n", "1:11",
            "E0103: an alias contains itself", ("*a", "{image: x}")),
    Mistake("an unknown alias", "services: {web: *a}\n", "1:17",
            "E0103: not YAML: the name behind * is given to nothing above", ("*a", "{image: x}")),
    Mistake("a merge of a text", "services:\n  web: {<<: nginx, image: x}\n", "2:13",
            'E0103: << wants a mapping, got the text "nginx"', ("<<: nginx, ", ""), "nginx", "a mapping"),
    Mistake("a colon too many", W + "    command: a: b\n", "4:15", "E0103: not YAML: a second colon in one line",
            ("a: b", "'a: b'")),
    # --- written twice ---
    Mistake("a key twice", W + "    image: apache\n", "4:5", 'E0101: "image" is written twice',
            ("    image: nginx\n", ""), other="3:5"),
    Mistake("a service twice", W + "  web:\n    image: x\n", "4:3", 'E0101: "web" is written twice',
            ("  web:\n    image: x\n", ""), other="2:3"),
    Mistake("a variable twice", W + "    environment: [A=1, A=2]\n", "4:24",
            'E0101: "A" is written twice in service web: environment', (", A=2", ""), other="4:19"),
    # --- a key nobody knows ---
    Mistake("an unknown top key", "servces:\n  web: {image: x}\n", "1:1", 'E0102: the file has no key "servces"',
            ("servces:", "services:"), "servces", "services"),
    Mistake("a typo", W + "    port: ['80:80']\n", "4:5", 'E0102: service web has no key "port"', ("port:", "ports:"),
            "port", "ports"),
    Mistake("a key in capitals", W + "    Command: x\n", "4:5", 'E0102: service web has no key "Command"',
            ("Command:", "command:"), "Command", "command"),
    Mistake("a key with a dash", W + "    env-file: there.env\n", "4:5", 'E0102: service web has no key "env-file"',
            ("env-file:", "env_file:"), "env-file", "env_file"),
    Mistake("a strange key", W + "    colour: red\n", "4:5", 'E0102: service web has no key "colour"',
            ("    colour: red\n", ""), "colour", "image, build"),
    Mistake("an unknown deploy key", W + "    deploy: {replica: 2}\n", "4:14",
            'E0102: service web: deploy has no key "replica"', ("replica:", "replicas:"), "replica", "replicas"),
    Mistake("a service's key at the top", W + "ports: ['80:80']\n", "4:1", 'E0102: the file has no key "ports"',
            ("ports: ['80:80']\n", ""), "ports", "below a service"),
    Mistake("a top key in a service", W + "    services: {}\n", "4:5", 'E0102: service web has no key "services"',
            ("    services: {}\n", ""), "services", "beside services"),
    Mistake("replicas beside deploy", W + "    replicas: 2\n", "4:5", 'E0102: service web has no key "replicas"',
            ("replicas: 2", "deploy: {replicas: 2}"), "replicas", "deploy"),
    Mistake("memory beside limits", W + "    memory: 64m\n", "4:5", 'E0102: service web has no key "memory"',
            ("memory: 64m", "deploy: {resources: {limits: {memory: 64m}}}"), "memory", "limits"),
    Mistake("stop_after beside x-miniorch", W + "    stop_after: 30s\n", "4:5",
            'E0102: service web has no key "stop_after"', ("stop_after: 30s", "x-miniorch: {stop_after: 30s}"),
            "stop_after", "x-miniorch"),
    Mistake("a port key", W + "    ports: [{targt: 80}]\n", "4:14", 'E0102: service web: ports has no key "targt"',
            ("targt:", "target:"), "targt", "target"),
    # --- a wrong type or value ---
    Mistake("a list", "- web\n", "1:1", "E0104: the file wants a mapping, got a list",
            ("- web", "services: {web: {image: nginx}}"), "a list", "a mapping"),
    Mistake("a word", "web\n", "1:1", 'E0104: the file wants a mapping, got the text "web"',
            ("web", "services: {web: {image: nginx}}"), "web", "a mapping"),
    Mistake("services as a list", "services:\n  - web\n", "2:3", "E0104: services wants a mapping, got a list",
            ("- web", "web: {image: nginx}"), "a list", "a mapping"),
    Mistake("a service as a text", "services:\n  web: nginx\n", "2:8",
            'E0104: service web wants a mapping, got the text "nginx"', ("nginx", "{image: nginx}"), "nginx",
            "a mapping"),
    Mistake("an empty image", "services:\n  web:\n    image: ''\n", "3:12",
            "E0104: service web: image is empty and wants a text", ("''", "nginx"), "empty", "a text"),
    Mistake("an image that is a list", "services:\n  web:\n    image: [a]\n", "3:12",
            "E0104: service web: image wants a text, got a list", ("[a]", "nginx"), "a list", "a text"),
    Mistake("a service name with an underline", "services:\n  web_1:\n    image: x\n", "2:3",
            'E0104: the service name "web_1" is no DNS label', ("web_1", "web-1"), "web_1", "web-1"),
    Mistake("an app name in capitals", "name: My Shop\n" + W, "1:7", 'E0104: the app name "My Shop" is no DNS label',
            ("My Shop", "my-shop"), "My Shop", "my-shop"),
    Mistake("replicas as a word", W + "    deploy: {replicas: three}\n", "4:24",
            'E0104: service web: deploy: replicas wants a whole number, got the text "three"',
            ("replicas: three", "replicas: 3"), "three", "a whole number"),
    Mistake("negative replicas", W + "    deploy: {replicas: -1}\n", "4:24",
            "E0104: service web: deploy: replicas wants 0 to 10000, got -1", ("replicas: -1", "replicas: 3"), "-1",
            "0 to 10000"),
    Mistake("half a replica", W + "    deploy: {replicas: 1.5}\n", "4:24",
            "E0104: service web: deploy: replicas wants a whole number, got the number 1.5",
            ("replicas: 1.5", "replicas: 3"), "1.5", "a whole number"),
    Mistake("an unknown mode", W + "    deploy: {mode: replcated}\n", "4:20",
            'E0104: service web: deploy: mode wants replicated or global or replicated-job or global-job, '
            'got "replcated"',
            ("replcated", "replicated"), "replcated", "replicated"),
    Mistake("memory in words", W + "    mem_limit: lots\n", "4:16",
            'E0104: service web: mem_limit wants an amount of memory, got the text "lots"', ("lots", "512M"), "lots",
            "an amount"),
    Mistake("negative cpus", W + "    cpus: -1\n", "4:11",
            "E0104: service web: cpus wants a number of CPUs, got the number -1", ("-1", '"0.5"'), "-1", "a number"),
    Mistake("a port that is a name", W + "    ports: ['http']\n", "4:13",
            'E0104: service web: ports wants published:target, each between 1 and 65535, got "http"',
            ("'http'", '"5000:5000"'), "http", "published:target"),
    Mistake("port 0", W + "    ports: ['0:80']\n", "4:13",
            'E0104: service web: ports wants published:target, each between 1 and 65535, got "0:80"',
            ("'0:80'", '"5000:5000"'), "0:80", "published:target"),
    Mistake("port 70000", W + "    ports: [{target: 70000}]\n", "4:22",
            "E0104: service web: ports: target wants 1 to 65535, got 70000", ("target: 70000", "target: 5000"), "70000",
            "1 to 65535"),
    Mistake("a published word", W + "    ports: [{target: 80, published: www}]\n", "4:37",
            'E0104: service web: ports: published wants a port between 1 and 65535, got "www"',
            ("published: www", "published: 5000"), "www", "1 and 65535"),
    Mistake("unequal ranges", W + "    ports: ['80-82:80-81']\n", "4:13",
            'E0104: service web: ports wants two ranges of one length, got "80-82:80-81"',
            ("'80-82:80-81'", '"80-81:80-81"'), "80-82:80-81", "one length"),
    Mistake("a port on one address", W + "    ports: ['192.168.1.2:80:80']\n", "4:13",
            "E0104: service web: ports wants all addresses or 127.0.0.1, got 192.168.1.2",
            ("'192.168.1.2:80:80'", '"127.0.0.1:80:80"'), "192.168.1.2", "127.0.0.1"),
    Mistake("a strange protocol", W + "    ports: ['80:80/sctp']\n", "4:13",
            'E0104: service web: ports wants tcp or udp, got "sctp"', ("'80:80/sctp'", '"80:80/tcp"'), "sctp",
            "tcp or udp"),
    Mistake("ports that are a text", W + "    ports: 80:80\n", "4:12",
            'E0104: service web: ports wants a list, got the text "80:80"', ("80:80", "[80:80]"), "80:80", "a list"),
    Mistake("a relative target", W + "    volumes: ['data:data']\nvolumes: {data: }\n", "4:15",
            'E0104: service web: volumes wants an absolute path in the container, got "data"',
            ("'data:data'", "data:/data"), "data", "an absolute path"),
    Mistake("a volume of four parts", W + "    volumes: ['a:/a:ro:z']\nvolumes: {a: }\n", "4:15",
            'E0104: service web: volumes wants name:/path, got "a:/a:ro:z"', ("'a:/a:ro:z'", "a:/a"), "a:/a:ro:z",
            "name:/path"),
    Mistake("a volume in capitals", W + "volumes: {Data: }\n", "4:11", 'E0104: the volume name "Data" cannot be used',
            ("Data", "data"), "Data", "data"),
    Mistake("an unknown type of mount", W + "    volumes: [{type: bnd, source: /a, target: /a}]\n", "4:22",
            'E0104: service web: volumes: type wants volume or bind or tmpfs, got "bnd"', ("type: bnd", "type: bind"),
            "bnd", "bind"),
    Mistake("a test without CMD", W + "    healthcheck: {test: [curl, x]}\n", "4:25",
            "E0104: service web: healthcheck: test wants a list that begins with CMD or CMD-SHELL, got curl x",
            ("[curl, x]", '["CMD", "curl", "x"]'), "curl", "CMD"),
    Mistake("a duration without unit", W + "    healthcheck: {test: x, interval: 5}\n", "4:38",
            "E0104: service web: healthcheck: interval wants a duration, got the number 5",
            ("interval: 5", "interval: 5s"), "5", "a duration"),
    Mistake("no retries", W + "    healthcheck: {test: x, retries: 0}\n", "4:37",
            "E0104: service web: healthcheck: retries wants 1 to 1000, got 0", ("retries: 0", "retries: 3"), "0",
            "1 to 1000"),
    Mistake("an interval of nothing", W + "    healthcheck: {test: x, interval: 0s}\n", "4:38",
            'E0104: service web: healthcheck: interval wants more than 0 seconds, got the text "0s"',
            ("interval: 0s", "interval: 5s"), "0s", "more than 0"),
    Mistake("a strange condition", W + "    depends_on: {db: {condition: healthy}}\n  db: {image: x}\n", "4:34",
            "E0104: service web: depends_on db: condition wants service_started or "
            'service_healthy or service_completed_successfully, got "healthy"',
            ("condition: healthy", "condition: service_healthy"), "healthy", "service_healthy"),
    Mistake("an open quote in a command", W + "    command: echo 'x\n", "4:14",
            "E0104: service web: command has a quotation mark that is not closed", ("echo 'x", '["echo", "x"]'),
            "quotation mark", "list"),
    Mistake("environment as a text", W + "    environment: A=1\n", "4:18",
            'E0104: service web: environment wants NAME: value lines, got the text "A=1"', ("A=1", "[A=1]"), "A=1",
            "NAME: value"),
    Mistake("a value that is a list", W + "    environment: {A: [1]}\n", "4:22",
            "E0104: service web: environment A wants a text, got a list", ("A: [1]", "A: some text"), "a list",
            "a text"),
    Mistake("a grace as a word", W + "    stop_grace_period: soon\n", "4:24",
            'E0104: service web: stop_grace_period wants a duration, got the text "soon"', ("soon", "1m30s"), "soon",
            "a duration"),
    Mistake("tty as a word", W + "    tty: perhaps\n", "4:10",
            'E0104: service web: tty wants true or false, got the text "perhaps"', ("perhaps", "false"), "perhaps",
            "true or false"),
    Mistake("a strange restart", W + "    restart: sometimes\n", "4:14",
            "E0104: service web: restart wants no, always, unless-stopped, on-failure or "
            'on-failure:3, got the text "sometimes"',
            ("sometimes", "always"), "sometimes", "always"),
    Mistake("half an ulimit", W + "    ulimits: {nofile: {soft: 1}}\n", "4:23",
            "E0104: service web: ulimits nofile wants soft and hard, got a mapping",
            ("{soft: 1}", "{soft: 1024, hard: 2048}"), "a mapping", "soft and hard"),
    Mistake("an alias in capitals", W + "    links: ['db:My_DB']\n  db: {image: x}\n", "4:13",
            'E0104: the alias "My_DB" is no DNS label', ("My_DB", "my-db"), "My_DB", "my-db"),
    Mistake("expose as a text", W + "    expose: 80\n", "4:13",
            "E0104: service web: expose wants a list, got the number 80", ("80", "[80]"), "80", "a list"),
    Mistake("a word of restart as a condition", W + "    deploy: {restart_policy: {condition: always}}\n", "4:42",
            'E0104: service web: deploy: restart_policy: condition wants on-failure or none or any, got "always"',
            ("always", "any"), "always", "any"),
    Mistake("a job that never ends", W + "    deploy: {mode: replicated-job, restart_policy: {condition: any}}\n",
            "4:64", 'E0104: service web: deploy: restart_policy: condition wants on-failure or none, got "any"',
            ("condition: any", "condition: on-failure"), "any", "on-failure"),
    Mistake("a job that restarts", W + "    restart: always\n    deploy: {mode: replicated-job}\n", "4:14",
            'E0104: service web: restart wants no or on-failure, as this is a job, got the text "always"',
            ("restart: always", "restart: on-failure"), "always", "on-failure"),
    Mistake("environment as a list of mappings", W + "    environment: [{A: b}]\n", "4:19",
            "E0104: service web: environment wants NAME=value, got a mapping", ("{A: b}", "A=b"), "a mapping",
            "NAME=value"),
    Mistake("blanks around the equals sign", W + "    environment:\n      - A = b\n", "5:9",
            'E0104: service web: environment wants NAME=value without a blank before the =, got the text "A = b"',
            ("A = b", "A=b"), "A = b", "NAME=value"),
    Mistake("a condition without its key", W + "    depends_on: {db: service_healthy}\n  db: {image: x}\n", "4:22",
            'E0104: service web: depends_on db wants a mapping, got the text "service_healthy"',
            ("db: service_healthy", "db: {condition: service_healthy}"), "service_healthy", "a mapping"),
    Mistake("a path of Windows", W + "    volumes: ['C:\\data:/data']\n", "4:15",
            'E0104: service web: volumes wants a path of Linux, got "C:\\data:/data"',
            ("'C:\\data:/data'", "./data:/data"), "C:\\data", "a path of Linux"),
    Mistake("a volume for each task", W + "    volumes: ['data-{{.Task.Slot}}:/data']\nvolumes: {data: }\n", "4:15",
            'E0104: service web: volumes are the same for all tasks, got "data-{{.Task.Slot}}"',
            ("-{{.Task.Slot}}", ""), "{{.Task.Slot}}", "without {{"),
    Mistake("a colon without a blank", "services:\n  web:\n    image:nginx\n", "3:5",
            'E0104: service web wants a mapping, got the text "image:nginx"', ("image:nginx", "image: nginx"),
            "image:nginx", "a mapping"),
    Mistake("a colon without a blank, and more lines", "services:\n  web:\n    image:nginx\n    ports: ['80:80']\n",
            "3:10", "E0103: not YAML: a blank is missing behind a colon", ("image:nginx", "image: nginx")),
    Mistake("a colon without a blank in the last line", "services:\n  web:\n    command: x\n    image:nginx\n", "4:10",
            "E0103: not YAML: a blank is missing behind a colon", ("image:nginx", "image: nginx")),
    Mistake("an image in capitals", "services:\n  web:\n    image: Nginx:Latest\n", "3:12",
            'E0104: service web: image wants name:tag in lower-case letters, got "Nginx:Latest"',
            ("Nginx:Latest", "nginx:latest"), "Nginx", "lower-case"),
    Mistake("an image with an empty tag", "services:\n  web:\n    image: 'nginx:'\n", "3:12",
            'E0104: service web: image wants name:tag in lower-case letters, got "nginx:"', ("'nginx:'", "nginx"),
            "nginx:", "name:tag"),
    Mistake("too little memory for Docker", W + "    mem_limit: 4m\n", "4:16",
            'E0104: service web: mem_limit wants at least 6M, as Docker does, got the text "4m"',
            ("mem_limit: 4m", "mem_limit: 6M"), "4m", "at least 6M"),
    Mistake("a mistyped capability", W + "    cap_add: [KILL, NET_ADMN]\n", "4:21",
            'E0104: service web: cap_add wants the name of a capability, got "NET_ADMN"', ("NET_ADMN", "NET_ADMIN"),
            "NET_ADMN", "NET_ADMIN"),
    Mistake("a mistyped signal", W + "    stop_signal: SIGTRM\n", "4:18",
            'E0104: service web: stop_signal wants the name of a signal, got "SIGTRM"', ("SIGTRM", "SIGTERM"), "SIGTRM",
            "SIGTERM"),
    Mistake("a working folder of nowhere", W + "    working_dir: ./src\n", "4:18",
            'E0104: service web: working_dir wants an absolute path in the container, got the text "./src"',
            ("working_dir: ./src", "working_dir: /src"), "./src", "an absolute path"),
    Mistake("a host without address", W + "    extra_hosts: [foo]\n", "4:19",
            'E0104: service web: extra_hosts wants name:address, got "foo"', ("foo", '"foo:10.0.0.1"'), "foo",
            "name:address"),
    # --- something is missing ---
    Mistake("no services", "name: shop\n", "1:1", "E0105: the file has no services",
            ("name: shop", "services: {web: {image: nginx}}")),
    Mistake("empty services", "services:\n", "1:1", "E0105: services is empty",
            ("services:", "services: {web: {image: nginx}}")),
    Mistake("no image", "services:\n  web:\n    command: x\n", "2:3", "E0105: service web has no image",
            ("command: x", "image: nginx")),
    Mistake("an image of nothing", "services:\n  web:\n    image:\n", "3:11",
            "E0104: service web: image wants a text, got nothing", ("image:", "image: nginx"), "nothing", "a text"),
    Mistake("a service of nothing", "services:\n  web:\n", "2:3", "E0105: service web has no image",
            ("web:", "web:\n    image: nginx")),
    Mistake("a port without target", W + "    ports: [{published: 80}]\n", "4:13",
            "E0105: service web: ports: target is missing", ("published: 80", "target: 5000, published: 80")),
    Mistake("a mount without target", W + "    volumes: [{source: a}]\nvolumes: {a: }\n", "4:15",
            "E0105: service web: volumes: target is missing", ("source: a", "target: /data, source: a")),
    Mistake("a bind mount without source", W + "    volumes: [{type: bind, target: /a}]\n", "4:15",
            "E0105: service web: volumes: source is missing", ("type: bind,", "source: ./folder, type: bind,")),
    Mistake("a health check without test", W + "    healthcheck: {interval: 5s}\n", "4:18",
            "E0105: service web: healthcheck has no test",
            ("interval", 'test: ["CMD", "program", "argument"], interval')),
    # --- names what is not there ---
    Mistake("an undeclared volume", W + "    volumes: ['data:/data']\n", "4:15",
            "E0106: service web uses the volume data, which the file does not declare",
            ("services:", "volumes: {data: }\nservices:")),
    Mistake("an undeclared secret", W + "    secrets: [key]\n", "4:15",
            "E0106: service web uses the secret key, which the file does not declare",
            ("services:", "secrets: {key: {file: ./key.txt}}\nservices:")),
    Mistake("an unknown dependency", W + "    depends_on: [bd]\n  db: {image: x}\n", "4:18",
            "E0106: service web depends on bd, which the file does not have", ("bd", "db")),
    Mistake("an unknown link", W + "    links: ['mysql:db']\n  db: {image: x}\n", "4:13",
            "E0106: service web depends on mysql, which the file does not have", ("mysql", "db")),
    Mistake("an unknown base", W + "    extends: bse\n  base: {image: x}\n", "4:14",
            "E0106: service web: extends names bse, which is no service of this file", ("bse", "base")),
    Mistake("a circle", W + "    depends_on: [api]\n  api:\n    image: x\n    depends_on: [web]\n", "4:18",
            "E0106: services wait for each other: web -> api -> web", ("    depends_on: [api]\n", ""), other="7:18"),
    Mistake("itself", W + "    depends_on: [web]\n", "4:18", "E0106: services wait for each other: web -> web",
            ("    depends_on: [web]\n", "")),
    Mistake("extends in a circle", W + "    extends: api\n  api:\n    extends: web\n", "4:5",
            "E0106: services extend each other in a circle", ("    extends: api\n", ""), other="6:5"),
    Mistake("a profile that sleeps", W + "    depends_on: [db]\n  db: {image: x, profiles: [dev]}\n", "4:18",
            "E0106: service web depends on db, which runs only with profile dev", ("--profile", "dev")),
    # --- clashes ---
    Mistake("a port published twice", W + "    ports: ['80:80']\n  api:\n    image: x\n    ports: ['80:81']\n", "7:13",
            "E0107: service api publishes port 80 a second time", ("80:81", "81:81"), other="4:13"),
    Mistake("a port that two services extend", "services:\n  a: {image: x, ports: ['80:80']}\n  b: {extends: a}\n",
            "2:25", "E0107: service b publishes port 80 a second time",
            ("b: {extends: a", 'b: {extends: a, ports: !override ["81:80"]'), other="2:25"),
    Mistake("a port that two services merge",
            "x-p: &p {ports: ['80:80']}\nservices:\n  a: {<<: *p, image: x}\n  b: {<<: *p, image: x}\n", "1:18",
            "E0107: service b publishes port 80 a second time",
            ("b: {<<: *p", 'b: {<<: *p, ports: !override ["81:80"]'), other="1:18"),
    Mistake("two mounts at one place", W + "    volumes: ['./a:/x', './b:/x']\n", "4:25",
            "E0107: service web mounts /x twice", (", './b:/x'", ""), other="4:15"),
    Mistake("one alias of two services", W + "    links: ['a:db', 'b:db']\n  a: {image: x}\n  b: {image: x}\n", "4:21",
            "E0107: the alias db would mean b, and means a already", ("b:db", "b:db2"), other="4:13"),
    # --- a variable ---
    Mistake("an unset variable", "services:\n  web:\n    image: ${IMAGE}\n", "3:12",
            "E0108: the variable IMAGE is not set", ("export", "IMAGE"), "IMAGE", "export IMAGE="),
    Mistake("a variable that the file asks for", "services:\n  web:\n    image: x:${TAG:?give a version}\n", "3:12",
            "E0108: the variable TAG is not set: give a version", ("export", "TAG"), "TAG", "export TAG="),
    Mistake("a shell's dollar", W + "    command: echo $(date)\n", "4:14",
            'E0108: "$(date)" is no variable that is read here', ("$(date)", "$$(date)"), "$(date)", "$$"),
    Mistake("an open brace", W + "    command: echo ${A\n", "4:14", 'E0108: "${A" is no variable that is read here',
            ("${A", "$${A"), "${A", "$$"),
    # --- a file beside it ---
    Mistake("a build without a folder", "services:\n  web:\n    build: ./missing\n", "3:12",
            "E0109: service web: build: there is no folder ./missing", ("$", "mkdir -p ./missing")),
    Mistake("a build without a Dockerfile", "services:\n  web:\n    build: .\n", "3:12",
            "E0109: service web: build: there is no Dockerfile in .", (".", "./there")),
    Mistake("a missing env file", W + "    env_file: none.env\n", "4:15",
            "E0109: service web: env_file: there is no file none.env", ("$", "touch none.env")),
    Mistake("a missing folder to mount", W + "    volumes: ['./none:/x']\n", "4:15",
            "E0109: service web mounts ./none, which is not there", ("$", "mkdir -p none")),
    Mistake("a missing file to mount", W + "    volumes: [{type: bind, source: none.txt, target: /x}]\n", "4:15",
            "E0109: service web mounts ./none.txt, which is not there", ("none.txt", "there.txt")),
    Mistake("a missing secret", W + "secrets: {key: {file: ./none.txt}}\n", "4:23",
            "E0109: secret key: there is no file ./none.txt", ("./none.txt", "./there.txt")),
    Mistake("a missing include", "include: none.yml\n" + W, "1:10", "E0109: there is no file none.yml",
            ("none.yml", "there.yml")),
]  # fmt: skip


@dataclass(frozen=True)
class Score:
    mistake: Mistake
    lost: dict[int, str]  # rule -> what is missing
    said: str

    @property
    def points(self) -> int:
        return 8 - len(self.lost)


def said(folder: Path, text: str, *, variable: str = "", profile: str = "") -> AppFileError | UsageError | None:
    """What the reader says about a text; None if it is accepted."""
    (folder / "app.yml").write_text(text)
    try:
        read_app_files(["app.yml"], {variable: "1"}, profiles=[profile] * bool(profile))
    except (AppFileError, UsageError) as error:
        return error
    return None


def mended(folder: Path, mistake: Mistake, remedy: str) -> str:
    """ "" if the remedy says how, and doing it makes the file a right one; else what is missing."""
    old, new = mistake.mend
    if old in ("$", "export", "--profile"):
        command = {"$": new, "export": f"export {new}=...", "--profile": f"add --profile {new}"}[old]
        if remedy != command:
            return f"the remedy is not the command {command}"
        if old == "$":
            subprocess.run(["sh", "-c", new], cwd=folder, check=True)
        error = said(
            folder, mistake.text, **{{"export": "variable", "--profile": "profile", "$": "variable"}[old]: new}
        )
        return f"after that: {error.message}" if error else ""
    piece = new.removeprefix(old) if old else new
    piece = piece.removesuffix(old).strip(" ,\n") if old else piece
    if not new.strip():
        told = remedy.startswith("delete") if not new else "spaces" in remedy
    elif new.strip() == old.strip():
        told = "indent" in remedy
    else:
        told = UNQUOTED.sub("", piece) in UNQUOTED.sub("", remedy)
    if not told:
        return f"the remedy does not say {piece!r}"
    before, _, after = mistake.text.rpartition(old) if old else (mistake.text, "", "")
    return f"after that: {error.message}" if (error := said(folder, before + new + after)) else ""


def judge(folder: Path, mistake: Mistake, lessons: str) -> Score:
    error = said(folder, mistake.text)
    if error is None:
        return Score(mistake, dict.fromkeys(range(1, 9), "accepted"), "")
    lines, lost = error.message.splitlines(), {}
    details = list(getattr(error, "details", []))
    block = "\n".join(line for line in lines if not re.match(r"\d+ \| ", line)) + f"\n{error.remedy}"
    if len(lines[0].split()) > 25 or CLASSES.search(lines[0]) or f"{error.code}: {lines[0]}" != mistake.first:
        lost[1] = f"{error.code}: {lines[0]}"
    if mistake.place:
        line, column = map(int, mistake.place.split(":"))
        shown = [*mistake.text.splitlines(), ""][line - 1]
        number = f"{line} | "
        caret = lines[3].index("^") - len(number) + 1 if len(lines) > 3 and "^" in lines[3] else 0
        if lines[1] != f"  --> app.yml:{mistake.place}" or lines[2:3] != [number + shown] or caret != column:
            lost[2] = "\n".join(lines[1:4])
    elif lines[1:] != ["  --> app.yml"]:
        lost[2] = "\n".join(lines[1:])
    if mistake.seen not in lines[0] or mistake.wanted not in block:
        lost[3] = f"{mistake.seen} / {mistake.wanted}"
    if mistake.other and not re.search(rf"^note: .*\bapp\.yml:{mistake.other}\b", error.message, re.MULTILINE):
        lost[4] = mistake.other
    if len(details) != 1:
        lost[6] = "; ".join(one["message"] for one in details)
    elif mistake.place and (two := said(folder, "nonsense: 1\n" + mistake.text)) is not None:
        both = {one["code"] for one in getattr(two, "details", [])}
        if both != {error.code, "E0102"}:
            lost[6] = f"with a second mistake: {sorted(both)}"
    if not error.remedy or BLAME.search(error.message) or BLAME.search(error.remedy) or SEVERAL.search(error.remedy):
        lost[5] = f"help: {error.remedy}"
    elif why := mended(folder, mistake, error.remedy):
        lost[5] = f"{why}; help: {error.remedy}"
    if f"## {error.code} " not in lessons or any(set(one) != FIELDS or not one["remedy"] for one in details):
        lost[7] = f"{error.code} {details}"
    if "Traceback" in error.message or " object at 0x" in error.message:
        lost[8] = error.message
    return Score(mistake, lost, f"{error.message}\nhelp: {error.remedy}")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name in ("there.txt", "there.yml", "there/Dockerfile", "there.env", "a/x", "b/x", "data/x", "folder/x"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("x-there: 1\n" if name.startswith("there.") else "FROM scratch\n")
    return tmp_path


def test_the_table_says_what_its_codes_imply() -> None:
    assert len(MISTAKES) >= 60
    for mistake in MISTAKES:
        code = mistake.first[:5]
        assert bool(mistake.seen and mistake.wanted) or code not in ("E0102", "E0104", "E0108"), mistake.title
        assert bool(mistake.other) or code not in ("E0101", "E0107"), mistake.title


@pytest.mark.parametrize("mistake", MISTAKES, ids=lambda mistake: mistake.title)
def test_a_mistake_is_said_and_placed_as_the_table_has_it(mistake: Mistake, folder: Path) -> None:
    score = judge(folder, mistake, LESSONS.read_text())
    assert {1, 2} & set(score.lost) == set(), score.lost
    assert score.points >= 5, f"{score.lost}\n{score.said}"


def test_refusals_score_seven_of_eight_on_average(folder: Path) -> None:
    scores = [judge(folder, mistake, LESSONS.read_text()) for mistake in MISTAKES]
    mean = sum(score.points for score in scores) / len(scores)
    lost = [f"{score.mistake.title}: {score.lost}" for score in scores if score.lost]
    print(f"{mean:.2f} of 8 over {len(scores)} mistakes", *lost, sep="\n")
    assert mean >= 7
