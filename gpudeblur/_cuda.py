"""The CUDA kernels of `kernels_cuda/`: found, compiled once a device, launched by typed functions.

Imported only from a branch that holds a CuPy array, so CuPy may be imported at the top. A RawKernel ignores dtype and
strides and hands a Python float over as a double; the launch functions here are what stands between that and the steps.
Everything runs on CuPy's current stream and nothing waits for it.
"""

from __future__ import annotations

import collections
import functools
import math
from pathlib import Path
from typing import Any

import cupy
import numpy as np

# In a wheel the sources are inside the package; in a checkout and an editable install they stand beside it.
_HERE = Path(__file__).parent
SOURCES = next(folder for folder in (_HERE / "kernels_cuda", _HERE.parent / "kernels_cuda") if folder.is_dir())

OPTIONS = ("-std=c++17",)

# Every launch, by name: what a step does on the device can be counted.
launches: collections.Counter[str] = collections.Counter()

_TILE = 32  # TILE, TILE_ROWS of common.cuh
_TILE_BLOCK = (32, 8)
_DILATE_THREADS, _DILATE_ACROSS, _DILATE_DOWN = 256, 1024, 32  # of dilate.cu
_TOEPLITZ_STRIP = 4  # STRIP of toeplitz_product
_BLOCK_SUM_BYTES = 128  # the static shared memory of block_sum
_SHARED_BY_DEFAULT = 48 << 10  # a block that wants more must ask for it
_NULL = np.uintp(0)  # as an argument: no array


@functools.cache
def source(name: str) -> str:
    """The CUDA source of one entry point with `common.cuh` in front; compilers name its own files and lines."""
    files = ("common.cuh", f"{name}.cu")
    return "".join(f'#line 1 "{file}"\n{(SOURCES / file).read_text("utf-8")}\n' for file in files)


@cupy.memoize(for_each_device=True)
def _kernel(name: str) -> Any:
    return cupy.RawModule(code=source(name), options=OPTIONS).get_function(name)


@cupy.memoize(for_each_device=True)
def _shared_limit() -> int:
    """Bytes of shared memory that one block may ask for."""
    return cupy.cuda.Device().attributes["MaxSharedMemoryPerBlockOptin"]


def _launch(name: str, blocks: int, block: tuple[int, ...], *args: Any, shared: int = 0) -> None:
    if blocks == 0:  # an empty batch; CUDA refuses an empty grid
        return
    kernel = _kernel(name)
    if shared > _SHARED_BY_DEFAULT:
        kernel.max_dynamic_shared_size_bytes = shared
    kernel((blocks,), block, args, shared_mem=shared)
    launches[name] += 1


def _checked(name: str, array: Any, dtype: type, shape: tuple[int, ...] | None = None) -> Any:
    """`array` in C order (itself where it is so), of the dtype and shape that the CUDA kernel takes for granted."""
    if array.dtype != dtype:
        raise TypeError(
            f"{name} must be {np.dtype(dtype)} for its CUDA kernel, got {array.dtype}; "
            "convert it, or call the function of the same name in gpudeblur.filters, which takes any float dtype"
        )
    if shape is None and array.ndim < 2:
        raise ValueError(f"{name} must have at least two axes (..., H, W), got shape {array.shape}")
    if shape is not None and array.shape != shape:
        raise ValueError(f"{name} must have shape {shape}, got {array.shape}; broadcast it first")
    return cupy.ascontiguousarray(array)


def _batch(array: Any) -> int:
    return math.prod(array.shape[:-2])


def _tiles(array: Any) -> int:
    h, w = array.shape[-2:]
    return _batch(array) * -(-h // _TILE) * -(-w // _TILE)


def _sides(array: Any) -> tuple[np.int32, np.int32]:
    return np.int32(array.shape[-2]), np.int32(array.shape[-1])


def _one_a_picture(value: Any, u: Any) -> tuple[Any, np.float32]:
    """(array or null, scalar): a host number for all pictures costs no array, one on the device no waiting."""
    if np.ndim(value) == 0 and not isinstance(value, cupy.ndarray):
        return _NULL, np.float32(value)
    return cupy.ascontiguousarray(cupy.broadcast_to(cupy.asarray(value, dtype=np.float32), u.shape[:-2])), np.float32(0)


def l0_split(u: Any, threshold: Any) -> Any:
    """`filters.l0_split` of float32 pictures."""
    u = _checked("u", u, np.float32)
    out = cupy.empty_like(u)
    _launch("l0_split", _tiles(u), _TILE_BLOCK, u, *_one_a_picture(threshold, u), out, *_sides(u))
    return out


def edge_mask(u: Any, threshold: Any) -> Any:
    """`filters.edge_mask` of float32 pictures."""
    u = _checked("u", u, np.float32)
    mask = cupy.empty(u.shape, dtype=np.bool_)
    _launch("edge_mask", _tiles(u), _TILE_BLOCK, u, *_one_a_picture(threshold, u), mask, *_sides(u))
    return mask


def dilate(mask: Any, radius: int) -> Any:
    """`filters.dilate`; a window that spans an axis is cut to it, so no radius is too large."""
    mask = _checked("mask", mask, np.bool_)
    h, w = mask.shape[-2:]
    rows, out = cupy.empty_like(mask), cupy.empty_like(mask)
    reach = min(radius, w // 2)
    words = -(-(min(_DILATE_ACROSS, w) + 2 * reach) // 32)
    blocks = _batch(mask) * h * -(-w // _DILATE_ACROSS)
    sides, block = _sides(mask), (_DILATE_THREADS,)
    _launch("dilate", blocks, block, mask, rows, np.int32(reach), *sides, np.int32(1), shared=4 * words)
    blocks = _batch(mask) * -(-h // _DILATE_DOWN) * -(-w // _DILATE_THREADS)
    _launch("dilate", blocks, block, rows, out, np.int32(min(radius, h // 2)), *sides, np.int32(0))
    return out


def _weights(sigma: float, radius: int) -> np.ndarray:
    """The weights of `scipy.ndimage.gaussian_filter1d`."""
    weights = np.exp(-0.5 / (sigma * sigma) * np.arange(-radius, radius + 1) ** 2)
    return (weights / weights.sum()).astype(np.float32)


@cupy.memoize(for_each_device=True)
def _weights_on_device(sigma: float, radius: int) -> Any:
    return cupy.asarray(_weights(sigma, radius))


def gaussian_smooth(u: Any, sigma: float) -> Any:
    """`filters.gaussian_smooth` of float32 pictures."""
    u = _checked("u", u, np.float32)
    radius = int(4.0 * sigma + 0.5)
    weights = _weights_on_device(float(sigma), radius)  # sent once a sigma
    rows, out = cupy.empty_like(u), cupy.empty_like(u)
    for axis, source_, target in ((1, u, rows), (0, rows, out)):
        args = (source_, weights, np.int32(radius), target, *_sides(u), np.int32(axis))
        _launch("gaussian_smooth", _tiles(u), _TILE_BLOCK, *args)
    return out


def smooth_split(smooth: Any, mask: Any) -> Any:
    """`filters.smooth_split` of float32 pictures."""
    smooth = _checked("smooth", smooth, np.float32)
    mask = _checked("mask", mask, np.bool_, smooth.shape)
    out = cupy.empty_like(smooth)
    _launch("smooth_split", _tiles(smooth), _TILE_BLOCK, smooth, mask, out, *_sides(smooth))
    return out


def spectral_solve(data: Any, split: Any, power: Any, weight: float, shape: tuple[int, int]) -> Any:
    """`filters.spectral_solve` of complex64 spectra; `split` is overwritten and returned."""
    spectra = (*split.shape[:-2], shape[0], shape[1] // 2 + 1)
    work = _checked("split", split, np.complex64, spectra)
    data = _checked("data", data, np.complex64, spectra)
    # The colours of a picture share a kernel, and with it |F k|^2: the CUDA kernel wants one a plane.
    power = _checked("power", cupy.broadcast_to(power, spectra), np.float32, spectra)
    sides = np.int32(shape[0]), np.int32(shape[1])
    _launch("spectral_solve", _tiles(work), _TILE_BLOCK, data, work, power, np.float32(weight), *sides)
    if work is not split:  # it was not contiguous; the caller's array holds the result all the same
        split[...] = work
    return split


def toeplitz_fits(kh: int, kw: int) -> bool:
    """Whether `toeplitz_cg` and `toeplitz_nnls` can hold a (kh, kw) kernel in one block's shared memory.

    Up to 63 x 63 on every device CUDA 13 supports (64 KB), 79 x 79 at 99 KB, 119 x 119 at 227 KB; beyond, the FFT form
    of `kernel_step` has to do it.
    """
    return _vectors_bytes(kh, kw) <= _shared_limit()


def _vectors_bytes(kh: int, kw: int) -> int:
    """Shared memory of the larger of the two, CG: four vectors of the kernel's size."""
    return 4 * 4 * kh * kw + _BLOCK_SUM_BYTES


def _launch_toeplitz(
    name: str, vectors: int, autocorrelation: Any, rhs: Any, start: Any, numbers: dict[str, Any], iterations: int
) -> Any:
    rhs = _checked("rhs", rhs, np.float32)
    kh, kw = rhs.shape[-2:]
    if not toeplitz_fits(kh, kw):
        raise ValueError(
            f"kernel sides must fit one block's shared memory ({_shared_limit()} bytes), got {(kh, kw)}, which needs "
            f"{_vectors_bytes(kh, kw)}; ask toeplitz_fits first and use the FFT form of kernel_step where it says False"
        )
    start = _checked("start", start, np.float32, rhs.shape)
    lags = (2 * kh - 1) * (2 * kw - 1)
    autocorrelation = _checked(
        "autocorrelation", autocorrelation, np.float32, (*rhs.shape[:-2], 2 * kh - 1, 2 * kw - 1)
    )
    values = [_checked(key, value, np.float32, rhs.shape[:-2]) for key, value in numbers.items()]
    # Off shared memory the autocorrelation is read through L1 and L2.
    a_is_shared = _vectors_bytes(kh, kw) + 4 * lags <= _shared_limit()
    shared = 4 * (vectors * kh * kw + lags * a_is_shared)
    items = -(-kh // _TOEPLITZ_STRIP) * kw
    rounds = -(-items // 1024)
    threads = 32 * -(-items // (32 * rounds))  # depends on the kernel's size alone: a batch equals a loop bit for bit
    out = cupy.empty_like(rhs)
    args = (autocorrelation, rhs, start, *values, out, *_sides(rhs), np.int32(iterations), np.int32(a_is_shared))
    _launch(name, _batch(rhs), (threads,), *args, shared=shared)
    return out


def toeplitz_cg(autocorrelation: Any, rhs: Any, start: Any, ridge: Any, iterations: int) -> Any:
    """`kernel_step.toeplitz_cg`: all iterations of all systems in one launch, the products direct (no FFT).

    Parameters
    ----------
    autocorrelation : (..., 2 kh - 1, 2 kw - 1) float32.
    rhs, start : (..., kh, kw) float32.
    ridge : (...) float32, one a system.
    """
    return _launch_toeplitz("toeplitz_cg", 4, autocorrelation, rhs, start, {"ridge": ridge}, iterations)


def toeplitz_nnls(autocorrelation: Any, rhs: Any, start: Any, ridge: Any, step: Any, iterations: int) -> Any:
    """`kernel_step.toeplitz_nnls`, likewise. step : (...) float32, 1 / |A + ridge| or less."""
    numbers = {"ridge": ridge, "step": step}
    return _launch_toeplitz("toeplitz_nnls", 3, autocorrelation, rhs, start, numbers, iterations)
