"""An image's archive loses what the other side has, and nothing else."""

from __future__ import annotations

import io
import json
import random
import tarfile
from collections.abc import AsyncIterator

import pytest

from agent import layers
from agent.layers import shared, without
from miniorch.errors import EngineError

Files = dict[str, bytes | str]  # name -> content, or the name that a link leads to


def archive(digests: list[str], *, oci: bool = False) -> tuple[Files, list[str]]:
    """What `docker save` writes of an image with these layers, and the name of each layer's file.

    Docker up to 24 has a folder per layer, and a link for one that comes twice; later ones name it by its digest.
    """
    files: Files = {}
    names = []
    for at, digest in enumerate(digests):
        content = digest.encode() * 999
        if oci:
            names.append(f"blobs/sha256/{digest}")
            files[names[-1]] = content
        else:
            names.append(f"{at:02}{'f' * 120}/layer.tar")  # too long for the oldest kind of tar
            files[f"{names[-1][:-9]}json"] = json.dumps({"id": at})
            first = digests.index(digest)
            files[names[-1]] = content if first == at else names[first]
    config = "blobs/sha256/config" if oci else "config.json"
    files[config] = json.dumps({"rootfs": {"diff_ids": digests}}).encode()
    manifest = [{"Config": config, "RepoTags": ["web:1"], "Layers": names}]
    files["manifest.json"] = json.dumps(manifest).encode()
    return files, names


def packed(files: Files) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            if isinstance(content, str):
                entry.type, entry.linkname = tarfile.SYMTYPE, content
                tar.addfile(entry)
            else:
                entry.size = len(content)
                tar.addfile(entry, io.BytesIO(content))
    return buffer.getvalue()


def unpacked(data: bytes) -> Files:
    with tarfile.open(fileobj=io.BytesIO(data), mode="r:") as tar:
        found: Files = {}
        for member in tar.getmembers():
            file = None if member.issym() else tar.extractfile(member)
            found[member.name] = file.read() if file else member.linkname
        return found


async def in_pieces(data: bytes, size: int = 1000) -> AsyncIterator[bytes]:
    for at in range(0, len(data), size):
        yield data[at : at + size]


async def left_of(data: bytes, count: int) -> bytes:
    return b"".join([piece async for piece in without(in_pieces(data), count)])


def test_layers_are_shared_from_the_bottom_up_and_a_layer_on_others_is_another() -> None:
    assert shared(["a", "b", "c"], [["a"], ["a", "b", "x"], ["b", "c"], []]) == 2
    assert shared(["a", "b", "c"], [["x", "b", "c"]]) == 0
    assert shared(["a", "b"], [["a", "b", "c"]]) == 2
    assert shared([], [["a"]]) == shared(["a"], []) == 0


@pytest.mark.parametrize("oci", [False, True])
async def test_only_the_content_of_the_lowest_layers_is_left_out(oci: bool) -> None:
    for count in range(6):  # of four: one may say that he has more than there are
        files, names = archive(["a", "b", "c", "d"], oci=oci)
        kept = await left_of(packed(files), count)
        assert unpacked(kept) == {name: content for name, content in files.items() if name not in names[:count]}


@pytest.mark.parametrize("oci", [False, True])
async def test_random_images_keep_all_that_is_needed_above(oci: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layers, "PIECE", 700)
    chance = random.Random(5)
    for _ in range(50):
        digests = chance.choices("abcd", k=chance.randrange(1, 7))  # as of RUN lines that change nothing
        files, names = archive(digests, oci=oci)
        count = chance.randrange(len(digests) + 1)
        kept = unpacked(await left_of(packed(files), count))
        for name, digest in zip(names[count:], digests[count:], strict=True):
            content = kept[name]
            assert (kept[content] if isinstance(content, str) else content) == digest.encode() * 999
        unneeded = {name for name, digest in zip(names, digests, strict=True) if digest not in digests[count:]}
        assert kept.keys() == files.keys() - unneeded


async def test_what_is_no_archive_of_an_image_is_an_error_of_the_engine() -> None:
    files, _ = archive(["a", "b"])
    whole = packed(files)
    strange = {**files, "manifest.json": b"[]"}
    older = {name: content for name, content in files.items() if name != "manifest.json"}
    for data in (b"", b"no tar at all" * 99, whole[:3000], packed(strange), packed(older)):
        with pytest.raises(EngineError, match="cannot be taken apart"):
            await left_of(data, 1)
