"""Picture files in and out: PNG, JPEG and TIFF, 8 and 16 bit and float, whole or not at all.

Pillow decodes what has 8 bits, imagecodecs the PNG files with 16 (Pillow cuts their colours down to 8), tifffile TIFF.
Colour profiles and other metadata are not carried over; the EXIF orientation is applied to the pixels. One file, though
a long one: every format has its own way of failing, and a reader wants them side by side.
"""

from __future__ import annotations

import io
import os
import secrets
import struct
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
import tifffile
from PIL import Image

from ..numerics.arrays import Array, to_host
from .checks import check_kernel, check_picture
from .planes import from_planes, to_planes

PNG, JPEG, TIFF = (".png",), (".jpg", ".jpeg"), (".tif", ".tiff")
PICTURE_SUFFIXES = PNG + JPEG + TIFF
KERNEL_SUFFIXES = (".npy", ".png")

_ORIENTATION = 0x0112  # the tag's number, in EXIF and in TIFF
_TIFF_MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
# Decoders meet a damaged file with almost anything; each of these was seen with damaged files, or is documented.
_DECODER_ERRORS = (
    OSError,
    SyntaxError,  # Pillow's, for a broken PNG chunk
    ValueError,
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
class Photo:
    """A picture as its file has it, turned upright.

    Attributes
    ----------
    pixels : (H, W) or (H, W, 3) array
        uint8, uint16, float32, or whatever else a TIFF file holds; not scaled, the dtype of the file.
    alpha : (H, W) array or None
        Opacity, of the same dtype, kept apart from the colours: it is no light and must not be deblurred.
    """

    pixels: np.ndarray
    alpha: np.ndarray | None = None


def read_image(path: str | os.PathLike[str]) -> Photo:
    """Read a PNG, JPEG or TIFF picture; what it is is told by its content, not by its name.

    Palettes are expanded to RGB, fewer than 8 bits to 8.

    Raises
    ------
    FileNotFoundError, IsADirectoryError, PermissionError
        From opening the file.
    ValueError
        The file is empty, of another format, damaged or truncated, holds several pictures or a colour space other than
        gray and RGB, or more pixels than `PIL.Image.MAX_IMAGE_PIXELS` (a decompression bomb, perhaps).
    """
    path = Path(path)
    with path.open("rb") as file:
        head = file.read(32)
        file.seek(0)
        if not head:
            raise ValueError(f"{path} is empty (0 bytes); get a fresh copy")
        if head[:4] in _TIFF_MAGIC:
            pixels, orientation = _read_tiff(path, file)
        elif head[:8] == b"\x89PNG\r\n\x1a\n":
            # The file's head ends with the chunk that says width, height and depth, in this order.
            pixels, orientation = _read_with_pillow(path, file, "PNG", deep=head[24:25] == b"\x10")
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
    return Photo(np.ascontiguousarray(pixels), alpha)


def write_image(
    path: str | os.PathLike[str], pixels: Array, alpha: Array | None = None, *, bits: int | None = None
) -> None:
    """Write a picture, in the format that the suffix names, completely or not at all.

    Parameters
    ----------
    path : path
        `.png`, `.jpg`, `.jpeg`, `.tif` or `.tiff`; its folder must exist. A file of that name is replaced.
    pixels : (H, W) or (H, W, 3) array
        TIFF keeps the dtype. PNG and JPEG hold integers: floats are clipped to [0, 1] and scaled to 8 bits.
    alpha : (H, W) array, optional
        Opacity, of the same dtype as `pixels`. JPEG cannot hold it.
    bits : {None, 8, 16}
        For PNG: write so many bits a channel, whatever the dtype. None: 8 for floats, those of the dtype for integers.

    Raises
    ------
    OSError, ValueError
        As `check_output`; or the array is no picture of these kinds (`TypeError` for its dtype).
    """
    target = check_output(path, alpha=alpha is not None, bits=bits)
    check_picture(pixels, name="pixels")
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
        layers = np.concatenate([layers, to_host(alpha)[..., None]], axis=2)
    suffix = target.suffix.lower()
    if suffix in TIFF:
        data = _tiff_bytes(layers)
    elif suffix in JPEG:
        data = _jpeg_bytes(_to_bits(layers, 8))
    else:
        data = _png_bytes(_to_bits(layers, bits))
    write_whole(target, data)


def write_kernel(path: str | os.PathLike[str], kernel: Array) -> None:
    """Write a blur kernel: `.npy` as it is, `.png` to look at (8 bits, its maximum is white, negatives are black).

    Raises
    ------
    OSError, ValueError
        As `check_output`; or the array is no kernel, or is a stack, which `.png` cannot hold.
    """
    target = check_output(path, suffixes=KERNEL_SUFFIXES)
    check_kernel(kernel)
    values = to_host(kernel)
    if target.suffix.lower() == ".npy":
        buffer = io.BytesIO()
        np.save(buffer, values, allow_pickle=False)
        data = buffer.getvalue()
    elif values.ndim != 2:
        raise ValueError(f"kernel must be (kh, kw) for a .png file, got shape {values.shape}; write it as .npy")
    else:
        data = _png_bytes(_to_bits(values[..., None] / float(abs(values).max()), 8))
    write_whole(target, data)


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
    """Find out before the work whether its result can be written.

    Parameters
    ----------
    path : path
        The file to be.
    suffixes : tuple of str
        What its name may end in.
    alpha, bits, dtype
        As `write_image` will be asked; dtype of the picture.
    source : path, optional
        The input: any other file that is there may be replaced, but not this one.

    Returns
    -------
    Path

    Raises
    ------
    FileNotFoundError, NotADirectoryError, PermissionError
        The folder does not exist, is none, or may not be written to.
    IsADirectoryError
        `path` is a folder.
    ValueError
        The suffix is not supported, its format cannot hold what it is asked to, or `path` is `source`.
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


@contextmanager
def _decoding(path: Path) -> Iterator[None]:
    """Whatever a decoder raises becomes one error that names the file."""
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


def _read_with_pillow(path: Path, file: BinaryIO, kind: str, *, deep: bool = False) -> tuple[np.ndarray, int]:
    """Pixels (H, W) or (H, W, 1..4) and orientation of a PNG or JPEG file; `deep` for 16 bits a channel."""
    try:
        # The warning comes at the limit, the error at twice the limit: the limit is the limit here.
        with _decoding(path), warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            warnings.simplefilter("ignore", UserWarning)  # broken metadata harm no pixel
            image = Image.open(file, formats=[kind])
    except Image.DecompressionBombError as why:
        raise ValueError(_too_large(path, f"Pillow says: {why}")) from why
    with image:
        _check_size(path, *image.size)
        with _decoding(path), warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            image.load()
            orientation = image.getexif().get(_ORIENTATION, 1)
        if deep:
            import imagecodecs

            file.seek(0)
            with _decoding(path):
                return imagecodecs.png_decode(file.read()), orientation
        if image.mode not in ("1", "L", "LA", "P", "PA", "RGB", "RGBA"):
            raise ValueError(f"{path} must be gray or RGB, got colour space {image.mode}; convert it to RGB first")
        # A palette, or one colour that means transparent, is spelt out.
        color = "L" if image.mode in ("1", "L", "LA") else "RGB"
        plain: Image.Image = image
        if image.has_transparency_data:
            color += "A"
            if image.mode in ("1", "L"):  # Pillow has no direct way from a transparent gray to LA
                plain = image.convert("RGBA")
        return np.array(plain if plain.mode == color else plain.convert(color)), orientation


def _read_tiff(path: Path, file: BinaryIO) -> tuple[np.ndarray, int]:
    """Pixels (H, W) or (H, W, 1..4) and orientation of a TIFF file that holds one picture."""
    with _decoding(path):
        tiff = tifffile.TiffFile(file)
        series = [one for one in tiff.series if not one.keyframe.is_reduced]  # thumbnails are reduced
        page = series[0].keyframe
        axes, samples = series[0].axes, page.samplesperpixel
        photometric, extra = page.photometric, page.extrasamples
        orientation = page.tags.valueof(_ORIENTATION, default=1)
        depth, colormap = page.bitspersample, page.colormap
        # A strip that is not there would silently be read as black.
        end = max(offset + count for offset, count in zip(page.dataoffsets, page.databytecounts, strict=True))
        size = file.seek(0, os.SEEK_END)
        sides = [(int(page.imagewidth), int(page.imagelength)), (int(page.tilewidth), int(page.tilelength))]
    for width, height in sides:  # a tile may be larger than its picture, and is decoded whole
        _check_size(path, width, height)
    if len(series) > 1 or axes not in ("YX", "YXS", "SYX"):
        shapes = ", ".join(str(one.shape) for one in series)
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
        # 1 to 7 or 9 to 15 bits: stretched to the whole type, which is what its largest value means from here on.
        pixels = (pixels * (np.iinfo(pixels.dtype).max / (2**depth - 1))).round().astype(pixels.dtype)
    if photometric == color.MINISWHITE and pixels.dtype.kind == "u":
        pixels = np.iinfo(pixels.dtype).max - pixels
    if extra and extra[0] == tifffile.EXTRASAMPLE.ASSOCALPHA:
        pixels = _unmultiplied(pixels)
    return pixels, orientation


def _unmultiplied(pixels: np.ndarray) -> np.ndarray:
    """Colours that were stored multiplied by their alpha, divided by it; black where nothing is to be seen."""
    planes = to_planes(pixels, channel_axis=-1, dtype=np.float64)
    alpha = planes[-1]
    np.divide(planes[:-1], alpha, out=planes[:-1], where=alpha > 0)
    return from_planes(planes, pixels, channel_axis=-1)


def _upright(pixels: np.ndarray, orientation: object) -> np.ndarray:
    """The picture as the camera was held: EXIF orientation 1 to 8, anything else is 1."""
    turn = orientation if isinstance(orientation, int) else 1
    if turn in (5, 6, 7, 8):
        pixels = pixels.swapaxes(0, 1)
    if turn in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if turn in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return pixels


def _check_bits(dtype: np.dtype) -> None:
    if dtype.kind == "i" or (dtype.itemsize > 2 and dtype.kind == "u"):
        raise ValueError(f"PNG and JPEG hold uint8, uint16 or floats in [0, 1], got {dtype}; convert it, or write .tif")


def _to_bits(layers: np.ndarray, bits: int | None) -> np.ndarray:
    """uint8 or uint16 from floats in [0, 1] (clipped) or from unsigned integers (fractions of their range)."""
    _check_bits(layers.dtype)
    own = 8 * layers.itemsize if layers.dtype.kind == "u" else 8
    dtype = np.dtype(np.uint16 if (bits or own) == 16 else np.uint8)
    if layers.dtype == dtype:
        return layers
    return from_planes(to_planes(layers, dtype=np.float64), dtype)


def _png_bytes(layers: np.ndarray) -> bytes:
    import imagecodecs

    return bytes(imagecodecs.png_encode(np.ascontiguousarray(layers if layers.shape[2] > 1 else layers[..., 0])))


def _jpeg_bytes(layers: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    image = Image.fromarray(layers if layers.shape[2] > 1 else layers[..., 0])
    image.save(buffer, "JPEG", quality=95, subsampling=0)  # the details are what the user came for
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
    """All of `data` under the name `path`, or nothing: a temporary neighbour is filled, then renamed."""
    target = Path(os.path.realpath(path))  # through a link, as open() would
    temporary = target.with_name(f".gpudeblur-{secrets.token_hex(6)}.tmp")
    try:
        temporary.write_bytes(data)
        temporary.replace(target)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
