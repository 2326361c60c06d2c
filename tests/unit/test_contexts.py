"""Which cluster a command speaks to, and the files of a context."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from miniorch.authority import Authority
from miniorch.certificates import Subject, key_in, new_key, request_for
from miniorch.cli.context import add, rm, use
from miniorch.clock import SystemClock
from miniorch.contexts import chosen, chosen_folder, folder_of, known, transport_now
from miniorch.errors import Conflict, NotAllowed, NotFound, UsageError
from miniorch.identity import CERTIFICATE_FILE, check_certificate
from miniorch.transport import API_SOCKET, HttpTransport

NOW = 1_800_000_000.0


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user without contexts, on a machine without a lab."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("MINIORCH_LAB", "nosuchlab")
    monkeypatch.delenv("MINIORCH_CONTEXT", raising=False)
    monkeypatch.delenv("MINIORCH_RUN_DIR", raising=False)
    return tmp_path


def bundle(folder: Path, name: str = "ann", since: float = NOW, seconds: float = 60) -> str:
    """What `context create` prints."""
    authority, key = Authority.make("c1", since), new_key()
    signed = authority.sign(Subject(name, "view", "c1", "", since + seconds, "", since), key_in(request_for(key)))
    said = {"context": name, "servers": ["https://192.0.2.1:7440"], "key": key, "certificate": signed,
            "authority": authority.certificate}  # fmt: skip
    file = folder / f"{name}.context"
    file.write_text(json.dumps(said))
    return str(file)


def test_a_context_is_taken_in_as_private_files_and_used(home: Path) -> None:
    add(bundle(home), "")
    assert (chosen(), known()) == ("ann", ["ann"])
    assert {one.stat().st_mode & 0o777 for one in folder_of("ann").iterdir()} == {0o600}
    assert folder_of("ann").stat().st_mode & 0o777 == 0o700
    assert transport_now().place == "https://192.0.2.1:7440"


def test_the_environment_comes_before_the_choice_and_local_is_this_machine(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    add(bundle(home), "")
    add(bundle(home, "bob"), "other")
    assert chosen_folder() == folder_of("other")
    monkeypatch.setenv("MINIORCH_CONTEXT", "ann")
    assert chosen_folder() == folder_of("ann")
    monkeypatch.setenv("MINIORCH_CONTEXT", "local")
    assert transport_now().place == API_SOCKET
    monkeypatch.delenv("MINIORCH_CONTEXT")
    monkeypatch.setenv("MINIORCH_RUN_DIR", str(home))
    assert chosen_folder() is None, "whoever says where to ask is asked there"


def test_leaving_and_forgetting_a_context_leads_back_to_this_machine(home: Path) -> None:
    add(bundle(home), "")
    use("local")
    assert chosen_folder() is None
    use("ann")
    rm("ann")
    assert (chosen(), known()) == ("", [])
    with pytest.raises(NotFound, match="no context ann"):
        use("ann")


def test_what_is_gone_or_no_context_is_refused_by_name(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MINIORCH_CONTEXT", "gone")
    with pytest.raises(NotFound, match="no context gone"):
        transport_now()
    file = home / "bad"
    for text in ("", "{}", "[1]", '{"context": 3}', '{"key": 1, "certificate": "x", "authority": "y", "servers": []}'):
        file.write_text(text)
        with pytest.raises(UsageError, match="is no context"):
            add(str(file), "")
    for name in ("..", "a/b", "current", "", ".hidden"):
        with pytest.raises(UsageError, match="no name for a context"):
            folder_of(name)
    monkeypatch.delenv("MINIORCH_CONTEXT")
    add(bundle(home), "")
    for name in ("", "local"):
        with pytest.raises(Conflict, match="already"):
            add(bundle(home), name)


@pytest.mark.parametrize(("days", "age", "asks"), [(90, 10, False), (90, 70, True), (20, 19, False)])
def test_a_context_asks_for_a_later_end_in_the_last_third_of_its_life_unless_that_was_short(
    home: Path, monkeypatch: pytest.MonkeyPatch, days: int, age: int, asks: bool
) -> None:
    asked: list[str] = []

    def request_now(self: HttpTransport, method: str, path: str, body: object = None) -> object:
        asked.append(f"{method} {path} at {self.place}")
        return {"certificate": (folder_of("ann") / CERTIFICATE_FILE).read_text()}

    monkeypatch.setattr(HttpTransport, "request_now", request_now)
    add(bundle(home, since=SystemClock().now() - age * 86400, seconds=days * 86400), "")
    transport_now()
    assert asked == ["POST /v1/renew at https://192.0.2.1:7440"] * asks


def test_who_shows_a_certificate_that_has_ended_is_told_so_and_what_helps(home: Path) -> None:
    add(bundle(home, since=SystemClock().now() - 3 * 86400), "")
    with pytest.raises(NotAllowed, match=r"the certificate of ann has ended 3\.0 days ago") as refusal:
        check_certificate(folder_of("ann"))
    assert "miniorch context create ann" in refusal.value.remedy
