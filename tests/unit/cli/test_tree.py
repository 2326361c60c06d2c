"""What a command offers is what its work takes: `tree.py` hands on by name, so this stands for the type checker."""

from __future__ import annotations

import importlib
import inspect
from typing import Any

import pytest

from miniorch.cli.tree import WORK


@pytest.mark.parametrize(("words", "work"), WORK, ids=[work for _, work in WORK])
def test_the_words_of_a_command_are_the_parameters_of_its_work(words: Any, work: str) -> None:
    module, _, function = work.partition(":")
    takes = inspect.signature(getattr(importlib.import_module(f"miniorch.cli.{module}"), function)).parameters
    assert list(inspect.signature(words).parameters) == list(takes)
    assert words.__doc__, "the help"
