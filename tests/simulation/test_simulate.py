"""`miniorch simulate`: what it prints, what it refuses, and that one case is one history on every Python."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from mutants import MUTANTS

from miniorch.codec import from_plain, to_plain
from miniorch.errors import UsageError
from miniorch.simulation.chaos import KINDS, USERS, Case, check, draw, kinds_named
from miniorch.simulation.command import Outcome, command, failure, live, many, smallest

ROOT = Path(__file__).parents[2]
CASE = Case(5, nodes=2, seconds=90.0).with_faults(KINDS)
HISTORY = """
import sys, types
# Keys and certificates are no part of a simulation, and their library is built for one version of Python.
class Empty(types.ModuleType):
    def __getattr__(self, word):
        if word.startswith("__"):
            raise AttributeError(word)
        return type(word, (), {})
for name in ("miniorch.authority", "miniorch.state.backup", "miniorch.certificates"):
    sys.modules[name] = Empty(name)
from miniorch.simulation.chaos import KINDS, Case
from miniorch.simulation.command import live
print(live(Case(5, nodes=2, seconds=90.0).with_faults(KINDS)).hash)
"""


def simulate(*words: str, code: int = 0, stdin: str = "") -> str:
    """What it prints; for a refusal, what it says of it."""
    done = subprocess.run(
        [sys.executable, "-m", "miniorch.cli.main", "simulate", *words],
        input=stdin,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        cwd=ROOT,
    )
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout if code in (0, 1) else done.stderr


def pythons() -> list[str]:
    """Every Python from 3.11 to 3.13 that can be found here, this one first."""
    folder = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    named = [shutil.which(f"python3.{minor}") for minor in (11, 12, 13)]
    found = [sys.executable, *filter(None, named), *map(str, sorted(folder.glob("3.1[1-3].*/bin/python")))]
    return [one for one in dict.fromkeys(found) if subprocess.run([one, "-V"], capture_output=True).returncode == 0]


def compiled_for(python: str, folder: Path) -> Path:
    """A folder with the one package that is compiled for one version of Python, as the lock file has it."""
    version = subprocess.run([python, "-V"], capture_output=True, text=True, check=True).stdout.split()[1]
    found = re.search(r"^msgspec==(?:.*\\\n)+.*$", (ROOT / "requirements.lock").read_text(), re.M)
    assert found
    (folder / "wanted").write_text(found[0] + "\n")
    words = ["--python-version", version, "--only-binary=:all:", "--no-deps", "--require-hashes", "-q"]
    command = [sys.executable, "-m", "pip", "install", *words, "-r", folder / "wanted", "--target", folder / version]
    subprocess.run(command, check=True, timeout=120)
    return folder / version


def test_one_case_is_one_history_in_every_process_and_on_every_python(tmp_path: Path) -> None:
    """Sets of text are ordered differently in every process, and asyncio differs between versions."""
    found = {}
    for number, python in enumerate(pythons()):
        packages = next(path for path in sys.path if path.endswith("site-packages"))
        environment = {
            **os.environ,
            "PYTHONHASHSEED": str(number),
            "PYTHONPATH": f"{compiled_for(python, tmp_path)}:{ROOT}:{packages}",
        }
        done = subprocess.run(
            [python, "-c", HISTORY], env=environment, capture_output=True, text=True, timeout=120, check=False
        )
        found[python] = done.stdout.strip() or done.stderr
    assert set(found.values()) == {live(CASE).hash}, found
    assert len(live(CASE).hash) == 64
    assert live(replace(CASE, seed=6)).hash != live(CASE).hash


def test_faults_are_drawn_by_kind_so_that_fewer_kinds_and_fewer_seconds_shift_nothing() -> None:
    long, short = Case(17, seconds=420.0), Case(17, seconds=225.0)
    everything = draw(long, KINDS)
    assert {fault.kind for fault in everything} <= {*KINDS, *USERS}
    assert [fault for fault in everything if fault.kind in ("crash", *USERS)] == list(draw(long, ["crash"]))
    early = [fault for fault in everything if fault.at < short.trouble_seconds]
    assert [(fault.at, fault.kind, fault.target) for fault in draw(short, KINDS)] == [
        (fault.at, fault.kind, fault.target) for fault in early
    ]
    assert all(fault.at + fault.seconds <= 300.01 for fault in everything)
    assert from_plain(Case, json.loads(json.dumps(to_plain(CASE)))) == CASE


def test_in_a_large_cluster_nodes_have_more_faults_and_the_few_servers_no_more_than_in_a_small_one() -> None:
    def drawn(nodes: int, whom: str) -> int:
        return sum(whom in fault.target for seed in range(10) for fault in Case(seed, nodes).with_faults(KINDS).faults)

    assert drawn(500, "node") > 5 * drawn(5, "node")
    few = [
        [
            fault
            for seed in range(10)
            for fault in Case(seed, n).with_faults(["crash"]).faults
            if "node" not in fault.target
        ]
        for n in (5, 500)
    ]
    assert 0.5 < len(few[1]) / len(few[0]) < 2.0


def test_interrupted_run_tells_what_was_so_far() -> None:
    words = ["simulate", "--nodes", "3", "--seconds", "600"]
    command = [sys.executable, "-m", "miniorch.cli.main", *words]
    running = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT)
    assert running.stdout is not None
    first = running.stdout.readline()
    running.send_signal(signal.SIGINT)
    told, complaint = running.communicate(timeout=120)
    assert running.returncode == 130, complaint
    assert re.match(r"6\d of 600 virtual seconds", first)
    assert re.search(
        r"^interrupted at \d+ of 600 s; every promise was kept: \d+ virtual seconds, \d+ events, ", told, re.M
    )


def test_every_kind_of_fault_is_drawn_within_a_hundred_seeds() -> None:
    drawn = {fault.kind for seed in range(100) for fault in draw(Case(seed), KINDS)}
    assert drawn == {*KINDS, *USERS}


def test_good_run_tells_a_story_and_ends_with_0() -> None:
    words = ("--seed", "5", "--nodes", "2", "--seconds", "60", "--faults", "crash,partition")
    told = simulate(*words).splitlines()
    assert any("tasks run" in line for line in told)
    assert told[-1].startswith("every promise was kept: 60 virtual seconds, ")
    found = json.loads(simulate(*words, "--json"))
    assert (found["violations"], found["promises"], found["runs"]) == ([], [], 1)
    assert found["virtual_seconds"] == pytest.approx(60.0, abs=1.0)
    assert found["events"] > 50
    assert told[-1].endswith(f"history {found['hash'][:16]}")
    assert simulate(*words, "-q").splitlines() == told[-1:]


def test_many_seeds_are_one_sentence_and_one_hash() -> None:
    told = simulate("--nodes", "1", "--servers", "1", "--seconds", "60", "--count", "3", "--faults", "kill")
    assert told.splitlines()[-1] == "every promise was kept in 3 runs of 60 virtual seconds on 1 nodes"
    assert json.loads(simulate("--nodes", "1", "--seconds", "60", "--count", "2", "--json"))["runs"] == 2


def test_broken_promise_is_told_with_seed_events_the_command_and_the_faults_that_matter() -> None:
    case = Case(1, nodes=2, servers=1, seconds=60.0).with_faults(["kill"])
    with MUTANTS["start_before_what_is_needed"].make():
        (outcome,) = many([case], 1, lambda at, story: None)
        told = failure(outcome, replace(case, faults=()), command(case, "kill"))
    assert outcome.promises == ("NothingStartsBeforeWhatItNeeds",)
    lines = told.splitlines()
    assert lines[0] == "the last events before:"
    assert 10 < len(outcome.log) <= 50
    assert any(line.startswith("broken at ") and "of seed 1: " in line for line in lines)
    assert "again: miniorch simulate --seed 1 --nodes 2 --servers 1 --seconds 60 --faults kill" in lines
    assert any(", 0 on 2 are enough:" in line for line in lines)
    assert from_plain(Case, json.loads(lines[-1].removeprefix("as a case: "))) == replace(case, faults=())


def test_case_that_was_kept_is_run_as_it_is() -> None:
    case = Case(3, nodes=1, servers=1, seconds=60.0)
    found = json.loads(simulate("--case", "-", "--json", stdin=json.dumps(to_plain(case))))
    assert found["hash"] == live(case).hash


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--faults", "crsh"), 'there is no kind of fault "crsh"; did you mean crash?'),
        (("--faults", "crsh"), "help: --faults crash"),
        (("--faults", "zzz"), f"There are {', '.join(KINDS)}, all and none"),
        (("--nodes", "0"), "--nodes"),
        (("--nodes", "9999"), "--nodes wants 1 to 4000, got 9999"),
        (("--tasks", "5000"), "5000 tasks are too many for 5 nodes: each takes at most 200"),
        (("--seconds", "1"), "--seconds"),
        (("--seconds", "nan"), "--seconds wants 1 to 1000000, got nan"),
        (("--case", "/nowhere.json"), "--case /nowhere.json: no such file or directory"),
        (("--case", "pyproject.toml"), "--case pyproject.toml: not JSON"),
    ],
)
def test_what_makes_no_sense_is_refused_with_a_remedy(words: tuple[str, ...], said: str) -> None:
    told = simulate(*words, code=2)
    assert said in told
    assert "help: " in told


@pytest.mark.parametrize(
    ("case", "said"),
    [
        ('{"seed": "3"}', 'Case.seed: wants int, got "3"'),
        ('{"faults": [{"at": "1", "kind": "kill"}]}', 'Case.faults[0].at: wants float, got "1"'),
        ('{"nodes": 0}', "nodes wants 1 to 4000, got 0"),
        ('{"servers": 0}', "servers wants 1 to 99, got 0"),
        ('{"seconds": -60}', "seconds wants 1 to 1000000, got -60"),
        ('{"nodes": 1, "tasks": 201}', "201 tasks are too many for 1 nodes"),
        ('{"faults": [{"at": 20, "kind": "kil"}]}', "faults[0].kind wants one of scale, "),
        ('{"faults": [{"at": 20, "kind": "kill", "target": "node9"}]}', 'faults[0].target wants something like "node'),
        ('{"faults": [{"at": 20, "kind": "crash", "target": "agent"}]}', 'got "agent"'),
        ('{"faults": [{"at": 20, "kind": "clock", "target": "node1 soon"}]}', 'got "node1 soon"'),
        ('{"faults": [{"at": 2000, "kind": "freeze"}]}', "faults[0] wants at from 0 to less than 180 "),
        ('{"faults": [{"at": 1, "kind": "freeze", "seconds": -1}]}', "got 1 and -1"),
    ],
)
def test_case_that_cannot_be_run_is_refused_with_the_place_and_what_would_be_right(case: str, said: str) -> None:
    with pytest.raises(UsageError, match=re.escape(said)):
        check(from_plain(Case, {"seed": 3, **json.loads(case)}))


@pytest.mark.parametrize(
    ("case", "said"),
    [
        (
            '{"seed": 3, "fautls": []}',
            '--case -: Case: there is no key "fautls"; did you mean faults? There are seed, nodes, servers, seconds, ',
        ),
        (
            '{"seed": 3, "faults": [{"at": 1, "kind": "freeze"}, {"at": 2, "kind": "kill", "on": "node1"}]}',
            '--case -: Case.faults[1]: there is no key "on". There are at, kind, target and seconds',
        ),
    ],
)
def test_case_with_an_unknown_key_is_refused_with_its_file_the_key_and_what_there_is(case: str, said: str) -> None:
    assert said in simulate("--case", "-", code=2, stdin=case)


def test_case_that_cannot_be_run_is_refused_with_its_file() -> None:
    assert "--case -: nodes wants 1 to 4000, got 0" in simulate("--case", "-", code=2, stdin='{"seed": 3, "nodes": 0}')


def test_all_that_is_drawn_can_be_run_as_a_case() -> None:
    for seed in range(20):
        check(Case(seed, nodes=1 + seed, servers=1 + seed % 3, seconds=60.0 + 30 * seed).with_faults(KINDS))


def smallest_until(end: KeyboardInterrupt | bool) -> tuple[Case, int]:
    """What is left of a case when `end` comes in the middle of the first attempt, and how often it was asked."""
    case, asked = replace(CASE, nodes=1, servers=1, faults=CASE.faults[:1]), 0

    def out_of_time() -> bool:
        nonlocal asked
        asked += 1
        if asked == 5 and not isinstance(end, bool):
            raise end
        return asked >= 5 and end is True

    return smallest(Outcome(case, "", case.seconds, 0, ("TimeoutError",)), out_of_time), asked


def test_search_for_the_smallest_case_takes_the_end_of_its_time_for_no_broken_promise() -> None:
    assert len(smallest_until(True)[0].faults) == 1


def test_search_for_the_smallest_case_ends_with_ctrl_c() -> None:
    case, asked = smallest_until(KeyboardInterrupt())
    assert len(case.faults) == 1
    assert asked == 5


def test_kinds_are_named_once_and_in_any_order() -> None:
    assert kinds_named("all") == tuple(KINDS)
    assert kinds_named("none") == ()
    assert kinds_named("kill, crash,kill") == ("kill", "crash")
    with pytest.raises(UsageError, match="did you mean partition"):
        kinds_named("crash,partitions")
