"""Saturated pixels: where the sensor was at the top of its range."""

from __future__ import annotations

from ..numerics.arrays import Array, array_module

# Of full scale: a plateau has three pixels of 3 x 3 at the first, noise lets the others fall to the second.
PLATEAU, PLATEAU_NOISY = 0.99, 0.95
# Values above full scale by more than rounding: this picture knows no top.
HEADROOM = 1e-3


def find_saturated(picture: Array) -> Array:
    """Where pictures (..., H, W) in [0, 1] stand at the top of their range, bool.

    There a pixel is at least 0.95, and at least three of the nine about it and itself are at least 0.99: a single hot
    pixel is no plateau. A picture with values over 1 is not clipped at 1.
    """
    xp = array_module(picture)
    top = xp.pad((picture >= PLATEAU).astype(xp.int8), [(0, 0)] * (picture.ndim - 2) + [(1, 1), (1, 1)])
    rows = top[..., :-2, :] + top[..., 1:-1, :] + top[..., 2:, :]
    count = rows[..., :-2] + rows[..., 1:-1] + rows[..., 2:]
    bounded = picture.max(axis=(-2, -1), keepdims=True) <= 1 + HEADROOM
    return (count >= 3) & (picture >= PLATEAU_NOISY) & bounded
