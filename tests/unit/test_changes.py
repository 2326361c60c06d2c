"""What would change, said before it happens."""

from __future__ import annotations

from dataclasses import replace

from miniorch.changes import changes
from miniorch.model import Service
from miniorch.spec import (
    AppSpec,
    Build,
    Condition,
    ContainerOptions,
    HealthCheck,
    Port,
    Restart,
    RestartPolicy,
    ServiceSpec,
    TaskSpec,
)

WEB = ServiceSpec(TaskSpec("web:1", environment={"PORT": "80", "A": "1"}), replicas=2)


def said(new: ServiceSpec | None, old: ServiceSpec | None) -> list[str]:
    services = [] if old is None else [Service("shop", "web", old, "10.201.0.1")]
    wanted = AppSpec({} if new is None else {"web": new})
    return [change.describe() for change in changes("shop", wanted, services)]


def test_new_same_and_gone() -> None:
    assert said(WEB, None) == ["create web: 2 x web:1"]
    assert said(WEB, WEB) == ["keep web"]
    assert said(None, WEB) == ["remove web: no longer in the app file"]


def test_only_a_changed_container_is_replaced_and_the_detail_names_what_differs() -> None:
    newer = replace(WEB, task=replace(WEB.task, image="web:2"))
    assert said(newer, WEB) == ["replace web: image web:1 -> web:2"]
    other = replace(WEB, task=replace(WEB.task, environment={"PORT": "81", "B": "2"}, healthcheck=HealthCheck(("x",))))
    assert said(other, WEB) == ["replace web: environment A, B, PORT, healthcheck"]


def test_changed_options_are_named_one_by_one() -> None:
    other = replace(WEB, task=replace(WEB.task, options=ContainerOptions(user="ann", cap_drop=("ALL",))))
    assert said(other, WEB) == ["replace web: user, cap_drop"]


def test_numbers_ports_dependencies_aliases_and_the_restart_policy_touch_no_container() -> None:
    around = replace(WEB, restart=RestartPolicy(Restart.NEVER), aliases=("www",), networks=("front",), internal=True)
    assert said(around, WEB) == ["update web: restart, aliases, networks, internal"]
    assert said(replace(WEB, replicas=3), WEB) == ["scale web: replicas 2 -> 3"]
    assert said(replace(WEB, ports=(Port(80, 80),)), WEB) == ["update web: ports"]
    assert said(replace(WEB, depends_on={"db": Condition.HEALTHY}, replicas=1), WEB) == [
        "update web: depends_on, replicas 2 -> 1"
    ]


def test_a_build_is_named_by_its_files_and_not_by_its_generated_image() -> None:
    old = ServiceSpec(TaskSpec("miniorch/shop-web:aaa", Build("/src", "aaa")))
    new = ServiceSpec(TaskSpec("miniorch/shop-web:bbb", Build("/src", "bbb")))
    assert said(new, old) == ["replace web: the build's files or arguments"]


def test_other_apps_and_services_on_their_way_out_do_not_count() -> None:
    other = Service("other", "web", WEB, "10.201.0.1")
    leaving = Service("shop", "web", WEB, "10.201.0.2", removing=True)
    assert [change.action for change in changes("shop", AppSpec({"web": WEB}), [other, leaving])] == ["create"]
