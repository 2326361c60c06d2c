"""What cp unpacks and what it leaves out, on archives that nobody sane would make."""

from __future__ import annotations

import io
import os
import tarfile
from pathlib import Path
from typing import Any

import pytest

from miniorch.cli.copy import _base, _inside, archived, extract
from miniorch.errors import UsageError


def tar(*members: tuple[str, Any]) -> io.BytesIO:
    """Members: bytes are a file, None is a folder, `-> x` a link, `= x` a hard link, anything else a type."""
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w") as writing:
        for name, what in members:
            member = tarfile.TarInfo(name)
            if isinstance(what, bytes):
                member.size = len(what)
                member.mode = 0o6777
            elif what is None:
                member.type, member.mode = tarfile.DIRTYPE, 0o777
            else:
                kind, _, member.linkname = what.partition(" ")
                member.type = {"->": tarfile.SYMTYPE, "=": tarfile.LNKTYPE, "fifo": tarfile.FIFOTYPE}[kind]
            writing.addfile(member, io.BytesIO(what) if isinstance(what, bytes) else None)
    made.seek(0)
    return made


def files(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): path.read_text() for path in folder.rglob("*") if path.is_file()}


def test_the_first_entry_gets_the_targets_name(tmp_path: Path) -> None:
    members = [("a", None), ("a/b", None), ("a/b/c", b"one"), ("a/l", "-> b/c"), ("a/h", "= a/b/c")]
    assert extract(tar(*members), tmp_path / "x") == []
    assert files(tmp_path) == {"x/b/c": "one", "x/l": "one", "x/h": "one"}
    assert extract(tar(("a", b"two")), tmp_path / "file") == []
    assert (tmp_path / "file").read_text() == "two"
    assert (
        extract(tar(("/", None), ("/bin", None), ("/bin/sh", b"3"), ("/bin/ash", "= /bin/sh")), tmp_path / "all") == []
    )
    assert files(tmp_path / "all") == {"bin/sh": "3", "bin/ash": "3"}


def test_a_file_does_not_take_the_place_of_a_folder_nor_the_other_way_round(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("mine")
    (tmp_path / "dead").symlink_to("nowhere")
    for name, folder in (("file", True), ("dead", True), ("folder", False)):
        with pytest.raises(UsageError, match=r"is a (file|folder) here, and a (file|folder) there"):
            _base(str(tmp_path), name, contents=False, folder=folder)
    assert _base(str(tmp_path / "dead"), "x", contents=False, folder=True) == tmp_path / "nowhere"


@pytest.mark.parametrize(
    ("members", "left_out"),
    [
        ([("a/../../evil", b"x")], ["a/../../evil"]),
        ([("a/out", "-> /etc"), ("a/out/evil", b"x")], ["a/out"]),  # then the folder `out` is made, and holds it
        ([("a/up", "-> ../.."), ("a/up/evil", b"x")], ["a/up"]),
        ([("a/here", "-> ."), ("a/here/../../evil", b"x")], ["a/here/../../evil"]),
        ([("a/l", "-> ../../secret")], ["a/l"]),
        ([("a/h", "= a/../../secret")], ["a/h"]),
        ([("a/h", "= /etc/passwd")], ["a/h"]),
        ([("a/pipe", "fifo")], ["a/pipe"]),
    ],
)
def test_what_leads_out_of_the_target_is_left_out_and_named(
    tmp_path: Path, members: list[tuple[str, Any]], left_out: list[str]
) -> None:
    (tmp_path / "secret").write_text("mine")
    (tmp_path / "place").mkdir()
    assert extract(tar(("a", None), *members), tmp_path / "place/x") == left_out
    assert {name for name in files(tmp_path) if not name.startswith("place/x/")} == {"secret"}
    assert (tmp_path / "secret").read_text() == "mine"


def test_a_link_that_is_there_already_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("mine")
    (tmp_path / "x").mkdir()
    (tmp_path / "x/file").symlink_to(tmp_path / "secret")
    (tmp_path / "x/folder").symlink_to(tmp_path)
    members = [("a", None), ("a/file", b"new"), ("a/folder", None), ("a/folder/evil", b"x")]
    assert extract(tar(*members), tmp_path / "x") == ["a/folder", "a/folder/evil"]
    assert (tmp_path / "secret").read_text() == "mine"
    assert (tmp_path / "x/file").read_text() == "new"
    assert not (tmp_path / "evil").exists()


@pytest.mark.parametrize("what", [b"new", "-> file", "= a/file"])
def test_what_is_neither_file_nor_folder_is_left_alone(tmp_path: Path, what: Any) -> None:
    (tmp_path / "x").mkdir()
    os.mkfifo(tmp_path / "x/pipe")
    assert extract(tar(("a", None), ("a/file", b"1"), ("a/pipe", what)), tmp_path / "x") == ["a/pipe"]
    assert (tmp_path / "x/pipe").is_fifo()
    with pytest.raises(UsageError, match="no file and no folder"):
        _base(str(tmp_path / "x/pipe"), "pipe", contents=False, folder=False)
    (tmp_path / "link").symlink_to("x/pipe")
    for target in (tmp_path / "link", tmp_path / "x"):
        with pytest.raises(UsageError, match="no file and no folder"):
            _base(str(target), "pipe", contents=False, folder=False)


def test_special_rights_do_not_come_along(tmp_path: Path) -> None:
    extract(tar(("a", None), ("a/b", b"")), tmp_path / "x")
    assert [os.stat(tmp_path / name).st_mode & 0o7777 for name in ("x", "x/b")] == [0o755, 0o755]


def test_what_goes_in_belongs_to_root_and_comes_back_the_same(tmp_path: Path) -> None:
    (tmp_path / "site/deep").mkdir(parents=True)
    (tmp_path / "site/deep/page").write_bytes(b"x" * 300_000)
    os.chown(tmp_path / "site/deep/page", os.getuid(), os.getgid())
    data = b"".join(archived(tmp_path / "site", "new", contents=False))
    with tarfile.open(fileobj=io.BytesIO(data)) as reading:
        assert [(one.name, one.uid, one.uname) for one in reading] == [
            (name, 0, "root") for name in ("new", "new/deep", "new/deep/page")
        ]
    assert extract(io.BytesIO(data), tmp_path / "back") == []
    assert files(tmp_path / "back") == files(tmp_path / "site")
    data = b"".join(archived(tmp_path / "site", ".", contents=True))
    with tarfile.open(fileobj=io.BytesIO(data)) as reading:
        assert reading.getnames() == ["./deep", "./deep/page"]


def test_a_file_that_cannot_be_read_breaks_the_stream_off(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        list(archived(tmp_path / "gone", "gone", contents=False))


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("web:/x", ("web", "/x")), ("chat/web.1:", ("chat/web.1", "/")), ("./a:b", None), ("/a:b", None), ("-", None),
        ("plain", None), ("web:rel", ("web", "rel")),
    ],
)  # fmt: skip
def test_a_colon_names_a_task_unless_a_path_begins(text: str, meant: tuple[str, str] | None) -> None:
    assert _inside(text) == meant
