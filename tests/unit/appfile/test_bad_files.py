"""Every way to get an app file wrong that we could think of, with the first line and the place that the user sees."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from miniorch.appfile.compose import read_app_file
from miniorch.errors import AppFileError

W = "services:\n  web:\n    image: nginx\n"

BAD = [
    ("an empty file", "", "", "E0100: the file is empty"),
    ("only a comment", "# nothing\n", "", "E0100: the file is empty"),
    ("a list", "- web\n", "1:1", "E0104: the file wants a mapping, got a list"),
    ("a word", "web\n", "1:1", 'E0104: the file wants a mapping, got the text "web"'),
    ("no services", "name: shop\n", "1:1", "E0105: the file has no services"),
    ("empty services", "services: {}\n", "1:1", "E0105: services is empty"),
    ("services of nothing", "services:\n", "1:10", "E0104: services wants a mapping, got nothing"),
    ("a service of nothing", "services:\n  web:\n", "2:7", "E0104: service web wants a mapping, got nothing"),
    ("a tab", "services:\n\tweb:\n", "2:1", "E0103: not YAML: found character that cannot start any token"),
    ("an open bracket", "services: [\n", "2:1", "E0103: not YAML: did not find expected node content"),
    ("an open quotation mark", 'services: "x\n', "2:1", "E0103: not YAML: found unexpected end of stream"),
    (
        "a wrong indent",
        "services:\n  web:\n    image: x\n   build: .\n",
        "4:4",
        "E0103: not YAML: did not find expected key",
    ),
    ("two documents", W + "---\nservices: {}\n", "5:1", "E0103: a second document begins here"),
    ("a key twice", W + "    image: apache\n", "4:5", 'E0101: "image" is written twice'),
    ("a service twice", W + "  web:\n    image: x\n", "4:3", 'E0101: "web" is written twice'),
    ("an own tag", "services: !mine {}\n", "1:11", "E0103: the tag !mine is not read"),
    ("a key that is a list", "? [a]\n: b\n", "1:3", "E0103: a key is a list or a mapping"),
    ("an alias inside itself", "services: &a\n  web: *a\n", "1:11", "E0103: an alias contains itself"),
    ("an unknown alias", "services: *a\n", "1:11", "E0103: not YAML: found undefined alias"),
    ("a merge of a text", "services:\n  <<: web\n", "2:7", 'E0103: << wants a mapping, got the text "web"'),
    ("an unknown top key", "servces:\n  web: {image: x}\n", "1:1", 'E0102: the file has no key "servces"'),
    ("a typo", W + "    port: ['80:80']\n", "4:5", 'E0102: service web has no key "port"'),
    ("a strange key", W + "    gpus: all\n", "4:5", 'E0102: service web has no key "gpus"'),
    ("restart", W + "    restart: always\n", "4:5", 'E0102: service web: the key "restart" is not read'),
    (
        "version",
        "version: '3'\nservices:\n  web:\n    image: nginx\n",
        "1:1",
        'E0102: the file: the key "version" is not read',
    ),
    ("networks at the top", W + "networks: {a: }\n", "4:1", 'E0102: the file: the key "networks" is not read'),
    ("no image", "services:\n  web:\n    command: x\n", "2:3", "E0105: service web has no image"),
    ("image and build", W + "    build: .\n", "4:5", "E0107: service web has both image and build"),
    ("an empty image", "services:\n  web:\n    image: ''\n", "3:12", "E0104: service web: image is empty"),
    (
        "an image that is a list",
        "services:\n  web:\n    image: [a]\n",
        "3:12",
        "E0104: service web: image wants a text, got a list",
    ),
    (
        "a build without a folder",
        "services:\n  web:\n    build: ./missing\n",
        "3:12",
        "E0109: service web: build: there is no folder ./missing",
    ),
    (
        "a build without a Dockerfile",
        "services:\n  web:\n    build: .\n",
        "3:12",
        "E0109: service web: build: there is no Dockerfile in .",
    ),
    (
        "a service name with an underline",
        "services:\n  web_1:\n    image: x\n",
        "2:3",
        'E0104: the service name "web_1" is no DNS label',
    ),
    (
        "an app name in capitals",
        "name: Shop\nservices:\n  web:\n    image: nginx\n",
        "1:7",
        'E0104: the app name "Shop" is no DNS label',
    ),
    (
        "replicas as a word",
        W + "    deploy: {replicas: three}\n",
        "4:24",
        'E0104: service web: replicas wants a whole number, got the text "three"',
    ),
    (
        "negative replicas",
        W + "    deploy: {replicas: -1}\n",
        "4:24",
        "E0104: service web: replicas wants 0 to 1000, got -1",
    ),
    (
        "half a replica",
        W + "    deploy: {replicas: 1.5}\n",
        "4:24",
        "E0104: service web: replicas wants a whole number, got the number 1.5",
    ),
    (
        "an unknown deploy key",
        W + "    deploy: {mode: global}\n",
        "4:14",
        'E0102: service web: deploy has no key "mode"',
    ),
    (
        "a quoted number of replicas",
        W + "    deploy: {replicas: '2'}\n",
        "4:24",
        'E0104: service web: replicas wants a whole number, got the text "2"',
    ),
    (
        "memory in words",
        W + "    deploy: {resources: {limits: {memory: lots}}}\n",
        "4:43",
        'E0104: service web: limits.memory wants an amount, got the text "lots"',
    ),
    (
        "negative cpus",
        W + "    deploy: {resources: {limits: {cpus: -1}}}\n",
        "4:41",
        "E0104: service web: limits.cpus wants a number of CPUs, got the number -1",
    ),
    (
        "a port alone",
        W + "    ports: [5000]\n",
        "4:13",
        'E0104: service web: a port wants published:target, got "5000"',
    ),
    (
        "a port range",
        W + "    ports: ['5000-5001:5000-5001']\n",
        "4:13",
        'E0104: service web: ranges are not read, got "5000-5001:5000-5001"',
    ),
    (
        "a udp port",
        W + "    ports: ['53:53/udp']\n",
        "4:13",
        'E0104: service web: only TCP ports can be published, got "53:53/udp"',
    ),
    (
        "an address with a port",
        W + "    ports: ['127.0.0.1:80:80']\n",
        "4:13",
        'E0104: service web: a port is published on every address of the node, got "127.0.0.1:80:80"',
    ),
    ("port 0", W + "    ports: ['0:80']\n", "4:13", 'E0104: service web: a port lies between 1 and 65535, got "0:80"'),
    (
        "port 70000",
        W + "    ports: [{target: 70000, published: 80}]\n",
        "4:22",
        "E0104: service web: port target wants 1 to 65535, got 70000",
    ),
    ("a port without target", W + "    ports: [{published: 80}]\n", "4:13", "E0105: service web: a port lacks target"),
    (
        "ports that are a text",
        W + "    ports: 80:80\n",
        "4:12",
        'E0104: service web: ports wants a list, got the text "80:80"',
    ),
    (
        "a port published twice",
        W + "    ports: ['80:80']\n  api:\n    image: x\n    ports: ['80:81']\n",
        "7:13",
        "E0107: service api publishes port 80 a second time",
    ),
    ("a bind mount", W + "    volumes: ['./data:/data']\n", "4:15", "E0104: service web: bind mounts come later"),
    (
        "a long bind mount",
        W + "    volumes: [{type: bind, source: /x, target: /y}]\n",
        "4:15",
        "E0104: service web: bind mounts come later",
    ),
    (
        "a tmpfs",
        W + "    volumes: [{type: tmpfs, target: /y}]\n",
        "4:15",
        'E0104: service web: type "tmpfs" is not read',
    ),
    ("an anonymous volume", W + "    volumes: [/data]\n", "4:15", "E0104: service web: a volume wants name:/path"),
    (
        "an undeclared volume",
        W + "    volumes: ['data:/data']\n",
        "4:15",
        "E0106: service web uses the volume data, which the file does not declare",
    ),
    (
        "a relative target",
        W + "    volumes: ['data:data']\nvolumes: {data: }\n",
        "4:15",
        'E0104: service web: a volume wants an absolute path in the container, got "data"',
    ),
    (
        "a strange mode",
        W + "    volumes: ['data:/data:z']\nvolumes: {data: }\n",
        "4:15",
        'E0104: service web: a volume ends with :ro, :rw or nothing, got "data:/data:z"',
    ),
    (
        "a volume with a driver",
        W + "volumes: {data: {driver: local}}\n",
        "4:18",
        'E0102: volume data: the key "driver" is not read',
    ),
    (
        "a health check without test",
        W + "    healthcheck: {interval: 5s}\n",
        "4:5",
        "E0105: service web: healthcheck has no test",
    ),
    (
        "a test without CMD",
        W + "    healthcheck: {test: [curl, x]}\n",
        "4:25",
        "E0104: service web: healthcheck.test wants a list that begins with CMD or CMD-SHELL",
    ),
    (
        "a duration without unit",
        W + "    healthcheck: {test: x, interval: 5}\n",
        "4:38",
        "E0104: service web: healthcheck.interval wants a duration, got the number 5",
    ),
    (
        "no retries",
        W + "    healthcheck: {test: x, retries: 0}\n",
        "4:37",
        "E0104: service web: healthcheck.retries wants 1 to 1000, got 0",
    ),
    (
        "an interval of nothing",
        W + "    healthcheck: {test: x, interval: 0s}\n",
        "4:38",
        "E0104: service web: healthcheck.interval wants more than 0 seconds",
    ),
    (
        "an unknown dependency",
        W + "    depends_on: [db]\n",
        "4:18",
        "E0106: service web depends on db, which the file does not have",
    ),
    (
        "a job as a dependency",
        W + "    depends_on: {web2: {condition: service_completed_successfully}}\n  web2:\n    image: x\n",
        "4:36",
        'E0104: service web: depends_on web2: the condition "service_completed_successfully" is not read',
    ),
    (
        "a circle",
        W + "    depends_on: [api]\n  api:\n    image: x\n    depends_on: [web]\n",
        "4:18",
        "E0106: services wait for each other: web -> api -> web",
    ),
    ("itself", W + "    depends_on: [web]\n", "4:18", "E0106: services wait for each other: web -> web"),
    ("an unset variable", "services:\n  web:\n    image: ${IMAGE}\n", "3:12", "E0108: the variable IMAGE is not set"),
    (
        "a shell's dollar",
        W + "    command: echo $(date)\n",
        "4:14",
        'E0108: "$(date)" is no variable that is read here',
    ),
    (
        "an open quote in a command",
        W + "    command: echo 'x\n",
        "4:14",
        "E0104: service web: command has an open quotation mark",
    ),
    (
        "environment as a text",
        W + "    environment: A=1\n",
        "4:18",
        'E0104: service web: environment wants NAME: value lines, got the text "A=1"',
    ),
    (
        "an environment name twice",
        W + "    environment: [A=1, A=2]\n",
        "4:24",
        'E0101: "A" is written twice in service web: environment',
    ),
    (
        "an environment value that is a list",
        W + "    environment: {A: [1]}\n",
        "4:22",
        "E0104: service web: environment A wants a text, got a list",
    ),
    (
        "a grace as a word",
        W + "    stop_grace_period: soon\n",
        "4:24",
        'E0104: service web: stop_grace_period wants a duration, got the text "soon"',
    ),
]


@pytest.mark.parametrize(("title", "text", "place", "first"), BAD, ids=[row[0] for row in BAD])
def test_a_bad_file_is_refused_with_its_place_and_reason(
    title: str, text: str, place: str, first: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("app.yml").write_text(text)
    with pytest.raises(AppFileError) as caught:
        read_app_file("app.yml", {})
    lines = caught.value.message.splitlines()
    assert f"{caught.value.code}: {lines[0]}" == first
    assert lines[1] == f"  --> app.yml{':' * bool(place)}{place}"
    assert len(lines[0].split()) <= 25


def refused(folder: Path, text: str | bytes) -> AppFileError:
    path = folder / "app.yml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(AppFileError) as caught:
        read_app_file(str(path), {})
    return caught.value


def test_the_line_and_a_caret_are_shown_with_the_nearest_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("app.yml").write_text(W + "    port: ['80:80']\n")
    with pytest.raises(AppFileError) as caught:
        read_app_file("app.yml", {})
    assert caught.value.message.splitlines() == [
        'service web has no key "port"',
        "  --> app.yml:4:5",
        "4 |     port: ['80:80']",
        '  |     ^^^^ did you mean "ports"?',
    ]
    assert caught.value.remedy == "rename it"


def test_independent_errors_are_shown_together_in_the_files_order_and_ten_at_most(tmp_path: Path) -> None:
    many = "services:\n" + "".join(f"  s{number}: {{image: x, bad: 1}}\n" for number in range(14))
    message = refused(tmp_path, many).message
    assert message.count("has no key") == 10
    assert message.startswith('service s0 has no key "bad"')
    assert 'error[E0102]: service s9 has no key "bad"' in message
    assert message.splitlines()[-1].endswith("app.yml, 4 of them not shown")


def test_a_second_key_names_the_place_of_the_first(tmp_path: Path) -> None:
    assert "note: 3:5 came first" in refused(tmp_path, W + "    image: apache\n").message


def test_what_is_no_file_or_no_text_is_refused(tmp_path: Path) -> None:
    for path, words in ((tmp_path / "none.yml", "there is no file"), (tmp_path, "cannot be read: is a directory")):
        with pytest.raises(AppFileError, match=words):
            read_app_file(str(path), {})
    assert "not a text in UTF-8" in refused(tmp_path, b"services: \xff\n").message
    assert "not YAML" in refused(tmp_path, b"services: \x01\n").message
    assert "more than 1000000 bytes" in refused(tmp_path, "#" * 1_000_001).message


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[" * 100_000, "nested more than 64 deep"),
        ("{a: " * 100_000, "nested more than 64 deep"),
        ("- x\n" * 100_100, "more than 100000 values"),
        ("a0: &a0 [x, x]\n" + "".join(f"a{n + 1}: &a{n + 1} [*a{n}, *a{n}]\n" for n in range(40)), "aliases make"),
        ("a0: &a0 [x]\n" + "".join(f"a{n + 1}: &a{n + 1} [*a{n}]\n" for n in range(5000)), "aliases make"),
        ("a: " + "1" * 10_000, "is no number"),
    ],
)
def test_hostile_files_are_refused_quickly(text: str, words: str, tmp_path: Path) -> None:
    began = time.monotonic()
    assert words in refused(tmp_path, text).message
    assert time.monotonic() - began < 5
