"""Platform, how many per node, and what is counted by labels."""

from __future__ import annotations

from dataclasses import replace

import pytest
from boards import board, fitting, leaving, node, refusal, task, wants

from miniorch.model import TaskState
from miniorch.spec import Resources, TaskSpec
from miniorch.verdicts import Change, Edit
from scheduler.filters import FILTERS
from scheduler.request import AROUND, NODE, PLACED, SERVICE, TASK, VOLUME
from scheduler.rules import together

N1, N2 = node("n1"), node("n2")


@pytest.mark.parametrize(
    ("wanted", "where"),
    [
        ("linux/amd64", "amd"), ("linux/x86_64", "amd"), ("linux", "amd arm"), ("linux/arm64", "arm"),
        ("linux/arm64/v8", "arm"), ("linux/aarch64", "arm"), ("windows/amd64", ""), ("linux/s390x", ""),
    ],
)  # fmt: skip
def test_a_task_goes_to_a_node_of_its_platform(wanted: str, where: str) -> None:
    there = board(
        (replace(N1, name="amd"), []), (replace(N1, name="arm", platform="linux/arm64"), []),
        (replace(N1, name="new", platform=""), []),
    )  # fmt: skip
    assert fitting(wants(platforms=(wanted,)), there) == where
    assert fitting(wants(platforms=("linux/s390x", wanted)), there) == where
    assert fitting(wants(), there) == "amd arm new"


def test_a_wrong_platform_is_told_and_has_no_way_out() -> None:
    told = refusal(wants(platforms=("linux/arm64",)), board((N1, [])), "n1")
    assert (told.rule, told.detail) == ("platform", "wants platform linux/arm64, is linux/amd64")
    assert (told.seen, told.wanted, told.change) == ("linux/amd64", "linux/arm64", None)


def test_no_more_than_so_many_per_node() -> None:
    there = board((N1, ["web.1", "web.2"]), (N2, ["web.3", "db.1", "other/web.4"]))
    assert fitting(wants(max_per_node=2), there) == "n2"
    assert fitting(wants(max_per_node=1), there) == ""
    told = refusal(wants(max_per_node=2), there, "n1")
    assert told.detail == "max_replicas_per_node is 2, has web.1 and web.2"
    assert told.change == Change("web.1 and web.2 were not here", "", (Edit("gone", "n1", "shop/web"),))


def test_what_leaves_counts_until_it_has_ended() -> None:
    ended = task("web.3", TaskState.FAILED)
    assert fitting(wants(max_per_node=1), board((N1, [leaving("web.1")]), (N2, [ended]))) == "n2"


def reserving(name: str, **generic: int) -> object:
    return task(name, spec=TaskSpec("x", reserved=Resources(generic=generic)))


def test_generic_resources_are_never_reserved_twice() -> None:
    there = board(
        (node("n1", **{"resource.gpu": "2"}), [reserving("a.1", gpu=1)]),  # type: ignore[list-item]
        (node("n2", **{"resource.gpu": "2"}), [reserving("a.2", gpu=2)]),  # type: ignore[list-item]
        (node("n3"), []),
    )
    wish = wants(reserved=Resources(generic={"gpu": 1}))
    assert fitting(wish, there) == "n1"
    told = refusal(wish, there, "n2")
    assert (told.rule, told.detail) == ("capacity", "wants 1 gpu, 0 of 2 free")
    assert told.change is not None
    assert told.change.command == "miniorch node label n2 resource.gpu=3"
    told = refusal(wish, there, "n3")
    assert told.change is not None
    assert (told.detail, told.change.command) == ("wants 1 gpu, 0 of 0 free", "miniorch node label n3 resource.gpu=1")
    assert fitting(wants(reserved=Resources(generic={"fpga": 1})), there) == ""


def test_changes_of_labels_are_one_command_and_one_without_hope_spoils_all() -> None:
    first = Change("it had label a=1", edits=(Edit("label", "n1", "a", "1"),))
    second = Change("it had no label b=2", edits=(Edit("unlabel", "n1", "b"),))
    both = together([first, second, first], "n1")
    assert both is not None
    assert (both.what, both.command) == (
        "it had label a=1 and it had no label b=2", "miniorch node label n1 a=1 b-",
    )  # fmt: skip
    moved = together([first, Change("db were here", edits=(Edit("come", "n1", "shop/db"),))], "n1")
    assert moved is not None
    assert (moved.command, len(moved.edits)) == ("", 2)
    assert together([first, None], "n1") is None


def test_each_rule_says_which_changes_can_help() -> None:
    known = {NODE, TASK, VOLUME, SERVICE, PLACED, AROUND}
    helped = {rule.name: rule.helped_by for rule in FILTERS}
    assert all(kinds and kinds <= known for kinds in helped.values())
    assert (helped["platform"], helped["constraint"], helped["max per node"]) == ({NODE}, {NODE}, {TASK})
    assert {PLACED, AROUND, SERVICE} <= helped["affinity"]


def test_of_very_many_or_long_rules_the_first_are_told() -> None:
    many = [f"node.labels.zone == {number}{'x' * 190}" for number in range(90)]
    told = refusal(wants(*many), board((N1, [])), "n1")
    assert told.detail.startswith("wants node.labels.zone == 0xxx")
    assert told.detail.endswith(" and 82 more")
    assert told.wanted.count("xxx... and ") == 8
    assert max(len(told.detail), len(told.wanted)) < 3000
