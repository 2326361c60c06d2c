"""Who waits for what: whom to look at when something has changed.

The problem: a hundred thousand tasks that fit nowhere, in a cluster in which something changes ten times a second. To
look at all of them each time is a busy loop; to look at none is a task that waits for ever. The idea: every rule says
which kinds of change could turn its no into a yes (`helped_by` in `scheduler/filters.py`), and every dependency names a
service. So a service that waits is entered under the kinds and names that it waits for, and only a change of such a
kind has it looked at.

This is memory, not truth: it is made by looking, and a server that begins to lead looks at everything once.

Who does this for real: kube-scheduler's queueing hints; Nomad's blocked evaluations, by class of node. Next file:
`miniorch/controllers/placement.py`.
"""

from collections.abc import Iterable


class Waiting:
    """Services with tasks that have no node, in the order in which they began to wait."""

    def __init__(self) -> None:
        self._why: dict[str, tuple[str, ...]] = {}
        self._on: dict[str, dict[str, None]] = {}
        self.behind: dict[str, None] = {}  # services whose tasks may tell reasons of the past

    def enter(self, service: str, why: Iterable[str]) -> None:
        """A service waits for changes of these kinds, or for these services."""
        known, self._why[service] = self._why.get(service, ()), tuple(why)
        for one in known:
            if one not in self._why[service]:
                del self._on[one][service]
        for one in self._why[service]:
            self._on.setdefault(one, {})[service] = None

    def add(self, service: str, why: Iterable[str]) -> None:
        """It waits for these, too."""
        self.enter(service, dict.fromkeys((*self._why.get(service, ()), *why)))

    def forget(self, service: str) -> None:
        """It waits no more."""
        for one in self._why.pop(service, ()):
            del self._on[one][service]
        self.behind.pop(service, None)

    def on(self, *what: str) -> list[str]:
        """The services that wait for any of these, each once."""
        found = [self._on[one] for one in what if self._on.get(one)]
        return list(dict.fromkeys(service for one in found for service in one)) if found else []

    def is_for(self, service: str, kind: str) -> bool:
        return kind in self._why.get(service, ())

    def __len__(self) -> int:
        return len(self._why)

    def __contains__(self, service: str) -> bool:
        return service in self._why
