"""Many picture files: what to read, where to write, what became of each. `gpudeblur batch` is made of it."""

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


@dataclass(frozen=True)
class Outcome:
    """One line of the report."""

    source: str
    output: str
    kernel: str | None  # file
    status: str  # "written", "skipped" (it was there already) or "failed"
    error: str = ""
    confidence: float | None = None
    seconds: float | None = None


@dataclass(frozen=True)
class FileTask:
    """One file to read, and those to write."""

    source: Path
    output: Path
    kernel: Path | None

    @property
    def outputs(self) -> list[Path]:
        return [self.output] if self.kernel is None else [self.output, self.kernel]

    def outcome(self, status: str) -> Outcome:
        return Outcome(str(self.source), str(self.output), None if self.kernel is None else str(self.kernel), status)


def plan(
    sources: Iterable[Path],
    out: Path,
    *,
    kernels: Path | None = None,
    recursive: bool = False,
    suffix: str | None = None,
) -> list[FileTask]:
    """The tasks for files and folders: each picture keeps its name, and its place below the folder it was found in.

    Parameters
    ----------
    sources : files, which must have the suffix of a picture; folders, whose pictures are taken in order of name, hidden
        files left out.
    out, kernels : folders for the pictures and, if asked for, for the kernels (.npy).
    recursive : whether folders in folders count.
    suffix : of the pictures to write; None: that of the one read.

    Raises
    ------
    FileNotFoundError, ValueError
        A source is not there or is no picture by its name; there is none at all; two outputs would have one name, or
        one that of a source.
    """
    ours = {folder.resolve() for folder in (out, kernels) if folder is not None}
    found: list[tuple[Path, Path]] = []  # and where it goes below `out`
    for source in sources:
        if source.is_dir():
            found += [(file, file.relative_to(source)) for file in sorted(_pictures(source, recursive, ours))]
        elif not source.exists():
            raise FileNotFoundError(f"{source} does not exist; name files or folders")
        elif source.suffix.lower() not in PICTURE_SUFFIXES:
            raise ValueError(f"{source} must end in {', '.join(PICTURE_SUFFIXES)}; convert it, or leave it out")
        else:
            found.append((source, Path(source.name)))
    if not found:
        way_out = "name other folders" if recursive else "folders in folders need --recursive"
        raise ValueError(f"there is no picture ({', '.join(PICTURE_SUFFIXES)}) in what was named; {way_out}")
    tasks = []
    for source, below in found:
        output = out / (below if suffix is None else below.with_suffix(suffix))
        tasks.append(FileTask(source, output, None if kernels is None else kernels / below.with_suffix(".npy")))
    _check_names(tasks)
    return tasks


def _pictures(folder: Path, recursive: bool, ours: set[Path]) -> Iterator[Path]:
    """Picture files of a folder, by their suffix; results of an earlier run, in a folder of ours, are none."""
    for here, folders, names in os.walk(folder):
        kept = [name for name in folders if not name.startswith(".") and (Path(here) / name).resolve() not in ours]
        folders[:] = kept if recursive else []
        for name in names:
            if not name.startswith(".") and Path(name).suffix.lower() in PICTURE_SUFFIXES:
                yield Path(here) / name


def _check_names(tasks: list[FileTask]) -> None:
    sources = {task.source.resolve() for task in tasks}
    taken: dict[Path, Path] = {}
    for task in tasks:
        for output in task.outputs:
            where = output.resolve()
            if where in sources:
                raise ValueError(
                    f"output file {output} is an input; choose another folder, so that the photographs are kept"
                )
            if where in taken:
                raise ValueError(
                    f"output files must differ, got {output} for both {taken[where]} and {task.source}; "
                    "rename one, or run them into different folders"
                )
            taken[where] = task.source


def deblur_files(
    tasks: list[FileTask],
    kernel_size: Any,
    *,
    overwrite: bool = False,
    bits: int | None = None,
    **more: Any,
) -> Iterator[Outcome]:
    """Read, deblur and write one picture after the other, each file whole or not at all; yields what became of each.

    What is wrong with one file is its outcome. Outputs that are there already are left alone unless `overwrite`.
    `more` goes to `deblur_batch`.
    """
    waiting: deque[tuple[FileTask, Any]] = deque()
    failed: deque[Outcome] = deque()

    def pictures() -> Iterator[np.ndarray]:
        for task in todo:
            try:
                photo = read_image(task.source)
                for folder in {file.parent for file in task.outputs}:
                    folder.mkdir(parents=True, exist_ok=True)
                check_output(
                    task.output, alpha=photo.alpha is not None, bits=bits, dtype=photo.pixels.dtype, source=task.source
                )
            except (OSError, ValueError, TypeError, MemoryError) as why:
                failed.append(_failure(task, why))
                continue
            waiting.append((task, photo.alpha))
            yield photo.pixels if photo.pixels.ndim == 3 else photo.pixels[..., None]

    done = [] if overwrite else [task for task in tasks if all(file.exists() for file in task.outputs)]
    yield from (task.outcome("skipped") for task in done)
    left_out = {id(task) for task in done}
    todo = [task for task in tasks if id(task) not in left_out]
    with deblur_batch(pictures(), kernel_size, channel_axis=-1, **more) as results:
        for result in results:
            while failed:
                yield failed.popleft()
            task, alpha = waiting.popleft()
            if result.image is None or result.kernel is None:
                yield _failure(task, result.error)
                continue
            image = result.image[..., 0] if result.image.shape[-1] == 1 else result.image
            try:
                if overwrite or not task.output.exists():
                    write_image(task.output, image, alpha, bits=bits)
                if task.kernel is not None and (overwrite or not task.kernel.exists()):
                    write_kernel(task.kernel, result.kernel)
            except (OSError, ValueError, TypeError, MemoryError) as why:
                yield _failure(task, why)
                continue
            info = result.info
            yield replace(task.outcome("written"), confidence=float(info["confidence"]), seconds=float(info["seconds"]))
    yield from failed


def _failure(task: FileTask, why: BaseException | None) -> Outcome:
    return replace(task.outcome("failed"), error=(str(why) or type(why).__name__).replace("\n", " "))
