"""What `gpudeblur batch` does around the pictures: a line for each picture, the words at its end."""

from __future__ import annotations

import io
import logging
import sys
import time
from collections import Counter
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

import gpudeblur

from .terminal import LOGGER, TABLE, counter, print_table

if TYPE_CHECKING:
    from ..batch.folders import Decision, Outcome, Plan
    from ..batch.iterator import Progress

DryRunOption = Annotated[
    bool,
    typer.Option(
        "--dry-run", help="Say what would be done, a line for each picture, and do nothing.", rich_help_panel="Output"
    ),
]
ShardOption = Annotated[
    str | None,
    typer.Option(
        metavar="I/N",
        help="Every N-th picture, from the I-th on: N runs with I from 1 to N share the work, also on one DIR.",
        rich_help_panel="Input",
    ),
]
ClusterOption = Annotated[
    str | None,
    typer.Option(
        metavar="local|ADDRESS",
        help="Workers of Dask compute: local starts --workers N processes on this machine's CPUs, tcp://HOST:8786 is a "
        "scheduler. They need the extra dask, and disks in common.",
        rich_help_panel="Speed",
    ),
]
QuietOption = Annotated[
    bool, typer.Option("--quiet", "-q", help="Say nothing but what failed.", rich_help_panel="Output")
]


def parse_shard(text: str | None) -> tuple[int, int]:
    """(number from 1, count) of a shard; (1, 1) is all."""
    if text is None:
        return 1, 1
    try:
        number, count = map(int, text.split("/"))
    except ValueError:
        number = count = 0
    if not 1 <= number <= count:
        raise ValueError(f"--shard must be I/N with I from 1 to N, got {text!r}; such as 1/4, 2/4, 3/4 and 4/4")
    return number, count


@contextmanager
def cluster_client(cluster: str, workers: int | None, device: str) -> Iterator[Any]:
    """A client of Dask for --cluster.

    Raises
    ------
    ValueError, OSError
        --cluster, --workers and --device do not go together, or no scheduler answers.
    ImportError
        Dask is not installed.
    """
    import numpy as np

    from ..batch.cpu import usable_cpus
    from ..images.checks import check_count
    from ..numerics.arrays import choose_module

    is_local = cluster == "local"
    if not is_local and "://" not in cluster:
        raise ValueError(f"--cluster must be local or an address such as tcp://host:8786, got {cluster!r}")
    if is_local and device != "cpu" and choose_module(np.empty(0), device) is not np:
        raise ValueError(
            "--cluster local must be on CPUs, got a GPU; use --device cpu, or name the scheduler of dask cuda worker"
        )
    if not is_local and workers is not None:
        raise ValueError(f"--workers must be left out with --cluster {cluster}, got {workers}; it has its workers")
    if workers is not None:
        check_count("workers", workers)
    try:
        import dask
        import distributed
    except ImportError as why:
        raise ImportError('--cluster needs Dask; pip install "gpudeblur[dask]"') from why
    if not is_local:
        try:
            client = distributed.Client(cluster)
        except (OSError, TimeoutError) as why:
            raise OSError(f"--cluster {cluster} does not answer ({why}); start its scheduler") from why
        with client:
            LOGGER.debug("the workers of %s compute", cluster)
            yield client
        return
    count = workers or usable_cpus()
    with (
        dask.config.set(gpudeblur.distributed.LOCAL_CONFIGURATION),
        distributed.LocalCluster(
            n_workers=count,
            threads_per_worker=1,
            processes=True,
            dashboard_address=None,
            silence_logs=logging.CRITICAL,
            scheduler_kwargs={"allowed_failures": 0, "dashboard_address": ":0"},
        ) as local,
        distributed.Client(local) as client,
    ):
        LOGGER.debug("%d processes compute, each with one thread", count)
        yield client


def print_any_name() -> None:
    """Let names be printed that the console's encoding does not have."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def show_plan(plan: Plan, decisions: Sequence[Decision]) -> None:
    """The lines of --dry-run."""
    from ..batch.report import failure_text

    for decision in decisions:
        task, status = decision.task, decision.outcome.status
        files = ", ".join(map(str, decision.writes or task.outputs))
        print(f"{'write' if decision.writes else status}: {task.source} -> {files}")
    for outcome in plan.outcomes:
        print(f"{outcome.status}: {failure_text(outcome) if outcome.error else f'{outcome.source}, {outcome.reason}'}")


def picture_line(outcome: Outcome, number: int, total: int) -> str:
    """What is said of one picture while the run goes on."""
    from ..batch.report import failure_text, strength_text

    if outcome.status == "failed":
        text = f"failed: {failure_text(outcome)}"
    elif outcome.status == "written":
        figures = [f"confidence {outcome.confidence:.2f}"] if outcome.confidence is not None else []
        if outcome.strength is not None and outcome.strength < 1:
            figures.append(f"strength {strength_text(outcome.strength)}")
        if outcome.seconds is not None:
            figures.append(f"{outcome.seconds:.2f} s")
        text = f"{outcome.output} written, {', '.join(figures)}"
    else:
        text = f"{outcome.output} {outcome.status}"
    return f"{number} of {total}: {text}"


@contextmanager
def picture_lines(total: int) -> Iterator[tuple[Callable[[Outcome], None], Callable[[Progress], None]]]:
    """A line for each picture, a bar instead on a terminal without -v.

    Yields the function to call after each picture, and that for the progress of the batch in between.
    """
    number = 0
    with counter(total) as (count, advance):

        def show_picture(outcome: Outcome) -> None:
            nonlocal number
            number += 1
            count(outcome.status == "failed")
            LOGGER.info("%s", picture_line(outcome, number, total))

        yield show_picture, lambda progress: advance(progress.ahead)


def run_batch(
    plan: Plan,
    start_run: Callable[..., Generator[Outcome, None, None]],
    *,
    report: Path | None,
    quiet: bool,
    overwrite: bool,
    is_network: bool,
    html: Path | None = None,
    facts: dict[str, str] | None = None,
) -> bool:
    """Take all outcomes, write the report and the page, print the summary. Whether nothing failed.

    `start_run` starts `deblur_files` with a callback for the progress between pictures. An interrupted run has its
    report too; of its page `gpudeblur report` makes what there is.
    """
    from ..batch.html_report import results_page, write_page
    from ..batch.report import summary, write_report

    start, total = time.perf_counter(), len(plan.tasks)
    order = {str(task.source): number for number, task in enumerate(plan.tasks)}
    outcomes: list[Outcome] = []
    report_error: OSError | None = None
    is_complete = False
    try:
        with picture_lines(total) as (show_picture, advance), closing(start_run(callback=advance)) as outcomes_of_run:
            for outcome in outcomes_of_run:
                outcomes.append(outcome)
                show_picture(outcome)
        is_complete = True
    except KeyboardInterrupt:
        counts = Counter(outcome.status for outcome in outcomes)
        text = f"stopped: {counts.pop('written', 0)} of {total} written"
        text += "".join(f", {count} {status}" for status, count in counts.items())
        continuation = "--overwrite begins again from the first" if overwrite else "the same command goes on"
        print(f"{text}; {continuation}", file=sys.stderr, flush=True)
        TABLE.info("%s; %s", text, continuation)
        raise
    finally:
        outcomes.sort(key=lambda outcome: order[outcome.source])
        has_results = bool(outcomes) or is_complete
        outcomes += plan.outcomes
        if report is not None and has_results:
            try:
                write_report(report, outcomes)
            except OSError as error:
                report_error = error
    written_report = report if report_error is None else None
    rows = summary(outcomes, total, time.perf_counter() - start, is_network=is_network, report=written_report)
    if written_report is not None:
        rows["report"] = str(written_report)
    if html is not None:
        try:
            write_page(html, results_page(outcomes, facts or {}))
            rows["page"] = str(html)
        except OSError as error:
            report_error = report_error or error
    print_table(rows)
    if quiet and "failed" in rows:
        print(rows["failed"], file=sys.stderr)
    if report_error is not None:
        raise report_error
    return "failed" not in rows
