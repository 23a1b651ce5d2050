"""Reading of TIFF files, by tifffile, with the checks that it leaves to its callers.

It lists directories for as long as they point at another, reads missing strips as black, follows OME metadata into
other files, and decodes a stream to the size that the stream says.
"""

from __future__ import annotations

import io
import math
import os
import struct
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import tifffile
from PIL import Image

from .decoding import Decoded, ImageError, check_page, check_size, damaged, decoding, fill_range
from .metadata import metadata_of_tiff
from .planes import from_planes, to_planes
from .profiles import cmyk_to_srgb
from .stored_file import StoredFile

MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
MAX_DIRECTORIES = 4096
# Compressions whose output is bounded by what the directory says: none, CCITT, LZW, deflate, PackBits, LZMA, Zstandard.
_BOUNDED = (1, 2, 3, 4, 5, 8, 32773, 32946, 34925, 50000)
# Those of streams with a size of their own, by the format that Pillow names them with.
_STREAMS = {
    **dict.fromkeys((6, 7, 34892), "JPEG"),
    **dict.fromkeys((33003, 33004, 33005, 34712), "JPEG2000"),
    34933: "PNG",
    **dict.fromkeys((34927, 50001), "WEBP"),
}


def read_tiff(path: Path | StoredFile, file: BinaryIO, page: int | None = None) -> Decoded:
    """The picture of a TIFF file: the only one but for thumbnails, or that of a number, from 0.

    Raises
    ------
    ValueError
        As `files.read_image`.
    """
    with decoding(path):
        pictures, count = _pictures(path, file)
        check_page(path, page, len(pictures))
        file.seek(0)
        tiff = tifffile.TiffFile(file)
        directory: Any = tiff.pages[pictures[page or 0]]
        _check_layout(path, tiff, directory, count)
        metadata, orientation = metadata_of_tiff(directory, file)
        _check_segments(path, file, directory)
        pixels = directory.asarray(maxworkers=1)
        if directory.axes == "SYX":
            pixels = np.moveaxis(pixels, 0, -1)
        pixels, has_alpha, icc = _colors(pixels, directory, metadata.icc)
    if icc is not metadata.icc:
        metadata = type(metadata)(icc, metadata.exif, metadata.xmp, metadata.dpi)
    return Decoded(pixels, has_alpha, orientation, metadata)


def _pictures(path: Path | StoredFile, file: BinaryIO) -> tuple[list[int], int]:
    """The numbers of the directories that are not thumbnails (bit 0 of NewSubfileType), and how many there are."""
    head = file.read(16)
    order, is_big = ("<" if head[:2] == b"II" else ">"), head[2:4] in (b"+\0", b"\0+")
    count_format, offset_format, entry = ("Q", "Q", 20) if is_big else ("H", "I", 12)
    (at,) = struct.unpack_from(order + offset_format, head, 8 if is_big else 4)
    seen: set[int] = set()
    pictures = []
    while at:
        if at in seen or len(seen) >= MAX_DIRECTORIES:
            raise ImageError(damaged(path, "its directories do not end"))
        file.seek(at)
        (count,) = struct.unpack(order + count_format, file.read(struct.calcsize(count_format)))
        if count > 4096:
            raise ImageError(damaged(path, f"a directory of {count} tags"))
        entries = file.read(entry * count)
        is_thumbnail = False
        for start in range(0, len(entries) - entry + 1, entry):
            if struct.unpack_from(order + "H", entries, start) == (254,):
                value = start + entry - (8 if is_big else 4)
                is_thumbnail = bool(struct.unpack_from(order + "I", entries, value)[0] & 1)
        if not is_thumbnail:
            pictures.append(len(seen))
        seen.add(at)
        end = file.read(struct.calcsize(offset_format))
        # The last offset may be cut off, as other programs accept.
        at = struct.unpack(order + offset_format, end)[0] if len(end) == struct.calcsize(offset_format) else 0
    if not pictures:
        raise ImageError(damaged(path, "it has no directory of a picture"))
    return pictures, len(seen)


def _check_layout(path: Path | StoredFile, tiff: Any, page: Any, count: int) -> None:
    """Raise unless a directory holds one gray, RGB or CMYK picture, perhaps with alpha, of a size that is allowed."""
    sides = [(int(page.imagewidth), int(page.imagelength)), (int(page.tilewidth), int(page.tilelength))]
    for width, height in sides:  # a tile may be larger than the image, and is decoded as a whole
        check_size(path, width, height)
    images = 1
    if tiff.is_imagej:
        images = int((tiff.imagej_metadata or {}).get("images", 1))
    elif tiff.is_shaped and count == 1:
        images = math.prod((tiff.shaped_metadata or [{}])[0].get("shape", page.shape)) // max(1, math.prod(page.shape))
    if images > 1 or page.axes not in ("YX", "YXS", "SYX"):
        raise ImageError(
            f"{path} must hold one picture, got {images} of {page.shape} (axes {page.axes}); save the one to use by "
            "itself"
        )
    color, samples, extra = tifffile.PHOTOMETRIC, page.samplesperpixel, page.extrasamples
    colors = _color_count(page)
    if colors is None:
        kind = getattr(page.photometric, "name", page.photometric)
        way_out = "give it a colour profile, or convert it" if page.photometric == color.SEPARATED else "convert it"
        raise ImageError(f"{path} must be gray or RGB, got colour space {kind}; {way_out} to RGB first")
    if page.photometric == color.MINISWHITE and page.dtype.kind not in "bu":
        raise ImageError(
            f"{path} must have unsigned integers where 0 is white (WhiteIsZero), got {page.dtype}, whose black is not "
            "defined; save it with 0 as black"
        )
    names = "1 channel" if colors == 1 else f"{colors} channels"
    if samples - colors not in (0, 1):
        raise ImageError(f"{path} must have {names} and perhaps alpha, got {samples}; save the ones to use alone")
    alpha = (tifffile.EXTRASAMPLE.ASSOCALPHA, tifffile.EXTRASAMPLE.UNASSALPHA)
    if samples > colors and (not extra or extra[0] not in alpha):
        raise ImageError(
            f"{path} must have {names} and perhaps alpha, got {samples}, of which the last is not said to be alpha "
            "(ExtraSamples); save the ones to use alone"
        )


def _color_count(page: Any) -> int | None:
    """1, 3 or 4 (CMYK with a profile) colors, or None for a color space that is not read."""
    color = tifffile.PHOTOMETRIC
    if page.photometric in (color.MINISWHITE, color.MINISBLACK, color.PALETTE):
        return 1
    # JPEG streams are decoded to RGB.
    if page.photometric == color.RGB or (page.photometric == color.YCBCR and page.compression in (6, 7, 34892)):
        return 3
    is_cmyk = page.photometric == color.SEPARATED and page.dtype == np.uint8 and page.axes == "YXS"
    return 4 if is_cmyk and page.tags.valueof(34675) else None


def _check_segments(path: Path | StoredFile, file: BinaryIO, page: Any) -> None:
    """Raise unless every strip or tile is in the file, and none is decoded to more than its size."""
    expected, offsets, counts = math.prod(page.chunked), page.dataoffsets, page.databytecounts
    if not len(offsets) == len(counts) == expected:
        raise ImageError(damaged(path, f"{min(len(offsets), len(counts))} of {expected} strips or tiles"))
    if min(offsets) <= 0 or min(counts) <= 0:
        raise ImageError(damaged(path, "strips or tiles are missing"))
    size, end = file.seek(0, os.SEEK_END), max(map(sum, zip(offsets, counts, strict=True)))
    if end > size:
        raise ImageError(damaged(path, f"it has {size} of {end} bytes"))
    compression = int(page.compression)
    if compression in _BOUNDED:
        return
    if compression not in _STREAMS:
        name = getattr(page.compression, "name", compression)
        raise ImageError(f"{path} has the compression {name}, which is not read; save it with LZW, deflate or none")
    kind = _STREAMS[compression]
    width, height = page.chunks[-3:-1] if page.axes == "YXS" else page.chunks[-2:]
    Image.init()
    for offset, count in zip(offsets, counts, strict=True):
        file.seek(offset)
        with Image.OPEN[kind][0](io.BytesIO(file.read(count)), "") as stream:
            if stream.size[0] * stream.size[1] > 4 * width * height + 65536:  # tables in JPEG may pad
                raise ImageError(damaged(path, f"a stream of {stream.size} in a strip or tile of {width} x {height}"))


def _colors(pixels: np.ndarray, page: Any, icc: bytes | None) -> tuple[np.ndarray, bool, bytes | None]:
    """Gray or RGB from the samples of a directory, whether alpha is behind them, and their ICC profile."""
    color, depth, has_alpha = tifffile.PHOTOMETRIC, page.bitspersample, page.samplesperpixel > (_color_count(page) or 0)
    if page.photometric == color.PALETTE and page.colormap is not None:
        return (np.moveaxis(page.colormap[:, pixels], 0, -1) >> 8).astype(np.uint8), False, icc
    if page.photometric == color.SEPARATED and icc is not None:
        image, icc = cmyk_to_srgb(Image.fromarray(np.ascontiguousarray(pixels[..., :4]), "CMYK"), icc)
        rgb = np.asarray(image)
        return np.concatenate([rgb, pixels[..., 4:]], axis=2), has_alpha, icc
    if pixels.dtype == bool:
        pixels = pixels.astype(np.uint8)
    if isinstance(depth, int):
        pixels = fill_range(pixels, depth)
    if page.photometric == color.MINISWHITE and pixels.dtype.kind == "u":
        pixels = np.iinfo(pixels.dtype).max - pixels
    if has_alpha and page.extrasamples[0] == tifffile.EXTRASAMPLE.ASSOCALPHA:
        pixels = _divide_by_alpha(pixels)
    return pixels, has_alpha, icc


def _divide_by_alpha(pixels: np.ndarray) -> np.ndarray:
    """The colors of an image that was stored multiplied by alpha; black where alpha is 0."""
    planes = to_planes(pixels, channel_axis=-1, dtype=np.float64)
    alpha = planes[-1]
    np.divide(planes[:-1], alpha, out=planes[:-1], where=alpha > 0)
    return from_planes(planes, pixels, channel_axis=-1)
