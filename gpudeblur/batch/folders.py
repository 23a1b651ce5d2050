"""Files and folders of images: which files to read, where to write, and the outcome of each. For `gpudeblur batch`."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ..images.files import PICTURE_SUFFIXES, check_output, read_image, write_image, write_kernel
from .iterator import deblur_batch

# What reading or writing one file may raise; it fails that file alone.
FILE_ERRORS = (OSError, ValueError, TypeError, MemoryError)


def at_command_line(message: Any) -> str:
    """The text of an error or a warning; some name options there, where they name arguments in Python."""
    return str(getattr(message, "at_command_line", message))


def white_of_file(result: Any, white: float | str | None) -> float | None:
    """The white level by which `write_image` converts a result to the depth of its file.

    An integer picture whose white level is only assumed keeps its brightness.
    """
    return None if white is None and result.image.dtype.kind != "f" else result.info.get("white")


@dataclass(frozen=True)
class Outcome:
    """One row of the report."""

    source: str
    output: str
    kernel: str | None  # file
    status: str  # "written", "skipped" (all its outputs existed) or "failed"
    error: str = ""
    confidence: float | None = None
    seconds: float | None = None


@dataclass(frozen=True)
class FileTask:
    """A file to read, and those to write."""

    source: Path
    output: Path
    kernel: Path | None

    @property
    def outputs(self) -> list[Path]:
        return [self.output] if self.kernel is None else [self.output, self.kernel]

    def outcome(self, status: str) -> Outcome:
        return Outcome(str(self.source), str(self.output), None if self.kernel is None else str(self.kernel), status)

    def failed(self, error: BaseException | None) -> Outcome:
        text = at_command_line(error) or type(error).__name__
        return replace(self.outcome("failed"), error=text.replace("\n", " "))


def plan(
    sources: Iterable[Path],
    out: Path,
    *,
    kernels: Path | None = None,
    recursive: bool = False,
    suffix: str | None = None,
) -> list[FileTask]:
    """The tasks for files and folders. An output has the name of its source, and its place within the source folder.

    Parameters
    ----------
    sources : image files, and folders. The images of a folder are taken in order of name, without hidden files.
    out, kernels : folders for the images and, if wanted, for the kernels (.npy).
    recursive : whether to take folders within folders.
    suffix : of the images to write. None keeps that of the source.

    Raises
    ------
    FileNotFoundError, ValueError
        A source does not exist or does not have the suffix of an image; there is no image at all; two outputs have the
        same name, or an output is a source.
    """
    output_folders = {folder.resolve() for folder in (out, kernels) if folder is not None}
    files: list[tuple[Path, Path]] = []  # the source, and its place below `out`
    for source in sources:
        if source.is_dir():
            images = sorted(_find_images(source, recursive, output_folders))
            files += [(file, file.relative_to(source)) for file in images]
        elif not source.exists():
            raise FileNotFoundError(f"{source} does not exist; name files or folders")
        elif source.suffix.lower() not in PICTURE_SUFFIXES:
            raise ValueError(f"{source} must end in {', '.join(PICTURE_SUFFIXES)}; convert it, or leave it out")
        else:
            files.append((source, Path(source.name)))
    if not files:
        way_out = "name other folders" if recursive else "folders in folders need --recursive"
        raise ValueError(f"there is no picture ({', '.join(PICTURE_SUFFIXES)}) in what was named; {way_out}")
    tasks = []
    for source, relative in files:
        output = out / (relative if suffix is None else relative.with_suffix(suffix))
        tasks.append(FileTask(source, output, None if kernels is None else kernels / relative.with_suffix(".npy")))
    _check_outputs(tasks)
    return tasks


def _find_images(folder: Path, recursive: bool, excluded: set[Path]) -> Iterator[Path]:
    """The files of a folder that have the suffix of an image. `excluded` folders hold results of an earlier run."""
    for directory, subfolders, names in os.walk(folder):
        subfolders[:] = [
            name
            for name in subfolders
            if recursive and not name.startswith(".") and (Path(directory) / name).resolve() not in excluded
        ]
        for name in names:
            if not name.startswith(".") and Path(name).suffix.lower() in PICTURE_SUFFIXES:
                yield Path(directory) / name


def _check_outputs(tasks: list[FileTask]) -> None:
    sources = {task.source.resolve() for task in tasks}
    source_of: dict[Path, Path] = {}
    for task in tasks:
        for output in task.outputs:
            path = output.resolve()
            if path in sources:
                raise ValueError(
                    f"output file {output} is an input; choose another folder, so that the photographs are kept"
                )
            if path in source_of:
                raise ValueError(
                    f"output files must differ, got {output} for both {source_of[path]} and {task.source}; "
                    "rename one, or run them into different folders"
                )
            source_of[path] = task.source


def deblur_files(
    tasks: list[FileTask], kernel_size: Any = None, *, overwrite: bool = False, bits: int | None = None, **settings: Any
) -> Iterator[Outcome]:
    """Read, deblur and write the files, and yield the outcome of each. No file is left half-written.

    An error of one file is its outcome. Outputs that exist are kept unless `overwrite`. `bits` as in `write_image`;
    `settings` are those of `deblur_batch`.
    """
    complete = set() if overwrite else {task for task in tasks if all(file.exists() for file in task.outputs)}
    yield from (task.outcome("skipped") for task in tasks if task in complete)
    pending: deque[tuple[FileTask, Any]] = deque()  # with the alpha channel
    failed: deque[Outcome] = deque()  # before the computation

    def images() -> Iterator[np.ndarray]:
        for task in tasks:
            if task in complete:
                continue
            try:
                photo = read_image(task.source)
                for folder in {file.parent for file in task.outputs}:
                    folder.mkdir(parents=True, exist_ok=True)
                alpha, dtype = photo.alpha is not None, photo.pixels.dtype
                check_output(task.output, alpha=alpha, bits=bits, dtype=dtype, source=task.source)
            except FILE_ERRORS as error:
                failed.append(task.failed(error))
                continue
            pending.append((task, photo.alpha))
            yield photo.pixels if photo.pixels.ndim == 3 else photo.pixels[..., None]

    with deblur_batch(images(), kernel_size, channel_axis=-1, **settings) as results:
        for result in results:
            while failed:
                yield failed.popleft()
            task, alpha = pending.popleft()
            if result.image is None:
                yield task.failed(result.error)
                continue
            image = result.image[..., 0] if result.image.shape[-1] == 1 else result.image
            try:
                if overwrite or not task.output.exists():
                    write_image(
                        task.output, image, alpha, bits=bits, white=white_of_file(result, settings.get("white"))
                    )
                if task.kernel is not None and result.kernel is not None and (overwrite or not task.kernel.exists()):
                    write_kernel(task.kernel, result.kernel)
            except FILE_ERRORS as error:
                yield task.failed(error)
                continue
            info = result.info
            yield replace(task.outcome("written"), confidence=float(info["confidence"]), seconds=float(info["seconds"]))
    yield from failed
