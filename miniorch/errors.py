"""Every error that miniorch raises on purpose, as a tree.

    MiniorchError                     code    exit   retry?
    ├── UsageError                    E0001     2    no    a command or option that makes no sense
    ├── AppFileError                  E01xx     3    no    the app file was refused, with its place
    ├── AppFailed                     E0401     1    no    the app ran and failed: unhealthy, exited, build broke
    ├── NotPlaced                     E0402     4    no    accepted, but no node fits
    ├── NotFound                      E0201     2    no    no such app, service, task
    ├── NotAllowed                    E0301     6    no    the user lacks a right
    ├── Conflict                      E0202     7    yes   somebody else changed it, or holds it
    ├── Unsupported                   E0203     2    no    asked of a backend that cannot do it
    └── Temporary                               5    yes   may work when tried again
        ├── Unreachable               E0302     5    yes   server, store or Docker does not answer
        ├── UnknownOutcome            E0304     5    yes   no answer came: it may have been done, or may still be
        ├── NotLeader                 E0305     5    yes   another server leads: ask that one
        └── Compacted                 E0303     5    yes   the revision asked for is history: list again
    EngineError                       E05xx     1    see   a container engine said no (`.temporary`)

An error is one message for a person. `remedy` is the one command that resolves it, if there is one. The command line
turns an error into that message and `exit_code`; the API turns it into `status` and a JSON body, and the client turns
that body back into the same class: `to_wire` and `from_wire`.
"""

from collections.abc import Mapping, Sequence
from typing import Any


class MiniorchError(Exception):
    """The root. Raise a subclass: its code, exit code and status are given behind its name, and else its parent's."""

    code = "E0000"
    exit_code = 1
    status = 500
    temporary = False
    known: dict[str, type["MiniorchError"]] = {}  # noqa: RUF012 (all kinds by name, filled below)

    def __init_subclass__(cls, **own: Any) -> None:
        for name, value in own.items():
            setattr(cls, name, value)
        MiniorchError.known[cls.__name__] = cls

    def __init__(self, message: str, *, remedy: str = "", code: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.remedy = remedy
        if code:
            self.code = code


class UsageError(MiniorchError, code="E0001", exit_code=2, status=422):
    """The request itself makes no sense: a bad name, a negative number."""


class AppFileError(MiniorchError, code="E0100", exit_code=3, status=422):
    """The app file was refused. The message names file, line and key; `details` has one mapping per mistake."""

    def __init__(
        self, message: str, *, remedy: str = "", code: str = "", details: Sequence[Mapping[str, Any]] = ()
    ) -> None:
        super().__init__(message, remedy=remedy, code=code)
        self.details = details


class AppFailed(MiniorchError, code="E0401"):
    """The app was started and did not come to life."""


class NotPlaced(MiniorchError, code="E0402", exit_code=4, status=409):
    """The app was accepted and no node can take one of its tasks."""


class NotFound(MiniorchError, code="E0201", exit_code=2, status=404):
    """There is no such thing."""


class NotAllowed(MiniorchError, code="E0301", exit_code=6, status=403):
    """The caller lacks a right."""


class Conflict(MiniorchError, code="E0202", exit_code=7, status=409):
    """Somebody else holds it or has changed it meanwhile."""


class Unsupported(MiniorchError, code="E0203", exit_code=2, status=501):
    """This backend does not do that; it says so instead of pretending."""


class Temporary(MiniorchError, code="E0300", exit_code=5, status=503, temporary=True):
    """Trying again later may work."""


class Unreachable(Temporary, code="E0302"):
    """Server, store or Docker does not answer."""


class UnknownOutcome(Temporary, code="E0304", status=504):
    """The request was sent and no answer came. Look before you repeat it, unless repeating does no harm."""


class NotLeader(Temporary, code="E0305", status=421):
    """This server does not lead, and what was asked is the leader's to do. The message names the leader."""


class Compacted(Temporary, code="E0303", status=410):
    """The revision asked for has been compacted away: list again and watch from there."""


class EngineError(MiniorchError, code="E0501"):
    """A container engine refused or failed. `temporary` says whether the same call may work later."""

    def __init__(self, message: str, *, temporary: bool = False, remedy: str = "", code: str = "") -> None:
        super().__init__(message, remedy=remedy, code=code)
        self.temporary = temporary


def to_wire(error: MiniorchError) -> dict[str, Any]:
    """The JSON body that the API sends for an error."""
    return {"error": type(error).__name__, "code": error.code, "message": error.message, "remedy": error.remedy}


def from_wire(body: Any, status: int) -> MiniorchError:
    """The error that an API body speaks of; an unknown body becomes a plain `MiniorchError`."""
    if isinstance(body, dict) and isinstance(body.get("message"), str):
        kind = MiniorchError.known.get(str(body.get("error")), MiniorchError)
        return kind(body["message"], remedy=str(body.get("remedy", "")), code=str(body.get("code", "")))
    return MiniorchError(f"the server answered with status {status} and no explanation")
