"""What broke and how it healed, as a person would tell it.

The problem: a log of twenty thousand tasks tells everything and explains nothing. The idea: one number, how many of the
wanted tasks run at this moment, and beside it the faults in their order. Where the number falls something was lost;
where it is full again it has healed, and the time between is what an operator would ask for.

Who does this for real: the timeline of every incident report. Next file: `command.py`.
"""

from collections import Counter
from dataclasses import dataclass, field

from miniorch.model import NodeState, Service, TaskState
from miniorch.simulation.chaos import USERS, Case
from miniorch.simulation.invariants import Picture
from miniorch.spec import Restart

LINES = 30  # of faults told one by one; more are counted by kind


@dataclass
class Story:
    """Give it every picture (`look`), then ask for its lines (`tell`)."""

    case: Case
    at: float = 0.0  # how far it is told
    up: int = 0
    wanted: int = 0
    outages: list[tuple[float, float, int]] = field(default_factory=list)  # from, to, the most that did not run
    _since: float | None = None  # when not all ran any more
    _missing: int = 0
    _silent: set[str] = field(default_factory=set)
    _lines: list[tuple[float, str]] = field(default_factory=list)

    def look(self, at: float, world: Picture) -> None:
        self.at = at
        self.wanted = sum(one.spec.replicas for one in world.services.values() if _runs_on(one))
        running = Counter(task.service_key for task in world.tasks.values() if task.status.state is TaskState.RUNNING)
        self.up = sum(min(running[key], one.spec.replicas) for key, one in world.services.items() if _runs_on(one))
        if self.up < self.wanted:
            self._since = at if self._since is None else self._since
            self._missing = max(self._missing, self.wanted - self.up)
        elif self._since is not None:
            self.outages.append((self._since, at, self._missing))
            again = " again" if len(self.outages) > 1 else ""
            after = f"after {at - self._since:.1f} s in which up to {self._missing} did not"
            self._lines.append((at, f"all {self.wanted} tasks run{again}, {after}"))
            self._since, self._missing = None, 0
        silent = {node.name for node in world.nodes.values() if node.state is NodeState.DOWN}
        self._lines += [(at, f"{name} is down: no heartbeat") for name in sorted(silent - self._silent)]
        self._lines += [(at, f"{name} is ready again") for name in sorted(self._silent - silent)]
        self._silent = silent

    def tell(self) -> list[str]:
        """The whole story, one line per moment; of many faults a summary."""
        happened = [fault for fault in self.case.faults if fault.at <= self.at]
        faults = [fault for fault in happened if fault.kind not in USERS]
        healed = sorted(to - since for since, to, _ in self.outages)
        if len(faults) + len(self._lines) <= LINES:
            told = self._lines + [(fault.at, fault.describe().partition(": ")[2]) for fault in happened]
            lines = [f"{at:8.1f} s  {line}" for at, line in sorted(told)]
        else:
            counts = Counter(fault.kind for fault in happened)
            lines = [f"{count:6} x {kind}" for kind, count in sorted(counts.items())]
            lines += [f"{at:8.1f} s  {line}" for at, line in _worst(self._lines, self.outages)]
        if healed:
            middle, worst = healed[len(healed) // 2], healed[-1]
            lines.append(
                f"not all tasks ran {len(healed)} times; half of that healed in {middle:.1f} s, all in {worst:.1f} s"
            )
        return lines


def _runs_on(service: Service) -> bool:
    """Not a job, whose tasks end."""
    return not service.removing and service.spec.restart.condition is Restart.ANY


def _worst(lines: list[tuple[float, str]], outages: list[tuple[float, float, int]]) -> list[tuple[float, str]]:
    """The ends of the longest outages, by time."""
    longest = sorted(outages, key=lambda outage: outage[0] - outage[1])[: LINES // 3]
    ends = {to for _, to, _ in longest}
    return [line for line in lines if line[0] in ends]
