"""docs/scheduling.md: every rule, attribute, operator and strategy is there, and its examples mean what it says."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from miniorch.appfile.read import read_app_files
from miniorch.spec import Constraint
from scheduler import attributes
from scheduler.constraints import COUNTING, NEGATIVE, NEIGHBOURS, OPERATORS
from scheduler.filters import FILTERS
from scheduler.spellings import classic, expression, marathon
from scheduler.strategies import STRATEGIES

PAGE = (Path(__file__).parents[2] / "docs" / "scheduling.md").read_text()
CODE = {word.replace("\\|", "|") for word in re.findall(r"`([^`\n]+)`", PAGE)}
ROWS = [
    (written.replace("\\|", "|"), read.replace("\\|", "|"), "preferred" in more)
    for written, read, more in re.findall(
        r"^\| `([^`]+)` \| `([^`]+)`(.*) \|$", PAGE.partition("## Spellings")[2], re.M
    )
]
BLOCKS = re.findall(r"^```yaml\n(.*?)^```$", PAGE, re.S | re.M)


def column(heading: str) -> list[str]:
    """The first column of the table below a heading, its words in the order of the page."""
    part = PAGE.partition(f"{heading}\n")[2].partition("\n#")[0]
    cells = re.findall(r"^\| ([^|]*`[^|]*) \|", part, re.M)
    return [word for cell in cells for word in re.findall(r"`([^`]+)`", cell)]


def test_every_rule_attribute_operator_and_strategy_is_on_the_page() -> None:
    assert column("## The rules") == [rule.name for rule in FILTERS]
    assert sorted(column("### Attributes of a node")) == sorted(attributes.NAMES)
    assert sorted(column("### Operators")) == sorted([*OPERATORS, *NEGATIVE])
    assert column("### What lies on nodes") == list(NEIGHBOURS)
    assert column("## Strategies") == list(STRATEGIES)
    assert set(COUNTING) <= CODE


def meaning(rule: Constraint) -> tuple[object, ...]:
    return rule.subject, rule.operator, rule.values, rule.within, rule.weight


@pytest.mark.parametrize(("written", "read", "preferred"), ROWS)
def test_each_spelling_is_read_as_the_page_says(written: str, read: str, preferred: bool) -> None:
    if written.startswith("["):
        (rule,) = marathon(re.findall(r"\[([^,]+), (\w+)(?:, (.+))?\]", written)[0][: written.count(", ") + 1])
    elif written.startswith(("constraint:", "affinity:")):
        rule = classic(*written.split(":", 1))
    else:
        rule = expression(written)
    assert meaning(rule) == meaning(expression(read, int(preferred)))


def test_the_tables_of_spellings_were_found() -> None:
    words = " ".join(written for written, _, _ in ROWS)
    for operator in ("UNIQUE", "CLUSTER", "GROUP_BY", "LIKE", "UNLIKE", "MAX_PER", "IS"):
        assert f", {operator}" in words
    for word in ("constraint:node", "affinity:image", "node.platform.arch", "engine.labels", "node.ip"):
        assert word in words


@pytest.mark.parametrize("number", range(len(BLOCKS)))
def test_each_example_is_an_app_file_with_rules(number: int, tmp_path: Path) -> None:
    (tmp_path / "app.yml").write_text(BLOCKS[number])
    app = read_app_files([str(tmp_path / "app.yml")], {}, strict=True)
    assert any(spec.placement.constraints for spec in app.spec.services.values())


def test_there_are_examples() -> None:
    assert len(BLOCKS) >= 2
