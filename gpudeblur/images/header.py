"""The shape and the dtype of an image file, from its header: for plans over many files, which read no pixels."""

from __future__ import annotations

import stat
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tifffile
from PIL import Image

from .decoding import BoundedFile
from .formats import find_format
from .metadata import ORIENTATION, as_orientation
from .stored_file import StoredFile

# Of the formats that Pillow reads, its name for each.
_PLUGINS = {
    "PNG": "PNG", "JPEG": "JPEG", "WebP": "WEBP", "BMP": "BMP", "GIF": "GIF", "JPEG 2000": "JPEG2000", "AVIF": "AVIF"
}  # fmt: skip
_COLORS = {"1": 1, "L": 1, "LA": 1, "I;16": 1, "I;16B": 1, "I;16L": 1}  # by mode of Pillow; others have 3


class Header(NamedTuple):
    """(height, width, colors) of the upright image, without opacity, and the dtype of a channel."""

    shape: tuple[int, int, int]
    dtype: str


def read_header(path: Path | StoredFile) -> Header | None:
    """What `read_image` will return of a file, as far as its header says so.

    None of a file that cannot be read, whose error is that of `read_image`, and of HEIC, camera raw and FITS files.
    More than 8 bits of JPEG 2000 and AVIF are not seen.
    """
    try:
        if isinstance(path, Path) and not stat.S_ISREG(path.stat().st_mode):  # opening a pipe may never end
            return None
        with path.open() if isinstance(path, StoredFile) else BoundedFile(path) as file:
            head = file.read(32)
            file.seek(0)
            name = find_format(path, head).name
            if name == "TIFF":
                return _of_tiff(file)
            if name not in _PLUGINS:
                return None
            Image.init()
            with Image.OPEN[_PLUGINS[name]][0](file, "") as image:
                (width, height), colors = image.size, _COLORS.get(image.mode, 3)
                is_deep = image.mode.startswith("I;16") or (name == "PNG" and head[24] > 8)
                turned = as_orientation(image.getexif().get(ORIENTATION, 1)) > 4
        return _header(height, width, colors, "uint16" if is_deep else "uint8", turned)
    except Exception:  # noqa: BLE001 - decoders meet nonsense with errors of any type; `read_image` says what is wrong
        return None


def _of_tiff(file: Any) -> Header:
    with tifffile.TiffFile(file) as tiff:
        page: Any = tiff.pages[0]
        colors = 1 if page.samplesperpixel < 3 and page.photometric != tifffile.PHOTOMETRIC.PALETTE else 3
        turned = as_orientation(page.tags.valueof(ORIENTATION, default=1)) > 4
        return _header(int(page.imagelength), int(page.imagewidth), colors, np.dtype(page.dtype).name, turned)


def _header(height: int, width: int, colors: int, dtype: str, turned: bool) -> Header:
    return Header((width, height, colors) if turned else (height, width, colors), dtype)
