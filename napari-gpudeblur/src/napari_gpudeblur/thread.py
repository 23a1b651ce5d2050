"""A run of gpudeblur in a thread, with napari's progress bar, a button that cancels it, and its errors shown."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from threading import Event
from typing import Any

from magicgui.widgets import FunctionGui, Label, PushButton
from napari.qt.threading import thread_worker
from napari.utils import progress
from napari.utils.notifications import show_error, show_warning
from qtpy.QtCore import QTimer

from gpudeblur import Stopped

# What gpudeblur raises on purpose, with a message for users; napari shows other errors with their traceback.
EXPECTED = (TypeError, ValueError, OSError, ImportError, RuntimeError)

INTERVAL = 100  # milliseconds between two drawings of the bar
Callback = Callable[[str, float], bool]


def add_cancel_and_status(widget: FunctionGui) -> None:
    """Below the button that runs `widget`."""
    cancel = PushButton(name="cancel", text="Cancel", enabled=False, gui_only=True)
    widget.extend([cancel, Label(name="status", label="", gui_only=True)])


def run(
    widget: FunctionGui,
    title: str,
    compute: Callable[[Callback], Any],
    finish: Callable[[Any], str],
) -> None:
    """Compute in a thread, and then finish in the main one.

    Parameters
    ----------
    widget : its button is off meanwhile, and its cancel button on.
    title : of the progress bar.
    compute : called with a callback for gpudeblur, which reports progress and ends the run if it is cancelled or the
        viewer is closed.
    finish : called with what `compute` returned; returns the status.
    """
    if widget.cancel.enabled:
        return  # running already
    closed = Event()
    widget.native.destroyed.connect(closed.set)
    bar = progress(total=100, desc=title)
    percent = 0

    def callback(stage: str, fraction: float) -> bool:
        nonlocal percent
        percent = int(100 * fraction)
        return worker.abort_requested or closed.is_set()

    def show() -> None:
        bar.update(percent - bar.n)

    def work() -> tuple[Any, Exception | None, list[str]]:
        """Result, error and warnings.

        They are returned because in napari 0.9.2 a slot for the signal `errored` fails, and `warned` has none.
        """
        with warnings.catch_warnings(record=True) as recorded:
            warnings.simplefilter("ignore")
            warnings.simplefilter("always", UserWarning)
            warnings.simplefilter("always", RuntimeWarning)
            value, error = None, None
            try:
                value = compute(callback)
            except Exception as why:  # noqa: BLE001
                error = why
        return value, error, [str(warning.message) for warning in recorded]

    def on_start() -> None:
        # Not before: magicgui turns the button on again when the call that began the run returns.
        widget.call_button.enabled = False

    def on_return(result: tuple[Any, Exception | None, list[str]]) -> None:
        value, error, warned = result
        if closed.is_set() or isinstance(error, Stopped):
            return
        for text in warned:
            show_warning(text)
        if error is None:
            widget.status.value = finish(value)
            return
        widget.status.value = "failed"
        if not isinstance(error, EXPECTED):
            raise error
        show_error(str(error))

    def on_end() -> None:
        bar.close()
        if not closed.is_set():
            timer.stop()
            if worker.abort_requested:
                widget.status.value = "cancelled"
            widget.cancel.changed.disconnect(worker.quit)
            widget.cancel.enabled, widget.call_button.enabled = False, True

    timer = QTimer(widget.native)  # so that nothing of Qt is called in the thread
    timer.timeout.connect(show)
    timer.start(INTERVAL)
    worker = thread_worker(work)()
    worker.started.connect(on_start)
    worker.returned.connect(on_return)
    worker.finished.connect(on_end)
    widget.cancel.changed.connect(worker.quit)
    widget.cancel.enabled, widget.status.value = True, "running"
    worker.start()
