"""`run`, `plan` and `config`: from app files to an app that answers, or to the one reason why it does not.

Nothing here decides what happens to containers: the files become a spec, the spec goes to the server, and the rest is
waiting (`waiting.py`) and telling.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from typing import Any

from miniorch.appfile.read import AppFile, read_app_files
from miniorch.changes import ServiceChange, changes
from miniorch.cli.ask import Server
from miniorch.cli.output import as_json, detaching, nearest, outcome, suggest
from miniorch.cli.screen import open_screen
from miniorch.cli.waiting import Waiting
from miniorch.clock import SystemClock
from miniorch.codec import from_plain
from miniorch.contexts import elsewhere
from miniorch.errors import Temporary, UsageError
from miniorch.up import Machine


def read(files: Sequence[str], name: str, images: Sequence[str], profiles: Sequence[str], *, strict: bool) -> AppFile:
    """The app files with the options that change them. Raises `AppFileError`, `UsageError`."""
    replaced = {}
    for pair in images:
        service, equals, image = pair.partition("=")
        if not (service and equals and image):
            raise UsageError(f'--image wants SERVICE=IMAGE, got "{pair}"', remedy="--image db=mongo:7")
        replaced[service] = image
    paths = [file for file in files if file]
    app = read_app_files(paths, os.environ, name=name, images=replaced, profiles=profiles, strict=strict)
    for stranger in [one for one in profiles if one not in (*app.profiles, "*")]:
        near = nearest(stranger, app.profiles) or next(iter(app.profiles), "")
        has = f"the profiles {', '.join(app.profiles)}" if near else "no profiles"
        remedy = f"--profile {near}" if near else "leave --profile out"
        raise UsageError(f"--profile {stranger}: {app.name} has {has}", remedy=remedy)
    return app


def plan(app: AppFile, *, report: bool, quiet: bool, json: bool) -> None:
    """Print what `run` would change; with `report` also what became of each key of the files."""
    try:
        answer = Server().transport.request_now("POST", f"/v1/apps/{app.name}/plan", app.spec)
        head = f"{app.name}, compared with revision {answer['revision']}:"
    except Temporary:
        answer = {"revision": None, "changes": changes(app.name, app.spec, []), "places": []}
        head = f"{app.name}: miniorch does not run here, so everything would be new:"
    if json:
        as_json({"app": app.name, **answer, "report": app.report.to_plain()})
        return
    found = [from_plain(ServiceChange, plain) for plain in answer["changes"]]
    print("\n".join([head, *(f"  {change.describe()}" for change in found)]))
    if answer["places"] is None:
        print("Where its tasks would go is not said of so many at once.")
    elif answer["places"]:
        print("Where its tasks would go, as things are now:")
        width = max(len(place["task"]) for place in answer["places"])
        for place in answer["places"]:
            moved = f"  (is on {place['before']})" if place["before"] not in ("", place["after"]) else ""
            print(f"  {place['task']:<{width}}  {place['after'] or 'nowhere: ' + place['why']}{moved}")
    if any(change.action != "keep" for change in found) and answer["revision"] and not quiet:
        print(f"Exactly this, or nothing: miniorch run ... --if-revision {answer['revision']}")
    if report:
        print("\n".join(app.report.lines()))
    elif (summary := app.report.summary()) and not quiet:
        print(summary)


def config(app: AppFile, *, json: bool) -> None:
    """Print the files as they were understood: one app file that gives the same app, or its spec as JSON."""
    if json:
        as_json({"app": app.name, "spec": app.spec, "report": app.report.to_plain()})
        return
    from miniorch.appfile.write import config_text

    print(config_text(app), end="")


def run(app: AppFile, *, if_revision: int | None, detach: bool, timeout: float, quiet: bool, json: bool) -> None:
    """Apply the files and wait until the app is up. Raises what the table of exit codes speaks of."""
    screen = open_screen(quiet or json)
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
        outcome(f"{app.name}: accepted; miniorch wait {app.name} waits until it is up", json=json, **facts)
        return
    places = {f"http://localhost:{port.published}": one.name for one in waiting.services for port in one.spec.ports}
    open_at = ", ".join(f"{url} ({name})" for url, name in places.items())
    facts |= {"seconds": round(waiting.waited(), 1), "addresses": places}
    if at_once and not differs:
        words = f"{app.name} is up and nothing has changed" + (f": {open_at}" if open_at else "")
        outcome(words, json=json, **facts)
        return
    counts = ", ".join(f"{one.name} {one.spec.replicas}/{one.spec.replicas}" for one in waiting.services)
    words = f"{app.name} is up: {counts} after {waiting.waited():.1f} s"
    outcome(words + (f"\nopen {open_at}" if open_at and not quiet else ""), json=json, **facts)
    some = next(iter(places.values()), waiting.services[0].name)
    suggest(f"miniorch logs {app.name}/{some} -f", quiet=quiet or json)


def apply(waiting: Waiting, app: AppFile, if_revision: int | None = None) -> list[ServiceChange]:
    """Hand the spec over. Asking twice is harmless, so it is asked again when the server dies meanwhile."""
    ask = waiting.server.transport.request_now
    path = f"/v1/apps/{app.name}" + (f"?if_revision={if_revision}" if if_revision is not None else "")
    answer = waiting.persist(lambda: ask("PUT", path, app.spec))
    return [from_plain(ServiceChange, plain) for plain in answer["changes"]]
