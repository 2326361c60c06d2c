"""Each command as a user types it, against a server that says what the test wants."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from conftest import surroundings
from fake_api import Cli, FakeApi, Start, a_task, shop

from miniorch.cli.explain import lesson
from miniorch.codec import to_plain
from miniorch.errors import Compacted, Conflict, NotFound, Unreachable
from miniorch.model import (
    App,
    Availability,
    Event,
    Member,
    Node,
    NodeState,
    Release,
    Role,
    Service,
    Task,
    TaskState,
    Volume,
)
from miniorch.spec import Mount, Resources, Restart, RestartPolicy

WEB = Service("shop", "web", shop(2).services["web"], "10.201.0.1")
FILE = "name: shop\nservices: {web: {image: 'web:1', deploy: {replicas: 2}}}\n"


@pytest.fixture
def there(api: FakeApi) -> FakeApi:
    """An app of one service with a live and an ended task."""
    api.lists["apps"] = [App("shop", 0.0)]
    api.lists["services"] = [WEB]
    api.lists["tasks"] = [
        a_task(1, address="10.200.0.2", health="healthy", message="all\nis well"),
        a_task(1, TaskState.FAILED, id="zzz", message="exit code 3", exit_code=3, log_tail=("boom",)),
        a_task(2, TaskState.STARTING),
    ]
    return api


def test_ps_shows_live_tasks_in_plain_columns(there: FakeApi, cli: Cli) -> None:
    lines = cli("ps").stdout.splitlines()
    assert lines[0].split() == ["NAME", "STATE", "SINCE", "NODE", "ADDRESS", "IMAGE", "MESSAGE"]
    assert [line.split()[:2] for line in lines[1:]] == [["shop/web.1", "running"], ["shop/web.2", "starting"]]
    assert lines[1].endswith("10.200.0.2  web:1  all is well")
    assert "zzz" not in cli("ps", "shop").stdout
    assert "failed" in cli("ps", "-a").stdout


def test_ps_json_has_the_promised_keys(there: FakeApi, cli: Cli) -> None:
    assert json.loads(cli("ps", "shop", "--json").stdout)[0] == {
        "id": "k3m9x2a1", "app": "shop", "service": "web", "slot": 1, "state": "running", "desired_state": "running",
        "node": "node1", "address": "10.200.0.2", "image": "web:1", "health": "healthy", "exit_code": None,
        "next_at": None, "unknown": False,
    }  # fmt: skip


def test_what_the_server_last_knew_is_shown_while_its_store_is_away_and_said_once(there: FakeApi, cli: Cli) -> None:
    for kind in ("tasks", "services", "nodes"):
        items = [to_plain(one) for one in there.lists[kind]]
        there.answers["GET", f"/v1/{kind}"] = {"revision": 412, "stale": True, "items": items}
    done = cli("ps")
    assert "shop/web.1" in done.stdout
    assert done.stderr == "the store does not answer: this is what the server last knew of it\n"
    assert ("GET", "/v1/tasks?stale=1", None) in there.asked
    assert "last knew" not in cli("ps", "--json").stdout
    there.answers["GET", "/v1/tasks/k3m9x2a1/top"] = {"titles": ["PID"], "rows": [["17"]]}
    done = cli("top", "shop/web.1")  # an agent's answer, wherever its task was
    assert done.stdout.splitlines()[1].split() == ["web.1", "17"]
    assert done.stderr == "the store does not answer: this is what the server last knew of it\n"


def test_an_unknown_app_is_an_error_and_an_idle_cluster_is_not(api: FakeApi, cli: Cli) -> None:
    assert cli("ps").stdout == "nothing runs\n"
    api.lists["apps"] = [App("shop", 0.0)]
    for command in ("ps", "services", "events", "history"):
        done = cli(command, "shp")
        assert (done.returncode, done.stdout) == (2, ""), command
        assert done.stderr == "error[E0201]: there is no app shp; did you mean shop?\nhelp: miniorch ps\n"
    assert cli("events", "shop").stdout == "no events\n"


def test_services_events_and_version(there: FakeApi, cli: Cli) -> None:
    there.lists["events"] = [
        Event("b", 2.0, "task", "shop/web.1", "second"), Event("a", 1.0, "app", "shop", "first"),
        Event("c", 3.0, "app", "other", "third"),
    ]  # fmt: skip
    assert cli("services").stdout.splitlines()[1].split() == ["shop/web", "1/2", "10.201.0.1", "-", "web:1"]
    assert [line.split()[-1] for line in cli("events").stdout.splitlines()] == ["first", "second", "third"]
    assert [one["message"] for one in json.loads(cli("events", "shop", "-n", "1", "--json").stdout)] == ["second"]
    assert "cluster k3m9x2ab, revision 412" in cli("version").stdout
    assert cli("--version").stdout == cli("version").stdout


def test_logs_by_service_slot_id_and_prefix(there: FakeApi, cli: Cli) -> None:
    there.answers["GET", "/v1/tasks/k3m9x2a1/logs"] = b"one\ntwo"
    there.answers["GET", "/v1/tasks/k3m9x2a2/logs"] = b"three\n"
    assert cli("logs", "shop/web").stdout == "web.1 | one\nweb.1 | two\nweb.2 | three\n"
    assert cli("logs", "shop/web.2").stdout == "three\n"
    assert cli("logs", "k3m9x2a2").stdout == "three\n"
    assert cli("logs", "k3m").returncode == 2
    assert "there is no task q" in cli("logs", "q").stderr
    assert "has no slot 7" in cli("logs", "shop/web.7").stderr
    assert ("GET", "/v1/tasks/k3m9x2a2/logs?tail=5&follow=0", None) not in there.asked
    cli("logs", "shop/web.2", "-n", "5")
    assert ("GET", "/v1/tasks/k3m9x2a2/logs?tail=5&follow=0", None) in there.asked


def test_the_last_lines_of_a_failed_task_survive_its_container(there: FakeApi, cli: Cli) -> None:
    assert cli("logs", "zzz").stdout == "boom\n"


def test_logs_of_a_node_that_does_not_answer_are_an_error_after_those_of_others(there: FakeApi, cli: Cli) -> None:
    there.answers["GET", "/v1/tasks/k3m9x2a1/logs"] = Unreachable("n1 does not answer", remedy="miniorch nodes")
    there.answers["GET", "/v1/tasks/k3m9x2a2/logs"] = b"three\n"
    for options in ("shop/web",), ("shop/web.1",), ("shop/web.1", "-f"):
        done = cli("logs", *options)
        assert done.returncode == 5
        assert done.stdout == "web.2 | three\n" * (options == ("shop/web",))
        assert "n1 does not answer\nhelp: miniorch nodes" in done.stderr


def test_logs_f_of_one_task_ends_with_it(there: FakeApi, cli: Cli) -> None:
    there.answers["GET", "/v1/tasks/k3m9x2a2/logs"] = b"three\n"
    assert cli("logs", "shop/web.2", "-f").stdout == "three\n"


def test_scale_asks_the_server_and_refuses_what_is_no_number(there: FakeApi, cli: Cli) -> None:
    there.answers["PUT", "/v1/services/shop/web/replicas"] = {"revision": 413}
    assert cli("scale", "shop/web=3").returncode == 0
    assert there.asked[-1] == ("PUT", "/v1/services/shop/web/replicas", {"replicas": 3})
    for bad in ("shop/web", "shop/web=x", "shop/web=-1", "web=3", "a/b/c=3"):
        assert cli("scale", bad).returncode == 2


@pytest.mark.parametrize("then", [[], [App("shop", 1.0)]], ids=["nothing", "another one"])
def test_rm_waits_until_the_app_is_gone(there: FakeApi, cli: Cli, then: list[App]) -> None:
    looks = iter([[App("shop", 0.0, removing=True)], then])
    there.answers["DELETE", "/v1/apps/shop"] = {"revision": 413}
    there.answers["GET", "/v1/apps"] = lambda _: {"revision": 414, "items": next(looks)}
    assert cli("rm", "shop").stdout == "shop is gone; the data in its volumes is kept\n"


def test_a_job_that_is_done_is_shown_and_one_that_has_a_successor_is_not(there: FakeApi, cli: Cli) -> None:
    def states(condition: Restart, *tasks: Task, **policy: int) -> list[str]:
        spec = replace(WEB.spec, restart=RestartPolicy(condition, **policy))
        there.lists["services"] = [replace(WEB, spec=spec)]
        there.lists["tasks"] = list(tasks)
        return [one["state"] for one in json.loads(cli("ps", "--json").stdout)]

    done, failed = a_task(1, TaskState.COMPLETE), a_task(1, TaskState.FAILED)
    assert states(Restart.ON_FAILURE, done) == ["complete"]
    assert states(Restart.ON_FAILURE, failed) == []
    assert states(Restart.ON_FAILURE, replace(failed, attempt=3), max_attempts=3) == ["failed"]
    assert states(Restart.NEVER, failed) == ["failed"]
    assert states(Restart.NEVER, a_task(1, TaskState.SHUTDOWN)) == []
    assert states(Restart.ANY, done) == []
    assert states(Restart.NEVER, done, a_task(1, TaskState.RUNNING, id="next")) == ["running"]
    now = time.time()
    states(
        Restart.ANY, replace(a_task(1, TaskState.FAILED, message="exit code 3", attempt=9, since=now), created_at=now)
    )
    assert re.search(r"  web:1  exit code 3; 10 times in a row, next try in [4-6]?\d s\n", cli("ps").stdout)


def test_nodes_show_what_they_have_and_what_runs_there(there: FakeApi, cli: Cli) -> None:
    now, capacity = time.time(), Resources(2.0, 4 << 30)
    node = Node("node1", "10.200.0.0/24", "10.200.0.1", capacity, engine="Docker 20.10.24", address="10.0.0.1")
    there.lists["nodes"] = [
        replace(node, labels={"zone": "b"}),
        replace(node, name="node2", state=NodeState.DOWN, state_since=now - 12, role=Role.WORKER),
        replace(node, name="node3", ready=False, message="no engine"),
        replace(node, name="node4", availability=Availability.DRAIN),
    ]
    there.lists["members"] = [Member("node1", "manager", "k", now + 89.5 * 86_400, now)]
    head, *lines = cli("nodes").stdout.splitlines()
    assert head.split() == [
        "NAME", "ROLE", "STATE", "ADDRESS", "SUBNET", "TASKS", "CPUS", "MEMORY", "LABELS", "CERTIFICATE", "ENGINE",
        "MESSAGE",
    ]  # fmt: skip
    assert " ".join(lines[0].split()) == (
        "node1 manager ready 10.0.0.1 10.200.0.0/24 2 0/2 0.0/4.0 GB zone=b 89 days Docker 20.10.24"
    )
    assert re.search("^node2 +worker +down .* no heartbeat, down since 1[23] s", lines[1])
    assert re.search("^node3 +manager +not ready .* no engine$", lines[2])
    assert re.search("^node4 +manager +drained ", lines[3])
    assert json.loads(cli("nodes", "--json").stdout)[0]["tasks"] == 2


def test_tasks_of_a_node_that_does_not_answer_are_unknown(there: FakeApi, cli: Cli) -> None:
    node = Node("node1", "10.200.0.0/24", "10.200.0.1", Resources(), state=NodeState.DOWN, state_since=time.time() - 12)
    there.lists["nodes"] = [node]
    line = cli("ps").stdout.splitlines()[1]
    assert re.search(r"^shop/web.1 +unknown .*was running; node1 is down since 1[23] s$", line)
    assert json.loads(cli("ps", "--json").stdout)[0]["unknown"] is True
    said = cli("node", "inspect", "node1").stdout
    assert "state    down" in said
    assert "shop/web.2 was starting; node1 is down" in said


def test_node_wishes_are_sent_and_unknown_nodes_named(there: FakeApi, cli: Cli) -> None:
    there.lists["nodes"] = [Node("node1", "10.200.0.0/24", "10.200.0.1", Resources())]
    there.answers["PATCH", "/v1/nodes/node1"] = {"revision": 413}
    there.answers["DELETE", "/v1/nodes/node1"] = {"revision": 414, "lost": 2}
    assert cli("node", "label", "node1", "zone=b", "disk-").returncode == 0
    assert there.asked[-2] == ("PATCH", "/v1/nodes/node1", {"labels": {"zone": "b"}, "without": ["disk"]})
    assert cli("node", "activate", "node1").stdout == "node1 takes new tasks; what has moved away stays away\n"
    assert cli("node", "rm", "node1", "--force").stdout.endswith("2 of its tasks are lost and replaced\n")
    assert there.asked[-1][1] == "/v1/nodes/node1?force=1"
    assert "did you mean node1?" in cli("node", "drain", "node2").stderr
    assert 'error[E0001]: "zone" is no label' in cli("node", "label", "node1", "zone").stderr


def test_drain_waits_and_says_what_stays(there: FakeApi, cli: Cli) -> None:
    one = Node("node1", "10.200.0.0/24", "10.200.0.1", Resources())
    there.lists["nodes"] = [one, replace(one, name="node2")]
    there.answers["PATCH", "/v1/nodes/node1"] = {"revision": 413}
    late = cli("node", "drain", "node1", "--timeout", "0.1")
    assert (late.returncode, "shop/web.1 and shop/web.2 still run on node1" in late.stderr) == (4, True)
    with_data = replace(there.lists["tasks"][0].spec, mounts=(Mount("data", "/data"),))
    there.lists["tasks"] = [replace(there.lists["tasks"][0], spec=with_data)]
    stays = cli("node", "drain", "node1")
    assert stays.returncode == 4
    assert "not empty: shop/web.1 stays with its volume shop/data" in stays.stderr
    there.lists["tasks"] = []
    assert cli("node", "drain", "node1").stdout == "node1 is drained\n"


def test_inspect_prints_whole_objects_of_apps_services_tasks_and_nodes(there: FakeApi, cli: Cli) -> None:
    there.lists["nodes"] = [Node("node1", "10.200.0.0/24", "10.200.0.1", Resources())]
    there.lists["volumes"] = [Volume("shop", "data", "node1"), Volume("other", "data", "node1")]

    def found(name: str) -> dict[str, list[object]]:
        shown: dict[str, list[object]] = json.loads(cli("inspect", name).stdout)
        return shown

    assert {kind: len(items) for kind, items in found("shop").items()} == {
        "apps": 1, "services": 1, "tasks": 3, "volumes": 1,
    }  # fmt: skip
    assert {kind: len(items) for kind, items in found("shop/web").items()} == {"services": 1, "tasks": 3}
    assert {kind: len(items) for kind, items in found("shop/web.2").items()} == {"tasks": 1}
    assert found("zzz")["tasks"] == [to_plain(there.lists["tasks"][1])]
    assert found("node1")["nodes"] == to_plain(there.lists["nodes"])
    assert cli("inspect", "nope").returncode == 2


def test_history_lists_the_changes_of_an_app(there: FakeApi, cli: Cli) -> None:
    there.lists["releases"] = [
        Release("shop", 2, 2.0, ("replace web: image web:0 -> web:1", "scale db")),
        Release("shop", 1, 1.0, ("create web: 1 x web:0",)),
    ]
    lines = cli("history", "shop").stdout.splitlines()
    assert [line.split()[0] for line in lines] == ["NUMBER", "1", "2"]
    assert lines[2].endswith("  replace web: image web:0 -> web:1; scale db")
    assert [one["number"] for one in json.loads(cli("history", "shop", "--json").stdout)] == [1, 2]
    assert cli("history", "shp").returncode == 2


def test_events_f_goes_on_over_a_restart_of_the_server_and_tells_nothing_twice(there: FakeApi, start: Start) -> None:
    first, second, third = (
        Event(id, at, "task", "shop/web.1", f"event {id}") for id, at in zip("abc", (1, 2, 3), strict=True)
    )
    there.lists["events"] = [first]
    answers = iter([{"revision": 413, "put": first}, {"revision": 414, "put": second}, Compacted("too old")])

    def watch(_: object) -> object:
        answer = next(answers, {"revision": 415})
        if isinstance(answer, Compacted):
            there.lists["events"] = [first, second, third]
            return answer
        return json.dumps(to_plain(answer)).encode() + b"\n"

    there.answers["GET", "/v1/watch/events"] = watch
    following = start("events", "-f")
    assert following.stdout is not None
    told = [following.stdout.readline().split()[-1] for _ in range(2)]
    there.stop()
    there.start()
    assert [*told, following.stdout.readline().split()[-1]] == ["a", "b", "c"]
    following.send_signal(signal.SIGINT)
    _, said = following.communicate(timeout=10)
    assert (following.returncode, said) == (130, "\nended; all events: miniorch events -n 1000\n")


def test_logs_p_are_those_of_the_tasks_that_ended_last(there: FakeApi, cli: Cli) -> None:
    assert cli("logs", "shop/web", "--previous").stdout == "boom\n"
    assert cli("logs", "shop/web.1", "-p").stdout == "boom\n"
    none = cli("logs", "shop/web.2", "-p")
    assert (none.returncode, none.stderr.splitlines()[-1]) == (2, "help: miniorch logs shop/web.2")
    refused = cli("logs", "shop/web", "-p", "-f")
    assert (refused.returncode, "miniorch logs shop/web --previous" in refused.stderr) == (2, True)


def test_explain_teaches_what_a_code_means_and_knows_the_nearest(cli: Cli) -> None:
    text = "# Lessons\n\n## E0101 Twice\n\nOnly once.\n\n## E0104 Wrong\n\nSee ### below.\n"
    assert lesson("E0101", text) == ("Twice", "Only once.")
    assert lesson("E0104", text) == ("Wrong", "See ### below.")
    with pytest.raises(NotFound, match="the nearest is E0104"):
        lesson("E0199", text)
    assert cli("explain", "e0102").stdout.startswith("E0102 ")
    assert cli("explain", "E9999").returncode == 2


def test_with_json_an_error_is_an_object_with_all_its_fields(there: FakeApi, cli: Cli, tmp_path: Path) -> None:
    done = cli("history", "shp", "--json")
    assert json.loads(done.stdout) == {
        "error": "NotFound", "code": "E0201", "message": "there is no app shp; did you mean shop?",
        "remedy": "miniorch ps", "exit_code": 2,
    }  # fmt: skip
    assert "there is no app shp" in done.stderr
    refused = json.loads(cli("ps", "--jsn", "--json").stdout)
    assert (refused["message"], refused["exit_code"]) == ("there is no option --jsn; did you mean --json?", 2)
    (tmp_path / "bad.yml").write_text("services: {web: {image: x, prots: []}}\n")
    detail = json.loads(cli("run", str(tmp_path / "bad.yml"), "--json").stdout)["details"][0]
    assert (detail["code"], detail["line"], detail["column"]) == ("E0102", 1, 28)


def test_app_files_come_from_arguments_options_and_stdin(there: FakeApi, cli: Cli, tmp_path: Path) -> None:
    base, above = tmp_path / "app.yml", tmp_path / "above.yml"
    base.write_text(FILE)
    above.write_text("services: {web: {image: 'web:9'}, extra: {image: 'x:1', profiles: [more]}}\n")
    for given in ([str(base), "-f", str(above)], ["-f", str(base), "-f", str(above)]):
        found = json.loads(cli("plan", *given, "--json").stdout)
        assert found["changes"] == [{"service": "web", "action": "replace", "detail": "image web:1 -> web:9"}]
    assert "help: --profile more\n" in cli("plan", str(base), "-f", str(above), "--profile", "moer").stderr
    found = json.loads(cli("plan", str(base), "-f", str(above), "--profile", "more", "--json").stdout)
    assert [one["action"] for one in found["changes"]] == ["create", "replace"]
    assert "keep web" in cli("plan", "-", stdin=FILE).stdout
    assert "image: web:9" in cli("config", str(base), "-f", str(above)).stdout


def test_what_is_ignored_is_said_in_one_line_whole_on_demand_and_refused_when_strict(
    there: FakeApi, cli: Cli, tmp_path: Path
) -> None:
    file = tmp_path / "app.yml"
    file.write_text(FILE.replace("{image", "{cpu_shares: 5, image"))
    assert "cpu_shares" in cli("plan", str(file)).stdout.splitlines()[-1]
    assert "cpu_shares" not in cli("plan", str(file), "-q").stdout
    report = cli("plan", str(file), "--report").stdout
    assert "app.yml:2:18" in report
    assert "1 ignored" in report
    assert cli("plan", str(file), "--strict").returncode == 3


def test_data_dies_only_when_that_was_confirmed(there: FakeApi, cli: Cli) -> None:
    there.answers["DELETE", "/v1/apps/shop"] = {"revision": 413}
    there.lists["apps"] = []
    for refused in (cli("rm", "shop", "--volumes"), cli("rm", "shop", "--volumes", "--no-input")):
        assert refused.returncode == 2
        assert "--yes" in refused.stderr
    assert not [one for one in there.asked if one[0] == "DELETE"]
    assert cli("rm", "shop", "--volumes", "--yes").returncode == 0
    assert ("DELETE", "/v1/apps/shop?volumes=1", None) in there.asked


@pytest.mark.parametrize(("key", "code"), [(b"\x03", 130), (b"\x04", 130), (b"n\n", 2)])
def test_a_question_that_is_not_answered_with_yes_changes_nothing_and_says_so(
    there: FakeApi, tmp_path: Path, key: bytes, code: int
) -> None:
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        ["setsid", "--ctty", "--wait", sys.executable, "-m", "miniorch.cli.main", "rm", "shop", "--volumes"],
        env=surroundings(tmp_path), stdin=theirs, stdout=subprocess.PIPE, stderr=theirs,
    )  # fmt: skip
    try:
        assert process.stdout is not None
        assert b"for good" in os.read(process.stdout.fileno(), 1000)
        deadline = time.monotonic() + 10
        while process.poll() is None and time.monotonic() < deadline:  # a key that comes before it reads is lost
            os.write(ours, key)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(0.3)
        assert process.returncode == code
        assert b"nothing was done" in os.read(ours, 1000)
    finally:
        process.kill()
        process.communicate()
        os.close(ours)
        os.close(theirs)
    assert not [one for one in there.asked if one[0] == "DELETE"]


def test_plan_compares_with_what_runs_or_says_that_nothing_does(there: FakeApi, cli: Cli, tmp_path: Path) -> None:
    file = tmp_path / "app.yml"
    file.write_text(FILE.replace("web:1", "web:2"))
    assert cli("plan", str(file)).stdout.splitlines() == [
        "shop, compared with revision 412:",
        "  replace web: image web:1 -> web:2",
        "Exactly this, or nothing: miniorch run ... --if-revision 412",
    ]
    assert "image web:1 -> web:3" in cli("plan", str(file), "--image", "web=web:3").stdout
    there.stop()
    assert cli("plan", str(file)).stdout.splitlines() == [
        "shop: miniorch does not run here, so everything would be new:",
        "  create web: 2 x web:2",
    ]


def test_plan_says_where_each_task_would_go(there: FakeApi, cli: Cli, tmp_path: Path) -> None:
    file = tmp_path / "app.yml"
    file.write_text(FILE)
    rows = [("shop/web.1", "n1", "n1", ""), ("shop/web.2", "n1", "n2", ""), ("shop/web.10", "", "", "no node fits")]
    places = [dict(zip(("task", "before", "after", "why"), row, strict=True)) for row in rows]
    there.answers["POST", "/v1/apps/shop/plan"] = {"revision": 7, "changes": [], "places": places}
    assert cli("plan", str(file)).stdout.splitlines() == [
        "shop, compared with revision 7:",
        "Where its tasks would go, as things are now:",
        "  shop/web.1   n1",
        "  shop/web.2   n2  (is on n1)",
        "  shop/web.10  nowhere: no node fits",
    ]
    assert json.loads(cli("plan", str(file), "--json").stdout)["places"] == places


def test_what_if_tells_what_is_lost_what_moves_and_what_waits(there: FakeApi, cli: Cli) -> None:
    moves = [{"task": "shop/web.1", "before": "n1", "after": "n2", "why": ""}]
    waiting = [{"task": "shop/db.1", "before": "n1", "after": "", "why": "its volume shop/data lies on n1"}]
    answer = {"revision": 9, "lost": ["n1"], "moves": moves, "waiting": waiting, "dark": ["shop/db"]}
    there.answers["POST", "/v1/what-if"] = answer
    size = "cpu=2,memory=4g,label=zone:b"
    assert cli("what-if", "--kill", "n1", "--add", size, "--lose", "zone=a").stdout.splitlines() == [
        "lost: n1",
        "shop/db would lose all replicas that serve at the same moment",
        "TASK        IS ON  WOULD BE ON",
        "shop/web.1  n1     n2",
        "shop/db.1   n1     nowhere: its volume shop/data lies on n1",
        "asked at revision 9; nothing was changed",
    ]
    node = {"cpus": 2.0, "memory_bytes": 4 << 30, "labels": {"zone": "b"}}
    asked = {"kill": ["n1"], "drain": [], "lose": ["zone=a"], "add": [node], "strategy": ""}
    assert there.asked[-1] == ("POST", "/v1/what-if", asked)
    assert json.loads(cli("what-if", "--kill", "n1", "--json").stdout) == answer


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ((), "what if what?"),
        (("--add", "cpu=2"), '--add cpu=2 lacks "memory"'),
        (("--add", "cpus=2,memory=4g"), 'got "cpus=2", did you mean cpu?'),
        (("--add", "cpu=-1,memory=4g"), 'got "cpu=-1"'),
        (("--add", "cpu=inf,memory=4g"), 'got "cpu=inf"'),
        (("--add", "cpu=1,memory=lots"), 'got "memory=lots"'),
        (("--add", "cpu=1,memory=4g,label=zone"), 'got "label=zone"'),
    ],
)
def test_what_if_refuses_what_it_does_not_understand(cli: Cli, given: tuple[str, ...], message: str) -> None:
    done = cli("what-if", *given)
    assert (done.returncode, done.stdout) == (2, "")
    assert message in done.stderr


def test_services_end_with_whether_the_loss_of_a_node_is_survived(there: FakeApi, cli: Cli) -> None:
    assert cli("services").stdout.splitlines()[-1] == "survives the loss of any one node: yes"
    both = ("runs on n1 alone", "n1 is full")
    reasons = [{"service": key, "why": why} for key in ("shop/web", "shop/db") for why in both]
    there.answers["GET", "/v1/standing"] = {"revision": 412, "reasons": reasons, "tried": True}
    last = "survives the loss of any one node: no, because shop/web, shop/db: runs on n1 alone, n1 is full"
    assert cli("services").stdout.splitlines()[-1] == last
    row = json.loads(cli("services", "--json").stdout)[0]
    assert (row["survives_loss_of_a_node"], row["because"]) == (False, ["runs on n1 alone", "n1 is full"])


def test_exit_codes(there: FakeApi, cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "bad.yml").write_text("services: {web: {}}\n")
    assert cli("plan", str(tmp_path / "bad.yml")).returncode == 3
    assert cli("plan", str(tmp_path / "bad.yml"), "--image", "web").returncode == 2
    there.answers["PUT", "/v1/services/shop/web/replicas"] = Conflict("somebody else was faster")
    assert cli("scale", "shop/web=3").returncode == 7
    there.stop()
    down = cli("ps")
    assert down.returncode == 5
    assert down.stderr.splitlines()[-1] == "help: miniorch up"


def test_a_traceback_is_shown_only_when_asked_for(there: FakeApi, cli: Cli) -> None:
    assert "Traceback" not in cli("ps", "nope").stderr
    assert "Traceback" in cli("ps", "nope", "--debug").stderr
    assert "Traceback" in cli("ps", "nope", env={"MINIORCH_DEBUG": "1"}).stderr


def test_a_bug_of_ours_is_one_line_and_a_file(there: FakeApi, cli: Cli, tmp_path: Path) -> None:
    there.answers["GET", "/v1/tasks"] = {"nonsense": 1}
    done = cli("ps", env={"TMPDIR": str(tmp_path)})
    assert done.returncode == 1
    assert done.stderr.startswith("error[E0000]: this is a bug in miniorch (KeyError); details: ")
    assert "Traceback" in Path(done.stderr.split()[-1]).read_text()


def test_every_command_has_help_that_ends_with_an_example(cli: Cli) -> None:
    commands = [
        line.split()[0] for line in cli("--help").stdout.split("Commands:")[1].split("\n\n")[0].splitlines()[1:]
    ]
    assert len(commands) >= 23
    for command in commands:
        assert cli(command, "--help").stdout.splitlines()[-1].strip().startswith(f"Example: miniorch {command}")


def shell(tmp_path: Path, line: str, **more: str) -> subprocess.CompletedProcess[str]:
    """A line of sh in which `"$@"` is the command line."""
    argv = ["sh", "-c", line, "sh", sys.executable, "-m", "miniorch.cli.main"]
    env = {**surroundings(tmp_path), **more}
    return subprocess.run(argv, env=env, capture_output=True, text=True, timeout=60)


def test_an_output_that_cannot_be_written_is_no_bug(api: FakeApi, tmp_path: Path) -> None:
    closed = shell(tmp_path, '"$@" ps >&-')
    assert (closed.returncode, closed.stderr) == (0, "")
    full = shell(tmp_path, f'ulimit -f 0; "$@" ps > {tmp_path}/out')
    assert (full.returncode, full.stderr) == (1, "error[E0000]: the output cannot be written: file too large\n")
    odd = shell(tmp_path, '"$@" completion bash >&-', MINIORCH_COMPLETION_SECONDS="x")
    assert (odd.returncode, odd.stderr) == (0, "")


@pytest.mark.parametrize(
    ("words", "message", "remedy"),
    [
        ("pss", "there is no command pss; did you mean ps?", "miniorch ps --help"),
        ("ps --al", "there is no option --al; did you mean --all?", "miniorch ps --help"),
        ("ps -Z", "there is no option -Z", "miniorch ps --help"),
        ("ps --json=1", "--json wants no value", "--json"),
        ("ps a b", "miniorch ps takes 1 argument, so b is too much", "miniorch ps --help"),
        ("scale", "miniorch scale wants APP/SERVICE=N: how many tasks are wanted", "miniorch scale dockchat/web=3"),
        ("wait a --timeout x", '--timeout wants SECONDS, a number of at least 0.1; got "x"', "--timeout 300"),
        ("logs a -n -1", '--tail wants LINES, a whole number of at least 0; got "-1"', "--tail 100"),
        ("lab up --managers 9", '--managers wants N, a whole number from 1 to 7; got "9"', "--managers 1"),
        (
            "lab up --label n1:a_%=b",
            "--label: a_%=b is no label: the key wants letters, digits and . _ / -, at most 63, "
            "the value at most 128 printable characters",
            "--label node1:zone=b",
        ),
        ("up --node a_b", "--node wants letters, digits, . and -, at most 63", "--node node1"),
        ("wait a --for", "--for wants a value: up, ended or gone", "--for up"),
        ("wait a --for gon", '--for wants up, ended or gone; got "gon"', "--for gone"),
        ("completion csh", 'SHELL wants bash, zsh or fish; got "csh"', "miniorch completion bash"),
    ],
)
def test_wrong_usage_is_refused_in_plain_words(cli: Cli, words: str, message: str, remedy: str) -> None:
    done = cli(*words.split())
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"error[E0001]: {message}\nhelp: {remedy}\n"


def test_rm_wants_an_app_and_no_service(cli: Cli) -> None:
    done = cli("rm", "shop/web")
    assert (done.returncode, done.stderr.splitlines()[-1]) == (2, "help: miniorch scale shop/web=0")
