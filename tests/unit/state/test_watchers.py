"""The history in memory: bounded, cut at whole revisions, and honest about where it begins."""

from __future__ import annotations

import pytest

from miniorch.errors import Compacted
from miniorch.state.store import Change, Entry
from miniorch.state.watchers import History


def changes(revision: int, *keys: str, size: int = 10) -> list[Change]:
    return [Change(revision, key, Entry(key, b"x" * size, revision, revision), None) for key in keys]


def test_history_that_grows_too_long_forgets_its_older_half_in_whole_revisions() -> None:
    history = History()
    for revision in range(1, 11):
        history.append(revision, changes(revision, "/a", "/b", "/c"))
    history.shrink(30, 10_000)
    assert history.floor == 0
    history.shrink(29, 10_000)
    assert history.floor == 5
    assert [change.revision for change in history.read("/b", 5).changes] == [6, 7, 8, 9, 10]
    with pytest.raises(Compacted, match="everything up to 5"):
        history.read("/b", 4)


def test_history_of_large_values_is_bounded_by_their_size() -> None:
    history = History()
    for revision in range(1, 11):
        history.append(revision, changes(revision, "/a", size=1000))
    history.shrink(100, 3000)
    assert [change.revision for change in history.read("/", history.floor).changes] == [9, 10]
    history.append(11, changes(11, "/a", size=9000))
    history.shrink(100, 3000)
    assert (history.floor, history.head) == (11, 11)
    assert history.read("/", 11).changes == []


def test_history_begins_where_it_is_told_and_ends_at_what_came_last() -> None:
    history = History(7)
    assert (history.read("/", 7).upto, history.head) == (7, 7)
    history.append(9, changes(9, "/a"))
    assert (history.floor, history.head) == (7, 9)
    history.forget(20)
    assert (history.floor, history.head) == (20, 20)
    history.forget(10)
    assert history.floor == 20


def test_history_is_read_in_bounded_pieces_of_whole_revisions() -> None:
    history = History()
    for revision in range(1, 1001):
        history.append(revision, changes(revision, "/a", "/b", "/c"))
    seen, upto, reads, complete = 0, 0, 0, False
    while not complete:
        batch = history.read("/b", upto)
        seen, upto, reads, complete = seen + len(batch.changes), batch.upto, reads + 1, batch.complete
    assert (seen, upto, reads) == (1000, 1000, 6)
