"""A day in the life of a cluster: an app is deployed, things break, everything is mended, a quiet time follows.

After the quiet time the cluster must be exactly as wanted (`AT_REST` in `invariants.py`). `chaos.py` says what there
is to break, `world.py` obeys; between the two stands `_orders`: how each kind of fault begins and how it ends.

Who does this for real: the workloads of FoundationDB's simulator. Next file: `command.py`.
"""

import asyncio
import contextlib
import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import cycle
from typing import Any

from miniorch.codec import to_plain
from miniorch.ending import ended
from miniorch.errors import Conflict, NotFound
from miniorch.model import Availability
from miniorch.simulation.chaos import JOBS, USERS, Fault
from miniorch.simulation.engine import Behaviour, FakeEngine
from miniorch.simulation.loop import salt
from miniorch.simulation.network import BAD, POOR
from miniorch.simulation.store import FINE, PARTY, ROUGH
from miniorch.simulation.world import World
from miniorch.spec import (
    AppSpec,
    Build,
    Condition,
    Constraint,
    HealthCheck,
    Mount,
    Placement,
    Port,
    Resources,
    Restart,
    RestartPolicy,
    ServiceSpec,
    TaskSpec,
)

APP, FLEET = "dockchat", "fleet"
Order = Callable[[], Any]  # what it returns is awaited, if anything
FLEET_REPLICAS = 500  # of each service of the fleet


def dockchat(replicas: int = 2, port: int = 5000) -> AppSpec:
    """The example app: a database with a volume and a health check, and a web service that waits for it."""
    check = HealthCheck(("true",), interval_seconds=2.0, timeout_seconds=2.0, retries=3, start_period_seconds=10.0)
    small = Resources(0.25, 64 << 20)
    data = Mount("data", "/data/db")
    db = TaskSpec("mongo:7", mounts=(data,), healthcheck=check, reserved=small, stop_grace_seconds=5.0)
    web = TaskSpec(
        "dockchat-web",
        Build("/dockchat", "sha256:0"),
        environment={"VERSION": "1"},
        healthcheck=check,
        reserved=small,
        stop_grace_seconds=5.0,
    )
    return AppSpec(
        {"db": ServiceSpec(db), "web": ServiceSpec(web, replicas, (Port(port, 5000),), {"db": Condition.HEALTHY})},
        ("data",),
    )


def with_jobs(app: AppSpec, chance: random.Random) -> AppSpec:
    """The same with a job that web waits for, tried until it succeeds, and one of two slots that may be given up.

    Every other time web is stopped where no server answers.
    """
    setup = ServiceSpec(TaskSpec("setup"), restart=RestartPolicy(Restart.ON_FAILURE, delay_seconds=1.0))
    policy = RestartPolicy(chance.choice(list(Restart)), max_attempts=chance.randint(1, 3))
    report = ServiceSpec(TaskSpec("report"), 2, restart=policy)
    web = app.services["web"]
    task = replace(web.task, stop_after_seconds=chance.choice((0.0, 8.0)))
    web = replace(web, task=task, depends_on={**web.depends_on, "setup": Condition.COMPLETED})
    return replace(app, services={**app.services, "web": web, "setup": setup, "report": report})


RULES = (  # for the places of web: its copies apart, or by labels that come and go
    Placement(),
    Placement(max_per_node=2, spread=("node.labels.zone",)),
    Placement((Constraint("service", "!=", ("web",)),)),
    Placement((Constraint("node.labels.zone", "in", ("a", "b")),)),
)


def with_rules(app: AppSpec, chance: random.Random) -> AppSpec:
    """The same with rules for where web may run, every other time."""
    rules = chance.choice((RULES[0], chance.choice(RULES[1:])))
    return replace(app, services={**app.services, "web": replace(app.services["web"], placement=rules)})


def fleet(tasks: int) -> AppSpec:
    """Many plain tasks, in services of `FLEET_REPLICAS`."""
    full, rest = divmod(tasks, FLEET_REPLICAS)
    sizes = [FLEET_REPLICAS] * full + [rest] * (rest > 0)
    return AppSpec({f"s{number}": ServiceSpec(TaskSpec("fleet"), size) for number, size in enumerate(sizes, 1)})


def nothing() -> None:
    """The end of a fault that is over at once."""


def first_then(owner: object, name: str, bad: object, good: object) -> tuple[Order, Order]:
    return lambda: setattr(owner, name, bad), lambda: setattr(owner, name, good)


class Day:
    """Deploy, break, mend, rest."""

    def __init__(
        self, world: World, faults: Sequence[Fault], trouble_seconds: float, quiet_seconds: float, tasks: int = 0
    ) -> None:
        self.world = world
        self.faults = faults
        self.trouble_seconds = trouble_seconds
        self.quiet_seconds = quiet_seconds
        self.tasks = tasks
        self.wanted = with_rules(with_jobs(dockchat(), world.chance("jobs")), world.chance("rules"))

    async def live(self) -> None:
        world, loop = self.world, asyncio.get_running_loop()
        for machine in world.machines.values():
            machine.engine.behave("mongo:7", Behaviour(pull_seconds=4.0, healthy_after_seconds=3.0))
            machine.engine.behave("dockchat-web", Behaviour(pull_seconds=6.0, healthy_after_seconds=0.5))
        for job in JOBS:
            self._let_end(job, exit_code=0)
        async with asyncio.timeout(self.trouble_seconds + 600):
            happening = [asyncio.ensure_future(self._apply())]
            happening += [asyncio.ensure_future(self._label(*pair)) for pair in zip(world.nodes, cycle("abc"))]
            if self.tasks:
                plain = to_plain(fleet(self.tasks))
                happening.append(asyncio.ensure_future(world.ask("PUT", f"/v1/apps/{FLEET}", plain)))
            for fault in self.faults:  # nothing is there of a fault before it begins
                loop.call_at(loop.time() + fault.at, self._begin, fault, happening)
            await asyncio.sleep(self.trouble_seconds)
            world.mend()
            await ended(*happening)
            for one in happening:
                one.result()  # raises what it raised
            world.mend()
            await self._say_again()
        await asyncio.sleep(self.quiet_seconds)

    async def _say_again(self) -> None:
        """The user's last word. A removal may have been it, or been forgotten by a store that was restored; and a drain
        that was asked twice, for want of an answer, may have been carried out late.
        """
        await self._apply()
        for node in self.world.picture().nodes.values():
            if node.availability is Availability.DRAIN:
                await self._change_node(node.name, {"availability": "active"})

    def _begin(self, fault: Fault, happening: list[asyncio.Task[None]]) -> None:
        happening.append(asyncio.ensure_future(self._happen(fault)))

    async def _happen(self, fault: Fault) -> None:
        what = fault.describe().partition(": ")[2]
        self.world.note(what)
        if fault.kind in USERS:
            await self._use(fault)
            return
        begin, end = self._orders(fault)
        for order in (begin, end):
            done = order()
            if done is not None:
                await done
            if order is begin:
                await asyncio.sleep(fault.seconds)
        if fault.seconds:
            self.world.note(f"{what} is over")

    async def _use(self, fault: Fault) -> None:
        """What a user does."""
        web = self.wanted.services["web"]
        match fault.kind:
            case "scale":
                await self._change(web=replace(web, replicas=int(fault.target)))
            case "change":
                await self._change(web=replace(web, task=replace(web.task, environment={"VERSION": fault.target})))
            case "restart":
                with contextlib.suppress(NotFound, Conflict):  # it is not there yet, or is being removed
                    await self.world.ask("POST", f"/v1/services/{APP}/{fault.target}/restart")
            case "label":
                zone = "abc"[int(fault.at) % 3]
                await self._change_node(fault.target, {"labels": {"since": f"{fault.at:g}", "zone": zone}})
            case "drain":
                await self._change_node(fault.target, {"availability": "drain"})
                await asyncio.sleep(fault.seconds)
                await self._change_node(fault.target, {"availability": "active"})
            case "remove":
                with contextlib.suppress(NotFound):
                    await self.world.ask("DELETE", f"/v1/apps/{APP}?volumes=1")
                await asyncio.sleep(fault.seconds)
                await self._apply()

    def _orders(self, fault: Fault) -> tuple[Order, Order]:
        """How a fault begins and how it ends."""
        world, wire, store, target = self.world, self.world.wire, self.world.store, fault.target
        words = target.split()
        if fault.kind == "partition" and target in world.machines:
            return lambda: world.cut(target, True), lambda: world.cut(target, False)
        orders: dict[str, tuple[Order, Order]] = {
            "crash": (lambda: world.crash(target), lambda: world.restart(target)),
            "power": (lambda: world.power_off(target), lambda: world.power_on(target)),
            "loss": (lambda: world.power_off(target), lambda: self._replace_node(target)),
            "pause": (lambda: world.pause(target), lambda: world.go_on(target)),
            "partition": (lambda: world.part(*words), lambda: world.join(*words)),
            "oneway": (lambda: wire.block(*words), lambda: wire.unblock(*words)),
            "reset": (lambda: wire.reset(*words), nothing),
            "clock": (lambda: world.clocks[words[0]].jump(float(words[1])), nothing),
            "drift": (lambda: world.clocks[words[0]].drift(float(words[1])), nothing),
            "weather": first_then(wire, "weather", BAD, POOR),
            "rough": first_then(store, "weather", ROUGH, FINE),
            "full": first_then(store, "full", True, False),
            "freeze": (store.freeze, store.thaw),
            "elect": (store.change_leader, nothing),
            "compact": (lambda: wire.block(PARTY, target), lambda: self._compact(target)),
            "restore": (store.keep, store.restore),
            "fail": (lambda: self._let_end(target, exit_code=1), lambda: self._let_end(target, exit_code=0)),
            "pull": (lambda: self._registry(target, "no such image"), lambda: self._registry(target, "")),
        }
        return orders.get(fault.kind) or self._engine_orders(world.machines[target].engine, fault)

    def _engine_orders(self, engine: FakeEngine, fault: Fault) -> tuple[Order, Order]:
        orders: dict[str, tuple[Order, Order]] = {
            "engine": (lambda: engine.restart(fault.seconds, live_restore=fault.seconds > 2.0), nothing),
            "slow": first_then(engine, "slowness", 10.0, 1.0),
            "refuse": first_then(engine, "refused", 0.5, 0.0),
            "deaf": first_then(engine, "deaf", True, False),
            "disk": first_then(engine, "full", True, False),
            "kill": (lambda: self._pick(engine, fault, engine.kill), nothing),
            "sick": (lambda: self._pick(engine, fault, engine.sicken), nothing),
        }
        return orders[fault.kind]

    def _compact(self, server: str) -> None:
        """What a server has not heard of by now, nobody will tell it any more."""
        self.world.store.compact_now()
        self.world.wire.unblock(PARTY, server)

    def _let_end(self, job: str, exit_code: int) -> None:
        for machine in self.world.machines.values():
            machine.engine.behave(job, Behaviour(exits_after_seconds=3.0, exit_code=exit_code))

    def _registry(self, image: str, trouble: str) -> None:
        for machine in self.world.machines.values():
            machine.engine.fail_pull(image, trouble)

    def _pick(self, engine: FakeEngine, fault: Fault, order: Callable[[str], object]) -> None:
        """Give an order about one of the containers that run, chosen by the fault's moment and their slots' names."""
        running = [box.spec for box in engine.boxes.values() if box.state == "running"]
        if running:
            order(min(running, key=lambda spec: salt(f"{fault.at} {spec.name.rsplit('-', 1)[0]}")).task)

    async def _change_node(self, node: str, wish: dict[str, Any]) -> None:
        with contextlib.suppress(NotFound):  # it has not joined yet, or was removed
            await self.world.ask("PATCH", f"/v1/nodes/{node}", wish)

    async def _label(self, node: str, zone: str) -> None:
        """A node that has just joined gets its zone."""
        while True:
            try:
                await self.world.ask("PATCH", f"/v1/nodes/{node}", {"labels": {"zone": zone}})
                return
            except NotFound:
                await asyncio.sleep(1.0)

    async def _replace_node(self, node: str) -> None:
        with contextlib.suppress(NotFound, Conflict):  # it is not down any more, or has a volume
            await self.world.ask("DELETE", f"/v1/nodes/{node}")
        self.world.power_on(node)

    async def _change(self, **services: ServiceSpec) -> None:
        self.wanted = replace(self.wanted, services={**self.wanted.services, **services})
        await self._apply()

    async def _apply(self) -> None:
        """What is wanted now. While the app is being removed, again and again."""
        while True:
            try:
                await self.world.ask("PUT", f"/v1/apps/{APP}", to_plain(self.wanted))
                return
            except Conflict:
                await asyncio.sleep(1.0)
