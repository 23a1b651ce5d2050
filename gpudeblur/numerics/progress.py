"""Progress reports, and how a callback stops a run.

A callback that returns True stops the run, which raises `Stopped`. A stopped run returns nothing, because an
intermediate iterate of most methods is not a usable result. (Methods whose iterates are, like Richardson-Lucy, have an
option for the number of iterations.)
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

Callback = Callable[[str, float], "bool | None"]
OnProgress = Callable[[float], None]


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
