"""The command score, and the choice of pictures for --only-blurred."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

import gpudeblur

from ..images.output import check_output
from .batch import print_any_name
from .config import command_text
from .report import HtmlOption, check_html
from .terminal import LOGGER, counter, is_quiet, print_table

if TYPE_CHECKING:
    from ..batch.folders import Decision, Plan
    from ..batch.score import Score

BlurThresholdOption = Annotated[
    float,
    typer.Option(
        "--blur-threshold",
        metavar="P",
        help="The probability, 0 to 1, from which on a picture counts as blurred.",
        rich_help_panel="Input",
    ),
]
BLUR_THRESHOLD = 0.5  # the probability from which on a picture counts as blurred
OnlyBlurredOption = Annotated[
    bool,
    typer.Option(
        "--only-blurred",
        help="Leave out pictures that count as sharp; see gpudeblur score. Needs the extra torch.",
        rich_help_panel="Input",
    ),
]


def score(
    context: typer.Context,
    sources: Annotated[list[Path], typer.Argument(metavar="IN...", help="Pictures, and folders of them.")],
    recursive: Annotated[
        bool, typer.Option("--recursive", "-r", help="Also the folders within folders.", rich_help_panel="Input")
    ] = False,
    blur_threshold: BlurThresholdOption = BLUR_THRESHOLD,
    report: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="The score of each picture: .csv or .json.", rich_help_panel="Output"),
    ] = None,
    html: HtmlOption = None,
) -> None:
    """Say how likely pictures are blurred, and how strongly: by how much they must be reduced to look sharp."""
    from ..batch.folders import pictures_of
    from ..batch.html_report import scores_page, write_page
    from ..batch.report import REPORT_SUFFIXES, write_report
    from ..batch.score import Score, score_picture
    from ..networks.bridge import torch_module

    print_any_name()
    check_threshold(blur_threshold)
    if report is not None:
        check_output(report, suffixes=REPORT_SUFFIXES)
    if html is not None:
        check_html(html)
    torch_module()
    files, outcomes = pictures_of(sources, recursive=recursive)
    scores: list[Score] = []
    for path, _ in files:
        scores.append(score_picture(path, blur_threshold))
        if not is_quiet():
            print(score_line(scores[-1]), flush=True)
    scores += [Score(o.source, o.status, error=o.error, reason=o.reason) for o in outcomes]
    rows = score_summary(scores, blur_threshold)
    if report is not None:
        write_report(report, scores, Score)
        rows["report"] = str(report)
    if html is not None:
        facts = {"version": gpudeblur.__version__, "command": command_text(context)}
        write_page(html, scores_page(scores, facts))
        rows["page"] = str(html)
    print_table(rows)
    if any(row.status == "failed" for row in scores):
        raise typer.Exit(1)


def score_line(row: Score) -> str:
    from ..batch.report import failure_text

    if row.blurred is None:
        return f"failed  {failure_text(row)}"
    size = "-" if row.reduction is None else f"1/{row.reduction:.1f}"
    return f"{row.blurred:.2f}  {size:>6}  {row.source}"


def score_summary(scores: Iterable[Score], threshold: float) -> dict[str, str]:
    from ..batch.report import failure_text, left_out_text

    rows = list(scores)
    statuses = Counter(row.status for row in rows)
    blurred = sum(row.blurred is not None and row.blurred >= threshold for row in rows)
    summary = {"blurred": f"{blurred} of {statuses['scored']}, probability of at least {threshold:g}"}
    if left_out := left_out_text(rows):
        summary["left out"] = left_out
    if statuses["failed"]:
        summary["failed"] = "\n".join(failure_text(row) for row in rows if row.status == "failed")
    return summary


def check_threshold(threshold: float) -> None:
    if not 0 <= threshold <= 1:
        raise ValueError(f"--blur-threshold must be a number from 0 to 1, got {threshold}; 0.5 is usual")


def leave_out_sharp(plan: Plan, decisions: list[Decision], threshold: float, white: Any) -> tuple[Plan, list[Decision]]:
    """Without the pictures that count as sharp, whose outcome says so.

    Asked are those that would be written. One that cannot be read stays, and fails as it does without this.
    """
    from ..batch.folders import Plan
    from ..batch.score import blur_probability
    from ..networks.bridge import torch_module

    torch_module()
    blurred, outcomes = [], list(plan.outcomes)
    with counter(sum(bool(decision.writes) for decision in decisions)) as (count, _):
        for decision in decisions:
            probability = None
            if decision.writes:
                try:
                    probability = blur_probability(decision.task.source, white=white)
                except (OSError, ValueError, TypeError, MemoryError) as error:
                    LOGGER.debug("%s has no score: %s", decision.task.source, error)
                count(probability is None)
            if probability is not None and probability < threshold:
                outcome = replace(decision.task.outcome("left out"), output="", reason=f"sharp ({probability:.2f})")
                LOGGER.info("%s left out, %s", outcome.source, outcome.reason)
                outcomes.append(outcome)
            else:
                blurred.append(decision)
    return Plan([decision.task for decision in blurred], outcomes), blurred
