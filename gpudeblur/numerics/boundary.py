"""A photograph is cut out of a scene; FFTs see a torus. Between the two: a margin, by one of several rules."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

from .arrays import Array, array_module, constant
from .fourier import fast_size, irfft, irfft2, psf_to_otf, rfft, rfft2

MODES = ("unknown", "liu-jia", "reflect", "edge", "taper", "wrap")


def pad(picture: Array, kernel: Array, mode: str = "liu-jia") -> Array:
    """`picture` (..., H, W) on a periodic grid for the blur `kernel`, the picture in its first H rows and W columns.

    Parameters
    ----------
    picture : (..., H, W) float.
    kernel : (..., kh, kw), odd sides. Only "taper" asks for more than its size.
    mode : {"unknown", "liu-jia", "reflect", "edge", "taper", "wrap"}
        What is taken to be outside the picture.

        "liu-jia": the smooth margin of `wrap`, at least kh - 1 rows and kw - 1 columns.
        "unknown": the same; a solver is to compare nothing there, and takes it as a start. The grid holds every pixel
        that the blur brought into the picture.
        "reflect", "edge": the picture goes on mirrored, or by its border pixels, and fades over to its opposite border
        (`continued`), at least 2 (kh - 1) rows and 2 (kw - 1) columns.
        "taper": the picture mirrored up to a fast size, and faded into its own blur where the grid closes (`edgetaper`
        of MATLAB): pixels of the picture change up to a kernel's side from the border.
        "wrap": the picture is a torus. Nothing is added; sides with large prime factors are slow.

    Returns
    -------
    (..., H', W'), the grid; `unwrap` cuts it back.

    Raises
    ------
    ValueError
        There is no such mode.
    """
    if mode not in MODES:
        raise ValueError(f"boundary must be one of {', '.join(map(repr, MODES))}, got {mode!r}")
    (h, w), (kh, kw) = picture.shape[-2:], kernel.shape[-2:]
    if mode == "wrap":
        return picture
    if mode in ("liu-jia", "unknown"):
        return pad_liu_jia(picture, (kh - 1, kw - 1))
    if mode == "taper":
        return _tapered(pad_crossfade(picture, (max(0, kh - h), max(0, kw - w)), "reflect"), kernel, (h, w))
    return pad_crossfade(picture, (2 * (kh - 1), 2 * (kw - 1)), mode)


def pad_crossfade(picture: Array, margin: tuple[int, ...], mode: str) -> Array:
    """A picture (..., *space) of any number of axes, made periodic by new lines behind it, `margin` an axis at least.

    They carry on from the last line and fade over to what leads to the first, so that nothing jumps where the grid
    closes. (Without the fading, two mirrored pictures meet with a jump, which costs "tv" 3 dB of a photograph.)

    Parameters
    ----------
    picture : (..., *space) float.
    margin : the least number of new lines, in all, along each of the last `len(margin)` axes.
    mode : {"reflect", "edge"}
        By what the picture goes on: itself, mirrored, the last line twice (d c b a | a b c d), or its last line.

    Returns
    -------
    (..., *grid), all sides fast.
    """
    xp = array_module(picture)
    for axis, least in zip(range(-len(margin), 0), margin, strict=True):
        side = picture.shape[axis]
        count = fast_size(side + least) - side
        after, before = (constant(xp, _continuation, side, count, mode, which) for which in ("after", "before"))
        fade = constant(xp, _fade, count, picture.dtype).reshape(-1, *(1,) * (-axis - 1))
        one, other = (xp.take(picture, i, axis=axis) for i in (after, before))
        picture = xp.concatenate([picture, one + fade * (other - one)], axis=axis)
    return picture


def _continuation(side: int, count: int, mode: str, which: str) -> np.ndarray:
    """The lines of `side` that go on `after` the last one, or lead to the first from `before`, `count` of them."""
    place = np.arange(count)
    if mode == "edge":
        return np.full(count, side - 1) if which == "after" else np.zeros(count, int)
    i = place + side if which == "after" else place - count
    return np.where(i % (2 * side) < side, i, ~i) % side


def _fade(count: int, dtype: Any) -> np.ndarray:
    """From 0 to 1 over `count` lines."""
    share = (np.arange(count) + 0.5) / max(count, 1)
    return (0.5 - 0.5 * np.cos(np.pi * share)).astype(dtype)


def _midpoint(n: int, size: int) -> int:
    """The middle of the new lines."""
    return n + (size - n + 1) // 2


def _tapered(picture: Array, kernel: Array, shape: tuple[int, int]) -> Array:
    """a I + (1 - a) I * k with a = (1 - r_y) (1 - r_x), r the correlation of the kernel's projection with itself at the
    distance from the seam, 1 right beside it."""
    xp, grid = array_module(picture, kernel), picture.shape[-2:]
    keep = None
    for axis in (0, 1):
        projection = kernel.sum(axis=-1 - axis)
        k = projection.shape[-1]
        correlation = xp.stack([(projection[..., lag:] * projection[..., : k - lag]).sum(axis=-1) for lag in range(k)])
        correlation = xp.moveaxis(correlation, 0, -1) / (projection**2).sum(axis=-1)[..., None]
        size = grid[axis]
        beyond = (np.arange(size) - _midpoint(shape[axis], size)) % size
        distance = np.minimum(beyond, size - 1 - beyond)
        fade = xp.where(xp.asarray(distance < k), 1 - correlation[..., xp.asarray(np.minimum(distance, k - 1))], 1)
        fade = fade[..., :, None] if axis == 0 else fade[..., None, :]
        keep = fade if keep is None else keep * fade
    blurred = irfft2(psf_to_otf(kernel, grid) * rfft2(picture), grid, overwrite=True)
    blurred *= 1 / (grid[0] * grid[1])
    return (blurred + keep * (picture - blurred)).astype(picture.dtype, copy=False)


def pad_liu_jia(picture: Array, margin: tuple[int, int]) -> Array:
    """`picture` (..., H, W) enlarged below and on the right to a periodic picture of fast size.

    The new pixels solve Laplace's equation between the opposite borders (the idea of Liu & Jia, ICIP 2008), so that
    nothing jumps when the picture is repeated: without it every FFT restoration rings from the borders inwards.

    Parameters
    ----------
    margin : the least number of new rows and columns, kernel side - 1, so that no blur reaches across.

    Returns
    -------
    (..., fast_size(H + margin), fast_size(W + margin)); `unwrap` cuts it back.
    """
    h, w = picture.shape[-2:]
    rows, columns = fast_size(h + margin[0]) - h, fast_size(w + margin[1]) - w
    right = _harmonic(picture[..., -1], picture[..., 0], columns, periodic=False)
    wide = _concatenate(picture, right.swapaxes(-1, -2), -1)
    below = _harmonic(wide[..., -1, :], wide[..., 0, :], rows, periodic=True)
    return _concatenate(wide, below, -2)


def crop(picture: Array, shape: tuple[int, int]) -> Array:
    """The part of a wrapped picture that was there before: its first H rows and W columns."""
    return picture[..., : shape[0], : shape[1]]


def _concatenate(a: Array, b: Array, axis: int) -> Array:
    xp = array_module(a, b)
    return xp.concatenate([a, b.astype(a.dtype, copy=False)], axis=axis)


def _harmonic(first: Array, last: Array, count: int, *, periodic: bool) -> Array:
    """`count` lines (..., count, n) between the lines `first` and `last` (..., n) that solve Laplace's equation.

    Along the lines the solution is periodic, or even about its ends. A frequency k of the border lines dies off as
    sinh(theta (count + 1 - t)) / sinh(theta (count + 1)) with sinh(theta / 2) = sin(pi k / n).
    """
    xp = array_module(first, last)
    n = first.shape[-1]
    if not periodic:
        first, last = (xp.concatenate([line, line[..., ::-1]], axis=-1) for line in (first, last))
    period = first.shape[-1]
    near, far = (constant(xp, _decay, period, count, first.dtype, end) for end in ("first", "last"))
    spectrum = rfft(first)[..., None, :] * near + rfft(last)[..., None, :] * far
    return irfft(spectrum, period)[..., :n]


@functools.lru_cache(maxsize=32)
def _decay(period: int, count: int, dtype: Any, end: str) -> np.ndarray:
    """(count, period // 2 + 1): what is left of each frequency of the line at that end, on each line between both."""
    theta = 2 * np.arcsinh(np.sin(np.pi * np.arange(period // 2 + 1) / period))[None, :]
    t = np.arange(1, count + 1)[:, None]
    whole = count + 1
    distance = t if end == "first" else whole - t
    with np.errstate(invalid="ignore", divide="ignore"):
        ends = np.expm1(-2 * theta * (whole - distance)) / np.expm1(-2 * theta * whole)
        ratio = np.exp(-theta * distance) * ends
    return np.where(theta == 0, (whole - distance) / whole, ratio).astype(dtype)
