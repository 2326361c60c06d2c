"""One node's loop: hear what is wanted, look at what is there, take each task's next step, report.

The problem: the server, the engine and this very process come and go, each at any moment. The idea: three pictures
(tasks and volumes as the server lists them, containers as the engine lists them, what the probes say), each replaced
whole whenever it may have changed, and one pure decision over them (`agent/reconcile.py`). Events only say "look
again"; a look every ten seconds makes up for all that were lost. Each task has at most one action under way.

Nothing in this file knows Docker, sockets or threads, and all order is repeatable: the simulation runs this class on
virtual time. `agent/main.py` gives it the real things. Next file: `agent/execute.py`.
"""

import asyncio
import logging
import random
from collections.abc import Callable, Coroutine
from dataclasses import KW_ONLY, dataclass
from functools import partial
from typing import Any, TypeVar

from agent.actions import Abandon, Action, Conclude, Create, FetchImage, Probe, Report, Start, Stop
from agent.contact import Contact
from agent.engine import Container, Engine
from agent.execute import Executor
from agent.files import Files
from agent.ingress import Ingress
from agent.peers import Peers
from agent.probes import Probes
from agent.reconcile import Known, plan
from agent.report import Reporter
from agent.stock import Stock
from agent.volumes import to_remove
from miniorch.client import RECONNECT_SECONDS, Snapshot, Transport, mirror
from miniorch.clock import Clock
from miniorch.codec import from_plain
from miniorch.ending import ended
from miniorch.errors import EngineError, MiniorchError, NotFound
from miniorch.model import Endpoints, Node, Task, Volume

log = logging.getLogger("agent")

LOOK_SECONDS = 10.0  # look again, whether or not anything happened
TRAFFIC_SECONDS = 5.0  # published ports are looked at again
ENGINE_RETRY_SECONDS = 1.0
EVENT_PAUSE_SECONDS = 0.1  # a burst of engine events is one look
MAKING_AT_ONCE = 8  # more only makes each one slower
BACKOFF_LIMIT_SECONDS = 10.0
T = TypeVar("T")
Work = Callable[[], Coroutine[Any, Any, None]]


@dataclass(eq=False)
class Agent:
    """The agent of one node. `run` it; cancelling that is like killing it: containers stay as they are."""

    _transport: Transport
    _engine: Engine
    _ingress: Ingress
    _name: str  # the node's
    _clock: Clock
    _chance: random.Random
    _files: Files
    _: KW_ONLY
    avx: bool = True
    beats: Transport | None = None  # a transport for heartbeats that gives up sooner than others
    address: str = ""
    peers: Peers | None = None

    def __post_init__(self) -> None:
        self._stock = Stock(self._engine)
        beats = self.beats or self._transport
        self._contact = Contact(beats, self._name, self._ingress, self._stock, self._clock, self._chance)
        self._tasks: dict[str, Task] | None = None  # None: never heard
        self._volumes: dict[str, Volume] = {}
        self._endpoints: Snapshot[Endpoints] | None = None
        self._published: list[Endpoints] = []  # those that have ports on every node
        self._endpoints_changed = asyncio.Event()
        self._reporter = Reporter(self._transport, self._name, self._clock)
        self._probes = Probes(self._engine, self._clock, self._look)
        self._executor = Executor(
            self._engine, self._files, self._reporter, self._clock,
            self._current_tasks, self._current_endpoints, self.peers,
        )  # fmt: skip
        self._wake = asyncio.Event()
        self._stale = True  # the picture of the containers may be wrong
        self._listed = False
        self._engine_trouble = ""
        self._lists = 0
        self._workers: dict[str, asyncio.Task[None]] = {}
        self._doing: dict[str, str] = {}  # key -> name of its action
        self._settling: dict[str, int] = {}  # key -> number of the list that will show what its action did
        self._attempts: dict[str, int] = {}
        self._retry_at: dict[str, float] = {}
        self._said: dict[str, str] = {}  # which trouble -> what was last logged of it

    async def run(self) -> None:
        """Run until cancelled."""
        loops: list[Work] = [
            self._reporter.run,
            self._heartbeat,
            self._watch_engine,
            lambda: self._follow(Task, f"node={self._name}", self._heard_tasks),
            lambda: self._follow(Volume, f"node={self._name}", self._heard_volumes),
            lambda: self._follow(Endpoints, f"node={self._name}&outside=1", self._heard_endpoints),
            self._direct_traffic,
            self._stock.run,
            self._work,
        ]
        if self.peers is not None:
            loops.append(lambda: self._follow(Node, "", self._heard_nodes))
        running: list[asyncio.Task[None]] = []
        try:
            await self._register_until_done()
            running += [asyncio.create_task(loop(), name=f"agent {number}") for number, loop in enumerate(loops)]
            done, _ = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
            for one in done:
                one.result()
        finally:
            running += self._workers.values()
            for task in running:
                task.cancel()
            await self._probes.close()
            await ended(*running)

    def container_of(self, task: str) -> Container | None:
        """The container of a task as last seen."""
        return next((one for one in self._executor.containers.values() if one.task == task), None)

    # ---- hearing ----

    async def _register_until_done(self) -> None:
        while True:
            try:
                await self._register()
                return self._complain("cannot register", "")
            except MiniorchError as error:
                self._complain("cannot register", f"{error.message}; trying again")
                await asyncio.sleep(RECONNECT_SECONDS)

    async def _register(self) -> None:
        info = await self._engine.info()
        body = {"capacity": info.capacity, "engine": info.name, "avx": self.avx, "platform": info.platform}
        body |= {"address": self.address, "labels": info.labels, "images": await self._stock.look()}
        node = from_plain(Node, await self._transport.request("POST", f"/v1/nodes/{self._name}/register", body))
        await self._engine.use_network(node.subnet)
        self._executor.node = node
        log.info("node %s registered: %s, subnet %s", node.name, info.name, node.subnet)

    async def _heartbeat(self) -> None:
        while True:
            began = self._clock.monotonic()
            try:
                pause = await self._contact.beat(self._engine_trouble)
                self._complain("no heartbeat", "")
            except MiniorchError as error:
                pause = self._contact.pause(self._clock.monotonic() - began)
                if isinstance(error, NotFound):
                    await self._register_until_done()
                else:
                    self._complain("no heartbeat", error.message)
            await asyncio.sleep(pause)

    async def _follow(self, kind: type[T], query: str, heard: Callable[[Snapshot[T]], None]) -> None:
        async for snapshot in mirror(self._transport, kind, query):
            heard(snapshot)

    def _heard_tasks(self, snapshot: Snapshot[Task]) -> None:
        self._tasks = snapshot.items
        self._look()

    def _heard_volumes(self, snapshot: Snapshot[Volume]) -> None:
        self._volumes = snapshot.items
        self._look()

    def _heard_endpoints(self, snapshot: Snapshot[Endpoints]) -> None:
        published = [one for one in snapshot.items.values() if one.ports]
        if self._endpoints is None or published != self._published:
            self._endpoints_changed.set()
        if self._endpoints is None:  # later ones change no decision about tasks
            self._look()
        self._endpoints, self._published = snapshot, published

    def _heard_nodes(self, snapshot: Snapshot[Node]) -> None:
        assert self.peers is not None
        self.peers.nodes = list(snapshot.items.values())

    async def _watch_engine(self) -> None:
        """Engine events make us look at once. While they cannot be had, we look every `ENGINE_RETRY_SECONDS`."""
        while True:
            try:
                async for _ in self._engine.changes():
                    self._look(stale=True)
                    await asyncio.sleep(EVENT_PAUSE_SECONDS)
            except EngineError:
                pass  # `_list` says it
            self._look(stale=True)
            await asyncio.sleep(ENGINE_RETRY_SECONDS)

    async def _direct_traffic(self) -> None:
        """Published ports follow the endpoints; the server hears which revision they follow."""
        told: list[Endpoints] = []  # what was drained when the server heard of it
        while True:
            self._endpoints_changed.clear()
            try:
                if (known := self._endpoints) is not None:
                    draining = [one for one in self._published if one.draining]
                    await self._ingress.apply(self._published)
                    if draining and draining != told:
                        body = {"component": "agent", "revision": known.revision}
                        await self._transport.request("POST", f"/v1/nodes/{self._name}/applied", body)
                    told = draining
                    if await self._contact.has_news():
                        await self._contact.beat(self._engine_trouble)
                self._complain("published ports", "")
            except MiniorchError as error:
                self._complain("published ports", error.message)
            told = told if await _wait(self._endpoints_changed, TRAFFIC_SECONDS) else []  # there may be another leader

    def _complain(self, about: str, message: str) -> None:
        """Log a lasting trouble once, not once a second; without a message it is over."""
        if message and message != self._said.get(about):
            log.warning("%s: %s", about, message)
        self._said[about] = message

    # ---- deciding ----

    def _current_tasks(self) -> list[Task]:
        return [self._reporter.newest(task) for task in (self._tasks or {}).values()]

    def _current_endpoints(self) -> list[Endpoints]:
        return list(self._endpoints.items.values()) if self._endpoints else []

    def _look(self, stale: bool = False) -> None:
        self._stale = self._stale or stale
        self._wake.set()

    async def _work(self) -> None:
        while True:
            self._wake.clear()
            self._reporter.compare((self._tasks or {}).values())
            if self._stale:
                await self._list()
            pause = ENGINE_RETRY_SECONDS if self._engine_trouble else LOOK_SECONDS
            if not self._engine_trouble and self._listed and self._tasks is not None and self._endpoints is not None:
                pause = self._act()
            if not await _wait(self._wake, pause):
                self._stale = True

    async def _list(self) -> None:
        """Look at the containers. A task whose action ended meanwhile keeps what that action left."""
        self._stale = False
        self._lists += 1
        number, before = self._lists, set(self._workers)
        try:
            found = {one.id: one for one in await self._engine.containers()}
        except EngineError as error:
            self._stale = True
            self._say_trouble(error.message)
            return
        self._say_trouble("")
        self._listed = True
        containers = self._executor.containers
        unsure = before | set(self._workers) | {key for key, due in self._settling.items() if due > number}
        for old in [one for one in containers.values() if one.id not in found]:
            if old.task not in unsure and old.id not in unsure:
                self._executor.forget(old)
        for one in found.values():
            if one.task not in unsure and one.id not in unsure:
                containers[one.id] = one
        self._settling = {key: due for key, due in self._settling.items() if due > number}
        self._stale = self._stale or bool(before - set(self._workers)) or bool(self._settling)

    def _say_trouble(self, message: str) -> None:
        if message != self._engine_trouble:
            log.warning("%s", message or "the engine answers again")
        self._engine_trouble = message

    def _act(self) -> float:
        """Take every step that can be taken; returns the seconds until something is due again."""
        tasks, listed = self._current_tasks(), self._tasks or {}
        containers = list(self._executor.containers.values())
        now = self._clock.monotonic()
        running = {one.task for one in containers if one.running}
        self._probes.keep_only({task.id for task in tasks if task.live and task.id in running})
        for gone in sorted(self._executor.images.keys() - {task.id for task in tasks}):
            del self._executor.images[gone]
        known = Known(
            busy={**dict.fromkeys(self._settling, "settling"), **self._doing},
            retry_at=self._retry_at,
            attempts=self._attempts,
            images=self._executor.images,
            health=self._probes.health,
            avx=self.avx,
            alone_seconds=self._contact.alone_seconds(),
            unheard={task.id for task in tasks if task.status.health != listed[task.id].status.health},
        )
        for action in plan(tasks, containers, known, now):
            self._begin(action)
        for volume in to_remove(sorted(self._volumes.values(), key=lambda one: one.key), tasks, containers):
            self._begin_removing(volume)
        due = [at - now for at in self._retry_at.values() if at > now]
        due += [left for task in tasks if (left := task.spec.stop_after_seconds - known.alone_seconds) > 0]
        return min([LOOK_SECONDS, *due])

    # ---- acting ----

    def _begin(self, action: Action) -> None:
        match action:
            case Report(task, status):
                log.info("%s", action.describe())
                if self._reporter.put(task, status):
                    self._wake.set()  # the next step may be due already
            case Abandon(key):
                if key in self._workers and not self._workers[key].cancelling():
                    log.info("%s", action.describe())
                    self._workers[key].cancel()
            case Probe(task, container):
                self._probes.begin(task, container)
            case FetchImage() | Create() | Start():
                making = (FetchImage.__name__, Create.__name__, Start.__name__)
                if sum(kind in making for kind in self._doing.values()) < MAKING_AT_ONCE:
                    self._begin_work(action.key, action, partial(self._executor.do, action))
            case _:
                self._begin_work(action.key, action, partial(self._executor.do, action))

    def _begin_removing(self, volume: Volume) -> None:
        key = f"volume {volume.key}"
        if key in self._workers or self._retry_at.get(key, 0.0) > self._clock.monotonic():
            return

        async def remove() -> None:
            await self._executor.remove_volume(volume)
            await self._transport.request("POST", f"/v1/nodes/{self._name}/volumes-removed", [volume.key])

        self._begin_work(key, None, remove)

    def _begin_work(self, key: str, action: Action | None, work: Work) -> None:
        if action is not None:
            log.info("%s", action.describe())
        self._doing[key] = type(action).__name__
        worker = self._workers[key] = asyncio.create_task(self._worker(key, action, work), name=key)
        worker.add_done_callback(lambda _: self._ended(key, action))

    async def _worker(self, key: str, action: Action | None, work: Work) -> None:
        try:
            await work()
            self._attempts.pop(key, None)
            self._retry_at.pop(key, None)
        except MiniorchError as error:
            known = error if isinstance(error, EngineError) else EngineError(error.message, temporary=True)
            self._failed(key, action, known)
        except OSError as error:
            self._failed(key, action, EngineError(f"the machine's file system said: {error}", temporary=True))
        except Exception:  # a bug with one task must not stop the others
            log.exception("%s", action.describe() if action else key)
            self._failed(key, action, EngineError("the agent has failed, see its log", temporary=True))

    def _ended(self, key: str, action: Action | None) -> None:
        """Called for every worker, also for one that was given up before its first step."""
        self._workers.pop(key, None)
        self._doing.pop(key, None)
        if isinstance(action, Stop):
            self._settling[key] = self._lists + 1  # only a list that begins from now on shows how it ended
        self._look(stale=not isinstance(action, FetchImage | Create | Start | Conclude))
        if isinstance(action, FetchImage):
            self._stock.has_changed()

    def _failed(self, key: str, action: Action | None, error: EngineError) -> None:
        log.warning("%s: %s", action.describe() if action else key, error.message)
        self._stale = True
        if action is not None and self._executor.failed(action, error):
            self._attempts.pop(key, None)
            self._retry_at.pop(key, None)
            return
        attempt = self._attempts[key] = self._attempts.get(key, 0) + 1
        pause = min(0.5 * 2 ** (attempt - 1), BACKOFF_LIMIT_SECONDS) * (0.75 + self._chance.random() / 2)
        self._retry_at[key] = self._clock.monotonic() + pause


async def _wait(event: asyncio.Event, seconds: float) -> bool:
    """Whether it came in time. Not `wait_for`: in Python 3.11 that forgets a cancellation that comes with the event."""
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        return False
    return True
