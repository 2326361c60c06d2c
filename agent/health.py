"""When a task is healthy: a state machine that knows neither containers nor clocks.

The problem: "it runs" is not "it works". The idea: a command inside the container says so. It is run at once and not
after one interval, and often while the task starts up: after a quarter of its age, so a service that is ready after
0.8 s counts as ready after one second at the latest. Failures in `start_period_seconds` do not count; after that,
`retries` failures in a row do.

Who does this for real: Docker's HEALTHCHECK, whose words these are. Where we differ: Docker waits a whole interval
before its first probe (30 s by default), and under Podman without systemd it never probes at all; so the agent does.
Next file: `agent/ingress.py`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from miniorch.spec import HealthCheck

STARTUP_PAUSES_SECONDS = (0.1, 1.0)  # the shortest and the longest


@dataclass(frozen=True, slots=True)
class Health:
    """What the probes of one container came to. Times are those of whoever calls."""

    check: HealthCheck
    since: float  # when the container was started
    healthy: bool = False  # it has passed, now or once
    failures: int = 0  # in a row, as far as they count
    verdict: str = ""  # why it must go; "" while it may stay

    def after(self, passed: bool, output: str, now: float) -> Health:
        """The state after a probe which ended at `now`."""
        if self.verdict:
            return self
        if passed:
            return replace(self, healthy=True, failures=0)
        if not self.healthy and now - self.since < self.check.start_period_seconds:
            return self
        failures = self.failures + 1
        if failures < max(1, self.check.retries):
            return replace(self, failures=failures)
        what = "became unhealthy" if self.healthy else "never became healthy"
        return replace(self, failures=failures, verdict=f"{what}: {last_line(output) or 'the check said nothing'}")

    def pause_seconds(self, now: float) -> float:
        """How long to wait before the next probe."""
        age = now - self.since
        if self.healthy or age >= self.check.start_period_seconds:
            return self.check.interval_seconds
        shortest, longest = STARTUP_PAUSES_SECONDS
        return min(self.check.interval_seconds, longest, max(shortest, age / 4))


def last_line(output: str, limit: int = 200) -> str:
    """The last line that says something, cut to `limit` characters."""
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    return lines[-1][:limit] if lines else ""
