"""What an app file means once it is right."""

from __future__ import annotations

from pathlib import Path

import pytest

from miniorch.appfile.compose import AppFile, read_app_file
from miniorch.appfile.folder import digest
from miniorch.appfile.variables import BadVariable, read_env_file, substitute
from miniorch.errors import UsageError
from miniorch.model import Condition, HealthCheck, Mount, Port, Resources, TaskSpec

EXAMPLE = Path(__file__).parents[3] / "examples" / "dockchat.yml"


def read(folder: Path, text: str, environment: dict[str, str] | None = None, **options: object) -> AppFile:
    path = folder / "my Shop.yml"
    path.write_text(text)
    return read_app_file(str(path), environment or {}, **options)  # type: ignore[arg-type]


def web(folder: Path, lines: str, environment: dict[str, str] | None = None) -> TaskSpec:
    text = "services:\n  web:\n    image: nginx\n" + "".join(f"    {line}\n" for line in lines.splitlines())
    return read(folder, text, environment).spec.services["web"].task


def test_dockchat_is_read_as_it_is_meant() -> None:
    app = read_app_file(str(EXAMPLE), {"PYTHON_IMAGE": "python:3.12-slim", "MONGO_IMAGE": "mongo:7"})
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


def test_an_app_is_named_by_option_then_key_then_file(tmp_path: Path) -> None:
    text = "services: {web: {image: x}}\n"
    assert read(tmp_path, text).name == "my-shop"
    assert read(tmp_path, "name: shop\n" + text).name == "shop"
    assert read(tmp_path, "name: shop\n" + text, name="other").name == "other"
    with pytest.raises(UsageError):
        read(tmp_path, text, name="No Good")


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


def test_ports_and_volumes_of_each_form(tmp_path: Path) -> None:
    text = """
services:
  web:
    image: x
    ports: ["80:8080", "81:8080/tcp", {target: 8080, published: "82", protocol: tcp}]
    volumes: ["a:/a", "b:/b:ro", {type: volume, source: c, target: /c, read_only: true}]
volumes: {a: , b: {}, c: }
"""
    service = read(tmp_path, text).spec.services["web"]
    assert service.ports == (Port(80, 8080), Port(81, 8080), Port(82, 8080))
    assert service.task.mounts == (Mount("a", "/a"), Mount("b", "/b", True), Mount("c", "/c", True))


def test_resources_and_grace_have_units(tmp_path: Path) -> None:
    spec = web(
        tmp_path,
        "deploy: {resources: {reservations: {cpus: '0.5', memory: 512M}, limits: {cpus: 2, memory: 1.5gb}}}\n"
        "stop_grace_period: 1m",
    )
    assert spec.reserved == Resources(0.5, 512 << 20)
    assert spec.limit == Resources(2.0, 3 << 29)
    assert spec.stop_grace_seconds == 60.0


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


def test_default_with_and_without_colon_differ_for_the_empty_text() -> None:
    assert substitute("${A:-x}|${A-x}|${B-y}|${B:-}", {"A": ""}) == "x||y|"
    for bad in ("$(date)", "${A:?no}", "${A", "100$"):
        with pytest.raises(BadVariable):
            substitute(bad, {"A": "1"})


def test_a_missing_env_file_is_an_empty_one(tmp_path: Path) -> None:
    assert read_env_file(tmp_path / ".env") == {}


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
