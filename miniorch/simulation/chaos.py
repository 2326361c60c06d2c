"""Bad days, drawn from a seed before the day begins.

The problem: a fault that is rolled while the run goes on cannot be taken out of it without changing everything after.
The idea: faults are data. `draw` makes the whole list first, so a failing run can be shortened by leaving faults out,
and what is left still happens at the same moments.

A day has three parts: an app is deployed and things break; everything is mended; a quiet time, after which the cluster
must be exactly as wanted (`AT_REST`).

Who does this for real: etcd's robustness tests, Jepsen's nemesis. Next file: `tests/simulation/test_simulation.py`.
"""

import asyncio
import contextlib
import random
from dataclasses import dataclass, replace
from typing import Any

from miniorch.codec import to_plain
from miniorch.errors import NotFound
from miniorch.model import (
    AppSpec,
    Build,
    Condition,
    HealthCheck,
    Mount,
    Port,
    Resources,
    Restart,
    RestartPolicy,
    ServiceSpec,
    TaskSpec,
)
from miniorch.simulation.engine import Behaviour
from miniorch.simulation.network import BAD, GOOD, POOR
from miniorch.simulation.world import World

APP = "dockchat"
KINDS = ("crash", "engine", "kill", "kill", "weather", "scale", "change", "cut", "restart", "fail")
JOBS = ("setup", "report")


@dataclass(frozen=True, slots=True)
class Fault:
    """Something that happens at a moment, to something, for some virtual seconds."""

    at: float
    kind: str
    target: str = ""
    seconds: float = 0.0


def draw(chance: random.Random, processes: list[str], nodes: list[str], seconds: float, count: int) -> list[Fault]:
    """At least `count` faults within `seconds`, by time. Every process is killed at least once."""
    faults = [Fault(chance.uniform(0.0, seconds), "crash", one, chance.uniform(0.1, 8.0)) for one in processes]
    while len(faults) < count:
        kind = chance.choice(KINDS)
        match kind:
            case "crash":
                target = chance.choice(processes)
            case "scale":
                target = str(chance.randint(0, 4))
            case "change":
                target = str(chance.randint(1, 99))
            case "restart":
                target = chance.choice(["web", *JOBS])
            case "fail":
                target = chance.choice(JOBS)
            case _:
                target = chance.choice(nodes)
        faults.append(
            Fault(chance.uniform(0.0, seconds), kind, target, chance.uniform(0.5, chance.choice([6.0, 30.0])))
        )
    return sorted(faults, key=lambda fault: (fault.at, fault.kind, fault.target))


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
    """The same with a job that web waits for, tried until it succeeds, and one of two slots that may be given up."""
    setup = ServiceSpec(TaskSpec("setup"), restart=RestartPolicy(Restart.ON_FAILURE, delay_seconds=1.0))
    policy = RestartPolicy(chance.choice(list(Restart)), max_attempts=chance.randint(1, 3))
    report = ServiceSpec(TaskSpec("report"), 2, restart=policy)
    web = app.services["web"]
    web = replace(web, depends_on={**web.depends_on, "setup": Condition.COMPLETED})
    return replace(app, services={**app.services, "web": web, "setup": setup, "report": report})


class Day:
    """Deploy, break, mend, rest."""

    def __init__(self, world: World, faults: list[Fault], trouble_seconds: float, quiet_seconds: float) -> None:
        self.world = world
        self.faults = faults
        self.trouble_seconds = trouble_seconds
        self.quiet_seconds = quiet_seconds
        self.wanted = with_jobs(dockchat(), world.chance("jobs"))

    async def live(self) -> None:
        world = self.world
        for machine in world.machines.values():
            machine.engine.behave("mongo:7", Behaviour(pull_seconds=4.0, healthy_after_seconds=3.0))
            machine.engine.behave("dockchat-web", Behaviour(pull_seconds=6.0, healthy_after_seconds=0.5))
        for job in JOBS:
            self._let_end(job, exit_code=0)
        async with asyncio.timeout(self.trouble_seconds + 600):
            world.wire.weather = POOR
            happening = [asyncio.ensure_future(self._apply())]
            happening += [asyncio.ensure_future(self._happen(fault)) for fault in self.faults]
            await asyncio.sleep(self.trouble_seconds)
            world.note("everything is mended")
            await asyncio.gather(*happening)
            world.wire.weather = GOOD
            for process in world.processes:
                world.restart(process)
        await asyncio.sleep(self.quiet_seconds)

    async def _happen(self, fault: Fault) -> None:
        world = self.world
        await asyncio.sleep(fault.at)
        match fault.kind:
            case "crash":
                await world.crash(fault.target)
                await asyncio.sleep(fault.seconds)
                world.restart(fault.target)
            case "engine":
                world.note(f"the engine of {fault.target} restarts")
                world.machines[fault.target].engine.restart(fault.seconds, live_restore=fault.seconds > 2.0)
            case "kill":
                self._kill_container(fault)
            case "weather":
                world.note("bad weather")
                world.wire.weather = BAD
                await asyncio.sleep(fault.seconds)
                world.wire.weather = POOR
            case "cut":
                world.cut(fault.target, True)  # its containers do not notice
                await asyncio.sleep(fault.seconds)
                world.cut(fault.target, False)
            case "scale":
                await self._change(web=replace(self.wanted.services["web"], replicas=int(fault.target)))
            case "change":
                web = self.wanted.services["web"]
                task = replace(web.task, environment={"VERSION": fault.target})
                await self._change(web=replace(web, task=task))
            case "restart":
                with contextlib.suppress(NotFound):  # before the app is there
                    await world.ask("POST", f"/v1/services/{APP}/{fault.target}/restart")
            case "fail":
                world.note(f"{fault.target} fails from now on")
                self._let_end(fault.target, exit_code=1)
                await asyncio.sleep(fault.seconds)
                self._let_end(fault.target, exit_code=0)

    def _let_end(self, job: str, exit_code: int) -> None:
        for machine in self.world.machines.values():
            machine.engine.behave(job, Behaviour(exits_after_seconds=3.0, exit_code=exit_code))

    def _kill_container(self, fault: Fault) -> None:
        engine = self.world.machines[fault.target].engine
        running = [box for box in engine.boxes.values() if box.state == "running"]
        if running:
            box = running[int(fault.seconds * 1000) % len(running)]
            self.world.note(f"the container of {box.spec.task} dies")
            engine.kill(box.spec.task)

    async def _change(self, **services: ServiceSpec) -> None:
        self.wanted = replace(self.wanted, services={**self.wanted.services, **services})
        await self._apply()

    async def _apply(self) -> Any:
        return await self.world.ask("PUT", f"/v1/apps/{APP}", to_plain(self.wanted))
