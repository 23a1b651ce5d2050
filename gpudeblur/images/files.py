"""Reading and writing of image files and kernel files.

`formats` reads; written are PNG, JPEG and TIFF (8 and 16 bits, TIFF any dtype). The EXIF orientation is applied to the
pixels. ICC profile, EXIF, XMP and resolution are read and written with them. Writing is atomic.
"""

from __future__ import annotations

import io
import os
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from PIL import Image

from ..numerics.arrays import Array, to_host
from .checks import as_integer, check_kernel, check_picture
from .decoding import BoundedFile, decoding
from .exif import exif_of_gamma, gamma_of_exif
from .formats import READ_SUFFIXES, find_format
from .kernel_field import KernelField
from .kernels import prepare_kernel
from .metadata import NO_METADATA, Metadata, add_exif_to_tiff, pillow_options, png_chunks, tiff_options
from .output import (
    JPEG,
    KERNEL_SUFFIXES,
    PICTURE_SUFFIXES,
    TIFF,
    check_bits,
    check_output,
    check_quality,
    write_text,
    write_whole,
)
from .planes import from_planes, to_planes
from .stored_file import StoredFile

_END_OF_IHDR = 33  # bytes from the beginning of a PNG file
# Of the formats that are read and not written: a PNG file holds all that they do, but for those of more than 16 bits.
_TIFF_RESULTS = (".fits", ".fit", ".fts")

__all__ = [
    "KERNEL_SUFFIXES",
    "PICTURE_SUFFIXES",
    "READ_SUFFIXES",
    "ImageFile",
    "Metadata",
    "check_output",
    "kernel_gamma",
    "read_image",
    "read_kernel",
    "result_suffix",
    "write_image",
    "write_kernel",
    "write_text",
    "write_whole",
]


@dataclass(frozen=True, eq=False)
class ImageFile:
    """The contents of an image file, rotated upright.

    Attributes
    ----------
    pixels : (H, W) or (H, W, 3) array
        Values and dtype of the file: uint8, uint16, or for TIFF and FITS any other.
    alpha : (H, W) array or None
        Opacity, of the same dtype; separate, because it must not be deblurred.
    metadata : Metadata
        Color profile, EXIF data, XMP and resolution, for `write_image`.
    """

    pixels: np.ndarray
    alpha: np.ndarray | None = None
    metadata: Metadata = NO_METADATA


def read_image(path: str | os.PathLike[str] | StoredFile, *, page: int | None = None) -> ImageFile:
    """Read an image, whose format is recognized by content, not by name (but for camera raw files).

    PNG, JPEG, TIFF, WebP, BMP, GIF, JPEG 2000 and AVIF (where Pillow has it); HEIC, camera raw files and FITS need the
    extras ``heif``, ``raw`` and ``fits``. Palettes are expanded to RGB, fewer than 8 bits to 8, and 9 to 15 to 16. CMYK
    is converted to sRGB by its profile. Raw files are developed to sRGB of 16 bits, by the camera's white balance.

    Parameters
    ----------
    path : path
        The file.
    page : int, optional
        Of a file with several pictures, from 0. None: it must have a single one. Of HEIC the primary image is taken,
        of FITS the first, of JPEG the first, behind which cameras put previews and gain maps.

    Raises
    ------
    FileNotFoundError, IsADirectoryError, PermissionError
        From opening the file.
    ValueError
        The file is no regular file, empty, of another format, damaged or truncated, has several images, a color space
        other than gray, RGB, and CMYK with a profile, or more pixels than `PIL.Image.MAX_IMAGE_PIXELS` (it may be a
        decompression bomb); or an extra is not installed.
    """
    if not isinstance(path, StoredFile):
        path = Path(path)
        _check_regular(path)
    if page is not None and (as_integer(page) is None or page < 0):
        raise ValueError(f"page must be an integer from 0, or None, got {page!r}")
    with io.BytesIO(path.read_bytes()) if isinstance(path, StoredFile) else BoundedFile(path) as file:
        head = file.read(32)
        file.seek(0)
        if not head:
            raise ValueError(f"{path} is empty (0 bytes); get a fresh copy")
        decoded = find_format(path, head).read(path, file, page)
    pixels, alpha = _upright(decoded.pixels, decoded.orientation), None
    if decoded.has_alpha:
        pixels, alpha = pixels[..., :-1], np.ascontiguousarray(pixels[..., -1])
    if pixels.ndim == 3 and pixels.shape[2] == 1:
        pixels = pixels[..., 0]
    return ImageFile(np.ascontiguousarray(pixels), alpha, decoded.metadata)


def result_suffix(path: str | os.PathLike[str]) -> str:
    """The suffix of a result for a picture: its own if that format is written, or else that of one that holds it."""
    suffix = Path(path).suffix.lower()
    if suffix in PICTURE_SUFFIXES:
        return Path(path).suffix
    return ".tif" if suffix in _TIFF_RESULTS else ".png"


def write_image(
    path: str | os.PathLike[str],
    pixels: Array,
    alpha: Array | None = None,
    *,
    bits: int | None = None,
    quality: int | None = None,
    white: float | None = None,
    metadata: Metadata | None = None,
) -> None:
    """Write an image in the format of the suffix, completely or not at all.

    Parameters
    ----------
    path : path
        `.png`, `.jpg`, `.jpeg`, `.tif` or `.tiff`; its folder must exist. An existing file is replaced.
    pixels : (H, W) or (H, W, 3) array
        TIFF keeps the dtype. PNG and JPEG hold integers: floats are clipped to [0, 1], or at `white`, and scaled to 8
        bits.
    alpha : (H, W) array, optional
        Opacity, of the same dtype as `pixels`. JPEG cannot hold it.
    bits : {None, 8, 16}
        Bits per channel of a PNG. None: 8 for floats, those of the dtype for integers.
    quality : int, 1 to 100, optional
        Of a JPEG; other formats lose nothing and do not use it. None: 95.
    white : float, optional
        The value of full scale of `pixels`, used where the file has another dtype than they have. None: the largest
        value of an integer type, 1 for floats.
    metadata : Metadata, optional
        Of `read_image`: what the file is to say beside the pixels. A profile of another number of colors is left out.

    Raises
    ------
    OSError, ValueError
        As `check_output`; or the array is not such an image (`TypeError` for its dtype).
    """
    target = check_output(path, alpha=alpha is not None, bits=bits)
    check_quality(quality)
    suffix = target.suffix.lower()
    check_picture(pixels, channel_axis=-1 if getattr(pixels, "ndim", 2) == 3 else None, name="pixels")
    layers = to_host(pixels)
    if layers.ndim == 2:
        layers = layers[..., None]
    if layers.ndim != 3 or layers.shape[2] not in (1, 3):
        raise ValueError(f"pixels must be (H, W) or (H, W, 3), got shape {pixels.shape}; opacity goes into alpha=")
    if alpha is not None:
        check_picture(alpha, name="alpha")
        if alpha.shape != layers.shape[:2] or alpha.dtype != layers.dtype:
            raise ValueError(
                f"alpha must have the picture's height, width and dtype, {layers.shape[:2]} {layers.dtype}, "
                f"got {alpha.shape} {alpha.dtype}; convert it first"
            )
    check_output(path, sides=layers.shape[:2])
    bits = 8 if suffix in JPEG else bits
    if suffix not in TIFF:
        layers = _to_bits(layers, bits, white)
    if alpha is not None:
        opacity = to_host(alpha)[..., None]
        layers = np.concatenate([layers, opacity if suffix in TIFF else _to_bits(opacity, bits)], axis=2)
    metadata = metadata or NO_METADATA
    if suffix in JPEG:
        write_whole(target, _jpeg_bytes(layers, metadata, quality or 95))
    else:
        write_whole(target, (_tiff_bytes if suffix in TIFF else _png_bytes)(layers, metadata))


def write_kernel(path: str | os.PathLike[str], kernel: Array, *, gamma: float | None = None) -> None:
    """Write a blur kernel: `.npy` exactly, `.tif` in float32, `.png` for display (8 bits, the maximum is white).

    `gamma` is that of the image it was estimated from (`kernel_gamma`): a second array in `.npy`, EXIF data in images.

    Raises
    ------
    OSError, ValueError
        As `check_output`; or the array is not a kernel, or is a stack, which only `.npy` can hold.
    """
    target = check_output(path, suffixes=KERNEL_SUFFIXES)
    check_kernel(kernel)
    values, suffix = to_host(kernel), target.suffix.lower()
    metadata = NO_METADATA if gamma is None else Metadata(exif=exif_of_gamma(gamma))
    if suffix == ".npy":
        buffer = io.BytesIO()
        for array in (values,) if gamma is None else (values, np.float64(gamma)):
            np.save(buffer, array, allow_pickle=False)
        data = buffer.getvalue()
    elif values.ndim != 2:
        raise ValueError(f"kernel must be (kh, kw) for a {suffix} file, got shape {values.shape}; write it as .npy")
    elif suffix in TIFF:
        data = _tiff_bytes(values[..., None].astype(np.float32), metadata)
    else:
        data = _png_bytes(_to_bits(values[..., None] / float(abs(values).max()), 8), metadata)
    write_whole(target, data)


def read_kernel(path: str | os.PathLike[str]) -> Any:
    """Read a blur kernel: a `.npy` file, a gray image, or a `.npz` file of a `KernelField`.

    The gray values of an image are the kernel. An image of three equal channels, or with alpha that is opaque
    everywhere, is gray too.

    Returns
    -------
    (..., kh, kw) float64, or KernelField
        Each kernel is scaled to sum 1; a zero line is added to even sides, after which the origin is the middle.

    Raises
    ------
    OSError, ValueError
        As `read_image` and `KernelField.load`; or the file holds no kernel (`checks.check_kernel`): colors, transparent
        pixels, a sum that is not positive, or fewer than two axes.
    """
    path = Path(path)
    _check_regular(path)
    with BoundedFile(path) as file:
        head = file.read(6)
        file.seek(0)
        if head[:4] == b"PK\3\4":
            return KernelField.load(path)
        if head == b"\x93NUMPY":
            with decoding(path):
                values = np.load(file, allow_pickle=False)
        else:
            values = _gray(path)
    try:
        check_kernel(values, odd=False)
    except (TypeError, ValueError) as why:
        raise ValueError(f"{path} holds no kernel: {why}") from why
    return prepare_kernel(values)


def kernel_gamma(path: str | os.PathLike[str]) -> float | None:
    """The gamma of the image from which the kernel in a file was estimated; None if the file does not say.

    Raises
    ------
    OSError, ValueError
        As `read_kernel`.
    """
    path = Path(path)
    _check_regular(path)
    with BoundedFile(path) as file:
        head = file.read(6)
        file.seek(0)
        is_field, is_array = head[:4] == b"PK\3\4", head == b"\x93NUMPY"
        if not (is_field or is_array):
            return gamma_of_exif(read_image(path).metadata.exif)
        with decoding(path):
            if is_field:
                with np.load(file, allow_pickle=False) as arrays:
                    gamma = arrays.get("gamma")
            else:
                np.load(file, allow_pickle=False)
                gamma = np.load(file, allow_pickle=False) if file.peek(6).startswith(b"\x93NUMPY") else None
            return None if gamma is None or gamma.shape else float(gamma)


def _gray(path: Path) -> np.ndarray:
    """The values of a gray image without transparent pixels."""
    image = read_image(path)
    pixels, alpha = image.pixels, image.alpha
    if pixels.ndim == 3 and (pixels == pixels[..., :1]).all():
        pixels = pixels[..., 0]
    if pixels.ndim != 2 or (alpha is not None and alpha.min() < alpha.max()):
        raise ValueError(f"{path} must be a gray image without alpha to be a kernel; convert it, or name a .npy file")
    return pixels


def _check_regular(path: Path) -> None:
    """Raise for a pipe or a device, from which reading may never end; a folder is refused by `open`."""
    mode = path.stat().st_mode
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        raise ValueError(f"{path} must be a regular file, got a pipe, socket or device; copy it to a file first")


def _upright(pixels: np.ndarray, code: int) -> np.ndarray:
    """The image rotated by its EXIF orientation, 1 to 8."""
    if code in (5, 6, 7, 8):
        pixels = pixels.swapaxes(0, 1)
    if code in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if code in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return pixels


def _to_bits(layers: np.ndarray, bits: int | None, white: float | None = None) -> np.ndarray:
    """uint8 or uint16 from floats, clipped to [0, 1] (or at `white`), or from unsigned integers."""
    check_bits(layers.dtype)
    default = 8 * layers.itemsize if layers.dtype.kind == "u" else 8
    dtype = np.dtype(np.uint16 if (bits or default) == 16 else np.uint8)
    if layers.dtype == dtype:
        return layers
    return from_planes(to_planes(layers, dtype=np.float64, white=white), dtype)


def _png_bytes(layers: np.ndarray, metadata: Metadata = NO_METADATA) -> bytes:
    import imagecodecs

    data = bytes(imagecodecs.png_encode(np.ascontiguousarray(layers if layers.shape[2] > 1 else layers[..., 0])))
    chunks = png_chunks(metadata, layers.shape[2])
    return data[:_END_OF_IHDR] + chunks + data[_END_OF_IHDR:]


def _jpeg_bytes(layers: np.ndarray, metadata: Metadata, quality: int) -> bytes:
    buffer, channels = io.BytesIO(), layers.shape[2]
    image = Image.fromarray(layers if channels > 1 else layers[..., 0])
    # Full color resolution.
    image.save(buffer, "JPEG", quality=quality, subsampling=0, **pillow_options(metadata, channels, jpeg=True))
    return buffer.getvalue()


def _tiff_bytes(layers: np.ndarray, metadata: Metadata = NO_METADATA) -> bytes:
    buffer, channels = io.BytesIO(), layers.shape[2]
    tifffile.imwrite(
        buffer,
        layers if channels > 1 else layers[..., 0],
        photometric="rgb" if channels > 2 else "minisblack",
        planarconfig="contig" if channels > 1 else None,
        extrasamples=["unassalpha"] if channels in (2, 4) else None,
        metadata=None,
        **tiff_options(metadata, channels),
    )
    return add_exif_to_tiff(buffer.getvalue(), metadata)
