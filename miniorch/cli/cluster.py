"""`init`, `join`, `token`: how machines become one cluster.

The problem: the machine that joins must not tell a stranger the token, and must not trust one. The idea: the first
connection asks for the authority's certificate and says nothing; if that is not the one whose digest is in the token,
we hang up. Every connection after it is verified. The private key is made here and never leaves.

Each step can be repeated: the key is on the disk before it is used, the certificate comes last, and a machine that has
one has joined. Next file: `miniorch/api/joining.py`, the other side.
"""

import http.client
import json as jsonlib
import re
import socket
import ssl
import sys
from pathlib import Path
from typing import Any

from miniorch import identity, tokens
from miniorch.authority import own_key, write_private
from miniorch.certificates import digest_of_certificate, own_certificate, request_for
from miniorch.cli.output import Answer, ago, done, table
from miniorch.clock import SystemClock
from miniorch.contexts import transport_now
from miniorch.errors import Conflict, NotAllowed, Unreachable, UsageError, from_wire
from miniorch.identity import SERVER_PORT, has_identity
from miniorch.model import Role
from miniorch.transport import STATE_DIRECTORY, HttpTransport
from miniorch.up import Machine, need_root

CONNECT_SECONDS = 5.0
SKEW_SECONDS = 1800.0  # certificates begin an hour ago
UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


# --- init ------------------------------------------------------------------------------------------------------------


def init(advertise: str, pool: str, node: str, store: str, *, quiet: bool) -> Answer:
    need_root("let other machines join", "sudo miniorch init")
    state = Path(STATE_DIRECTORY)
    machine = Machine((lambda _: None) if quiet else print, node, pool, store)
    if machine.worker:
        raise Conflict("this machine is a worker of a cluster", remedy="miniorch init on a manager, or here after "
                       "miniorch down --all")  # fmt: skip
    address = advertise or (own_certificate(state).address if has_identity(state) else "") or _own_address()
    _must_have(address)
    if not (has_identity(state) and own_certificate(state).address == address):
        if machine.answers("server"):
            machine.ensure_up(("server",))  # refuses another store
        machine.down(("server", "agent"))  # they come back with a port that others reach; containers go on
        write_private(state / identity.ADVERTISE_FILE, f"{machine.node} {address}".encode())
    try:
        machine.ensure_up()
    except UsageError:  # of the store, say: the next `up` makes no manager of it
        (state / identity.ADVERTISE_FILE).unlink(missing_ok=True)
        raise
    items = machine.ask("GET", "/v1/join-tokens")["items"]
    token = next(one["token"] for one in items if one["role"] == "worker" and one["standing"])
    words = f"{machine.node} is a manager, reachable at {address}:{SERVER_PORT}. On each further machine:\n"
    words += f"\n  miniorch join --token {token} {address}\n"
    return done(words, outcome="initialised", node=machine.node, address=address, token=token)


def _own_address() -> str:
    """The address that this machine has towards the outside. Nothing is sent. Raises `UsageError`."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as wire:
        try:
            wire.connect(("192.0.2.1", 9))  # an address for documentation: only the way to it matters
            return str(wire.getsockname()[0])
        except OSError:
            raise UsageError(
                "this machine has no way out, so its address cannot be guessed",
                remedy="miniorch init --advertise ADDRESS; addresses: ip -brief address",
            ) from None


def _must_have(address: str) -> None:
    try:
        with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_STREAM) as wire:
            wire.bind((address, 0))
    except (OSError, UnicodeError):
        raise UsageError(
            f"this machine has no address {address}", remedy="miniorch init --advertise ADDRESS; ip -brief address"
        ) from None


# --- join ------------------------------------------------------------------------------------------------------------


def join(place: str, token: str, token_file: str, node: str, *, manager: bool, quiet: bool) -> Answer:
    began = SystemClock().monotonic()
    need_root("let this machine join", "sudo miniorch join")
    state = Path(STATE_DIRECTORY)
    text = _token(token, token_file)
    given = tokens.parse(text)
    if manager and given.role is not Role.MANAGER:
        raise NotAllowed("this is a worker's token, it makes no manager",
                         remedy="miniorch token show --role manager   (on a manager)")  # fmt: skip
    url = f"https://{_host_and_port(place)}"
    name = _joined_already(state, given, node)
    if not name:
        name = _ask_for_certificate(url, text, given, node, state)
    try:
        Machine((lambda _: None) if quiet else print, name).ensure_up()
    except Unreachable as error:
        raise Unreachable(f"{error.message}{_first_bad()}", remedy=error.remedy) from None
    seconds = SystemClock().monotonic() - began
    words = f"{name} has joined as {given.role.value} and is ready ({seconds:.1f} s)"
    facts = {"outcome": "joined", "node": name, "role": given.role.value, "seconds": round(seconds, 3)}
    return Answer(facts, words, "miniorch nodes   (on a manager)")


def _token(token: str, file: str) -> str:
    """From the option, a file, or standard input. A token in a command line is in the shell's history, too."""
    if bool(token) == bool(file):
        raise UsageError("join wants a token: --token or --token-file", remedy=tokens.SHOW)
    if token not in ("", "-"):
        return token
    try:
        return sys.stdin.read(1000) if token == "-" or file == "-" else Path(file).read_text()[:1000]
    except (OSError, ValueError) as error:
        raise UsageError(f"cannot read the token: {error}", remedy="miniorch join --token-file FILE ADDRESS") from None


def _host_and_port(place: str) -> str:
    host, colon, port = place.removeprefix("https://").rstrip("/").rpartition(":")
    if not colon or "]" in port or (":" in host.strip("[]") and not host.startswith("[")):  # no port, maybe IPv6
        host, port = place.removeprefix("https://").rstrip("/"), str(SERVER_PORT)
    host = host.strip("[]")
    if not host or not port.isdigit() or not 0 < int(port) < 65536:
        raise UsageError(f"{place[:60]} is not ADDRESS or ADDRESS:PORT", remedy=f"miniorch join ADDRESS:{SERVER_PORT}")
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _joined_already(state: Path, given: tokens.JoinToken, node: str = "") -> str:
    """The name under which this machine is in that cluster; "" if it is in none. Raises `Conflict`: in another, or not
    as it would be now.
    """
    leave = "miniorch down --all, then the same again: apps and state here are removed, volumes stay"
    if has_identity(state):
        own = own_certificate(state)
        if digest_of_certificate((state / identity.AUTHORITY_FILE).read_text()) == given.authority:
            if own.until > SystemClock().now():
                if (given.role.value, node or own.name) != (own.role, own.name):
                    raise Conflict(f"this machine is the {own.role} {own.name} of that cluster already", remedy=leave)
                return str(own.name)
            # It would be refused; the key gets a new one, and the name with it.
            (state / identity.CERTIFICATE_FILE).unlink()
            return ""
        raise Conflict(f"this machine is {own.name} of another cluster", remedy=leave)
    if (state / "state.db").exists() or (state / identity.AUTHORITY_KEY_FILE).exists():
        raise Conflict("this machine is a cluster of its own already", remedy=leave)
    return ""


def _ask_for_certificate(url: str, text: str, given: tokens.JoinToken, node: str, state: Path) -> str:
    """Join by the rules of this file's first lines; the name that the cluster has given."""
    shown = _authority_at(url)
    try:
        trusted = digest_of_certificate(shown["certificate"]) == given.authority
    except (ValueError, KeyError, TypeError, AttributeError):
        trusted = False
    if not trusted:
        message = f"{url} is not the cluster of this token: its authority is another one. Nothing was sent"
        raise NotAllowed(message, remedy="check the address; a token of that cluster: miniorch token show, there")
    skew = float(shown.get("now", 0.0)) - SystemClock().now()
    if abs(skew) > SKEW_SECONDS:
        late = "late" if skew > 0 else "early"
        raise Conflict(f"this machine's clock is {ago(abs(skew))} {late}, so certificates could not be checked",
                       remedy="timedatectl set-ntp true, or date --set")  # fmt: skip
    write_private(state / identity.AUTHORITY_FILE, shown["certificate"].encode())
    said = {
        "token": text.strip(), "request": request_for(own_key(state)), "name": node or socket.gethostname(),
        "exact": bool(node),
    }  # fmt: skip
    answer = HttpTransport(url, folder=state).request_now("POST", "/v1/join", said)
    servers = [url, *(one for one in answer["servers"] if one != url)]
    if "authority_key" in answer:  # a manager asks its own server, and can sign for others
        write_private(state / identity.AUTHORITY_KEY_FILE, answer["authority_key"].encode())
        (state / "store").write_text(answer["store"] + "\n")
    write_private(state / identity.SERVERS_FILE, ("\n".join(servers) + "\n").encode())
    write_private(state / identity.CERTIFICATE_FILE, answer["certificate"].encode())
    return str(answer["name"])


def _authority_at(url: str) -> Any:
    """What a server says its authority is, over a connection that proves nothing. Raises `Unreachable`."""
    unverified = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    unverified.check_hostname, unverified.verify_mode = False, ssl.CERT_NONE
    host, _, port = url.removeprefix("https://").rpartition(":")
    connection = http.client.HTTPSConnection(host.strip("[]"), int(port), timeout=CONNECT_SECONDS, context=unverified)
    try:
        connection.request("GET", "/v1/authority")
        response = connection.getresponse()
        data = jsonlib.loads(response.read(65536))
        if response.status >= 500:
            raise from_wire(data, response.status)
        if response.status >= 400:
            raise ValueError("something else answers there")
        return data if isinstance(data, dict) else {}
    except (OSError, http.client.HTTPException, ValueError) as error:
        why = getattr(error, "strerror", "") or str(error) or type(error).__name__
        raise Unreachable(
            f"no server of miniorch answers at {url} ({why})",
            remedy=f"on that machine: miniorch init; is port {port} open? miniorch join ADDRESS:PORT for another one",
        ) from None
    finally:
        connection.close()


def _first_bad() -> str:
    """Which check of `doctor` fails, as a further line."""
    from miniorch.cli.doctor import look

    bad = [f"doctor: {one.check} is {one.seen}, wanted: {one.wanted}; {one.mend}" for one in look()
           if one.state == "bad"]  # fmt: skip
    return "".join(f"\n  {line}" for line in bad[:3])


# --- tokens ----------------------------------------------------------------------------------------------------------


def show_tokens(role: str | None, *, quiet: bool) -> Answer:
    every = transport_now().request_now("GET", "/v1/join-tokens")["items"]
    items = [one for one in every if not role or one["role"] == role]
    standing = [one for one in items if one["standing"]]
    if quiet:
        return Answer(items, "\n".join(one["token"] for one in standing))
    words = [f"to join as {one['role']}:\n\n  miniorch join --token {one['token']} {_reach()}\n" for one in standing]
    now = SystemClock().now()
    rows = [{"TOKEN": one["id"], "ROLE": one["role"], "LEFT": _life(one["expires_at"], now)}
            for one in items if not one["standing"]]  # fmt: skip
    return Answer(items, "\n".join([*words, *[table(rows)] * bool(rows)]))


def rotate_token(role: str, *, quiet: bool) -> Answer:
    return _made(transport_now().request_now("POST", f"/v1/join-tokens/{role}/rotate"), "rotated", quiet=quiet)


def create_token(role: str, ttl: str, *, quiet: bool) -> Answer:
    said = {"role": role, "ttl_seconds": seconds_of(ttl)}
    return _made(transport_now().request_now("POST", "/v1/join-tokens", said), "created", quiet=quiet)


def revoke_token(token: str) -> Answer:
    transport_now().request_now("DELETE", f"/v1/join-tokens/{token}")
    return done(f"token {token} admits nobody any more", outcome="revoked", token=token)


def _made(one: Any, how: str, *, quiet: bool) -> Answer:
    facts = {**one, "outcome": how}
    if quiet:
        return Answer(facts, one["token"])
    note = f" ({_life(one['expires_at'], SystemClock().now())}; this is not shown again):"
    if one["standing"]:
        note = "; the token before it admits nobody any more, who has joined stays:"
    return Answer(facts, f"to join as {one['role']}{note}\n\n  miniorch join --token {one['token']} {_reach()}\n")


def _reach() -> str:
    """The address of a manager."""
    nodes = transport_now().request_now("GET", "/v1/nodes")["items"]
    return next((one["address"] for one in nodes if one["role"] == "manager" and one.get("address")), "ADDRESS")


def _life(until: float, now: float) -> str:
    return "for ever" if not until else f"{ago(until - now)} left" if until > now else "expired"


def seconds_of(text: str) -> float:
    """`90s`, `30m`, `24h`, `7d`, and `0` for ever. Raises `UsageError`."""
    found = re.fullmatch(r"0|(\d{1,12})([smhd])", text, re.A)
    if not found:
        raise UsageError(f"--ttl {text[:40]} is no time: 30m, 24h, 7d, or 0 for ever", remedy="--ttl 24h")
    return int(found[1] or 0) * UNITS[found[2] or "s"]
