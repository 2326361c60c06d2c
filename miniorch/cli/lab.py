"""`lab`: the commands around `miniorch/lab/lab.py`."""

import os
import time
from collections.abc import Callable, Sequence
from functools import partial

from miniorch.cli.ask import Server
from miniorch.cli.output import Answer, detaching, done, table
from miniorch.errors import MiniorchError, UsageError
from miniorch.lab.lab import Lab
from miniorch.lab.machine import Machine
from miniorch.lab.plan import Place, read_labels, read_memory
from miniorch.transport import HttpTransport
from miniorch.up import need_root
from scheduler.attributes import check_labels

ASK_SECONDS = 2.0
TROUBLE: dict[str, tuple[Callable[[Lab, str], str], str]] = {
    "cut": (Lab.cut, "the cable of {0} is pulled; miniorch lab heal {0} plugs it in"),
    "heal": (partial(Lab.cut, healed=True), "the cable of {0} is plugged in"),
    "kill": (Lab.kill, "{0} has lost its power; miniorch lab start {0} gives it back"),
    "start": (Lab.start, "{0} is ready"),
    "pause": (partial(Lab.pause, on=True), "time stands still on {0}; miniorch lab resume {0} lets it go on"),
    "resume": (partial(Lab.pause, on=False), "time goes on on {0}"),
}


def open_lab(*, quiet: bool = False) -> Lab:
    return Lab(Place.here(), (lambda _: None) if quiet else print)


def up(
    nodes: int | None, managers: int | None, store: str | None, labels: Sequence[str], cpus: float, memory: str, *,
    quiet: bool,
) -> Answer:  # fmt: skip
    for node, wanted in read_labels(labels).items():
        try:
            check_labels(node, wanted)
        except UsageError as error:
            raise UsageError(f"--label: {error.message}", remedy=f"--label {node}:zone=b") from None
    lab = open_lab(quiet=quiet)
    began = time.monotonic()
    with detaching("interrupted; miniorch lab up makes the rest, miniorch lab down removes all"):
        names = lab.up(nodes or 0, store or "", read_labels(labels), cpus, read_memory(memory), managers or 0)
    took = time.monotonic() - began
    phases = {what: round(seconds, 2) for what, seconds in lab.seconds.items()}
    words = f"{len(names)} node{'s are' if len(names) != 1 else ' is'} ready after {took:.1f} s: {', '.join(names)}"
    if left := [machine.name for machine in lab.machines if machine.name not in names]:
        words += f"; left cut or paused: {', '.join(left)}"
    if (why := lab.wire.no_way_out) and not quiet:
        words += f"\nthey reach nothing outside of the lab: {why}"
    then = "miniorch nodes; miniorch run FILE; miniorch lab cut node2"
    return done(words, then, outcome="up", nodes=names, seconds=round(took, 2), phases=phases)


def ls() -> Answer:
    lab = open_lab()
    if lab.plan is None:
        return done("there is no lab: miniorch lab up makes one", nodes=[], ports={})
    need_root("look into the lab", "sudo miniorch lab ls")
    plugged = lab.wire.ports()
    cluster = _cluster_says(lab.sockets)
    nodes = [
        {"name": machine.name, "address": machine.plan.address(machine.node), "power": machine.state,
         "cable": {True: "plugged", False: "cut", None: ""}[plugged.get(machine.name)],
         "cluster": cluster.get(machine.name, ""), "pid": machine.pid_file.pid()}
        for machine in lab.machines
    ]  # fmt: skip
    ports = lab.ports()
    facts = {"nodes": nodes, "ports": ports, "socket": lab.sockets[0], "sockets": lab.sockets}
    head = {"name": "NODE"}
    words = [table([{head.get(name, name.upper()): str(value or "") for name, value in one.items()} for one in nodes])]
    return Answer(facts, "\n".join([*words, *(f"http://localhost:{port}  {one}" for port, one in ports.items())]))


def _cluster_says(sockets: Sequence[str]) -> dict[str, str]:
    """What the lab's servers call its nodes; empty when none answers."""
    from miniorch.model import NodeState

    server = Server(HttpTransport(*sockets, timeout_seconds=ASK_SECONDS))
    ready = {True: "ready", False: "not ready"}
    try:
        nodes = server.nodes()
    except MiniorchError:
        return {}
    return {one.name: ready[one.ready] if one.state is NodeState.READY else one.state.value for one in nodes}


def exec_(name: str, command: Sequence[str]) -> None:
    """Become the command: its terminal, signals and exit code are its own."""
    need_root("enter a node", "sudo miniorch lab exec")
    _become(open_lab().machine(name), command)


def shell(name: str) -> None:
    need_root("enter a node", "sudo miniorch lab shell")
    _become(open_lab().machine(name), [os.environ.get("SHELL") or "/bin/sh"])


def _become(machine: Machine, command: Sequence[str]) -> None:
    argv = machine.argv(command, os.getcwd())
    os.execvpe(argv[0], argv, machine.environment())


def trouble(verb: str, name: str) -> Answer:
    """Cut, heal, kill, start, pause, resume: each is done when it returns."""
    need_root(f"{verb} a node", f"sudo miniorch lab {verb} {name}")
    lab = open_lab(quiet=True)
    began = time.monotonic()
    work, words = TROUBLE[verb]
    node = work(lab, name)
    return done(words.format(node), outcome=verb, node=node, seconds=round(time.monotonic() - began, 2))


cut, heal, kill, start, pause, resume = (partial(trouble, verb) for verb in TROUBLE)


def load(image: str, *, quiet: bool) -> Answer:
    need_root("copy images into the lab", f"sudo miniorch lab load {image}")
    lab = open_lab(quiet=quiet)
    names = lab.load(image)
    return done(f"{image} is on {', '.join(names)}", outcome="loaded", nodes=names)


def down(*, images: bool, quiet: bool) -> Answer:
    lab = open_lab(quiet=quiet)
    lab.down(images=images)
    kept = not images and lab.place.state.exists()
    words = "the lab is gone" + (f"; images are kept in {lab.place.state}: miniorch lab down --images" * kept)
    return done(words, outcome="removed", images_kept=kept)
