"""Forget UDP flows that lead to a task which serves no more, and all that lead out of networks which are internal now.

The problem: connection tracking decides once per flow where a service address leads. TCP connections end with their
task. A UDP "flow" is only silence of less than some minutes, so a client that keeps asking would be sent to the removed
task for ever. The idea: after each change of who serves, look through the UDP flows and delete those to an address that
the service no longer has; the client's next packet is a new flow, and gets one of those that are left.
Rules, too, ask about the first packet alone: a container that may no longer speak to the outside is asked anew.

Who does this for real: kube-proxy. Next file: `netplugin/kernel.py`.
"""

import contextlib
import socket
from ipaddress import IPv4Address, IPv4Network

from pyroute2.netlink.exceptions import NetlinkError
from pyroute2.netlink.nfnetlink.nfctsocket import NFCTAttrTuple, NFCTSocket

from netplugin.isolation import internal
from netplugin.topology import Topology


def lost(before: Topology | None, now: Topology) -> list[str | None]:
    """Service addresses that lead to fewer tasks than before. Without a before it may be any: None."""
    if before is None:
        return [None]
    return [vip for vip, tasks in before.served.items() if not set(tasks) <= set(now.served.get(vip, ()))]


def stale(asked: str, answers: str, now: Topology) -> bool:
    """Whether a flow to the address `asked`, which `answers` answers, belongs to a service that `answers` has left."""
    return IPv4Address(asked) in IPv4Network(now.vip_pool) and answers not in now.served.get(asked, ())


def shut(before: Topology | None, now: Topology) -> list[str]:
    """This node's containers whose networks have all become internal. Without a before it may be any that is so."""
    was, members = before.doors.members if before else {}, now.doors.members
    inside = [address for address in now.doors.cables.values() if internal(members.get(address, ()))]
    return [one for one in inside if before is None or (one in was and not internal(was[one]))]


def forget(before: Topology | None, now: Topology) -> None:
    """conntrack -D -p udp --orig-dst VIP --reply-src TASK, and conntrack -D --orig-src CONTAINER to no pool."""
    inside, pools = shut(before, now), [IPv4Network(now.container_pool), IPv4Network(now.vip_pool)]
    looks = [NFCTAttrTuple(proto=socket.IPPROTO_UDP, daddr=vip) for vip in lost(before, now)]
    looks += [NFCTAttrTuple(saddr=address) for address in inside]
    if not looks:
        return
    with contextlib.suppress(NetlinkError, OSError), NFCTSocket() as flows:
        for wanted in looks:
            for flow in list(flows.dump(tuple_orig=wanted)):
                asked, answer = (
                    NFCTAttrTuple.from_netlink(socket.AF_INET, flow.get_attr(f"CTA_TUPLE_{way}"))
                    for way in ("ORIG", "REPLY")
                )
                out = asked.saddr in inside and not any(IPv4Address(asked.daddr) in pool for pool in pools)
                if out or (asked.proto == socket.IPPROTO_UDP and stale(asked.daddr, answer.saddr, now)):
                    with contextlib.suppress(NetlinkError):  # it has ended by itself
                        flows.entry("del", tuple_orig=asked)
