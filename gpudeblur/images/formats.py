"""The formats of image files that are read, and a reader for each: Pillow, imagecodecs, and optional packages."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from PIL import Image

from .decoding import Decoded, ImageError, check_page, check_size, decoding, fill_range
from .metadata import Metadata, exif_of_bytes, exif_of_tiff, metadata_of_pillow, upright_xmp
from .profiles import cmyk_to_srgb
from .stored_file import StoredFile
from .tiff import MAGIC as TIFF_MAGIC
from .tiff import read_tiff

Reader = Callable[[Path | StoredFile, BinaryIO, int | None], Decoded]


@dataclass(frozen=True)
class Format:
    """A format: its name, suffixes, whether a file begins as one of it, and the reader."""

    name: str
    suffixes: tuple[str, ...]
    begins: Callable[[bytes], bool]
    read: Reader


def find_format(path: Path | StoredFile, head: bytes) -> Format:
    """The format of a file by its first 32 bytes, not by its name; but for camera raw files, of which most are TIFF.

    Raises
    ------
    ValueError
        It is none of `FORMATS`.
    """
    if path.suffix.lower() in RAW_SUFFIXES:
        return RAW
    for format in FORMATS:
        if format.begins(head):
            return format
    names = ", ".join(format.name for format in FORMATS)
    raise ImageError(f"{path} must be an image ({names}), it begins with {head[:8]!r}; convert it first")


def _begins(*starts: bytes) -> Callable[[bytes], bool]:
    return lambda head: head.startswith(starts)


def _brand(*brands: bytes) -> Callable[[bytes], bool]:
    """Whether a file of ISO media boxes has one of these as its main brand or a compatible one in its head."""
    return lambda head: head[4:8] == b"ftyp" and any(head[at : at + 4] in brands for at in (8, *range(16, 32, 4)))


def _with_pillow(name: str, deep: Callable[[bytes], tuple[int, str]] | None = None) -> Reader:
    """A reader by Pillow. `deep` finds the depth of a channel, and imagecodecs' decoder for more than 8 bits of it."""

    def read(path: Path | StoredFile, file: BinaryIO, page: int | None) -> Decoded:
        with decoding(path):
            Image.init()
            if name not in Image.OPEN:
                raise ImageError(f"{path} is a {name} file, which this build of Pillow cannot read; convert it first")
            # Its plugin and not Image.open, which warns of sizes; filters of warnings are not thread-safe.
            with Image.OPEN[name][0](file, "") as image:
                check_size(path, *image.size)
                # In JPEG, more pictures are previews, depth and gain maps.
                check_page(path, page, 1 if name == "JPEG" else getattr(image, "n_frames", 1))
                if page:
                    image.seek(page)
                    check_size(path, *image.size)
                image.load()
                metadata, orientation = metadata_of_pillow(image)
                depth, codec = (8, "") if deep is None or page else deep(_whole(file))
                if depth > 8:
                    pixels, has_alpha = _deep(path, file, image, depth, codec)
                else:
                    pixels, has_alpha, metadata = _gray_or_rgb(path, image, metadata)
        return Decoded(pixels, has_alpha, orientation, metadata)

    return read


def _whole(file: BinaryIO) -> bytes:
    file.seek(0)
    return file.read()


def _deep(
    path: Path | StoredFile, file: BinaryIO, image: Image.Image, depth: int, codec: str
) -> tuple[np.ndarray, bool]:
    """All bits of an image, of which Pillow reads 8, and whether it has alpha."""
    import imagecodecs

    pixels = getattr(imagecodecs, f"{codec}_decode")(_whole(file))
    channels = pixels.shape[2] if pixels.ndim == 3 else 1
    if pixels.shape[:2] != image.size[::-1] or channels > 4:
        raise ImageError(f"{path} must be gray or RGB, got {channels} channels {pixels.shape}; convert it to RGB first")
    return fill_range(pixels, depth), channels in (2, 4)


def _gray_or_rgb(path: Path | StoredFile, image: Image.Image, metadata: Metadata) -> tuple[np.ndarray, bool, Metadata]:
    """Pixels, whether they have alpha, and the metadata; palettes, transparent colors and CMYK are converted."""
    if image.mode == "CMYK" and metadata.icc is not None:
        image, icc = cmyk_to_srgb(image, metadata.icc)
        return np.array(image), False, replace(metadata, icc=icc)
    if image.mode in ("I;16", "I;16B", "I;16L"):
        return np.array(image).astype(np.uint16), False, metadata
    if image.mode not in ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX"):
        way_out = "give it a colour profile, or convert it" if image.mode == "CMYK" else "convert it"
        raise ImageError(f"{path} must be gray or RGB, got colour space {image.mode}; {way_out} to RGB first")
    mode = "L" if image.mode in ("1", "L", "LA") else "RGB"
    source = image
    if image.has_transparency_data:
        mode += "A"
        if image.mode in ("1", "L"):  # Pillow cannot convert a transparent gray to LA directly
            source = image.convert("RGBA")
    return np.array(source if source.mode == mode else source.convert(mode)), len(mode) in (2, 4), metadata


def _png_depth(data: bytes) -> tuple[int, str]:
    return data[24], "png"  # in the IHDR chunk


def _jpeg2000_depth(data: bytes) -> tuple[int, str]:
    """The depth of the first channel, in the SIZ segment of the codestream."""
    at = data.find(b"\xff\x4f\xff\x51")
    return ((data[at + 42] & 127) + 1 if 0 <= at < len(data) - 42 else 8), "jpeg2k"


def _avif_depth(data: bytes) -> tuple[int, str]:
    """10 or 12 bits by the flags in the configuration of AV1."""
    at = data.find(b"av1C")
    flags = data[at + 6] if 0 <= at < len(data) - 6 else 0
    return (12 if flags & 32 else 10) if flags & 64 else 8, "avif"


def _optional(module: str, extra: str, path: Path | StoredFile) -> Any:
    """A module of an optional package; an error that says how to install it."""
    try:
        return importlib.import_module(module)
    except ImportError as why:
        raise ImageError(
            f'{path} needs the package {module.partition(".")[0]}, got {why}; pip install "gpudeblur[{extra}]"'
        ) from why


def _read_heif(path: Path | StoredFile, file: BinaryIO, page: int | None) -> Decoded:
    """The primary image of a HEIF file, which libheif turns upright."""
    heif = _optional("pillow_heif", "heif", path)
    with decoding(path):
        container = heif.open_heif(file, convert_hdr_to_8bit=False)
        check_page(path, page, 1 if page is None else len(container))
        image = container if page is None else container[page]
        check_size(path, *image.size)
        pixels = np.array(image)
        channels, info = 1 if pixels.ndim == 2 else pixels.shape[2], image.info
    metadata = Metadata(info.get("icc_profile") or None, exif_of_bytes(info.get("exif")), upright_xmp(info.get("xmp")))
    return Decoded(pixels, channels in (2, 4), metadata=metadata)


def _read_raw(path: Path | StoredFile, file: BinaryIO, page: int | None) -> Decoded:
    """A camera's raw file, developed by LibRaw: sRGB with its tone curve, the camera's white balance, 16 bits.

    Without automatic brightness, so that pictures of a series agree. LibRaw turns it upright.
    """
    rawpy = _optional("rawpy", "raw", path)
    check_page(path, page, 1)
    with decoding(path):
        with rawpy.imread(file) as raw:
            check_size(path, raw.sizes.raw_width, raw.sizes.raw_height)
            pixels = raw.postprocess(
                use_camera_wb=True,
                no_auto_bright=True,
                output_bps=16,
                output_color=rawpy.ColorSpace.sRGB,
                gamma=(2.4, 12.92),
            )
        file.seek(0)
        exif = exif_of_tiff(file) if file.read(4) in TIFF_MAGIC else None
    return Decoded(pixels, metadata=Metadata(exif=exif))


def _read_fits(path: Path | StoredFile, file: BinaryIO, page: int | None) -> Decoded:
    """The first image of a FITS file, (H, W) or three planes (3, H, W); row 0 is the first one stored."""
    fits = _optional("astropy.io.fits", "fits", path)
    with decoding(path), fits.open(file, memmap=False) as parts:
        images = [part for part in parts if part.is_image and part.shape]
        if not images:
            raise ImageError(f"{path} must hold an image, got tables alone; write one")
        check_page(path, page, len(images) if page is not None else 1)
        image = images[page or 0]
        shape = tuple(side for side in image.shape if side > 1)
        if len(shape) != 2 and not (len(shape) == 3 and shape[0] == 3):
            raise ImageError(f"{path} must hold one picture, got shape {image.shape}; save the one to use by itself")
        check_size(path, shape[-1], shape[-2])
        pixels = np.asarray(image.data).reshape(shape)
        pixels = pixels.astype(pixels.dtype.newbyteorder("="))
        return Decoded(pixels if len(shape) == 2 else np.moveaxis(pixels, 0, -1))


RAW_SUFFIXES = (".dng", ".cr2", ".cr3", ".nef", ".nrw", ".arw", ".raf", ".orf", ".rw2", ".pef", ".srw", ".iiq", ".3fr")
RAW = Format("camera RAW", RAW_SUFFIXES, lambda head: False, _read_raw)
FORMATS = (
    Format("PNG", (".png",), _begins(b"\x89PNG\r\n\x1a\n"), _with_pillow("PNG", _png_depth)),
    Format("JPEG", (".jpg", ".jpeg"), _begins(b"\xff\xd8\xff"), _with_pillow("JPEG")),
    Format("TIFF", (".tif", ".tiff"), _begins(*TIFF_MAGIC), read_tiff),
    Format("WebP", (".webp",), lambda head: head[:4] == b"RIFF" and head[8:12] == b"WEBP", _with_pillow("WEBP")),
    Format("BMP", (".bmp",), _begins(b"BM"), _with_pillow("BMP")),
    Format("GIF", (".gif",), _begins(b"GIF87a", b"GIF89a"), _with_pillow("GIF")),
    Format(
        "JPEG 2000",
        (".jp2", ".j2k", ".jpx"),
        _begins(b"\0\0\0\x0cjP  \r\n\x87\n", b"\xff\x4f\xff\x51"),
        _with_pillow("JPEG2000", _jpeg2000_depth),
    ),
    Format("AVIF", (".avif",), _brand(b"avif", b"avis"), _with_pillow("AVIF", _avif_depth)),
    Format("HEIC", (".heic", ".heif"), _brand(b"heic", b"heix", b"heim", b"heis", b"mif1", b"msf1"), _read_heif),
    Format("FITS", (".fits", ".fit", ".fts"), _begins(b"SIMPLE  ="), _read_fits),
    RAW,
)
READ_SUFFIXES = tuple(suffix for format in FORMATS for suffix in format.suffixes)
