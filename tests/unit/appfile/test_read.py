"""What one app file means once it is right. Several files: test_files.py."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest

from miniorch.appfile.folder import digest
from miniorch.appfile.keys import Verdict
from miniorch.appfile.read import AppFile, read_app_files
from miniorch.appfile.variables import BadVariable, read_env_file, substitute
from miniorch.appfile.write import config_text
from miniorch.errors import AppFileError, UsageError
from miniorch.spec import (
    Condition,
    ContainerOptions,
    HealthCheck,
    Mount,
    Port,
    Resources,
    Restart,
    RestartPolicy,
    ServiceSpec,
    TaskSpec,
)

EXAMPLES = Path(__file__).parents[3] / "examples"


def read(folder: Path, text: str, environment: dict[str, str] | None = None, **options: Any) -> AppFile:
    path = folder / "my Shop.yml"
    path.write_text(text)
    return read_app_files([str(path)], environment or {}, **options)


def service(folder: Path, lines: str, environment: dict[str, str] | None = None, more: str = "") -> ServiceSpec:
    text = "services:\n  web:\n    image: nginx\n" + "".join(f"    {line}\n" for line in lines.splitlines()) + more
    return read(folder, text, environment).spec.services["web"]


def web(folder: Path, lines: str, environment: dict[str, str] | None = None) -> TaskSpec:
    return service(folder, lines, environment).task


def rows(app: AppFile) -> dict[str, str]:
    """Key -> verdict and why, without those that are simply honoured."""
    found = {line.path: f"{line.verdict.value}: {line.why}" for line in app.report.rows.values()}
    return {path: why for path, why in found.items() if why != "honoured: "}


def test_dockchat_is_read_as_it_is_meant() -> None:
    app = read_app_files([str(EXAMPLES / "dockchat.yml")], {"PYTHON_IMAGE": "python:3.12-slim", "MONGO_IMAGE": "mongo"})
    db, web = app.spec.services["db"], app.spec.services["web"]
    assert (app.name, app.spec.volumes, web.replicas) == ("dockchat", ("data",), 2)
    assert web.ports == (Port(5000, 5000),)
    assert web.depends_on == {"db": Condition.HEALTHY}
    assert db.task.mounts == (Mount("data", "/data/db"),)
    assert db.task.healthcheck is not None
    assert db.task.healthcheck.test[:2] == ("/bin/sh", "-c")
    assert web.task.build is not None
    assert web.task.build.args == {"PYTHON_IMAGE": "python:3.12-slim"}
    assert web.task.image == f"miniorch/dockchat-web:{web.task.build.digest[:12]}"
    assert app.report.summary() == ""


def test_the_file_of_2015_is_read_unchanged() -> None:
    path = EXAMPLES / "dockchat-2015.yml"
    assert hashlib.sha256(path.read_bytes()).hexdigest().startswith("c7832ac13a478185")
    app = read_app_files([str(path)], {})
    assert (app.name, app.spec.volumes) == ("dockchat-2015", ())
    assert app.spec.services == {
        "db": ServiceSpec(TaskSpec("mongo", command=("--smallfiles",))),
        "web": ServiceSpec(
            TaskSpec("nkhare/dockchat:v1"), ports=(Port(5000, 5000),), depends_on={"db": Condition.STARTED}
        ),
    }
    assert app.report.summary() == "keys of the file: 1 approximated (links); plan --report says how and why"


def test_an_app_is_named_by_option_then_key_then_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = "services: {web: {image: x}}\n"
    assert read(tmp_path, text).name == "my-shop"
    assert read(tmp_path, "name: shop\n" + text).name == "shop"
    assert read(tmp_path, "name: shop\n" + text, name="other").name == "other"
    with pytest.raises(UsageError):
        read(tmp_path, text, name="No Good")
    folder = tmp_path / "The Folder"
    folder.mkdir()
    monkeypatch.chdir(folder)
    with pytest.raises(AppFileError, match=r"no compose\.yaml or docker-compose\.yaml in this folder"):
        read_app_files([], {})
    (folder / "docker-compose.yml").write_text(text)
    assert read_app_files([], {}).name == "the-folder"
    (folder / "docker-compose.prod.yml").write_text(text)
    assert read_app_files(["docker-compose.prod.yml"], {}).name == "the-folder"


def test_an_image_option_replaces_image_and_build_and_its_variables(tmp_path: Path) -> None:
    text = "services: {web: {build: ./missing}, db: {image: '${UNSET}'}}\n"
    app = read(tmp_path, text, images={"web": "a:1", "db": "b:2"})
    assert [(one.task.image, one.task.build) for one in app.spec.services.values()] == [("a:1", None), ("b:2", None)]
    with pytest.raises(UsageError, match="has no service api; it has web"):
        read(tmp_path, "services: {web: {image: x}}\n", images={"api": "a"})


def test_environment_is_a_map_or_a_list_and_values_stay_as_written(tmp_path: Path) -> None:
    assert web(tmp_path, "environment: {A: 1.10, B: yes, C: true, D: 022, E: '', G: 0x1F}").environment == {
        "A": "1.10", "B": "yes", "C": "true", "D": "022", "E": "", "G": "0x1F",
    }  # fmt: skip
    assert web(tmp_path, "environment: [A=1=2, HOME, NONE, B=]", {"HOME": "/root"}).environment == {
        "A": "1=2", "HOME": "/root", "B": "",
    }  # fmt: skip


def test_env_files_come_below_environment_and_later_ones_above(tmp_path: Path) -> None:
    (tmp_path / "a.env").write_text("# c\nA=a\nB='a b'\nC=a # x\n")
    (tmp_path / "b.env").write_text("\ufeffexport B=b\n")
    lines = "env_file: [a.env, {path: b.env}, {path: none.env, required: false}]\nenvironment: {C: own}"
    assert web(tmp_path, lines).environment == {"A": "a", "B": "b", "C": "own"}
    assert web(tmp_path, "env_file: a.env").environment["B"] == "a b"


def test_lines_of_a_file_of_variables(tmp_path: Path) -> None:
    path = tmp_path / "a.env"
    for text, wanted in (
        ("A=1\r\nexport B = 2 # c\nC: 3\nD.x-y=\nE= # c\nF=a#b\nG=a = b",
         {"A": "1", "B": "2", "C": "3", "D.x-y": "", "E": "", "F": "a#b", "G": "a = b"}),
        ("SET\nNONE\n  # c\n\nexport OTHER # c\n", {"SET": "1", "OTHER": "o"}),
        ("A='a b' # c\nB=\"a # b\"#c\nC='it\\'s $SET'\nD={\"a\": 'b'}",
         {"A": "a b", "B": "a # b", "C": "it's $SET", "D": "{\"a\": 'b'}"}),
        ("A=\"1\n2 \\\"x\\\"\\n$SET \\$SET\" # c\nB='1\n2'\nC=c",
         {"A": '1\n2 "x"\n1 $SET', "B": "1\n2", "C": "c"}),
        ("SET=own\nA=${SET}-${NONE:-d}-$$\nB=$A\nOTHER=${NONE-x}",
         {"SET": "own", "A": "1-d-$", "B": "1-d-$", "OTHER": "x"}),
    ):  # fmt: skip
        path.write_text(text)
        assert read_env_file(path, {"SET": "1", "OTHER": "o"}) == wanted


@pytest.mark.parametrize(
    ("text", "message", "remedy"),
    [
        ("A=1\n1B=2", "this line sets no variable", "write NAME=value"),
        ("A=1\nB 2", "something other than = stands behind B", "write B=value"),
        ("A='1\n2'\nB=\"x", "B: a quotation mark is not closed", 'write B="..."'),
        ("A=1\nB='x' y", "B: something stands behind the closing quotation mark", "write B='...'"),
        ("A=1\nB=$NONE", "B: the variable NONE is not set", "write B='...': single quotes keep a $"),
        ("A=1\nB=100$", 'B: "$" is no variable that is read here', "write B='...': single quotes keep a $"),
    ],
)
def test_a_line_that_sets_no_variable_is_refused_in_its_place(
    text: str, message: str, remedy: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("a.env").write_text(text)
    Path("app.yml").write_text("services: {web: {image: x, env_file: a.env}}\n")
    with pytest.raises(AppFileError) as caught:
        read_app_files(["app.yml"], {})
    line = 3 if text.startswith("A='") else 2
    assert caught.value.message == f"{message}\n  --> a.env:{line}:1\nnote: app.yml:1:38 names it"
    assert (caught.value.code, caught.value.remedy) == ("E0108", remedy)


def test_booleans_are_those_of_compose(tmp_path: Path) -> None:
    for yes, no in (("true", "false"), ("yes", "no"), ("On", "OFF"), ("'y'", "n")):
        options = web(tmp_path, f"tty: {yes}\ninit: {no}").options
        assert (options.tty, options.init) == (True, False)


def test_what_is_said_only_half_is_in_the_report(tmp_path: Path) -> None:
    app = read(
        tmp_path,
        """
services:
  web:
    image: x
    hostname: "{{.Task.Slot}}"
    environment: {A: "{{ .Node.Hostname }}", B: "{{.Names}}", C: "{{.Node.Platform.OS}}"}
    depends_on: {db: {condition: service_healthy}}
    volumes: ["/not/there:/x"]
  db: {image: x, restart: "no", init: true}
""",
    )
    assert rows(app) == {
        "services.*.restart": 'default: web: what ends is started again; what runs once needs restart: "no"',
        "services.*.init": "default: web: true, so that signals arrive and no zombies stay; Compose has false",
        "services.web.environment": "ignored: {{.Node.Platform.OS}} is not known here, and stays as it is",
        "services.web.depends_on.db.condition":
            "approximated: db has no healthcheck, so it counts as healthy as soon as it runs",
        "services.web.volumes": "approximated: mounted from the machine where the task runs, and not there on this one",
    }  # fmt: skip


def test_commands_are_lists_or_split_like_a_shell_would(tmp_path: Path) -> None:
    spec = web(tmp_path, "command: run 'a b' --port 80\nentrypoint: [sh, -c, 'x y']")
    assert spec.command == ("run", "a b", "--port", "80")
    assert spec.entrypoint == ("sh", "-c", "x y")
    assert web(tmp_path, "command: []").command == ()
    assert web(tmp_path, "command:").command is None


def test_health_checks_of_each_form(tmp_path: Path) -> None:
    check = web(tmp_path, "healthcheck: {test: exit 0, interval: 1m30s, timeout: 500ms, retries: 2, start_period: 1h}")
    assert check.healthcheck == HealthCheck(("/bin/sh", "-c", "exit 0"), 90.0, 0.5, 2, 3600.0)
    listed = web(tmp_path, "healthcheck: {test: [CMD, a, b]}").healthcheck
    assert listed == HealthCheck(("a", "b"))
    for none in ("{test: [NONE]}", "{test: NONE}", "{disable: true}"):
        assert web(tmp_path, f"healthcheck: {none}").healthcheck is None


@pytest.mark.parametrize(
    ("text", "ports"),
    [
        ('"80:8080"', [(80, 8080)]),
        ("8080", [(8080, 8080)]),
        ('"81:8080/tcp"', [(81, 8080)]),
        ("22:22", [(22, 22)]),  # a number to the base of 60 in YAML 1.1
        ('"8000-8002:80-82"', [(8000, 80), (8001, 81), (8002, 82)]),
        ('"8000-8001"', [(8000, 8000), (8001, 8001)]),
        ('"0.0.0.0:80:80"', [(80, 80)]),
        ('"[::]:80:80"', [(80, 80)]),
        ('"127.0.0.1:80:81"', [(80, 81, True)]),
        ('"127.0.0.1::81"', [(81, 81, True)]),
        ('"[::1]:80:81"', [(80, 81, True)]),
        ('"53:53/udp"', []),
        ('{target: 8080, published: "82", protocol: tcp, mode: host, name: web}', [(82, 8080)]),
        ("{target: 8080, host_ip: 127.0.0.1}", [(8080, 8080, True)]),
        ("{target: 53, protocol: udp}", []),
    ],
)
def test_ports_of_each_form(text: str, ports: list[Any], tmp_path: Path) -> None:
    assert service(tmp_path, f"ports: [{text}]").ports == tuple(Port(*port) for port in ports)


def test_volumes_of_each_form(tmp_path: Path) -> None:
    tmp_path /= "app"
    for name in ("x", "here", "../y"):
        (tmp_path / name).mkdir(parents=True)
    app = read(
        tmp_path,
        """
services:
  web:
    image: x
    volumes: ["a:/a", "b:/b:ro", "./x:/x", "../y:/y:ro,z", "/z/../w:/w", /kept, {target: /Kept too},
      {type: volume, source: c, target: /c, read_only: true}, {type: bind, source: here, target: /here},
      {type: tmpfs, target: /fast}]
    tmpfs: ["/run:size=64m"]
volumes: {a: , b: {}, c: }
""",
    )
    task = app.spec.services["web"].task
    assert app.spec.volumes == ("a", "b", "c", "web-kept", "web-kept-too")
    assert task.options.tmpfs == {"/run": "size=64m", "/fast": ""}
    assert task.mounts == (
        Mount("a", "/a"), Mount("b", "/b", True), Mount("", "/x", False, f"{tmp_path}/x"),
        Mount("", "/y", True, f"{tmp_path.parent}/y"), Mount("", "/w", False, "/w"), Mount("web-kept", "/kept"),
        Mount("web-kept-too", "/Kept too"), Mount("c", "/c", True), Mount("", "/here", False, f"{tmp_path}/here"),
    )  # fmt: skip


def test_secrets_and_configs_are_files_mounted_read_only(tmp_path: Path) -> None:
    for name in ("key.txt", "conf"):
        (tmp_path / name).write_text("x")
    app = read(
        tmp_path,
        """
services:
  web:
    image: x
    secrets: [key, {source: key, target: other}, {source: key, target: /deep/key, mode: 0400}, far]
    configs: [conf]
secrets: {key: {file: ./key.txt}, far: {external: true}}
configs: {conf: {file: conf}}
""",
    )
    assert app.spec.services["web"].task.mounts == tuple(
        Mount("", target, True, str(tmp_path / file))
        for target, file in [
            ("/run/secrets/key", "key.txt"), ("/run/secrets/other", "key.txt"), ("/deep/key", "key.txt"),
            ("/conf", "conf"),
        ]
    )  # fmt: skip
    assert rows(app)["secrets.far.external"] == "ignored: only files of this machine are mounted"


def test_resources_and_grace_have_units(tmp_path: Path) -> None:
    spec = web(
        tmp_path,
        "deploy: {resources: {reservations: {cpus: '0.5', memory: 512M}, limits: {cpus: 2, memory: 1.5gb, pids: 7}}}\n"
        "stop_grace_period: 1m",
    )
    assert spec.reserved == Resources(0.5, 512 << 20)
    assert spec.limit == Resources(2.0, 3 << 29)
    assert (spec.stop_grace_seconds, spec.options.pids_limit) == (60.0, 7)
    old = web(tmp_path, "mem_limit: 64m\nmem_reservation: 32mb\ncpus: .5")
    assert (old.limit, old.reserved) == (Resources(0.5, 64 << 20), Resources(0.0, 32 << 20))


def test_container_options_go_through_as_they_are(tmp_path: Path) -> None:
    lines = """user: "1000:1000"
working_dir: /srv
hostname: h
stop_signal: SIGINT
tty: true
init: false
cap_add: [NET_ADMIN]
extra_hosts: ["a:10.0.0.1", "b=10.0.0.2", "c:::1"]
ulimits: {nofile: 1024, core: {soft: 0, hard: -1}}
sysctls: [net.core.somaxconn=1024]
labels: {a.b: 1}
shm_size: 64m"""
    assert web(tmp_path, lines).options == ContainerOptions(
        user="1000:1000", working_dir="/srv", hostname="h", stop_signal="SIGINT", tty=True, init=False,
        cap_add=("NET_ADMIN",), extra_hosts=("a:10.0.0.1", "b:10.0.0.2", "c:::1"),
        ulimits={"nofile": "1024:1024", "core": "0:-1"}, sysctls={"net.core.somaxconn": "1024"}, labels={"a.b": "1"},
        shm_size=64 << 20,
    )  # fmt: skip
    assert web(tmp_path, "extra_hosts: {a: 10.0.0.1}").options.extra_hosts == ("a:10.0.0.1",)


@pytest.mark.parametrize(
    ("lines", "policy"),
    [
        ("", RestartPolicy()),
        ("restart: always", RestartPolicy()),
        ("restart: unless-stopped", RestartPolicy()),
        ("restart: no", RestartPolicy(Restart.NEVER)),
        ("restart: 'no'", RestartPolicy(Restart.NEVER)),
        ("restart: false", RestartPolicy(Restart.NEVER)),
        ("restart: on-failure", RestartPolicy(Restart.ON_FAILURE)),
        ("restart: on-failure:5", RestartPolicy(Restart.ON_FAILURE, 5)),
        ("deploy: {mode: replicated-job}", RestartPolicy(Restart.ON_FAILURE)),
        ("deploy: {mode: replicated-job, restart_policy: {max_attempts: 3}}", RestartPolicy(Restart.ON_FAILURE, 3)),
        ("restart: always\ndeploy: {restart_policy: {condition: none}}", RestartPolicy(Restart.NEVER)),
        ("deploy: {restart_policy: {max_attempts: 3, delay: 2s, window: 9s}}", RestartPolicy(Restart.ANY, 3, 2.0)),
    ],
)
def test_what_follows_an_end(lines: str, policy: RestartPolicy, tmp_path: Path) -> None:
    assert service(tmp_path, lines).restart == policy


def test_what_others_wait_for_to_complete_and_data_containers_are_jobs(tmp_path: Path) -> None:
    text = """
services:
  web: {image: x, depends_on: {migrate: {condition: service_completed_successfully}}, volumes_from: ["data:ro"]}
  migrate: {image: x}
  data: {image: x, volumes: ["/data"], command: "true"}
  stubborn: {image: x, restart: always}
  late: {image: x, depends_on: {stubborn: {condition: service_completed_successfully}}}
"""
    services = read(tmp_path, text).spec.services
    assert {name: spec.restart.condition.value for name, spec in services.items()} == {
        "web": "any", "migrate": "on-failure", "data": "on-failure", "stubborn": "any", "late": "any",
    }  # fmt: skip
    assert services["web"].depends_on == {"migrate": Condition.COMPLETED, "data": Condition.STARTED}
    assert services["web"].task.mounts == (Mount("data-data", "/data", True),)


def test_replicas_by_scale_deploy_and_mode(tmp_path: Path) -> None:
    assert service(tmp_path, "scale: 3").replicas == 3
    assert service(tmp_path, "deploy: {replicas: '0'}").replicas == 0
    assert service(tmp_path, "deploy: {mode: global}").replicas == 1


def test_links_and_network_aliases_give_names_to_the_whole_app(tmp_path: Path) -> None:
    text = """
services:
  web: {image: x, links: ["db:database", "db", "cache:cache"], networks: {front: {aliases: [www]}, back: }}
  db: {image: x, networks: [back]}
  cache: {image: x}
networks: {front: , back: {driver: overlay}}
"""
    app = read(tmp_path, text)
    assert {name: spec.aliases for name, spec in app.spec.services.items()} == {
        "web": ("www",), "db": ("database",), "cache": (),
    }  # fmt: skip
    assert app.spec.services["web"].depends_on == {"db": Condition.STARTED, "cache": Condition.STARTED}


def test_networks_are_those_named_or_the_default_one(tmp_path: Path) -> None:
    text = """
services:
  web: {image: x, networks: {front: {aliases: [www]}, back: }}
  db: {image: x, networks: [back]}
  log: {image: x}
networks: {front: , back: {driver: overlay, internal: true}}
"""
    app = read(tmp_path, text)
    assert {name: spec.networks for name, spec in app.spec.services.items()} == {
        "web": ("back", "front"), "db": ("back",), "log": ("default",),
    }  # fmt: skip
    assert "networks.back.driver" in {row.path for row in app.report.of(Verdict.IGNORED)}


def test_a_service_is_internal_if_all_of_its_networks_are(tmp_path: Path) -> None:
    text = """
services:
  web: {image: x, networks: [front, back]}
  db: {image: x, networks: [back]}
  old: {image: x, networks: [back, store]}
  log: {image: x}
networks: {front: , back: {internal: true}, store: {internal: "yes"}, default: {internal: %s}}
"""
    for default, inside in (("false", {"db", "old"}), ("true", {"db", "old", "log"})):
        app = read(tmp_path, text % default)
        assert {name for name, spec in app.spec.services.items() if spec.internal} == inside
        assert "networks.back.internal" in {row.path for row in app.report.of(Verdict.HONOURED)}
        assert read(tmp_path, config_text(app)).spec == app.spec


def test_profiles_leave_services_out(tmp_path: Path) -> None:
    text = """
services:
  web: {image: x, depends_on: {debug: {required: false, condition: service_started}}}
  debug: {image: x, profiles: [dev, test]}
"""
    for options, environment, names in (
        ({}, {}, ["web"]),
        ({"profiles": ["test"]}, {}, ["web", "debug"]),
        ({"profiles": ["*"]}, {}, ["web", "debug"]),
        ({"profiles": ["other"]}, {"COMPOSE_PROFILES": "dev"}, ["web"]),
        ({}, {"COMPOSE_PROFILES": "a,dev"}, ["web", "debug"]),
    ):
        app = read(tmp_path, text, environment, **options)
        assert list(app.spec.services) == names
        assert ("debug" in app.spec.services["web"].depends_on) is ("debug" in names)
    assert "left out; it runs with --profile dev" in rows(read(tmp_path, text))["services.debug.profiles"]


def test_anchors_and_merge_keys_are_read_and_own_keys_win(tmp_path: Path) -> None:
    text = """
x-common: &common {image: base, environment: {A: "1"}}
services:
  web: {<<: *common, image: mine}
  api:
    <<: [*common, {command: go}]
"""
    services = read(tmp_path, text).spec.services
    assert (services["web"].task.image, services["api"].task.image) == ("mine", "base")
    assert services["api"].task.command == ("go",)
    assert services["web"].task.environment == {"A": "1"}


def test_variables_come_from_the_environment_before_the_env_file(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("# c\nexport TAG='7' \nN=3  # three\nOTHER=file\n")
    text = "services: {web: {image: '${NAME:-x}:$TAG', command: 'a $$B ${OTHER}', deploy: {replicas: $N}}}\n"
    service = read(tmp_path, text, {"OTHER": "shell"}).spec.services["web"]
    assert service.task.image == "x:7"
    assert service.task.command == ("a", "$B", "shell")
    assert service.replicas == 3


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("$SET|${SET}|$$SET|a$SET.b", "1|1|$SET|a1.b"),
        ("${EMPTY:-x}|${EMPTY-x}|${NONE:-y}|${NONE-y}|${NONE:-}|${SET:-x}", "x||y|y||1"),
        ("${SET:+x}|${EMPTY:+x}|${EMPTY+x}|${NONE+x}", "x||x|"),
        ("${SET:?why}|${SET?why}|${EMPTY?why}", "1|1|"),
        ("${NONE:-${SET}}|${NONE:-a${NONE:-${SET}b}c}|${NONE:-{}}", "1|a1bc|{}"),
    ],
)
def test_every_form_of_a_variable(text: str, value: str) -> None:
    assert substitute(text, {"SET": "1", "EMPTY": ""}) == value


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("$NONE", "the variable NONE is not set"),
        ("${NONE}", "the variable NONE is not set"),
        ("${NONE:?give $SET}", "the variable NONE is not set: give 1"),
        ("${EMPTY:?}", "the variable EMPTY is not set: the file asks for it"),
        ("$(date)", '"$(date)" is no variable that is read here'),
        ("${SET", '"${SET" is no variable that is read here'),
        ("${SET!x}", '"${SET!x}" is no variable that is read here'),
        ("100$", '"$" is no variable that is read here'),
        ("${NONE:-" * 20 + "}" * 20, '"${NONE:-${NO" is no variable that is read here'),
    ],
)
def test_a_dollar_that_cannot_be_replaced_is_refused(text: str, message: str) -> None:
    with pytest.raises(BadVariable) as caught:
        substitute(text, {"SET": "1", "EMPTY": ""})
    assert caught.value.message == message


def test_a_missing_env_file_is_an_empty_one(tmp_path: Path) -> None:
    assert read_env_file(tmp_path / ".env", {}) == read_env_file(tmp_path, {}) == {}


def test_a_file_of_version_1_has_its_services_at_the_top(tmp_path: Path) -> None:
    text = """
web:
  build: .
  dockerfile: Other
  net: host
  volumes: ["data:/data"]
  log_driver: syslog
db: {image: x}
"""
    (tmp_path / "Other").write_text("FROM scratch\n")
    app = read(tmp_path, text)
    task = app.spec.services["web"].task
    assert task.build is not None
    assert (task.build.dockerfile, task.mounts, app.spec.volumes) == ("Other", (Mount("data", "/data"),), ("data",))
    assert {path.rpartition(".")[2] for path, row in rows(app).items() if "ignored" in row} == {"net", "log_driver"}


def test_the_report_has_a_row_with_its_place_for_every_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    text = "version: '3'\nservices:\n  web:\n    image: x\n    links: [db]\n    cpu_shares: 3\n  db: {image: x}\n"
    Path("app.yml").write_text(text)
    report = read_app_files(["app.yml"], {}).report
    assert [line.split(None, 3) for line in report.lines()] == [
        ["app.yml:1:1", "version", "ignored", "Compose has not needed it since 2020"],
        ["app.yml:2:1", "services.*.restart", "default",
         'web, db: what ends is started again; what runs once needs restart: "no"'],
        ["app.yml:2:1", "services.*.init", "default",
         "web, db: true, so that signals arrive and no zombies stay; Compose has false"],
        ["app.yml:4:5", "services.web.image", "honoured"],
        ["app.yml:5:5", "services.web.links", "approximated",
         "the alias is known to the whole app, and no DB_PORT_... variables are set"],
        ["app.yml:6:5", "services.web.cpu_shares", "ignored",
         "write cpus: shares say nothing about how much there is"],
        ["app.yml:7:8", "services.db.image", "honoured"],
        ["2", "honoured,", "1", "approximated, 2 ignored, 2 default"],
    ]  # fmt: skip
    assert report.summary() == (
        "keys of the file: 1 approximated (links), 2 ignored (version, cpu_shares); plan --report says how and why"
    )
    assert {"key": "services.web.cpu_shares", "verdict": "ignored", "file": "app.yml", "line": 6, "column": 5,
            "why": "write cpus: shares say nothing about how much there is"} in report.to_plain()  # fmt: skip
    with pytest.raises(AppFileError) as caught:
        read_app_files(["app.yml"], {}, strict=True)
    assert [(one["code"], one["line"]) for one in caught.value.details] == [("E0110", 1), ("E0110", 6)]
    assert read_app_files([str(EXAMPLES / "dockchat-2015.yml")], {}, strict=True).spec.services


def test_the_digest_follows_contents_modes_and_arguments_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "Dockerfile").write_text("FROM scratch\n")
    (tmp_path / "app.py").write_text("1")
    (tmp_path / ".dockerignore").write_text("*.log\n**/*.pyc\ntmp\n!tmp/keep\n# x\n")
    first = digest(tmp_path, "Dockerfile", {})
    (tmp_path / ".git").mkdir()
    (tmp_path / ".git" / "HEAD").write_text("x")
    (tmp_path / "a.log").write_text("x")
    (tmp_path / "tmp").mkdir()
    (tmp_path / "tmp" / "big").write_text("x")
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "a.pyc").write_text("x")
    assert digest(tmp_path, "Dockerfile", {}) == first
    seen = {first, digest(tmp_path, "Dockerfile", {"A": "1"})}
    for name in ("sub/a.log", "tmp/keep", "app.py"):
        (tmp_path / name).write_text("changed")
        seen.add(digest(tmp_path, "Dockerfile", {}))
    (tmp_path / "app.py").chmod(0o755)
    seen.add(digest(tmp_path, "Dockerfile", {}))
    (tmp_path / "link").symlink_to("app.py")
    seen.add(digest(tmp_path, "Dockerfile", {}))
    assert len(seen) == 7
