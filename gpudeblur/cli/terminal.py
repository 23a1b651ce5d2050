"""What the `gpudeblur` command shows: errors, warnings, progress and tables; and how signals end it.

Everything but the tables passes through the logger "gpudeblur", to stderr and into the file of --log-file.
"""

from __future__ import annotations

import functools
import logging
import os
import signal
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from ..batch.messages import in_options

if TYPE_CHECKING:
    from rich.console import Console

LOGGER = logging.getLogger("gpudeblur")
TABLE = logging.getLogger("gpudeblur.table")  # what stdout shows; of the handlers, only that of the file takes it
# From one line of progress to the next, where there is no terminal: of a picture; between the lines of a batch.
LINE_SECONDS, BATCH_LINE_SECONDS = 5.0, 30.0
STYLES = {logging.ERROR: "bold red", logging.WARNING: "yellow"}


def _console(*, stderr: bool = True) -> Console:
    from rich.console import Console  # 0.05 s of CPU time, which --help does not need

    return Console(stderr=stderr)


class _ConsoleHandler(logging.Handler):
    """Writes a record to stderr in one line."""

    def emit(self, record: logging.LogRecord) -> None:
        from rich.text import Text

        prefix = f"{record.levelname.lower()}: " if record.levelno >= logging.WARNING else ""
        text = f"{prefix}{record.getMessage()}".replace("\n", " ")
        _console().print(Text(text, style=STYLES.get(record.levelno, "")), soft_wrap=True)


@contextmanager
def log_to_stderr(*, quiet: bool = False, verbose: bool = False) -> Iterator[None]:
    """The logger's records on stderr. -q leaves errors alone, -v adds every stage; a terminal has bars for lines."""
    handler = _ConsoleHandler()
    usual = logging.WARNING if _console().is_terminal else logging.INFO
    handler.setLevel(logging.ERROR if quiet else logging.DEBUG if verbose else usual)
    handler.addFilter(lambda record: record.name != TABLE.name)
    level, propagate = LOGGER.level, LOGGER.propagate
    LOGGER.setLevel(logging.DEBUG)
    LOGGER.propagate = False
    try:
        with _handling(handler):
            yield
    finally:
        LOGGER.setLevel(level)
        LOGGER.propagate = propagate


@contextmanager
def log_to_file(path: Path | None) -> Iterator[None]:
    """All of the logger's records, and the tables, at the end of a file; None: nowhere."""
    if path is None:
        yield
        return
    handler = logging.FileHandler(path, encoding="utf-8", errors="backslashreplace")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    with _handling(handler):
        yield


@contextmanager
def _handling(handler: logging.Handler) -> Iterator[None]:
    LOGGER.addHandler(handler)
    try:
        yield
    finally:
        LOGGER.removeHandler(handler)
        handler.close()


def is_quiet() -> bool:
    """Whether the command was called with -q."""
    levels = [handler.level for handler in LOGGER.handlers if isinstance(handler, _ConsoleHandler)]
    return bool(levels) and min(levels) >= logging.ERROR


@contextmanager
def user_errors() -> Iterator[None]:
    """Print errors about the user's input, files and devices as one line instead of a traceback; warnings too."""
    # tifffile also logs what it raises, and Python prints logs that nobody handles.
    logging.getLogger("tifffile").addHandler(logging.NullHandler())
    try:
        with warnings.catch_warnings():
            warnings.showwarning = print_warning  # type: ignore[assignment]  # takes all arguments by position
            yield
    except typer.Exit:  # a RuntimeError
        raise
    except BrokenPipeError as error:  # such as of `| head`, which has read enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python's last flush fails too
        raise typer.Exit(1) from error
    except (ValueError, TypeError, OSError, RuntimeError, MemoryError, ImportError, ArithmeticError) as error:
        LOGGER.error("%s", in_options(error) or type(error).__name__)
        raise typer.Exit(2) from error


def print_warning(message: Warning | str, *_: Any) -> None:
    LOGGER.warning("%s", in_options(message))


class Terminated(KeyboardInterrupt):
    """SIGTERM or SIGHUP, which ends a run as Ctrl-C does."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number


@contextmanager
def signals_end_the_run() -> Iterator[None]:
    """SIGINT, SIGTERM and SIGHUP raise KeyboardInterrupt, which ends the command with exit code 128 + the signal's.

    A signal that is ignored, as SIGHUP by nohup, stays so.
    """

    def terminate(number: int, _: Any) -> None:
        raise Terminated(number)

    previous = {}
    if threading.current_thread() is threading.main_thread():
        for name in ("SIGTERM", "SIGHUP"):  # Windows has no SIGHUP
            number = getattr(signal, name, None)
            if number is not None and signal.getsignal(number) == signal.SIG_DFL:
                previous[number] = signal.signal(number, terminate)
    try:
        yield
    except KeyboardInterrupt as error:
        raise typer.Exit(128 + getattr(error, "number", signal.SIGINT)) from error
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


@contextmanager
def _bar(*columns: Any, total: float, **fields: Any) -> Iterator[Callable[..., None]]:
    """A progress bar on stderr, if that is a terminal; yields the function that updates it."""
    from rich.progress import Progress

    console = _console()
    disabled = not console.is_terminal or is_quiet()
    with Progress(*columns, console=console, transient=True, disable=disabled) as progress:
        yield functools.partial(
            progress.update, progress.add_task(fields.pop("description", ""), total=total, **fields)
        )


def _lines(seconds: float) -> Callable[[str], None]:
    """A function that logs a line, unless the last one is less than `seconds` old."""
    last = time.perf_counter()

    def log(text: str) -> None:
        nonlocal last
        if time.perf_counter() - last >= seconds:
            last = time.perf_counter()
            LOGGER.info("%s", text)

    return log


@contextmanager
def progress_bar() -> Iterator[Callable[[str, float], None]]:
    """A bar of the stages of one run; yields its callback, which never stops the run."""
    from rich.progress import BarColumn, TextColumn, TimeElapsedColumn

    percent = TextColumn("{task.percentage:>3.0f} %")
    columns = (TextColumn("{task.description}"), BarColumn(), percent, TimeElapsedColumn())
    with _bar(*columns, total=1.0, description="reading") as update:
        start, stages, line = time.perf_counter(), set[str](), _lines(LINE_SECONDS)

        def report(stage: str, fraction: float) -> None:
            update(description=stage, completed=fraction)
            seconds = time.perf_counter() - start
            if stage not in stages:
                stages.add(stage)
                LOGGER.debug("%s begins after %.1f s", stage, seconds)
            line(f"{stage}: {fraction:.0%} of the run after {seconds:.0f} s")

        yield report


@contextmanager
def counter(total: int) -> Iterator[tuple[Callable[[bool], None], Callable[[float], None]]]:
    """A bar of pictures with their speed and the time left.

    Yields the function that counts one, failed or not, and that which takes what is computed of the next ones.
    """
    from rich.progress import BarColumn, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.fields[done]} of {task.total:.0f}"),
        BarColumn(),
        TextColumn("{task.fields[speed]:.2f} a second, {task.fields[failed]} failed"),
        TimeRemainingColumn(),
    )
    with _bar(*columns, total=total, speed=0.0, failed=0, done=0) as update:
        start, done, failures, line = time.perf_counter(), 0, 0, _lines(BATCH_LINE_SECONDS)

        def show(pictures: float) -> None:
            speed = pictures / (time.perf_counter() - start)
            update(completed=pictures, speed=speed, failed=failures, done=done)

        def count(failed: bool) -> None:
            nonlocal done, failures
            done, failures = done + 1, failures + failed
            show(done)

        def advance(ahead: float) -> None:
            show(done + ahead)
            line(f"{done} of {total} done, {ahead:.1f} more computed")

        yield count, advance


def print_table(rows: dict[str, str], *, stderr: bool = False) -> None:
    """The rows on stdout; on stderr where stdout is the picture."""
    for name, value in rows.items():
        TABLE.info("%s: %s", name, value.replace("\n", ", "))
    if is_quiet():
        return
    console = _console(stderr=stderr)
    if not console.is_terminal:  # A path must stay on one line, and no line ends in blanks.
        width = max(map(len, rows)) + 2
        for name, value in rows.items():
            text = value.replace("\n", f"\n{'':{width}}")
            print(f"{name:{width}}{text}".rstrip(), file=sys.stderr if stderr else sys.stdout)
        return
    from rich.table import Table
    from rich.text import Text

    table = Table(show_header=False, box=None, pad_edge=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in rows.items():
        table.add_row(name, Text(value))  # as Text, brackets in a file name are not read as markup
    console.print(table)


def shape_text(array: Any) -> str:
    """Height x width, and the channels if there are any."""
    return " x ".join(str(side) for side in array.shape)
