"""The agent's own files below the state directory: one folder per volume.

    volumes/<app>/<name>/data   what a named volume holds

Everything here is idempotent: a crash between any two lines is mended by calling again.
"""

import asyncio
import os
import re
import shutil
from pathlib import Path
from typing import Protocol

from miniorch.errors import EngineError


class Files(Protocol):
    """What the agent keeps on disk. Survives the agent."""

    async def make_volume(self, key: str) -> str:
        """The folder of volume `app/name`, made if it is not there."""

    async def remove_volume(self, key: str) -> None:
        """Remove a volume with all that is in it."""

    async def must_exist(self, path: str) -> None:
        """Raises `EngineError` if there is no such file or folder: Docker would make one, empty and root's."""


class NodeFiles:
    """The real thing. Work that may take long is done in a thread."""

    def __init__(self, state: Path) -> None:
        self._volumes = state / "volumes"
        self._volumes.mkdir(mode=0o711, parents=True, exist_ok=True)  # containers' users pass through, and see nothing

    def _volume(self, key: str) -> Path:
        folder = self._volumes / key
        if not re.fullmatch(r"[a-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", key):  # the server checks it, too
            raise EngineError(f"not a volume of an app: {key!r}")
        return folder

    async def make_volume(self, key: str) -> str:
        folder = self._volume(key) / "data"
        folder.mkdir(parents=True, exist_ok=True)
        return str(folder)

    async def remove_volume(self, key: str) -> None:
        folder = self._volume(key)
        # Renamed first: a volume that is made anew under this name at once does not lose files to the old one's end.
        doomed = folder.with_name(f".{folder.name}.removing")
        if folder.exists() and not doomed.exists():
            folder.rename(doomed)
        await asyncio.to_thread(shutil.rmtree, doomed, ignore_errors=True)
        await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)
        if folder.parent.is_dir() and not os.listdir(folder.parent):
            folder.parent.rmdir()

    async def must_exist(self, path: str) -> None:
        if not await asyncio.to_thread(os.path.exists, path):
            raise EngineError(
                f"there is no {path} on this machine, which the app file wants to mount; mkdir -p {path} makes a folder"
            )
