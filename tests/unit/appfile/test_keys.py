"""The table of keys cannot lie: it has Compose's keys, and what it calls honoured changes the spec when it is set."""

from __future__ import annotations

from pathlib import Path

import pytest

from miniorch.appfile.keys import PARTS, Verdict
from miniorch.appfile.read import AppFile, read_app_files
from miniorch.appfile.section import READERS
from miniorch.spec import MAX_REPLICAS, Condition
from scheduler.constraints import MAX_WEIGHT
from scheduler.strategies import STRATEGIES

# The service keys of the Compose specification (services element and deploy), and of Compose's versions 1 to 3.
SPECIFICATION = """
annotations attach blkio_config build cap_add cap_drop cgroup cgroup_parent command configs container_name cpu_count
cpu_percent cpu_period cpu_quota cpu_rt_period cpu_rt_runtime cpu_shares cpus cpuset credential_spec depends_on deploy
develop device_cgroup_rules devices dns dns_opt dns_search domainname entrypoint env_file environment expose extends
external_links extra_hosts gpus group_add healthcheck hostname image init ipc isolation label_file labels links logging
mac_address mem_limit mem_reservation mem_swappiness memswap_limit models network_mode networks oom_kill_disable
oom_score_adj pid pids_limit platform ports post_start pre_stop privileged profiles provider pull_policy
pull_refresh_after read_only restart runtime scale secrets security_opt shm_size stdin_open stop_grace_period
stop_signal storage_opt sysctls tmpfs tty ulimits use_api_socket user userns_mode uts volumes volumes_from working_dir
net log_driver log_opt volume_driver dockerfile
""".split()  # noqa: SIM905
DEPLOY = "endpoint_mode labels mode placement replicas resources restart_policy rollback_config update_config".split()  # noqa: SIM905

# Key -> lines with it; "" for one that no spec can show.
SERVICE = {
    "image": "image: other", "command": "command: x", "entrypoint": "entrypoint: x",
    "environment": "environment: {A: 1}",
    "env_file": "env_file: a.env", "ports": "ports: ['80:80']", "expose": "", "volumes": "volumes: ['/x:/x']",
    "volumes_from": "volumes_from: [db]", "tmpfs": "tmpfs: /x", "depends_on": "depends_on: [db]",
    "links": "links: ['db:d']",
    "scale": "scale: 2", "restart": "restart: 'no'", "stop_grace_period": "stop_grace_period: 1s",
    "stop_signal": "stop_signal: SIGINT", "profiles": "profiles: [dev]", "extends": "extends: rich", "user": "user: u",
    "secrets": "secrets: [key]", "configs": "configs: [conf]", "networks": "networks: [n]",
    "working_dir": "working_dir: /x", "hostname": "hostname: h", "labels": "labels: {a: b}", "tty": "tty: true",
    "stdin_open": "stdin_open: true", "read_only": "read_only: true", "init": "init: false",
    "privileged": "privileged: true",
    "cap_add": "cap_add: [KILL]", "cap_drop": "cap_drop: [KILL]", "security_opt": "security_opt: [a]",
    "group_add": "group_add: [g]",
    "devices": "devices: [/dev/x]", "extra_hosts": "extra_hosts: ['a:1.1.1.1']", "sysctls": "sysctls: {a: 1}",
    "ulimits": "ulimits: {core: 1}", "shm_size": "shm_size: 1m", "pids_limit": "pids_limit: 5", "cpus": "cpus: 1",
    "mem_limit": "mem_limit: 8m", "mem_reservation": "mem_reservation: 1m",
    "dockerfile": "build: there\ndockerfile: Other", "platform": "platform: linux/amd64",
    "network_mode": "network_mode: service:db", "net": "net: container:db",
}  # fmt: skip
PARTS_OF_SERVICE = {
    "build": ("build: {context: there, %s}", {
        "context": "context: also", "dockerfile": "dockerfile: Other", "args": "args: {A: 1}", "target": "target: t"}),
    "healthcheck": ("healthcheck: {test: a, %s}", {
        "test": "test: b", "interval": "interval: 9s", "timeout": "timeout: 9s", "retries": "retries: 9",
        "start_period": "start_period: 9s", "disable": "disable: true"}),
    "deploy": ("deploy: {%s}", {
        "replicas": "replicas: 3", "mode": "mode: replicated-job", "endpoint_mode": "", "update_config": ""}),
    "limits": ("deploy: {resources: {limits: {%s}}}", {"cpus": "cpus: 1", "memory": "memory: 8m", "pids": "pids: 3"}),
    "reservations": ("deploy: {resources: {reservations: {%s}}}", {
        "cpus": "cpus: 1", "memory": "memory: 1m",
        "generic_resources": "generic_resources: [{discrete_resource_spec: {kind: gpu}}]"}),
    "restart_policy": ("deploy: {restart_policy: {%s}}", {
        "condition": "condition: none", "max_attempts": "max_attempts: 3", "delay": "delay: 3s"}),
    "port": ("ports: [{target: 80, %s}]", {
        "target": "target: 81", "published": "published: 82", "protocol": "protocol: udp",
        "host_ip": "host_ip: 127.0.0.1",
        "mode": ""}),
    "mount": ("volumes: [{type: volume, source: v, target: /v, %s}]", {
        "type": "type: tmpfs", "source": "source: w", "target": "target: /w", "read_only": "read_only: true"}),
    "dependency": ("depends_on: {db: {%s}}", {"condition": "condition: service_healthy", "required": ""}),
    "network": ("networks: {n: {%s}}", {"aliases": "aliases: [a]"}),
    "file reference": ("secrets: [{source: key, %s}]", {"source": "source: key2", "target": "target: other"}),
    "x-miniorch": ("x-miniorch: {%s}", {
        "stop_after": "stop_after: 1s", "constraints": "constraints: [[zone, UNIQUE]]", "strategy": "strategy: binpack",
        "affinities": "affinities: [service == db]", "spread": "spread: [node.labels.zone]"}),
    "preferred": ("x-miniorch: {constraints: [{prefer: node.role == worker, %s}]}", {
        "prefer": "prefer: node.role == manager", "weight": "weight: 7"}),
    "placement": ("deploy: {placement: {%s}}", {
        "constraints": "constraints: [node.role == worker]", "preferences": "preferences: [{spread: node.role}]",
        "max_replicas_per_node": "max_replicas_per_node: 2"}),
    "preference": ("deploy: {placement: {preferences: [{spread: node.role, %s}]}}", {
        "spread": "spread: node.labels.zone"}),
    "discrete resource": (
        "deploy: {resources: {reservations: {generic_resources: [{discrete_resource_spec: {kind: g, value: 1, %s}}]}}}",
        {"kind": "kind: disk", "value": "value: 2"}),
    "extends": ("extends: {service: rich, %s}", {"service": "service: db", "file": "file: more.yml"}),
    "env file": ("env_file: [{path: a.env, %s}]", {"path": "path: b.env", "required": ""}),
}  # fmt: skip
REST = """
  db: {image: x, volumes: [/db]}
  rich: {image: x, user: rich}
volumes: {v: , w: }
secrets: {key: {file: a.env}, key2: {file: b.env}}
configs: {conf: {file: a.env}}
networks: {n: }
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name, text in {
        "a.env": "F=1\n", "b.env": "F=2\n", "more.yml": "services: {more: {image: x}, rich: {image: x, user: more}}\n",
        "there/Dockerfile": "FROM a\n", "there/Other": "FROM b\n", "also/Dockerfile": "FROM c\n",
    }.items():  # fmt: skip
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


def read(line: str = "", top: str = "") -> AppFile:
    """A file with these lines in its service."""
    lines = [] if line.startswith(("image", "build")) else ["image: x"]
    body = "".join(f"    {one}\n" for one in [*lines, *line.splitlines()])
    Path("app.yml").write_text(f"{top}\nservices:\n  web:\n{body}{REST}")
    return read_app_files(["app.yml"], {})


def effective(part: str) -> set[str]:
    """The keys of a part that are said to have an effect."""
    return {name for name, key in PARTS[part].items() if key.verdict in (Verdict.HONOURED, Verdict.APPROXIMATED)}


def test_the_table_has_every_key_of_the_specification() -> None:
    assert set(PARTS["service"]) == {*SPECIFICATION, "x-miniorch"}
    assert set(PARTS["deploy"]) == set(DEPLOY)


def test_what_is_not_honoured_is_explained_and_what_is_honoured_needs_no_word() -> None:
    for keys in PARTS.values():
        for key in keys.values():
            assert bool(key.why) == (key.verdict in (Verdict.APPROXIMATED, Verdict.IGNORED)), key


def test_every_key_has_a_reader_and_what_it_takes_is_what_others_allow() -> None:
    rows = [key for keys in PARTS.values() for key in keys.values()]
    assert {key.reader for key in rows} <= {*READERS, "any", "part", "parts", "names", "ignored"}
    assert {key.takes for key in rows if key.reader in ("part", "parts", "names")} <= set(PARTS)
    takes = {(part, key.name): key.takes for part, keys in PARTS.items() for key in keys.values()}
    assert takes["x-miniorch", "strategy"].split() == list(STRATEGIES)
    assert takes["dependency", "condition"].split() == list(Condition)
    assert takes["preferred", "weight"] == f"1..{MAX_WEIGHT}"
    for one in (("service", "scale"), ("deploy", "replicas"), ("placement", "max_replicas_per_node")):
        assert takes[one] == f"0..{MAX_REPLICAS}"


@pytest.mark.parametrize("name", sorted(effective("service")))
def test_a_key_of_a_service_that_is_honoured_changes_the_spec(name: str, folder: Path) -> None:
    line = SERVICE[name]  # "": one that says something to people only
    base = read("build: there" if name == "dockerfile" else "")
    assert (read(line).spec != base.spec) == bool(line)


@pytest.mark.parametrize("part", sorted(PARTS_OF_SERVICE))
def test_a_key_of_a_part_that_is_honoured_changes_the_spec(part: str, folder: Path) -> None:
    frame, keys = PARTS_OF_SERVICE[part]
    assert set(keys) == effective(part)
    bare = read((frame % "").replace(", }", "}").replace("{}", "")).spec
    for name, inner in keys.items():
        given = frame % inner
        if f"{name}: " in frame.replace(f"{part}:", ""):  # it is there already: replaced
            before, _, after = frame.partition(f"{name}: ")
            given = before + inner + "," + after.partition(",")[2] % ""
        assert (read(given.replace(", }", "}")).spec != bare) == bool(inner), given


def test_the_keys_at_the_top_that_are_honoured_change_the_app(folder: Path) -> None:
    assert read(top="name: other").name == "other"
    assert "more" in read(top="include: more.yml").spec.services
