"""The small loops that keep the rest honest: silent nodes, apps on their way out, a bounded history."""

from collections.abc import Iterable
from dataclasses import replace

from miniorch.controllers.cache import Cache
from miniorch.controllers.liveness import DOWN_BEATS, UNREACHABLE_BEATS, Liveness
from miniorch.controllers.loop import Plan
from miniorch.model import (
    App,
    Endpoints,
    Event,
    Leader,
    NodeState,
    Release,
    Service,
    Volume,
)
from miniorch.verdicts import DecisionRecord

SOON_SECONDS = 0.05  # the next float after a limit is not worth a look
EVENTS_KEPT = 1000
EVENTS_SLACK = 200  # erase in batches rather than one by one
RELEASES_KEPT = 10  # of each app
DECISIONS_KEPT = 20  # of each service


class Silence:
    """Marks nodes that have stopped to send heartbeats. Its one key looks at all of them."""

    name = "nodes"

    def __init__(self, liveness: Liveness) -> None:
        self._liveness = liveness

    def keys(self, item: object, gone: bool) -> Iterable[str]:
        return ("*",) if isinstance(item, Leader) else ()  # once in each term; from then on it calls itself

    def plan(self, key: str, cache: Cache, now: float) -> Plan:
        every = self._liveness.every(len(cache.nodes))
        limits = ((UNREACHABLE_BEATS * every, NodeState.UNREACHABLE), (DOWN_BEATS * every, NodeState.DOWN))
        writes, again = [], UNREACHABLE_BEATS * every
        for node in cache.nodes.values():
            silent = self._liveness.silent_for(node.name)
            state = node.state
            for limit, called in limits:
                if silent < limit:
                    again = min(again, limit - silent)
                    break
                if called.order > state.order:
                    state = called
            if state is not node.state:
                marked = replace(node, state=state, state_since=now)
                writes.append(cache.change(node, marked, f"{state.value}: no heartbeat for {silent:.1f} s"))
        return Plan(writes, max(again, SOON_SECONDS))


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
    """Keeps the newest events, the newest releases of each app, and the newest records of decisions of each service.
    Keys are "*", names of apps, and `app/service`.
    """

    name = "history"

    def keys(self, item: object, gone: bool) -> Iterable[str]:
        match item:
            case Event() if not gone:
                return ("*",)
            case Release() if not gone:
                return (item.app,)
            case DecisionRecord() if not gone:
                return (item.service_key,)
            case Service() if gone:
                return (item.key,)
            case _:
                return ()

    def plan(self, key: str, cache: Cache, now: float) -> Plan:
        if "/" in key:
            return Plan([cache.erase(one) for one in _too_many(key, cache)])
        if key != "*":
            return Plan([cache.erase(one) for one in _releases(key, cache)[:-RELEASES_KEPT]])
        if len(cache.events) <= EVENTS_KEPT + EVENTS_SLACK:
            return Plan()
        oldest = sorted(cache.events)[: len(cache.events) - EVENTS_KEPT]
        return Plan([cache.erase(cache.events[identifier]) for identifier in oldest])


def _too_many(key: str, cache: Cache) -> list[DecisionRecord]:
    """Records to erase, the oldest first; but those of tasks that still are where they were put outlive the others."""
    records = cache.decisions_of(key)
    if key not in cache.services:
        return records
    if len(records) <= DECISIONS_KEPT:
        return []

    def still_true(record: DecisionRecord) -> bool:
        return any(one in cache.tasks and cache.tasks[one].live for one in record.tasks)

    return sorted(records, key=still_true)[: len(records) - DECISIONS_KEPT]


def _releases(app: str, cache: Cache) -> list[Release]:
    """Oldest first."""
    return sorted((one for one in cache.releases.values() if one.app == app), key=lambda one: one.number)
