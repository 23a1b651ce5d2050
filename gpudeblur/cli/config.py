"""The options of a command in a file, `--config`, and as a text by which a run can be repeated."""

from __future__ import annotations

import difflib
import shlex
import tomllib
from enum import Enum
from pathlib import Path
from typing import Any

import typer

from .terminal import log_to_stderr, user_errors

# Parameters that decide no result: where files are, what is shown, how fast.
_OF_A_RUN = frozenset(
    ("sources", "recursive", "shard", "only_blurred", "blur_threshold", "out", "overwrite", "kernels_out", "compare")
) | {"report", "html", "dry_run", "quiet", "verbose", "log_file", "config", "workers", "batch_size"}


def read_config(context: typer.Context, path: Path | None) -> Path | None:
    """The callback of --config: the options in the file become the defaults of the command."""
    if path is not None and not context.resilient_parsing:
        with log_to_stderr(), user_errors():
            context.default_map = config_options(path, context)
    return path


def config_options(path: Path, context: typer.Context) -> dict[str, Any]:
    """The values in the section of the context's command, by the names of its parameters.

    Raises
    ------
    OSError, ValueError
        The file cannot be read or is no TOML; a section is no command, or a key of this command's no option.
    """
    if not path.is_file():
        raise FileNotFoundError(f"--config must be a file, there is none at {path}; check the name")
    try:
        section: Any = tomllib.loads(path.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ValueError(f"--config must be a TOML file, {path} is none ({error}); correct it") from error
    commands, name = set(context.find_root().command.commands), ""  # type: ignore[attr-defined]
    for command in section:
        if command not in commands:
            raise ValueError(
                f"--config must have commands as sections, got {command!r} in {path}{_nearest(command, commands)}"
            )
    for name in _command_words(context):
        section = section.get(name, {})
        if not isinstance(section, dict):
            raise ValueError(f"--config must have a section [{name}], got {name} = {section!r} in {path}")
    parameters = {
        option.removeprefix("--"): parameter
        for parameter in context.command.params
        for option in parameter.opts
        if option.startswith("--") and option not in ("--help", "--config")
    }
    values: dict[str, Any] = {}
    for key, value in section.items():
        if key not in parameters:
            raise ValueError(
                f"--config must name options of gpudeblur {name}, got {key!r} in {path}{_nearest(key, parameters)}"
            )
        is_flag = bool(getattr(parameters[key], "is_flag", False))
        if is_flag != isinstance(value, bool) or not isinstance(value, bool | int | float | str):
            kind = "true or false" if is_flag else "a text or a number"
            raise ValueError(f"--config must have {kind} for {key}, got {value!r} in {path}")
        values[str(parameters[key].name)] = value if is_flag else str(value)
    return values


def _command_words(context: typer.Context) -> list[str]:
    """The words that call the command: deblur; or train, judge."""
    parents = []
    while context.parent is not None:
        parents.append(str(context.info_name))
        context = context.parent  # type: ignore[assignment]
    return parents[::-1]


def _nearest(name: str, names: Any) -> str:
    matches = difflib.get_close_matches(name, sorted(names), 1)
    return f"; use {matches[0]}" if matches else f"; use {', '.join(sorted(names))}"


def options_text(context: typer.Context) -> str:
    """The options that decide the result, of the command line and of --config, as they would be typed."""
    words: list[str] = []
    for parameter in context.command.params:
        name = str(parameter.name)
        source = context.get_parameter_source(name)
        if name in context.params and name not in _OF_A_RUN and source is not None and source.name != "DEFAULT":
            words += _words_of(parameter, context.params[name])
    return shlex.join(words)


def command_text(context: typer.Context) -> str:
    """The command with what was given to it, to be typed again."""
    words = ["gpudeblur", *_command_words(context)]
    for parameter in context.command.params:
        name = str(parameter.name)
        source = context.get_parameter_source(name)
        if name in context.params and source is not None and source.name == "COMMANDLINE":
            words += _words_of(parameter, context.params[name])
    return shlex.join(words)


def _words_of(parameter: Any, value: Any) -> list[str]:
    """An option or an argument as it is typed."""
    if isinstance(value, bool):
        return [max(parameter.opts if value else parameter.secondary_opts, key=len)]
    values = value if isinstance(value, list | tuple) else [] if value is None else [value]
    texts = [str(item.value if isinstance(item, Enum) else item) for item in values]
    is_option = parameter.param_type_name == "option"
    return [max(parameter.opts, key=len), *texts] if is_option and texts else texts
