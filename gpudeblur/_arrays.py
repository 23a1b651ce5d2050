"""Which array library an array belongs to, and what goes with it. No step imports CuPy itself."""

from __future__ import annotations

import functools
import sys
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

if TYPE_CHECKING:
    import cupy

Array: TypeAlias = "np.ndarray | cupy.ndarray"


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
    return _cupy_fft()


@functools.cache
def _cupy_fft() -> Any:
    """`cupyx.scipy.fft` with a plan cache that holds a pyramid: some six plans a scale, where CuPy keeps sixteen."""
    import cupy.fft
    import cupyx.scipy.fft

    cache = cupy.fft.config.get_plan_cache()
    cache.set_size(128)
    cache.set_memsize(1 << 30)
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
    return cupy


def choose_module(image: Any, device: str | None) -> Any:
    """The module to compute with: where `image` lives (None), or where `device` says.

    "auto" takes the GPU where there is one and the CPU otherwise; `result.info["backend"]` tells which it was.
    """
    if device is None:
        return array_module(image)
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
    """`array` in the memory of `xp`; the very same object where it is there already."""
    if xp is np:
        return to_host(array)
    return xp.asarray(array)
