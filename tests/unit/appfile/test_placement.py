"""Placement rules in app files: every place where one may stand, and what is said of a wrong one."""

from __future__ import annotations

from pathlib import Path

import pytest

from miniorch.appfile.read import AppFile, read_app_files
from miniorch.appfile.write import config_text
from miniorch.errors import AppFileError
from miniorch.spec import Constraint, Placement
from scheduler.spellings import classic, expression, marathon


def read(folder: Path, text: str, **variables: str) -> AppFile:
    path = folder / "app.yml"
    path.write_text(text)
    return read_app_files([str(path)], variables)


def placement(folder: Path, lines: str, **variables: str) -> Placement:
    """What `web` asks for; the file is read a second time from what `config` prints."""
    body = "".join(f"    {line}\n" for line in lines.splitlines())
    found = read(folder, f"services:\n  web:\n    image: x\n{body}  db: {{image: x, volumes: [/data]}}\n", **variables)
    again = read(folder, config_text(found))
    assert again.spec == found.spec
    return found.spec.services["web"].placement


def test_swarm_modes_placement(tmp_path: Path) -> None:
    found = placement(
        tmp_path,
        """deploy:
  placement:
    constraints: [node.labels.disk == ssd, "node.role!=manager", "node.ip == ${NET}"]
    preferences: [{spread: node.labels.zone}, {spread: node.labels.rack}]
    max_replicas_per_node: 2""",
        NET="10.0.0.0/8",
    )
    assert found == Placement(
        (
            expression("node.labels.disk == ssd"), expression("node.role!=manager"),
            expression("node.ip == 10.0.0.0/8"),
        ),
        ("node.labels.zone", "node.labels.rack"),
        2,
    )  # fmt: skip


def test_rules_for_which_compose_has_no_key(tmp_path: Path) -> None:
    found = placement(
        tmp_path,
        """platform: linux/arm64
x-miniorch:
  constraints:
    - node.labels.cores >= 8
    - [zone, GROUP_BY, 2]
    - {prefer: node.labels.disk == nvme, weight: 10}
    - {prefer: [rack, UNIQUE]}
  affinities:
    - service == db within node.labels.zone
    - {prefer: image == redis}
  spread: [node.labels.zone]
  strategy: binpack""",
    )
    preferred = marathon(["rack", "UNIQUE"])[0]
    assert found.constraints == (
        expression("node.labels.cores >= 8"),
        *marathon(["zone", "GROUP_BY", "2"]),
        expression("node.labels.disk == nvme", 10),
        Constraint(preferred.subject, preferred.operator, preferred.values, preferred.within, 1, preferred.text),
        expression("service == db within node.labels.zone"),
        expression("image == redis", 1),
    )
    assert (found.spread, found.strategy, found.platforms) == (("node.labels.zone",), "binpack", ("linux/arm64",))


@pytest.mark.parametrize(
    "lines",
    [
        "environment: ['constraint:disk==ssd', 'constraint:node!=a', 'constraint:node!=b', "
        "'affinity:container!=db', A=1]",
        "environment: {'constraint:disk': '=ssd', 'constraint:node!': a, 'constraint:node!=b': , "
        "'affinity:container!': db, A: 1}",
    ],
)
def test_classic_swarms_rules_stand_in_the_environment_and_are_no_variables(tmp_path: Path, lines: str) -> None:
    app = read(tmp_path, f"services:\n  web:\n    image: x\n    {lines}\n")
    assert app.spec.services["web"].task.environment == {"A": "1"}
    assert app.spec.services["web"].placement.constraints == tuple(
        classic(*text.split(":", 1))
        for text in ("constraint:disk==ssd", "constraint:node!=a", "constraint:node!=b", "affinity:container!=db")
    )
    assert read(tmp_path, config_text(app)).spec == app.spec


def test_what_becomes_of_a_soft_rule_and_of_what_is_no_rule_is_reported(tmp_path: Path) -> None:
    app = read(
        tmp_path,
        """services:
  web:
    image: x
    environment:
      - constraint:storage==~ssd
      - reschedule:on-node-failure
      - whitelist:node==a|b
      - other:node==a
    labels: {com.docker.swarm.constraints: '["node==a"]'}
""",
    )
    assert app.spec.services["web"].placement.constraints == (classic("constraint", "storage==~ssd"),)
    assert app.spec.services["web"].task.environment == {"other:node": "=a"}
    told = [(row.place.line, row.verdict.value, row.why) for row in app.report.rows.values() if row.why]
    assert sorted(told)[2:] == [
        (5, "approximated", "constraint:storage==~ssd: counts by itself, and is not dropped together with others"),
        (6, "ignored", "reschedule:on-node-failure: tasks of a lost node get successors on others anyway"),
        (7, "ignored", "whitelist:node==a|b: write a list of nodes as constraint:node==/^(a|b)$/"),
        (9, "ignored", "com.docker.swarm.constraints: write rules as lines of environment"),
    ]


def test_several_files_add_up_their_rules(tmp_path: Path) -> None:
    for name, node in (("one.yml", "a"), ("two.yml", "${B}")):
        lines = f"['constraint:node!={node}', 'constraint:disk==ssd']"
        (tmp_path / name).write_text(f"services:\n  web:\n    image: x\n    environment: {lines}\n")
    app = read_app_files([str(tmp_path / "one.yml"), str(tmp_path / "two.yml")], {"B": "b"})
    texts = [one.text for one in app.spec.services["web"].placement.constraints]
    assert sorted(texts) == ["constraint:disk==ssd", "constraint:node!=a", "constraint:node!=b"]


def test_a_container_is_its_service_where_the_file_names_it(tmp_path: Path) -> None:
    app = read(
        tmp_path,
        """services:
  web: {image: x, environment: ["affinity:container==front", "affinity:container!=~front"]}
  nginx: {image: x, container_name: front}
""",
    )
    found = app.spec.services["web"].placement.constraints
    assert [(one.subject, one.operator, one.values, one.weight) for one in found] == [
        ("service", "matches", ("^nginx$",), 0), ("service", "not matches", ("^nginx$",), 1),
    ]  # fmt: skip
    assert read(tmp_path, config_text(app)).spec == app.spec


@pytest.mark.parametrize("line", ["volumes_from: [db]", "network_mode: service:db", "net: container:db"])
def test_what_shares_with_another_service_goes_to_its_node_after_it(tmp_path: Path, line: str) -> None:
    assert placement(tmp_path, line).constraints == (expression("service == db"),)
    app = read(tmp_path, f"services:\n  web: {{image: x, {line.replace(': ', ': ', 1)}}}\n  db: {{image: x}}\n")
    assert list(app.spec.services["web"].depends_on) == ["db"]


def test_other_network_modes_are_ignored_and_said_to_be(tmp_path: Path) -> None:
    app = read(tmp_path, "services:\n  web: {image: x, network_mode: host}\n")
    assert app.spec.services["web"].placement == Placement()
    assert [row.verdict.value for row in app.report.rows.values() if row.path.endswith("network_mode")] == ["ignored"]


def test_generic_resources_are_reserved(tmp_path: Path) -> None:
    spec = "generic_resources: [{discrete_resource_spec: {kind: gpu, value: 2}}]"
    app = read(tmp_path, f"services:\n  web: {{image: x, deploy: {{resources: {{reservations: {{{spec}}}}}}}}}\n")
    assert app.spec.services["web"].task.reserved.generic == {"gpu": 2}
    assert read(tmp_path, config_text(app)).spec == app.spec


WRONG = [
    ("deploy: {placement: {constraints: [node.lables.disk == ssd]}}", "E0104", (4, 40),
     "deploy: placement: constraints", 'there is no attribute "node.lables.disk"', "write node.labels.disk"),
    ("deploy: {placement: {constraints: [node.role = manager]}}", "E0104", (4, 40), "deploy: placement: constraints",
     'node.role has no operator "="', "write =="),
    ("deploy: {placement: {constraints: {node.role: manager}}}", "E0104", (4, 39), "deploy: placement: constraints",
     "wants a list", "constraints: [{...}]"),
    ("deploy: {placement: {preferences: [{spread: node.label.zone}]}}", "E0104", (4, 49),
     "deploy: placement: preferences: spread", 'there is no attribute "node.label.zone"', "write node.labels.zone"),
    ("deploy: {placement: {preference: []}}", "E0102", (4, 26), "deploy: placement", 'has no key "preference"',
     'write "preferences:" instead'),
    ("deploy: {placement: {max_replicas_per_node: many}}", "E0104", (4, 49),
     "deploy: placement: max_replicas_per_node", "wants a whole number", "max_replicas_per_node: 2"),
    ("x-miniorch: {constraints: [[zone, GROUPBY, 2]]}", "E0104", (4, 32), "x-miniorch: constraints",
     '[zone, GROUPBY, 2] has an operator "GROUPBY" that is not known', "write GROUP_BY"),
    ("x-miniorch: {constraints: [{weight: 3}]}", "E0105", (4, 32), "x-miniorch: constraints", "prefer is missing",
     "add prefer: node.labels.disk == ssd"),
    ("x-miniorch: {affinities: [service == dbb]}", "E0106", (4, 31), "x-miniorch: affinities",
     "names dbb, which the file does not have", "write db"),
    ("x-miniorch: {strategy: spraed}", "E0104", (4, 28), "x-miniorch: strategy", 'got "spraed"', "strategy: spread"),
    ("x-miniorch: {spread: [zone]}", "E0104", (4, 27), "x-miniorch: spread", 'there is no attribute "zone"',
     "write node.labels.zone"),
    ("environment: ['constraint:node']", "E0104", (4, 19), "environment", '"constraint:node" has no operator',
     "write constraint:node==VALUE, or !="),
    ("environment: ['constraints:node==a']", "E0104", (4, 19), "environment", "constraints:node==a looks like a rule",
     "write constraint:node==a"),
    ("environment: {'affinty:container!': b}", "E0104", (4, 19), "environment", "affinty:container!=b looks like",
     "write affinity:container!=b"),
    ("environment: {'affinity:com.docker.compose.service=': dbb}", "E0106", (4, 19), "environment",
     "names dbb, which the file does not have", "write db"),
    ("platform: x86 on linux", "E0104", (4, 15), "platform", "wants a system and a processor",
     "platform: linux/amd64"),
    ("network_mode: service:dbb", "E0106", (4, 19), "service web depends on dbb", "which the file does not have",
     "write db"),
    ("deploy: {resources: {reservations: {generic_resources: [{discrete_resource_spec: {value: 2}}]}}}", "E0105",
     (4, 86), "discrete_resource_spec", "kind is missing", "add kind: gpu"),
]  # fmt: skip


@pytest.mark.parametrize(("line", "code", "place", "key", "words", "remedy"), WRONG)
def test_a_wrong_rule_is_refused_where_it_stands(
    tmp_path: Path, line: str, code: str, place: tuple[int, int], key: str, words: str, remedy: str
) -> None:
    with pytest.raises(AppFileError) as caught:
        read(tmp_path, f"services:\n  web:\n    image: x\n    {line}\n  db: {{image: x}}\n")
    (problem,) = caught.value.details
    assert (problem["code"], (problem["line"], problem["column"]), problem["remedy"]) == (code, place, remedy)
    assert key in problem["message"]
    assert words in problem["message"]
