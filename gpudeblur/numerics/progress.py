"""Progress reports, and how a callback stops a run.

A callback that returns True stops the run, which raises `Stopped`. A stopped run returns nothing, because an
intermediate iterate of most methods is not a usable result. (Methods whose iterates are, like Richardson-Lucy, have an
option for the number of iterations.)
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import Any, TextIO

import numpy as np

Callback = Callable[[str, float], "bool | None"]
OnProgress = Callable[[float], None]


WIDTH = 30  # characters of a bar
INTERVAL = 0.1  # seconds between two drawings


class Stopped(Exception):
    """A callback returned True, and the run ended without a result."""


def make_progress(callback: Callback | None, stage: str, *, begin: float = 0.0, end: float = 1.0) -> OnProgress:
    """A function that reports the fraction done of a stage, which spans `begin` to `end` of the run, to `callback`.

    It raises `Stopped` when the callback returns True.

    Raises
    ------
    TypeError
        `callback` cannot be called.
    """
    if callback is not None and not callable(callback):
        raise TypeError(f"callback must be a function, got {callback!r}; leave it out for no reports")

    def report(fraction: float) -> None:
        overall = begin + (end - begin) * min(1.0, fraction)
        stop = callback(stage, overall) if callback is not None else False
        if isinstance(stop, (bool, np.bool_)) and stop:
            raise Stopped(f"stopped by the callback in stage {stage!r} at {overall:.0%} of the run")

    return report


def subrange(progress: OnProgress | None, begin: float, fraction: float) -> OnProgress:
    """`progress` for a step that is `fraction` of the whole and starts at `begin`; None reports nothing."""
    return lambda done: None if progress is None else progress(begin + fraction * done)


def progress_bar(stream: TextIO | None = None) -> Callable[..., None]:
    """A callback that draws a bar, in a terminal or a notebook: ``deblur(image, callback=progress_bar())``.

    It serves `deblur`, `estimate_kernel`, `deconvolve`, `restore` and `deblur_batch`, one call after another.

    Parameters
    ----------
    stream : text file, optional
        Where to draw; None: the standard error.

    Examples
    --------
    >>> import sys, numpy as np, gpudeblur as gd
    >>> bar = gd.progress_bar(sys.stdout)
    >>> bar("kernel", 1.0)
    kernel [##############################] 100 %
    """
    drawn, width = -INTERVAL, 0

    def report(stage: Any, fraction: float | None = None) -> None:
        nonlocal drawn, width
        if fraction is None:  # the Progress of a batch
            progress, stage = stage, "pictures"
            text = f"{progress.done} done, {progress.per_second:.3g} a second"
            fraction = 0.0
            if progress.total is not None:
                fraction, text = progress.done / max(progress.total, 1), f"{progress.done} of {progress.total}"
        else:
            text = f"{fraction:.0%}".replace("%", " %")
        now = time.monotonic()
        if fraction < 1 and now - drawn < INTERVAL:
            return
        drawn, file = now, stream or sys.stderr
        bar = "#" * int(WIDTH * fraction)
        line = f"{stage} [{bar:.<{WIDTH}}] {text}"
        # Only a line that follows another on the same line needs the return.
        file.write(("\r" if width else "") + line.ljust(width) + ("\n" if fraction >= 1 else ""))
        file.flush()
        width = 0 if fraction >= 1 else len(line)

    return report
