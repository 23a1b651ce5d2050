"""Many pictures: read, deblurred and handed over in order, a bounded number at a time.

One file, though a long one: the door, the iterator that it returns, and the lane of the CPU, a fourth of it docstrings.
"""

from __future__ import annotations

import functools
import math
import operator
import sys
import time
import weakref
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import numpy as np

from ..blind.deblur import deblur
from ..blind.options import TwoStepOptions, with_prior
from ..images import checks
from ..images.planes import decode
from ..nonblind.final import FINALS
from ..numerics.arrays import Array, array_module, choose_module, device_errors
from ..numerics.progress import Stopped
from ..numerics.user_warnings import warn
from ..priors import Prior
from .cpu import CpuExecutor
from .gpu import Device, GpuExecutor, cuda
from .memory import bytes_per_image
from .pipeline import BatchResult, Executor, Pipeline

__all__ = ["BatchIterator", "BatchResult", "Progress", "deblur_batch"]


@dataclass(frozen=True)
class Progress:
    """How far a batch is.

    Attributes
    ----------
    done, failed : int
        Results that were handed over and done with; those of them with an error.
    total : int or None
        How many there are to be, where `pictures` has a length.
    seconds, per_second : float
        Since the first was asked for; results a second.
    remaining_seconds : float or None
        To the end at this speed, where the total is known.
    """

    done: int
    failed: int
    total: int | None
    seconds: float
    per_second: float
    remaining_seconds: float | None


def deblur_batch(
    pictures: Iterable[Array],
    kernel_size: int | tuple[int, int] | None = None,
    *,
    channel_axis: int | None = None,
    device: str | None = None,
    method: str = "two-step",
    final: str | None = "sparse",
    gamma: float = 1.0,
    prior: Prior | None = None,
    options: TwoStepOptions | None = None,
    batch_size: int | None = None,
    workers: int | None = None,
    callback: Callable[[Progress], bool | None] | None = None,
) -> BatchIterator:
    """Deblur many pictures, each as `deblur` would by itself; the results come in the order of the pictures.

    Nothing is read before the first result is asked for. From then on a thread reads ahead, within a bound: on the CPU
    two stacks a worker, read and not yet taken; on a GPU four full groups. The iterator may be left at any time: its
    end, `close()`, the end of a ``with`` block, an exception and the garbage collector all stop the pictures in work
    and the threads, and close the iterator of `pictures` if it has a `close`.

    Parameters
    ----------
    pictures : stack, or any iterable of NumPy or CuPy pictures
        Each of them (H, W), or (H, W, C) with ``channel_axis=-1``, of any size and dtype. It is iterated in a thread;
        a picture must not be written to before its result is there.
    kernel_size, channel_axis, device, method, final, gamma, prior, options
        See `deblur`; the same for all pictures. `channel_axis` counts the axes of one picture.
    batch_size : int, optional
        The most pictures of one shape that are computed together. None: on a GPU what fits into its free memory, see
        `batch.memory` (what does not fit after all is halved, with a warning); on the CPU a few, up to 2^19 pixels.
        One by one where kernel_size is None: each then has a kernel of its own size.
    workers : int, optional
        CPU only: threads, each with a stack of its own. None: one for each CPU that this process may use.
    callback : callable(Progress), optional
        Called in the thread that iterates, whenever it comes back for the next result. Returning True ends the batch
        by `Stopped`.

    Returns
    -------
    BatchIterator of BatchResult
        What is wrong with one picture is the `error` of its result, and disturbs no other.

    Raises
    ------
    TypeError, ValueError, RuntimeError
        At once: an argument that is wrong for every picture, as in `deblur`.
    Stopped
        While iterating: the callback said so. What `pictures` and `callback` raise comes through as well, the former
        after the results of all pictures before it.

    Notes
    -----
    On the CPU a result equals that of the single call bit by bit, but with a network as the prior, which rounds
    otherwise for a stack. On a GPU a thread captures CUDA graphs while the first groups of a shape are computed;
    meanwhile CUDA may refuse to synchronise the whole device, so synchronise streams or events instead.

    Examples
    --------
    >>> import gpudeblur as gd
    >>> with gd.deblur_batch(pictures, 25) as results:      # doctest: +SKIP
    ...     for r in results:
    ...         print(r.index, r.error or r.info["confidence"])
    """
    total = _check_pictures(pictures, channel_axis)
    checks.check_choice("method", method, ("two-step",))
    if final is not None:
        checks.check_choice("final", final, FINALS)
    if options is not None and not isinstance(options, TwoStepOptions):
        raise TypeError(f"options must be a TwoStepOptions, got {type(options).__name__}; name its fields in one")
    options = with_prior(options, prior)
    if kernel_size is not None:
        checks.check_kernel_size(kernel_size, (1 << 62, 1 << 62))
    decode(np.ones((1, 1)), gamma)
    _check_count("batch_size", batch_size, "the free memory decides")
    _check_count("workers", workers, "one for each CPU")
    if callback is not None and not callable(callback):
        raise TypeError(f"callback must be callable, got {type(callback).__name__}; it is called with a Progress")
    with device_errors():
        module = choose_module(np.empty(0), device)
    settings = {
        "kernel_size": kernel_size,
        "channel_axis": channel_axis,
        "method": method,
        "final": final,
        "gamma": gamma,
        "options": options,
    }
    on_cpu = None if device is None else "cpu" if module is np else "cuda"
    return BatchIterator(pictures, total, on_cpu, settings, workers, batch_size, callback)


class BatchIterator(Iterator[BatchResult]):
    """The results of `deblur_batch`, in order; a context manager that closes itself."""

    def __init__(
        self,
        pictures: Iterable[Any],
        total: int | None,
        device: str | None,
        settings: dict[str, Any],
        workers: int | None,
        batch_size: int | None,
        callback: Callable[[Progress], bool | None] | None,
    ) -> None:
        self._pictures: Iterable[Any] | None = pictures
        self._total, self._callback = total, callback
        self._done = self._failed = 0
        self._start = 0.0
        self._flow = flow = Pipeline(_lanes(settings, device, workers, batch_size))
        # Holds for the garbage collector and for the end of the interpreter too.
        self._end = weakref.finalize(self, flow.stop)

    def __iter__(self) -> BatchIterator:
        return self

    def __next__(self) -> BatchResult:
        if not self._end.alive:
            raise StopIteration
        try:
            if self._pictures is not None:
                self._start = time.perf_counter()
                pictures, self._pictures = self._pictures, None
                flow = self._flow
                flow.start(lambda: flow.read_all(pictures), "reader")
                del pictures
            elif self._callback is not None:
                self._report(self._callback)
            while self._flow.warnings:
                warn(self._flow.warnings.popleft(), RuntimeWarning)
            result = self._flow.take(self._done)
        except BaseException:
            self.close()
            raise
        self._done += 1
        self._failed += result.error is not None
        return result

    def close(self) -> None:
        """Stop the pictures in work, end the threads, close the pictures' iterator."""
        self._end()

    def __enter__(self) -> BatchIterator:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, why: BaseException | None, where: TracebackType | None
    ) -> None:
        self.close()

    def _report(self, callback: Callable[[Progress], bool | None]) -> None:
        seconds = time.perf_counter() - self._start
        per_second = self._done / max(seconds, 1e-9)
        remaining = None if self._total is None else max(0, self._total - self._done) / per_second
        stop = callback(Progress(self._done, self._failed, self._total, seconds, per_second, remaining))
        if isinstance(stop, (bool, np.bool_)) and stop:
            of = "" if self._total is None else f" of {self._total}"
            raise Stopped(f"stopped by the callback after {self._done}{of} pictures")


def _lanes(
    settings: dict[str, Any], device: str | None, workers: int | None, batch_size: int | None
) -> Callable[[Pipeline, Any], Executor]:
    """What chooses a picture's lane: the device's for CuPy pictures or if so asked for, else that of the CPU."""
    lanes: dict[str, Executor] = {}
    number, ready = _current_device()

    def choose(flow: Pipeline, picture: Any) -> Executor:
        on_device = device == "cuda" or (device is None and _is_on_device(picture))
        name = "cuda" if on_device else "cpu"
        if name not in lanes:
            lane: Executor
            if on_device:
                with device_errors():
                    lane = _groups(flow, settings, batch_size, cuda(number, ready))
            else:
                lane = CpuExecutor(flow, settings, device, workers, batch_size)
            lanes[name] = lane
            flow.lanes.append(lane)
        return lanes[name]

    return choose


def _current_device() -> tuple[int | None, Any]:
    """The number of this thread's GPU, and an event after all that its stream has been asked for; or None, None.

    Asked for in the user's thread: that of the reader has a device and a stream of its own.
    """
    cupy = sys.modules.get("cupy")
    try:
        return (None, None) if cupy is None else (int(cupy.cuda.Device().id), cupy.cuda.get_current_stream().record())
    except RuntimeError:  # no driver, no device
        return None, None


def _is_on_device(picture: Any) -> bool:
    try:
        return array_module(picture) is not np
    except TypeError:
        return False


def _groups(flow: Pipeline, settings: dict[str, Any], batch_size: int | None, device: Device) -> GpuExecutor:
    """The lane of a device."""
    axis = settings["channel_axis"]

    def bytes_of(shape: tuple[int, ...]) -> int:
        sides, channels = list(shape), 1
        if axis is not None:
            channels = sides.pop(axis)
        need = bytes_per_image(
            (sides[-2], sides[-1]),
            settings["kernel_size"],
            channels=channels,
            final=settings["final"],
            options=settings["options"],
            backend="cupy",
        )
        # Stacks on the way in and out are at most of doubles, and as many as there are threads.
        return need * math.prod(sides[:-2]) + 3 * 8 * math.prod(shape)

    return GpuExecutor(
        flow,
        device,
        functools.partial(deblur, **{name: value for name, value in settings.items() if name != "channel_axis"}),
        functools.lru_cache(maxsize=64)(bytes_of),
        kernel_size=settings["kernel_size"],
        channel_axis=axis,
        batch_size=batch_size,
    )


def _check_pictures(pictures: Any, channel_axis: Any) -> int | None:
    """Refuse what cannot be many pictures; how many there are, if that can be told."""
    if isinstance(pictures, (str, bytes)) or not (hasattr(pictures, "__iter__") or hasattr(pictures, "__getitem__")):
        raise TypeError(
            f"pictures must be a stack or an iterable of NumPy or CuPy pictures, got {type(pictures).__name__}; "
            "put a single picture into a list"
        )
    if channel_axis is not None:
        try:
            operator.index(channel_axis)
        except TypeError:
            checks.check_picture(np.ones((1, 1, 1)), channel_axis=channel_axis)  # has the words for it
    least = 3 if channel_axis is None else 4
    if hasattr(pictures, "ndim") and pictures.ndim < least:
        axes = "(n, H, W)" if channel_axis is None else "(n, H, W, C)"
        raise ValueError(
            f"pictures must have at least {least} axes as a stack, {axes}, got {pictures.ndim} (shape "
            f"{tuple(pictures.shape)}); put a single picture into a list"
        )
    try:
        return len(pictures)
    except TypeError:
        return None


def _check_count(name: str, value: Any, default: str) -> None:
    if value is None:
        return
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, (int, np.integer)):
        raise TypeError(f"{name} must be a positive integer or None, got {value!r}; None: {default}")
    if value < 1:
        raise ValueError(f"{name} must be at least 1, got {value}; None: {default}")
