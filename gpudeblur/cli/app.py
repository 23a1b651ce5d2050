"""The `gpudeblur` application: the options that all of its commands have, and an example under the help of each."""

from __future__ import annotations

import functools
import inspect
import shlex
import typing
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer
import typer.core

from .config import read_config
from .terminal import log_to_file, log_to_stderr, signals_end_the_run, user_errors

Function = TypeVar("Function", bound=Callable[..., Any])
PANELS = ("Input", "Kernel", "Restoration", "Output", "Speed")
HELP_OPTIONS = {"help_option_names": ["-h", "--help"]}
EXAMPLES = {
    "deblur": "gpudeblur deblur photo.jpg --preset fast --compare sheet.png",
    "deconvolve": "gpudeblur deconvolve photo.jpg --kernel kernel.npy -o sharp.png",
    "restore": "gpudeblur restore face.jpg -o sharp.png --network deepdeblur",
    "batch": "gpudeblur batch photos/ -o sharp/ --report report.csv",
    "score": "gpudeblur score photos/ --report scores.csv",
    "report": "gpudeblur report sharp/ -o report.html",
    "kernel": "gpudeblur kernel photo.jpg --region 200,100,400,300 -o kernel.npy",
    "demo": "gpudeblur demo -o demo",
    "info": "gpudeblur info --json",
}

Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Errors only.", rich_help_panel="Output")]
Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="Also each stage.", rich_help_panel="Output")]
LogFile = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="Append everything, with the time, to this file.", rich_help_panel="Output"),
]
Config = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="Options in a TOML file, in a section of the command's name: kernel-size = 31, preset = 'fast'. Those of "
        "the command line come first.",
        rich_help_panel="Input",
        is_eager=True,
        callback=read_config,
    ),
]
_COMMON = {
    "quiet": (Quiet, False), "verbose": (Verbose, False), "log_file": (LogFile, None), "config": (Config, None),
}  # fmt: skip


class Group(typer.core.TyperGroup):
    """The commands, whose list is plain text: the libraries for panels take 0.2 s of CPU time to import."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**(settings | {"rich_markup_mode": None}))


class App(typer.Typer):
    """A `typer.Typer` whose commands also have the options of `_COMMON`, and say where many pictures are taken."""

    def command(self, name: str | None = None, **settings: Any) -> Callable[[Function], Function]:
        def register(function: Function) -> Function:
            example = EXAMPLES.get(function.__name__)
            if example is not None:
                settings.setdefault("epilog", f"Example: {example}")
            # Further pictures are refused by a message that names `batch`.
            settings.setdefault("context_settings", {"allow_extra_args": _is_of_one_picture(function)})
            super(App, self).command(name, **settings)(_with_output_options(function))
            return function

        return register


def _is_of_one_picture(function: Callable[..., Any]) -> bool:
    return "source" in inspect.signature(function).parameters


@functools.cache
def _with_output_options(function: Callable[..., Any]) -> Callable[..., None]:
    """`function` with the options of `_COMMON`; it gets those that it takes itself, and the context."""
    signature = inspect.signature(function, eval_str=True)
    parameters, keyword = dict(signature.parameters), inspect.Parameter.KEYWORD_ONLY
    added: dict[str, tuple[Any, Any]] = {"context": (typer.Context, inspect.Parameter.empty), **_COMMON}
    for name, (annotation, default) in added.items():
        parameters.setdefault(name, inspect.Parameter(name, keyword, annotation=annotation, default=default))

    @functools.wraps(function)
    def run(**arguments: Any) -> None:
        quiet, verbose, context = arguments["quiet"], arguments["verbose"], arguments["context"]
        shown, log = log_to_stderr(quiet=quiet, verbose=verbose), log_to_file(arguments["log_file"])
        # Errors go into the file, but for that of the file itself.
        with signals_end_the_run(), shown, user_errors(), log, user_errors():
            if quiet and verbose:
                raise ValueError("-q must be given without -v, got both; leave one out")
            if context.args:
                names = shlex.join(map(str, (arguments["source"], *context.args)))
                raise ValueError(f"IN must be one picture, got {names}; use gpudeblur batch {names} -o DIR")
            function(**{name: value for name, value in arguments.items() if name in signature.parameters})

    for parameter in parameters.values():
        kind, *settings = typing.get_args(parameter.annotation) or (None,)
        if kind is bool and settings[0].metavar is None:
            settings[0].metavar = ""  # the help shows <bool> otherwise
    # The panels of the help come in the order of their first options.
    ordered = sorted(parameters.values(), key=lambda parameter: _panel_number(parameter.annotation))
    keywords = [parameter.replace(kind=keyword) for parameter in ordered]
    run.__signature__ = inspect.Signature(keywords)  # type: ignore[attr-defined]
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in keywords}
    del run.__wrapped__
    return run


def _panel_number(annotation: Any) -> int:
    settings = getattr(annotation, "__metadata__", (None,))[0]
    panel = getattr(settings, "rich_help_panel", None)
    return PANELS.index(panel) if panel in PANELS else -1
