"""How long the reader of app files takes, beside PyYAML's own fast parser on the same text; and on hostile files.

    .venv/bin/python benchmarks/app_files.py [--services 2000] [--rounds 7]

2,000 services are 180 kB. PyYAML's `CSafeLoader` only makes values of them; the reader keeps every place, checks every
key, and makes a spec and a report. The ratio is comparable between machines, the milliseconds are this one's.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[1]
os.environ["MINIORCH_FUZZ"] = ""  # the hostile files at their full length
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "unit" / "appfile")]

import hostile  # noqa: E402 (found by the line above)

from miniorch.appfile.read import read_app_files  # noqa: E402
from miniorch.appfile.write import config_text  # noqa: E402
from miniorch.errors import AppFileError  # noqa: E402

SLOWEST_SHOWN = 8


def services(count: int) -> str:
    """About 90 characters per service."""
    lines = ["services:\n"]
    for number in range(count):
        lines.append(f"  s{number}:\n    image: nginx:1.{number}\n    ports: ['{10000 + number}:80']\n")
        lines.append(f"    environment: {{A: {number}}}\n")
    return "".join(lines)


def milliseconds(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return (time.perf_counter() - started) * 1000


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--services", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path, text = Path(folder, "app.yml"), services(options.services)
        path.write_text(text)
        app = read_app_files([str(path)], {})
        works: dict[str, Callable[[], object]] = {
            "CSafeLoader": lambda: yaml.load(text, Loader=yaml.CSafeLoader),
            "read_app_files": lambda: read_app_files([str(path)], {}),
            "config_text": lambda: config_text(app),
        }
        times: dict[str, list[float]] = {name: [] for name in works}
        for _ in range(options.rounds):
            for name, work in works.items():
                times[name].append(milliseconds(work))
        base = statistics.median(times["CSafeLoader"])
        print(f"{options.services} services, {len(text) // 1000} kB")
        for name, values in times.items():
            middle = statistics.median(values)
            print(f"{name:16} median {middle:7.1f} ms   {middle / base:5.2f} x CSafeLoader")
        hostile.write(Path(folder))
        found = []
        for name in hostile.FILES:
            said = [""]
            took = milliseconds(lambda name=name, said=said: said.append(answer(Path(folder, f"{name}.yml"))))
            found.append((took, name, said[-1]))
        print(f"{len(found)} hostile files, median {statistics.median(one[0] for one in found):.0f} ms; the slowest:")
        for took, name, what in sorted(found, reverse=True)[:SLOWEST_SHOWN]:
            print(f"{name:16} {took:7.0f} ms   {what}")


def answer(path: Path) -> str:
    try:
        return f"accepted, {len(read_app_files([str(path)], {'A': '1'}).spec.services)} services"
    except AppFileError as error:
        return error.message.splitlines()[0][:90]


if __name__ == "__main__":
    main()
