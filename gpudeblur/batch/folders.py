"""Files and folders of images: which files to read, where to write, and the outcome of each. For `gpudeblur batch`."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ..images.files import READ_SUFFIXES, Metadata, check_output, read_image, result_suffix, write_image, write_kernel
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
    strength: float | None = None  # the restoration's share in the result
    seconds: float | None = None


@dataclass(frozen=True)
class FileTask:
    """A file to read, those to write, and the file of its mask."""

    source: Path
    output: Path
    kernel: Path | None
    mask: Path | None = None

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
    masks: Path | None = None,
) -> list[FileTask]:
    """The tasks for files and folders. An output has the name of its source, and its place within the source folder.

    Parameters
    ----------
    sources : image files, and folders. The images of a folder are taken in order of name, without hidden files.
    out, kernels : folders for the images and, if wanted, for the kernels (.npy).
    recursive : whether to take folders within folders.
    suffix : of the images to write. None keeps that of the source, if its format is written (`result_suffix`).
    masks : folder of masks; that of an image has its name, but for the suffix, and its place within the source folder.

    Raises
    ------
    FileNotFoundError, ValueError
        A source does not exist or does not have the suffix of an image; there is no image at all; two outputs have the
        same name, or an output is a source; an image has two masks or is its own, or none has one.
    """
    other_folders = {folder.resolve() for folder in (out, kernels, masks) if folder is not None}
    files: list[tuple[Path, Path]] = []  # the source, and its place below `out`
    for source in sources:
        if source.is_dir():
            images = sorted(_find_images(source, recursive, other_folders))
            files += [(file, file.relative_to(source)) for file in images]
        elif not source.exists():
            raise FileNotFoundError(f"{source} does not exist; name files or folders")
        elif source.suffix.lower() not in READ_SUFFIXES:
            raise ValueError(f"{source} must end in {', '.join(READ_SUFFIXES)}; convert it, or leave it out")
        else:
            files.append((source, Path(source.name)))
    if not files:
        way_out = "name other folders" if recursive else "folders in folders need --recursive"
        raise ValueError(f"there is no picture ({', '.join(READ_SUFFIXES)}) in what was named; {way_out}")
    tasks = []
    for source, relative in files:
        output = out / relative.with_suffix(suffix or result_suffix(relative))
        tasks.append(FileTask(source, output, None if kernels is None else kernels / relative.with_suffix(".npy")))
    _check_outputs(tasks)
    return tasks if masks is None else _with_masks(tasks, [relative for _, relative in files], masks)


def _with_masks(tasks: list[FileTask], places: list[Path], folder: Path) -> list[FileTask]:
    """`tasks` with the masks in `folder` that have the names of their images, whose `places` are relative."""
    masks: dict[Path, list[Path]] = {}
    for file in sorted(_find_images(folder, True, set())):
        masks.setdefault(file.relative_to(folder).with_suffix(""), []).append(file)
    result = []
    for task, place in zip(tasks, places, strict=True):
        files = masks.get(place.with_suffix(""), [])
        if len(files) > 1:
            raise ValueError(f"--mask must have one file for {task.source}, got {files[0]} and {files[1]}; remove one")
        if files and files[0].resolve() == task.source.resolve():
            raise ValueError(f"--mask must be a folder of masks, got that of the picture {task.source}; name another")
        result.append(replace(task, mask=files[0] if files else None))
    if all(task.mask is None for task in result):
        name = places[0].with_suffix(".png")
        raise ValueError(f"--mask must have a file for some picture, got none in {folder}; name them like {name}")
    return result


def read_mask(path: Path | str, shape: tuple[int, ...] | None = None) -> np.ndarray:
    """The mask of a file, (H, W) bool: False where it is 0 (black).

    Raises
    ------
    OSError, ValueError
        See `read_image`; the mask is black all over, or does not have the `shape` (H, W) of the image.
    """
    pixels = read_image(path).pixels
    mask = (pixels != 0).any(axis=tuple(range(2, pixels.ndim)))
    if shape is not None and mask.shape != shape:
        sizes = [" x ".join(map(str, sides)) for sides in (shape, mask.shape)]
        raise ValueError(f"--mask must have the size of the picture, {sizes[0]}, got {sizes[1]}; black is not valid")
    if not mask.any():
        raise ValueError(f"--mask must not be black all over, got {path}; black pixels are not valid, others are")
    return mask


def _find_images(folder: Path, recursive: bool, excluded: set[Path]) -> Iterator[Path]:
    """The files of a folder that have the suffix of an image. `excluded` folders hold masks or results."""
    for directory, subfolders, names in os.walk(folder):
        subfolders[:] = [
            name
            for name in subfolders
            if recursive and not name.startswith(".") and (Path(directory) / name).resolve() not in excluded
        ]
        for name in names:
            if not name.startswith(".") and Path(name).suffix.lower() in READ_SUFFIXES:
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
    tasks: list[FileTask],
    kernel_size: Any = None,
    *,
    overwrite: bool = False,
    bits: int | None = None,
    strip: bool = False,
    **settings: Any,
) -> Iterator[Outcome]:
    """Read, deblur and write the files, and yield the outcome of each. No file is left half-written.

    An error of one file, or of its mask, is its outcome. Outputs that exist are kept unless `overwrite`. `bits` as in
    `write_image`; `strip` leaves out the metadata of the sources; `settings` are those of `deblur_batch`, without
    `mask` if the tasks have masks.
    """
    complete = set() if overwrite else {task for task in tasks if all(file.exists() for file in task.outputs)}
    yield from (task.outcome("skipped") for task in tasks if task in complete)
    pending: deque[tuple[FileTask, Any, Metadata | None]] = deque()  # with the alpha channel
    failed: deque[Outcome] = deque()  # before the computation
    masks: deque[np.ndarray | None] = deque()  # of the image that is read

    def masks_in_turn() -> Iterator[np.ndarray | None]:
        while masks:
            yield masks.popleft()

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
                mask = None if task.mask is None else read_mask(task.mask, photo.pixels.shape[:2])
            except FILE_ERRORS as error:
                failed.append(task.failed(error))
                continue
            pending.append((task, photo.alpha, None if strip else photo.metadata))
            masks.append(mask)
            yield photo.pixels if photo.pixels.ndim == 3 else photo.pixels[..., None]

    if any(task.mask is not None for task in tasks):
        settings["mask"] = masks_in_turn()
    with deblur_batch(images(), kernel_size, channel_axis=-1, **settings) as results:
        for result in results:
            while failed:
                yield failed.popleft()
            task, alpha, metadata = pending.popleft()
            if result.image is None:
                yield task.failed(result.error)
                continue
            image = result.image[..., 0] if result.image.shape[-1] == 1 else result.image
            try:
                if overwrite or not task.output.exists():
                    white = white_of_file(result, settings.get("white"))
                    write_image(task.output, image, alpha, bits=bits, white=white, metadata=metadata)
                if task.kernel is not None and result.kernel is not None and (overwrite or not task.kernel.exists()):
                    write_kernel(task.kernel, result.kernel)
            except FILE_ERRORS as error:
                yield task.failed(error)
                continue
            info, strength = result.info, float(result.info.get("strength", 1))
            outcome = replace(task.outcome("written"), strength=strength)
            yield replace(outcome, confidence=float(info["confidence"]), seconds=float(info["seconds"]))
    yield from failed
