"""What is told of a decision: rows that can be read, changes that truly help, records with a bound."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import event, given, settings
from hypothesis import strategies as st
from test_index import index_of
from test_scheduler import verdict

from miniorch.codec import decode, encode
from miniorch.model import Availability, Node, NodeState, Status, Task, TaskState
from miniorch.spec import Constraint, Mount, Placement, Port, Resources, ServiceSpec, TaskSpec
from miniorch.verdicts import Change, DecisionRecord, Edit, Placed, Remedy, Trace
from scheduler.explain import ASKED, NAMES, ROWS, TASKS, Look, again, look, record, trace, whole
from scheduler.filters import FILTERS
from scheduler.oracle import best
from scheduler.remedies import KINDS, fits, remedies, tried
from scheduler.request import Board, NodeView, Request
from scheduler.rules import together
from scheduler.spellings import expression

MIB = 1024 * 1024


def node(name: str, memory: int = 1024, cpus: float = 4.0, **fields: object) -> Node:
    made = Node(name, "10.200.0.0/24", "10.200.0.1", Resources(cpus, memory * MIB), platform="linux/amd64")
    return replace(made, **fields)  # type: ignore[arg-type]


def task(name: str, on: str, memory: int = 0) -> Task:
    service, _, slot = name.partition(".")
    spec = TaskSpec("image", reserved=Resources(0.0, memory * MIB))
    return Task(f"{service}{slot}", "shop", service, int(slot), spec, 0.0, node=on, status=Status(TaskState.RUNNING))


def view(machine: Node, *tasks: Task) -> NodeView:
    return NodeView(machine, tasks)


def wish(memory: int = 0, ports: Sequence[int] = (), **placement: object) -> Request:
    spec = ServiceSpec(TaskSpec("image", reserved=Resources(0.0, memory * MIB)))
    spec = replace(spec, ports=tuple(Port(port, 80) for port in ports))
    return Request("shop", "web", replace(spec, placement=Placement(**placement)))  # type: ignore[arg-type]


def told(request: Request, board: Board, most: int = ROWS) -> Trace:
    looks = look(request, board.views.values(), board)
    return trace(request, board, looks, chosen="" if looks[0].against else looks[0].name, most=most)


def helps(request: Request, board: Board) -> list[tuple[str, str, str]]:
    """(nodes, if what, command) of each remedy."""
    found = remedies(request, board, look(request, board.views.values(), board))
    return [(", ".join(one.nodes), one.change.what, one.change.command) for one in found]


DISK = Constraint("node.labels.disk", "==", ("ssd",), text="node.labels.disk == ssd")

# --- rows ------------------------------------------------------------------------------------------------------------


def test_nodes_of_which_the_same_is_to_be_told_share_a_row_the_best_first_and_the_nearest_misses_next() -> None:
    board = Board.of([
        view(node("n1")), view(node("n2")), view(node("n3"), task("db.1", "n3")),
        view(node("n4"), task("db.2", "n4", 800)), view(node("n5", availability=Availability.DRAIN)),
        view(node("n6", availability=Availability.DRAIN)),
        view(node("n7", availability=Availability.DRAIN), task("db.3", "n7", 900)),
    ])  # fmt: skip
    found = told(wish(512), board)
    assert (found.nodes, found.looked_at, found.fitting, found.chosen) == (7, 7, 3, "n1")
    assert [row.nodes for row in found.rows] == [("n1",), ("n2",), ("n3",), ("n4",), ("n5", "n6"), ("n7",)]
    assert [[rule.rule for rule in row.rules if not rule.ok] for row in found.rows] == [
        [], [], [], ["capacity"], ["drain"], ["drain", "capacity"]]  # fmt: skip
    for row in found.rows:
        assert (row.rules, row.scores) == (
            (one := verdict(wish(512), board.views[row.nodes[0]], board)).rules,
            one.scores,
        )


def test_a_hundred_nodes_that_all_differ_are_few_rows_and_no_name_is_lost() -> None:
    board = Board.of([
        view(node(f"n{i}", labels={"disk": "ssd"} if i % 3 else {}), task(f"db.{i}", f"n{i}", 600 + i))
        for i in range(100)
    ])  # fmt: skip
    found = told(wish(512, constraints=(DISK,)), board)
    assert len(found.rows) <= ROWS
    assert sorted(name for row in found.rows for name in row.nodes) == sorted(board.views)
    assert [row.same for row in found.rows[: ROWS // 2]] == [True] * (ROWS // 2)  # the nearest stand alone
    for row in found.rows:
        failing = {rule.rule for rule in row.rules if not rule.ok}
        for name in row.nodes:
            assert {one.rule for one in verdict(wish(512, constraints=(DISK,)), board.views[name], board).rules
                    if not one.ok} == failing  # fmt: skip
    assert len(told(wish(512, constraints=(DISK,)), board, most=0).rows) == 100


@pytest.mark.parametrize("count", [1, 3, 12, 13, 40, 150])
def test_however_many_kinds_of_nodes_there_are_the_rows_have_a_bound(count: int) -> None:
    views = [view(node(f"n{i}"), *(task(f"x{j}.1", f"n{i}") for j in range(i))) for i in range(count)]
    views += [view(node(f"m{i}", ports_in_use={"80": f"pid {i}"} if i % 2 else {}, memory=i)) for i in range(count)]
    found = told(wish(500, ports=(80,)), Board.of(views))
    assert len(found.rows) <= ROWS
    assert sum(row.in_all for row in found.rows) == 2 * count


def test_whether_it_would_be_placed_there_again_is_said_with_the_reason() -> None:
    def said(on: str, *views: NodeView, request: Request = wish()) -> tuple[str, str]:  # noqa: B008 (frozen)
        board = Board.of(views)
        return again(request, on, look(request, board.views.values(), board))

    n1, n2 = view(node("n1")), view(node("n2"))
    assert said("n1", n1, n2) == ("again", "it would be placed there again")
    assert said("n2", n1, n2) == ("equal", "n1 is as good, and among equals the first name is taken")
    busy = view(node("n2"), task("web.7", "n2"))
    assert said("n2", n1, busy) == ("elsewhere", "n1 would be taken now: of this service 0 there, 1 on n2")
    closed = view(node("n2", availability=Availability.DRAIN))
    draining = "the node is draining (miniorch node activate)"
    assert said("n2", closed) == ("refused", f"n2 would not be taken now ({draining}); no node fits")
    assert said("n9", n1) == ("refused", "n9 is no longer there; n1 would be taken")


# --- what would help -------------------------------------------------------------------------------------------------


def test_the_smallest_change_of_each_kind_is_told_with_its_command() -> None:
    board = Board.of([
        view(node("n1", labels={"disk": "ssd"}), task("db.1", "n1", 1000)),
        view(node("n2", labels={"disk": "ssd"}), task("db.2", "n2", 712)),
        view(node("n3")),
        view(node("n4", availability=Availability.DRAIN, ready=False)),
    ])  # fmt: skip
    assert helps(wish(512, constraints=(DISK,)), board) == [
        ("n3", "it had label disk=ssd", "miniorch node label n3 disk=ssd"),
        ("n2", "200 MiB of memory more were free", ""),
        ("n2", "it reserved 312 MiB of memory",
         "miniorch run FILE, with deploy.resources.reservations.memory: 312M in web"),
        ("n3", "it did not want node.labels.disk == ssd", "miniorch run FILE, with no node.labels.disk == ssd in web"),
    ]  # fmt: skip


def test_what_is_counted_is_written_as_an_app_file_has_it() -> None:
    asked, key = wish(), "deploy.resources.reservations.generic_resources"
    asked = replace(
        asked, spec=replace(asked.spec, task=replace(asked.spec.task, reserved=Resources(generic={"gpu": 2})))
    )
    (*_, mild) = helps(asked, Board.of([view(node("n1", labels={"resource.gpu": "1"}))]))
    assert mild[2] == f"miniorch run FILE, with {key}: [{{discrete_resource_spec: {{kind: gpu, value: 1}}}}] in web"
    (*_, none) = helps(asked, Board.of([view(node("n1"))]))
    assert none[1:] == ("it reserved no gpu", "miniorch run FILE, with no reservation of gpu in web")


def test_a_loosening_that_helps_everywhere_names_every_node() -> None:
    board = Board.of([view(node(name), task(f"web.{i}", name)) for i, name in enumerate(("n1", "n2"))])
    assert ("n1, n2", "max_replicas_per_node were 2",
            "miniorch run FILE, with deploy.placement.max_replicas_per_node: 2 in web") in helps(
        wish(max_per_node=1), board)  # fmt: skip


def test_where_several_rules_fail_everywhere_their_changes_are_put_together() -> None:
    zone = Constraint("node.labels.zone", "==", ("b",), text="node.labels.zone == b")
    board = Board.of([view(node("n1", availability=Availability.DRAIN)), view(node("n2", state=NodeState.DOWN))])
    (first, second, service) = [*helps(wish(constraints=(DISK, zone)), board), ("", "", "")]
    assert first == (
        "n1", "it had label disk=ssd and it had label zone=b and it were not draining",
        "miniorch node label n1 disk=ssd zone=b; miniorch node activate n1")  # fmt: skip
    assert second[0] == "n2"
    assert service == ("", "", "")  # no change of the service opens a node that is closed


def hog(text: str, *, key: str = "evil/hog") -> Board:
    """Two nodes and one task on the first, whose service has a rule."""
    app, _, name = key.partition("/")
    one = replace(task("hog.1", "n1"), app=app, service=name)
    spec = ServiceSpec(TaskSpec("image"), placement=Placement((expression(text),)))
    return Board.of([view(node("n1"), one), view(node("n2"))], {key: spec})


def test_who_is_to_end_frees_room_so_nothing_less_need_be_reserved() -> None:
    spec = ServiceSpec(TaskSpec("image"), placement=Placement((expression("service != web"),)))
    board = Board.of([view(node("n1", 512), task("db.1", "n1", 300), task("cache.1", "n1", 100))], {"shop/db": spec})
    assert helps(wish(200), board)[-1] == ("n1", "shop/db were not running", "miniorch scale shop/db=0")


def test_whose_rule_keeps_a_service_from_everywhere_is_told_with_the_way_to_end_it() -> None:
    text = "service not matches /^shop[/]/ within node.platform.os"
    gone = ("n1, n2", "evil/hog were not running", "miniorch scale evil/hog=0")
    board = hog(text.replace("[/]", "/"))
    assert helps(wish(), board) == [gone]
    (row,) = told(wish(), board).rows
    assert [rule.detail for rule in row.rules if not rule.ok] == [
        "evil/hog.1 on linux, which wants service not matches /^shop// within node.platform.os"
    ]
    assert helps(wish(2000), board) == [
        ("n1, n2", "it reserved 1 GiB of memory and evil/hog were not running",
         "miniorch run FILE, with deploy.resources.reservations.memory: 1024M in web; miniorch scale evil/hog=0"),
    ]  # fmt: skip
    own = Constraint("service", "!=", ("evil/hog",), "node.platform.os", text="service != evil/hog within ...")
    assert helps(wish(constraints=(own,)), board) == [gone], "what it wants itself holds then, too"


def test_a_rule_about_single_nodes_can_be_ended_on_one_or_altogether() -> None:
    board = hog("service != web", key="shop/hog")
    board = replace(board, views={"n1": board.views["n1"]})
    assert helps(wish(), board) == [
        ("n1", "hog.1 were not here", ""),
        ("n1", "shop/hog were not running", "miniorch scale shop/hog=0"),
    ]


def test_a_node_that_is_too_small_even_empty_is_not_told_to_be_emptied() -> None:
    found = helps(wish(2048), Board.of([view(node("n1", memory=1024))]))
    assert [what for _, what, _ in found] == ["it reserved 1 GiB of memory"]


def test_what_nothing_can_help_has_no_remedy_and_what_fits_needs_none() -> None:
    assert helps(wish(constraints=(Constraint("node.name", "==", ("n9",)),)), Board.of([view(node("n1"))]))[1:] == []
    assert helps(wish(), Board.of([view(node("n1"))])) == []
    assert remedies(wish(), Board.of([]), []) == ()


def test_every_kind_of_edit_does_what_it_says() -> None:
    board = Board.of([view(node("n1", labels={"a": "1"}, ports_in_use={"80": "x"}), task("db.1", "n1"))])

    def after(*edits: Edit) -> NodeView:
        return tried(edits, wish(), board)[1].views["n1"]

    assert after(Edit("label", "n1", "b", "2")).node.labels == {"a": "1", "b": "2"}
    assert after(Edit("unlabel", "n1", "a")).node.labels == {}
    assert after(Edit("engine-label", "n1", "b", "2")).node.engine_labels == {"b": "2"}
    assert after(Edit("port", "n1", "80")).node.ports_in_use == {}
    assert after(Edit("image", "n1", "redis")).node.images == ("redis",)
    assert after(Edit("gone", "n1", "shop/db")).tasks == ()
    assert after(Edit("come", "n1", "shop/web")).tasks[-1].service_key == "shop/web"
    assert after(Edit("free", "n1", "gpu", "2")).node.labels["resource.gpu"] == "2"
    assert after(Edit("free", "n1", "cpus", "500")).node.capacity.cpus == 4.5
    assert board.views["n1"].tasks  # nothing was changed
    assert {"ready", "activate", "free", "reserve", "drop"} < set(KINDS)


# --- records ---------------------------------------------------------------------------------------------------------


def a_record(board: Board, placed: Sequence[Placed], request: Request | None = None) -> DecisionRecord:
    return record(request or wish(), board, placed, number=1, at=5.0, revision=7)


def test_a_record_keeps_what_was_seen_and_reads_back_as_the_trace_it_was() -> None:
    board = Board.of([view(node("n1")), view(node("n2"), task("db.1", "n2")), view(node("n3", ready=False))])
    made = a_record(board, [Placed("t1", 1, "n1"), Placed("t2", 2, "n2")])
    assert decode(DecisionRecord, encode(made)) == made
    assert made.key == "shop/web/000000001"
    assert made.trace.chosen == "n1"
    read, now = whole(made.trace), told(wish(), board)
    assert [(row.nodes, row.fits, row.scores) for row in read.rows] == [
        (row.nodes, row.fits, row.scores if row.fits else ()) for row in now.rows
    ]
    for kept, seen in zip(read.rows, now.rows, strict=True):
        assert [(rule.rule, rule.ok) for rule in kept.rules] == [(rule.rule, rule.ok) for rule in seen.rules]
        assert [rule.detail for rule in kept.rules if not rule.ok] == [
            rule.detail for rule in seen.rules if not rule.ok
        ]


def test_a_record_of_many_tasks_on_many_nodes_is_small_and_has_the_nodes_that_were_taken() -> None:
    names = [f"node-with-a-long-name-{i:05}" for i in range(5000)]
    board = Board.of([
        view(node(name, 1024 - i % 700, labels={"disk": "hdd" if i % 2 else "ssd"}), task(f"db.{i}", name, i % 600))
        for i, name in enumerate(names)
    ])  # fmt: skip
    taken = [name for i, name in enumerate(names) if not i % 2][:300]
    placed = [Placed(f"task{i:04}", i, name) for i, name in enumerate(taken)]
    made = a_record(board, placed, wish(512, constraints=(DISK,)))
    assert len(encode(made)) < 24_000
    assert (made.in_all, len(made.placed), made.trace.nodes) == (300, TASKS, 5000)
    assert made.trace.looked_at <= ASKED
    assert len(made.trace.rows) <= ROWS
    assert all(len(row.nodes) <= NAMES for row in made.trace.rows)
    assert made.trace.rows[0].nodes == (taken[0],)


# --- properties ------------------------------------------------------------------------------------------------------

LABELS = st.dictionaries(st.sampled_from(["disk", "zone"]), st.sampled_from(["a", "b", "ssd"]), max_size=2)
SERVICES = ("shop/web", "shop/db", "blog/front")
CONSTRAINTS = st.one_of(
    st.builds(
        Constraint,
        st.sampled_from(["node.labels.disk", "node.labels.zone", "node.name", "engine.labels.disk", "node.role"]),
        st.sampled_from(["==", "!=", "in", "exists"]),
        st.tuples(st.sampled_from(["a", "b", "ssd", "n1", "worker"])),
    ),
    st.builds(
        Constraint,
        st.just("service"),
        st.sampled_from(["==", "!="]),
        st.tuples(st.sampled_from(["web", "db", "blog/front"])),
        st.sampled_from(["node.name", "node.labels.zone"]),
    ),
    st.builds(
        Constraint,
        st.just("replicas"),
        st.just("<="),
        st.tuples(st.sampled_from(["1", "2"])),
        st.sampled_from(["node.name", "node.labels.zone"]),
    ),
).map(lambda one: replace(one, values=() if one.operator == "exists" else one.values))


@st.composite
def boards(draw: st.DrawFn) -> Board:
    views = []
    for number in range(1, draw(st.integers(1, 5)) + 1):
        name = f"n{number}"
        machine = node(
            name, draw(st.sampled_from([256, 512, 1024])), draw(st.sampled_from([0.5, 2.0])), labels=draw(LABELS),
            ready=draw(st.integers(0, 5)) > 0, ports_in_use={"80": "nginx"} if draw(st.booleans()) else {},
            state=draw(st.sampled_from([NodeState.READY, NodeState.READY, NodeState.DOWN])),
            availability=draw(st.sampled_from([Availability.ACTIVE, Availability.ACTIVE, Availability.DRAIN])),
        )  # fmt: skip
        on = []
        for index, key in enumerate(draw(st.lists(st.sampled_from(SERVICES), max_size=3))):
            app, _, service = key.partition("/")
            on.append(replace(task(f"{service}.{index}", name, draw(st.sampled_from([0, 100, 300]))), app=app))
        views.append(view(machine, *on))
    refusing = Placement((Constraint("service", "!=", ("shop/web",)),)) if draw(st.integers(0, 5)) == 0 else Placement()
    specs = {key: ServiceSpec(TaskSpec("image"), placement=Placement()) for key in SERVICES}
    return Board.of(views, {**specs, "shop/db": replace(specs["shop/db"], placement=refusing)})


@st.composite
def requests(draw: st.DrawFn) -> Request:
    made = wish(
        draw(st.sampled_from([0, 200, 400, 2000])), draw(st.sampled_from([(), (80,)])),
        constraints=tuple(draw(st.lists(CONSTRAINTS, max_size=3))), max_per_node=draw(st.sampled_from([0, 0, 1])),
        platforms=draw(st.sampled_from([(), (), ("linux/arm64",)])),
    )  # fmt: skip
    generic = draw(st.sampled_from([{}, {}, {"gpu": 1}]))
    cpus = draw(st.sampled_from([0.0, 0.5, 1.0]))
    reserved = replace(made.spec.task.reserved, cpus=cpus, generic=generic)
    spec = replace(made.spec, task=replace(made.spec.task, reserved=reserved))
    if draw(st.integers(0, 4)) == 0:
        spec = replace(spec, task=replace(spec.task, mounts=(Mount("data", "/data"),)))
        return replace(made, spec=spec, volumes={"data": "n1"})
    return replace(made, spec=spec)


@given(boards(), requests())
def test_whatever_is_said_to_help_does_help(board: Board, request: Request) -> None:
    looks = look(request, board.views.values(), board)
    found = remedies(request, board, looks)
    fitting = best(request, board) is not None
    assert not (found and fitting)
    for remedy in found:
        event(" ".join(sorted({edit.kind for edit in remedy.change.edits})))
        edits = remedy.change.edits
        assert best(*tried(edits, request, board)), remedy
        for name in remedy.nodes:
            on_it = [replace(one, node=name) if one.node == remedy.nodes[0] else one for one in edits]
            if {one.kind for one in edits} <= {"free", "port"}:
                on_it = [one for one in on_it if name == remedy.nodes[0]]  # how much, and which port: its own
            assert not on_it or fits(*tried(on_it, request, board), name), remedy
        of_node = next(one for one in looks if one.name == remedy.nodes[0])
        parts = (
            [one.change.edits for one in of_node.failing if one.change] if edits[0].node else [[one] for one in edits]
        )
        parts = [part for part in parts if set(part) <= set(edits)]
        for part in parts:
            after = tried([edit for edit in edits if edit not in part], request, board)
            assert not all(fits(*after, name) for name in remedy.nodes), (remedy, part)
    if not fitting and any(_can_be_helped(one) for one in looks):
        assert found, "there was a change on a node, and none was told"


def _can_be_helped(of_node: Look) -> bool:
    """Whether each failing rule of a node has a change that concerns that rule alone. A node that is down does not come
    back alone: its tasks count again, in the rules about what lies beside a task.
    """
    simple, node = {"ready", "drain", "capacity", "ports"}, of_node.view.node
    if node.state is NodeState.DOWN and any(task.live for task in of_node.view.tasks):
        return False
    return all(rule.rule in simple and rule.change is not None and rule.change.edits for rule in of_node.failing)


@settings(max_examples=50)
@given(boards(), requests())
def test_the_quick_look_says_of_every_node_what_the_whole_verdict_says(board: Board, request: Request) -> None:
    looks = look(request, board.views.values(), board)
    assert (looks[0].name if not looks[0].against else None) == best(request, board)
    whole_ones = {name: verdict(request, view, board) for name, view in board.views.items()}
    for one in looks:
        assert one.failing == tuple(rule for rule in whole_ones[one.name].rules if not rule.ok)
    found = trace(request, board, looks, most=0)
    assert [rule.rule for rule in found.rows[0].rules] == [one.name for one in FILTERS]


@settings(max_examples=50)
@given(boards(), requests())
def test_a_record_shows_what_the_engine_has_taken_as_the_best(board: Board, request: Request) -> None:
    (taken,) = index_of(board).place(request, ["new"])
    if taken is None:
        return
    kept = record(request, board, [Placed("new", 1, taken)], number=1, at=0.0, revision=1).trace
    assert (kept.chosen, kept.rows[0].nodes, kept.rows[0].fits) == (taken, (taken,), True)
    scores = [[score.value for score in row.scores] for row in kept.rows if row.fits]
    assert scores[0] == min(scores)
    assert again(request, taken, look(request, board.views.values(), board))[0] == "again"


def test_changes_of_one_node_are_put_together_as_one_command_per_kind() -> None:
    label, active = Edit("label", "n1", "disk", "ssd"), Edit("activate", "n1")
    both = together(
        [Change("a", "miniorch node activate n1", (active,)), Change("b", "miniorch node label n1 disk=ssd", (label,))],
        "n1",
    )
    assert both is not None
    assert both.command == "miniorch node label n1 disk=ssd; miniorch node activate n1"
    assert both.edits == (label, active)
    without = together([Change("a", "", (active,)), Change("b", "x", (label,))], "n1")
    assert without is not None
    assert not without.command


def test_a_remedy_is_plain_data() -> None:
    remedy = Remedy(("n1",), Change("it had label a=b", "", (Edit("label", "n1", "a", "b"),)))
    assert decode(Remedy, encode(remedy)) == remedy
