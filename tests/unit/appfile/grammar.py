"""App files as hypothesis draws them: right ones from the table of keys, nearly right ones, and bytes gone wrong."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import yaml
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from miniorch.appfile.keys import PARTS

NAMES = ("web", "db", "mq", "job")
VOLUMES = ("data", "logs")
WORDS = (
    "x", "a b", "1", "true", "022", "1.10", "", "ü", "$$HOME", "${SET}", "${NONE:-d}", "a:b", "yes", "~", "'", '"', "#"
)  # fmt: skip
HOSTILE = (
    "${BROKEN}", "$", "${", "\0", "\ud800", "9" * 50, "-1", "1e400", "../..", "/", ":", "::", "a" * 300, "*",
    "&a", "!x y", "<<", "\n"
)  # fmt: skip


def files(folder: Path) -> None:
    """What the files that are drawn may name."""
    (folder / "here").mkdir()
    (folder / "here" / "Dockerfile").write_text("FROM scratch\n")
    (folder / "here.env").write_text("A=1\nB='two words'\n")
    (folder / "base.yml").write_text("services: {base: {image: base, environment: {BASE: 1}, cap_add: [KILL]}}\n")


def one(*values: Any) -> SearchStrategy[Any]:
    return st.sampled_from(values)


texts, flags, numbers = one("x", "a b", "ü", "${SET}", "a$$b", "1.10"), one(True, False, "true"), st.integers(1, 9)
words = st.lists(texts, max_size=2)
images = one("x", "${SET}", "Registry:5000/a/b_c", "a__b:1.10", "x@sha256:" + "0a" * 32)
capabilities = st.lists(one("ALL", "net_admin", "CAP_KILL"), max_size=2)
pairs = st.one_of(
    st.dictionaries(one("A", "B", "c.d"), texts, max_size=3), one(["A=1", "B=x=y"], ["A=", "SET"], {}, None)
)
durations, sizes = one("5s", "1m30s", "1.5h", "10ms", "0s"), one("64m", "1.5gb", 7340032, "51200K", "2GiB")
ports = st.one_of(
    st.builds("{}{}:{}{}".format, one("", "127.0.0.1:", "[::1]:", "0.0.0.0:"), st.integers(8000, 8999), numbers,
              one("", "/tcp", "/udp")),
    st.builds(lambda first, more: f"{first}-{first + more}:80-{80 + more}", st.integers(9000, 9999), numbers),
    st.builds(lambda port: {"target": port, "published": str(port), "host_ip": "127.0.0.1"}, st.integers(7000, 7999)),
)  # fmt: skip
mounts = one(
    "data:/data", "logs:/logs:ro", "./here:/here", "/tmp:/host:ro,z", "/kept", {"target": "/anonymous"},
    {"type": "bind", "source": "./here", "target": "/bound"}, {"type": "tmpfs", "target": "/fast"},
    {"type": "volume", "source": "data", "target": "/long", "read_only": True},
)  # fmt: skip
ulimits = one({"nofile": 1024}, {"core": {"soft": 0, "hard": -1}})
amounts = st.fixed_dictionaries({}, optional={"cpus": one("0.5", 2, ".25"), "memory": sizes})
jobs = one({"mode": "replicated-job", "restart_policy": {"max_attempts": 3}})
rules = one("node.labels.disk == ssd", "node.role!=manager", "node.labels.zone in a, b", "node.ip == 10.0.0.0/8")
own_rules = one(
    "service == web", "replicas <= 2 within node.labels.zone", "image not matches /^re$$/", "node.labels.gpu exists",
    ["zone", "GROUP_BY", 2], ["hostname", "LIKE", "a, b.*"], ["zone", "CLUSTER"], {"prefer": "task == web.1"},
    {"prefer": ["zone", "UNIQUE"], "weight": 10}, "node.labels.${SET} == ${NONE:-d}",
)  # fmt: skip
placements = st.fixed_dictionaries({}, optional={
    "constraints": st.lists(rules, max_size=2), "max_replicas_per_node": st.integers(0, 3),
    "preferences": one([{"spread": "node.labels.zone"}, {"spread": "node.labels.rack"}]),
})  # fmt: skip
classics = one(
    ["A=1", "constraint:node!=a", "constraint:node!=b"], {"affinity:container=": "web", "B": "2"},
    ["affinity:image==~redis*", "reschedule:on-node-failure"], {"constraint:disk=": "=/^ssd$$/"},
)  # fmt: skip
generic = one([{"discrete_resource_spec": {"kind": "gpu", "value": 2}}])
signals = one("SIGINT", "term", 9, "${SIGNAL:-SIGRTMIN+3}")
VALID: dict[str, SearchStrategy[Any]] = {
    "image": images, "build": one("./here", {"context": "here", "args": {"A": "1"}, "target": "t"}),
    "command": st.one_of(words, one("run 'a b'", None)), "entrypoint": st.one_of(words, one("sh -c x", [])),
    "environment": pairs | classics, "platform": one("linux/amd64", "linux/arm64/v8"),
    "x-miniorch": st.fixed_dictionaries({}, optional={
        "constraints": st.lists(own_rules, max_size=2), "affinities": one(["service != web", "task != x"]),
        "spread": one(["node.labels.zone"]), "strategy": one("spread", "binpack", "random"), "stop_after": durations}),
    "env_file": one("here.env", ["here.env", {"path": "none.env", "required": False}]),
    "ports": st.lists(ports, max_size=2, unique_by=str), "expose": one([80, "90"]),
    "volumes": st.lists(mounts, max_size=3, unique_by=str), "tmpfs": one("/run", ["/run:size=1m", "/more"]),
    "healthcheck": st.fixed_dictionaries(
        {"test": one(["CMD", "a"], ["CMD-SHELL", "a $$b"], "exit 0", ["NONE"])},
        optional={"interval": one("5s", "1m30s"), "timeout": one("1s"), "retries": numbers, "start_period": durations},
    ),
    "deploy": jobs | st.fixed_dictionaries({}, optional={
        "replicas": st.integers(0, 9), "mode": one("replicated", "global"),
        "resources": st.fixed_dictionaries({}, optional={
            "limits": amounts, "reservations": amounts | st.fixed_dictionaries({"generic_resources": generic})}),
        "placement": placements,
        "restart_policy": st.fixed_dictionaries({}, optional={
            "condition": one("any", "none", "on-failure"), "max_attempts": numbers, "delay": durations}),
    }),
    "scale": numbers, "restart": one("always", "no", "unless-stopped", "on-failure", "on-failure:3"),
    "stop_grace_period": durations, "stop_signal": signals,
    "profiles": one(["dev"], []), "user": texts, "labels": pairs,
    "working_dir": one("/", "/srv/a b", "${NONE:-/x}"), "hostname": texts,
    "tty": flags, "stdin_open": flags, "read_only": flags, "init": flags,
    "privileged": flags, "cap_add": capabilities, "cap_drop": capabilities, "security_opt": words, "group_add": words,
    "devices": words, "extra_hosts": one(["a:10.0.0.1"], {"b": "::1"}), "sysctls": pairs, "ulimits": ulimits,
    "shm_size": sizes, "pids_limit": numbers, "cpus": one(0.5, "2"), "mem_limit": sizes, "mem_reservation": sizes,
    "networks": one([], ["front"], ["back"], ["back", "front"], {"front": None, "back": {"aliases": ["also"]}}),
    "extends": one({"file": "base.yml", "service": "base"}), "container_name": texts, "cpu_shares": numbers,
    "network_mode": one("host", "bridge"), "logging": one({"driver": "x"}),
}  # fmt: skip


def service(index: int) -> SearchStrategy[dict[str, Any]]:
    """A service that needs only services before it."""
    earlier = NAMES[:index]
    needs = {
        "depends_on": st.one_of(
            st.lists(one(*earlier), max_size=2, unique=True),
            st.dictionaries(one(*earlier), st.builds(lambda how: {"condition": f"service_{how}"},
                                                     one("started", "healthy", "completed_successfully"))),
        ),
        "links": st.builds(lambda other: [f"{other}:{other}-of-{NAMES[index]}"], one(*earlier)),
        "volumes_from": st.builds(lambda other: [f"{other}:ro"], one(*earlier)),
    } if earlier else {}  # fmt: skip
    known = {**VALID, **needs}
    return st.lists(one(*known), max_size=5, unique=True).flatmap(
        lambda keys: st.fixed_dictionaries({"image": images, **{key: known[key] for key in keys}})
    )


@st.composite
def right(draw: st.DrawFn) -> dict[str, Any]:
    services = {name: draw(service(index)) for index, name in enumerate(NAMES[: draw(st.integers(1, 3))])}
    if draw(one(False, False, False, True)):
        # Version 1: no key of today's at the top, so no networks.
        return {name: {key: one for key, one in keys.items() if key != "networks"} for name, keys in services.items()}
    networks = {name: {"internal": draw(flags)} for name in draw(one(["front", "back"], ["front", "back", "default"]))}
    return {
        **draw(one({}, {"name": "shop"}, {"version": "3"}, {"x-note": 1})), "services": services,
        "volumes": dict.fromkeys(VOLUMES), "networks": networks,
    }  # fmt: skip


@st.composite
def nearly(draw: st.DrawFn) -> Any:
    """A right file of which one to three values, keys or whole parts are something else."""
    tree = copy.deepcopy(draw(right()))  # what is drawn is shared between examples
    strange = st.one_of(
        one(*WORDS, *HOSTILE), st.integers(), st.floats(), one(None, True, [], {}, [[]], [None], {"a": {}}, [{}])
    )
    for _ in range(draw(st.integers(1, 3))):
        places = list(spots(tree))
        holder, key = places[draw(st.integers(0, len(places) - 1))]
        match draw(st.integers(0, 3)):
            case 0 if isinstance(holder, dict):
                every = [name for part in PARTS.values() for name in part]
                holder[draw(st.one_of(one(*every), one(*WORDS, *HOSTILE)))] = holder.pop(key)
            case 1:
                del holder[key]
            case 2 if isinstance(holder, dict):
                holder[draw(one(*PARTS["service"]))] = copy.deepcopy(draw(st.one_of(*VALID.values())))
            case _:
                holder[key] = copy.deepcopy(draw(strange))
        if not tree:
            break
    return tree


def spots(tree: Any) -> Any:
    """Every (container, key) of a tree."""
    for key, value in list(tree.items() if isinstance(tree, dict) else enumerate(tree)):
        yield tree, key
        if isinstance(value, dict | list):
            yield from spots(value)


def written(tree: Any, flow: bool) -> str:
    """As JSON or in block form; what YAML cannot say at all becomes JSON."""
    if not flow:
        try:
            return yaml.dump(tree, Dumper=yaml.CSafeDumper, sort_keys=False, allow_unicode=True)
        except (yaml.YAMLError, UnicodeError):
            pass
    return json.dumps(tree)


TOKENS = (
    "\n", "\t", "{", "}", "[", "]", ",", "#", "'", '"', "@", "`", "%", "~", "$", "\\", "\0", "\x7f", "\ufeff", ": ",
    "\u2028", "- ", "&a ", "*a ", "<<: *a", "!reset ", "!override ", "!!int ", "---\n", "...", "${", "? ", "0x", "1e9",
    ">\n", "|\n", "  ",
)  # fmt: skip


@st.composite
def mutated(draw: st.DrawFn) -> bytes:
    """The bytes of a right file after one to four accidents."""
    data = written(draw(right()), draw(st.booleans())).encode()
    for _ in range(draw(st.integers(1, 4))):
        at, width = draw(st.integers(0, len(data))), draw(one(0, 0, 1, 2, 7, 40))
        new = draw(st.one_of(one(*TOKENS).map(str.encode), st.binary(max_size=2), st.just(data[at : at + 30])))
        data = data[:at] + new + data[at + width :]
    return data
