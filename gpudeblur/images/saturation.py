"""Saturated pixels: those where the sensor reached the top of its range."""

from __future__ import annotations

from ..numerics.arrays import Array, array_module

# Fractions of full scale. A saturated pixel is >= 0.95 and has at least three pixels >= 0.99 in its 3 x 3 neighborhood.
PLATEAU, PLATEAU_NOISY = 0.99, 0.95
MIN_PLATEAU_PIXELS = 3
DARK_SCENE = 0.3  # the mean of an image below which its scene is dark, as at night
# An image with larger values above 1 is not clipped at 1.
HEADROOM = 1e-3


def find_saturated(image: Array) -> Array:
    """Where images (..., H, W) in [0, 1] are saturated, bool; a single hot pixel is not."""
    xp = array_module(image)
    plateau = xp.pad((image >= PLATEAU).astype(xp.int8), [(0, 0)] * (image.ndim - 2) + [(1, 1), (1, 1)])
    rows = plateau[..., :-2, :] + plateau[..., 1:-1, :] + plateau[..., 2:, :]
    count = rows[..., :-2] + rows[..., 1:-1] + rows[..., 2:]
    is_clipped = image.max(axis=(-2, -1), keepdims=True) <= 1 + HEADROOM
    return (count >= MIN_PLATEAU_PIXELS) & (image >= PLATEAU_NOISY) & is_clipped
