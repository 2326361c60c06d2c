"""Verdicts as plain rows, for the API and `miniorch explain`.

The shape is the one in docs/api.md: per node whether it fits, and per rule the value seen. Fitting nodes come first.
"""

from collections.abc import Sequence
from typing import Any

from scheduler.request import Verdict


def rows(verdicts: Sequence[Verdict]) -> list[dict[str, Any]]:
    """`[{"node", "fits", "rules": [{"rule", "ok", "detail"}]}]`: every node, every rule."""
    return [
        {
            "node": verdict.node,
            "fits": verdict.fits,
            "rules": [{"rule": rule.rule, "ok": rule.ok, "detail": rule.detail} for rule in verdict.rules],
        }
        for verdict in sorted(verdicts, key=lambda verdict: not verdict.fits)
    ]
