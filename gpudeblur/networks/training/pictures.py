"""Folders of sharp pictures to train on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ...images.checks import check_picture
from ...images.files import PICTURE_SUFFIXES, read_image
from ...images.planes import to_planes


@dataclass(frozen=True, eq=False)
class Pictures:
    """The usable pictures of a folder, in the order of their names.

    Attributes
    ----------
    path : the folder.
    images : what was made of each picture.
    skipped : (file name, reason) of the other pictures.
    """

    path: Path
    images: list[Any]
    skipped: list[tuple[str, str]]


def read_folder(path: Path, convert: Callable[[np.ndarray], Any], *, limit: slice = slice(None)) -> Pictures:
    """All pictures of a folder; unusable ones are listed with the reason. A folder without any usable one is an error.

    Parameters
    ----------
    convert : from planes (H, W) or (3, H, W) float32, linear in [0, 1], to what is kept. A ValueError skips the
        picture; its message is the reason.
    limit : which of the files, in the order of their names.
    """
    path = Path(path)
    if not path.is_dir():
        raise NotADirectoryError(f"folder of sharp pictures {path} is not a folder; check its name")
    files = sorted(file for file in path.iterdir() if file.suffix.lower() in PICTURE_SUFFIXES)[limit]
    if not files:
        raise ValueError(f"folder {path} must hold pictures ({', '.join(PICTURE_SUFFIXES)}), got none")
    pictures = Pictures(path, [], [])
    for file in files:
        try:
            pixels = read_image(file).pixels
            axis = -1 if pixels.ndim == 3 else None
            check_picture(pixels, channel_axis=axis)
            pictures.images.append(convert(to_planes(pixels, channel_axis=axis, dtype="float32")))
        except (OSError, ValueError, TypeError) as error:
            pictures.skipped.append((file.name, str(error)))
    if not pictures.images:
        name, reason = pictures.skipped[0]
        raise ValueError(f"folder {path} must hold usable pictures, none of {len(files)} is; {name}: {reason}")
    return pictures


def check_sides(planes: np.ndarray, smallest: int) -> None:
    """Refuse planes (..., H, W) with a side below `smallest` pixels."""
    height, width = planes.shape[-2:]
    if min(height, width) < smallest:
        raise ValueError(f"{height} x {width} pixels, less than {smallest}")
