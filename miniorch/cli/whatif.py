"""`what-if`: questions about nodes that are lost, drained or added, answered without touching anything."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from miniorch.cli.ask import Server
from miniorch.cli.output import Answer, nearest, table
from miniorch.errors import UsageError
from miniorch.lab.plan import read_memory

EXAMPLE = "--add cpu=2,memory=4g,label=zone:b"


def what_if(
    *, kill: Sequence[str], drain: Sequence[str], lose: Sequence[str], add: Sequence[str], strategy: str
) -> Answer:
    if not (kill or drain or lose or add or strategy):
        raise UsageError("what if what?", remedy="miniorch what-if --kill node2")
    body = {"kill": kill, "drain": drain, "lose": lose, "add": [_node(word) for word in add], "strategy": strategy}
    answer = Server().transport.request_now("POST", "/v1/what-if", body)
    words = [f"lost: {', '.join(answer['lost'])}"] * bool(answer["lost"])
    words += [f"{service} would lose all replicas that serve at the same moment" for service in answer["dark"]]
    rows = [(move["task"], move["before"] or "-", move["after"]) for move in answer["moves"]]
    rows += [(move["task"], move["before"] or "-", _waits(move)) for move in answer["waiting"]]
    words.append(table(("TASK", "IS ON", "WOULD BE ON"), rows, "every task would stay where it is"))
    return Answer(answer, "\n".join([*words, f"asked at revision {answer['revision']}; nothing was changed"]))


def _waits(move: dict[str, str]) -> str:
    """A task of a drained node runs on where it is until it has a place."""
    return f"{move['after']}, until it has a place: {move['why']}" if move["after"] else f"nowhere: {move['why']}"


def _node(words: str) -> dict[str, Any]:
    """`cpu=2,memory=4g,label=zone:b`. Raises `UsageError`."""
    node: dict[str, Any] = {"cpus": 0.0, "memory_bytes": 0, "labels": {}}
    for word in words.split(","):
        key, equals, value = word.partition("=")
        label, colon, text = value.partition(":")
        try:
            if key == "cpu" and 0 < float(value) < 1e6:
                node["cpus"] = float(value)
            elif key == "memory" and value:
                node["memory_bytes"] = read_memory(value)
            elif key == "label" and label and colon:
                node["labels"][label] = text
            else:
                raise ValueError
        except (ValueError, UsageError):
            near = nearest(key, ("cpu", "memory", "label"))
            hint = f", did you mean {near}?" if equals and near and near != key else ""
            wants = "--add wants cpu=, memory= and label=KEY:VALUE"
            raise UsageError(f'{wants}, got "{word}"{hint}', remedy=EXAMPLE) from None
    for key, option in (("cpus", "cpu=2"), ("memory_bytes", "memory=4g")):
        if not node[key]:
            raise UsageError(f'--add {words} lacks "{option.partition("=")[0]}"', remedy=EXAMPLE)
    return node
