"""A run of gpudeblur in a thread, with napari's progress bar, a button that cancels it, and its errors shown."""

from __future__ import annotations

from collections.abc import Callable
from threading import Event
from typing import Any

from magicgui.widgets import FunctionGui, Label, PushButton
from napari.qt.threading import FunctionWorker, thread_worker
from napari.utils import progress
from napari.utils.notifications import show_error
from superqt.utils import ensure_main_thread

from gpudeblur import Stopped

# What gpudeblur raises on purpose, with a message for users; napari shows other errors with their traceback.
EXPECTED = (TypeError, ValueError, OSError, ImportError, RuntimeError)

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
) -> FunctionWorker:
    """Compute in a thread, and then finish in the main one.

    Parameters
    ----------
    widget : its button is off meanwhile, and its cancel button on.
    title : of the progress bar.
    compute : called with a callback for gpudeblur, which reports progress and ends the run if it is cancelled or the
        viewer is closed.
    finish : called with what `compute` returned; returns the status.
    """
    closed = Event()
    widget.native.destroyed.connect(closed.set)
    bar = progress(total=100, desc=title)

    @ensure_main_thread
    def show(percent: int) -> None:
        if not worker.abort_requested and not closed.is_set():
            bar.update(percent - bar.n)

    def callback(stage: str, fraction: float) -> bool:
        nonlocal shown
        percent = int(100 * fraction)
        if percent > shown:
            shown = percent
            show(percent)
        return worker.abort_requested or closed.is_set()

    def on_return(result: Any) -> None:
        if not closed.is_set():
            widget.status.value = finish(result)

    def on_error(error: Exception) -> None:
        if closed.is_set() or isinstance(error, Stopped):
            return
        widget.status.value = "failed"
        if not isinstance(error, EXPECTED):
            raise error
        show_error(str(error))

    def on_end() -> None:
        bar.close()
        if not closed.is_set():
            if worker.abort_requested:
                widget.status.value = "cancelled"
            widget.cancel.changed.disconnect(worker.quit)
            widget.cancel.enabled, widget.call_button.enabled = False, True

    shown = 0
    worker = thread_worker(compute, ignore_errors=True)(callback)
    worker.returned.connect(on_return)
    worker.errored.connect(on_error)
    worker.finished.connect(on_end)
    widget.cancel.changed.connect(worker.quit)
    widget.call_button.enabled, widget.cancel.enabled, widget.status.value = False, True, "running"
    worker.start()
    return worker
