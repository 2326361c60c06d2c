"""`scale` and `rm`: changes that need no app file."""

from miniorch.cli.ask import Server, split_service
from miniorch.cli.output import Answer, confirm, detaching, done
from miniorch.cli.screen import Screen
from miniorch.cli.waiting import Waiting
from miniorch.clock import Clock, SystemClock
from miniorch.errors import Unreachable, UsageError
from miniorch.spec import LABEL

REMOVE_SECONDS = 120.0


def scale(what: str, *, quiet: bool) -> Answer:
    name, equals, number = what.partition("=")
    if not (equals and number.isascii() and number.isdigit()):
        raise UsageError(f'"{what}" is not of the form APP/SERVICE=N', remedy="miniorch scale dockchat/web=3")
    app, service = split_service(name)
    Server().transport.request_now("PUT", f"/v1/services/{app}/{service}/replicas", {"replicas": int(number)})
    words = f"{name}: {int(number)} wanted" + ("" if quiet else f"; miniorch wait {name} waits until they are up")
    return done(words, name=name, outcome="accepted", replicas=int(number))


def remove(app: str, *, volumes: bool, yes: bool, no_input: bool, quiet: bool) -> Answer:
    """Remove an app and wait until nothing of it is left. Its volumes' data only when told to, and after a question."""
    if not LABEL.fullmatch(app):
        remedy = f"miniorch scale {app}=0" if "/" in app else "miniorch services"
        raise UsageError(f'"{app}" is no name of an app', remedy=remedy)
    if volumes:
        confirm(f"The data in all volumes of {app} will be deleted for good. Go on?", yes=yes, no_input=no_input)
    server = Server()
    server.transport.request_now("DELETE", f"/v1/apps/{app}" + ("?volumes=1" if volumes else ""))
    with detaching(f"interrupted; {app} is being removed all the same: miniorch wait {app} --for gone"):
        wait_until_gone(server, app, SystemClock())
    words = f"{app} is gone" + ("" if volumes or quiet else "; the data in its volumes is kept")
    return done(words, app=app, outcome="gone", volumes_kept=not volumes)


def wait_until_gone(server: Server, app: str, clock: Clock, seconds: float = REMOVE_SECONDS) -> None:
    """Raises `Unreachable` with what is left when it takes too long."""

    def late(_: str) -> Unreachable:
        left = ", ".join(f"{task.name} ({task.status.state.value})" for task in server.tasks(app))
        return Unreachable(
            f"{app} is not gone after {seconds:.0f} s: {left or 'its volumes are left'}",
            remedy="miniorch up, which starts the agent if it is away; then miniorch rm again",
        )

    waiting = Waiting(app, server, Screen(), clock, seconds)
    waiting.until(lambda: app if any(one.name == app for one in server.apps()) else "", late)
