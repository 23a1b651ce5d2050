"""Reading and writing of image files (PNG, JPEG, TIFF; 8 and 16 bits, float) and kernel files.

Pillow decodes 8-bit files, imagecodecs PNG files of 16 bits (Pillow reduces their colors to 8) and tifffile TIFF. The
EXIF orientation is applied to the pixels; color profiles and other metadata are dropped. Writing is atomic.
"""

from __future__ import annotations

import io
import os
import secrets
import stat
import struct
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import tifffile
from PIL import Image

from ..numerics.arrays import Array, to_host
from .checks import check_kernel, check_picture
from .kernels import prepare_kernel
from .planes import from_planes, to_planes

PNG, JPEG, TIFF = (".png",), (".jpg", ".jpeg"), (".tif", ".tiff")
PICTURE_SUFFIXES = PNG + JPEG + TIFF
KERNEL_SUFFIXES = (".npy", ".png", *TIFF)

_ORIENTATION = 0x0112  # the tag's number, in EXIF and in TIFF
_TIFF_MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
# What decoders raise for damaged files, by documentation or observation.
_DECODER_ERRORS = (
    OSError,
    SyntaxError,  # Pillow's, for a broken PNG chunk
    ValueError,
    tifffile.TiffFileError,  # not a ValueError in old versions
    TypeError,  # tifffile's, for a tag of the wrong type
    AttributeError,
    RuntimeError,  # imagecodecs' errors
    EOFError,
    LookupError,
    ArithmeticError,
    struct.error,
    zlib.error,
)


@dataclass(frozen=True, eq=False)
class ImageFile:
    """The contents of an image file, rotated upright.

    Attributes
    ----------
    pixels : (H, W) or (H, W, 3) array
        Values and dtype of the file: uint8, uint16, or for TIFF any other.
    alpha : (H, W) array or None
        Opacity, of the same dtype; separate, because it must not be deblurred.
    """

    pixels: np.ndarray
    alpha: np.ndarray | None = None


def read_image(path: str | os.PathLike[str]) -> ImageFile:
    """Read a PNG, JPEG or TIFF image, whose format is recognized by content, not by name.

    Palettes are expanded to RGB, and fewer than 8 bits to 8.

    Raises
    ------
    FileNotFoundError, IsADirectoryError, PermissionError
        From opening the file.
    ValueError
        The file is empty, of another format, damaged or truncated, has several images, a color space other than gray
        and RGB, or more pixels than `PIL.Image.MAX_IMAGE_PIXELS` (it may be a decompression bomb).
    """
    path = Path(path)
    _check_regular(path)
    with path.open("rb") as file:
        head = file.read(32)
        file.seek(0)
        if not head:
            raise ValueError(f"{path} is empty (0 bytes); get a fresh copy")
        if head[:4] in _TIFF_MAGIC:
            pixels, orientation = _read_tiff(path, file)
        elif head[:8] == b"\x89PNG\r\n\x1a\n":
            # Byte 24 is the bit depth in the IHDR chunk.
            pixels, orientation = _read_with_pillow(path, file, "PNG", is_16_bit=head[24:25] == b"\x10")
        elif head[:3] == b"\xff\xd8\xff":
            pixels, orientation = _read_with_pillow(path, file, "JPEG")
        else:
            raise ValueError(f"{path} must be a PNG, JPEG or TIFF file, it begins with {head[:8]!r}; convert it first")
    pixels = _upright(pixels, orientation)
    alpha = None
    if pixels.ndim == 3 and pixels.shape[2] in (2, 4):
        pixels, alpha = pixels[..., :-1], np.ascontiguousarray(pixels[..., -1])
    if pixels.ndim == 3 and pixels.shape[2] == 1:
        pixels = pixels[..., 0]
    return ImageFile(np.ascontiguousarray(pixels), alpha)


def write_image(
    path: str | os.PathLike[str],
    pixels: Array,
    alpha: Array | None = None,
    *,
    bits: int | None = None,
    white: float | None = None,
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
    white : float, optional
        The value of full scale of `pixels`, used where the file has another dtype than they have. None: the largest
        value of an integer type, 1 for floats.

    Raises
    ------
    OSError, ValueError
        As `check_output`; or the array is not such an image (`TypeError` for its dtype).
    """
    target = check_output(path, alpha=alpha is not None, bits=bits)
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
    bits = 8 if suffix in JPEG else bits
    if suffix not in TIFF:
        layers = _to_bits(layers, bits, white)
    if alpha is not None:
        opacity = to_host(alpha)[..., None]
        layers = np.concatenate([layers, opacity if suffix in TIFF else _to_bits(opacity, bits)], axis=2)
    data = _tiff_bytes(layers) if suffix in TIFF else _jpeg_bytes(layers) if suffix in JPEG else _png_bytes(layers)
    write_whole(target, data)


def write_kernel(path: str | os.PathLike[str], kernel: Array) -> None:
    """Write a blur kernel: `.npy` exactly, `.tif` in float32, `.png` for display (8 bits, the maximum is white).

    Raises
    ------
    OSError, ValueError
        As `check_output`; or the array is not a kernel, or is a stack, which only `.npy` can hold.
    """
    target = check_output(path, suffixes=KERNEL_SUFFIXES)
    check_kernel(kernel)
    values, suffix = to_host(kernel), target.suffix.lower()
    if suffix == ".npy":
        buffer = io.BytesIO()
        np.save(buffer, values, allow_pickle=False)
        data = buffer.getvalue()
    elif values.ndim != 2:
        raise ValueError(f"kernel must be (kh, kw) for a {suffix} file, got shape {values.shape}; write it as .npy")
    elif suffix in TIFF:
        data = _tiff_bytes(values[..., None].astype(np.float32))
    else:
        data = _png_bytes(_to_bits(values[..., None] / float(abs(values).max()), 8))
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
    with path.open("rb") as file:
        head = file.read(6)
        file.seek(0)
        if head[:4] == b"PK\3\4":
            from .kernel_field import KernelField

            return KernelField.load(path)
        if head == b"\x93NUMPY":
            with _decoding(path):
                values = np.load(file, allow_pickle=False)
        else:
            values = _gray(path)
    try:
        check_kernel(values, odd=False)
    except (TypeError, ValueError) as why:
        raise ValueError(f"{path} holds no kernel: {why}") from why
    return prepare_kernel(values)


def _gray(path: Path) -> np.ndarray:
    """The values of a gray image without transparent pixels."""
    image = read_image(path)
    pixels, alpha = image.pixels, image.alpha
    if pixels.ndim == 3 and (pixels == pixels[..., :1]).all():
        pixels = pixels[..., 0]
    if pixels.ndim != 2 or (alpha is not None and alpha.min() < alpha.max()):
        raise ValueError(f"{path} must be a gray image without alpha to be a kernel; convert it, or name a .npy file")
    return pixels


def write_text(path: str | os.PathLike[str], text: str, *, suffixes: tuple[str, ...]) -> None:
    """Write a text file in UTF-8; `suffixes` and errors as in `check_output`."""
    write_whole(check_output(path, suffixes=suffixes), text.encode())


def check_output(
    path: str | os.PathLike[str],
    *,
    suffixes: tuple[str, ...] = PICTURE_SUFFIXES,
    alpha: bool = False,
    bits: int | None = None,
    dtype: np.dtype | None = None,
    source: str | os.PathLike[str] | None = None,
) -> Path:
    """Raise, before any computation, if a result could not be written.

    Parameters
    ----------
    path : path
        The output file.
    suffixes : tuple of str
        Allowed endings of its name.
    alpha, bits, dtype
        Whether there is an alpha channel, `bits` of `write_image`, and the dtype of the image.
    source : path, optional
        The input, the only existing file that must not be replaced.

    Returns
    -------
    Path

    Raises
    ------
    FileNotFoundError, NotADirectoryError, PermissionError
        The folder does not exist, is not a folder, or is not writable.
    IsADirectoryError
        `path` is a folder.
    ValueError
        The suffix is not supported, its format cannot hold the image, or `path` is `source`.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix not in suffixes:
        got = f"{path.suffix!r} ({path})" if path.suffix else f"{path} without one"
        raise ValueError(f"output file must end in {', '.join(suffixes)}, got {got}; rename it")
    if bits not in (None, 8, 16):
        raise ValueError(f"bits must be 8, 16 or None, got {bits!r}")
    if bits is not None and suffix in TIFF:
        raise ValueError(f"bits must be None for TIFF, which keeps the picture's own dtype, got {bits}; leave it out")
    if bits == 16 and suffix in JPEG:
        raise ValueError("bits must be 8 for JPEG, got 16; write .png or .tif")
    if alpha and suffix in JPEG:
        raise ValueError(f"JPEG cannot hold the picture's alpha channel, got {path}; write .png or .tif")
    if dtype is not None and suffix not in TIFF:
        _check_bits(dtype)
    folder = path.parent
    if not folder.exists():
        raise FileNotFoundError(f"output folder {folder} does not exist; create it first")
    if not folder.is_dir():
        raise NotADirectoryError(f"output folder {folder} is not a folder; choose another place")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise PermissionError(f"output folder {folder} is not writable; choose another place")
    if path.is_dir():
        raise IsADirectoryError(f"output file {path} is a folder; name a file in it")
    if source is not None and path.exists() and path.samefile(source):
        raise ValueError(f"output file {path} is the input; choose another name, so that the photograph is kept")
    return path


def _check_regular(path: Path) -> None:
    """Raise for a pipe or a device, from which reading may never end; a folder is refused by `open`."""
    mode = path.stat().st_mode
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        raise ValueError(f"{path} must be a regular file, got a pipe, socket or device; copy it to a file first")


@contextmanager
def _decoding(path: Path) -> Iterator[None]:
    """Turn all errors of a decoder into a ValueError that names the file."""
    try:
        yield
    except _DECODER_ERRORS as why:
        raise ValueError(_damaged(path, why)) from why


def _damaged(path: Path, why: object) -> str:
    return f"{path} is damaged or truncated and cannot be read ({why}); get a fresh copy"


def _check_size(path: Path, width: int, height: int) -> None:
    limit = Image.MAX_IMAGE_PIXELS
    if limit is not None and width * height > limit:
        raise ValueError(_too_large(path, f"got {width} x {height} = {width * height}"))


def _too_large(path: Path, got: str) -> str:
    return (
        f"{path} must not hold more than {Image.MAX_IMAGE_PIXELS} pixels (it may be a decompression bomb), {got}; "
        "crop or reduce it, or raise PIL.Image.MAX_IMAGE_PIXELS if you trust it"
    )


def _read_with_pillow(path: Path, file: BinaryIO, kind: str, *, is_16_bit: bool = False) -> tuple[np.ndarray, int]:
    """Pixels (H, W) or (H, W, 1..4) and orientation of a PNG or JPEG file."""
    try:
        # Pillow warns at its limit and raises at twice the limit; here `_check_size` raises at the limit.
        with _decoding(path), warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            warnings.simplefilter("ignore", UserWarning)  # of broken metadata
            image = Image.open(file, formats=[kind])
    except Image.DecompressionBombError as why:
        raise ValueError(_too_large(path, f"Pillow says: {why}")) from why
    with image:
        _check_size(path, *image.size)
        with _decoding(path), warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            image.load()
            orientation = image.getexif().get(_ORIENTATION, 1)
        if is_16_bit:
            import imagecodecs

            file.seek(0)
            with _decoding(path):
                return imagecodecs.png_decode(file.read()), orientation
        if image.mode not in ("1", "L", "LA", "P", "PA", "RGB", "RGBA"):
            raise ValueError(f"{path} must be gray or RGB, got colour space {image.mode}; convert it to RGB first")
        # Palettes and transparent colors are expanded.
        mode = "L" if image.mode in ("1", "L", "LA") else "RGB"
        source: Image.Image = image
        if image.has_transparency_data:
            mode += "A"
            if image.mode in ("1", "L"):  # Pillow cannot convert a transparent gray to LA directly
                source = image.convert("RGBA")
        return np.array(source if source.mode == mode else source.convert(mode)), orientation


def _read_tiff(path: Path, file: BinaryIO) -> tuple[np.ndarray, int]:
    """Pixels (H, W) or (H, W, 1..4) and orientation of a TIFF file with a single image."""
    with _decoding(path):
        tiff = tifffile.TiffFile(file)
        series = [item for item in tiff.series if not item.keyframe.is_reduced]  # without thumbnails
        page = series[0].keyframe
        axes, samples = series[0].axes, page.samplesperpixel
        photometric, extra = page.photometric, page.extrasamples
        orientation = page.tags.valueof(_ORIENTATION, default=1)
        depth, colormap = page.bitspersample, page.colormap
        # A missing strip would silently be read as black.
        end = max(offset + count for offset, count in zip(page.dataoffsets, page.databytecounts, strict=True))
        size = file.seek(0, os.SEEK_END)
        sides = [(int(page.imagewidth), int(page.imagelength)), (int(page.tilewidth), int(page.tilelength))]
    for width, height in sides:  # a tile may be larger than the image, and is decoded as a whole
        _check_size(path, width, height)
    if len(series) > 1 or axes not in ("YX", "YXS", "SYX"):
        shapes = ", ".join(str(item.shape) for item in series)
        raise ValueError(f"{path} must hold one picture, got {shapes} (axes {axes}); save the one to use by itself")
    color = tifffile.PHOTOMETRIC
    decoded_jpeg = photometric == color.YCBCR and page.compression in (6, 7, 34892)
    if photometric not in (color.MINISWHITE, color.MINISBLACK, color.RGB, color.PALETTE) and not decoded_jpeg:
        kind = getattr(photometric, "name", photometric)
        raise ValueError(f"{path} must be gray or RGB, got colour space {kind}; convert it to RGB first")
    colors = 3 if photometric == color.RGB or decoded_jpeg else 1
    if samples - colors not in (0, 1):
        names = "1 channel" if colors == 1 else "3 channels"
        raise ValueError(f"{path} must have {names} and perhaps alpha, got {samples}; save the ones to use alone")
    if end > size:
        raise ValueError(_damaged(path, f"it has {size} of {end} bytes"))
    with _decoding(path):
        pixels = series[0].asarray()
    if axes == "SYX":
        pixels = np.moveaxis(pixels, 0, -1)
    if photometric == color.PALETTE and colormap is not None:
        return (np.moveaxis(colormap[:, pixels], 0, -1) >> 8).astype(np.uint8), orientation
    if pixels.dtype == bool:
        pixels = pixels.astype(np.uint8)
    if isinstance(depth, int) and pixels.dtype.kind == "u" and depth < 8 * pixels.itemsize:
        # 1 to 7 or 9 to 15 bits are scaled to the full range of the dtype.
        pixels = (pixels * (np.iinfo(pixels.dtype).max / (2**depth - 1))).round().astype(pixels.dtype)
    if photometric == color.MINISWHITE and pixels.dtype.kind == "u":
        pixels = np.iinfo(pixels.dtype).max - pixels
    if extra and extra[0] == tifffile.EXTRASAMPLE.ASSOCALPHA:
        pixels = _divide_by_alpha(pixels)
    return pixels, orientation


def _divide_by_alpha(pixels: np.ndarray) -> np.ndarray:
    """The colors of an image that was stored multiplied by alpha; black where alpha is 0."""
    planes = to_planes(pixels, channel_axis=-1, dtype=np.float64)
    alpha = planes[-1]
    np.divide(planes[:-1], alpha, out=planes[:-1], where=alpha > 0)
    return from_planes(planes, pixels, channel_axis=-1)


def _upright(pixels: np.ndarray, orientation: object) -> np.ndarray:
    """The image rotated by its EXIF orientation, 1 to 8; anything else counts as 1."""
    code = orientation if isinstance(orientation, int) else 1
    if code in (5, 6, 7, 8):
        pixels = pixels.swapaxes(0, 1)
    if code in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if code in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return pixels


def _check_bits(dtype: np.dtype) -> None:
    if dtype.kind == "i" or (dtype.itemsize > 2 and dtype.kind == "u"):
        raise ValueError(f"PNG and JPEG hold uint8, uint16 or floats in [0, 1], got {dtype}; convert it, or write .tif")


def _to_bits(layers: np.ndarray, bits: int | None, white: float | None = None) -> np.ndarray:
    """uint8 or uint16 from floats, clipped to [0, 1] (or at `white`), or from unsigned integers."""
    _check_bits(layers.dtype)
    default = 8 * layers.itemsize if layers.dtype.kind == "u" else 8
    dtype = np.dtype(np.uint16 if (bits or default) == 16 else np.uint8)
    if layers.dtype == dtype:
        return layers
    return from_planes(to_planes(layers, dtype=np.float64, white=white), dtype)


def _png_bytes(layers: np.ndarray) -> bytes:
    import imagecodecs

    return bytes(imagecodecs.png_encode(np.ascontiguousarray(layers if layers.shape[2] > 1 else layers[..., 0])))


def _jpeg_bytes(layers: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    image = Image.fromarray(layers if layers.shape[2] > 1 else layers[..., 0])
    image.save(buffer, "JPEG", quality=95, subsampling=0)  # full color resolution
    return buffer.getvalue()


def _tiff_bytes(layers: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    channels = layers.shape[2]
    tifffile.imwrite(
        buffer,
        layers if channels > 1 else layers[..., 0],
        photometric="rgb" if channels > 2 else "minisblack",
        planarconfig="contig" if channels > 1 else None,
        extrasamples=["unassalpha"] if channels in (2, 4) else None,
        metadata=None,
    )
    return buffer.getvalue()


def write_whole(path: Path, data: bytes) -> None:
    """Write `data` to `path` atomically: a temporary file in the same folder is written, then renamed."""
    target = Path(os.path.realpath(path))  # through a link, as open() would
    temporary = target.with_name(f".gpudeblur-{secrets.token_hex(6)}.tmp")
    try:
        temporary.write_bytes(data)
        temporary.replace(target)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
