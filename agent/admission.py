"""Who may ask this agent: its machine, the managers; other nodes for images, and nobody else.

The problem: what an agent can do (run a command in any container) is worth more than what a server can, and no server
stands in front of its port. The idea: the same as there. The connection says who asks (`miniorch/listener.py`), and a
certificate counts only while the cluster lists its owner as a member, with this key. The list is followed like every
other; whoever drops out of it loses what is still open at once. Before the list has been heard, nobody is let in.

Who does this for real: the kubelet asks the API server about each request (webhook mode), and is deaf without it.
"""

from collections.abc import Callable, Mapping

from miniorch.client import Transport, mirror
from miniorch.errors import NotAllowed, Unreachable
from miniorch.identity import LOCAL, Caller
from miniorch.model import Member, Role

FOR_NODES = "/v1/images"


def only_local(caller: Caller, path: str) -> None:
    """The rule of a machine that is a cluster of its own. Raises `NotAllowed`."""
    if caller != LOCAL:
        raise NotAllowed("this agent answers on its own machine alone", remedy="miniorch join")


class Admission:
    """The rule of a machine among others. `follow` must run."""

    def __init__(self, hang_up: Callable[[str, str], None]) -> None:
        self._hang_up = hang_up  # ends what is open with a name, but with the key of a digest
        self._members: Mapping[str, Member] | None = None

    def __call__(self, caller: Caller, path: str) -> None:
        """Raises `NotAllowed`; `Unreachable` while it is not known yet who belongs to the cluster."""
        if caller == LOCAL:
            return
        if self._members is None:
            raise Unreachable("the agent has not heard yet who belongs to the cluster", remedy="run the command again")
        member = self._members.get(caller.name)
        known = member is not None and (member.role, member.key) == (caller.role, caller.key)
        mine = caller.role == Role.MANAGER or (caller.role == Role.WORKER and path.startswith(FOR_NODES))
        if not (known and mine):
            raise NotAllowed(
                f"{caller.name or 'nobody without a certificate'} may not ask an agent for {path}",
                remedy="miniorch, which asks a server",
            )

    async def follow(self, transport: Transport) -> None:
        """Keep the list of members current, for ever."""
        async for snapshot in mirror(transport, Member):
            before, self._members = self._members or {}, snapshot.items
            for name, member in before.items():
                now = snapshot.items.get(name)
                if now != member:
                    self._hang_up(name, now.key if now else "")
