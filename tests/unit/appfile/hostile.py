"""Files that are made to hurt the reader: large, deep, exploding. Run as a script it reads them all, with 400 MB.

    python tests/unit/appfile/hostile.py FOLDER

prints per file: its name, how many functions were called, and the first line of what the reader said. The count is the
bound of time: it is the same on every machine.
"""

from __future__ import annotations

import os
import resource
import sys
from pathlib import Path
from typing import Any

SCALE = 1 if "MINIORCH_FUZZ" in os.environ else 8  # what is only long is an eighth as long in `make test`
W = "services:\n  web:\n    image: x\n"


def few(size: int) -> int:
    return size // SCALE


def ladder(steps: int, width: int) -> str:
    """Aliases of aliases: width ** steps values."""
    rungs = [f"x-{n}: &a{n} [{', '.join([f'*a{n - 1}'] * width)}]\n" for n in range(1, steps)]
    return f"x-0: &a0 [{', '.join(['x'] * width)}]\n" + "".join(rungs)


def chain(length: int) -> str:
    """Services that extend each other, the last one first."""
    links = "".join(f"  s{n}: {{extends: s{n + 1}}}\n" for n in range(length))
    return f"services:\n{links}  s{length}: {{image: x}}\n"


def fan(users: int, size: int) -> str:
    """Many services that extend a large one."""
    big = ", ".join(f"E{n}: v" for n in range(size))
    return f"services:\n  base: {{image: x, environment: {{{big}}}}}\n" + "".join(
        f"  s{n}: {{extends: base}}\n" for n in range(users)
    )


FILES: dict[str, str | bytes] = {
    "brackets": "[" * 1_000_000,
    "braces": "{a: " * 250_000,
    "dashes": "- " * 500_000,
    "questions": "? " * 500_000,
    "items": "- x\n" * 100_100,
    "ladder": ladder(40, 2) + W,
    "wide ladder": ladder(9, 9) + W,
    "deep aliases": "x-0: &a0 [x]\n" + "".join(f"x-{n + 1}: &a{n + 1} [*a{n}]\n" for n in range(5000)) + W,
    "merges": "x-0: &a0 {A: 1}\n" + "".join(f"x-{n}: &a{n} {{<<: [*a{n - 1}, *a{n - 1}]}}\n" for n in range(1, 40)) + W,
    "chain": chain(few(2000)),
    "fan": fan(few(2000), 5000),
    "ranges": W + "    ports: ['1-65535:1-65535']\n",
    "many ranges": W + "    ports:\n"
    + "".join(f"      - {n}-{n + 99}:{n}-{n + 99}\n" for n in range(1, few(60_000), 99)),
    "ports": W + "    ports:\n" + "".join(f"      - {n}:80\n" for n in range(1, few(40_000))),
    "one port": W + "    ports:\n" + "      - 80:80\n" * few(40_000),
    "variables": W + "    environment:\n" + "".join(f"      E{n}: v\n" for n in range(few(40_000))),
    "one variable": W + "    environment:\n" + "      - E=v\n" * few(40_000),
    "mounts": W + "    volumes:\n" + "".join(f"      - /a:/b{n}\n" for n in range(few(30_000))),
    "unknown keys": W + "".join(f"    colour{n}: 1\n" for n in range(few(30_000))),
    "services": "services:\n" + "".join(f"  s{n}: {{image: x}}\n" for n in range(few(12_000))),
    "needs": "services:\n" + "".join(f"  s{n}: {{image: x, depends_on: [s{n + 1}]}}\n" for n in range(few(8000)))
    + f"  s{few(8000)}: {{image: x}}\n",
    "ring": "services:\n"
    + "".join(f"  s{n}: {{image: x, depends_on: [s{(n + 1) % few(8000)}]}}\n" for n in range(few(8000))),
    "volumes_from": "services:\n  s0: {image: x, volumes: [" + ", ".join(f"/v{n}" for n in range(500)) + "]}\n"
    + "".join(f"  s{n}: {{image: x, volumes_from: [s{n - 1}]}}\n" for n in range(1, few(5000))),
    "aliases": "services:\n  db: {image: x}\n"
    + "".join(f"  s{n}: {{image: x, links: ['db:a{n}']}}\n" for n in range(few(8000))),
    "strangers": "services:\n" + "".join(f"  s{n}: {{image: x, depends_on: [t{n}]}}\n" for n in range(few(8000))),
    "dollars": W + "    command: '" + "$$" * few(400_000) + "'\n",
    "variables in variables": W + "    command: '" + "${A:-" * 100_000 + "}" * 100_000 + "'\n",
    "closing braces": W + "    command: '" + "${A:-}" * few(150_000) + "'\n",
    "open braces": W + "    command: '" + "${A:-x" * 150_000 + "'\n",
    "a long line": W + "    command: " + "a b " * few(240_000) + "\n",
    "a long quotation": W + "    command: \"'" + "a " * few(400_000) + '"\n',
    "a long number": W + "    cpus: " + "9" * 900_000 + "\n",
    "a long duration": W + "    stop_grace_period: " + "1h" * few(400_000) + "\n",
    "a long key": "x" * 900_000 + ": 1\n",
    "long keys": W + "".join(f"    {'k' * 5000}{n}: 1\n" for n in range(150)),
    "a long name": f"services:\n  {'a' * 100_000}: {{image: x}}\n",
    "spaces": W + " " * 900_000,
    "lines": "\n" * 900_000,
    "comments": "#\n" * 450_000,
    "an include of itself": "include: [an include of itself.yml]\n" + W,
    "includes": "include: [" + ", ".join(["/dev/null"] * few(50_000)) + "]\n" + W,
    "zeros": b"\0" * 1_000_000,
    "not a text": b"\xff" * 1_000_000,
    "surrogates": W.encode() + b"    user: \xed\xa0\x80\n",
    "escaped surrogates": W + '    user: "\\ud800"\n',
    "byte order marks": b"\xef\xbb\xbf" * 300_000,
    "too large": "#" * 1_000_001,
    "keys": W + "x-keys: {" + ", ".join(f"k{n}: 1" for n in range(few(49_000))) + "}\n",
    "tags": "!a " * 300_000,
    "anchors": "&a " * 300_000,
    "documents": "--- x\n" * 150_000,
    "resets": W + "    environment: !reset {A: !reset {}}\n",
}  # fmt: skip


def write(folder: Path) -> None:
    for name, content in FILES.items():
        (folder / f"{name}.yml").write_bytes(content if isinstance(content, bytes) else content.encode())


def main(folder: Path) -> None:
    from miniorch.appfile.read import read_app_files
    from miniorch.errors import AppFileError

    resource.setrlimit(resource.RLIMIT_DATA, (400 << 20, 400 << 20))
    os.chdir(folder)
    calls = 0

    def count(frame: Any, event: str, argument: Any) -> None:
        nonlocal calls
        calls += event in ("call", "c_call")

    for name in FILES:
        calls = 0
        sys.setprofile(count)
        try:
            app = read_app_files([f"{name}.yml"], {"A": "1"})
            said = f"accepted, {len(app.spec.services)} services"
        except AppFileError as error:
            said = error.message.splitlines()[0]
        finally:
            sys.setprofile(None)
        print(f"{name}\t{calls}\t{said[:300]}", flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
