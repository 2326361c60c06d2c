"""An image's archive without the layers that whoever asked for it has: what travels from node to node is what differs.

The problem: a rebuilt app differs from the last one by kilobytes, and `docker save` writes all 200 MB of it. The idea:
a layer is known by the digest of its content (its diff id) *and* of everything below it, so two images share layers
from the bottom up. The receiver says how many it has; the sender keeps all of the archive but their content. Docker's
`load` reads a layer's content only if it has no layer with this digest on top of the same ones.

That is what Docker does, and nowhere promised: a load that misses a layer fails, and then the whole archive is sent.
Who does this for real: registries, of which a client asks only for digests that it lacks (decision 0016).
"""

import asyncio
import json
import tarfile
from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Sequence
from itertools import takewhile
from tempfile import TemporaryFile
from typing import IO, Any

from miniorch.errors import EngineError

PIECE = 1 << 20
END = bytes(1024)  # of a tar
FOLDER = "/var/tmp"  # on a disk; /tmp may be memory


def shared(layers: Sequence[str], others: Iterable[Sequence[str]]) -> int:
    """How many of an image's layers, from the bottom, one of the others has, too."""
    same = (takewhile(lambda pair: pair[0] == pair[1], zip(layers, other, strict=False)) for other in others)
    return max((len(list(pairs)) for pairs in same), default=0)


async def without(pieces: AsyncIterator[bytes], count: int) -> AsyncGenerator[bytes]:
    """What `docker save` writes, without the content of the lowest `count` layers. Raises `EngineError`.

    Which file is which layer stands at the end of it, so it is kept for a moment.
    """
    try:
        with TemporaryFile(dir=FOLDER) as file:
            async for piece in pieces:
                await asyncio.to_thread(file.write, piece)
            for start, end in await asyncio.to_thread(spans, file, count):
                file.seek(start)
                for left in range(end - start, 0, -PIECE):
                    yield await asyncio.to_thread(file.read, min(left, PIECE))
        yield END
    except (OSError, ValueError, LookupError, tarfile.TarError) as error:
        raise EngineError(f"its archive cannot be taken apart: {error}") from None


def spans(file: IO[bytes], count: int) -> list[tuple[int, int]]:
    """Which parts of an archive (from, to) are left. A layer that lies once more above `count` others stays."""
    file.seek(0)
    with tarfile.open(fileobj=file, mode="r:") as tar:
        members = tar.getmembers()
        manifest = _json(tar, "manifest.json")[0]
        digests = _json(tar, manifest["Config"])["rootfs"]["diff_ids"]
        lowest = zip(manifest["Layers"][:count], digests[:count], strict=True)
        dropped = {name for name, digest in lowest if digest not in digests[count:]}
        ends = [*(member.offset for member in members[1:]), tar.offset]
        return [(one.offset, end) for one, end in zip(members, ends, strict=True) if one.name not in dropped]


def _json(tar: tarfile.TarFile, name: str) -> Any:
    found = tar.extractfile(name)
    return json.load(found) if found else {}
