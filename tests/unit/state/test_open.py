"""`--store`: what names a store, and what is refused instead of making one somewhere else."""

from __future__ import annotations

from pathlib import Path

import pytest

from miniorch.errors import Temporary, UsageError
from miniorch.state.etcd import EtcdStore
from miniorch.state.memory import MemoryStore
from miniorch.state.open import _endpoint, open_store
from miniorch.state.sqlite import SqliteStore


async def test_url_names_the_kind_of_store(tmp_path: Path) -> None:
    for url, kind in (
        ("memory:", MemoryStore),
        (f"sqlite://{tmp_path}/deep/state.db", SqliteStore),
        ("etcd://10.0.0.1:2379,10.0.0.2:2379/shop", EtcdStore),
    ):
        store = open_store(url)
        assert type(store) is kind
        await store.close()
    assert (tmp_path / "deep" / "state.db").exists()


@pytest.mark.parametrize(
    ("text", "endpoint"),
    [
        ("h1", "h1:2379"),
        ("h1:1", "h1:1"),
        ("[::1]", "[::1]:2379"),
        ("[::1]:99", "[::1]:99"),
        ("10.0.0.1:2379", "10.0.0.1:2379"),
    ],
)
def test_endpoint_has_etcds_port_if_it_names_none(text: str, endpoint: str) -> None:
    assert _endpoint(text) == endpoint


@pytest.mark.parametrize(
    "url",
    [
        "", "state.db", "/var/lib/state.db", "sqlite:", "sqlite:state.db", "sqlite:///", "sqlite://state.db", "sqlite:///a?b=c",
        "memory:x", "memory://host", "etcd:", "etcd:///x", "etcd://h1#x", "etcd://h1:x", "etcd://h1:0",
        "etcd://h1:70000", "etcd://h1,,h2", "etcd://::1", "etcd://me:secret@h1:2379", "etcd://[::1", "http://h1",
        "postgres://h1/x",
    ],
)  # fmt: skip
def test_url_that_names_no_store_is_refused_with_the_forms_there_are(url: str) -> None:
    with pytest.raises(UsageError) as refused:
        open_store(url)
    assert "sqlite:///path" in refused.value.remedy


def test_certificates_are_asked_for_before_the_first_request(tmp_path: Path) -> None:
    file = tmp_path / "x.pem"
    file.write_text("")
    for query, words in (
        ("user=me", "no option 'user'"),
        (f"cert={file}&key={file}", "wants ca"),
        (f"ca={file}&cert={file}", "cert and key"),
        (f"ca={tmp_path}/none", "cannot be read"),
        ("ca=", "cannot be read"),
        (f"ca={file}", "no files for TLS"),
    ):
        with pytest.raises(UsageError, match=words):
            open_store(f"etcd://h1?{query}")


async def test_etcd_that_is_away_is_told_at_the_first_request() -> None:
    store = open_store("etcd://127.0.0.1:1")
    with pytest.raises(Temporary, match=r"no etcd answers at 127\.0\.0\.1:1"):
        await store.get("/a")
    await store.close()
