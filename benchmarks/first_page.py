"""How long until the first good page: miniorch beside the same containers started by hand.

    sudo .venv/bin/python benchmarks/first_page.py [--rounds 5]

Both sides start dockchat's three containers from images that are there, in the same order and with the same waits: db,
its health check passes, both web, theirs pass, the page answers. By hand means Docker's own network and command line.
`make run` also checks the machine and the images each time; that is part of what a user waits for, so it is measured,
too. The rounds alternate, so a machine that gets slower does so for both. Everything runs on a private test node.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "integration")]

from node import TestNode  # noqa: E402 (found by the line above)

BIN = ROOT / ".venv/bin"
DATA = Path(os.environ.get("MINIORCH_TEST_CACHE", "/var/cache/miniorch-tests/docker"))
BY_HAND = r"""
set -e
healthy() { until docker exec "$1" sh -c "$2" >/dev/null 2>&1; do sleep 0.1; done; }
docker network create shop >/dev/null
docker run -d --init --network shop --name db -v shopdata:/data/db "$MONGO" >/dev/null
healthy db "mongosh --quiet --eval 'quit(db.adminCommand({ping: 1}).ok ? 0 : 1)'"
for n in 1 2; do
    port=5000; if [ $n = 2 ]; then port=5001; fi
    docker run -d --init --network shop --name web$n -e MONGO_HOST=db -p $port:5000 "$WEB" >/dev/null &
done
wait
for n in 1 2; do
    healthy web$n "python -c \"from urllib.request import urlopen; urlopen('http://127.0.0.1:5000/healthz')\""
done
until python3 -c "from urllib.request import urlopen; urlopen('http://127.0.0.1:5000/')" 2>/dev/null; do sleep 0.1; done
"""
COMMANDS = {"miniorch run": "miniorch run examples/dockchat.yml", "make run": "make run"}
CLEAN = "docker rm -f web1 web2 db; docker network rm shop; docker volume rm shopdata"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    with TestNode(DATA) as node:
        node.start_dockerd()
        path = {"PATH": f"{BIN}:{os.environ['PATH']}"}

        def run(command: str, more: dict[str, str] | None = None, check: bool = True) -> str:
            return node.run(["sh", "-c", command], {**path, **(more or {})}, 300, check, cwd=ROOT).stdout

        run("make run")
        images = dict(line.split() for line in run("docker ps --format '{{.Names}} {{.Image}}'").splitlines())
        spec = {name.split("-")[1].split(".")[0]: image for name, image in images.items()}
        names = {"MONGO": spec["db"], "WEB": spec["web"]}
        table: dict[str, list[float]] = {"by hand": [], "miniorch run": [], "make run": []}
        print(f"{'round':>5} {'load':>5}  " + "  ".join(f"{name:>12}" for name in table))
        for number in range(1, rounds + 1):
            for name in table:
                run("miniorch rm dockchat --volumes --yes", check=False)
                run(CLEAN, check=False)
                started = time.monotonic()
                run(COMMANDS.get(name, BY_HAND), names)
                table[name].append(time.monotonic() - started)
            row = "  ".join(f"{values[-1]:10.2f} s" for values in table.values())
            print(f"{number:>5} {os.getloadavg()[0]:5.2f}  {row}", flush=True)
        base = table["by hand"]
        for name, values in table.items():
            ratios = [one / other for one, other in zip(values, base, strict=True)]
            print(f"{name}: median {statistics.median(values):.2f} s, ratio to by hand {statistics.median(ratios):.2f}")
        run("miniorch down --all --volumes --yes", check=False)


if __name__ == "__main__":
    main()
