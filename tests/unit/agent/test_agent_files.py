"""The agent's folders, in a temporary one."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from agent.files import NodeFiles
from miniorch.errors import EngineError


async def test_volume_outlives_everything_but_its_removal(tmp_path: Path) -> None:
    files = NodeFiles(tmp_path)
    folder = Path(await files.make_volume("chat/data"))
    (folder / "kept").write_text("x")
    assert Path(await NodeFiles(tmp_path).make_volume("chat/data")) == folder
    assert (folder / "kept").exists()
    await files.remove_volume("chat/data")
    await files.remove_volume("chat/data")
    assert list((tmp_path / "volumes").iterdir()) == []


@pytest.mark.parametrize("key", ["../etc", "chat/..", "chat/a/b", "chat/", "/etc/x"])
def test_volume_never_leaves_its_folder(tmp_path: Path, key: str) -> None:
    with pytest.raises(EngineError, match="not a volume"):
        asyncio.run(NodeFiles(tmp_path).remove_volume(key))
