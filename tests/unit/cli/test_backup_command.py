"""`backup` and `restore` as typed: the passphrase, the file, and the store that comes of it."""

from __future__ import annotations

import asyncio
import json
import os
import pty
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import surroundings
from fake_api import Cli, FakeApi

from miniorch.authority import Authority
from miniorch.codec import encode
from miniorch.errors import Conflict
from miniorch.model import Cluster, Volume
from miniorch.state.backup import Content
from miniorch.state.records import put
from miniorch.state.sqlite import SqliteStore

AUTHORITY = Authority.make("c1", 1_800_000_000.0)
VOLUME = Volume("shop", "data", "node1")
SECRET = {"MINIORCH_PASSPHRASE": "correct horse"}


@pytest.fixture
def there(api: FakeApi, tmp_path: Path) -> FakeApi:
    entries = [("/cluster/cluster", encode(Cluster("c1")).decode()), ("/volumes/shop/data", encode(VOLUME).decode())]
    api.answers["GET", "/v1/backup"] = Content("c1", 412, AUTHORITY, tuple(entries))
    return api


@pytest.fixture
def saved(there: FakeApi, cli: Cli, tmp_path: Path) -> Path:
    file = tmp_path / "cluster.backup"
    assert cli("backup", str(file), env=SECRET).returncode == 0
    return file


def stored(path: Path) -> dict[str, bytes]:
    async def read() -> dict[str, bytes]:
        store = SqliteStore(path)
        try:
            return {entry.key: entry.value for entry in (await store.list("/")).entries}
        finally:
            await store.close()

    return asyncio.run(read())


def test_what_was_saved_comes_back_with_the_authority(saved: Path, cli: Cli, tmp_path: Path) -> None:
    assert stat.S_IMODE(saved.stat().st_mode) == 0o600
    done = cli("restore", str(saved), env=SECRET)
    assert done.stdout == "2 objects of cluster c1 restored; the backup is 0.0 h old\n"
    assert stored(tmp_path / "state/state.db")["/volumes/shop/data"] == put(VOLUME).value
    assert Authority.load(tmp_path / "state") == AUTHORITY


def test_nothing_is_restored_into_memory(saved: Path, cli: Cli, tmp_path: Path) -> None:
    """Neither as the option says, nor as the last `up` has said."""
    (tmp_path / "state").mkdir()
    (tmp_path / "state/store").write_text("memory:\n")
    for options in (["--store", "memory:"], ["--store", "MEMORY:"], []):
        done = cli("restore", str(saved), *options, env=SECRET)
        assert (done.returncode, done.stdout) == (2, "")
        assert "forgets what is restored into it" in done.stderr
        assert f"miniorch restore {saved} --store sqlite:" in done.stderr
    assert Authority.load(tmp_path / "state") is None


def test_backup_says_what_is_in_it_and_replaces_only_as_a_whole(there: FakeApi, cli: Cli, tmp_path: Path) -> None:
    file = tmp_path / "b"
    file.write_text("old")
    done = cli("backup", str(file), "--json", env=SECRET)
    told = {"outcome": "saved", "file": str(file), "objects": 2, "revision": 412}
    assert json.loads(done.stdout) == told
    assert "the data in volumes is not in it" in cli("backup", str(file), env=SECRET).stdout
    before = file.read_bytes()
    there.answers["GET", "/v1/backup"] = Conflict("this server does not hold the key", remedy="elsewhere")
    assert cli("backup", str(file), env=SECRET).returncode == 7
    assert file.read_bytes() == before
    assert sorted(os.listdir(tmp_path)) == ["api.sock", "b"]


def test_passphrase_comes_from_a_file_before_the_environment(saved: Path, cli: Cli, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("correct horse\nnot this line\n")
    done = cli("restore", str(saved), "--passphrase-file", str(secret), env={"MINIORCH_PASSPHRASE": "wrong"})
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("given", [{}, {"MINIORCH_PASSPHRASE": ""}], ids=["none", "empty"])
def test_nothing_is_saved_without_a_passphrase(there: FakeApi, cli: Cli, tmp_path: Path, given: dict[str, str]) -> None:
    done = cli("backup", str(tmp_path / "b"), env=given)
    assert done.returncode == 2
    assert "is encrypted and needs a passphrase" in done.stderr
    assert "--passphrase-file" in done.stderr
    assert os.listdir(tmp_path) == ["api.sock"]
    assert there.asked == []


def test_on_a_terminal_the_passphrase_is_asked_twice_and_not_shown(there: FakeApi, tmp_path: Path) -> None:
    for second, code in (("correct hors\n", 2), ("correct horse\n", 0)):
        ours, theirs = pty.openpty()
        command = [sys.executable, "-m", "miniorch.cli.main", "backup", str(tmp_path / "b")]
        with subprocess.Popen(
            command, env=surroundings(tmp_path), stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True
        ) as process:
            os.close(theirs)
            said = _until(ours, "passphrase of the backup: ")
            os.write(ours, b"correct horse\n")
            said += _until(ours, "the same again: ")
            os.write(ours, second.encode())
            said += _until(ours, "encrypted" if code == 0 else "the two were not the same")
            assert process.wait(30) == code
        os.close(ours)
        assert "horse" not in said
        assert (tmp_path / "b").exists() is (code == 0)


def _until(terminal: int, words: str) -> str:
    said = ""
    while words not in said:
        said += os.read(terminal, 4096).decode()
    return said


@pytest.mark.parametrize(
    ("change", "code", "words"),
    [
        (lambda data: data[:-1], 2, "damaged, or was cut off"),
        (lambda data: b"hello", 2, "not a backup of miniorch"),
        (lambda data: data.replace(b'"version":1', b'"version":2'), 2, "has version 2, this miniorch reads version 1"),
    ],
    ids=["cut off", "foreign", "newer"],
)
def test_file_that_cannot_be_restored_is_refused_before_the_passphrase(
    saved: Path, cli: Cli, tmp_path: Path, change: object, code: int, words: str
) -> None:
    saved.write_bytes(change(saved.read_bytes()))  # type: ignore[operator]
    done = cli("restore", str(saved))
    assert (done.returncode, done.stdout) == (code, "")
    assert words in done.stderr
    assert "help: " in done.stderr
    assert not (tmp_path / "state").exists()


def test_wrong_passphrase_and_unreadable_files_are_told(saved: Path, cli: Cli, tmp_path: Path) -> None:
    wrong = cli("restore", str(saved), env={"MINIORCH_PASSPHRASE": "x"})
    assert (wrong.returncode, "the passphrase is not the one" in wrong.stderr) == (6, True)
    none = cli("restore", str(tmp_path / "none"), env=SECRET)
    assert (none.returncode, "cannot read" in none.stderr) == (2, True)
    nowhere = cli("backup", str(tmp_path / "no/b"), env=SECRET)
    assert (nowhere.returncode, "in no folder that exists" in nowhere.stderr) == (2, True)
    folder = cli("backup", str(tmp_path), env=SECRET)
    assert (folder.returncode, "is a folder" in folder.stderr) == (2, True)
    secret = cli("restore", str(saved), "--passphrase-file", str(tmp_path / "none"))
    assert (secret.returncode, "cannot read" in secret.stderr) == (2, True)
    assert not (tmp_path / "state").exists()


def test_store_that_is_not_empty_or_in_use_is_left_alone(saved: Path, cli: Cli, tmp_path: Path) -> None:
    url = f"sqlite://{tmp_path}/other.db"
    assert cli("restore", str(saved), "--store", url, env=SECRET).returncode == 0
    again = cli("restore", str(saved), "--store", url, env=SECRET)
    assert (again.returncode, "it holds 2 objects" in again.stderr) == (7, True)
    unasked = cli("restore", str(saved), "--store", url, "--force", env=SECRET)
    assert (unasked.returncode, "--yes" in unasked.stderr) == (2, True)
    assert cli("restore", str(saved), "--store", url, "--force", "--yes", env=SECRET).returncode == 0

    async def in_use() -> subprocess.CompletedProcess[str]:
        store = SqliteStore(tmp_path / "other.db")
        try:
            command = ("restore", str(saved), "--store", url, "--force", "--yes")
            return await asyncio.to_thread(cli, *command, env=SECRET)
        finally:
            await store.close()

    refused = asyncio.run(in_use())
    assert (refused.returncode, str(os.getpid()) in refused.stderr) == (7, True)


def test_authority_of_another_cluster_is_not_overwritten_unasked(saved: Path, cli: Cli, tmp_path: Path) -> None:
    other = Authority.make("c2", 1_800_000_000.0)
    other.save(tmp_path / "state")
    done = cli("restore", str(saved), env=SECRET)
    assert (done.returncode, "authority of another cluster" in done.stderr) == (7, True)
    assert Authority.load(tmp_path / "state") == other
    assert cli("restore", str(saved), "--force", "--yes", env=SECRET).returncode == 0
    assert Authority.load(tmp_path / "state") == AUTHORITY
