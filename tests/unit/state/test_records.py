"""Tasks on their way to the store and back: the same bytes as any other object's, and each spec once."""

from dataclasses import replace

import pytest

from miniorch import codec
from miniorch.errors import Unsupported
from miniorch.model import Failure, Status, Task, TaskState, changed
from miniorch.spec import Resources, TaskSpec
from miniorch.state import records
from miniorch.state.records import from_entry, put
from miniorch.state.store import Entry

SPEC = TaskSpec("web:1", command=("serve", "--größe=2"), environment={"A": "b"}, reserved=Resources(0.5, 1 << 20))
STATUS = Status(TaskState.FAILED, "exit code 3", 7.5, exit_code=3, log_tail=("a", "b"))
TASKS = [
    Task("t1", "shop", "web", 1, SPEC, 1.0),
    Task("t2", "shop", "web", 2, SPEC, 2.0, node="n1", status=STATUS, failures=(Failure("n2", 3.0),), placed_by="x"),
    Task("t3", "shop", "db", 1, TaskSpec("db:1"), 3.0),
]


def entry_of(value: bytes) -> Entry:
    return Entry("/tasks/t", value, 1, 1)


@pytest.mark.parametrize("task", TASKS)
def test_a_task_has_the_bytes_that_the_codec_gives_it_and_comes_back_from_them(task: Task) -> None:
    assert put(task).key == f"/tasks/{task.id}"
    assert put(task).value == codec.encode(task)
    found = from_entry(entry_of(codec.encode(task)))
    assert found == task
    assert type(found.status.state) is TaskState


def test_tasks_that_were_written_with_one_spec_have_one_when_they_are_read() -> None:
    first, second = (from_entry(entry_of(put(task).value)) for task in TASKS[:2])
    assert first.spec is second.spec == SPEC
    assert from_entry(entry_of(put(TASKS[2]).value)).spec == TaskSpec("db:1")


def test_specs_are_written_and_read_alike_after_so_many_that_the_first_are_forgotten(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(records, "SPECS_KEPT", 3)
    for number in range(10):
        task = replace(TASKS[0], spec=TaskSpec(f"web:{number}"))
        for _ in range(2):
            assert from_entry(entry_of(put(task).value)) == task


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (b'"image":"web:1"', b'"image":7', "Task.spec.image: wants str, got 7"),
        (b'"slot":1', b'"slot":"1"', "Task.slot: wants int"),
        (b'"spec":', b'"spek":', "Task: lacks spec"),
    ],
)
def test_a_task_that_does_not_fit_is_refused_with_the_path_of_the_value(old: bytes, new: bytes, message: str) -> None:
    value = put(TASKS[0]).value
    assert value.count(old) == 1
    with pytest.raises(Unsupported, match="/tasks/t, which .*" + message.replace(".", r"\.")):
        from_entry(entry_of(value.replace(old, new)))


@pytest.mark.parametrize(
    ("key", "value", "why"),
    [("/later/x", b"{}", "no kind later"), ("/plain", b"", "no kind plain"), ("/apps/a", b"\xff", "not JSON")],
)
def test_what_others_have_put_into_our_store_is_refused_by_its_key(key: str, value: bytes, why: str) -> None:
    with pytest.raises(Unsupported, match=f"{key}, which this miniorch cannot read: .*{why}"):
        from_entry(Entry(key, value, 1, 1))


def test_a_task_without_what_has_a_default_takes_that() -> None:
    value = b'{"id":"t","app":"shop","service":"web","slot":1,"created_at":1,"later":true,"spec":{"image":"web:1"}}'
    assert from_entry(entry_of(value)) == Task("t", "shop", "web", 1, TaskSpec("web:1"), 1.0)


@pytest.mark.parametrize("task", TASKS)
def test_what_is_changed_is_what_replace_gives(task: Task) -> None:
    changes = {"node": "n9", "status": STATUS, "attempt": 2}
    after = changed(task, **changes)
    assert after == replace(task, **changes)  # type: ignore[arg-type]
    assert after.spec is task.spec
    assert changed(task) == task
