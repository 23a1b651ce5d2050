"""The CUDA kernels of `kernels_cuda/`: compilation, and a launch function for each that checks its arguments.

Imported only on branches that hold a CuPy array, so CuPy is imported at the top. A RawKernel checks neither dtype nor
strides and passes a Python float as a double; the launch functions check and convert. They use CuPy's current stream,
and nothing synchronizes.

`out` is a C-contiguous array for the result, `scratch` one for intermediate values; by default they are allocated. The
grid and the blocks of an image depend on its size alone, so a batch equals a loop bit for bit.
"""

from __future__ import annotations

import collections
import functools
import math
import threading
from pathlib import Path
from typing import Any

import cupy
import numpy as np

from . import constants
from .spectra import difference_spectrum

# In a wheel the sources are inside the package, in a checkout and an editable install beside it.
_PACKAGE = Path(__file__).parents[1]
SOURCES = next(folder for folder in (_PACKAGE / "kernels_cuda", _PACKAGE.parent / "kernels_cuda") if folder.is_dir())

OPTIONS = ("-std=c++17",)

launches: collections.Counter[str] = collections.Counter()  # by name
_attribute_lock = threading.Lock()

_TILE = 32  # TILE, TILE_ROWS of common.cuh
_TILE_BLOCK = (32, 8)
_DILATE_THREADS, _DILATE_ACROSS, _DILATE_DOWN = 256, 1024, 32  # of dilate.cu
_POSE_THREADS = 128  # the block of pose_collect and pose_expand
_CONVOLUTION_THREADS, _CONVOLUTION_FILTERS = 128, 8  # of strided_convolution.cu
_TOEPLITZ_STRIP = 4  # STRIP of toeplitz_product
_DIGITS, _SELECTION_WORDS = 3, 2051  # DIGITS, SELECTION_WORDS of common.cuh
_ONE_BLOCK_ITEMS = 1 << 14  # the most items of an image among which a single block selects
_PART_ITEMS, _MAX_PARTS = 1 << 13, 256  # beyond that, the items of a block, and the most blocks of an image
_CELL_BYTES = 16  # sizeof(Cell) of project
_PROJECT_STATIC_BYTES = 1024  # an upper bound of the static shared memory of project
_BLOCK_SUM_BYTES = 128  # the static shared memory of block_sum<float>
_SHARED_BY_DEFAULT = (48 << 10) - 1024  # above this, static memory included, the limit must be raised first
_NULL = np.uintp(0)  # the argument for no array


@functools.cache
def source(name: str) -> str:
    """`common.cuh` and `name`.cu as one source; the #line directives give compiler messages the right file and line."""
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
    if blocks == 0:  # an empty batch; CUDA does not accept an empty grid
        return
    kernel = _kernel(name)
    if shared > _SHARED_BY_DEFAULT:
        with _attribute_lock:  # never lowered: another thread may be about to launch with more
            kernel.max_dynamic_shared_size_bytes = max(shared, kernel.max_dynamic_shared_size_bytes)
    kernel((blocks,), block, args, shared_mem=shared)
    launches[name] += 1


def _checked(name: str, array: Any, dtype: type, shape: tuple[int, ...] | None = None) -> Any:
    """`array` in C order, copied if necessary; raises unless it has the dtype and shape for the CUDA kernel."""
    if array.dtype != dtype:
        raise TypeError(
            f"{name} must be {np.dtype(dtype)} for its CUDA kernel, got {array.dtype}; "
            "convert it, or call the function of the same name in gpudeblur.numerics.filters, for any float dtype"
        )
    if shape is None and array.ndim < 2:
        raise ValueError(f"{name} must have at least two axes (..., H, W), got shape {array.shape}")
    if shape is not None and array.shape != shape:
        raise ValueError(f"{name} must have shape {shape}, got {array.shape}; broadcast it first")
    return cupy.ascontiguousarray(array)


def _target(name: str, out: Any, shape: tuple[int, ...], dtype: type, *inputs: Any) -> Any:
    """`out`, checked, or a new array if it is None; raises if it is one of the `inputs`."""
    if out is None:
        return cupy.empty(shape, dtype)
    if out.dtype != dtype or out.shape != shape or not out.flags.c_contiguous:
        raise ValueError(
            f"{name} must be a C-contiguous {np.dtype(dtype)} array of shape {shape}, got {out.dtype} {out.shape}, "
            f"{'' if out.flags.c_contiguous else 'not '}contiguous; leave it out for a fresh one"
        )
    if any(out is array for array in inputs):
        raise ValueError(f"{name} must not be an input, which other threads still read; pass another array")
    return out


def _in_place(name: str, array: Any, dtype: type, shape: tuple[int, ...] | None = None) -> Any:
    """`array` itself, checked, for a CUDA kernel that overwrites it."""
    _checked(name, array, dtype, shape)
    if not array.flags.c_contiguous:
        raise ValueError(f"{name} must be C-contiguous, since its CUDA kernel writes in place; pass a contiguous copy")
    return array


def _batch(array: Any) -> int:
    return math.prod(array.shape[:-2])


def _tiles(array: Any) -> int:
    h, w = array.shape[-2:]
    return _batch(array) * -(-h // _TILE) * -(-w // _TILE)


def _threads(items: int) -> int:
    """The block size for a loop over `items`: whole warps, no more than necessary, at most 1024 threads."""
    return min(1024, 32 * -(-items // 32))


def _sides(array: Any) -> tuple[np.int32, np.int32]:
    return np.int32(array.shape[-2]), np.int32(array.shape[-1])


def _per_image(value: Any, u: Any) -> tuple[Any, np.float32]:
    """(array or null, scalar): a host scalar is passed by value, an array by pointer, so that nothing synchronizes."""
    if np.ndim(value) == 0 and not isinstance(value, cupy.ndarray):
        return _NULL, np.float32(value)
    return cupy.ascontiguousarray(cupy.broadcast_to(cupy.asarray(value, dtype=np.float32), u.shape[:-2])), np.float32(0)


def dt_l0(u: Any, threshold: Any, *, out: Any = None) -> Any:
    """`filters.dt_l0` of float32 images."""
    u = _checked("u", u, np.float32)
    out = _target("out", out, u.shape, np.float32, u)
    _launch("dt_l0", _tiles(u), _TILE_BLOCK, u, *_per_image(threshold, u), out, *_sides(u))
    return out


def dt_shrink(u: Any, beta: float, *, out: Any = None) -> Any:
    """`hyper_laplacian.dt_shrink` of float32 images."""
    u = _checked("u", u, np.float32)
    out = _target("out", out, u.shape, np.float32, u)
    unit = 2 / (3 * beta)  # rounded to float32 where the twin rounds, so that both threshold alike
    bounds = np.float32(2 * unit**0.75), np.float32(unit)
    _launch("dt_shrink", _tiles(u), _TILE_BLOCK, u, *bounds, out, *_sides(u))
    return out


def edge_mask(u: Any, threshold: Any, *, out: Any = None) -> Any:
    """`filters.edge_mask` of float32 images."""
    u = _checked("u", u, np.float32)
    out = _target("out", out, u.shape, np.bool_)
    _launch("edge_mask", _tiles(u), _TILE_BLOCK, u, *_per_image(threshold, u), out, *_sides(u))
    return out


def dilate(mask: Any, radius: int, *, out: Any = None, scratch: Any = None) -> Any:
    """`filters.dilate` for any radius: a window is at most as long as its axis. `out` may be `mask`."""
    mask = _checked("mask", mask, np.bool_)
    h, w = mask.shape[-2:]
    rows = _target("scratch", scratch, mask.shape, np.bool_, mask, out)
    out = _target("out", out, mask.shape, np.bool_)
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


def gaussian_smooth(u: Any, sigma: float, *, out: Any = None, scratch: Any = None) -> Any:
    """`filters.gaussian_smooth` of float32 images. `out` may be `u`."""
    u = _checked("u", u, np.float32)
    radius = int(4.0 * sigma + 0.5)
    weights = constants.on_device(_weights, float(sigma), radius)
    rows = _target("scratch", scratch, u.shape, np.float32, u, out)
    out = _target("out", out, u.shape, np.float32)
    for axis, source_, target in ((1, u, rows), (0, rows, out)):
        args = (source_, weights, np.int32(radius), target, *_sides(u), np.int32(axis))
        _launch("gaussian_smooth", _tiles(u), _TILE_BLOCK, *args)
    return out


def dt_smooth(smooth: Any, mask: Any, scale: float | None = None, out: Any = None) -> Any:
    """`filters.dt_smooth` of float32 images; with a `scale`, in place in `out`."""
    smooth = _checked("smooth", smooth, np.float32)
    mask = _checked("mask", mask, np.bool_, smooth.shape)
    if scale is not None and out is None:
        raise ValueError("out must be given with a scale, since it is added to; leave the scale out for D^T g alone")
    out = _target("out", out, smooth.shape, np.float32, smooth)
    adds = np.float32(scale or 0), np.int32(scale is not None)
    _launch("dt_smooth", _tiles(smooth), _TILE_BLOCK, smooth, mask, *adds, out, *_sides(smooth))
    return out


def kernel_to_grid(kernel: Any, shape: tuple[int, int], *, out: Any = None) -> Any:
    """`fourier.kernel_to_grid` of float32 kernels."""
    kernel = _checked("kernel", kernel, np.float32)
    if kernel.shape[-2] > shape[0] or kernel.shape[-1] > shape[1]:
        raise ValueError(f"kernel must fit the grid {tuple(shape)}, got {kernel.shape[-2:]}; use a larger grid")
    out = _target("out", out, (*kernel.shape[:-2], *shape), np.float32)
    _launch("kernel_to_grid", _tiles(out), _TILE_BLOCK, kernel, out, *_sides(kernel), *_sides(out))
    return out


def data_terms(otf: Any, blurred_hat: Any, *, out: Any = None) -> tuple[Any, Any]:
    """`filters.data_terms` of complex64 spectra of one shape; `out` is for |F k|^2."""
    otf = _in_place("otf", otf, np.complex64)
    blurred_hat = _checked("blurred_hat", blurred_hat, np.complex64, otf.shape)
    power = _target("out", out, otf.shape, np.float32)
    _launch("data_terms", _tiles(otf), _TILE_BLOCK, otf, blurred_hat, power, *_sides(otf))
    return otf, power


def spectral_solve(data: Any, dt_g: Any, power: Any, weight: Any, shape: tuple[int, int]) -> Any:
    """`filters.spectral_solve` of complex64 spectra; `dt_g` is overwritten and returned.

    weight : a number, or an array that broadcasts to (...).
    """
    spectra = (*dt_g.shape[:-2], shape[0], shape[1] // 2 + 1)
    contiguous = _checked("dt_g", dt_g, np.complex64, spectra)
    data = _checked("data", data, np.complex64, spectra)
    # The channels of an image share a kernel and |F k|^2; the CUDA kernel takes one array for each.
    power = _checked("power", cupy.broadcast_to(power, spectra), np.float32, spectra)
    tables = (constants.on_device(difference_spectrum, side, side, np.float32) for side in shape)
    sides = np.int32(shape[0]), np.int32(shape[1])
    args = (data, contiguous, power, *_per_image(weight, dt_g), *tables, *sides)
    _launch("spectral_solve", _tiles(dt_g), _TILE_BLOCK, *args)
    if contiguous is not dt_g:
        dt_g[...] = contiguous
    return dt_g


def _launch_selection(name: str, count: int, items: int, *args: Any) -> None:
    """One launch with one block for each image; with many items, a launch of many blocks each for every digit."""
    if items <= _ONE_BLOCK_ITEMS:
        _launch(name, count, (_threads(max(1, items)),), *args, _NULL, np.int32(1), np.int32(0))
        return
    parts = min(_MAX_PARTS, -(-items // _PART_ITEMS))
    scratch = cupy.zeros((count, _SELECTION_WORDS), dtype=np.uint32)
    for digit in range(_DIGITS):
        block = (_threads(-(-items // parts)),)
        _launch(name, count * parts, block, *args, scratch, np.int32(parts), np.int32(digit))


def selection_threshold(latent: Any, window: tuple[int, int, int, int], count: int, *, out: Any = None) -> Any:
    """`kernel_step.selection_threshold` of float32 images."""
    latent = _checked("latent", latent, np.float32)
    edges = _window(window, latent)
    pixels = max(window[1] - window[0], 0) * max(window[3] - window[2], 0)
    rank = np.int32(max(1, min(count, pixels)))
    out = _target("out", out, latent.shape[:-2], np.float32)
    _launch_selection("selection_threshold", _batch(latent), pixels, latent, out, *_sides(latent), *edges, rank)
    return out


def select(values: Any, rank: int, *, out: Any = None) -> Any:
    """`numpy.partition(values, rank)[..., rank]` of float32 values (..., size); NaN if any is NaN."""
    values = _checked("values", values, np.float32, values.shape)
    size = values.shape[-1]
    if not 0 <= rank < size:
        raise ValueError(f"rank must be from 0 to under the number of values, {size}, got {rank}")
    out = _target("out", out, values.shape[:-1], np.float32)
    _launch_selection("select", math.prod(out.shape), size, values, out, np.int32(size), np.int32(rank))
    return out


def resample(u: Any, first: Any, weights: Any, axis: int, *, out: Any = None) -> Any:
    """`resample._resample_rows` of float32 images: weighted sums along one axis, down (0) or across (1).

    Parameters
    ----------
    u : (..., H, W).
    first : (target,) int32, the first index of each sum; first + taps must not exceed the length of the axis.
    weights : (taps, target) float32.
    """
    u = _checked("u", u, np.float32)
    first = _checked("first", first, np.int32, (weights.shape[-1],))
    weights = _checked("weights", weights, np.float32)
    taps, target = weights.shape
    shape = (*u.shape[:-2], target, u.shape[-1]) if axis == 0 else (*u.shape[:-1], target)
    out = _target("out", out, shape, np.float32, u)
    args = (u, first, weights, out, np.int32(taps), np.int32(target), *_sides(u), np.int32(axis))
    _launch("resample", _tiles(out), _TILE_BLOCK, *args)
    return out


def dt_selected(latent: Any, threshold: Any, window: tuple[int, int, int, int], *, out: Any = None) -> Any:
    """`kernel_step.dt_selected` of float32 images."""
    latent = _checked("latent", latent, np.float32)
    out = _target("out", out, latent.shape, np.float32, latent)
    bounds = _per_image(threshold, latent)
    args = (latent, *bounds, out, *_sides(latent), *_window(window, latent))
    _launch("dt_selected", _tiles(latent), _TILE_BLOCK, *args)
    return out


def _window(window: tuple[int, int, int, int], u: Any) -> tuple[np.int32, ...]:
    top, bottom, left, right = window
    if not (top >= 0 and bottom <= u.shape[-2] and left >= 0 and right <= u.shape[-1]):
        raise ValueError(
            f"window must lie in the picture {u.shape[-2:]}, got (top, bottom, left, right) {window}; crop it"
        )
    return tuple(np.int32(edge) for edge in window)


def normal_spectra(selected_hat: Any, latent_hat: Any, blurred_hat: Any, shape: tuple[int, int]) -> tuple[Any, Any]:
    """`kernel_step.normal_spectra` of complex64 spectra; the first two are overwritten and returned."""
    spectra = (*selected_hat.shape[:-2], shape[0], shape[1] // 2 + 1)
    selected_hat = _in_place("selected_hat", selected_hat, np.complex64, spectra)
    latent_hat = _in_place("latent_hat", latent_hat, np.complex64, spectra)
    blurred_hat = _checked("blurred_hat", blurred_hat, np.complex64, spectra)
    sides = np.int32(shape[0]), np.int32(shape[1])
    _launch("normal_spectra", _tiles(selected_hat), _TILE_BLOCK, selected_hat, latent_hat, blurred_hat, *sides)
    return selected_hat, latent_hat


def central_lags(correlation: Any, rows: int, columns: int, *, out: Any = None) -> Any:
    """`kernel_step.central_lags` of float32 correlations."""
    correlation = _checked("correlation", correlation, np.float32)
    h, w = correlation.shape[-2:]
    if not (0 <= rows < h and 0 <= columns < w):
        raise ValueError(f"rows and columns must be under the sides {(h, w)}, got {(rows, columns)}; ask for less")
    out = _target("out", out, (*correlation.shape[:-2], 2 * rows + 1, 2 * columns + 1), np.float32)
    args = (correlation, out, *_sides(correlation), np.int32(rows), np.int32(columns))
    _launch("central_lags", _tiles(out), _TILE_BLOCK, *args)
    return out


def pose_expand(
    weights: Any,
    points: Any,
    candidates: Any,
    weight_index: Any,
    lattice: tuple[int, int, int],
    window: tuple[int, int],
    step: float,
    focal: float,
    *,
    out: Any = None,
) -> Any:
    """`poses.SparseSplatting.expand` of float32 weights.

    Parameters
    ----------
    weights : (..., T) float32.
    points : (R, 2) float32, (row, column) from the middle of the image.
    candidates : (R, rolls, 2, 4) float32, `poses.candidates`.
    weight_index : (rolls, gh, gw) int32, the index in `weights` of each pose of the lattice, or -1; None: all poses.
    lattice : (rolls, gh, gw).
    window : (kh, kw).
    step : from roll to roll, in radians.
    """
    weights, points = _checked_points("weights", weights, 1, points)
    candidates = _checked("candidates", candidates, np.float32, (len(points), lattice[0], 2, 4))
    weight_index = _poses("weight_index", weight_index, lattice, weights.shape[-1])
    lead = weights.shape[:-1]
    out = _target("out", out, (*lead, len(points), *window), np.float32)
    numbers = (np.int32(n) for n in (weights.shape[-1], *lattice, len(points), *window))
    blocks = math.prod(lead) * len(points) * -(-math.prod(window) // _POSE_THREADS)
    args = (weights, points, candidates, weight_index, out, *numbers, np.float32(step), np.float32(1 / focal))
    _launch("pose_expand", blocks, (_POSE_THREADS,), *args)
    return out


def pose_collect(
    kernels: Any, points: Any, active: Any, lattice: tuple[int, int, int], step: float, focal: float, *, out: Any = None
) -> Any:
    """`poses.SparseSplatting.collect` of float32 kernels (..., R, kh, kw).

    active : (T,) int32, flat indices in the lattice, rising; None: all. Else as in `pose_expand`.
    """
    kernels, points = _checked_points("kernels", kernels, 3, points)
    if kernels.shape[-3] != len(points):
        raise ValueError(f"kernels must be one for each of {len(points)} points, got shape {kernels.shape}")
    count = math.prod(lattice) if active is None else len(active)
    active = _poses("active", active, (count,), count)
    lead = kernels.shape[:-3]
    out = _target("out", out, (*lead, count), np.float32)
    numbers = (np.int32(n) for n in (count, *lattice, *kernels.shape[-3:]))
    args = (kernels, points, active, out, *numbers, np.float32(step), np.float32(1 / focal))
    _launch("pose_collect", math.prod(lead) * -(-count // _POSE_THREADS), (_POSE_THREADS,), *args)
    return out


def _checked_points(name: str, array: Any, axes: int, points: Any) -> tuple[Any, Any]:
    if array.ndim < axes:
        raise ValueError(f"{name} must have at least {axes} axes, got shape {array.shape}")
    return _checked(name, array, np.float32, array.shape), _checked("points", points, np.float32, (len(points), 2))


def _poses(name: str, indices: Any, shape: tuple[int, ...], count: int) -> Any:
    """The indices of some poses, or null for those of the whole lattice, which are `count`."""
    if indices is not None:
        return _checked(name, indices, np.int32, shape)
    if math.prod(shape) != count:
        raise ValueError(f"weights must be of all {math.prod(shape)} poses without a `{name}`, got {count}")
    return _NULL


def cells_cut(
    u: Any,
    rows: Any,
    columns: Any,
    sides: tuple[int, int],
    row_weights: Any = None,
    column_weights: Any = None,
    chunk: tuple[int, int] | None = None,
    *,
    out: Any = None,
) -> Any:
    """`varying_blur.VaryingBlur._blocks` of float32 images, with zeros beyond them.

    Parameters
    ----------
    u : (..., H, W).
    rows, columns : (3, cells) int32: first pixel of the block, which may lie outside, and first and end of those to
        copy, which must not.
    sides : (gh, gw) of a block.
    row_weights, column_weights : (H,) and (W,) float32, factors of the pixels; or None for both.
    chunk : first and end of the rows of cells to cut, by default all.
    """
    u = _checked("u", u, np.float32)
    rows, columns = (_checked("cells", cells, np.int32, (3, cells.shape[1])) for cells in (rows, columns))
    all_rows, across = rows.shape[1], columns.shape[1]
    first, last = chunk or (0, all_rows)
    out = _target("out", out, (*u.shape[:-2], last - first, across, *sides), np.float32)
    args = (u, rows, columns, *_pixel_weights(row_weights, column_weights, u), out, *_sides(u))
    numbers = (np.int32(n) for n in (all_rows, across, last - first, *sides, first))
    _launch("cells_cut", _tiles(out), _TILE_BLOCK, *args, *numbers)
    return out


def cells_add(
    blocks: Any,
    rows: Any,
    columns: Any,
    row_spans: Any,
    column_spans: Any,
    out: Any,
    row_weights: Any = None,
    column_weights: Any = None,
    first_row: int = 0,
    visited: tuple[int, int] | None = None,
    add: bool = False,
) -> Any:
    """`varying_blur.VaryingBlur._add_blocks`, the adjoint of `cells_cut`; in place in `out`, (..., H, W) float32.

    Parameters
    ----------
    blocks : (..., down, columns, gh, gw) float32, those of the rows of cells from `first_row`.
    rows, columns, row_weights, column_weights : as in `cells_cut`.
    row_spans, column_spans : (2, H) and (2, W) int32, the first cell that has a pixel, and the end of those.
    visited : first and end of the rows of pixels that these cells have, by default all.
    add : to what is in `out`, also where a pixel's first cell is among these.
    """
    out = _in_place("out", out, np.float32)
    rows, columns = (_checked("cells", cells, np.int32, (3, cells.shape[1])) for cells in (rows, columns))
    across, (down, *_, gh, gw) = columns.shape[1], blocks.shape[-4:]
    blocks = _checked("blocks", blocks, np.float32, (*out.shape[:-2], down, across, gh, gw))
    row_spans = _checked("row_spans", row_spans, np.int32, (2, out.shape[-2]))
    column_spans = _checked("column_spans", column_spans, np.int32, (2, out.shape[-1]))
    begin, end = visited or (0, out.shape[-2])
    weights = _pixel_weights(row_weights, column_weights, out)
    args = (blocks, rows, columns, row_spans, column_spans, *weights, out, *_sides(out))
    tiles = _batch(out) * -(-(end - begin) // _TILE) * -(-out.shape[-1] // _TILE)
    numbers = (np.int32(n) for n in (across, down, gh, gw, first_row, begin, end, add))
    _launch("cells_add", tiles, _TILE_BLOCK, *args, *numbers)
    return out


def _pixel_weights(rows: Any, columns: Any, u: Any) -> tuple[Any, Any]:
    if rows is None:
        return _NULL, _NULL
    checked = _checked("row_weights", rows, np.float32, (u.shape[-2],))
    return checked, _checked("column_weights", columns, np.float32, (u.shape[-1],))


def spectrum_max(spectrum: Any, *, out: Any = None) -> Any:
    """`toeplitz.spectrum_max` of complex64 spectra."""
    spectrum = _checked("spectrum", spectrum, np.complex64)
    size = math.prod(spectrum.shape[-2:])
    out = _target("out", out, spectrum.shape[:-2], np.float32)
    _launch("spectrum_max", _batch(spectrum), (_threads(size),), spectrum, out, np.int32(size))
    return out


def normalize(kernel: Any, determined: Any = None, *, out: Any = None) -> Any:
    """`kernel_projection.normalize` of float32 kernels. `out` may be `kernel`."""
    kernel = _checked("kernel", kernel, np.float32)
    determined = _NULL if determined is None else _checked("determined", determined, np.bool_, kernel.shape[:-2])
    out = _target("out", out, kernel.shape, np.float32)
    threads = _threads(math.prod(kernel.shape[-2:]))
    _launch("normalize", _batch(kernel), (threads,), kernel, determined, out, *_sides(kernel))
    return out


def project(kernel: Any, threshold: float, component: float, *, out: Any = None, scratch: Any = None) -> Any:
    """`kernel_projection.project` of float32 kernels of any size.

    scratch : (..., kh, kw, 2) uint64, used only if the labels and masses do not fit a block's shared memory.
    """
    kernel = _checked("kernel", kernel, np.float32)
    size = math.prod(kernel.shape[-2:])
    out = _target("out", out, kernel.shape, np.float32, kernel)
    bound = np.int32(max(1, math.ceil(threshold * (1 << 30))))
    cells, shared = _NULL, _CELL_BYTES * size
    if shared + _PROJECT_STATIC_BYTES > _shared_limit():
        cells, shared = _target("scratch", scratch, (*kernel.shape, 2), np.uint64), 0
    args = (kernel, out, cells, bound, np.float64(component), *_sides(kernel))
    _launch("project", _batch(kernel), (_threads(size),), *args, shared=shared)
    return out


def toeplitz_fits(kh: int, kw: int) -> bool:
    """Whether `toeplitz_cg` and `toeplitz_nnls` can hold a (kh, kw) kernel in one block's shared memory.

    Up to 63 x 63 on every device that CUDA 13 supports (64 KB), 79 x 79 with 99 KB, 119 x 119 with 227 KB. Larger ones
    take the FFT path of `toeplitz`.
    """
    return _vectors_bytes(kh, kw) <= _shared_limit()


def _vectors_bytes(kh: int, kw: int) -> int:
    """Shared memory of the larger of the two, CG: four vectors of the kernel's size."""
    return 4 * 4 * kh * kw + _BLOCK_SUM_BYTES


def _launch_toeplitz(
    name: str, vectors: int, autocorrelation: Any, rhs: Any, start: Any, scalars: tuple[Any, ...], steps: int, out: Any
) -> Any:
    kh, kw = rhs.shape[-2:]
    if not toeplitz_fits(kh, kw):
        raise ValueError(
            f"kernel sides must fit one block's shared memory ({_shared_limit()} bytes), got {(kh, kw)}, which needs "
            f"{_vectors_bytes(kh, kw)}; use the FFT path of gpudeblur.numerics.toeplitz where toeplitz_fits is False"
        )
    start = _checked("start", start, np.float32, rhs.shape)
    lags = (2 * kh - 1) * (2 * kw - 1)
    autocorrelation = _checked(
        "autocorrelation", autocorrelation, np.float32, (*rhs.shape[:-2], 2 * kh - 1, 2 * kw - 1)
    )
    # Outside shared memory the autocorrelation is read through L1 and L2.
    a_is_shared = _vectors_bytes(kh, kw) + 4 * lags <= _shared_limit()
    shared = 4 * (vectors * kh * kw + lags * a_is_shared)
    items = -(-kh // _TOEPLITZ_STRIP) * kw
    rounds = -(-items // 1024)
    threads = 32 * -(-items // (32 * rounds))
    out = _target("out", out, rhs.shape, np.float32)  # may be `start`: a block reads its part before it writes
    args = (autocorrelation, rhs, start, *scalars, out, *_sides(rhs), np.int32(steps), np.int32(a_is_shared))
    _launch(name, _batch(rhs), (threads,), *args, shared=shared)
    return out


def toeplitz_cg(autocorrelation: Any, rhs: Any, start: Any, ridge: Any, iterations: int, *, out: Any = None) -> Any:
    """`toeplitz.toeplitz_cg`: all iterations of all systems in one launch, with direct products instead of FFTs.

    Parameters
    ----------
    autocorrelation : (..., 2 kh - 1, 2 kw - 1) float32.
    rhs, start : (..., kh, kw) float32.
    ridge : a number, or (...) float32, one for each system.
    """
    rhs = _checked("rhs", rhs, np.float32)
    return _launch_toeplitz("toeplitz_cg", 4, autocorrelation, rhs, start, _per_image(ridge, rhs), iterations, out)


def toeplitz_nnls(
    autocorrelation: Any, rhs: Any, start: Any, ridge: Any, bound: Any, iterations: int, *, out: Any = None
) -> Any:
    """`toeplitz.toeplitz_nnls`, likewise. bound : (...) float32, an upper bound of |A|, by `spectrum_max`."""
    rhs = _checked("rhs", rhs, np.float32)
    scalars = (_checked("bound", bound, np.float32, rhs.shape[:-2]), *_per_image(ridge, rhs))
    return _launch_toeplitz("toeplitz_nnls", 3, autocorrelation, rhs, start, scalars, iterations, out)


def strided_convolution(u: Any, weights: Any, bias: Any) -> Any:
    """`convolution.strided_convolution` of float32 images (n, channels, H, W)."""
    u = _checked("u", u, np.float32)
    (n, channels, h, w), filters = u.shape, len(bias)
    weights = _checked("weights", weights, np.float32, (channels, 9, filters))
    bias = _checked("bias", bias, np.float32, (filters,))
    out = cupy.empty((n, filters, (h + 1) // 2, (w + 1) // 2), np.float32)
    blocks = n * -(-filters // _CONVOLUTION_FILTERS) * -(-out[0, 0].size // _CONVOLUTION_THREADS) if n else 0
    counts = np.int32(channels), np.int32(filters)
    _launch("strided_convolution", blocks, (_CONVOLUTION_THREADS,), u, weights, bias, out, *counts, *_sides(u))
    return out
