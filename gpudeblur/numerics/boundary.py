"""Padding of an image to a periodic grid, by several models of what is outside the image."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

from .arrays import Array, array_module, constant
from .fourier import fast_size, irfft, irfft2, psf_to_otf, rfft, rfft2

MODES = ("unknown", "liu-jia", "reflect", "edge", "taper", "wrap")


def pad(image: Array, kernel: Array, mode: str = "liu-jia") -> Array:
    """`image` (..., H, W) in the first H rows and W columns of a periodic grid for the blur `kernel`.

    Parameters
    ----------
    image : (..., H, W) float.
    kernel : (..., kh, kw), odd sides. All modes use its size, only "taper" its values.
    mode : {"unknown", "liu-jia", "reflect", "edge", "taper", "wrap"}
        The model of what is outside the image.

        "liu-jia": the smooth margin of `pad_liu_jia`, at least kh - 1 rows and kw - 1 columns.
        "unknown": the same margin, as a first iterate for solvers that do not compare the pixels in it. The grid holds
        every pixel that contributes to the image.
        "reflect", "edge": the image mirrored, or its border pixels repeated, with a cross-fade to the opposite border
        (`pad_crossfade`), at least 2 (kh - 1) rows and 2 (kw - 1) columns.
        "taper": the image mirrored up to a fast size and blended with its own blur where the grid closes (MATLAB's
        `edgetaper`): pixels of the image change up to a kernel's side from the border.
        "wrap": the image is periodic. Nothing is added; sides with large prime factors are slow.

    Returns
    -------
    (..., H', W'); `crop` is the inverse.

    Raises
    ------
    ValueError
        Unknown mode.
    """
    if mode not in MODES:
        raise ValueError(f"boundary must be one of {', '.join(map(repr, MODES))}, got {mode!r}")
    (h, w), (kh, kw) = image.shape[-2:], kernel.shape[-2:]
    if mode == "wrap":
        return image
    if mode in ("liu-jia", "unknown"):
        return pad_liu_jia(image, (kh - 1, kw - 1))
    if mode == "taper":
        return _taper(pad_crossfade(image, (max(0, kh - h), max(0, kw - w)), "reflect"), kernel, (h, w))
    return pad_crossfade(image, (2 * (kh - 1), 2 * (kw - 1)), mode)


def pad_crossfade(image: Array, margin: tuple[int, ...], mode: str) -> Array:
    """Make an image of any number of axes periodic by lines appended along each of them.

    The new lines change gradually from the continuation of the last line to that of the first one, so that nothing
    jumps where the grid closes. (Without the cross-fade, two mirrored images meet with a jump, which costs "tv" 3 dB on
    a photograph.)

    Parameters
    ----------
    image : (..., *sides) float.
    margin : the minimum number of new lines along each of the last `len(margin)` axes.
    mode : {"reflect", "edge"}
        The continuation: the image mirrored with its last line repeated (d c b a | a b c d), or its last line.

    Returns
    -------
    (..., *grid), all sides fast.
    """
    xp = array_module(image)
    for axis, min_lines in zip(range(-len(margin), 0), margin, strict=True):
        side = image.shape[axis]
        count = fast_size(side + min_lines) - side
        indices = (constant(xp, _continuation, side, count, mode, end) for end in ("last", "first"))
        after, before = (xp.take(image, i, axis=axis) for i in indices)
        fade = constant(xp, _fade, count, image.dtype).reshape(-1, *(1,) * (-axis - 1))
        image = xp.concatenate([image, after + fade * (before - after)], axis=axis)
    return image


def _continuation(side: int, count: int, mode: str, end: str) -> np.ndarray:
    """Indices of `count` lines of `side` that continue the image after its "last" line, or before its "first" one."""
    if mode == "edge":
        return np.full(count, side - 1) if end == "last" else np.zeros(count, int)
    i = np.arange(count) + (side if end == "last" else -count)
    return np.where(i % (2 * side) < side, i, ~i) % side


def _fade(count: int, dtype: Any) -> np.ndarray:
    """A raised cosine from 0 to 1 over `count` lines."""
    position = (np.arange(count) + 0.5) / max(count, 1)
    return (0.5 - 0.5 * np.cos(np.pi * position)).astype(dtype)


def _taper(image: Array, kernel: Array, shape: tuple[int, int]) -> Array:
    """a I + (1 - a) I * k for a = (1 - r_y) (1 - r_x).

    r is the normalized autocorrelation of the kernel's projection at the distance from where the grid closes: 1 there.
    """
    xp, grid = array_module(image, kernel), image.shape[-2:]
    opacity = None
    for axis in (0, 1):
        projection = kernel.sum(axis=-1 - axis)
        k = projection.shape[-1]
        correlation = xp.stack([(projection[..., lag:] * projection[..., : k - lag]).sum(axis=-1) for lag in range(k)])
        correlation = xp.moveaxis(correlation, 0, -1) / (projection**2).sum(axis=-1)[..., None]
        size, side = grid[axis], shape[axis]
        middle = side + (size - side + 1) // 2  # of the new lines
        offset = (np.arange(size) - middle) % size
        distance = np.minimum(offset, size - 1 - offset)
        fade = xp.where(xp.asarray(distance < k), 1 - correlation[..., xp.asarray(np.minimum(distance, k - 1))], 1)
        fade = fade[..., :, None] if axis == 0 else fade[..., None, :]
        opacity = fade if opacity is None else opacity * fade
    blurred = irfft2(psf_to_otf(kernel, grid) * rfft2(image), grid, overwrite=True)
    blurred *= 1 / (grid[0] * grid[1])
    return (blurred + opacity * (image - blurred)).astype(image.dtype, copy=False)


def pad_liu_jia(image: Array, margin: tuple[int, int]) -> Array:
    """`image` (..., H, W) enlarged below and on the right to a periodic image of fast size.

    The new pixels solve Laplace's equation between the opposite borders (the idea of [Liu2008]), so that nothing jumps
    where the image repeats. Without them, FFT restorations ring from the borders inwards.

    Parameters
    ----------
    margin : the minimum number of new rows and columns; kernel side - 1 keeps opposite borders apart.

    Returns
    -------
    (..., fast_size(H + margin), fast_size(W + margin)); `crop` is the inverse.
    """
    xp, (h, w) = array_module(image), image.shape[-2:]
    rows, columns = fast_size(h + margin[0]) - h, fast_size(w + margin[1]) - w
    right = _harmonic(image[..., -1], image[..., 0], columns, periodic=False)
    wide = xp.concatenate([image, right.swapaxes(-1, -2)], axis=-1)
    below = _harmonic(wide[..., -1, :], wide[..., 0, :], rows, periodic=True)
    return xp.concatenate([wide, below], axis=-2)


def crop(image: Array, shape: tuple[int, int]) -> Array:
    """The original image of a padded one: its first H rows and W columns."""
    return image[..., : shape[0], : shape[1]]


def _harmonic(first: Array, last: Array, count: int, *, periodic: bool) -> Array:
    """`count` lines (..., count, n) that solve Laplace's equation between the lines `first` and `last` (..., n).

    Along the lines the solution is periodic, or even about its ends. A frequency k of the border lines decays as
    sinh(theta (count + 1 - t)) / sinh(theta (count + 1)) with sinh(theta / 2) = sin(pi k / n).
    """
    xp = array_module(first, last)
    n = first.shape[-1]
    if not periodic:
        first, last = (xp.concatenate([line, line[..., ::-1]], axis=-1) for line in (first, last))
    period = first.shape[-1]
    near, far = (constant(xp, _decay, period, count, first.dtype, end) for end in ("first", "last"))
    spectrum = rfft(first)[..., None, :] * near + rfft(last)[..., None, :] * far
    return irfft(spectrum, period)[..., :n].astype(first.dtype, copy=False)


@functools.lru_cache(maxsize=32)
def _decay(period: int, count: int, dtype: Any, end: str) -> np.ndarray:
    """(count, period // 2 + 1): the factor of each frequency of the `end` line, on each line between both ends."""
    theta = 2 * np.arcsinh(np.sin(np.pi * np.arange(period // 2 + 1) / period))[None, :]
    t = np.arange(1, count + 1)[:, None]
    gap = count + 1  # between the two lines
    distance = t if end == "first" else gap - t
    with np.errstate(invalid="ignore", divide="ignore"):
        ratio = np.exp(-theta * distance) * (np.expm1(-2 * theta * (gap - distance)) / np.expm1(-2 * theta * gap))
    return np.where(theta == 0, (gap - distance) / gap, ratio).astype(dtype)
