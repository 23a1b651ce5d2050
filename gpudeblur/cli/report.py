"""The command report."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..images.output import check_output
from .options import Overwrite
from .terminal import print_table

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
    from ..batch.html_report import journal_page, write_page

    check_html(out)
    if out.exists() and not overwrite:
        raise FileExistsError(f"--out must be a new file, {out} exists; name another, or give --overwrite")
    page = journal_page(folder)
    write_page(out, page)
    print_table({**page.facts, "report": str(out)})


def check_html(path: Path) -> None:
    """Raise before any computation if a page could not be written."""
    from ..batch.html_report import HTML_SUFFIXES, page_template

    page_template()
    check_output(path, suffixes=HTML_SUFFIXES)
