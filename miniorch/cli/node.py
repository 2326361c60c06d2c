"""`up` and `down`: the processes of this machine."""

from miniorch.cli.ask import Server
from miniorch.cli.change import wait_until_gone
from miniorch.cli.output import Answer, confirm, detaching, done, sentence
from miniorch.clock import SystemClock
from miniorch.errors import MiniorchError, UsageError
from miniorch.up import Machine

GRACE_SECONDS = 30.0


def up(pool: str, node: str, store: str, *, systemd: bool, quiet: bool) -> Answer:
    machine, then = Machine((lambda _: None) if quiet else print, node, pool, store), "miniorch run FILE"
    with detaching("interrupted; what was started goes on: miniorch up starts the rest"):
        if systemd:
            machine.install_units()
            units = [process.unit_name for process in machine.processes]
            return done(f"units {sentence(units)} are enabled and run", then, outcome="up", units=units)
        started = machine.ensure_up()
    words = f"{sentence(started)} started; all answer" if started else "server, net and agent run already"
    return done(words, then, outcome="up", started=started)


def down(*, everything: bool, volumes: bool, yes: bool, no_input: bool, quiet: bool) -> Answer:
    if volumes and not everything:
        raise UsageError("--volumes goes with --all", remedy="miniorch down --all --volumes")
    if volumes:
        confirm("The data in all volumes on this machine will be deleted for good. Go on?", yes=yes, no_input=no_input)
    machine = Machine((lambda _: None) if quiet else print)
    again = f"miniorch down{' --all' * everything}{' --volumes' * volumes}"
    with detaching(f"interrupted; some of it is ended or removed already: {again} does the rest"):
        if everything:
            _remove_apps_politely()
        stopped = machine.undo(volumes=volumes) if everything else machine.down()
    words = [f"{sentence(stopped)} stopped" if stopped else "no process of miniorch ran"]
    if everything:
        words += ["removed: containers, network, HAProxy, state" + (", volumes" if volumes else "; volumes are kept")]
    elif stopped and not quiet:
        words += ["containers and published ports go on; miniorch up takes them over again"]
    return done("\n".join(words), outcome="removed" if everything else "down", stopped=stopped)


def _remove_apps_politely() -> None:
    """While the processes run, containers are asked to end. Whatever is left after that is removed without asking."""
    server = Server()
    try:
        apps = [app.name for app in server.apps()]
        for app in apps:
            server.transport.request_now("DELETE", f"/v1/apps/{app}")
        for app in apps:
            wait_until_gone(server, app, SystemClock(), GRACE_SECONDS)
    except MiniorchError:
        pass
