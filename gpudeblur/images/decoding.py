"""What the readers of image files share: their result, their errors, and the limit of the size of an image."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from .metadata import NO_METADATA, Metadata
from .stored_file import StoredFile


@dataclass(frozen=True, eq=False)
class Decoded:
    """The image of a file, not yet upright.

    Attributes
    ----------
    pixels : (H, W) or (H, W, C) array
        1 or 3 colors, and then opacity if `has_alpha`.
    orientation : int
        Of EXIF, 1 to 8.
    """

    pixels: np.ndarray
    has_alpha: bool = False
    orientation: int = 1
    metadata: Metadata = NO_METADATA


class ImageError(ValueError):
    """A file that is not an image that can be read; the message names it."""


class BoundedFile(io.BufferedReader):
    """A file opened for reading, of which no more is asked than it has: `read` makes room for all that it is asked."""

    def __init__(self, path: Path) -> None:
        super().__init__(io.FileIO(path))
        self.size = os.fstat(self.fileno()).st_size

    def read(self, size: int | None = -1, /) -> bytes:
        return super().read(size if size is None or size < 0 else min(size, max(0, self.size - self.tell())))


@contextmanager
def decoding(path: Path | StoredFile) -> Iterator[None]:
    """Turn all errors of a decoder into one that names the file. Decoders meet nonsense with errors of any type."""
    try:
        yield
    except ImageError:
        raise
    except MemoryError as why:
        raise MemoryError(f"{path} needs more memory than there is; reduce it") from why
    except Exception as why:
        raise ImageError(damaged(path, str(why) or type(why).__name__)) from why


def damaged(path: Path | StoredFile, why: object) -> str:
    return f"{path} is damaged or truncated and cannot be read ({why}); get a fresh copy"


def check_page(path: Path | StoredFile, page: int | None, count: int) -> None:
    """Raise unless `page` is a number of a page of a file, or the file has a single one."""
    if page is None and count > 1:
        raise ImageError(
            f"{path} must hold one picture, got {count} pages; save the one to use by itself, or in Python "
            "name it: read_image(path, page=0)"
        )
    if page is not None and not 0 <= page < count:
        raise ImageError(f"page must be 0 to {count - 1} for {path}, got {page}; the first is 0")


def check_size(path: Path | StoredFile, width: int, height: int) -> None:
    """Raise if an image has more pixels than `PIL.Image.MAX_IMAGE_PIXELS`, before it is decoded."""
    limit = Image.MAX_IMAGE_PIXELS
    if limit is not None and width * height > limit:
        raise ImageError(
            f"{path} must not hold more than {limit} pixels (it may be a decompression bomb), got {width} x {height} "
            f"= {width * height}; crop or reduce it, or raise PIL.Image.MAX_IMAGE_PIXELS if you trust it"
        )


def fill_range(pixels: np.ndarray, depth: int) -> np.ndarray:
    """Unsigned integers of `depth` bits, scaled to the full range of their dtype."""
    if pixels.dtype.kind != "u" or depth >= 8 * pixels.itemsize:
        return pixels
    return (pixels * (np.iinfo(pixels.dtype).max / (2**depth - 1))).round().astype(pixels.dtype)
