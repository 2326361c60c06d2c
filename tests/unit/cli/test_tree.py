"""What a command offers is what its work takes: `tree.py` hands on by name, so this stands for the type checker."""

from __future__ import annotations

import importlib
from functools import partial
from inspect import signature

import click
import pytest

from miniorch.cli.run import read
from reference import commands

COMMANDS = {name: command for name, command, _ in commands()}


@pytest.mark.parametrize("name", COMMANDS)
def test_the_parameters_of_a_command_are_those_of_its_work(name: str) -> None:
    command = COMMANDS[name]
    assert isinstance(command.callback, partial)
    module, _, function = command.callback.args[0].partition(":")
    takes = dict(signature(getattr(importlib.import_module(f"miniorch.cli.{module}"), function)).parameters)
    files = list(signature(read).parameters) if takes.pop("files", None) else []
    of_all = ("json", "quiet")  # `output.py` answers them
    offered = [param.name for param in command.params if param.name not in of_all]
    assert offered == [*files, *(name for name in takes if name not in of_all)]
    assert all(isinstance(param, click.Argument | click.Option) and param.help for param in command.params)
    assert command.help, "the help"
