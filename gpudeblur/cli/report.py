"""The command report, and how a command was called."""

from __future__ import annotations

import shlex
from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from ..batch.html_report import HTML_SUFFIXES, journal_page, page_template, write_page
from ..images.files import check_output
from .options import Overwrite
from .terminal import print_table, user_errors

HtmlOption = Annotated[
    Path | None,
    typer.Option(
        "--html",
        metavar="FILE",
        help="A page with each picture before and after: .html. Needs the extra report.",
        rich_help_panel="Output",
    ),
]


def report(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="The output folder of gpudeblur batch.")],
    out: Annotated[
        Path, typer.Option("--out", "-o", metavar="FILE", help="The page: .html.", rich_help_panel="Output")
    ] = Path("report.html"),
    overwrite: Overwrite = False,
) -> None:
    """Make a page of what gpudeblur batch wrote: each picture before and after under a slider, the worst first."""
    with user_errors():
        check_html(out)
        if out.exists() and not overwrite:
            raise FileExistsError(f"--out must be a new file, {out} exists; name another, or give --overwrite")
        page = journal_page(folder)
        write_page(out, page)
        print_table({**page.facts, "report": str(out)})


def check_html(path: Path) -> None:
    """Raise before any computation if a page could not be written."""
    page_template()
    check_output(path, suffixes=HTML_SUFFIXES)


def command_text(context: typer.Context) -> str:
    """The command with what was given to it, to be typed again."""
    words = ["gpudeblur", str(context.info_name)]
    for parameter in context.command.params:
        source, value = context.get_parameter_source(str(parameter.name)), context.params.get(str(parameter.name))
        if source is None or source.name != "COMMANDLINE":
            continue
        is_option = parameter.param_type_name == "option"
        if isinstance(value, bool):
            words.append(parameter.opts[0] if value else parameter.secondary_opts[0])
            continue
        values = value if isinstance(value, list | tuple) else [value]
        texts = [str(item.value if isinstance(item, Enum) else item) for item in values]
        words += [parameter.opts[0], *texts] if is_option else texts
    return shlex.join(words)
