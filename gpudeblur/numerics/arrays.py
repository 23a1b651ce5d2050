"""Which array library an array belongs to, and what goes with it. No step imports CuPy itself."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

if TYPE_CHECKING:
    import cupy

Array: TypeAlias = "np.ndarray | cupy.ndarray"

LEAST_CAPABILITY = 75  # of a GPU, times ten: the oldest that CUDA 13 supports and the tests compile for


def array_module(*arrays: Any) -> Any:
    """NumPy or CuPy, whichever owns all the arrays (CuPy is found where it is loaded, never imported).

    Raises
    ------
    TypeError
        If an array is neither, or if the two are mixed.
    """
    for a in arrays:
        if type(a) is not np.ndarray:
            break
    else:
        return np  # by far the most frequent question
    known = [np, *(module for module in [sys.modules.get("cupy")] if module is not None)]
    owners = {next((m for m in known if isinstance(a, m.ndarray)), None) for a in arrays}
    if len(owners) != 1 or None in owners:
        got = ", ".join(f"{type(a).__module__}.{type(a).__name__}" for a in arrays)
        raise TypeError(
            f"arrays must be all NumPy or all CuPy, got {got}; move them with cupy.asarray or cupy.asnumpy, "
            "or pass device= and NumPy arrays"
        )
    return owners.pop()


def goes_to_cuda(*arrays: Any) -> bool:
    """Whether a CUDA kernel of ours takes these arrays: CuPy's, and all of the dtypes of a float32 computation."""
    if array_module(*arrays) is np:
        return False
    return all(a.dtype in (np.float32, np.complex64, np.bool_) for a in arrays)


def fft_module(xp: Any) -> Any:
    """`scipy.fft` or `cupyx.scipy.fft`: both keep float32, which `numpy.fft` does only since 2.0 and slower."""
    if xp is np:
        import scipy.fft

        return scipy.fft
    import cupyx.scipy.fft

    return cupyx.scipy.fft


class Workspace:
    """Arrays by name for a loop over pictures to write into: allotted when first asked for, the same memory ever after.

    On a device, memory that is asked for and given back in a loop costs time. On NumPy every request is answered None,
    "allot it yourself": malloc does as well, and scipy.fft takes no output.

    Parameters
    ----------
    like : (..., H, W), the pictures. What the methods give has the same leading axes and, if not said, dtype.
    """

    def __init__(self, like: Array) -> None:
        self._xp = array_module(like)
        self._lead, self._shape, self._dtype = like.shape[:-2], like.shape[-2:], like.dtype
        self._arrays: dict[str, Array] = {}

    def __call__(self, name: str, *sides: int, dtype: Any = None) -> Array | None:
        """The array (..., *sides) of that name; its contents are what was left there."""
        if self._xp is np:
            return None
        if name not in self._arrays:
            self._arrays[name] = self._xp.empty((*self._lead, *sides), dtype=dtype or self._dtype)
        return self._arrays[name]

    def picture(self, name: str, dtype: Any = None) -> Array | None:
        """(..., H, W)."""
        return self(name, *self._shape, dtype=dtype)

    def spectrum(self, name: str, shape: tuple[int, int] | None = None) -> Array | None:
        """(..., H, W // 2 + 1) complex, what `rfft2` makes of a picture, or of an array of `shape`."""
        h, w = self._shape if shape is None else shape
        return self(name, h, w // 2 + 1, dtype=np.result_type(self._dtype, np.complex64))

    def power(self, name: str) -> Array | None:
        """(..., H, W // 2 + 1) real."""
        return self(name, self._shape[0], self._shape[1] // 2 + 1)


def ndimage_module(xp: Any) -> Any:
    """`scipy.ndimage` or `cupyx.scipy.ndimage`."""
    if xp is np:
        import scipy.ndimage

        return scipy.ndimage
    import cupyx.scipy.ndimage

    return cupyx.scipy.ndimage


def backend_name(xp: Any) -> str:
    """ "numpy" or "cupy"."""
    return "numpy" if xp is np else "cupy"


def to_host(array: Array) -> np.ndarray:
    """The same values as a NumPy array; a CuPy array is copied, and the call waits for its stream."""
    return array if isinstance(array, np.ndarray) else array.get()


def to_host_together(xp: Any, arrays: Sequence[Array]) -> list[np.ndarray]:
    """Small arrays of floats as NumPy arrays: where they are CuPy's, by one copy, and the call waits once."""
    if xp is np:
        return list(arrays)
    host = xp.concatenate([array.reshape(-1) for array in arrays]).get()
    ends = np.cumsum([math.prod(array.shape) for array in arrays])[:-1]
    parts = zip(np.split(host, ends), arrays, strict=True)
    return [part.astype(array.dtype, copy=False).reshape(array.shape) for part, array in parts]


def constant(xp: Any, make: Callable[..., np.ndarray], *args: Hashable) -> Array:
    """`make(*args)` in the memory of `xp`, not to be written to; a device gets it once and keeps it."""
    if xp is np:
        return make(*args)
    from .constants import on_device

    return on_device(make, *args)


def sum_pixels(x: Array) -> Array:
    """The sum over the last two axes, (...); on a device row by row, as CuPy has one block of threads add up a sum."""
    return x.sum(axis=(-2, -1)) if array_module(x) is np else x.sum(axis=-1).sum(axis=-1)


def stack(arrays: Sequence[Array]) -> Array:
    """Arrays of one shape and dtype along a new first axis.

    Not by CuPy's function, which sends the addresses of more than eight arrays from the host; no CUDA graph holds that.
    """
    xp = array_module(arrays[0])
    if xp is np:
        return np.stack(arrays)
    stacked = xp.empty((len(arrays), *arrays[0].shape), dtype=arrays[0].dtype)
    for place, array in zip(stacked, arrays, strict=True):
        place[...] = array
    return stacked


def replayed(
    key: Hashable,
    function: Callable[..., Any],
    *arrays: Array,
    report: Callable[[float], None],
    capturable: bool = True,
) -> Any:
    """`function(*arrays, report=report)`; in float32 on a device, a CUDA graph on its return (`cuda_graphs.replay`).

    Parameters
    ----------
    key : with the shapes of the arrays, it decides what the function does.
    arrays : the first one's dtype decides.
    function : returns a tuple of arrays. Nothing in it may wait for a device.
    capturable : whether that holds.
    """
    if capturable and goes_to_cuda(arrays[0]):
        from .cuda_graphs import replay

        return replay(key, function, *arrays, report=report)
    return function(*arrays, report=report)


def side_by_side(xp: Any, functions: Sequence[Callable[[], Any]]) -> list[Any]:
    """What functions return that do not depend on each other; in a CUDA graph of a small stack, parallel branches."""
    if xp is np:
        return [function() for function in functions]
    from .cuda_graphs import branches

    return branches(functions)


def require_cuda() -> Any:
    """The `cupy` module on a machine where it can compute.

    Raises
    ------
    RuntimeError
        Names what is missing: the package, the driver, or the device.
    """
    way_out = 'use device="cpu", or install the extra for your driver: pip install "gpudeblur[cuda13]"'
    try:
        import cupy
    except ImportError as why:
        raise RuntimeError(f"device='cuda' needs CuPy, which cannot be imported ({why}); {way_out}") from why
    try:
        count = cupy.cuda.runtime.getDeviceCount()
    except cupy.cuda.runtime.CUDARuntimeError as why:
        raise RuntimeError(f"device='cuda' needs an NVIDIA GPU and driver, CUDA says: {why}; {way_out}") from why
    if count == 0:
        raise RuntimeError(f"device='cuda' needs an NVIDIA GPU, CUDA sees none; {way_out}")
    _check_capability(cupy)
    return cupy


def _check_capability(cupy: Any) -> None:
    device = cupy.cuda.Device()
    if int(device.compute_capability) < LEAST_CAPABILITY:
        name = cupy.cuda.runtime.getDeviceProperties(device.id)["name"].decode()
        raise RuntimeError(
            f"the GPU must have compute capability {LEAST_CAPABILITY / 10} or more (Turing, 2018), got {name} with "
            f'{int(device.compute_capability) / 10}; use device="cpu", or select another with cupy.cuda.Device(number)'
        )


@contextmanager
def device_errors() -> Iterator[None]:
    """What CUDA says of a GPU that is lost, or out of memory, becomes a RuntimeError that names it and the way out."""
    try:
        yield
    except Exception as why:
        text = None
        if "cupy" in sys.modules:
            with suppress(ImportError):  # a CuPy without its libraries has computed nothing
                from .device import explanation

                text = explanation(why)
        if text is None:
            raise
        raise RuntimeError(text) from why


def free_bytes(cupy: Any) -> int:
    """Bytes of the current device that can be allotted: those that no one has, and those that CuPy's pool keeps."""
    return int(cupy.cuda.Device().mem_info[0]) + int(cupy.get_default_memory_pool().free_bytes())


def choose_module(image: Any, device: str | None) -> Any:
    """The module to compute with: where `image` lives (None), or where `device` says.

    "auto" takes the GPU where there is one and the CPU otherwise; `result.info["backend"]` tells which it was.
    """
    if device is None:
        xp = array_module(image)
        if xp is not np:
            _check_capability(xp)
        return xp
    if device == "cpu":
        return np
    if device == "cuda":
        return require_cuda()
    if device == "auto":
        try:
            return require_cuda()
        except RuntimeError:
            return np
    raise ValueError(f"device must be None, 'cpu', 'cuda' or 'auto', got {device!r}")


def move(array: Array, xp: Any) -> Array:
    """`array` in the memory of `xp`; the very same object where it is there already.

    A device knows neither another byte order than its own nor floats of more than 64 bits: what it gets has `dtype_on`.
    """
    if xp is np:
        return to_host(array)
    if isinstance(array, np.ndarray):
        array = array.astype(dtype_on(xp, array.dtype), copy=False)
    return xp.asarray(array)


def dtype_on(xp: Any, dtype: np.dtype) -> np.dtype:
    """The dtype that stands for `dtype` in the memory of `xp`."""
    if xp is np:
        return dtype
    return np.dtype(np.float64) if dtype.kind == "f" and dtype.itemsize > 8 else dtype.newbyteorder("=")


class Clock:
    """Seconds since it was made, on the device of `xp` without waiting for it."""

    def __init__(self, xp: Any) -> None:
        self._xp, self._begin = xp, self._mark(xp)

    @staticmethod
    def _mark(xp: Any) -> Any:
        return time.perf_counter() if xp is np else xp.cuda.get_current_stream().record()

    def now(self) -> Any:
        """A moment, for `seconds`."""
        return self._mark(self._xp)

    def seconds(self, moment: Any) -> float:
        """How long after the clock's beginning that was; on a device, once the host has waited for it."""
        if self._xp is np:
            return float(moment - self._begin)
        return float(self._xp.cuda.get_elapsed_time(self._begin, moment)) / 1e3
