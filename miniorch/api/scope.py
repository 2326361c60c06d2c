"""Which endpoints a node hears of: those of the apps that have a task there, and those with published ports.

The problem: whoever has stolen a node must not learn of apps that it does not run, and no node needs ten thousand
services to serve ten. But what a node may see changes without any change of an endpoint: when it gets its first task of
an app, it wants the addresses of all that app's services at once. The idea: a watch that has begun with one set of apps
ends when the set is another, as if its revision had been compacted, and its reader lists again; `mirror` does that
anyway. The set is taken from the server's copy of the store, which tells of each change with its revision.

A node has two readers. Its net process sends packets to every task; its agent does so for published ports alone, and of
other services wants the address, which stays. So the agent's watch leaves out what it would not look at.

Who does this for real: Kubernetes' node authorizer, for Secrets, with a graph of who refers to what. Next file:
`miniorch/api/watch.py`.
"""

from collections.abc import Callable
from dataclasses import dataclass

from miniorch.controllers.cache import Cache
from miniorch.errors import Compacted
from miniorch.model import Endpoints, Task


class Scopes:
    """The apps of each node, and since when (a revision) it is these."""

    def __init__(self, cache: Cache, over: Callable[["Shown", Compacted], None]) -> None:
        self._cache = cache
        self._over = over  # ends the watches of a node
        self.apps: dict[str, dict[str, None]] = {}
        self._since: dict[str, int] = {}

    def changed(self, task: Task, gone: bool) -> None:
        """The copy of the store has a task in another state, or has it no more."""
        apps = self.apps.setdefault(task.node, {})
        if gone and all(other.app != task.app for other in self._cache.tasks_on(task.node)):
            apps.pop(task.app, None)
        elif not gone and task.app not in apps:
            apps[task.app] = None
        else:
            return
        self._since[task.node] = self._cache.changing
        self._over(Shown(self, task.node), Compacted(f"{task.node} has tasks of other apps now: list again"))

    async def check(self, node: str, revision: int) -> None:
        """Raises `Compacted` if what was listed for a node at a revision is no longer what it may see."""
        await self._cache.reached(revision)
        if self._since.get(node, 0) > revision:
            raise Compacted(f"{node} has tasks of other apps than at revision {revision}: list again")


@dataclass(frozen=True, slots=True)
class Shown:
    """Whether a node sees an object. Equal for all watches of a node."""

    scopes: Scopes
    node: str

    def __call__(self, item: object) -> bool:
        return isinstance(item, Endpoints) and (bool(item.ports) or item.app in self.scopes.apps.get(self.node, {}))


def same_outside(old: object, new: object) -> bool:
    """Whether two endpoints of a service differ only for those who reach its tasks from inside the cluster."""
    assert isinstance(old, Endpoints)
    assert isinstance(new, Endpoints)
    return not (old.ports or new.ports) and old.vip == new.vip
