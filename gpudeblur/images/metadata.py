"""What an image file says beside its pixels: ICC profile, EXIF, XMP and resolution, read and written again.

Pillow and tifffile carry them. EXIF is cleaned as it is read: its orientation is 1, as pixels are upright, and what
describes the old file (thumbnails, strips, camera raw data) is dropped. The orientation of XMP is 1 too.
"""

from __future__ import annotations

import io
import math
import re
import struct
from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np
import tifffile
from PIL import Image, TiffImagePlugin

from ..numerics.user_warnings import warn

ORIENTATION = 0x0112
_EXIF_PART, _GPS_PART, _INTEROP_PART = 0x8769, 0x8825, 0xA005
_X_RESOLUTION, _Y_RESOLUTION, _UNIT, _XMP, _ICC = 282, 283, 296, 700, 34675
_PIXEL_SIDES = (0xA002, 0xA003)
# The tags of the first directory that describe the photograph: description, make, model, software, date, artist, host,
# white point, primaries, rating, copyright, and Windows' title, comment, author, keywords and subject.
_ABOUT = (270, 271, 272, 305, 306, 315, 316, 318, 319, 18246, 18249, 33432, *range(40091, 40096))
_XMP_ORIENTATION = re.compile(rb"(tiff:Orientation\s*(?:=\s*[\"']|>)\s*)[2-8]")  # an attribute or an element
_JPEG_SEGMENT = 65533 - 29  # bytes, behind the longest header


@dataclass(frozen=True)
class Metadata:
    """What a file says beside its pixels; None is what it does not say.

    Attributes
    ----------
    icc : bytes or None
        ICC color profile. Without one, colors are taken for sRGB by most programs.
    exif : bytes or None
        EXIF data: a TIFF header and its directories, of orientation 1, without a thumbnail.
    xmp : bytes or None
        XMP packet, of orientation 1.
    dpi : (x, y) or None
        Pixels per inch.
    """

    icc: bytes | None = None
    exif: bytes | None = None
    xmp: bytes | None = None
    dpi: tuple[float, float] | None = None


NO_METADATA = Metadata()


def metadata_of_pillow(image: Image.Image) -> tuple[Metadata, int]:
    """The metadata of an image that Pillow opened, and its orientation; damaged EXIF data counts as none."""
    info = image.info
    try:
        exif = image.getexif()
        orientation = as_orientation(exif.get(ORIENTATION, 1))
        cleaned = cleaned_exif(exif, turned=orientation > 4)
    except Exception:  # noqa: BLE001 - of Pillow's parser; the pixels are not harmed
        exif, orientation, cleaned = Image.Exif(), 1, None
    xmp = info.get("xmp") or info.get("XML:com.adobe.xmp")
    # Pillow says 72 where EXIF data has no resolution.
    has_dpi = image.format not in ("JPEG", "MPO") or info.get("jfif_unit") in (1, 2) or _X_RESOLUTION in exif
    dpi = _as_dpi(info.get("dpi")) if has_dpi else None
    if dpi is not None and orientation > 4:
        dpi = dpi[::-1]
    return Metadata(_as_bytes(info.get("icc_profile")), cleaned, upright_xmp(xmp), dpi), orientation


def metadata_of_tiff(page: Any, file: BinaryIO) -> tuple[Metadata, int]:
    """The metadata of a directory of a TIFF file, as `tifffile` read it, and its orientation."""
    tags = page.tags
    orientation = as_orientation(tags.valueof(ORIENTATION, default=1))
    try:
        inches = {2: 1.0, 3: 2.54}[int(tags.valueof(_UNIT, default=2))]
        dpi = _as_dpi([inches * a / b for a, b in (tags.valueof(tag) for tag in (_X_RESOLUTION, _Y_RESOLUTION))])
    except (KeyError, TypeError, ValueError, ArithmeticError):  # absent, a ratio of the sides alone, or damaged
        dpi = None
    if dpi is not None and orientation > 4:
        dpi = dpi[::-1]
    exif, xmp = exif_of_tiff(file, turned=orientation > 4), upright_xmp(tags.valueof(_XMP))
    return Metadata(_as_bytes(tags.valueof(_ICC)), exif, xmp, dpi), orientation


def exif_of_tiff(file: BinaryIO, *, turned: bool = False) -> bytes | None:
    """`cleaned_exif` of the first directory of a TIFF file, or of a camera's raw file that is one inside."""
    exif = Image.Exif()
    try:
        file.seek(0)
        exif.load_from_fp(file)
        return cleaned_exif(exif, turned=turned)
    except Exception:  # noqa: BLE001 - of Pillow's parser; the pixels are not harmed
        return None


def exif_of_bytes(data: bytes | None) -> bytes | None:
    """`cleaned_exif` of EXIF data."""
    exif = Image.Exif()
    try:
        exif.load(data or b"")
        return cleaned_exif(exif)
    except Exception:  # noqa: BLE001 - of Pillow's parser; the pixels are not harmed
        return None


def cleaned_exif(exif: Image.Exif, *, turned: bool = False) -> bytes | None:
    """What EXIF data says of the photograph: None if nothing. `turned`: its sides are exchanged."""
    result = Image.Exif()
    for tag in _ABOUT:
        if tag in exif:
            result[tag] = exif[tag]
    for part in (_EXIF_PART, _GPS_PART):
        values = dict(exif.get_ifd(part))
        if turned and all(tag in values for tag in _PIXEL_SIDES):
            values[_PIXEL_SIDES[0]], values[_PIXEL_SIDES[1]] = (values[tag] for tag in _PIXEL_SIDES[::-1])
        if values:
            result.get_ifd(part).update(values)
    if not dict(result) and not any(result.get_ifd(part) for part in (_EXIF_PART, _GPS_PART)):
        return None
    result[ORIENTATION] = 1
    return result.tobytes().removeprefix(b"Exif\0\0")


def upright_xmp(value: Any) -> bytes | None:
    """An XMP packet whose orientation is 1, as that of EXIF data; None without one."""
    data = _as_bytes(value.encode() if isinstance(value, str) else value)
    return None if data is None else _XMP_ORIENTATION.sub(rb"\g<1>1", data)


def as_orientation(value: object) -> int:
    """An orientation of EXIF data, 1 to 8; anything else counts as 1."""
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def pillow_options(metadata: Metadata, channels: int, *, jpeg: bool) -> dict[str, Any]:
    """The options of `PIL.Image.Image.save` that write metadata; what a JPEG segment cannot hold is warned of."""
    parts = {
        "icc_profile": fitting_icc(metadata, channels),
        "exif": metadata.exif and b"Exif\0\0" + metadata.exif,
        "xmp": metadata.xmp,
    }
    options: dict[str, Any] = {}
    for name, data in parts.items():
        if jpeg and name != "icc_profile" and data is not None and len(data) > _JPEG_SEGMENT:
            warn(f"{name.upper()} data of {len(data)} bytes does not fit into a JPEG file and is left out")
        elif data:
            options[name] = data
    return options | ({} if metadata.dpi is None else {"dpi": metadata.dpi})


def fitting_icc(metadata: Metadata, channels: int) -> bytes | None:
    """The profile, if it is one of gray or of RGB as the channels (with or without alpha) are."""
    space = b"GRAY" if channels < 3 else b"RGB "
    return metadata.icc if metadata.icc is not None and metadata.icc[16:20] == space else None


def png_chunks(metadata: Metadata, channels: int) -> bytes:
    """The chunks of a PNG file, from behind IHDR, that hold metadata, as Pillow writes them."""
    options = pillow_options(metadata, channels, jpeg=False)
    xmp = options.pop("xmp", None)
    if xmp is not None:
        from PIL.PngImagePlugin import PngInfo

        options["pnginfo"] = PngInfo()
        options["pnginfo"].add_itxt("XML:com.adobe.xmp", xmp.decode("utf-8", "replace"))
    if not options:
        return b""
    buffer = io.BytesIO()
    Image.fromarray(np.zeros((1, 1), np.uint8)).convert("L" if channels < 3 else "RGB").save(buffer, "PNG", **options)
    data, at, chunks = buffer.getvalue(), 8, b""
    while at < len(data):
        end = at + 12 + struct.unpack_from(">I", data, at)[0]
        if data[at + 4 : at + 8] not in (b"IHDR", b"IDAT", b"IEND"):
            chunks += data[at:end]
        at = end
    return chunks


def tiff_options(metadata: Metadata, channels: int) -> dict[str, Any]:
    """The options of `tifffile.imwrite` that write metadata, but for what `add_exif_to_tiff` adds."""
    options: dict[str, Any] = {"iccprofile": fitting_icc(metadata, channels)}
    if metadata.dpi is not None:
        options |= {"resolution": metadata.dpi, "resolutionunit": tifffile.RESUNIT.INCH}
    extra: list[tuple[Any, ...]] = []
    if metadata.xmp:
        extra.append((_XMP, "B", len(metadata.xmp), metadata.xmp, True))
    exif = Image.Exif()
    exif.load(metadata.exif or b"")
    for tag in (270, 271, 272, 306, 315, 316, 33432):  # texts; Software is tifffile's own option
        if isinstance(exif.get(tag), str):
            extra.append((tag, "s", 0, exif[tag].encode("utf-8", "replace"), True))
    software = exif.get(305)
    return options | {"extratags": extra, "software": software if isinstance(software, str) else False}


def add_exif_to_tiff(data: bytes, metadata: Metadata) -> bytes:
    """A TIFF file of one directory with those of EXIF and GPS, which tifffile does not write, behind it.

    A copy of the file's directory, with two more tags that point at them, takes its place.
    """
    exif = Image.Exif()
    exif.load(metadata.exif or b"")
    parts = {part: dict(exif.get_ifd(part)) for part in (_EXIF_PART, _GPS_PART)}
    if not any(parts.values()):
        return data
    order = "<" if data[:2] == b"II" else ">"
    if struct.unpack_from(order + "H", data, 2) != (42,):
        warn("EXIF data does not fit behind a TIFF file of 4 GB and is left out")
        return data
    (at,) = struct.unpack_from(order + "I", data, 4)
    (count,) = struct.unpack_from(order + "H", data, at)
    entries = [data[start : start + 12] for start in range(at + 2, at + 2 + 12 * count, 12)]
    result = bytearray(data)
    header = data[:4] + bytes(4)
    for part, values in parts.items():
        values.pop(_INTEROP_PART, None)
        if values:
            result += bytes(len(result) % 2)
            entries.append(struct.pack(order + "HHII", part, 4, 1, len(result)))
            directory = TiffImagePlugin.ImageFileDirectory_v2(header, group=part)
            directory.update(values)
            result += directory.tobytes(len(result))
    result += bytes(len(result) % 2)
    struct.pack_into(order + "I", result, 4, len(result))
    entries.sort(key=lambda entry: struct.unpack(order + "H", entry[:2]))
    result += struct.pack(order + "H", len(entries)) + b"".join(entries) + bytes(4)
    return bytes(result)


def _as_bytes(value: Any) -> bytes | None:
    return bytes(value) if isinstance(value, bytes | bytearray) and len(value) > 0 else None


def _as_dpi(value: Any) -> tuple[float, float] | None:
    """A pair of positive, finite numbers, or None."""
    try:
        x, y = (float(number) for number in value)
    except (TypeError, ValueError, ArithmeticError):
        return None
    return (x, y) if all(math.isfinite(number) and 0 < number < 1e6 for number in (x, y)) else None
