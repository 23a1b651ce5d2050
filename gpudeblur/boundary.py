"""A photograph is cut out of a scene; FFTs see a torus. Between the two: a margin that is as smooth as can be."""

from __future__ import annotations

import numpy as np

from ._arrays import Array, array_module
from .fourier import fast_size


def wrap(picture: Array, margin: tuple[int, int]) -> Array:
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


def unwrap(picture: Array, shape: tuple[int, int]) -> Array:
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
    theta = 2 * np.arcsinh(np.sin(np.pi * np.arange(period // 2 + 1) / period))[None, :]
    t = np.arange(1, count + 1)[:, None]

    def decay(distance: np.ndarray) -> np.ndarray:
        whole = count + 1
        with np.errstate(invalid="ignore", divide="ignore"):
            ends = np.expm1(-2 * theta * (whole - distance)) / np.expm1(-2 * theta * whole)
            ratio = np.exp(-theta * distance) * ends
        return np.where(theta == 0, (whole - distance) / whole, ratio)

    near, far = (xp.asarray(decay(d).astype(first.dtype)) for d in (t, count + 1 - t))
    spectrum = xp.fft.rfft(first)[..., None, :] * near + xp.fft.rfft(last)[..., None, :] * far
    return xp.fft.irfft(spectrum, n=period)[..., :n]
