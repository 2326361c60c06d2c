"""`join`, seen from the machine that joins: whom it believes, and what it says before it does."""

from __future__ import annotations

import contextlib
import ssl
import threading
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from miniorch import tokens
from miniorch.authority import Authority, write_private
from miniorch.certificates import Subject, digest_of_certificate, key_in, new_key, request_for
from miniorch.cli.cluster import _ask_for_certificate, _host_and_port, _joined_already, seconds_of
from miniorch.clock import SystemClock
from miniorch.codec import encode
from miniorch.errors import Conflict, MiniorchError, NotAllowed, Unreachable, UsageError
from miniorch.identity import AUTHORITY_FILE, CERTIFICATE_FILE, KEY_FILE, SERVERS_FILE
from miniorch.model import Role

NOW = SystemClock().now()
CLUSTER, OTHER = Authority.make("c1", NOW), Authority.make("c2", NOW)
TOKEN = tokens.make(digest_of_certificate(CLUSTER.certificate), CLUSTER.key, Role.WORKER, "k3m9x2ab")


def identity(folder: Path, authority: Authority, now: float, role: str = "manager", name: str = "m1") -> None:
    """The files of a machine of this cluster."""
    key = new_key()
    subject = Subject(name, role, "c1", "127.0.0.1", now + 86400, "", now - 3600)
    write_private(folder / KEY_FILE, key.encode())
    write_private(folder / CERTIFICATE_FILE, authority.sign(subject, key_in(request_for(key))).encode())
    write_private(folder / AUTHORITY_FILE, authority.certificate.encode())


class Said:
    """A server that answers what it was told to, and remembers what it was asked."""

    def __init__(self, folder: Path, authority: Authority, shown: str, now: float, role: str = "manager") -> None:
        self.heard: list[tuple[str, str]] = []
        identity(folder, authority, now, role)
        answers = {
            "/v1/authority": {"certificate": shown, "now": now},
            "/v1/join": {"name": "box", "certificate": "signed", "servers": ["https://192.0.2.9:7440"]},
        }
        heard = self.heard

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                size = int(self.headers.get("content-length", 0))
                heard.append((f"{self.command} {self.path}", self.rfile.read(size).decode()))
                body = encode(answers[self.path])
                self.send_response(200)
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            do_POST = do_GET

            def log_message(self, format: str, *args: Any) -> None:
                pass

        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(folder / CERTIFICATE_FILE, folder / KEY_FILE)
        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.http.socket = context.wrap_socket(self.http.socket, server_side=True)
        self.url = f"https://127.0.0.1:{self.http.server_address[1]}"


@contextlib.contextmanager
def serving(server: Said) -> Iterator[Said]:
    thread = threading.Thread(target=server.http.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server
    finally:
        server.http.shutdown()
        thread.join()
        server.http.server_close()


def folders(tmp_path: Path) -> tuple[Path, Path]:
    server, state = tmp_path / "server", tmp_path / "state"
    server.mkdir()
    state.mkdir()
    return server, state


def test_the_secret_goes_to_the_tokens_cluster_alone_and_the_certificate_is_written_last(tmp_path: Path) -> None:
    folder, state = folders(tmp_path)
    with serving(Said(folder, CLUSTER, CLUSTER.certificate, NOW)) as server:
        assert _ask_for_certificate(server.url, str(TOKEN), TOKEN, "box", state) == "box"
    assert [what for what, _ in server.heard] == ["GET /v1/authority", "POST /v1/join"]
    assert (state / SERVERS_FILE).read_text().split() == [server.url, "https://192.0.2.9:7440"]
    assert (state / CERTIFICATE_FILE).read_text() == "signed"
    assert (state / KEY_FILE).stat().st_mode & 0o777 == 0o600
    assert (state / KEY_FILE).read_text() not in server.heard[1][1]


@pytest.mark.parametrize("shown", [OTHER.certificate, "", "nonsense"])
def test_another_authority_hears_nothing_but_the_first_question(tmp_path: Path, shown: str) -> None:
    folder, state = folders(tmp_path)
    with serving(Said(folder, OTHER, shown, NOW)) as server, pytest.raises(NotAllowed, match="Nothing was sent"):
        _ask_for_certificate(server.url, str(TOKEN), TOKEN, "box", state)
    assert server.heard == [("GET /v1/authority", "")]
    assert list(state.iterdir()) == []


@pytest.mark.parametrize(("signer", "role"), [(OTHER, "manager"), (CLUSTER, "worker")])
def test_who_shows_the_right_authority_without_being_its_manager_never_hears_the_secret(
    tmp_path: Path, signer: Authority, role: str
) -> None:
    folder, state = folders(tmp_path)
    with serving(Said(folder, signer, CLUSTER.certificate, NOW, role)) as server, pytest.raises(NotAllowed):
        _ask_for_certificate(server.url, str(TOKEN), TOKEN, "box", state)
    assert [what for what, _ in server.heard] == ["GET /v1/authority"]
    assert not (state / CERTIFICATE_FILE).exists()


def test_a_clock_that_is_hours_off_is_named_before_certificates_fail_because_of_it(tmp_path: Path) -> None:
    folder, state = folders(tmp_path)
    late = Said(folder, CLUSTER, CLUSTER.certificate, NOW + 9000)
    with serving(late) as server, pytest.raises(Conflict, match="clock is 2h late"):
        _ask_for_certificate(server.url, str(TOKEN), TOKEN, "box", state)


def test_nobody_there_is_told_with_the_address(tmp_path: Path) -> None:
    with pytest.raises(Unreachable, match="no server of miniorch answers at https://127"):
        _ask_for_certificate("https://127.0.0.1:1", str(TOKEN), TOKEN, "box", tmp_path)


def test_a_machine_of_this_cluster_has_joined_and_one_of_another_or_with_a_state_of_its_own_is_refused(
    tmp_path: Path,
) -> None:
    assert _joined_already(tmp_path, TOKEN) == ""
    identity(tmp_path, CLUSTER, NOW, "worker", "w1")
    assert _joined_already(tmp_path, TOKEN) == _joined_already(tmp_path, TOKEN, "w1") == "w1"
    with pytest.raises(Conflict, match="is w1 of another cluster") as refusal:
        _joined_already(tmp_path, replace(TOKEN, authority=digest_of_certificate(OTHER.certificate)))
    assert "miniorch down --all" in refusal.value.remedy
    for token, node in ((replace(TOKEN, role=Role.MANAGER), ""), (TOKEN, "w2")):
        with pytest.raises(Conflict, match="is the worker w1 of that cluster already"):
            _joined_already(tmp_path, token, node)
    identity(tmp_path, CLUSTER, NOW - 200_000, "worker", "w1")
    assert _joined_already(tmp_path, TOKEN) == ""  # its certificate has ended: its key gets another one
    assert (tmp_path / KEY_FILE).exists()
    assert not (tmp_path / CERTIFICATE_FILE).exists()
    (tmp_path / "alone").mkdir()
    (tmp_path / "alone/state.db").touch()
    with pytest.raises(Conflict, match="a cluster of its own"):
        _joined_already(tmp_path / "alone", TOKEN)


@pytest.mark.parametrize(
    ("place", "meant"),
    [
        ("192.0.2.1", "192.0.2.1:7440"), ("192.0.2.1:99", "192.0.2.1:99"), ("node1", "node1:7440"),
        ("https://node1:1/", "node1:1"), ("2001:db8::1", "[2001:db8::1]:7440"), ("[2001:db8::1]:9", "[2001:db8::1]:9"),
        ("[2001:db8::1]", "[2001:db8::1]:7440"),
    ],
)  # fmt: skip
def test_a_place_is_an_address_with_or_without_a_port(place: str, meant: str) -> None:
    assert _host_and_port(place) == meant


@pytest.mark.parametrize("place", ["", ":7440", "a:b", "a:0", "a:65536", "a:-1"])
def test_what_is_no_place_is_refused(place: str) -> None:
    with pytest.raises(UsageError):
        _host_and_port(place)


def test_times_have_a_unit_and_for_ever_must_be_said() -> None:
    assert [seconds_of(text) for text in ("90s", "2m", "24h", "7d", "0")] == [90, 120, 86400, 604800, 0]
    for text in ("", "h", "-1h", "1.5h", "24", "1w", "²h", "0x1h"):
        with pytest.raises(MiniorchError, match="is no time"):
            seconds_of(text)
