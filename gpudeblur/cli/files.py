"""The files of a command: IN or standard input, OUT or standard output, default names, and what exists already."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from ..images.output import PICTURE_SUFFIXES, check_bits, check_output
from .options import check_encoding

if TYPE_CHECKING:
    from ..images.files import ImageFile

STREAM = Path("-")  # as IN standard input, as OUT standard output
# What the files that a command needs are called at the end of a name, where none is given.
DEBLURRED, KERNEL = "_deblurred", "_kernel"
COMPARISON_SUFFIXES = (".png", ".jpg", ".jpeg")


@contextmanager
def input_file(source: Path) -> Iterator[Path]:
    """`source`, or a file with what comes in by standard input, which is deleted afterwards.

    Raises
    ------
    FileNotFoundError, IsADirectoryError
        There is no such file; it is a folder, which `gpudeblur batch` takes.
    ValueError
        Standard input is a terminal.
    """
    if source != STREAM:
        if source.is_dir():
            raise IsADirectoryError(
                f"IN must be a file, {source} is a folder; gpudeblur batch {shlex.quote(str(source))} -o DIR takes all "
                "of its pictures"
            )
        if not source.exists():
            raise FileNotFoundError(f"IN must exist, there is no file {source}; check the name")
        yield source
        return
    if sys.stdin.isatty():
        raise ValueError("IN - is standard input, got a terminal; pipe a picture into it, or name a file")
    with TemporaryDirectory(prefix="gpudeblur-") as folder:
        path = Path(folder) / "input"
        path.write_bytes(sys.stdin.buffer.read())
        try:
            yield path
        except ValueError as error:
            if error.args:
                error.args = (str(error.args[0]).replace(str(path), "standard input"), *error.args[1:])
            raise


def output_file(
    source: Path,
    out: Path | None,
    ending: str,
    *,
    suffix: str | None = None,
    suffixes: tuple[str, ...] = PICTURE_SUFFIXES,
    overwrite: bool = False,
    bits: int | None = None,
    quality: int | None = None,
) -> Path:
    """Where the result goes: OUT, or in OUT if that is a folder, or beside IN.

    The name in a folder is that of IN with `ending` and `suffix`, by default that of `result_suffix`. Standard input
    goes to standard output.

    Raises
    ------
    OSError, ValueError
        As `check_output`; or the file exists and is not to be overwritten, or standard output is a terminal.
    """
    check_encoding(bits, quality)
    if out == STREAM or (out is None and source == STREAM):
        check_encoding(bits, quality, ".png")
        if sys.stdout.isatty():
            raise ValueError("--out - is standard output, got a terminal; redirect it to a file, or name one")
        return STREAM
    if out is None or out.is_dir():
        from ..images.files import result_suffix

        suffix = suffix or result_suffix(source)
        stem = "picture" if source == STREAM else source.stem
        out = (source.parent if out is None else out) / f"{stem}{ending}{suffix}"
    check_encoding(bits, quality, out.suffix)
    return check_new(out, "--out", source, suffixes=suffixes, overwrite=overwrite, bits=bits)


def check_new(path: Path, option: str, source: Path, *, overwrite: bool, **rules: Any) -> Path:
    """`path`, to which `option` will write; raise if it is not writable, is `source`, or exists without `overwrite`."""
    check_output(path, source=None if source == STREAM else source, **rules)
    if path.exists() and not overwrite:
        raise FileExistsError(f"{option} must be a new file, {path} exists; name another, or give --overwrite")
    return path


def check_further(
    files: Mapping[str, tuple[Path | None, tuple[str, ...]]], source: Path, out: Path, *, overwrite: bool
) -> None:
    """Raise if a file beside OUT, by its option and with the suffixes that it may have, cannot be written.

    No two of them may be the same, or OUT.
    """
    option_of = {out.resolve(): "--out"}
    for option, (path, suffixes) in files.items():
        if path is None:
            continue
        check_new(path, option, source, suffixes=suffixes, overwrite=overwrite)
        if path.resolve() in option_of:
            same_file = option_of[path.resolve()]
            raise ValueError(f"{option} must be another file than {same_file}, got {path} for both; rename one")
        option_of[path.resolve()] = option


def check_picture_fits(path: Path, photo: ImageFile, bits: int | None) -> None:
    """Raise if the file cannot hold a result that is like the `photo`."""
    if path == STREAM:
        check_bits(photo.pixels.dtype)
    else:
        check_output(path, alpha=photo.alpha is not None, bits=bits, dtype=photo.pixels.dtype)


def write_picture(
    path: Path,
    pixels: Any,
    photo: ImageFile,
    *,
    bits: int | None,
    quality: int | None,
    white: float | None,
    strip: bool,
) -> None:
    """The result for `photo` with its opacity and, without `strip`, its metadata; PNG on standard output."""
    from ..images.files import write_image

    metadata = None if strip else photo.metadata
    settings: dict[str, Any] = {"bits": bits, "quality": quality, "white": white, "metadata": metadata}
    _write(path, ".png", lambda file: write_image(file, pixels, photo.alpha, **settings))


def write_kernel_file(path: Path, kernel: Any, gamma: float) -> None:
    """The kernel in a file, or as .npy on standard output, with the gamma of its picture."""
    from ..images.files import write_kernel

    _write(path, ".npy", lambda file: write_kernel(file, kernel, gamma=gamma))


def _write(path: Path, suffix: str, write: Callable[[Path], None]) -> None:
    if path != STREAM:
        write(path)
        return
    with TemporaryDirectory(prefix="gpudeblur-") as folder:
        file = Path(folder) / f"output{suffix}"
        write(file)
        sys.stdout.buffer.write(file.read_bytes())
        sys.stdout.buffer.flush()
