"""What a command offers is what its work takes: `tree.py` hands on by name, so this stands for the type checker."""

from __future__ import annotations

import importlib
from inspect import signature
from typing import Any

import pytest

from miniorch.cli.run import read
from miniorch.cli.tree import FILES, WORK


@pytest.mark.parametrize(("words", "work"), WORK, ids=[work for _, work in WORK])
def test_the_words_of_a_command_are_the_parameters_of_its_work(words: Any, work: str) -> None:
    module, _, function = work.partition(":")
    takes = dict(signature(getattr(importlib.import_module(f"miniorch.cli.{module}"), function)).parameters)
    takes.pop("files", None)  # all that says which app files: `run.read` takes it
    of_all = ("json", "quiet")  # `command` adds them, and `output.py` answers them
    assert list(signature(words).parameters) == [name for name in takes if name not in of_all]
    assert words.__doc__, "the help"


def test_the_words_about_app_files_are_the_parameters_of_their_reader() -> None:
    assert [one.name for one in FILES] == list(signature(read).parameters)
