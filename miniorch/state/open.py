"""From `--store` to a store.

The problem: one option names three kinds of store, and a slip must not quietly make an empty one somewhere else. The
idea: a URL, read strictly; what it does not allow is refused with the form that it should have had.

    sqlite:///var/lib/miniorch/state.db                    one file, one server: the default
    etcd://10.0.0.1:2379,10.0.0.2:2379,10.0.0.3:2379       several servers, one of which leads
    etcd://h1,h2/shop?ca=ca.pem&cert=me.pem&key=me.key     keys below /shop; TLS with a client's certificate
    memory:                                                forgotten at the end

Next file: `miniorch/state/sqlite.py`.
"""

import contextlib
import re
from pathlib import Path
from urllib.parse import parse_qsl, urlsplit

from miniorch.errors import UsageError
from miniorch.state.store import Store

FORMS = "sqlite:///path, etcd://host:port,host:port or memory:"


def open_store(url: str) -> Store:
    """The store at a URL. Does not wait for an etcd that is away: its first request does.

    Raises `UsageError` for a URL that names no store, and what opening an SQLite file raises (`SqliteStore`).
    """
    try:
        parts = urlsplit(url)
    except ValueError as error:
        raise UsageError(f"--store {url}: {error}", remedy=f"use {FORMS}") from None
    plain = not (parts.query or parts.fragment)
    if parts.scheme == "memory" and plain and not (parts.netloc or parts.path):
        from miniorch.state.memory import MemoryStore

        return MemoryStore()
    if parts.scheme == "sqlite" and plain and not parts.netloc and re.match("/+[^/]", parts.path):
        from miniorch.state.sqlite import SqliteStore

        return SqliteStore(Path(parts.path))
    if parts.scheme == "etcd" and parts.netloc and not parts.fragment:
        from miniorch.state.etcd import EtcdStore

        options = dict(parse_qsl(parts.query, keep_blank_values=True))
        return EtcdStore([_endpoint(one) for one in parts.netloc.split(",")], parts.path.rstrip("/"), _tls(options))
    raise UsageError(f"--store {url} names no store", remedy=f"use {FORMS}")


def _endpoint(text: str) -> str:
    """host:port, with etcd's usual port if there is none."""
    host, colon, port = text.rpartition(":")
    if not colon or text.endswith("]"):  # no port, and maybe an IPv6 address
        host, port = text, "2379"
    with contextlib.suppress(ValueError):
        if host and "@" not in host and (":" not in host or host.startswith("[")) and 0 < int(port) < 65536:
            return f"{host}:{port}"
    raise UsageError(f"--store: {text!r} is no host:port of an etcd", remedy=f"use {FORMS}")


def _tls(options: dict[str, str]) -> dict[str, str]:
    """The files named in a URL: ca, and cert with key."""
    if unknown := sorted(options.keys() - {"ca", "cert", "key"}):
        raise UsageError(f"--store: an etcd has no option {unknown[0]!r}", remedy="use ca=FILE&cert=FILE&key=FILE")
    if options and ("ca" not in options or ("cert" in options) != ("key" in options)):
        raise UsageError("--store: TLS wants ca, or ca, cert and key", remedy="use ca=FILE&cert=FILE&key=FILE")
    for name, file in options.items():
        try:
            Path(file).read_bytes()
        except OSError as error:
            raise UsageError(f"--store: {name}={file} cannot be read: {error.strerror}") from None
    if options:
        import ssl

        try:
            context = ssl.create_default_context(cafile=options["ca"])
            if "cert" in options:
                context.load_cert_chain(options["cert"], options["key"], password="")
        except OSError as error:
            why = getattr(error, "reason", "") or error
            raise UsageError(f"--store: ca, cert and key are no files for TLS, or not a pair: {why}") from None
    return options
