"""Pixels interpolated from those around them."""

from __future__ import annotations

from .arrays import Array, array_module

SMOOTHING_STEPS = 12  # at each scale


def inpaint(image: Array, mask: Array) -> Array:
    """`image` (..., H, W) where `mask` is True, elsewhere a smooth, nearly harmonic interpolation of these pixels.

    Coarse to fine: each scale starts from the coarser one and is smoothed. The values under ~mask are not read. An
    image that is valid everywhere is unchanged; without any valid pixel it becomes 0.
    """
    xp = array_module(image, mask)
    return xp.where(mask, image, _interpolate(xp.where(mask, image, 0), mask.astype(image.dtype)))


def _interpolate(values: Array, valid: Array) -> Array:
    """`values` where `valid` is 1, and interpolated where it is 0; there `values` must be 0."""
    xp = array_module(values, valid)
    if max(values.shape[-2:]) == 1:
        return values
    weight = _halved(valid)
    coarse = _interpolate(_halved(values) / xp.where(weight > 0, weight, 1), (weight > 0).astype(values.dtype))
    h, w = values.shape[-2:]
    filled = xp.repeat(xp.repeat(coarse, 2, axis=-2), 2, axis=-1)[..., :h, :w]
    edges = [(0, 0)] * (values.ndim - 2) + [(1, 1), (1, 1)]
    for _ in range(SMOOTHING_STEPS):
        padded = xp.pad(xp.where(valid > 0, values, filled), edges, mode="edge")
        across = padded[..., 1:-1, :-2] + padded[..., 1:-1, 2:]
        filled = (across + padded[..., :-2, 1:-1] + padded[..., 2:, 1:-1]) / 4
    return xp.where(valid > 0, values, filled)


def _halved(image: Array) -> Array:
    """Means of 2 x 2 pixels; a last odd row or column counts twice."""
    xp, (h, w) = array_module(image), image.shape[-2:]
    even = xp.pad(image, [(0, 0)] * (image.ndim - 2) + [(0, h % 2), (0, w % 2)], mode="edge")
    rows = even[..., ::2, :] + even[..., 1::2, :]
    return (rows[..., ::2] + rows[..., 1::2]) / 4
