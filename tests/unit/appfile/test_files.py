"""Several files as one app: `-f` twice, `include`, `extends`, and what is laid over what."""

from __future__ import annotations

import io
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from miniorch.appfile.read import AppFile, read_app_files
from miniorch.errors import AppFileError, UsageError
from miniorch.spec import Condition, Mount, Port, ServiceSpec


def folders(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).mkdir(parents=True, exist_ok=True)


def read(folder: Path, **texts: str) -> AppFile:
    """Reads a.yml (and b.yml ... as further `-f` files); a name that begins with `_` is only written."""
    for name, text in texts.items():
        path = folder / (name.strip("_").replace("_", "/") + ".yml")
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    return read_app_files([str(folder / f"{name}.yml") for name in texts if not name.startswith("_")], {"TAG": "1"})


def web(folder: Path, below: str, above: str) -> ServiceSpec:
    head = "services:\n  web:\n"
    lines = [head + "".join(f"    {line}\n" for line in text.splitlines()) for text in ("image: x\n" + below, above)]
    return read(folder, a=lines[0], b=lines[1]).spec.services["web"]


def test_later_files_are_laid_over_earlier_ones(tmp_path: Path) -> None:
    app = read(
        tmp_path,
        a="services:\n  web: {image: a, user: a}\n  db: {image: db}\n",
        b="services:\n  web: {image: 'b:${TAG}'}\n  more: {image: more}\nvolumes: {v: }\n",
        c="name: c\nservices: {web: {tty: true}}\n",
    )
    assert (app.name, list(app.spec.services), app.spec.volumes) == ("c", ["web", "db", "more"], ("v",))
    task = app.spec.services["web"].task
    assert (task.image, task.options.user, task.options.tty) == ("b:1", "a", True)


def bind(text: str) -> Mount:
    source, target = text.split(":")
    return Mount("", target, False, source)


@pytest.mark.parametrize(
    ("below", "above", "wanted"),
    [
        ("environment: [A=1, B=2]", "environment: {B: 3, C: 4}", {"environment": {"A": "1", "B": "3", "C": "4"}}),
        ("environment: {A: 1}", "environment: [A=2]", {"environment": {"A": "2"}}),
        ("environment: {A: 1, B: 2}", "environment: {A: !reset null}", {"environment": {"B": "2"}}),
        ("environment: {A: 1}", "environment: !override {B: 2}", {"environment": {"B": "2"}}),
        ("command: [a, b]", "command: [c]", {"command": ("c",)}),
        ("command: a b", "command: !reset null", {"command": None}),
        ("entrypoint: a", "entrypoint: [b]", {"entrypoint": ("b",)}),
        ("cap_add: [KILL, BPF]", "cap_add: [BPF, CHOWN]", {"options.cap_add": ("KILL", "BPF", "CHOWN")}),
        ("labels: [a=1]", "labels: {b: 2}", {"options.labels": {"a": "1", "b": "2"}}),
        ("extra_hosts: ['a:1.1.1.1']", "extra_hosts: {a: 2.2.2.2}", {"options.extra_hosts": ("a:2.2.2.2",)}),
        ("volumes: ['/x:/a', '/y:/b']", "volumes: ['/z:/b']", {"mounts": (bind("/x:/a"), bind("/z:/b"))}),
        ("volumes: ['/x:/a']", "volumes: [{type: bind, source: /z, target: /a}]", {"mounts": (bind("/z:/a"),)}),
        ("ports: ['80:80']", "ports: ['81:81', '80:80']", {"ports": (Port(81, 81), Port(80, 80))}),
        ("ports: ['80:80']", "ports: !override ['81:81']", {"ports": (Port(81, 81),)}),
        ("ports: ['80:80']", "ports: !reset []", {"ports": ()}),
        ("deploy: {replicas: 2}", "deploy: {resources: {limits: {cpus: 1}}}", {"replicas": 2, "limit.cpus": 1.0}),
        ("deploy: {replicas: 2}", "deploy: {replicas: 3}", {"replicas": 3}),
        ("healthcheck: {test: [CMD, a, b], retries: 7}", "healthcheck: {test: [CMD, c]}",
         {"healthcheck.test": ("c",), "healthcheck.retries": 7}),
    ],
)  # fmt: skip
def test_merge_rules(below: str, above: str, wanted: dict[str, Any], tmp_path: Path) -> None:
    spec = web(tmp_path, below, above)
    for path, value in wanted.items():
        found: Any = spec if path in ("ports", "replicas") else spec.task
        for name in path.split("."):
            found = getattr(found, name)
        assert found == value


def test_dependencies_of_both_files_and_both_forms_are_one_set(tmp_path: Path) -> None:
    app = read(
        tmp_path,
        a="services: {web: {image: x, depends_on: [db]}, db: {image: x}, mq: {image: x}}\n",
        b="services: {web: {depends_on: {mq: {condition: service_healthy}}}}\n",
    )
    assert app.spec.services["web"].depends_on == {"db": Condition.STARTED, "mq": Condition.HEALTHY}


def test_paths_start_at_the_first_file_and_in_included_files_at_their_own(tmp_path: Path) -> None:
    folders(tmp_path, "a", "b", "sub/c")
    (tmp_path / "sub" / "e.env").write_text("E=1\n")
    app = read(
        tmp_path,
        a="include: [sub/inc.yml]\nservices: {web: {image: x, volumes: ['./a:/a']}}\n",
        _sub_b="services: {web: {volumes: ['./b:/b']}}\n",
        _sub_inc="services: {inc: {image: x, volumes: ['./c:/c'], env_file: e.env}}\n",
    )
    assert app.spec.services["inc"].task.mounts == (Mount("", "/c", False, f"{tmp_path}/sub/c"),)
    assert app.spec.services["inc"].task.environment == {"E": "1"}
    both = read_app_files([str(tmp_path / "a.yml"), str(tmp_path / "sub" / "b.yml")], {})
    assert [mount.host_path for mount in both.spec.services["web"].task.mounts] == [f"{tmp_path}/a", f"{tmp_path}/b"]


def test_what_is_included_lies_below_and_may_include_again(tmp_path: Path) -> None:
    app = read(
        tmp_path,
        a="include:\n  - path: [b.yml, c.yml]\nservices: {web: {image: mine}}\n",
        _b="include: d.yml\nservices: {web: {image: theirs, user: u}}\nvolumes: {v: }\n",
        _c="services: {c: {image: x}}\n",
        _d="services: {d: {image: x}}\n",
    )
    assert set(app.spec.services) == {"web", "c", "d"}
    assert app.spec.volumes == ("v",)
    task = app.spec.services["web"].task
    assert (task.image, task.options.user) == ("mine", "u")


def test_extends_lies_below_from_this_file_or_another_through_several_steps(tmp_path: Path) -> None:
    folders(tmp_path, "sub/v")
    app = read(
        tmp_path,
        a="services:\n"
        "  web: {extends: {file: sub/base.yml, service: app}, environment: {C: 3}}\n"
        "  api: {extends: web, command: api}\n"
        "  own: {extends: {service: api}, image: own}\n",
        _sub_base="services:\n  app: {extends: root, volumes: ['./v:/v'], environment: [B=2]}\n"
        "  root: {image: root, environment: [A=1, B=1]}\n",
    )
    services = app.spec.services
    assert set(services) == {"web", "api", "own"}
    assert services["own"].task.environment == {"A": "1", "B": "2", "C": "3"}
    assert services["own"].task.mounts == (Mount("", "/v", False, f"{tmp_path}/sub/v"),)
    assert [services[name].task.image for name in services] == ["root", "root", "own"]
    assert services["own"].task.command == ("api",)


def test_what_is_taken_away_above_is_gone_from_what_was_extended_below(tmp_path: Path) -> None:
    web = "image: x, ports: ['80:80'], environment: {A: 1, B: 2}"
    below = f"services:\n  web: {{{web}}}\n  api: {{extends: web, ports: !reset []}}\n"
    above = "services:\n  api: {environment: {A: !reset null}, ports: !override ['81:81']}\n"
    api = read(tmp_path, a=below, b=above).spec.services["api"]
    assert (api.ports, api.task.environment) == ((Port(81, 81),), {"B": "2"})


def test_what_is_taken_away_in_the_only_file_is_gone_as_well(tmp_path: Path) -> None:
    web = read(
        tmp_path, a="services: {web: {image: x, ports: !reset ['80:80'], user: !override u, tty: !reset true}}\n"
    )
    task = web.spec.services["web"].task
    assert (web.spec.services["web"].ports, task.options.user, task.options.tty) == ((), "u", False)


def test_the_environment_names_files_app_and_profiles_when_no_option_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("a.yml").write_text("name: a\nservices: {web: {image: x}, more: {image: x, profiles: [more]}}\n")
    Path("b.yml").write_text("services: {web: {user: b}}\n")
    Path(".env").write_text("COMPOSE_FILE=a.yml:b.yml\nCOMPOSE_PROJECT_NAME=shop\nCOMPOSE_PROFILES=more\n")
    app = read_app_files([], {})
    assert (app.name, list(app.spec.services)) == ("shop", ["web", "more"])
    assert app.spec.services["web"].task.options.user == "b"
    app = read_app_files([], {"COMPOSE_FILE": "a.yml;b.yml", "COMPOSE_PATH_SEPARATOR": ";", "COMPOSE_PROJECT_NAME": ""})
    assert (app.name, app.spec.services["web"].task.options.user) == ("a", "b")
    app = read_app_files(["a.yml"], {"COMPOSE_PROFILES": ""}, name="mine")
    assert (app.name, list(app.spec.services), app.spec.services["web"].task.options.user) == ("mine", ["web"], "")
    with pytest.raises(UsageError, match="COMPOSE_PROJECT_NAME=My_Shop: is no DNS label"):
        read_app_files([], {"COMPOSE_PROJECT_NAME": "My_Shop"})
    with pytest.raises(AppFileError, match=r"COMPOSE_FILE names none\.yml, which is not there"):
        read_app_files([], {"COMPOSE_FILE": "none.yml"})
    Path(".env").write_text("COMPOSE_FILE a.yml\n")
    with pytest.raises(AppFileError, match=r"something other than = stands behind COMPOSE_FILE\n  --> \.env:1:1$"):
        read_app_files([], {})


def test_files_of_version_1_and_of_today_are_laid_over_each_other(tmp_path: Path) -> None:
    app = read(tmp_path, a="web:\n  image: old\n  ports: ['80:80']\n", b="services: {web: {image: new}}\n")
    assert (app.spec.services["web"].task.image, app.spec.services["web"].ports) == ("new", (Port(80, 80),))


def test_standard_input_is_a_file_of_this_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    folders(tmp_path, "v")
    text = b"services: {web: {image: x, volumes: ['./v:/v']}}"
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(text)))
    app = read_app_files(["-"], {})
    assert app.name == "app"
    assert app.spec.services["web"].task.mounts == (Mount("", "/v", False, f"{tmp_path}/v"),)


def refused(folder: Path, **texts: str) -> list[str]:
    with pytest.raises(AppFileError) as caught:
        read(folder, **texts)
    lines = caught.value.message.replace(f"{folder}/", "").splitlines()
    return [f"{caught.value.code}: {lines[0]}", lines[1]]


def test_a_mistake_is_shown_in_the_file_that_has_it(tmp_path: Path) -> None:
    one = "services: {web: {image: x}}\n"
    extends = "services:\n  web:\n    extends: {file: b.yml, service: base}\n"
    for texts, wanted in (
        ({"a": one, "b": "services:\n  web:\n    prots: ['80:80']\n"},
         ["E0102: service web has no key \"prots\"", "  --> b.yml:3:5"]),
        ({"a": extends, "_b": "services:\n  base:\n    image: x\n    cpus: many\n"},
         ['E0104: service web: cpus wants a number of CPUs, got the text "many"', "  --> b.yml:4:11"]),
        ({"a": "include: b.yml\n" + one, "_b": "services: [\n"},
         ["E0103: not YAML: a value is missing before this, or a bracket is not closed", "  --> b.yml:1:12"]),
        ({"a": "include: none.yml\n" + one}, ["E0109: there is no file none.yml", "  --> a.yml:1:10"]),
        ({"a": "include: b.yml\n" + one, "_b": "include: a.yml\n" + one},
         ["E0107: a.yml is included again, so the files go in a circle or name it twice", "  --> b.yml:1:10"]),
        ({"a": extends, "_b": one},
         ["E0106: service web: extends names base, which is no service of b.yml", "  --> a.yml:3:37"]),
        ({"a": "services: {web: {extends: api}, api: {extends: web}}"},
         ["E0106: services extend each other in a circle", "  --> a.yml:1:18"]),
    ):  # fmt: skip
        for old in tmp_path.iterdir():
            old.unlink()
        assert refused(tmp_path, **texts) == wanted


@pytest.mark.parametrize(
    ("lines", "wanted"),
    [
        ("profiles: [debug]", "E0105: no service is left: all of them wait for a profile, web for debug"),
        ("tmpfs: run", 'E0104: service web: tmpfs wants an absolute path in the container, got "run"'),
        (
            "volumes: [{type: tmpfs, target: '/a:b'}]",
            'E0104: service web: volumes wants a path without a colon, got "/a:b"',
        ),
        ("volumes: [{type: bind, source: './a:b', target: /a}]", "E0104: service web: volumes wants a path without a"),
    ],
)
def test_what_made_up_files_have_found(tmp_path: Path, lines: str, wanted: str) -> None:
    """Each was read, and what `config` printed of it was read as something else."""
    assert refused(tmp_path, a=f"services:\n  web:\n    image: x\n    {lines}\n")[0].startswith(wanted)


def test_the_usual_file_has_the_usual_override(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folders(tmp_path, "x")
    (tmp_path / "compose.yml").write_text("services: {web: {image: below, user: a}}\n")
    (tmp_path / "compose.override.yml").write_text("services: {web: {image: above, volumes: ['./x:/y:ro,z']}}\n")
    monkeypatch.chdir(tmp_path)
    found = read_app_files([], {})
    task = found.spec.services["web"].task
    assert (task.image, task.options.user) == ("above", "a")
    (why,) = (row.why for row in found.report.rows.values() if "machine where" in row.why)
    assert "z: only ro and rw" in why
