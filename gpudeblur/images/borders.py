"""Constant borders of pictures: letterbox bars, frames of screenshots, rows and columns that a sensor left out."""

from __future__ import annotations

import numpy as np

from ..numerics.arrays import Array, array_module

MIN_WIDTH = 2  # lines
# A border's values differ by less than this fraction of the picture's range. Within it lies the picture: from the
# border's last line to the next, at least so many pixels change by more than a fraction of the range, as no blurred
# edge does.
TOLERANCE, STEP, STEP_SHARE = 0.01, 0.04, 0.5


def border_profiles(values: Array) -> list[Array]:
    """What `inside_borders` must know of images (n, C, H, W): their range, and three profiles along each axis."""
    xp = array_module(values)
    low, high = values.min(axis=-1), values.max(axis=-1)  # of each row
    span = high.max(axis=-1) - low.min(axis=-1)
    limit = STEP * span[..., None, None]
    arrays = [span, low, high, (abs(xp.diff(values, axis=-2)) > limit).mean(axis=-1)]
    arrays += [values.min(axis=-2), values.max(axis=-2), (abs(xp.diff(values, axis=-1)) > limit).mean(axis=-2)]
    return [array.astype(np.float64) for array in arrays]


def border_windows(span: np.ndarray, *profiles: np.ndarray) -> np.ndarray | None:
    """What lies inside the constant borders of images, (n, 4): first and end row, first and end column.

    From their `border_profiles`; None if none has a border.

    A border is at least MIN_WIDTH lines of one value at a side, less than half of the picture, that ends in a step: the
    even margin of a page or a black sky goes over into the picture and is no border.
    """
    tolerance = TOLERANCE * span[..., None]
    height, width = profiles[0].shape[-1], profiles[3].shape[-1]
    ends = [
        _widths(low[..., ::direction], high[..., ::direction], step[..., ::direction], tolerance)
        for low, high, step in (profiles[:3], profiles[3:])
        for direction in (1, -1)
    ]
    if not np.any(ends):
        return None
    top, bottom, left, right = ends
    return np.stack([top, height - bottom, left, width - right], axis=1)


def inside(windows: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Where images of a `shape` (H, W) lie inside their `border_windows`, bool (n, H, W)."""
    rows, columns = (np.arange(n) for n in shape)
    top, bottom, left, right = windows.T[..., None]
    return ((rows >= top) & (rows < bottom))[:, :, None] & ((columns >= left) & (columns < right))[:, None]


def _widths(low: np.ndarray, high: np.ndarray, step: np.ndarray, tolerance: np.ndarray) -> np.ndarray:
    """Lines of the borders (n,) at the beginning of lines (n, C, length), of which these are the extreme values."""
    first = low[..., :1]
    constant = (np.maximum(abs(high - first), abs(low - first)) <= tolerance).all(axis=1)
    widths = constant.argmin(axis=-1)  # 0 as well if all lines are constant
    steps = step.mean(axis=1)[np.arange(len(widths)), widths - 1]
    is_border = (widths >= MIN_WIDTH) & (widths < constant.shape[-1] / 2) & (steps >= STEP_SHARE)
    return np.where(is_border, widths, 0)
