"""The small loops that keep the rest honest: silent nodes, apps on their way out, a bounded history."""

from collections.abc import Iterable
from dataclasses import replace

from miniorch.controllers.cache import Cache
from miniorch.controllers.liveness import HEARTBEAT_SECONDS, SILENCE_SECONDS, Liveness
from miniorch.controllers.loop import Plan
from miniorch.model import (
    App,
    Endpoints,
    Event,
    Node,
    Release,
    Service,
    Volume,
)

EVENTS_KEPT = 1000
EVENTS_SLACK = 200  # erase in batches rather than one by one
RELEASES_KEPT = 10  # of each app


class Silence:
    """Marks a node that has stopped to send heartbeats. Keys are node names."""

    name = "nodes"

    def __init__(self, liveness: Liveness) -> None:
        self._liveness = liveness

    def keys(self, item: object, gone: bool) -> Iterable[str]:
        return (item.name,) if isinstance(item, Node) and not gone else ()

    def plan(self, key: str, cache: Cache, now: float) -> Plan:
        node = cache.nodes.get(key)
        if node is None:
            return Plan()
        silent = self._liveness.silent_for(key)
        if node.ready and silent >= SILENCE_SECONDS:
            message = f"no heartbeat for {silent:.0f} s"
            return Plan([cache.change(node, replace(node, ready=False, message=message), f"not ready: {message}")])
        return Plan(again_in_seconds=max(HEARTBEAT_SECONDS, SILENCE_SECONDS - silent) if node.ready else None)


class Removal:
    """Takes an app away once its services, and its volumes if so wished, are gone. Keys are app names."""

    name = "apps"

    def keys(self, item: object, gone: bool) -> Iterable[str]:
        match item:
            case App():
                return (item.name,)
            case Service() | Volume() | Endpoints():
                return (item.app,)
            case _:
                return ()

    def plan(self, key: str, cache: Cache, now: float) -> Plan:
        app = cache.apps.get(key)
        parts: list[Service | Endpoints] = [*cache.services.values(), *cache.endpoints.values()]
        if app is None or not app.removing or any(part.app == key for part in parts):
            return Plan()
        volumes = sorted((v for v in cache.volumes.values() if v.app == key), key=lambda volume: volume.name)
        if app.remove_volumes and volumes:
            fresh = [volume for volume in volumes if not volume.removing]
            return Plan(
                [cache.change(volume, replace(volume, removing=True), "its data is deleted") for volume in fresh]
            )
        return Plan([cache.erase(app, "removed"), *(cache.erase(one) for one in _releases(key, cache))])


class History:
    """Keeps the newest events, and the newest releases of each app. Keys are "*" and app names."""

    name = "history"

    def keys(self, item: object, gone: bool) -> Iterable[str]:
        match item:
            case Event() if not gone:
                return ("*",)
            case Release() if not gone:
                return (item.app,)
            case _:
                return ()

    def plan(self, key: str, cache: Cache, now: float) -> Plan:
        if key != "*":
            return Plan([cache.erase(one) for one in _releases(key, cache)[:-RELEASES_KEPT]])
        if len(cache.events) <= EVENTS_KEPT + EVENTS_SLACK:
            return Plan()
        oldest = sorted(cache.events)[: len(cache.events) - EVENTS_KEPT]
        return Plan([cache.erase(cache.events[identifier]) for identifier in oldest])


def _releases(app: str, cache: Cache) -> list[Release]:
    """Oldest first."""
    return sorted((one for one in cache.releases.values() if one.app == app), key=lambda one: one.number)
