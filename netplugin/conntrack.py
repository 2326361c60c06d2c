"""Forget UDP flows that lead to a task which serves no more.

The problem: connection tracking decides once per flow where a service address leads. TCP connections end with their
task. A UDP "flow" is only silence of less than some minutes, so a client that keeps asking would be sent to the removed
task for ever. The idea: after each change of who serves, look through the UDP flows and delete those to an address that
the service no longer has; the client's next packet is a new flow, and gets one of those that are left.

Who does this for real: kube-proxy. Next file: `netplugin/kernel.py`.
"""

import contextlib
import socket
from ipaddress import IPv4Address, IPv4Network

from pyroute2.netlink.exceptions import NetlinkError
from pyroute2.netlink.nfnetlink.nfctsocket import NFCTAttrTuple, NFCTSocket

from netplugin.topology import Topology


def lost(before: Topology | None, now: Topology) -> list[str | None]:
    """Service addresses that lead to fewer tasks than before. Without a before it may be any: None."""
    if before is None:
        return [None]
    return [vip for vip, tasks in before.served.items() if not set(tasks) <= set(now.served.get(vip, ()))]


def stale(asked: str, answers: str, now: Topology) -> bool:
    """Whether a flow to the address `asked`, which `answers` answers, belongs to a service that `answers` has left."""
    return IPv4Address(asked) in IPv4Network(now.vip_pool) and answers not in now.served.get(asked, ())


def forget_udp(before: Topology | None, now: Topology) -> None:
    """conntrack -D -p udp --orig-dst VIP --reply-src TASK, for each such flow."""
    vips = lost(before, now)
    if not vips:
        return
    with contextlib.suppress(NetlinkError, OSError), NFCTSocket() as flows:
        for vip in vips:
            wanted = NFCTAttrTuple(proto=socket.IPPROTO_UDP, daddr=vip)
            for flow in list(flows.dump(tuple_orig=wanted)):
                asked, answer = (
                    NFCTAttrTuple.from_netlink(socket.AF_INET, flow.get_attr(f"CTA_TUPLE_{way}"))
                    for way in ("ORIG", "REPLY")
                )
                if asked.proto == socket.IPPROTO_UDP and stale(asked.daddr, answer.saddr, now):
                    flows.entry("del", tuple_orig=asked)
