"""Published ports on a real HAProxy, in a private network."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from node import TestNode

pytestmark = [pytest.mark.root, pytest.mark.docker]


def tell(node: TestNode, story: str) -> Any:
    script = Path(__file__).with_name("ingress_story.py")
    root = script.parent.parent.parent
    return json.loads(node.run([sys.executable, str(script), story], {"PYTHONPATH": str(root)}).stdout)


def test_reload_drops_no_connection(node: TestNode) -> None:
    seen = tell(node, "reload")
    assert seen["errors"] == []
    assert seen["asked"] == 500
    assert seen["answered"] == ["127.0.0.2", "127.0.0.3"]
    assert seen["after"] == ["127.0.0.2"], "a task that is not ready gets no connection once `apply` has returned"


def test_port_in_foreign_hands_is_named_and_left_out(node: TestNode) -> None:
    seen = tell(node, "held")
    assert seen["holder"].startswith("python")
    assert seen["holder"].endswith(f"(pid {seen['pid']})")
    assert seen["api"] in ("127.0.0.2", "127.0.0.3")
    assert seen["ours"] is False
    assert seen["web"] in ("127.0.0.2", "127.0.0.3"), "the port serves as soon as its holder has let go"


def test_haproxy_outlives_its_agent_and_is_found_again(node: TestNode) -> None:
    seen = tell(node, "life")
    assert seen["found again"], "the same process: nothing was started"
    assert seen["replaced"]
    assert seen["mode"] == "0o600"
    assert seen["no backend"] in ("RemoteDisconnected", "ConnectionResetError")
    assert "refused" not in seen
    assert seen["goes on"] in ("RemoteDisconnected", "ConnectionResetError"), "one that is refused harms nobody"
    assert seen["after kill"] in ("127.0.0.2", "127.0.0.3")
    assert seen["no port"] == ["ConnectionRefusedError", None]
