"""`up` and `down`: the processes of this machine."""

from miniorch.cli.ask import Server
from miniorch.cli.change import wait_until_gone
from miniorch.cli.output import confirm, sentence
from miniorch.clock import SystemClock
from miniorch.errors import MiniorchError, UsageError
from miniorch.up import Machine

GRACE_SECONDS = 30.0


def up(pool: str, node: str, *, systemd: bool) -> None:
    machine = Machine(print, node, pool)
    if systemd:
        machine.install_units()
        print(f"units {sentence([process.unit_name for process in machine.processes])} are enabled and run")
        return
    started = machine.ensure_up()
    print(f"{sentence(started)} started; all answer" if started else "server, net and agent run already")


def down(*, everything: bool, volumes: bool, yes: bool, no_input: bool) -> None:
    if volumes and not everything:
        raise UsageError("--volumes goes with --all", remedy="miniorch down --all --volumes")
    if volumes:
        confirm("The data in all volumes on this machine will be deleted for good. Go on?", yes=yes, no_input=no_input)
    machine = Machine(print)
    if everything:
        _remove_apps_politely()
    stopped = machine.undo(volumes=volumes) if everything else machine.down()
    print(f"{sentence(stopped)} stopped" if stopped else "no process of miniorch ran")
    if everything:
        print("removed: containers, network, HAProxy, state" + (", volumes" if volumes else "; volumes are kept"))
    elif stopped:
        print("containers and published ports go on; miniorch up takes them over again")


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
