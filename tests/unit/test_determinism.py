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
    "miniorch/exchange.py": "HTTP whose two sides flow at once",
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
    "agent/layers.py": "the disk",
    "agent/haproxy.py": "a child process",
    "netplugin/main.py": "the host's name; the kernel is asked in a thread",
    "netplugin/driver.py": "the kernel is asked in a thread",
    "netplugin/trace.py": "probes from inside a container's namespace",
    "netplugin/kernel.py": "netlink sockets",
    "netplugin/resolve.py": "DNS on sockets",
    "netplugin/standin.py": "knocks at the agent's socket",
    "netplugin/nft.py": "one caller at a time in a library that knows no threads",
    "netplugin/conntrack.py": "netlink sockets",
    "netplugin/check.py": "the kernel is looked at in a thread",
}
MODULES = {
    "uuid", "secrets", "socket", "_socket", "socketserver", "http.client", "urllib.request",
    "threading", "_thread", "concurrent", "concurrent.futures", "multiprocessing",
}  # fmt: skip
CALLS = {
    "time.time", "time.monotonic", "time.perf_counter", "time.sleep", "time.time_ns", "time.monotonic_ns",
    "time.perf_counter_ns", "time.localtime", "time.gmtime", "time.ctime", "time.clock_gettime",
    "datetime.datetime.now", "datetime.datetime.utcnow", "datetime.datetime.today", "datetime.date.today",
    "os.urandom", "os.getrandom", "asyncio.to_thread",
}  # fmt: skip
# Methods of a loop or functions of asyncio: threads, and sockets by another name.
ANYBODYS = {
    "run_in_executor", "open_connection", "open_unix_connection", "start_server", "start_unix_server",
    "create_connection", "create_unix_connection", "create_server", "create_unix_server", "create_datagram_endpoint",
}  # fmt: skip
# The order of sets is lost in them.
ORDERLESS = {"sorted", "set", "frozenset", "any", "all", "len", "sum", "min", "max"}
ORDERED = {"list", "tuple", "enumerate", "iter", "next", "zip", "map", "filter", "dict", "deque", "str", "repr"}
TAKES_ITS_ORDER = {"join", "extend", "fromkeys", "chain", "sample", "gather"}
MADE_OF_SETS = {"union", "difference", "intersection", "symmetric_difference", "copy"}


def dotted(node: ast.expr) -> str:
    """`time.time` for an attribute of a name; "" for what is none."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute) and (front := dotted(node.value)):
        return f"{front}.{node.attr}"
    return ""


def imported(tree: ast.Module) -> dict[str, str]:
    """What the names of a file that come from elsewhere are called there."""
    names: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {one.asname: one.name for one in node.names if one.asname}
        if isinstance(node, ast.ImportFrom):
            names |= {one.asname or one.name: f"{node.module}.{one.name}" for one in node.names}
    return names


def forbidden(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """What reads the clock, rolls dice, starts threads or opens sockets by itself."""
    known = imported(tree)
    harmless = {id(one) for node in ast.walk(tree) for one in _named_or_seeded(node)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            origin = getattr(node, "module", "")
            for one in node.names:
                full = f"{origin}.{one.name}".lstrip(".")
                dice = origin == "random" and one.name != "Random"
                if full in MODULES | CALLS or origin in MODULES or dice or full == "time.*":
                    yield node.lineno, full
        if not isinstance(node, ast.Name | ast.Attribute):
            continue
        first, dot, rest = dotted(node).partition(".")
        name = known.get(first, first) + dot + rest
        anybodys = isinstance(node, ast.Attribute) and node.attr in ANYBODYS
        dice = name.startswith("random.") and not (name == "random.Random" and id(node) in harmless)
        if name in CALLS or anybodys or name.rpartition(".")[2] in ANYBODYS or dice:
            yield node.lineno, name or node.attr


def _named_or_seeded(node: ast.AST) -> Iterator[ast.AST]:
    """Where a generator's type is only named, or one is made from a seed."""
    if isinstance(node, ast.Call) and node.args and ast.unparse(node.args[0]) != "None":
        yield node.func
    for part in (getattr(node, field, None) for field in ("annotation", "returns", "slice")):
        if isinstance(part, ast.AST):
            yield from ast.walk(part)


class Sets(ast.NodeVisitor):
    """Iterations over what is visibly a set, where the order may come out."""

    def __init__(self, tree: ast.Module) -> None:
        self.names: set[str] = set()
        self.found: list[tuple[int, str]] = []
        makers = [one for one in ast.walk(tree) if isinstance(one, ast.FunctionDef | ast.AsyncFunctionDef)]
        self.functions = {one.name for one in makers if self._annotated(one.returns)}
        classes = [one for one in ast.walk(tree) if isinstance(one, ast.ClassDef)]
        fields = [one for cls in classes for one in cls.body if isinstance(one, ast.AnnAssign)]
        self.names = {f"self.{dotted(one.target)}" for one in fields if self._annotated(one.annotation)}

    def is_set(self, node: ast.expr | None) -> bool:
        match node:
            case ast.Set() | ast.SetComp():
                return True
            case ast.Call(func=ast.Name(id="set" | "frozenset")):
                return True
            case ast.Call(func=ast.Attribute(value=value, attr=attr)) if attr in MADE_OF_SETS:
                return self.is_set(value)
            case ast.Call(func=ast.Name(id=name) | ast.Attribute(attr=name)):
                return name in self.functions
            case ast.NamedExpr(value=value):
                return self.is_set(value)
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
        arguments = node.args.posonlyargs + node.args.args + node.args.kwonlyargs
        self.names |= {one.arg for one in arguments if self._annotated(one.annotation)}
        self.generic_visit(node)
        self.names = outer | {name for name in self.names if name.startswith("self.")}

    visit_AsyncFunctionDef = visit_FunctionDef

    @staticmethod
    def _annotated(annotation: ast.expr | None) -> bool:
        named = "" if annotation is None else ast.unparse(annotation).strip("'")
        return named.startswith(("set[", "frozenset[", "AbstractSet[", "Set["))

    def visit_Assign(self, node: ast.Assign) -> None:
        self.generic_visit(node)
        for target in node.targets:
            if isinstance(target, ast.Tuple | ast.List) and not isinstance(node.value, ast.Tuple | ast.List):
                self._note(node.value)
            (self.names.add if self.is_set(node.value) else self.names.discard)(dotted(target))

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        self.generic_visit(node)
        if self._annotated(node.annotation):
            self.names.add(dotted(node.target))

    def visit_For(self, node: ast.For) -> None:
        self._note(node.iter)
        self.generic_visit(node)

    def visit_YieldFrom(self, node: ast.YieldFrom) -> None:
        self._note(node.value)
        self.generic_visit(node)

    def visit_Starred(self, node: ast.Starred) -> None:
        self._note(node.value)
        self.generic_visit(node)

    def visit_Call(self, node: ast.Call) -> None:
        name = dotted(node.func)
        if name in ORDERED or (isinstance(node.func, ast.Attribute) and node.func.attr in TAKES_ITS_ORDER):
            for argument in node.args:
                self._note(argument)
        if name in ("min", "max", "sorted") and any(one.arg == "key" for one in node.keywords):  # of equals, the first
            self._note(node.args[0])
        if isinstance(node.func, ast.Attribute) and node.func.attr == "pop" and not node.args:
            self._note(node.func.value)
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
    sets = Sets(tree)
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
        "import time as t\nx = t.time()",
        "from time import *",
        "from random import Random\nx = Random()",
        "import random\nx = field(default_factory=random.Random)",
        "import random\nx = random.Random(None)",
        "from datetime import datetime as D\nD.now()",
        "import datetime as dt\ndt.date.today()",
        "import asyncio as a\nasync def f(): await a.to_thread(print)",
        "import asyncio\nasync def f(): await asyncio.get_running_loop().run_in_executor(None, print)",
        "import asyncio\nasync def f(): await asyncio.open_connection('h', 1)",
        "async def f(loop): await loop.create_server(print)",
        "import http.client",
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
        ("x = set(y)\nx.pop()", True),
        ("first, *rest = {1, 2}", True),
        ("for a in set(x).union(y): pass", True),
        ("def f() -> set[str]: ...\nfor x in f(): pass", True),
        ("class A:\n x: set[int]\n def f(self): return list(self.x)", True),
        ("max({1, 2}, key=f)", True),
        ("dict.fromkeys({1, 2})", True),
        ("def f(): yield from {1, 2}", True),
        ("max({1, 2})", False),
        ("x = [1]\nx.pop()", False),
        ("for x in sorted({1, 2}): pass", False),
        ("any(x for x in {1, 2})", False),
        ("z = {a for a in {1, 2}}", False),
        ("x = {*a, *b}", False),
        ("def f(x: set[str]): return x\ndef g(x: list[str]): return list(x)", False),
    ],
)
def test_the_lint_sees_orders_of_sets(code: str, seen: bool) -> None:
    assert bool(set_orders(ast.parse(code))) is seen
