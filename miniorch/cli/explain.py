"""`explain`: why a task is where it is or nowhere, what would help, and what the code of an error means.

The answer is a table of nodes and rules. What is the same everywhere is said once: rules that all nodes pass have no
column, nodes of which the same is to be told share a row. What a rule has seen and what it wants stands below the row.
"""

import re
import textwrap
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any
from urllib.parse import quote

from miniorch.cli.ask import Server, split_service
from miniorch.cli.complete import LESSONS
from miniorch.cli.output import Answer, ago, coloured, layout, sentence
from miniorch.clock import SystemClock
from miniorch.errors import NotFound

CODE = re.compile(r"[Ee]\d{4}")
WIDTH, NAMES_WIDTH = 110, 32
ON_RECORD, FEW = 5, 5  # decisions that are offered; tasks placed before one that are named

Json = Mapping[str, Any]


def explain(name: str, *, at: int | None, every_node: bool) -> Answer:
    """A lesson for a code; for all else nodes and rules, of now or as they were when it was decided."""
    if CODE.fullmatch(name):
        title, text = lesson(name.upper(), LESSONS.read_text())
        return Answer({"code": name.upper(), "title": title, "lesson": text}, f"{name.upper()} {title}\n\n{text}")
    answer = Server().transport.request_now("GET", _path(name, at, every_node))
    words = _then_lines(name, answer) if at is not None else _lines(name, answer, every_node)
    return Answer(answer, "\n".join(words))


def _path(name: str, at: int | None, every_node: bool) -> str:
    """What to ask of the server. A task of the past may be gone, so its name is not looked up here."""
    query = f"?at={at}" if at is not None else "?all=1" if every_node else ""
    if at is not None and "/" in name:
        app, service = split_service(quote(name))
        service, _, slot = service.partition(".")
        return f"/v1/explain/{app}/{service}{query}" + (f"&slot={slot}" if slot else "")
    if at is not None:
        return f"/v1/explain/{quote(name)}{query}"
    named = Server().resolve(name)
    return f"/v1/explain/{named.key if named.whole_service else named.tasks[-1].id}{query}"


def _lines(name: str, answer: Json, every_node: bool) -> Iterator[str]:
    if not answer["tasks"]:
        yield f"{name} has no live task (revision {answer['revision']})"
    if answer["held"]:
        words = f"{answer['service']} is not changed further, and what runs goes on: {answer['held']}"
        yield from _wrapped(words, 0)
    decisions = {one["revision"]: one for one in answer["decisions"]}
    shown = 0  # the record whose table was printed last
    for task in answer["tasks"]:
        if task["now"] or task["then"] or not task["like"]:
            where = f" on {task['node']}" if task["node"] else ""
            yield f"{task['name']} ({task['task']}) is {task['state']}{where}, revision {answer['revision']}"
            if task["now"] is None or task["waits_for"] or task["node"]:  # otherwise what follows says it all
                yield from _wrapped(task["message"], 2, 0)
            if task["node"] and task["waits_for"]:
                words = f"is to be replaced when nothing is missing: waits for {', '.join(task['waits_for'])}"
                yield from _wrapped(words, 2, 0)
            yield from _decided(task, decisions.get(task["then"]), answer["service"], shown, every_node)
            shown = task["then"] or 0
            yield from _now(task, every_node or len(answer["tasks"]) == 1, every_node)
    if alike := [task["name"] for task in answer["tasks"] if task["like"]]:
        yield f"{_names(alike)}: likewise"
    yield from _on_record(name, answer["on_record"])


def _decided(task: Json, then: Json | None, service: str, shown: int, every_node: bool) -> Iterator[str]:
    """The record of a task's decision, with its table unless that stands above."""
    if then is None and task["node"]:
        yield "  the record of its decision is no longer kept"
    if then is None:
        return
    mine = next(one for one in then["placed"] if one["task"] == task["task"])
    above = then["revision"] == shown
    yield f"  decided {_when(then)}{_beside(then, mine, service)}" + (" (above)" if above else ":")
    if not above:
        yield from _table(then["trace"], every_node)


def _now(task: Json, whole: bool, every_node: bool) -> Iterator[str]:
    """What would be decided now: a sentence for a task that has a node, and the table where it is wanted."""
    now = task["now"]
    if now is None:
        return
    yield f"  now: {now['why']}" if task["node"] else f"  {_fitting(now['trace'])}"
    if not task["node"] or now["verdict"] == "refused" or (whole and now["verdict"] == "elsewhere") or every_node:
        yield from _table(now["trace"], every_node)
        yield from _remedies(now)


def _then_lines(name: str, answer: Json) -> Iterator[str]:
    then, service = answer["then"], answer["service"]
    _, _, slot = name.partition("/")[2].partition(".")
    mine = next((one for one in then["placed"] if one["task"].startswith(name) or slot == str(one["slot"])), None)
    if mine is None:
        yield f"{service}: {then['in_all']} placed {_when(then)}; the first one saw:"
    else:
        what = f"{service}.{mine['slot']} ({mine['task']}) was placed on {mine['node']}"
        yield f"{what} {_when(then)}{_beside(then, mine, service)}:"
    yield from _table(then["trace"], every_node=False)
    yield from _on_record(name, answer["on_record"])


def _when(then: Json) -> str:
    when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(then["at"]))
    return f"at revision {then['revision']}, {when}, by {then['trace']['strategy']}"


def _beside(then: Json, mine: Json, service: str) -> str:
    """A task that was not the first of those placed together met the nodes with the others on them."""
    number = then["placed"].index(mine)
    if not number:
        return f", the first of {then['in_all']}; it saw" if then["in_all"] > 1 else "; it saw"
    name = service.partition("/")[2]
    before = [f"{name}.{one['slot']} on {one['node']}" for one in then["placed"][:number]]
    after = f", after {', '.join(before)}" if len(before) <= FEW else ""
    return f", number {number + 1} of {then['in_all']}{after}; the first one saw"


def _fitting(trace: Json) -> str:
    if not trace["nodes"]:
        return "no node fits: no node has registered yet"
    if not trace["fitting"]:
        return f"no node fits ({trace['looked_at']} looked at)"
    return f"{trace['fitting']} of {trace['looked_at']} nodes fit"


def _table(trace: Json, every_node: bool) -> Iterator[str]:
    rows = trace["rows"]
    failing = {rule["rule"] for row in rows for rule in row["rules"] if not rule["ok"]}
    shown = [rule for rule in trace["rules"] if every_node or rule in failing]
    scores = [score["name"] for score in rows[0]["scores"]] if rows else []
    points = [[row["scores"][number]["value"] for row in rows if row["fits"]] for number in range(len(scores))]
    told = [number for number, one in enumerate(points) if every_node or any(one)]
    told = told or list(range(len(scores)))[-1:] * bool(trace["fitting"])
    passed = [rule for rule in trace["rules"] if rule not in shown]
    if passed and rows:
        yield f"    passed by all: {', '.join(passed)}"
    cells = []
    for row in rows:
        marks = {rule["rule"]: "ok" if rule["ok"] else "no" for rule in row["rules"]}
        values = [str(row["scores"][number]["value"]) if row["fits"] else "" for number in told]
        cells.append([_row_name(row, trace["chosen"]), *(marks[rule] for rule in shown), *values])
    lines = layout(["NODES", *shown, *(scores[number] for number in told)], cells, None, coloured())
    yield f"    {lines[0]}"
    for row, line in zip(rows, lines[1:], strict=True):
        yield f"    {line}"
        yield from _below(row, passing=every_node and len(rows) <= FEW)
    if trace["looked_at"] < trace["nodes"]:
        yield f"    (of {trace['nodes']} nodes, {trace['looked_at']} are on record)"


def _row_name(row: Json, chosen: str) -> str:
    more = row["in_all"] - len(row["nodes"])
    text = _names(row["nodes"]) + f" and {more} more" * (more > 0)
    if len(text) > NAMES_WIDTH:
        text = f"{row['in_all']} nodes"
    return f"{text} <- chosen" if chosen in row["nodes"] and row["fits"] else text


def _below(row: Json, *, passing: bool) -> Iterator[str]:
    """The names that found no room in the row, and what its failing rules have seen; with `passing` all rules."""
    names = _names(row["nodes"]) + (", ..." if row["in_all"] > len(row["nodes"]) else "")
    lines = [names] if len(names) > NAMES_WIDTH else []
    of = "" if row["same"] else f" ({row['nodes'][0]})"
    told = [rule for rule in row["rules"] if not rule["ok"] or (passing and rule["detail"])]
    for line in [*lines, *(f"{rule['rule']}{of}: {rule['detail']}" for rule in told)]:
        yield from _wrapped(line, 6)


def _wrapped(text: str, indent: int, more: int = 2) -> list[str]:
    """Lines that are indented so far, those after the first a little more."""
    return textwrap.wrap(text, WIDTH, initial_indent=" " * indent, subsequent_indent=" " * (indent + more))


def _remedies(now: Json) -> Iterator[str]:
    trace = now["trace"]
    if trace["fitting"] or not trace["nodes"]:
        return
    if not now["remedies"]:
        yield "  nothing that could be changed on one node, or in one service, would help"
        return
    yield "  what would help:"
    for remedy in now["remedies"]:
        nodes, change = remedy["nodes"], remedy["change"]
        who = "any node" if len(nodes) == trace["nodes"] > 1 else _names(nodes, "or")
        yield from _wrapped(f"{who}, if {change['what']}", 4)
        if change["command"]:
            yield f"      {change['command']}"


def _on_record(name: str, records: Sequence[Json]) -> Iterator[str]:
    if not records:
        return
    now = SystemClock().now()
    told = [f"{one['revision']} ({ago(now - one['at'])} ago, {one['in_all']} placed)" for one in records[:ON_RECORD]]
    more = f" and {len(records) - ON_RECORD} more, the oldest {records[-1]['revision']}" * (len(records) > ON_RECORD)
    yield f"decisions on record, by revision: {', '.join(told)}{more}; miniorch explain {name} --at REVISION"


def _names(names: Sequence[str], last: str = "") -> str:
    """Names that count up stand as a range: `n1, n4..n9`; with `last`, before the last one that word."""
    parts: list[list[str]] = []
    for name in sorted(names, key=_counted):
        if parts and _next(parts[-1][-1]) == name:
            parts[-1].append(name)
        else:
            parts.append([name])
    words = [word for part in parts for word in ([f"{part[0]}..{part[-1]}"] if len(part) > 2 else part)]
    return sentence(words, last) if last else ", ".join(words)


def _next(name: str) -> str:
    """`n9` -> `n10`, `n09` -> `n10`; "" for what does not end in a number."""
    front, number, digits = _counted(name)
    return f"{front}{number + 1:0{digits}}" if digits else ""


def _counted(name: str) -> tuple[str, int, int]:
    """`n09` as ("n", 9, 2 digits)."""
    front = name.rstrip("0123456789")
    digits = name[len(front) :]
    return front, int(digits or "0"), len(digits)


def lesson(code: str, text: str) -> tuple[str, str]:
    """Title and text of the section `## E0102 title` of the lessons. Raises `NotFound` with the nearest code."""
    found = {one[1]: one for one in re.finditer(r"^## (E\d{4}) *(.*)\n((?:(?!## ).*\n?)*)", text, re.M)}
    if code not in found:
        nearest = min(found, key=lambda known: abs(int(known[1:]) - int(code[1:])), default="E0001")
        raise NotFound(f"no error has the code {code}; the nearest is {nearest}", remedy=f"miniorch explain {nearest}")
    return found[code][2].strip(), found[code][3].strip()
