"""Every refusal that a person can meet names what resolves it."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

from miniorch import errors

PRODUCT = Path(__file__).resolve().parents[3] / "miniorch"
KINDS = {
    name for name, kind in vars(errors).items() if isinstance(kind, type) and issubclass(kind, errors.MiniorchError)
}
FOR_PROGRAMS = (  # only a program that speaks the API wrongly gets these
    "the server knows no", "wants a component of", "the server has no", "a watch needs", "the request's body is not",
    "end of stream", "was not this store", "list again",
)  # fmt: skip


def raised() -> Iterator[tuple[str, ast.Call]]:
    files = [*PRODUCT.glob("cli/*.py"), *PRODUCT.glob("api/*.py"), PRODUCT / "up.py", PRODUCT / "transport.py"]
    for path in files:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in KINDS:
                yield f"{path.relative_to(PRODUCT)}:{node.lineno}", node


def test_every_refusal_has_a_remedy() -> None:
    found = list(raised())
    assert len(found) > 50
    without = [
        f"{where}: {ast.unparse(call)}"
        for where, call in found
        if not any(keyword.arg == "remedy" for keyword in call.keywords)
        and not any(words in ast.unparse(call) for words in FOR_PROGRAMS)
    ]
    assert without == []
