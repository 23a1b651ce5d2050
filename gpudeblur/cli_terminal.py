"""What the `gpudeblur` command shows in the terminal: errors, warnings, progress and tables."""

from __future__ import annotations

import functools
import logging
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from .batch.folders import at_command_line


@contextmanager
def user_errors() -> Iterator[None]:
    """Print errors about the user's input, files and devices as one line instead of a traceback; warnings too."""
    # tifffile also logs what it raises, and Python prints logs that nobody handles.
    logging.getLogger("tifffile").addHandler(logging.NullHandler())
    try:
        with warnings.catch_warnings():
            warnings.showwarning = print_warning  # type: ignore[assignment]  # takes all arguments by position
            yield
    except (ValueError, TypeError, OSError, RuntimeError, MemoryError, ImportError, ArithmeticError) as error:
        text = at_command_line(error) or type(error).__name__
        message = f"error: {text}".replace("\n", " ")
        Console(stderr=True).print(Text(message, style="bold red"), soft_wrap=True)
        raise typer.Exit(2) from error


def print_warning(message: Warning | str, *_: Any) -> None:
    Console(stderr=True).print(
        Text(f"warning: {at_command_line(message)}".replace("\n", " "), style="yellow"), soft_wrap=True
    )


@contextmanager
def _bar(*columns: Any, total: float, **fields: Any) -> Iterator[Callable[..., None]]:
    """A progress bar on stderr, if that is a terminal; yields the function that updates it."""
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        yield functools.partial(
            progress.update, progress.add_task(fields.pop("description", ""), total=total, **fields)
        )


@contextmanager
def progress_bar() -> Iterator[Callable[[str, float], None]]:
    """A bar of the stages of one run; yields its callback, which never stops the run."""
    percent = TextColumn("{task.percentage:>3.0f} %")
    columns = (TextColumn("{task.description}"), BarColumn(), percent, TimeElapsedColumn())
    with _bar(*columns, total=1.0, description="reading") as update:
        yield lambda stage, fraction: update(description=stage, completed=fraction)


@contextmanager
def counter(total: int) -> Iterator[Callable[[bool], None]]:
    """A bar of pictures with their speed and the time left; yields the function that counts one, failed or not."""
    columns = (
        TextColumn("{task.completed:.0f} of {task.total:.0f}"),
        BarColumn(),
        TextColumn("{task.fields[speed]:.2f} a second, {task.fields[failed]} failed"),
        TimeRemainingColumn(),
    )
    with _bar(*columns, total=total, speed=0.0, failed=0) as update:
        start, done, failures = time.perf_counter(), 0, 0

        def count(failed: bool) -> None:
            nonlocal done, failures
            done, failures = done + 1, failures + failed
            update(completed=done, speed=done / (time.perf_counter() - start), failed=failures)

        yield count


def print_table(rows: dict[str, str]) -> None:
    table = Table(show_header=False, box=None, pad_edge=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in rows.items():
        table.add_row(name, Text(value))  # as Text, brackets in a file name are not read as markup
    console = Console()
    # A pipe has no width, and rich would wrap it at 80 columns. A path must stay on one line.
    Console(width=None if console.is_terminal else 1000).print(table)


def shape_text(array: Any) -> str:
    """Height x width, and the channels if there are any."""
    return " x ".join(str(side) for side in array.shape)
