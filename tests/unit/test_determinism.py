"""Time, chance, threads and sockets are for a short list of adapters; everybody else takes them as parameters.

That is what lets the whole cluster run in `miniorch/simulation/` and a seed show the same history again. A file that
needs to be added to `ADAPTERS` needs a reason beside it.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PRODUCT = sorted(
    str(path.relative_to(ROOT))
    for room in ("miniorch", "agent", "scheduler", "netplugin")
    for path in (ROOT / room).rglob("*.py")
)
ADAPTERS = {
    "miniorch/clock.py": "the machine's time and chance",
    "miniorch/transport.py": "HTTP on a socket, read in a thread",
    "miniorch/listener.py": "opens sockets",
    "miniorch/up.py": "starts processes and waits for them",
    "miniorch/cli/": "a person's terminal",
    "miniorch/lab/lab.py": "nodes are started side by side; a person hears how long it took",
    "miniorch/lab/group.py": "waits for processes to end",
    "miniorch/lab/forward.py": "a socket inside a node's namespace, which only a thread can enter",
    "miniorch/state/sqlite.py": "all SQL runs in one thread",
    "miniorch/state/etcd": "the etcd client lives in threads",
    "miniorch/state/backup.py": "keys for a file that is encrypted",
    "miniorch/authority.py": "keys and certificates",
    "miniorch/simulation/loop.py": "refuses threads and sockets",
    "miniorch/simulation/command.py": "a person's terminal",
    "agent/main.py": "the host's name",
    "agent/docker_": "Docker's client lives in threads",
    "agent/files.py": "the disk",
    "agent/haproxy.py": "a child process",
    "netplugin/main.py": "the host's name; the kernel is asked in a thread",
    "netplugin/driver.py": "the kernel is asked in a thread",
    "netplugin/trace.py": "probes from inside a container's namespace",
    "netplugin/kernel.py": "netlink sockets",
    "netplugin/nft.py": "one caller at a time in a library that knows no threads",
    "netplugin/conntrack.py": "netlink sockets",
    "netplugin/check.py": "the kernel is looked at in a thread",
}
MODULES = {"uuid", "secrets", "socket", "threading", "concurrent.futures", "multiprocessing"}
CALLS = {
    "time.time", "time.monotonic", "time.perf_counter", "time.sleep", "time.time_ns", "time.monotonic_ns",
    "datetime.now", "datetime.utcnow", "datetime.today", "datetime.datetime.now", "datetime.datetime.utcnow",
    "os.urandom", "asyncio.to_thread",
}  # fmt: skip
# The order of sets is lost in them.
ORDERLESS = {"sorted", "set", "frozenset", "any", "all", "len", "sum", "min", "max"}
ORDERED = {"list", "tuple", "enumerate", "iter", "next", "zip", "map", "filter", "dict", "deque"}


def dotted(node: ast.expr) -> str:
    """`time.time` for an attribute of a name; "" for what is none."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute) and (front := dotted(node.value)):
        return f"{front}.{node.attr}"
    return ""


def forbidden(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """What reads the clock, rolls dice, starts threads or opens sockets by itself."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, one.name) for one in node.names if one.name in MODULES)
        if isinstance(node, ast.ImportFrom):
            full = [f"{node.module}.{one.name}" for one in node.names]
            yield from ((node.lineno, name) for name in full if name in CALLS or node.module in MODULES)
            yield from ((node.lineno, name) for name in full if node.module == "random" and name != "random.Random")
        name = dotted(node) if isinstance(node, ast.Attribute) else ""
        if name in CALLS or name.endswith(".run_in_executor"):
            yield node.lineno, name
        if name.startswith("random.") and name.count(".") == 1 and name != "random.Random":
            yield node.lineno, name
        if isinstance(node, ast.Call) and dotted(node.func) == "random.Random" and not node.args:
            yield node.lineno, "random.Random() without a seed"


class Sets(ast.NodeVisitor):
    """Iterations over what is visibly a set, where the order may come out."""

    def __init__(self) -> None:
        self.names: set[str] = set()
        self.found: list[tuple[int, str]] = []

    def is_set(self, node: ast.expr | None) -> bool:
        match node:
            case ast.Set() | ast.SetComp():
                return True
            case ast.Call(func=ast.Name(id="set" | "frozenset")):
                return True
            case ast.BinOp(op=ast.Sub() | ast.BitOr() | ast.BitAnd() | ast.BitXor()):
                return any(self.is_set(side) or self._keys(side) for side in (node.left, node.right))
            case ast.IfExp():
                return self.is_set(node.body) or self.is_set(node.orelse)
            case ast.Name() | ast.Attribute():
                return dotted(node) in self.names
        return False

    @staticmethod
    def _keys(node: ast.expr) -> bool:
        return isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "keys"

    def visit_FunctionDef(self, node: ast.FunctionDef | ast.AsyncFunctionDef) -> None:
        outer = set(self.names)
        arguments = node.args.args + node.args.kwonlyargs
        self.names |= {one.arg for one in arguments if self._annotated(one.annotation)}
        self.generic_visit(node)
        self.names = outer | {name for name in self.names if name.startswith("self.")}

    visit_AsyncFunctionDef = visit_FunctionDef

    @staticmethod
    def _annotated(annotation: ast.expr | None) -> bool:
        return annotation is not None and ast.unparse(annotation).startswith(("set[", "frozenset[", "AbstractSet["))

    def visit_Assign(self, node: ast.Assign) -> None:
        self.generic_visit(node)
        for target in node.targets:
            (self.names.add if self.is_set(node.value) else self.names.discard)(dotted(target))

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        self.generic_visit(node)
        if self._annotated(node.annotation):
            self.names.add(dotted(node.target))

    def visit_For(self, node: ast.For) -> None:
        self._note(node.iter)
        self.generic_visit(node)

    def visit_Starred(self, node: ast.Starred) -> None:
        self._note(node.value)
        self.generic_visit(node)

    def visit_Call(self, node: ast.Call) -> None:
        name = dotted(node.func)
        if name in ORDERED or (isinstance(node.func, ast.Attribute) and node.func.attr in ("join", "extend")):
            for argument in node.args:
                self._note(argument)
        if name in ORDERLESS and node.args and isinstance(node.args[0], ast.GeneratorExp | ast.ListComp):
            for part in ast.iter_child_nodes(node.args[0]):
                self.visit(part if not isinstance(part, ast.comprehension) else ast.Expr(part.iter))
            return
        self.generic_visit(node)

    def visit_ListComp(self, node: ast.ListComp | ast.DictComp | ast.GeneratorExp) -> None:
        for one in node.generators:
            self._note(one.iter)
        self.generic_visit(node)

    visit_DictComp = visit_GeneratorExp = visit_ListComp

    def visit_Set(self, node: ast.Set) -> None:
        for element in node.elts:  # {*a, *b}: a set again
            self.visit(element.value if isinstance(element, ast.Starred) else element)

    def _note(self, node: ast.expr) -> None:
        if self.is_set(node):
            self.found.append((node.lineno, f"goes through a set: {ast.unparse(node)}"))


def set_orders(tree: ast.Module) -> list[tuple[int, str]]:
    sets = Sets()
    sets.visit(tree)
    return sets.found


@pytest.mark.parametrize("path", PRODUCT)
def test_only_adapters_touch_time_chance_threads_and_sockets(path: str) -> None:
    if not path.startswith(tuple(ADAPTERS)):
        assert list(forbidden(ast.parse((ROOT / path).read_text()))) == []


@pytest.mark.parametrize("path", PRODUCT)
def test_nothing_depends_on_the_order_of_a_set(path: str) -> None:
    assert set_orders(ast.parse((ROOT / path).read_text())) == []


@pytest.mark.parametrize(
    "code",
    [
        "import time\ndef f(): return time.time()",
        "from time import monotonic",
        "import random\nx = random.choice([1])",
        "import random\nx = random.Random()",
        "from random import shuffle",
        "import uuid",
        "from datetime import datetime\ndatetime.now()",
        "import asyncio\nasync def f(): await asyncio.to_thread(print)",
        "async def f(loop): await loop.run_in_executor(None, print)",
        "import socket",
        "import os\nos.urandom(8)",
        "from secrets import token_hex",
    ],
)
def test_the_lint_sees_what_it_forbids(code: str) -> None:
    assert list(forbidden(ast.parse(code)))


@pytest.mark.parametrize(
    ("code", "seen"),
    [
        ("for x in {1, 2}: pass", True),
        ("x = set(y)\nz = [a for a in x]", True),
        ("def f(x: set[str]): return list(x)", True),
        ("for key in old.keys() - new.keys(): pass", True),
        ("','.join({a for a in b})", True),
        ("class A:\n def __init__(self): self.x: set[int] = set()\n def f(self): return tuple(self.x)", True),
        ("for x in sorted({1, 2}): pass", False),
        ("any(x for x in {1, 2})", False),
        ("z = {a for a in {1, 2}}", False),
        ("x = {*a, *b}", False),
        ("def f(x: set[str]): return x\ndef g(x: list[str]): return list(x)", False),
    ],
)
def test_the_lint_sees_orders_of_sets(code: str, seen: bool) -> None:
    assert bool(set_orders(ast.parse(code))) is seen
