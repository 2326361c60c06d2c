"""Telling the server what is true of each task, in batches, until it has heard.

The problem: a hundred tasks that start at once are a thousand changes of status, and the server may be away. The idea:
keep only the newest status of each task; send what has changed in one request per tenth of a second; forget a status
only when the server has confirmed it. Nothing of this needs the disk: after a crash the containers say it all again.
"""

import asyncio
import logging
from collections.abc import Iterable
from dataclasses import replace

from miniorch.client import RECONNECT_SECONDS, Transport
from miniorch.clock import Clock
from miniorch.errors import MiniorchError
from miniorch.model import HAS_RUN, Status, Task

log = logging.getLogger("agent")

WINDOW_SECONDS = 0.1  # between two requests
GATHER_SECONDS = 0.005  # what happens together goes together, and news after a quiet time goes at once
PROGRESS_SECONDS = 1.0
SETTLED_SECONDS = 2.0  # what was sent so long ago is in the server's lists, or has been lost


class Reporter:
    """The newest status of every task of this node, and which of them the server has not heard yet."""

    def __init__(self, transport: Transport, node: str, clock: Clock) -> None:
        self._transport = transport
        self._node = node
        self._clock = clock
        self._newest: dict[str, Status] = {}
        self._made: dict[str, tuple[Task, Status, Task]] = {}  # a listed task, its newest status, and the two as one
        self._unsent: dict[str, Status] = {}
        self._sent: dict[str, float] = {}  # task -> when it was last told of
        self._spoke: dict[str, float] = {}  # task -> when its last progress was passed on
        self._ran_since: dict[str, float] = {}  # task -> since when we know that it runs
        self._wake = asyncio.Event()

    def newest(self, task: Task) -> Task:
        """The task with the newest status known: ours, unless the server's is further in life."""
        own = self._newest.get(task.id)
        if own is None:
            return task
        made = self._made.get(task.id)
        if made is None or made[0] is not task or made[1] is not own:
            further = own == task.status or task.status.state.order > own.state.order
            made = self._made[task.id] = (task, own, task if further else replace(task, status=own))
        return made[2]

    def put(self, task: Task, status: Status) -> bool:
        """A new status; False for one that is not new, or further back in life than what is known."""
        known = self.newest(task).status
        backwards = status.state.order < known.state.order
        if status == known or backwards or (known.state.ended and status.state is not known.state):
            return False
        if status.state is not known.state:
            ran = self._clock.monotonic() - self._ran_since[task.id] if task.id in self._ran_since else 0.0
            status = replace(status, since=self._clock.now(), ran_seconds=ran if status.state.ended else 0.0)
        self._newest[task.id] = self._unsent[task.id] = status
        self._wake.set()
        return True

    def progress(self, task: Task, message: str) -> None:
        """A new message for a task that is being prepared; at most one a second is passed on."""
        now = self._clock.monotonic()
        if now - self._spoke.get(task.id, now - PROGRESS_SECONDS) >= PROGRESS_SECONDS:
            self._spoke[task.id] = now
            self.put(task, replace(self.newest(task).status, message=message))

    def compare(self, tasks: Iterable[Task]) -> None:
        """What the server says: forget tasks that it has forgotten, say again what it seems not to have kept."""
        listed = {task.id: task for task in tasks}
        for book in (self._newest, self._made, self._unsent, self._sent, self._spoke, self._ran_since):
            if not book.keys() <= listed.keys():
                for gone in [key for key in book if key not in listed]:
                    del book[gone]
        now = self._clock.monotonic()
        for key, task in listed.items():
            if key not in self._ran_since and self._newest.get(key, task.status).state in HAS_RUN:
                self._ran_since[key] = now
        settled = now - SETTLED_SECONDS
        for key, status in self._newest.items():
            kept = listed[key].status
            behind = kept.state.order < status.state.order
            if kept.state is status.state and self._sent.get(key, settled) <= settled:
                # An older report has come after a newer one. (Most are equal, and that is cheaper to see.)
                behind = kept != status and replace(kept, since=status.since) != status
            if behind and key not in self._unsent:
                self._unsent[key] = status
                self._wake.set()

    async def run(self) -> None:
        """Send, for ever."""
        sent_at = self._clock.monotonic() - WINDOW_SECONDS
        while True:
            await self._wake.wait()
            await asyncio.sleep(max(GATHER_SECONDS, sent_at + WINDOW_SECONDS - self._clock.monotonic()))
            sent_at = self._clock.monotonic()
            self._wake.clear()
            batch = dict(self._unsent)
            body = [{"task": key, "status": status} for key, status in batch.items()]
            self._sent.update(dict.fromkeys(batch, sent_at))
            try:
                await self._transport.request("POST", f"/v1/nodes/{self._node}/statuses", body)
            except MiniorchError as error:
                if error.temporary:
                    self._wake.set()
                    await asyncio.sleep(RECONNECT_SECONDS)
                    continue
                log.error("the server refused %d reports: %s", len(batch), error.message)
            for key, status in batch.items():
                if self._unsent.get(key) == status:
                    del self._unsent[key]
            if self._unsent:
                self._wake.set()
