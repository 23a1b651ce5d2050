"""Restoration of large images in tiles: bounded memory, no visible seams."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from ..images.kernel_field import KernelField, kernel_sides
from ..numerics.arrays import Array, array_module, backend_name, choose_module, free_bytes, move
from ..numerics.fourier import fast_size
from ..numerics.progress import subrange
from .regularization import estimate_weight
from .specs import METHOD_SPECS, METHODS, color_option

OVERLAP_KERNELS = 5  # overlap in kernel sides; with three, the differences at the cuts are three times as large
MIN_OVERLAP = 64  # pixels
ALIGNMENT = 8  # pixels; for a network, which reduces images by up to 8, tiles begin at multiples
HOST_MEMORY = 1 << 30  # bytes for a tile on the host; on a GPU it may take half of the free memory
WEIGHT_SAMPLES = 9  # tiles in which the noise is measured
MIN_VALID = 0.5  # fraction of such a tile


def tiled(
    blurred: Array,
    kernel: Array | KernelField,
    *,
    method: str = "tv",
    weight: Any = None,
    saturated: Array | None = None,
    mask: Array | None = None,
    tile: int | None = None,
    device: str | None = None,
    callback: Callable[[float], None] | None = None,
    **options: Any,
) -> Array:
    """`METHODS[method](blurred, kernel)` with an unknown boundary, tile by tile.

    A tile is restored with an overlap on each side that has a neighbor: five times the kernel's larger side, and at
    least 64 pixels. The outer half of it is dropped; over the inner half, the results of both tiles fade into each
    other.

    Parameters
    ----------
    blurred : (..., H, W) float in [0, 1]. It stays in its memory: only tiles are moved to the device.
    kernel : (..., kh, kw), odd sides, sum 1; or a field, of which each tile takes the nodes that reach it.
    method : one that has `live_arrays` in its `MethodSpec`.
    weight : of the prior, a number or one per image (...). None is the median of the automatic weights of up to nine
        tiles: different weights would make the tiles visible. Where there is a `mask`, tiles of which less than half is
        valid are not measured, if there are others.
    saturated, mask : (..., H, W) bool, of the method; in the memory of `blurred`.
    tile : pixels per side, without the overlap. None is the largest that fits 1 GiB, on a GPU half of the free memory.
    device : where to compute: None (where the image lives), "cpu", "cuda", "auto".
    callback : called with the completed fraction.
    options : of the method; its boundary is "unknown" by default.

    Returns
    -------
    (..., H, W), not limited to [0, 1], in the memory of `blurred`.

    Raises
    ------
    ValueError
        `tile` is smaller than the overlap, or not even the smallest tile fits the memory.

    Notes
    -----
    A convolution reaches no further than the kernel, but its inverse does, and the level of a flat region is coupled
    however large it is. On photographs with 0.5 % noise, "tv" in tiles of 256 differs from the untiled result next to
    the cuts by 0.0001 with a kernel of 19 pixels, 0.0004 with 25, and 0.001 with 35 (root mean square, at most). Along
    the border of the image, where few pixels were observed, it differs by up to 0.008 for any overlap: see
    bench/README.md.
    """
    xp, xp_in = choose_module(blurred, device), array_module(blurred)
    spec, sides = METHOD_SPECS[method], kernel_sides(kernel)
    overlap = max(MIN_OVERLAP, OVERLAP_KERNELS * max(sides))
    if tile is None:
        tile = _tile_that_fits(blurred, sides, overlap, method, xp, None, kernel)
    if tile < overlap:
        raise ValueError(f"tile must be at least {overlap}, the overlap of the tiles, got {tile}; use a larger one")
    kernel = kernel.to(xp) if isinstance(kernel, KernelField) else move(kernel, xp)
    cuts = [[*_cuts(n, tile)] for n in blurred.shape[-2:]]
    ramps = [_ramp(axis_cuts, overlap) for axis_cuts in cuts]
    tiles = [*itertools.product(*cuts)]
    alignment = ALIGNMENT if spec.network else 1
    windows = [
        tuple(_grown(cut, overlap, n, alignment) for cut, n in zip(t, blurred.shape[-2:], strict=True)) for t in tiles
    ]

    def crop_to_device(array: Array, window: Any) -> Array:
        return move(xp_in.ascontiguousarray(array[(..., *window)]), xp)

    def kernel_of(window: Any) -> Any:
        return kernel.crop(window).prepared(blurred.dtype) if isinstance(kernel, KernelField) else kernel

    if weight is None:
        assert spec.weight_rule is not None, "tiled methods have an automatic weight"
        measured = windows
        if mask is not None:  # here CuPy must wait
            measured = [
                window for window in windows if float(crop_to_device(mask, window).mean()) >= MIN_VALID
            ] or windows
        sample = measured[:: -(-len(measured) // WEIGHT_SAMPLES)]
        weights = [
            estimate_weight(
                crop_to_device(blurred, window), kernel_of(window), spec.weight_rule,
                None if mask is None else crop_to_device(mask, window),
            )
            for window in sample
        ]  # fmt: skip
        weight = xp.median(xp.stack(weights), axis=0)
    elif np.ndim(weight):
        weight = move(weight, xp)
    if len(spec.boundaries) > 1:
        options.setdefault("boundary", "unknown")
    out = xp_in.zeros_like(blurred)
    for index, (cut_pair, window) in enumerate(zip(tiles, windows, strict=True)):
        if saturated is not None:
            part = crop_to_device(saturated, window)
            options["saturated"] = part if bool(part.any()) else None
        if mask is not None:
            part = crop_to_device(mask, window)
            options["mask"] = None if bool(part.all()) else part
        progress = subrange(callback, index / len(tiles), 1 / len(tiles))
        part = crop_to_device(blurred, window)
        sharp = METHODS[method](part, kernel_of(window), weight=weight, callback=progress, **options)
        del part
        for axis, (cut, grown) in enumerate(zip(cut_pair, window, strict=True)):
            fade = xp.asarray(_fade(cut, grown, ramps[axis], blurred.shape[axis - 2]), dtype=blurred.dtype)
            sharp = sharp * (fade[:, None] if axis == 0 else fade)
        out[(..., *window)] += move(sharp, xp_in)
    return out


def _cuts(n: int, tile: int) -> Iterator[slice]:
    """The fewest parts of about the same length, at most `tile`, that make up n."""
    parts = -(-n // tile)
    ends = [n * i // parts for i in range(parts + 1)]
    return (slice(begin, end) for begin, end in itertools.pairwise(ends))


def _ramp(cuts: list[slice], overlap: int) -> int:
    """Half the length of a fade: within the overlap, and so short that a tile does not consist of fades only."""
    return min(overlap, *(cut.stop - cut.start for cut in cuts)) // 2 if len(cuts) > 1 else 0


def _grown(cut: slice, overlap: int, n: int, alignment: int) -> slice:
    return slice(max(0, cut.start - overlap) // alignment * alignment, min(n, cut.stop + overlap))


def _fade(cut: slice, grown: slice, ramp: int, n: int) -> np.ndarray:
    """The weights of a tile along an axis: 1 inside, falling to 0 over `ramp` pixels to either side of a cut.

    Those of two neighbors add up to 1."""
    position = np.arange(grown.start, grown.stop) + 0.5
    rise = np.ones(len(position)) if cut.start == 0 else (position - cut.start) / (2 * max(ramp, 0.25)) + 0.5
    fall = np.ones(len(position)) if cut.stop == n else (cut.stop - position) / (2 * max(ramp, 0.25)) + 0.5
    return np.clip(np.minimum(rise, fall), 0, 1)


def _field_arrays(field: KernelField, part: list[int], *, rows_together: bool) -> float:
    """What the blur of a part of the image with a field adds to `live_arrays`.

    The cells with their margins are as many pixels as `area` arrays. So are the spectra of the kernels; six arrays of a
    row of cells, or of all rows together, are in use at a time (measured on NumPy, tests/nonblind/test_tiles.py).
    """
    cells = [min([n, *np.diff(nodes)]) for n, nodes in zip(part, field.positions, strict=True)]
    area = float(np.prod([1 + (k - 1) / cell for k, cell in zip(kernel_sides(field), cells, strict=True)]))
    return area * (1 + 6 * (1 if rows_together else min(1, float(cells[0]) / part[0])))


def tile_of_bounded_memory(planes: Array, kernel: Array | KernelField, method: str) -> int | None:
    """The side of the tiles in which each plane of images (n, C, H, W) is restored, or all colors together, or None.

    None, whole images, where a single image takes no more than 1 GiB, or on a GPU half of the free memory.
    """
    xp, sides = array_module(planes), kernel_sides(kernel)
    overlap, side = max(MIN_OVERLAP, OVERLAP_KERNELS * max(sides)), max(planes.shape[-2:])
    image = planes[:1]
    part = image[0] if color_option(method, planes) else image[0, 0]
    required = _bytes_of_tile(image, sides, overlap, method, xp, side, kernel)
    if required <= HOST_MEMORY or required <= (memory := _tile_memory(xp)):
        return None
    return _largest_tile(part, sides, overlap, method, xp, memory, kernel)


def _tile_memory(xp: Any) -> int:
    """Bytes that the restoration of a tile may take."""
    return HOST_MEMORY if xp is np else free_bytes(xp) // 2


def _bytes_of_tile(
    blurred: Array,
    sides: tuple[int, int],
    overlap: int,
    method: str,
    xp: Any,
    tile: int,
    kernel: Array | KernelField | None = None,
) -> float:
    """Bytes that the restoration of a `tile` takes."""
    live_arrays = METHOD_SPECS[method].live_arrays
    assert live_arrays is not None, "tiled methods know their memory"
    bytes_of_array = blurred.dtype.itemsize * int(np.prod(blurred.shape[:-2]))
    part = [min(n, tile + 2 * overlap) for n in blurred.shape[-2:]]
    grid = [fast_size(n + k - 1) for n, k in zip(part, sides, strict=True)]
    arrays = live_arrays[backend_name(xp)]
    if isinstance(kernel, KernelField):
        arrays += _field_arrays(kernel, part, rows_together=xp is not np)
    return arrays * bytes_of_array * grid[0] * grid[1]


def _largest_tile(
    blurred: Array,
    sides: tuple[int, int],
    overlap: int,
    method: str,
    xp: Any,
    memory: int,
    kernel: Array | KernelField | None = None,
) -> int:
    """The largest side of a tile, without its overlap, that takes no more than `memory` bytes; at least the overlap."""
    tile = max(overlap, *blurred.shape[-2:])
    while tile > overlap and _bytes_of_tile(blurred, sides, overlap, method, xp, tile, kernel) > memory:
        tile = max(overlap, tile * 9 // 10)
    return tile


def _tile_that_fits(
    blurred: Array,
    sides: tuple[int, int],
    overlap: int,
    method: str,
    xp: Any,
    memory: int | None,
    kernel: Array | KernelField | None = None,
) -> int:
    """`_largest_tile`; raises if it takes more than `memory` bytes."""
    memory = _tile_memory(xp) if memory is None else memory
    tile = _largest_tile(blurred, sides, overlap, method, xp, memory, kernel)
    required = _bytes_of_tile(blurred, sides, overlap, method, xp, tile, kernel)
    if required > memory:
        raise ValueError(
            f"tile='auto' needs {required / 2**20:.0f} MiB for a tile of {tile} pixels and an overlap of "
            f"{overlap}, got {memory / 2**20:.0f} MiB; tile={tile} tries it nevertheless"
        )
    return tile
