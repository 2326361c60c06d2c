"""Of the lab's verbs what needs no namespaces: removing the nodes' disks."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from miniorch.lab.lab import remove_disks


def test_disks_are_removed_side_by_side_with_all_that_lies_beside_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import shutil

    state, together, real = tmp_path / "state", threading.Barrier(3, timeout=10.0), shutil.rmtree

    def rmtree(path: Path, *, ignore_errors: bool) -> None:
        if path.name.startswith("node"):
            together.wait()  # for the others; raises after ten seconds
        real(path, ignore_errors=ignore_errors)

    for name in ("node1", "node2", "node3"):
        (state / name / "docker/overlay2/layer").mkdir(parents=True)
        (state / name / "docker/overlay2/layer/file").write_text("")
    (state / "lab.json").write_text("{}")
    monkeypatch.setattr("miniorch.lab.lab.shutil.rmtree", rmtree)
    remove_disks(state)
    assert not state.exists()
    remove_disks(state)  # nothing is there, nothing is done
