"""`events` and `history`: what happened, and what was changed by whom asked for it."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from itertools import chain

from miniorch.cli.ask import Server
from miniorch.cli.output import Answer, detaching, json_text, table
from miniorch.client import RECONNECT_SECONDS
from miniorch.codec import from_plain
from miniorch.errors import Compacted, Temporary
from miniorch.model import Event


def events(app: str, *, follow: bool, tail: int, json: bool) -> Answer | None:
    """The newest events. With `follow` also those to come, one JSON object per line, over any restart of the server."""
    server = Server()
    # The revision first: what happens between the two questions is told twice rather than never, and then once.
    revision = server.version()["revision"] if follow else 0
    found = [one for one in server.events() if _about(one, app)]
    if app and not found:
        server.must_have(app)
    shown = found[-tail:] if tail else []
    if not follow:
        return Answer(shown, "\n".join(map(_line, shown)) or "no events")
    known = {one.id for one in found[: len(found) - len(shown)]}
    with detaching("ended; all events: miniorch events -n 1000"):
        for event in chain(shown, _coming(server, revision)):
            if event.id not in known and _about(event, app):
                print(json_text(event, line=True) if json else _line(event), flush=True)
            known.add(event.id)
    return None


def _about(event: Event, app: str) -> bool:
    return not app or event.subject.split("/")[0] == app


def _line(event: Event) -> str:
    return f"{time.strftime('%H:%M:%S', time.localtime(event.at))}  {event.subject}  {event.message}"


def _coming(server: Server, revision: int) -> Iterator[Event]:
    """Events after a revision, for ever. A gap in the history (-1) is filled from the list; some may come twice."""
    while True:
        try:
            if revision < 0:
                revision = server.version()["revision"]
                yield from server.events()
            connection, response = server.transport.open("GET", f"/v1/watch/events?revision={revision}")
            with contextlib.closing(connection):
                for change in server.transport.lines(response):
                    revision = change.get("revision", revision)
                    if "put" in change:
                        yield from_plain(Event, change["put"])
        except Compacted:
            revision = -1
        except Temporary:
            pass  # the server is away; it is asked again
        time.sleep(RECONNECT_SECONDS)


def history(app: str) -> Answer:
    """The releases of an app. Raises `NotFound`."""
    server = Server()
    found = server.releases(app)
    if not found:
        server.must_have(app)
    rows = [
        (str(one.number), time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(one.at)), "; ".join(one.changes))
        for one in found
    ]
    return Answer(found, table(("NUMBER", "WHEN", "CHANGES"), rows, f"{app} has no history yet"))
