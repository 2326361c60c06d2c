"""What a rule proposes is true: with its change, and nothing else, all that failed holds on that node.

What held before may fail then (a task that was in one rule's way was what another one wanted), and that the whole
change puts a task somewhere is tried before it is told: `scheduler/remedies.py`.
"""

from __future__ import annotations

from boards import board, node, task, wants
from hypothesis import given, settings
from hypothesis import strategies as st

from scheduler.filters import FILTERS
from scheduler.remedies import tried
from scheduler.spellings import expression

RULES = (
    "node.labels.zone == a", "node.labels.zone != a", "node.labels.zone in a, b", "node.labels.zone not exists",
    "node.labels.cores >= 4", "node.labels.cores < 4", "labels.zone matches a*", "node.labels.zone not matches /^a$/",
    "engine.labels.zone == a", "node.name == n1", "constraint:zone==a", "constraint:zone!=~a",
    "service == db", "service != db", "service == web within node.labels.zone", "service != web within labels.zone",
    "service != db within node.labels.zone", "service == db within node.labels.zone", "task == db.1", "task != web*",
    "image == redis:7", "image == redis", "image != redis", "image != nginx", "container.labels.tier == front",
    "container.labels.tier != front", "replicas <= 1", "replicas <= 1 within node.labels.zone",
    "replicas together within node.labels.zone", "replicas evenly 2 within node.labels.zone",
    "replicas evenly within node.labels.zone", "service == api within engine.labels.zone",
)  # fmt: skip
THEIRS = ("service != web", "service != web within node.labels.zone", "image != nginx within labels.zone")
NODES = ("n1", "n2", "n3", "n4")
labels = st.fixed_dictionaries({}, optional={"zone": st.sampled_from("abc"), "cores": st.sampled_from(["2", "8"])})


@settings(max_examples=400)
@given(
    rules=st.lists(st.sampled_from(RULES), min_size=1, max_size=3, unique=True),
    theirs=st.lists(st.sampled_from(THEIRS), max_size=1),
    nodes=st.lists(labels, min_size=1, max_size=4),
    running=st.lists(st.tuples(st.sampled_from(NODES), st.sampled_from(["web", "db", "api"])), max_size=6),
    most=st.integers(0, 2),
)
def test_with_the_change_that_a_rule_proposes_what_failed_holds(
    rules: list[str], theirs: list[str], nodes: list[dict[str, str]], running: list[tuple[str, str]], most: int
) -> None:
    wish = wants(*rules, replicas=4, max_per_node=most, labels={"tier": "front"})
    images = {"web": "nginx:1", "db": "redis:7", "api": "python:3"}
    tasks = {
        name: [
            task(f"{service}.{number}", image=images[service], labels={"tier": "front"} if service == "web" else {})
            for number, (where, service) in enumerate(running)
            if where == name
        ]
        for name in NODES
    }
    places = [(node(name, **own), tasks[name]) for name, own in zip(NODES, nodes, strict=False)]
    services = {
        "shop/web": wish.spec.placement.constraints,
        "shop/db": [expression(one) for one in theirs],
        "shop/api": [],
    }
    there = board(*places, services=services)
    for name, view in there.views.items():
        for rule in (one for one in FILTERS if one.name in ("platform", "constraint", "max per node", "affinity")):
            told = rule.tell(wish, view, there)
            assert told.ok is rule.passes(wish, view, there)
            if told.change is None or not told.change.edits:
                continue
            changed, after = tried(told.change.edits, wish, there)
            now = rule.tell(changed, after.views[name], after)
            if len(rules) + len(theirs) == 1:
                assert now.ok, (told, now)
            still = set(now.wanted.split(" and ")) & set(told.wanted.split(" and ")) if not now.ok else set()
            assert not still, (told, now)
