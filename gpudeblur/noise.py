"""How much noise a picture has, and what that means for the weights."""

from __future__ import annotations

from ._arrays import Array, array_module

# Up to this standard deviation the weights hold as they are.
QUIET = 0.0063
# Of a Gaussian: its median absolute value, in standard deviations.
MEDIAN = 0.6745


def noise_sigma(picture: Array) -> Array:
    """Standard deviation of the white noise in pictures (..., H, W), in their unit, (...).

    The median of the diagonal Haar coefficients (Donoho & Johnstone 1994): a blurred picture itself has next to none.
    Fine texture that is not blurred counts as noise. 0 for a picture of one row or column.
    """
    xp = array_module(picture)
    if min(picture.shape[-2:]) < 2:
        return xp.zeros(picture.shape[:-2], dtype=picture.dtype)
    columns = picture[..., 1:] - picture[..., :-1]
    diagonal = abs(columns[..., 1:, :] - columns[..., :-1, :]) * (0.5 / MEDIAN)
    return xp.median(diagonal.reshape(*picture.shape[:-2], -1), axis=-1)


def loudness(picture: Array) -> Array:
    """The noise of pictures (..., H, W) in units of 0.0063, at least 1, (...)."""
    xp = array_module(picture)
    return xp.maximum(noise_sigma(picture) / QUIET, 1).astype(picture.dtype)


def quieten(picture: Array, loud: Array) -> Array:
    """Pictures (..., H, W) divided by their `loudness` (...): every lambda counts as times its square then.

    Noise of sigma needs a weight that grows with sigma^2. As |x * k - B|^2 + lambda |grad x|_0 knows no unit, dividing
    the picture by s is the same as a lambda s^2 times as large, and lets a stack of pictures share one continuation.
    """
    return picture / loud[..., None, None]
