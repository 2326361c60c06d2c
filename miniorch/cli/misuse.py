"""A wrong command line, refused as everything else is: what was seen, what is wanted, and the command that resolves it.

What click says of it is English for programmers ("not in the range x>=0.1"); what it found stands in the command tree.
"""

import re
from typing import Any

import click

from miniorch.cli.output import did_you_mean, nearest, sentence
from miniorch.errors import UsageError


def refusal(error: click.UsageError, context: click.Context) -> UsageError:
    """Click's error about the words of a command line as ours."""
    command: Any = context.command
    path = context.command_path
    help = f"{path} --help"
    match error:
        case click.NoSuchOption():
            hint = did_you_mean(error.option_name, [option for param in command.params for option in param.opts])
            return UsageError(f"there is no option {error.option_name}{hint}", remedy=help)
        case click.exceptions.NoSuchCommand(command_name=name):
            near, known = nearest(name, command.commands), f"{path} {name}".removeprefix("miniorch ")
            hint = did_you_mean(name, command.commands)
            return UsageError(f"there is no command {known}{hint}", remedy=f"{path} {near} --help" if near else help)
        case click.MissingParameter(param=click.Argument(help=str(words)) as param):
            what = f"{words[:1].lower()}{words[1:]}".rstrip(".")
            return UsageError(f"{path} wants {_called(param)}: {what}", remedy=_example(command))
        case click.BadOptionUsage():
            param = next(param for param in command.params if error.option_name in param.opts + param.secondary_opts)
            what = "no value" if param.is_flag else f"a value: {_wanted(param)}"
            return UsageError(f"{error.option_name} wants {what}", remedy=_correct(param, command))
        case click.BadParameter(param=click.Parameter() as param):
            seen = error.message.partition(" is not")[0].strip("'")
            message = f'{_called(param)} wants {_wanted(param)}; got "{seen}"'
            return UsageError(message, remedy=_correct(param, command, seen))
    message = error.message.rstrip(".").lower()
    if extra := re.search(r"extra argument\S* \((.*)\)", error.message):
        most = sum(isinstance(param, click.Argument) for param in command.params)
        message = f"{path} takes {most or 'no'} argument{'s' * (most > 1)}, so {extra[1]} is too much"
    return UsageError(message, remedy=help)


def _example(command: click.Command) -> str:
    return str(command.epilog).removeprefix("Example: ")


def _called(param: Any) -> str:
    return str(max(param.opts, key=len) if isinstance(param, click.Option) else param.metavar)


def _wanted(param: Any) -> str:
    if choices := getattr(param.type, "choices", ()):
        return sentence(choices, "or")
    kind, (least, most) = param.type.name.partition(" ")[0], _range(param)
    number = {"integer": "a whole number", "float": "a number"}.get(kind, "")
    span = f" of at least {least:g}" if most is None else f" from {least:g} to {most:g}"
    return ", ".join(filter(None, (param.metavar, number))) + (span if least is not None else "")


def _range(param: Any) -> tuple[float | None, float | None]:
    return getattr(param.type, "min", None), getattr(param.type, "max", None)


def _correct(param: Any, command: click.Command, seen: str = "") -> str:
    """An option as it may stand there; for an argument the command's example."""
    if isinstance(param, click.Argument):
        return _example(command)
    choices = getattr(param.type, "choices", ())
    usual = param.default or _range(param)[0] or param.metavar
    value = nearest(seen, choices) or next(iter(choices), str(usual or "").removesuffix(".0"))
    return _called(param) if param.is_flag else f"{_called(param)} {value}"
