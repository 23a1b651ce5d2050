"""Pictures side by side with their kernels, labelled, as one picture to look at."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from typing import Any

import numpy as np

from ..numerics.arrays import Array, to_host
from .files import write_image
from .kernel_field import KernelField, show_kernels

GAP, LABEL_HEIGHT = 8, 24  # px
MIN_SIDE, MAX_SIDE = 200, 1600  # px: shorter pictures are enlarged, longer ones reduced
KERNEL_FRACTION = 0.4  # of the height of the pictures, a kernel's side


def side_by_side(
    pictures: Mapping[str, Array], kernels: Mapping[str, Array] | None = None, *, white: float | None = None
) -> np.ndarray:
    """One picture (H, W, 3) uint8: the `pictures` in a row, the `kernels` in a column beside them, each with its name.

    Parameters
    ----------
    pictures : (h, w) or (h, w, 3) arrays of one height and width, by their names.
    kernels : (kh, kw) arrays by their names; the maximum of each is white.
    white : the value of full scale. None: the largest of an integer type, 1 for floats.
    """
    panels = [(name, _resized(to_levels(to_host(picture), white))) for name, picture in pictures.items()]
    height = panels[0][1].shape[0]
    columns = [_column([panel]) for panel in panels]
    if kernels:
        side = max(MIN_SIDE // 2, round(KERNEL_FRACTION * height))
        columns.append(_column([(name, _enlarged(to_host(kernel), side)) for name, kernel in kernels.items()]))
    rows = max(column.shape[0] for column in columns)
    return np.concatenate([np.pad(c, ((0, rows - len(c)), (0, 0), (0, 0)), constant_values=255) for c in columns], 1)


def write_comparison(
    path: str | os.PathLike[str], blurred: Array, image: Array, kernel: KernelField | Array | None, white: Any = None
) -> None:
    """Write a picture, its result and the kernel, or the kernels of a field, side by side.

    `white` is the value of full scale of `blurred`, if it is a number; at most 1, it is that of floats alone.
    """
    kernels: dict[str, Array] = {}
    if isinstance(kernel, KernelField):
        kernels = {"kernels": show_kernels(kernel)}
    elif kernel is not None:
        kernels = {"kernel": kernel}
    is_number = isinstance(white, int | float) and (blurred.dtype.kind == "f" or white > 1)
    write_image(path, side_by_side({"blurred": blurred, "result": image}, kernels, white=white if is_number else None))


def to_levels(picture: np.ndarray, white: float | None) -> np.ndarray:
    """uint8 (h, w, 3) of a picture (h, w) or (h, w, 3), to look at."""
    if white is None:
        white = float(np.iinfo(picture.dtype).max) if picture.dtype.kind in "iu" else 1.0
    levels = np.round(np.clip(np.nan_to_num(picture.astype(np.float32)) * (255 / white), 0, 255)).astype(np.uint8)
    return levels if levels.ndim == 3 else np.repeat(levels[..., None], 3, axis=2)


def _resized(levels: np.ndarray) -> np.ndarray:
    """The picture at a size to look at; pixels of small ones become squares."""
    from PIL import Image

    longer = max(levels.shape[:2])
    if longer > MAX_SIDE:
        height, width = (max(1, round(side * MAX_SIDE / longer)) for side in levels.shape[:2])
        return np.asarray(Image.fromarray(levels).resize((width, height), Image.Resampling.LANCZOS))
    factor = math.ceil(MIN_SIDE / longer)
    return levels.repeat(factor, axis=0).repeat(factor, axis=1)


def _enlarged(kernel: np.ndarray, side: int) -> np.ndarray:
    """The kernel, its pixels as squares, about as high or wide as `side`."""
    factor = max(1, side // max(kernel.shape))
    return to_levels(kernel / float(kernel.max()), None).repeat(factor, axis=0).repeat(factor, axis=1)


def _column(panels: list[tuple[str, np.ndarray]]) -> np.ndarray:
    """Panels one below the other, on white, each under its name."""
    from PIL import Image, ImageDraw, ImageFont

    font = ImageFont.load_default(14)
    width = max(*(levels.shape[1] for _, levels in panels), *(math.ceil(font.getlength(name)) for name, _ in panels))
    sheet = Image.new(
        "RGB", (width + 2 * GAP, sum(len(levels) + LABEL_HEIGHT + GAP for _, levels in panels)), (255, 255, 255)
    )
    draw, top = ImageDraw.Draw(sheet), 0
    for name, levels in panels:
        draw.text((GAP, top + 3), name, (0, 0, 0), font)
        sheet.paste(Image.fromarray(levels), (GAP, top + LABEL_HEIGHT))
        top += LABEL_HEIGHT + len(levels) + GAP
    return np.asarray(sheet)
