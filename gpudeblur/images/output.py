"""Where results may be written, and writing them: completely or not at all."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import numpy as np

from .checks import as_integer

PNG, JPEG, TIFF = (".png",), (".jpg", ".jpeg"), (".tif", ".tiff")
PICTURE_SUFFIXES = PNG + JPEG + TIFF
MAX_JPEG_SIDE = 65500  # of libjpeg
KERNEL_SUFFIXES = (".npy", ".png", *TIFF)


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
    sides: tuple[int, ...] = (),
    source: str | os.PathLike[str] | None = None,
) -> Path:
    """Raise, before any computation, if a result could not be written.

    Parameters
    ----------
    path : path
        The output file.
    suffixes : tuple of str
        Allowed endings of its name.
    alpha, bits, dtype, sides
        Whether there is an alpha channel, `bits` of `write_image`, dtype, height and width of the image.
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
    if suffix in JPEG and max(sides, default=0) > MAX_JPEG_SIDE:
        raise ValueError(f"JPEG holds sides of up to {MAX_JPEG_SIDE} pixels, got {max(sides)}; write .png or .tif")
    if dtype is not None and suffix not in TIFF:
        check_bits(dtype)
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


def check_quality(quality: int | None) -> None:
    if quality is not None and (as_integer(quality) is None or not 1 <= quality <= 100):
        raise ValueError(f"quality must be an integer from 1 to 100, got {quality!r}; 95 is the default")


def check_bits(dtype: np.dtype) -> None:
    if dtype.kind == "i" or (dtype.itemsize > 2 and dtype.kind == "u"):
        raise ValueError(f"PNG and JPEG hold uint8, uint16 or floats in [0, 1], got {dtype}; convert it, or write .tif")


def write_whole(path: Path, data: bytes) -> None:
    """Write `data` to `path` as `whole_file` does."""
    with whole_file(path) as file:
        file.write(data)


@contextmanager
def whole_file(path: Path) -> Iterator[BinaryIO]:
    """A file to write, which replaces `path` atomically at the end: a temporary one in the same folder, on the disk."""
    target = Path(os.path.realpath(path))  # through a link, as open() would
    temporary = target.with_name(f".gpudeblur-{secrets.token_hex(6)}.tmp")
    try:
        with temporary.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())  # or a power cut could leave the new name without its bytes
        temporary.replace(target)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.errno is not None:  # it names the temporary file, or none
            raise OSError(error.errno, error.strerror, str(path)) from error
        raise
