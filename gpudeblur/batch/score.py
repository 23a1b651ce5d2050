"""How likely pictures are blurred, by the classifier of the package, and how strongly. For `gpudeblur score`."""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..images.files import read_image
from ..images.planes import luminance, to_planes
from ..images.stored_file import StoredFile
from ..images.white import assess_white
from ..numerics.resample import resample, scaled_shape
from ..priors.learned import DiscriminativePrior
from .messages import in_options

MAX_PIXELS = 2**20  # larger pictures are reduced to so many
REDUCTION_STEP = math.sqrt(2)
MIN_SIDE = 16  # pixels of the smallest picture that is classified; training began at 16


@dataclass(frozen=True)
class Score:
    """One row of the report of `gpudeblur score`.

    `blurred` is the probability that the picture is blurred, at a megapixel at most. `reduction` is how strongly: the
    smallest factor by which the picture must be reduced to count as sharp, in steps of the square root of 2 from the
    size that was looked at; None where it never does.
    """

    source: str
    status: str  # "scored", "failed" or "left out"
    blurred: float | None = None
    reduction: float | None = None
    error: str = ""
    reason: str = ""  # of what is left out


@functools.cache
def _classifier() -> DiscriminativePrior:
    return DiscriminativePrior()


def blur_probabilities(pixels: np.ndarray, *, white: Any = None) -> Iterator[tuple[float, float]]:
    """(reduction, probability that the picture is blurred at this size), from the largest size on, one by one.

    Parameters
    ----------
    pixels : (H, W) or (H, W, C) array in display values, of any dtype of `read_image`; what is not finite counts as 0.
    white : as in `assess_white`.
    """
    axis = -1 if pixels.ndim == 3 else None
    if pixels.dtype.kind == "f":
        pixels = np.nan_to_num(pixels, posinf=0, neginf=0)
    level, _ = assess_white(pixels, white, channel_axis=axis)
    planes = to_planes(pixels, channel_axis=axis, dtype="float32", white=float(level))
    gray = np.clip(planes if axis is None else luminance(planes), 0, 1)
    reduction = max(1.0, math.sqrt(gray.size / MAX_PIXELS))
    while True:
        shape = scaled_shape(gray.shape, 1 / reduction)
        if min(shape) < MIN_SIDE and reduction > 1:
            return
        yield reduction, float(_classifier().probability(resample(gray, shape)))
        reduction *= REDUCTION_STEP


def blur_probability(path: Path | StoredFile, *, white: Any = None) -> float:
    """The probability that the picture of a file is blurred.

    Raises
    ------
    OSError, ValueError
        As `read_image`; or `white` is not the picture's.
    ImportError
        PyTorch is missing.
    """
    return next(blur_probabilities(read_image(path).pixels, white=white))[1]


def blur_of(pixels: np.ndarray, threshold: float) -> tuple[float, float | None]:
    """(probability that the picture is blurred, smallest reduction at which it is below `threshold`, None: never)."""
    sizes = blur_probabilities(pixels)
    _, blurred = largest = next(sizes)
    sharp = (reduction for reduction, probability in itertools.chain([largest], sizes) if probability < threshold)
    return blurred, next(sharp, None)


def score_picture(path: Path | StoredFile, threshold: float) -> Score:
    """The row of a file; an error of the file is its row, too.

    Raises
    ------
    ImportError
        PyTorch is missing.
    """
    try:
        blurred, reduction = blur_of(read_image(path).pixels, threshold)
    except ImportError:
        raise
    except Exception as error:  # noqa: BLE001 - whatever one file raises is its row
        return Score(str(path), "failed", error=in_options(error).replace("\n", " ") or type(error).__name__)
    return Score(str(path), "scored", blurred, reduction)
