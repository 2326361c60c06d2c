"""One member of an etcd: calls that never block the event loop, and what their failures mean.

The problem: a call that breaks off says nothing about whether it was done, a frozen member says nothing at all, and the
client library blocks its thread meanwhile. The idea: every call has a deadline and is a future of gRPC's own threads;
every failure becomes one of three words. `Unreachable`: surely not done, or a read. `UnknownOutcome`: a write that was
sent. Everything else is the caller's mistake.

The package `etcd3` brings messages, stubs and channels. Its watcher is not used: it does not resume after an error, it
cannot be ended without a traceback, and all watches of a client share one thread.

Who does this for real: etcd's own client (clientv3), whose watches resume and whose writes are never repeated. Next
file: `miniorch/state/etcd.py`.
"""

import asyncio
import contextlib
import os
import re
import threading
import warnings
from collections.abc import AsyncGenerator, Iterator, Mapping
from typing import Any

from miniorch.errors import MiniorchError, NotAllowed, Temporary, UnknownOutcome, Unreachable, UsageError

os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # it would tell standard error of every failed handshake
with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # its generated messages use what protobuf has deprecated since
    import etcd3
    import grpc
    from etcd3 import etcdrpc as rpc

__all__ = ["answer", "connect", "failure", "grpc", "responses", "rpc"]

QUIET_SECONDS = 4.0  # a watch that has told nothing for so long is asked for a sign of life
SIGN_SECONDS = 4.0  # and has so long to give one
TLS = "--store etcd://host:port?ca=FILE&cert=FILE&key=FILE, with files that fit this etcd"
FULL = "wait 5 minutes: compaction makes room; if it stays full: start etcd with a larger --quota-backend-bytes"
RESPONSES_AHEAD = 16  # read from the network before the event loop has taken them; then TCP holds etcd back
_OPTIONS = {
    "grpc.keepalive_time_ms": 10_000,  # etcd hangs up on those who ping more often than every 5 s
    "grpc.keepalive_timeout_ms": 4_000,
    "grpc.http2.ping_timeout_ms": 4_000,  # without it gRPC waits another minute
    "grpc.http2.max_pings_without_data": 0,
    "grpc.initial_reconnect_backoff_ms": 100,
    "grpc.min_reconnect_backoff_ms": 2_000,  # in truth: how long connecting may take
    "grpc.max_reconnect_backoff_ms": 1_000,
    "grpc.use_local_subchannel_pool": 1,  # a new client is a new connection, not the broken one again
    "grpc.enable_http_proxy": 0,
    "grpc.max_receive_message_length": -1,  # a watch tells whole revisions, which may be above gRPC's 4 MiB
    "grpc.max_send_message_length": -1,
}


def connect(endpoint: str, tls: Mapping[str, str]) -> Any:
    """A client of one member; it connects at its first call."""
    host, _, port = endpoint.rpartition(":")
    client = etcd3.Etcd3Client(
        host, port, tls.get("ca"), tls.get("key"), tls.get("cert"), grpc_options=tuple(_OPTIONS.items())
    )
    client.kvstub.Txn = client.channel.unary_unary("/etcdserverpb.KV/Txn")  # takes and gives bytes: see etcd_txn.py
    return client


async def answer(call: Any) -> Any:
    """The response to a gRPC future. Raises `grpc.RpcError`. Whoever gives up waiting does not undo the call."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[None] = loop.create_future()

    def tell() -> None:
        if not done.done():
            done.set_result(None)

    def from_its_thread(_: Any) -> None:
        with contextlib.suppress(RuntimeError):  # the loop has been closed: nobody waits any more
            loop.call_soon_threadsafe(tell)

    call.add_done_callback(from_its_thread)
    await done
    if call.code() is not grpc.StatusCode.OK:
        raise call
    return call.result()


def failure(endpoint: str, error: Any, writes: bool) -> MiniorchError:
    """What a failed call means. `error` is a `grpc.RpcError`."""
    code, details = error.code(), str(error.details())
    there = f"on the machine of etcd {endpoint}: systemctl status etcd"
    said = f"etcd {endpoint}: {details.removeprefix('etcdserver: ')}"
    if "database space exceeded" in details:  # etcd may notice only after it has written
        return UnknownOutcome(said, remedy=FULL)
    if "too many requests" in details:
        return Temporary(said)
    if code is grpc.StatusCode.INVALID_ARGUMENT:
        return UsageError(said, remedy="start etcd without --max-txn-ops and --max-request-bytes")
    if code in (grpc.StatusCode.PERMISSION_DENIED, grpc.StatusCode.UNAUTHENTICATED):
        return NotAllowed(said, remedy=TLS)
    if "failed to connect" in details:
        why = details.rpartition(": ")[2]
        if why == "OK" or re.search("TSI|handshak|Socket closed", why):  # what gRPC says of TLS
            return Unreachable(f"etcd {endpoint} wants other certificates, or TLS, or none ({why})", remedy=TLS)
        return Unreachable(f"no etcd answers at {endpoint}: {why}", remedy=there)
    if code is grpc.StatusCode.DEADLINE_EXCEEDED:
        said = f"etcd {endpoint} did not answer in time"
    if writes:
        return UnknownOutcome(f"{said}; it may have been done", remedy=there)
    return Unreachable(said, remedy=there)


async def responses(endpoint: str, client: Any, watch: Any) -> AsyncGenerator[Any, None]:
    """What one watch is told, response by response; None for a sign of life. Raises `Unreachable` when it breaks off.

    `watch` is a `WatchCreateRequest`. A member that has lost the others ends the watch instead of falling silent
    (`hasleader`), and a silent one must show that it can still read what all members have agreed upon.
    """
    loop = asyncio.get_running_loop()
    told: asyncio.Queue[Any] = asyncio.Queue()
    ahead, ended = threading.Semaphore(RESPONSES_AHEAD), threading.Event()

    def requests() -> Iterator[Any]:
        yield rpc.WatchRequest(create_request=watch)
        ended.wait()

    def pump() -> None:
        item: Any
        try:
            for item in call:
                loop.call_soon_threadsafe(told.put_nowait, item)
                ahead.acquire()
                if ended.is_set():
                    return
            item = Unreachable(f"etcd {endpoint} ended the watch")
        except grpc.RpcError as error:
            item = failure(endpoint, error, writes=False)
        except RuntimeError:  # the loop has been closed
            return
        with contextlib.suppress(RuntimeError):
            loop.call_soon_threadsafe(told.put_nowait, item)

    call = rpc.WatchStub(client.channel).Watch(requests(), metadata=(("hasleader", "true"),))
    threading.Thread(target=pump, name=f"etcd watch {endpoint}", daemon=True).start()
    try:
        while True:
            try:
                async with asyncio.timeout(QUIET_SECONDS):
                    item = await told.get()
            except TimeoutError:
                yield await _sign_of_life(endpoint, client, watch.key)
                continue
            ahead.release()
            if isinstance(item, MiniorchError):
                raise item
            yield item
    finally:
        ended.set()
        call.cancel()
        ahead.release()


async def _sign_of_life(endpoint: str, client: Any, key: bytes) -> Any:
    request = rpc.RangeRequest(key=key, count_only=True)
    try:
        return await answer(client.kvstub.Range.future(request, SIGN_SECONDS))
    except grpc.RpcError as error:
        raise failure(endpoint, error, writes=False) from None
