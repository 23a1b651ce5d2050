"""Large pictures in tiles: a bounded amount of memory, and no seams."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from ..numerics.arrays import Array, array_module, backend_name, choose_module, free_bytes, move
from ..numerics.fourier import fast_size
from ..numerics.progress import subrange
from . import METHODS
from .regularization import estimate_weight

# Arrays of the size of a grid that live at once, by method, with unknown boundaries (see `memory`): measured on NumPy
# (tests/test_tiles.py). On a GPU, but for "sparse", they are estimated, on the safe side.
_UNKNOWN = ("hyper-laplacian", "tv", "l0", "ringing-suppressed", "epll")  # the passes of `tv` take most
LIVE_ARRAYS = {
    "numpy": {"sparse": 22.0, **dict.fromkeys(_UNKNOWN, 19.4)},
    "cupy": {"sparse": 26.0, **dict.fromkeys(_UNKNOWN, 29.0)},
}
OVERLAP = 5  # kernel sides; with three, the cuts differ by three times as much
TILED = tuple(LIVE_ARRAYS["numpy"])
MEMORY = 1 << 30  # bytes on the host, where nothing is said; on a GPU half of what is free
SAMPLES = 9  # tiles by which the noise of a picture is judged


def tiled(
    blurred: Array,
    kernel: Array,
    *,
    method: str = "tv",
    weight: Any = None,
    clipped: Array | None = None,
    tile: int | None = None,
    overlap: int | None = None,
    memory: int | None = None,
    device: str | None = None,
    callback: Callable[[float], None] | None = None,
    **options: Any,
) -> Array:
    """`METHODS[method](blurred, kernel)` with unknown boundaries, tile by tile.

    A tile is restored with `overlap` more pixels on each side that it has a neighbour. The outer half of them is
    dropped; over the inner half, the results of both fade into each other.

    Parameters
    ----------
    blurred : (..., H, W) float in [0, 1]. It stays where it is: only tiles are moved to the device.
    kernel : (..., kh, kw), odd sides, sum 1.
    method : one of `TILED`.
    weight : of the prior, a number or one a picture (...). None takes the median of those that suit the noise of up to
        nine tiles: one for all, or seams would show.
    clipped : (..., H, W) bool, of the method; in the memory of `blurred`.
    tile : pixels a side, without the overlap. None is the most that fits `memory`.
    overlap : pixels. None is five times the kernel's larger side, and at least 64. Less is faster; see Notes.
    memory : bytes that a tile's restoration may take; None is 1 GiB, on a GPU half of what is free there.
    device : where to compute: None (where the picture lives), "cpu", "cuda", "auto".
    callback : called with the fraction done.
    options : of the method, as they are; its boundary is "unknown".

    Returns
    -------
    (..., H, W), not clipped, in the memory of `blurred`.

    Raises
    ------
    ValueError
        There is no such method, `tile` or `overlap` is out of its range, or not even a small tile fits the memory.

    Notes
    -----
    Convolution reaches no further than the kernel, but its inverse does, and a flat region has one level however far it
    reaches. On photographs with 0.5 % noise, "tv" in tiles of 256 differs from the untiled result next to the cuts by
    0.0001 with a kernel of 19 pixels, 0.0004 with 25, and 0.001 with 35 (root mean square, at most). Along the
    picture's own border, where little was seen, it differs by up to 0.008 whatever the overlap: see bench/README.md.
    """
    if method not in TILED:
        raise ValueError(f"method must be one of {', '.join(map(repr, TILED))}, got {method!r}")
    xp, home = choose_module(blurred, device), array_module(blurred, kernel)
    sides = (int(kernel.shape[-2]), int(kernel.shape[-1]))
    if overlap is None:
        overlap = max(64, OVERLAP * max(sides))
    if overlap < 0:
        raise ValueError(f"overlap must not be negative, got {overlap}; leave it out for {OVERLAP} kernel sides")
    if tile is None:
        tile = _tile_that_fits(blurred, sides, overlap, method, xp, memory)
    if tile < max(1, overlap):
        raise ValueError(f"tile must be at least overlap = {overlap}, got {tile}; take larger tiles or less overlap")
    kernel = move(kernel, xp)
    cuts = [[*_cuts(n, tile)] for n in blurred.shape[-2:]]
    reach = [_reach(each, overlap) for each in cuts]
    boxes = [(rows, columns) for rows in cuts[0] for columns in cuts[1]]

    def place_of(box: tuple[slice, slice]) -> tuple[slice, slice]:
        """Where the tile with its overlap is in the picture."""
        rows, columns = (_grown(cut, overlap, n) for cut, n in zip(box, blurred.shape[-2:], strict=True))
        return rows, columns

    def piece(picture: Array, place: tuple[slice, slice]) -> Array:
        """On the device."""
        return move(home.ascontiguousarray(picture[(..., *place)]), xp)

    if weight is None:
        some = boxes[:: -(-len(boxes) // SAMPLES)]
        each = [estimate_weight(piece(blurred, place_of(box)), kernel, method) for box in some]
        weight = xp.median(xp.stack(each), axis=0)
    elif np.ndim(weight):
        weight = move(weight, xp)
    if method != "sparse":
        options["boundary"] = "unknown"
    out = home.zeros_like(blurred)
    for number, box in enumerate(boxes):
        place = place_of(box)
        if clipped is not None:
            options["clipped"] = piece(clipped, place)
        report = subrange(callback, number / len(boxes), 1 / len(boxes))
        sharp = METHODS[method](piece(blurred, place), kernel, weight=weight, callback=report, **options)
        for axis, (cut, grown) in enumerate(zip(box, place, strict=True)):
            fade = xp.asarray(_fade(cut, grown, reach[axis], blurred.shape[axis - 2]), dtype=blurred.dtype)
            sharp = sharp * (fade[:, None] if axis == 0 else fade)
        out[(..., *place)] += move(sharp, home)
    return out


def _cuts(n: int, tile: int) -> Iterator[slice]:
    """The fewest parts of about the same length, at most `tile`, that make up n."""
    count = -(-n // tile)
    ends = [n * i // count for i in range(count + 1)]
    return (slice(begin, end) for begin, end in itertools.pairwise(ends))


def _reach(cuts: list[slice], overlap: int) -> int:
    """Half of a ramp: within the overlap, and so short that a tile is not ramps only."""
    return min(overlap, *(cut.stop - cut.start for cut in cuts)) // 2 if len(cuts) > 1 else 0


def _grown(cut: slice, overlap: int, n: int) -> slice:
    return slice(max(0, cut.start - overlap), min(n, cut.stop + overlap))


def _fade(cut: slice, grown: slice, reach: int, n: int) -> np.ndarray:
    """What a tile counts along an axis: 1 inside, a ramp over `reach` pixels to either side of a cut, 0 beyond.

    The ramps of two neighbours add up to 1."""
    place = np.arange(grown.start, grown.stop) + 0.5
    rise = np.ones(len(place)) if cut.start == 0 else (place - cut.start) / (2 * max(reach, 0.25)) + 0.5
    fall = np.ones(len(place)) if cut.stop == n else (cut.stop - place) / (2 * max(reach, 0.25)) + 0.5
    return np.clip(np.minimum(rise, fall), 0, 1)


def _tile_that_fits(
    blurred: Array, sides: tuple[int, int], overlap: int, method: str, xp: Any, memory: int | None
) -> int:
    """The largest side of a tile, without its overlap, whose restoration takes no more than `memory` bytes."""
    if memory is None:
        memory = MEMORY if xp is np else free_bytes(xp) // 2
    each = LIVE_ARRAYS[backend_name(xp)][method] * blurred.dtype.itemsize * int(np.prod(blurred.shape[:-2]))

    def needed(tile: int) -> float:
        grid = [fast_size(min(n, tile + 2 * overlap) + k - 1) for n, k in zip(blurred.shape[-2:], sides, strict=True)]
        return each * grid[0] * grid[1]

    tile = max(overlap, *blurred.shape[-2:])
    while tile > overlap and needed(tile) > memory:
        tile = max(overlap, tile * 9 // 10)
    if needed(tile) > memory:
        raise ValueError(
            f"memory must hold a tile of {tile} pixels with an overlap of {overlap}, {needed(tile) / 2**20:.0f} MiB, "
            f"got {memory / 2**20:.0f} MiB; give more, or a smaller overlap"
        )
    return tile
