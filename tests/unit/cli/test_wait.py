"""`wait` and `restart`, and what Ctrl-C does to whatever waits."""

from __future__ import annotations

import json
import signal
import time

import pytest
from fake_api import Cli, FakeApi, Start, a_task, shop

from miniorch.model import App, Node, Service, TaskState
from miniorch.spec import HealthCheck, Resources, TaskSpec

CHECKED = TaskSpec("web:1", healthcheck=HealthCheck(("true",)))
NODE = Node("node1", "10.200.0.0/24", "10.200.0.1", Resources())


@pytest.fixture
def there(api: FakeApi) -> FakeApi:
    """An app whose one task starts."""
    spec = shop().services["web"]
    api.lists["apps"] = [App("shop", 0.0)]
    api.lists["nodes"] = [NODE]
    api.lists["services"] = [Service("shop", "web", type(spec)(CHECKED), "10.201.0.1")]
    becomes(api, TaskState.STARTING)
    return api


def becomes(api: FakeApi, state: TaskState, **more: object) -> None:
    api.lists["tasks"] = [a_task(1, state, spec=CHECKED, **more)]


def test_wait_ends_when_an_app_or_a_service_is_up(there: FakeApi, cli: Cli) -> None:
    becomes(there, TaskState.RUNNING)
    assert cli("wait", "shop").stdout.splitlines() == ["waiting until shop is up, 300 s at most", "shop is up"]
    assert cli("wait", "shop/web", "-q").stdout == "shop/web is up\n"
    assert json.loads(cli("wait", "shop/web", "--json").stdout)["outcome"] == "up"


def test_wait_that_takes_too_long_says_what_is_missing(there: FakeApi, cli: Cli) -> None:
    late = cli("wait", "shop", "--timeout", "0.3")
    assert (late.returncode, late.stderr.splitlines()[0]) == (
        1, "error[E0401]: shop/web.1 is not up after 0.3 s: starting, no reason given",
    )  # fmt: skip
    late = cli("wait", "shop", "--for", "ended", "--timeout", "0.3")
    assert (late.returncode, late.stderr) == (
        1, "error[E0401]: after 0.3 s: shop/web.1 is starting\nhelp: miniorch ps shop\n",
    )  # fmt: skip
    becomes(there, TaskState.RUNNING)
    there.lists["tasks"].append(a_task(2, id="surplus"))
    late = cli("wait", "shop", "--timeout", "0.3")
    assert late.stderr.startswith("error[E0401]: shop is not up after 0.3 s: the old web.2 ends\n")
    late = cli("wait", "shop/web", "--for", "gone", "--timeout", "0.3")
    assert (late.returncode, "shop/web is still there" in late.stderr) == (1, True)


@pytest.mark.parametrize("name", ["k3m9x2a1", "shop/web.1"])
def test_the_exit_code_of_a_task_is_passed_on(there: FakeApi, cli: Cli, name: str) -> None:
    becomes(there, TaskState.FAILED, exit_code=7)
    done = cli("wait", name, "-q")
    assert (done.returncode, done.stdout) == (7, f"{name} has ended with exit code 7\n")
    becomes(there, TaskState.LOST)
    assert cli("wait", name, "-q").returncode == 1
    becomes(there, TaskState.COMPLETE, exit_code=0)
    assert cli("wait", name, "-q").returncode == 0


def test_what_is_not_there_is_gone_and_can_be_waited_for_in_no_other_way(there: FakeApi, cli: Cli) -> None:
    assert cli("wait", "nope", "--for", "gone").returncode == 0
    for name in ("nope", "shop/nope", "shop/web.7"):
        assert cli("wait", name).returncode == 2
    refused = cli("wait", "shop/web.1", "--for", "up")
    assert (refused.returncode, "miniorch wait shop/web --for up" in refused.stderr) == (2, True)


def test_wait_survives_a_server_that_is_away_for_a_moment(there: FakeApi, start: Start) -> None:
    waiting = start("wait", "shop")
    assert waiting.stdout is not None
    waiting.stdout.readline()
    there.stop()
    becomes(there, TaskState.RUNNING)
    time.sleep(0.3)
    there.start()
    assert waiting.wait(timeout=10) == 0


def test_restart_begins_a_round_and_need_not_wait(there: FakeApi, cli: Cli) -> None:
    there.answers["POST", "/v1/services/shop/web/restart"] = {"revision": 413}
    assert cli("restart", "shop/web", "-d").stdout.startswith("shop/web: accepted; miniorch wait shop/web")
    becomes(there, TaskState.RUNNING)
    assert cli("restart", "shop/web").stdout.startswith("shop/web is up again after ")
    assert [one[:2] for one in there.asked if one[0] == "POST"] == [("POST", "/v1/services/shop/web/restart")] * 2
    assert cli("restart", "shop").returncode == 2


@pytest.mark.parametrize(
    ("command", "says"),
    [
        (("wait", "shop"), "interrupted; nothing was changed: miniorch wait shop --for up"),
        (("logs", "shop/web", "-f"), "ended; shop/web goes on: miniorch logs shop/web -f"),
        (("rm", "shop"), "interrupted; shop is being removed all the same: miniorch wait shop --for gone"),
    ],
)
def test_ctrl_c_detaches_and_says_how_to_come_back(
    there: FakeApi, start: Start, command: tuple[str, ...], says: str
) -> None:
    there.answers["DELETE", "/v1/apps/shop"] = {"revision": 413}
    there.answers["GET", "/v1/tasks/k3m9x2a1/logs"] = b"one\n"
    waiting = start(*command)
    deadline = time.monotonic() + 10
    while len(there.asked) < 4 and time.monotonic() < deadline:
        time.sleep(0.02)
    waiting.send_signal(signal.SIGINT)
    _, said = waiting.communicate(timeout=10)
    assert (waiting.returncode, said) == (130, f"\n{says}\n")
