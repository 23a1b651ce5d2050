"""How a run tells of itself, and how it is stopped.

One rule for every function that takes a callback: what returns True ends the run, which raises `Stopped` and has no
result. A picture half restored is none: for most methods the passes so far are no earlier answer to the same question.
(Those that have steps to be counted, like Richardson-Lucy, have an option for their number.)
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

Callback = Callable[[str, float], "bool | None"]
OnProgress = Callable[[float], None]


class Stopped(Exception):
    """A callback returned True: the run ended there, without a result."""


def make_progress(callback: Callback | None, stage: str, *, begin: float = 0.0, end: float = 1.0) -> OnProgress:
    """`callback` for a stage that is the part `begin` to `end` of the run; raises `Stopped` when it returns True.

    Raises
    ------
    TypeError
        `callback` cannot be called.
    """
    if callback is not None and not callable(callback):
        raise TypeError(f"callback must be a function, got {callback!r}; leave it out to hear nothing")

    def report(fraction: float) -> None:
        done = begin + (end - begin) * min(1.0, fraction)
        stop = callback(stage, done) if callback is not None else False
        if isinstance(stop, (bool, np.bool_)) and stop:
            raise Stopped(f"stopped by the callback in stage {stage!r} at {done:.0%} of the run")

    return report


def subrange(progress: OnProgress | None, begin: float, fraction: float) -> OnProgress:
    """`progress` for a step that is `fraction` of the whole and starts at `begin`; None: nobody listens."""
    return lambda done: None if progress is None else progress(begin + fraction * done)
