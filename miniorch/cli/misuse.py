"""A wrong command line, refused as everything else is: what was seen, what is wanted, and the command that resolves it.

What click says of it is English for programmers ("not in the range x>=0.1"); what it found stands in the command tree.
"""

import re
from collections.abc import Sequence
from typing import Any

from miniorch.cli.output import did_you_mean, nearest, sentence
from miniorch.errors import UsageError


def refusal(error: Any, group: Any, words: Sequence[str]) -> UsageError:
    """Click's error about the words of a command line as ours. Its classes are private: they are known by name."""
    command, path = group, "miniorch"
    names = [word for word in words if not word.startswith("-")]
    while names and names[0] in getattr(command, "commands", ()):
        path, command = f"{path} {names[0]}", command.commands[names.pop(0)]
    if error.ctx is not None:
        command, path = error.ctx.command, error.ctx.command_path
    match type(error).__name__:
        case "NoSuchOption":
            hint = did_you_mean(error.option_name, [option for param in command.params for option in param.opts])
            return UsageError(f"there is no option {error.option_name}{hint}", remedy=f"{path} --help")
        case "MissingParameter":
            what = f"{error.param.help[:1].lower()}{error.param.help[1:]}".rstrip(".")
            return UsageError(f"{path} wants {_called(error.param)}: {what}", remedy=_example(command))
        case "BadOptionUsage":
            param = next(param for param in command.params if error.option_name in param.opts + param.secondary_opts)
            what = "no value" if param.is_flag else f"a value: {_wanted(param)}"
            return UsageError(f"{error.option_name} wants {what}", remedy=_correct(param, command))
        case "BadParameter" if error.param is not None:
            seen = error.message.partition(" is not")[0].strip("'")
            message = f'{_called(error.param)} wants {_wanted(error.param)}; got "{seen}"'
            return UsageError(message, remedy=_correct(error.param, command, seen))
    if names and (known := getattr(command, "commands", {})):
        near = nearest(names[0], known)
        return UsageError(
            f"there is no command {f'{path} {names[0]}'.removeprefix('miniorch ')}{did_you_mean(names[0], known)}",
            remedy=f"{path} {near} --help" if near else f"{path} --help",
        )
    message = error.format_message().rstrip(".").lower()
    if extra := re.search(r"extra argument\S* \((.*)\)", error.message):
        most = sum(param.param_type_name == "argument" for param in command.params)
        message = f"{path} takes {most or 'no'} argument{'s' * (most > 1)}, so {extra[1]} is too much"
    return UsageError(message, remedy=f"{path} --help")


def _example(command: Any) -> str:
    return str(command.epilog).removeprefix("Example: ")


def _called(param: Any) -> str:
    return str(max(param.opts, key=len) if param.param_type_name == "option" else param.metavar or param.name.upper())


def _choices(param: Any) -> list[str]:
    return [str(getattr(one, "value", one)) for one in getattr(param.type, "choices", ())]


def _wanted(param: Any) -> str:
    if choices := _choices(param):
        return sentence(choices, "or")
    kind, least = param.type.name.partition(" ")[0], getattr(param.type, "min", None)
    number = {"int": "a whole number", "float": "a number"}.get(kind, "")
    return ", ".join(filter(None, (param.metavar, number))) + (f" of at least {least:g}" if least is not None else "")


def _correct(param: Any, command: Any, seen: str = "") -> str:
    """An option as it may stand there; for an argument the command's example."""
    if param.param_type_name != "option":
        return _example(command)
    choices = _choices(param)
    value = nearest(seen, choices) or next(iter(choices), param.default or param.metavar or "")
    value = f"{value:g}" if isinstance(value, float) else value
    return _called(param) if param.is_flag else f"{_called(param)} {value}"
