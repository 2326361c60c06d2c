"""`run`, `plan` and `config`: from app files to an app that answers, or to the one reason why it does not.

Nothing here decides what happens to containers: the files become a spec, the spec goes to the server, and the rest is
waiting (`waiting.py`) and telling.
"""

import contextlib
import os
from collections.abc import Sequence
from typing import Any

from miniorch.appfile.read import AppFile, read_app_files
from miniorch.changes import ServiceChange, changes
from miniorch.cli.ask import Server
from miniorch.cli.output import Answer, detaching, nearest
from miniorch.cli.screen import open_screen
from miniorch.cli.waiting import Waiting
from miniorch.clock import SystemClock
from miniorch.codec import from_plain
from miniorch.contexts import elsewhere
from miniorch.errors import Temporary, UsageError
from miniorch.up import Machine


def read(
    file: str, files: Sequence[str], name: str, image: Sequence[str], profile: Sequence[str], strict: bool
) -> AppFile:
    """The app files with the options that change them. Raises `AppFileError`, `UsageError`."""
    replaced = {}
    for pair in image:
        service, equals, other = pair.partition("=")
        if not (service and equals and other):
            raise UsageError(f'--image wants SERVICE=IMAGE, got "{pair}"', remedy="--image db=mongo:7")
        replaced[service] = other
    paths = [path for path in (file, *files) if path]
    app = read_app_files(paths, os.environ, name=name, images=replaced, profiles=profile, strict=strict)
    for stranger in [one for one in profile if one not in (*app.profiles, "*")]:
        near = nearest(stranger, app.profiles) or next(iter(app.profiles), "")
        has = f"the profiles {', '.join(app.profiles)}" if near else "no profiles"
        remedy = f"--profile {near}" if near else "leave --profile out"
        raise UsageError(f"--profile {stranger}: {app.name} has {has}", remedy=remedy)
    return app


def plan(*, report: bool, quiet: bool, **files: Any) -> Answer:
    """What `run` would change; with `report` also what became of each key of the files."""
    app = read(**files)
    try:
        answer = Server().transport.request_now("POST", f"/v1/apps/{app.name}/plan", app.spec)
        head = f"{app.name}, compared with revision {answer['revision']}:"
    except Temporary:
        answer = {"revision": None, "changes": changes(app.name, app.spec, []), "places": []}
        head = f"{app.name}: miniorch does not run here, so everything would be new:"
    found = [from_plain(ServiceChange, plain) for plain in answer["changes"]]
    words = [head, *(f"  {change.describe()}" for change in found)]
    if answer["places"] is None:
        words.append("Where its tasks would go is not said of so many at once.")
    elif answer["places"]:
        words.append("Where its tasks would go, as things are now:")
        width = max(len(place["task"]) for place in answer["places"])
        for place in answer["places"]:
            moved = f"  (is on {place['before']})" if place["before"] not in ("", place["after"]) else ""
            why = f": {'stays as it is, ' if place['after'] else ''}{place['why']}" * bool(place["why"])
            words.append(f"  {place['task']:<{width}}  {place['after'] or 'nowhere'}{why}{moved}")
    if any(change.action != "keep" for change in found) and answer["revision"] and not quiet:
        words.append(f"Exactly this, or nothing: miniorch run ... --if-revision {answer['revision']}")
    summary = app.report.summary()
    words += app.report.lines() if report else [summary] * (bool(summary) and not quiet)
    return Answer({"app": app.name, **answer, "report": app.report.to_plain()}, "\n".join(words))


def config(**files: Any) -> Answer:
    """The files as they were understood: one app file that gives the same app, or its spec as JSON."""
    from miniorch.appfile.write import config_text

    app = read(**files)
    facts = {"app": app.name, "spec": app.spec, "report": app.report.to_plain()}
    return Answer(facts, config_text(app).rstrip("\n"))


def run(*, if_revision: int | None, detach: bool, timeout: float, quiet: bool, **files: Any) -> Answer:
    """Apply the files and wait until the app is up. Raises what the table of exit codes speaks of."""
    app = read(**files)
    screen = open_screen(quiet)
    if summary := app.report.summary():
        screen.say(summary)
    machine = None if elsewhere() else Machine(screen.say)  # others' processes are not ours to start
    with detaching(f"interrupted; nothing of {app.name} was changed yet: the same again starts what is missing"):
        if machine:
            machine.ensure_up()
    waiting = Waiting(app.name, Server(), screen, SystemClock(), timeout, machine)
    words = f"interrupted; {app.name} goes on: miniorch wait {app.name}, miniorch ps {app.name}"
    with detaching(words), contextlib.closing(screen):
        found = apply(waiting, app, if_revision)
        differs = [change for change in found if change.action != "keep"]
        for change in differs:
            screen.say(change.describe())
        at_once = not detach and waiting.until_up()
        if not detach:
            waiting.until_ports_answer()
    facts: dict[str, Any] = {"app": app.name, "outcome": "accepted" if detach else "up", "changes": found}
    if detach:
        return Answer(facts, f"{app.name}: accepted; miniorch wait {app.name} waits until it is up")
    places = {f"http://localhost:{port.published}": one.name for one in waiting.services for port in one.spec.ports}
    open_at = ", ".join(f"{url} ({name})" for url, name in places.items())
    facts |= {"seconds": round(waiting.waited(), 1), "addresses": places}
    if at_once and not differs:
        return Answer(facts, f"{app.name} is up and nothing has changed" + (f": {open_at}" if open_at else ""))
    counts = ", ".join(f"{one.name} {one.spec.replicas}/{one.spec.replicas}" for one in waiting.services)
    words = f"{app.name} is up: {counts} after {waiting.waited():.1f} s"
    some = next(iter(places.values()), waiting.services[0].name)
    words += f"\nopen {open_at}" if open_at and not quiet else ""
    return Answer(facts, words, f"miniorch logs {app.name}/{some} -f")


def apply(waiting: Waiting, app: AppFile, if_revision: int | None = None) -> list[ServiceChange]:
    """Hand the spec over. Asking twice is harmless, so it is asked again when the server dies meanwhile."""
    ask = waiting.server.transport.request_now
    path = f"/v1/apps/{app.name}" + (f"?if_revision={if_revision}" if if_revision is not None else "")
    answer = waiting.persist(lambda: ask("PUT", path, app.spec))
    return [from_plain(ServiceChange, plain) for plain in answer["changes"]]
