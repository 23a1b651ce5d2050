"""Pixels interpolated from those around them."""

from __future__ import annotations

import numpy as np

from .arrays import Array, array_module

SMOOTHING_STEPS = 12  # at each scale
NARROW = 3  # pixels
LARGE = 1 << 22  # pixels, from which on NumPy planes are interpolated one by one, as some twenty arrays are in use


def inpaint(image: Array, mask: Array) -> Array:
    """`image` (..., H, W) where `mask` is True, elsewhere a smooth interpolation of these pixels.

    Across up to NARROW pixels it is linear, along rows, columns or both, so that a lost line keeps what varies along
    it. Elsewhere it is nearly harmonic, coarse to fine: each scale starts from the coarser one and is smoothed. The
    values under ~mask are not read. An image that is valid everywhere is unchanged; without any valid pixel it becomes
    0.
    """
    xp = array_module(image, mask)
    if xp is np and image.ndim > 2 and image.size > LARGE:
        planes = zip(image, np.broadcast_to(mask, image.shape), strict=True)
        return np.stack([inpaint(plane, plane_mask) for plane, plane_mask in planes])
    values, valid = xp.where(mask, image, 0), mask.astype(image.dtype)
    narrow, weight = _across_narrow(values, valid)
    if xp is np and bool((mask | (weight > 0)).all()):  # hot pixels and lines; CuPy would have to wait
        return np.where(mask, image, narrow)
    filled = xp.where(weight > 0, narrow, _interpolate(values, valid))
    return xp.where(mask, image, filled)


def _across_narrow(values: Array, valid: Array) -> tuple[Array, Array]:
    """Linear interpolations across up to NARROW pixels and the sum of their weights, 1 / distance^2; 0 elsewhere."""
    xp, total, weights = array_module(values, valid), 0 * values, 0 * values
    for axis in (-2, -1):
        ends = []
        for direction in (1, -1):
            value, distance = 0 * values, 0 * values  # of the nearest valid pixel; 0: none is near
            for step in range(NARROW, 0, -1):
                shifted_valid = _shifted(valid, direction * step, axis)
                value = xp.where(shifted_valid > 0, _shifted(values, direction * step, axis), value)
                distance = xp.where(shifted_valid > 0, step, distance)
            ends.append((value, distance))
        (before, to_before), (after, to_after) = ends
        span = to_before + to_after
        crosses = (to_before > 0) & (to_after > 0) & (span <= NARROW + 1)
        weight = xp.where(crosses, 1 / xp.maximum(span, 1) ** 2, 0)
        total += weight * (to_after * before + to_before * after) / xp.maximum(span, 1)
        weights += weight
    return total / xp.where(weights > 0, weights, 1), weights


def _shifted(image: Array, step: int, axis: int) -> Array:
    """`image` moved by `step` pixels along an axis, with 0 where it comes in."""
    xp, n = array_module(image), image.shape[axis]
    result = xp.zeros_like(image)
    moved, whole = (result, image) if axis == -1 else (result.swapaxes(-2, -1), image.swapaxes(-2, -1))
    if abs(step) < n:
        moved[..., max(0, step) : n + min(0, step)] = whole[..., max(0, -step) : n - max(0, step)]
    return result


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
