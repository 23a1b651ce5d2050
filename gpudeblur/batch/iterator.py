"""`deblur_batch`: deblur many images, read and returned in order, a bounded number at a time."""

from __future__ import annotations

import functools
import math
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import numpy as np

from ..blind.options import Settings, TwoStepOptions
from ..blind.restore import NoFaceWarning, RestoreSettings, colors_of, count_others
from ..images import checks
from ..images.kernel_field import KernelField
from ..images.masks import NAN_ADVICE, hide_invalid, valid_pixels, without_mask
from ..images.planes import split_alpha
from ..images.white import ComparedWhite, WhiteLevelError, assess_white, check_white, full_scale
from ..networks.catalog import network_names
from ..nonblind.specs import METHODS, check_installed
from ..numerics.arrays import Array, array_module, choose_module, device_errors, to_host
from ..numerics.interchange import to_library, to_native
from ..numerics.progress import Stopped
from ..numerics.user_warnings import warn
from ..priors import Prior
from .cpu import CpuExecutor, check_burst, deblur_masked, restore_masked
from .cuda_device import acquire_cuda_device
from .gpu import Device, GpuExecutor
from .masks import Masks, mask_like
from .memory import bytes_per_image
from .pipeline import BatchResult, Executor, Pipeline

__all__ = ["BatchIterator", "BatchResult", "Progress", "deblur_batch"]
REPORT_SECONDS = 0.5  # from one call of the callback to the next while a result is waited for
NETWORK_ARRAYS = 16  # live arrays of an image's size around a network on a GPU, at most, in float64


@dataclass(frozen=True)
class Progress:
    """Progress of a batch.

    Attributes
    ----------
    done, failed : int
        Results that the loop has finished with; those of them with an error.
    total : int or None
        The number of pictures, if `pictures` has a length.
    seconds, per_second : float
        Time since the first result was asked for; results per second.
    remaining_seconds : float or None
        Until the end at this speed, if the total is known; None before the first result.
    ahead : float
        Work done on the results to come, in pictures; on the CPU it grows while a stack is computed.
    """

    done: int
    failed: int
    total: int | None
    seconds: float
    per_second: float
    remaining_seconds: float | None
    ahead: float = 0.0


def deblur_batch(
    pictures: Iterable[Array],
    kernel_size: int | tuple[int, int] | None = None,
    *,
    channel_axis: int | None = None,
    device: str | None = None,
    method: str = "two-step",
    final: str | None = "sparse",
    gamma: float | str = 1.0,
    white: float | str | None = None,
    mask: Array | str | Iterable[Array | str | None] | None = None,
    defects: str | None = "auto",
    region: tuple[slice, slice] | str = "auto",
    shared_kernel: bool = False,
    initial: Array | None = None,
    prior: Prior | None = None,
    options: TwoStepOptions | None = None,
    batch_size: int | None = None,
    workers: int | None = None,
    callback: Callable[[Progress], bool | None] | None = None,
) -> BatchIterator:
    """Deblur many pictures, each as `deblur` would alone. The results come in the order of the pictures.

    Nothing is read before the first result is asked for. From then on a thread reads ahead, within a bound: on the CPU
    two stacks per worker, on a GPU four groups. The loop may be left at any time: its end, `close()`, the end of a
    ``with`` block, an exception and the garbage collector all stop the computation and the threads, and close the
    iterator of `pictures` if it has a `close` method.

    Parameters
    ----------
    pictures : stack, or any iterable of NumPy or CuPy arrays
        Each of them (H, W), or (H, W, C) with ``channel_axis=-1``, of any size and dtype; or bursts, see
        `shared_kernel`. It is iterated in a thread.
        A picture must not be changed before its result is there.
    kernel_size, channel_axis, device, final, gamma, region, initial, prior, options
        As in `deblur`, the same for all pictures. `channel_axis` counts the axes of one picture, or of one burst.
    shared_kernel : bool
        True: `pictures` are bursts, each a stack (N, H, W), or (N, H, W, C) with ``channel_axis=-1``, of pictures with
        the same blur, and each has one result: that of `deblur` with ``shared_kernel=True``. N and the sides may differ
        from burst to burst. Bursts are computed one by one; the mask of one is (H, W) or (N, H, W).
    white : float, "auto" or None
        As in `deblur`; "auto" is decided for each picture by itself. Of pictures that use little of their range, only
        the first is warned of.
    mask : bool array (H, W) or "nan", or an iterable of these, optional
        As in `deblur`: True where the pictures are valid, one for all of them, in any memory; or where each is finite.
        An iterable, or an array (n, H, W), has one mask a picture, in the same order and read with them; None is a
        picture without a mask. Masked arrays bring their own, but are refused on a GPU.
    defects : {"auto", None}
        As in `deblur`; of pictures with defects, each is warned of once.
    method : {"two-step"} or a network of `restore`, such as "deepdeblur"
        A network takes `channel_axis`, `device`, `gamma`, `white` and `mask` alone, and the results are those of
        `restore`. Its warning of pictures that are no small faces comes once, after the last result.
    batch_size : int, optional
        How many pictures of one shape are computed together, at most. None: on a GPU what fits into its free memory by
        the model in `batch.memory` (if it does not fit, the group is halved with a warning); on the CPU up to 2^19
        pixels, with a network 8 pictures. If kernel_size is None, the two-step method computes pictures one by one,
        because their kernels differ in size.
    workers : int, optional
        CPU only: the number of threads. None: one for each CPU that this process may use, and one for a network, as
        PyTorch has its own.
    callback : callable(Progress), optional
        Called in the iterating thread each time the next result is asked for, and every half second while it is waited
        for. If it returns True, the batch ends with `Stopped`.

    Returns
    -------
    BatchIterator of BatchResult
        What is wrong with one picture, or with its mask, is the `error` of its result and does not affect the others.

    Raises
    ------
    TypeError, ValueError, RuntimeError
        At once: an argument that is wrong for every picture, as in `deblur`.
    Stopped
        While iterating: the callback returned True. What `callback` raises comes through; what `pictures` or `mask`
        raises comes after the results of all pictures before it, as does a ValueError if one of them ends first.

    Notes
    -----
    On the CPU each result equals that of `deblur` bit by bit, except with a network, which rounds differently in a
    stack. On a GPU, CUDA graphs are captured while the first groups of a shape are computed. During a
    capture CUDA may refuse to synchronize the whole device, so synchronize streams or events instead.

    Examples
    --------
    >>> import gpudeblur as gd
    >>> with gd.deblur_batch(pictures, 25) as results:      # doctest: +SKIP
    ...     for r in results:
    ...         print(r.index, r.error or r.info["confidence"])
    """
    with device_errors():
        arguments = _check_method(
            kernel_size,
            channel_axis,
            device,
            method,
            final,
            gamma,
            white,
            prior,
            options,
            defects,
            region,
            shared_kernel,
            to_native(initial, "initial"),
        )
        total = _check_pictures(pictures, channel_axis, shared_kernel)
        masks = Masks(to_native(mask, "mask"), total, bursts=shared_kernel)
    if batch_size is not None:
        checks.check_count("batch_size", batch_size, way_out="leave it out to fill the free memory")
    if workers is not None:
        checks.check_count("workers", workers, way_out="leave it out for one per CPU")
    if callback is not None and not callable(callback):
        raise TypeError(f"callback must be callable, got {type(callback).__name__}; it is called with a Progress")
    if device == "auto":
        device = "cpu" if choose_module(np.empty(0), device) is np else "cuda"
    return BatchIterator(pictures, masks, total, device, arguments, workers, batch_size, callback)


def deconvolve_batch(
    pictures: Iterable[Array],
    kernel: Array | KernelField,
    *,
    channel_axis: int | None = None,
    device: str | None = None,
    method: str | None = None,
    gamma: float = 1.0,
    white: float | str | None = None,
    mask: Array | str | Iterable[Array | str | None] | None = None,
    defects: str | None = "auto",
    workers: int | None = None,
    callback: Callable[[Progress], bool | None] | None = None,
) -> BatchIterator:
    """`deconvolve` many pictures by one kernel, several at a time; otherwise as `deblur_batch`."""
    checks.check_gamma(gamma)
    if method is not None:
        checks.check_choice("method", method, METHODS)
        check_installed(method)
    if workers is not None:
        checks.check_count("workers", workers, way_out="leave it out for one per CPU")
    settings = {
        "kernel": kernel, "channel_axis": channel_axis, "method": method, "gamma": gamma,
        "white": check_white(white), "defects": defects,
    }  # fmt: skip
    if device == "auto":
        device = "cpu" if choose_module(np.empty(0), device) is np else "cuda"
    return BatchIterator(pictures, Masks(mask), None, device, settings, workers, None, callback)


def _check_method(
    kernel_size: Any,
    channel_axis: Any,
    device: Any,
    method: Any,
    final: Any,
    gamma: Any,
    white: Any,
    prior: Any,
    options: Any,
    defects: Any,
    region: Any,
    shared_kernel: Any,
    initial: Any,
) -> dict[str, Any]:
    """The arguments of `deblur` for a picture, or those of `restore` if the method is a network; checked."""
    networks = network_names()
    checks.check_choice("method", method, ("two-step", *networks))
    if method not in networks:
        settings = Settings.of(
            kernel_size,
            channel_axis,
            device,
            method,
            final,
            gamma,
            prior,
            options,
            white=white,
            defects=defects,
            region=region,
            shared_kernel=shared_kernel,
            initial=initial,
        )
        if initial is not None:
            initial = to_host(initial)  # the threads of a batch have streams of their own
        return {
            "kernel_size": settings.kernel_size, "channel_axis": channel_axis, "method": method, "final": final,
            "gamma": gamma, "white": settings.white, "options": settings.options,
            "defects": defects, "region": region, "shared_kernel": shared_kernel, "initial": initial,
        }  # fmt: skip
    two_step_arguments = {"kernel_size": kernel_size, "initial": initial, "prior": prior, "options": options}
    if shared_kernel is not False:
        two_step_arguments["shared_kernel"] = shared_kernel
    if not (isinstance(region, str) and region == "auto"):
        two_step_arguments["region"] = region
    if not (isinstance(final, str) and final == "sparse"):
        two_step_arguments["final"] = final
    checks.check_defects(defects)
    for name, value in two_step_arguments.items():
        if value is not None or name == "final":
            raise ValueError(f"{name} is not known to method {method!r}, got {value!r}; leave it out")
    checked = RestoreSettings.of(method, channel_axis, device, gamma=gamma, white=white)
    return {"network": method, "channel_axis": channel_axis, "gamma": gamma, "white": checked.white}


class BatchIterator(Iterator[BatchResult]):
    """The results of `deblur_batch`, in order. A context manager that closes itself.

    `len` is the number of pictures, if they have a length. Any thread may `close` it, which ends the loop of the thread
    that iterates; but only one thread at a time may wait for a result.
    """

    def __init__(
        self,
        pictures: Iterable[Any],
        masks: Masks,
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
        self._network = settings.get("network")
        self._others = self._judged = 0  # pictures that do not look like small faces, of those that the gate has seen
        self._start = self._reported = 0.0
        self._waiting = threading.Lock()
        executors = _executors(settings, device, workers, batch_size)
        self._pipeline = pipeline = Pipeline(executors, _white_levels(settings), masks)
        # Also called by the garbage collector and at the interpreter's exit.
        self._finalize = weakref.finalize(self, pipeline.stop)

    def __iter__(self) -> BatchIterator:
        return self

    def __len__(self) -> int:
        if self._total is None:
            raise TypeError("the number of pictures is not known before the end, as they came without a length")
        return self._total

    def __bool__(self) -> bool:
        return True

    def __next__(self) -> BatchResult:
        if not self._waiting.acquire(blocking=False):
            raise RuntimeError(
                "the batch must be asked for one result at a time, but another thread or its own callback waits for "
                "one; take all results in one thread"
            )
        try:
            return self._next()
        finally:
            self._waiting.release()

    def _next(self) -> BatchResult:
        if not self._finalize.alive:
            raise StopIteration
        pipeline = self._pipeline
        try:
            if self._pictures is not None:
                self._start = self._reported = time.perf_counter()
                pictures, self._pictures = self._pictures, None
                pipeline.start(lambda: pipeline.read_all(pictures), "reader")
                del pictures
            elif self._callback is not None:
                self._report(self._callback)
            while pipeline.warnings:
                warn(pipeline.warnings.popleft(), RuntimeWarning)
            result = pipeline.take(self._done, self._report_waiting)
        except BaseException as error:
            self.close()
            if isinstance(error, StopIteration) and self._others:
                warn(NoFaceWarning(str(self._network), self._others, self._judged))
            raise
        library = pipeline.libraries.pop(result.index, None)
        if library is not None:
            result = to_library(result, library)
        self._done += 1
        others, judged = count_others(result.info)
        self._others, self._judged = self._others + others, self._judged + judged
        self._failed += result.error is not None
        return result

    def close(self) -> None:
        """Stop the computation, end the threads, close the iterator of the pictures."""
        self._finalize()

    def __enter__(self) -> BatchIterator:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _report_waiting(self) -> None:
        if self._callback is not None and time.perf_counter() - self._reported >= REPORT_SECONDS:
            self._report(self._callback)

    def _report(self, callback: Callable[[Progress], bool | None]) -> None:
        self._reported = time.perf_counter()
        seconds = self._reported - self._start
        per_second = self._done / max(seconds, 1e-9)
        remaining = None
        if self._total is not None and self._done > 0:
            remaining = max(0, self._total - self._done) / per_second
        ahead = self._pipeline.ahead
        stop = callback(Progress(self._done, self._failed, self._total, seconds, per_second, remaining, ahead))
        if isinstance(stop, (bool, np.bool_)) and stop:
            total = "" if self._total is None else f" of {self._total}"
            raise Stopped(f"stopped by the callback after {self._done}{total} pictures")


def _executors(
    settings: dict[str, Any], device: str | None, workers: int | None, batch_size: int | None
) -> Callable[[Pipeline, Any], Executor]:
    """The function that chooses a picture's executor: the GPU's for CuPy pictures or on request, else the CPU's."""
    executors: dict[str, Executor] = {}
    device_id, inputs_ready = _current_device()

    def choose(pipeline: Pipeline, picture: Any) -> Executor:
        on_gpu = "kernel" not in settings and (device == "cuda" or (device is None and _is_on_device(picture)))
        name = "cuda" if on_gpu else "cpu"
        if name not in executors:
            if on_gpu:
                with device_errors():
                    gpu = acquire_cuda_device(device_id, inputs_ready)
                    executors[name] = _gpu_executor(pipeline, gpu, settings, batch_size)
            else:
                executors[name] = CpuExecutor(pipeline, settings, device, workers, batch_size)
            pipeline.executors.append(executors[name])
        return executors[name]

    return choose


def _white_levels(settings: dict[str, Any]) -> Callable[[Pipeline, Any, Any], float | None]:
    """The function that decides the white level of a picture; None leaves it, with the errors, to `deblur`."""
    white, axis, is_network = settings["white"], settings["channel_axis"], "network" in settings

    def white_of(pipeline: Pipeline, picture: Any, mask: Any) -> float | None:
        index = pipeline.read_count
        try:
            checks.module_of(without_mask(picture), "image")
            checks.check_dtype(picture.dtype, "image")
            if mask is not None or isinstance(picture, np.ma.MaskedArray):
                picture = _visible(picture, mask, axis)
            picture = colors_of(picture, axis) if is_network else split_alpha(picture, axis, warns=False)[0]
            dtype = settings["options"].dtype if "options" in settings else "float32"
            level, warning = assess_white(picture, white, channel_axis=axis, dtype=dtype, name=f"picture {index}")
        except WhiteLevelError:
            raise
        except (TypeError, ValueError, AttributeError, IndexError, ArithmeticError):
            is_plain = white is None and isinstance(picture, np.ndarray) and picture.dtype.kind in "iuf"
            return ComparedWhite(full_scale(picture.dtype)) if is_plain else None
        if warning is not None and not pipeline.warned_of_white:
            pipeline.warned_of_white = True
            pipeline.warnings.append(warning)
        return level

    return white_of


def _visible(picture: Any, mask: Any, channel_axis: int | None) -> Any:
    """The checked picture with 0 where it is not valid."""
    values = without_mask(picture)
    has_mask = mask is not None or values is not picture
    checks.check_picture(values, channel_axis=channel_axis, nan_advice=None if has_mask else NAN_ADVICE)
    valid = valid_pixels(picture, mask_like(mask, picture), channel_axis=channel_axis)
    return hide_invalid(values, valid)


def _current_device() -> tuple[int | None, Any]:
    """The number of this thread's GPU and an event after all work on its stream; None and None without a GPU.

    Called in the user's thread: the reader's thread has another current device and stream.
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


def _gpu_executor(pipeline: Pipeline, device: Device, settings: dict[str, Any], batch_size: int | None) -> GpuExecutor:
    axis, is_network = settings["channel_axis"], "network" in settings

    @functools.lru_cache(maxsize=64)
    def bytes_of(shape: tuple[int, ...]) -> int:
        if is_network:  # the arrays outside the network, which takes few pixels at a time
            return NETWORK_ARRAYS * 8 * math.prod(shape)
        sides, channels = list(shape), 1
        if axis is not None:
            channels = sides.pop(axis)
        size = bytes_per_image(
            (sides[-2], sides[-1]),
            settings["kernel_size"],
            channels=channels,
            final=settings["final"],
            gamma=settings["gamma"],
            options=settings["options"],
            backend="cupy",
        )
        # Each of the three threads has an input or a result as well, of float64 at most.
        return size * math.prod(sides[:-2]) + 3 * 8 * math.prod(shape)

    def check(image: Any, mask: Any) -> None:
        if not is_network and settings["shared_kernel"]:
            check_burst(image, axis)
        checks.module_of(image, "image")  # refuses masked arrays
        if is_network:
            nan_advice = NAN_ADVICE if mask is None else None
            checks.check_network_picture(image, channel_axis=axis, nan_advice=nan_advice)
        _visible(image, mask, axis)
        if is_network:
            return
        shape = checks.without_channels(image, axis)
        if settings["kernel_size"] is None:
            checks.check_minimum_size(shape)
        else:
            checks.check_kernel_size(settings["kernel_size"], shape)

    function: Any = restore_masked if is_network else deblur_masked
    return GpuExecutor(
        pipeline,
        device,
        functools.partial(function, **{name: value for name, value in settings.items() if name != "channel_axis"}),
        bytes_of,
        check=check,
        one_by_one=not is_network and settings["kernel_size"] is None,  # kernels would be padded to the largest
        channel_axis=axis,
        batch_size=batch_size,
    )


def _check_pictures(pictures: Any, channel_axis: Any, shared_kernel: bool) -> int | None:
    """Refuse what cannot be many pictures; return their number if it is known."""
    if isinstance(pictures, (str, bytes)) or not (hasattr(pictures, "__iter__") or hasattr(pictures, "__getitem__")):
        raise TypeError(
            f"pictures must be a stack or an iterable of NumPy or CuPy pictures, got {type(pictures).__name__}; "
            "put a single picture into a list"
        )
    if channel_axis is not None:
        checks.check_axis(channel_axis)
    item = "burst" if shared_kernel else "picture"
    axes = "(n, " + ("N, " if shared_kernel else "") + ("H, W)" if channel_axis is None else "H, W, C)")
    rank = len(axes.split(","))
    if hasattr(pictures, "ndim") and pictures.ndim < rank:
        raise ValueError(
            f"pictures must have at least {rank} axes as a stack, {axes}, got {pictures.ndim} (shape "
            f"{tuple(pictures.shape)}); put a single {item} into a list"
        )
    if channel_axis is None and hasattr(pictures, "ndim"):
        way_out = "give channel_axis=-1" if pictures.ndim > 3 else "put one picture into a list, with channel_axis=-1"
        checks.check_axes(tuple(pictures.shape), None, "pictures", way_out=way_out)
    try:
        return len(pictures)
    except TypeError:
        return None
