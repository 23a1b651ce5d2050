"""EXIF data: the focal length that a camera wrote into a photograph, and the gamma in the file of a kernel."""

from __future__ import annotations

import math
import os

# Tags of EXIF: the part with the camera's settings, and the focal length in mm on a film of 36 mm x 24 mm.
_CAMERA_PART, _FOCAL_LENGTH_35MM = 0x8769, 0xA405
_GAMMA = 0xA500
FILM_WIDTH = 36.0  # mm


def focal_in_pixels(path: str | os.PathLike[str]) -> float | None:
    """f35 / 36 * the longer side, in pixels, from the 35 mm equivalent in a file's EXIF data; None where there is none.

    It is wrong for a photograph that was cropped after it was taken.
    """
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(path) as image:
            value = image.getexif().get_ifd(_CAMERA_PART).get(_FOCAL_LENGTH_35MM)
            longer = max(image.size)
    except (OSError, UnidentifiedImageError, ValueError, SyntaxError):  # a format that Pillow does not read
        return None
    try:
        focal = float(value) / FILM_WIDTH * longer  # type: ignore[arg-type]
    except (TypeError, ValueError, ZeroDivisionError):
        return None
    return focal if focal > 0 and math.isfinite(focal) else None


def exif_of_gamma(gamma: float) -> bytes:
    """EXIF data with this gamma."""
    from PIL import Image

    exif = Image.Exif()
    exif.get_ifd(_CAMERA_PART)[_GAMMA] = float(gamma)
    return exif.tobytes().removeprefix(b"Exif\0\0")


def gamma_of_exif(data: bytes | None) -> float | None:
    """The gamma in EXIF data, or None."""
    from PIL import Image

    exif = Image.Exif()
    exif.load(data or b"")
    value = exif.get_ifd(_CAMERA_PART).get(_GAMMA)
    return None if value is None else float(value)
