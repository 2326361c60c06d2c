"""Objects to JSON and back."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from miniorch.codec import decode, encode, from_plain
from miniorch.errors import UsageError
from miniorch.model import (
    KINDS,
    Backend,
    Cluster,
    DesiredState,
    Endpoints,
    Node,
    Service,
    Status,
    Task,
    TaskState,
    key_of,
    kind_of,
)
from miniorch.spec import AppSpec, Build, Condition, HealthCheck, Mount, Port, Resources, ServiceSpec, TaskSpec

SPEC = TaskSpec(
    image="web:1",
    build=Build("/src", "abc", args={"A": "1"}),
    command=("run", "--fast"),
    environment={"PORT": "80"},
    mounts=(Mount("data", "/data", True),),
    healthcheck=HealthCheck(("true",), 1.5),
    reserved=Resources(0.5, 1024),
)
TASK = Task("t1", "shop", "web", 1, SPEC, 5.0, DesiredState.DRAINING, 6.0, "n1", Status(TaskState.FAILED, exit_code=3))


def test_every_object_survives_the_way_to_json_and_back() -> None:
    service = Service("shop", "web", ServiceSpec(SPEC, 2, (Port(80, 8080),), {"db": Condition.HEALTHY}), "10.201.0.1")
    endpoints = Endpoints("shop", "web", "10.201.0.1", (Port(80, 8080),), (Backend("t1", 1, "n1", "10.200.0.2", True),))
    node = Node("n1", "10.200.0.0/24", "10.200.0.1", Resources(2, 3), ports_in_use={"80": "nginx (pid 1)"})
    for item in (TASK, service, endpoints, node, Cluster("c1")):
        assert decode(type(item), encode(item)) == item
        assert KINDS[kind_of(type(item))] is type(item)
        assert key_of(item)


@given(st.dictionaries(st.text(), st.text()), st.lists(st.text()), st.floats(-(2.0**62), 2.0**62))
def test_any_text_survives(environment: dict[str, str], command: list[str], seconds: float) -> None:
    spec = TaskSpec("i", environment=environment, command=tuple(command), stop_grace_seconds=seconds)
    assert decode(TaskSpec, encode(spec)) == spec


def test_unknown_keys_are_ignored_and_missing_ones_take_their_default() -> None:
    assert from_plain(TaskSpec, {"image": "x", "from_the_future": 1}) == TaskSpec("x")


@pytest.mark.parametrize(
    ("plain", "message"),
    [
        ({}, "ServiceSpec: lacks task"),
        ({"task": {"image": 7}}, "ServiceSpec.task.image: wants str, got 7"),
        ({"task": {"image": "x", "command": "run"}}, 'ServiceSpec.task.command: wants a list, got "run"'),
        ({"task": {"image": "x", "mounts": [{"volume": "v"}]}}, r"ServiceSpec.task.mounts\[0\]: lacks target"),
        ({"task": {"image": "x"}, "replicas": True}, "ServiceSpec.replicas: wants a number, got true"),
        ({"task": {"image": "x"}, "depends_on": {"db": "soon"}}, "'soon' is none of service_started, service_healthy"),
        ({"task": {"image": "x"}, "depends_on": []}, r"ServiceSpec.depends_on: wants an object, got \[\]"),
        ("x" * 100, "ServiceSpec: wants an object, got .{1,40}$"),
        ({"task": {"image": "x", "reserved": {"cpus": math.inf}}}, "cpus: wants a number of at most 64 bits, got Inf"),
        ({"task": {"image": "x", "reserved": {"cpus": math.nan}}}, "cpus: wants a number of at most 64 bits, got NaN"),
        ({"task": {"image": "x", "reserved": {"cpus": 10**400}}}, "cpus: wants a number of at most 64 bits, got 1000"),
        ({"task": {"image": "x", "reserved": {"memory_bytes": 2**63}}}, "memory_bytes: wants a number of at most 64"),
        ({"task": {"image": "x\ud800"}}, r'image: wants text, got half a character in "x\\ud800"'),
        ({"task": {"image": "x", "environment": {"\ud800": ""}}}, r"environment.\\ud800: wants text"),
        ({"task": "\ud800"}, r'task: wants an object, got "\\ud800"'),
    ],
)
def test_what_does_not_fit_is_refused_with_its_path(plain: object, message: str) -> None:
    with pytest.raises(UsageError, match=message) as refused:
        from_plain(ServiceSpec, plain)
    assert encode({"error": refused.value.message})  # it can be answered


def test_what_is_not_json_is_refused() -> None:
    with pytest.raises(UsageError, match="not JSON"):
        decode(AppSpec, b"{")
