"""`doctor`: is this machine fit for miniorch? Each line: what was seen, what is wanted, the command that mends it.

Every check looks at one thing and cannot fail itself: what it cannot find out is a finding, too. A warning is what
miniorch can live with. What must be tried (a veth pair, NAT) is tried in a network namespace that vanishes at once.
Nothing on this machine is changed. The functions called `judge...` are pure, all others look.
"""

import contextlib
import json as jsonlib
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from miniorch.certificates import own_certificate
from miniorch.cli.output import Answer, ago, table
from miniorch.clock import SystemClock
from miniorch.errors import MiniorchError, NotAllowed
from miniorch.identity import check_certificate, has_identity
from miniorch.pool import DEFAULT_POOL, clashes, split_pool
from miniorch.transport import API_SOCKET, STATE_DIRECTORY, HttpTransport
from miniorch.up import Machine, docker_socket

LEAST_DOCKER = (20, 10)
LEAST_DISK_BYTES = 2 << 30
LEAST_LEFT_SECONDS = 9 * 86400.0  # of a certificate; one of 90 days is renewed when 18 are left, at the latest
BINARIES = {"haproxy": "haproxy", "nft": "nftables", "iptables": "iptables", "ip": "iproute2"}
COMMAND_SECONDS = 10


@dataclass(frozen=True, slots=True)
class Check:
    """One line. `state` is ok, warning or bad."""

    check: str
    state: str
    seen: str
    wanted: str
    mend: str = ""


def judged(check: str, fine: bool, seen: str, wanted: str, mend: str, otherwise: str = "bad") -> Check:
    return Check(check, "ok" if fine else otherwise, seen, wanted, "" if fine else mend)


def doctor() -> Answer:
    """All checks; the exit code is 0 when none is bad, else 1."""
    checks = list(look())
    rows = [{"CHECK": one.check, "STATE": one.state, "SEEN": one.seen, "WANTED": one.wanted * (one.state != "ok"),
             "MEND IT WITH": one.mend} for one in checks]  # fmt: skip
    return Answer(checks, table(rows), code=int(any(one.state == "bad" for one in checks)))


def look() -> Iterator[Check]:
    if not sys.platform.startswith("linux"):
        yield Check("system", "bad", sys.platform, "Linux", "use a Linux machine, real or virtual")
        return
    yield Check("system", "ok", f"Linux {os.uname().release}", "Linux")
    user = os.geteuid()
    yield judged("rights", user == 0, f"user {user}" if user else "root", "root", "put sudo before the command")
    for program, package in BINARIES.items():
        path = shutil.which(program)
        yield judged(program, bool(path), path or "missing", "installed", f"apt-get install {package}")
    for group in (_kernel, _docker, _network, _machine, _certificate, _processes):
        yield from group()


# --- the kernel ------------------------------------------------------------------------------------------------------


def _kernel() -> Iterator[Check]:
    veth = _tried("ip link add mo-a type veth peer name mo-b")
    yield judged("veth devices", not veth, veth or "work", "work", "modprobe veth")
    nat = _tried(
        "nft add table ip t && nft 'add chain ip t c { type nat hook postrouting priority 100 ; }'"
        " && nft add rule ip t c masquerade"
    )
    yield judged("nftables NAT", not nat, nat or "works", "works", "modprobe nf_tables nft_chain_nat nft_masq")
    hooked = "nft 'add table netdev t; add chain netdev t c { type filter hook ingress device lo priority 0 ; }"
    passed = "; add rule netdev t c fwd ip to 192.0.2.1 device lo"
    yield from judge_netdev(_tried(f"{hooked}'"), _tried(f"{hooked}{passed}'"))
    # Not bad: the net process switches it on, and sets the FORWARD policy to DROP with it, as Docker does.
    forward = Path("/proc/sys/net/ipv4/ip_forward").read_text().strip()
    yield Check("ip_forward", "ok", forward + ("" if forward == "1" else ", miniorch up switches it on"), "1")


def judge_netdev(hook: str, forward: str) -> Iterator[Check]:
    """What containers' packets meet first. Each argument is what nft said against it, "" for nothing."""
    mend = "a kernel with CONFIG_NETFILTER_INGRESS and CONFIG_NF_TABLES_NETDEV"
    yield judged("nftables ingress", not hook, hook or "works", "works", mend)
    seen = f"{forward}: slower, as packets between containers go through connection tracking" if forward else "works"
    if not hook:
        yield judged("nftables fwd", not forward, seen, "works", "modprobe nft_fwd_netdev", "warning")


def _tried(commands: str) -> str:
    """ "" if shell commands work in a network namespace of their own, else the first line of what they said."""
    return _command("unshare", "--net", "sh", "-c", commands)[1]


def _command(*arguments: str) -> tuple[str, str]:
    """Output, and the error in one line ("" for success)."""
    try:
        done = subprocess.run(arguments, capture_output=True, text=True, timeout=COMMAND_SECONDS)
    except (OSError, subprocess.TimeoutExpired) as error:
        return "", str(error)
    said = (done.stderr or done.stdout).strip().splitlines() or [f"exit code {done.returncode}"]
    return done.stdout, said[0] if done.returncode else ""


# --- Docker ----------------------------------------------------------------------------------------------------------


def _docker() -> Iterator[Check]:
    path = docker_socket()
    try:
        docker = HttpTransport(path, timeout_seconds=COMMAND_SECONDS)
        version, info = docker.request_now("GET", "/version"), docker.request_now("GET", "/info")
    except MiniorchError as error:
        seen = "no access" if error.exit_code == 6 else "does not answer"
        mend = "sudo" if error.exit_code == 6 else "systemctl start docker   (without systemd: dockerd &)"
        yield Check("Docker", "bad", f"{path} {seen}", "answers", mend)
        return
    yield from judge_docker(version, info)
    backend = (info.get("FirewallBackend") or {}).get("Driver") or "iptables"
    yield judge_firewall(backend, *_command("iptables", "-S"))


def judge_docker(version: Any, info: Any) -> Iterator[Check]:
    """Docker's version and settings. `version` and `info` are its own answers."""
    number = str(version.get("Version", "?"))
    parts = tuple(int(part) for part in re.findall(r"\d+", number)[:2])
    yield judged("Docker", parts >= LEAST_DOCKER, number, "20.10 or newer", "install a newer Docker Engine")
    live = bool(info.get("LiveRestoreEnabled"))
    mend = """echo '{"live-restore": true}' > /etc/docker/daemon.json; systemctl reload docker"""
    if os.path.exists("/etc/docker/daemon.json"):
        mend = """add "live-restore": true to /etc/docker/daemon.json; systemctl reload docker"""
    yield judged("live-restore", live, "on" if live else "off: containers end with dockerd", "on", mend, "warning")


def judge_firewall(backend: str, rules: str, error: str) -> Check:
    """Whether containers' packets can be let through. `rules` is the output of `iptables -S`."""
    if error:
        return Check("Docker's firewall", "warning", error, "iptables -S works", "apt-get install iptables")
    policy = re.search(r"^-P FORWARD (\w+)", rules, re.M)
    user = "-N DOCKER-USER" in rules
    seen = f"{backend}, FORWARD policy {policy[1] if policy else '?'}, {'' if user else 'no '}chain DOCKER-USER"
    if backend.startswith("nftables"):
        return Check("Docker's firewall", "warning", seen, "iptables", 'set "firewall-backend": "iptables"')
    return Check("Docker's firewall", "ok", seen, "rules of ours can be put before Docker's")


# --- the network -----------------------------------------------------------------------------------------------------


def _network() -> Iterator[Check]:
    pools: Sequence[str] = split_pool(DEFAULT_POOL)
    with contextlib.suppress(MiniorchError):
        known = HttpTransport(API_SOCKET, timeout_seconds=COMMAND_SECONDS).request_now("GET", "/v1/version")
        pools = [known[name] for name in ("container_pool", "vip_pool") if name in known] or pools
    output, error = _command("ip", "-j", "route")
    if error:
        yield Check("address pool", "warning", error, "ip -j route works", "apt-get install iproute2")
    else:
        yield judge_routes(pools, jsonlib.loads(output or "[]"))
    yield judge_dns_port([Path(f"/proc/net/{name}").read_text() for name in ("udp", "tcp")])
    ufw = Path("/etc/ufw/ufw.conf")
    active = ["ufw"] * bool(ufw.exists() and re.search(r"^ENABLED=yes", ufw.read_text(), re.M))
    active += ["firewalld"] * bool(shutil.which("firewall-cmd") and not _command("firewall-cmd", "--state")[1])
    seen = f"{' and '.join(active)} active" if active else "none active"
    mend = "let the pools through, e.g. ufw allow from 10.200.0.0/15"
    yield judged("firewall manager", not active, seen, "none, or one that lets the pools through", mend, "warning")


def judge_routes(pools: Sequence[str], routes: Sequence[Any]) -> Check:
    """Whether a network that this machine already knows lies in a pool. `routes` is what `ip -j route` prints."""
    taken = clashes(pools, routes)
    seen = f"clashes with {', '.join(taken)}" if taken else "clashes with no route"
    wanted = f"{' and '.join(pools)} unused here"
    return judged("address pool", not taken, seen, wanted, "miniorch up --pool 10.64.0.0/15 (first start)")


def judge_dns_port(tables: Sequence[str]) -> Check:
    """Port 53 of the node's pool address must be free. `tables` are /proc/net/udp and tcp (address:port in hex)."""
    held = any(re.search(r"^\s*\d+: 00000000:0035 \S+ (0A|07) ", text, re.M) for text in tables)
    seen = "a DNS server listens on all addresses" if held else "free"
    mend = "make it listen on its own addresses only; ss -lnup sport = :53 names it"
    return judged("port 53", not held, seen, "free on the pool's address", mend)


# --- the machine and its processes -----------------------------------------------------------------------------------


def _machine() -> Iterator[Check]:
    flags = re.search(r"^flags\s*:(.*)$", Path("/proc/cpuinfo").read_text(), re.M)
    avx = flags is None or "avx" in flags[1].split()
    there = "there" if avx else "missing"
    yield judged("AVX", avx, there, "for mongo 5 and newer", "--image db=mongo:4.4", "warning")
    folder = Path(STATE_DIRECTORY)
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    yield judged("disk", free >= LEAST_DISK_BYTES, f"{free / (1 << 30):.1f} GB free for {folder}", "2 GB", "df -h")


def _certificate() -> Iterator[Check]:
    folder = Path(STATE_DIRECTORY)
    if not has_identity(folder):
        return
    try:
        left = own_certificate(folder).until - SystemClock().now()
        check_certificate(folder)
    except PermissionError as error:
        yield Check("certificate", "warning", str(error), "readable", "put sudo before the command")
    except NotAllowed as error:
        yield Check("certificate", "bad", error.message, "good for weeks", error.remedy)
    else:
        mend = "date; miniorch up: the agent renews it, and says in its log why not"
        yield judged("certificate", left > LEAST_LEFT_SECONDS, f"ends in {ago(left)}", "weeks", mend, "warning")


def _processes() -> Iterator[Check]:
    machine = Machine(print)
    for process in machine.processes:
        try:
            there = machine.answers(process.name)
            if not there and process.name != "net" and (trouble := machine.trouble()):
                raise trouble
        except MiniorchError as error:
            yield Check(process.name, "warning", error.message, "answers", error.remedy)
            continue
        seen = "answers" if there else "does not run or is not ready"
        mend = f"miniorch up; log: {machine.log_of(process.name)}"
        yield judged(process.name, there, seen, "answers", mend, "warning")
