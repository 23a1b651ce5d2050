"""The array library an array belongs to, moves between libraries, and the choice of a device."""

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

MIN_COMPUTE_CAPABILITY = 75  # times ten: the oldest that CUDA 13 supports and the tests compile for


def array_module(*arrays: Any) -> Any:
    """The module, NumPy or CuPy, that all the arrays belong to. It never imports CuPy.

    Raises
    ------
    TypeError
        An array belongs to neither, or the two are mixed.
    """
    for a in arrays:
        if type(a) is not np.ndarray:
            break
    else:
        return np  # the fast path
    modules = [np, sys.modules["cupy"]] if sys.modules.get("cupy") else [np]
    owners = {next((m for m in modules if isinstance(a, m.ndarray)), None) for a in arrays}
    if len(owners) != 1 or None in owners:
        got = ", ".join(f"{type(a).__module__}.{type(a).__name__}" for a in arrays)
        raise TypeError(
            f"arrays must be all NumPy or all CuPy, got {got}; move them with cupy.asarray or cupy.asnumpy, "
            "or pass device= and NumPy arrays"
        )
    return owners.pop()


def goes_to_cuda(*arrays: Any) -> bool:
    """Whether our CUDA kernels take these arrays: CuPy arrays, all with the dtypes of a float32 computation."""
    if array_module(*arrays) is np:
        return False
    return all(a.dtype in (np.float32, np.complex64, np.bool_) for a in arrays)


def fft_module(xp: Any) -> Any:
    """`scipy.fft` or `cupyx.scipy.fft`."""
    if xp is np:
        import scipy.fft

        return scipy.fft
    import cupyx.scipy.fft

    return cupyx.scipy.fft


class Workspace:
    """Named output buffers for a loop on a device, each allocated at the first request and reused afterwards.

    On NumPy every request returns None, "allocate it yourself": reuse saves no time there, and scipy.fft has no `out`.

    Parameters
    ----------
    like : (..., H, W), the images. The buffers have its leading axes and, by default, its dtype.
    """

    def __init__(self, like: Array) -> None:
        self._xp = array_module(like)
        self._lead, self._shape, self._dtype = like.shape[:-2], like.shape[-2:], like.dtype
        self._arrays: dict[str, Array] = {}

    def __call__(self, name: str, *sides: int, dtype: Any = None) -> Array | None:
        """The buffer (..., *sides) of that name; its contents are undefined."""
        if self._xp is np:
            return None
        if name not in self._arrays:
            self._arrays[name] = self._xp.empty((*self._lead, *sides), dtype=dtype or self._dtype)
        return self._arrays[name]

    def image(self, name: str, dtype: Any = None) -> Array | None:
        """(..., H, W)."""
        return self(name, *self._shape, dtype=dtype)

    def spectrum(self, name: str, shape: tuple[int, int] | None = None) -> Array | None:
        """(..., H, W // 2 + 1) complex, for the `rfft2` of an image, or of an array of `shape`."""
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
    """`array` as a NumPy array; a CuPy array is copied, and the call waits for its stream."""
    return array if isinstance(array, np.ndarray) else array.get()


def to_host_together(xp: Any, arrays: Sequence[Array]) -> list[np.ndarray]:
    """Small arrays of floats as NumPy arrays; CuPy arrays by a single copy, for which the call waits."""
    if xp is np:
        return list(arrays)
    host = xp.concatenate([array.reshape(-1) for array in arrays]).get()
    ends = np.cumsum([math.prod(array.shape) for array in arrays])[:-1]
    parts = zip(np.split(host, ends), arrays, strict=True)
    return [part.astype(array.dtype, copy=False).reshape(array.shape) for part, array in parts]


def constant(xp: Any, make: Callable[..., np.ndarray], *args: Hashable) -> Array:
    """`make(*args)` as a read-only array of `xp`; it is sent to a device once and kept there."""
    if xp is np:
        return make(*args)
    from .constants import on_device

    return on_device(make, *args)


def sum_pixels(x: Array) -> Array:
    """The sum over the last two axes, (...); in two steps on a device, as CuPy computes each sum in a single block."""
    return x.sum(axis=(-2, -1)) if array_module(x) is np else x.sum(axis=-1).sum(axis=-1)


def masked_mean(values: Array, mask: Array | None) -> Array:
    """The mean of `values` (..., size) over the last axis, where `mask` (..., size), bool, is True; (...).

    None, or a mask that is True everywhere: `values.mean(axis=-1)`, bit by bit. 0 where the mask is False everywhere.
    """
    if mask is None:
        return values.mean(axis=-1)
    xp = array_module(values, mask)
    count = xp.maximum(mask.sum(axis=-1), 1)
    return (xp.where(mask, values, 0).sum(axis=-1) / count).astype(values.dtype)


def stack(arrays: Sequence[Array]) -> Array:
    """`numpy.stack` along a new first axis, for arrays of one shape and dtype.

    For more than eight arrays CuPy's own function copies from the host, which a CUDA graph cannot capture.
    """
    xp = array_module(arrays[0])
    if xp is np:
        return np.stack(arrays)
    stacked = xp.empty((len(arrays), *arrays[0].shape), dtype=arrays[0].dtype)
    for target, array in zip(stacked, arrays, strict=True):
        target[...] = array
    return stacked


def replayed(
    key: Hashable,
    function: Callable[..., Any],
    *arrays: Array,
    report: Callable[[float], None],
    capturable: bool = True,
) -> Any:
    """`function(*arrays, report=report)`; on a device, repeated float32 calls are CUDA graphs (`cuda_graphs.replay`).

    Parameters
    ----------
    key : with the shapes of the arrays, it determines what the function does.
    function : returns a tuple of arrays.
    capturable : False if the function waits for the device, which a graph cannot contain.
    """
    if capturable and goes_to_cuda(arrays[0]):
        from .cuda_graphs import replay

        return replay(key, function, *arrays, report=report)
    return function(*arrays, report=report)


def side_by_side(xp: Any, functions: Sequence[Callable[[], Any]]) -> list[Any]:
    """The results of independent functions; in a CUDA graph of a small stack they become parallel branches."""
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
    if int(device.compute_capability) < MIN_COMPUTE_CAPABILITY:
        name = cupy.cuda.runtime.getDeviceProperties(device.id)["name"].decode()
        raise RuntimeError(
            f"the GPU must have compute capability {MIN_COMPUTE_CAPABILITY / 10} or more (Turing, 2018), got {name} "
            f'with {int(device.compute_capability) / 10}; use device="cpu", or select another GPU by cupy.cuda.Device'
        )


@contextmanager
def device_errors() -> Iterator[None]:
    """Turn CUDA errors (a lost GPU, no memory) into a RuntimeError that names the GPU and a way out."""
    try:
        yield
    except Exception as why:
        text = None
        if "cupy" in sys.modules:
            with suppress(ImportError):  # CuPy without its libraries
                from .device import explanation

                text = explanation(why)
        if text is None:
            raise
        raise RuntimeError(text) from why


def free_bytes(cupy: Any) -> int:
    """Bytes that can be allocated on the current device: free memory, and free blocks of CuPy's pool."""
    return int(cupy.cuda.Device().mem_info[0]) + int(cupy.get_default_memory_pool().free_bytes())


def choose_module(image: Any, device: str | None) -> Any:
    """The module to compute with: that of `image` (None), or that of `device`.

    "auto" is the GPU if there is one and the CPU otherwise; `result.info["backend"]` says which it was.
    """
    if device is None:
        xp = array_module(image)
        if xp is not np:
            _check_capability(xp)
        return xp
    if isinstance(device, str) and device == "cpu":
        return np
    if isinstance(device, str) and device == "cuda":
        return require_cuda()
    if isinstance(device, str) and device == "auto":
        try:
            return require_cuda()
        except RuntimeError:
            return np
    raise ValueError(f"device must be None, 'cpu', 'cuda' or 'auto', got {device!r}")


def move(array: Array, xp: Any) -> Array:
    """`array` as an array of `xp` with the dtype `dtype_on`; the same object if it is one already."""
    if xp is np:
        return to_host(array)
    if isinstance(array, np.ndarray):
        array = array.astype(dtype_on(xp, array.dtype), copy=False)
    return xp.asarray(array)


def dtype_on(xp: Any, dtype: np.dtype) -> np.dtype:
    """The dtype of `xp` for values of `dtype`: a device has only native byte order and floats of up to 64 bits."""
    if xp is np:
        return dtype
    return np.dtype(np.float64) if dtype.kind == "f" and dtype.itemsize > 8 else dtype.newbyteorder("=")


class Clock:
    """Seconds since its construction, recorded on the device of `xp` without waiting for it."""

    def __init__(self, xp: Any) -> None:
        self._xp, self._begin = xp, self._mark(xp)

    @staticmethod
    def _mark(xp: Any) -> Any:
        return time.perf_counter() if xp is np else xp.cuda.get_current_stream().record()

    def now(self) -> Any:
        """The current moment, to be passed to `seconds`."""
        return self._mark(self._xp)

    def seconds(self, moment: Any) -> float:
        """Seconds from the construction to `moment`, for which a device must have been synchronized."""
        if self._xp is np:
            return float(moment - self._begin)
        return float(self._xp.cuda.get_elapsed_time(self._begin, moment)) / 1e3
