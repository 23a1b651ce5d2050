"""Files and folders of images: which files to read, where to write, and the outcome of each. For `gpudeblur batch`."""

from __future__ import annotations

import os
import stat
import unicodedata
from collections import deque
from collections.abc import Generator, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path, PurePath
from typing import Any

import numpy as np

from ..images.comparison import write_comparison
from ..images.files import (
    KERNEL_SUFFIXES,
    READ_SUFFIXES,
    Metadata,
    check_output,
    read_image,
    result_suffix,
    write_image,
    write_kernel,
)
from ..images.stored_file import StoredFile, full_name, stored_files
from .iterator import BatchResult, deblur_batch, deconvolve_batch
from .journal import JOURNAL_NAME, Journal, file_state
from .messages import in_options


def white_of_file(result: Any, white: float | str | None) -> float | None:
    """The white level by which `write_image` converts a result to the depth of its file.

    An integer picture whose white level is only assumed keeps its brightness.
    """
    return None if white is None and result.image.dtype.kind != "f" else result.info.get("white")


@dataclass(frozen=True)
class Outcome:
    """One row of the report.

    `status` is "written" or "failed"; "skipped": done by an earlier run, by the journal; "not in the journal": the
    outputs exist, nobody knows how they were made; "other options", "source changed": they were made so; "left out": a
    file or folder that is no task.
    """

    source: str
    output: str
    kernel: str | None  # file
    status: str
    error: str = ""
    confidence: float | None = None
    strength: float | None = None  # the restoration's share in the result
    gamma: float | None = None
    seconds: float | None = None
    reason: str = ""  # of what is left out
    options: str = ""  # of the command line, of the run that made the result


@dataclass(frozen=True)
class FileTask:
    """A file to read, those to write, and the file of its mask."""

    source: Path | StoredFile
    output: Path
    kernel: Path | None
    comparison: Path | None = None
    mask: Path | None = None

    @property
    def outputs(self) -> list[Path]:
        return [file for file in (self.output, self.kernel, self.comparison) if file is not None]

    def outcome(self, status: str) -> Outcome:
        return Outcome(str(self.source), str(self.output), None if self.kernel is None else str(self.kernel), status)

    def failed(self, error: BaseException | None) -> Outcome:
        name, text = type(error).__name__, in_options(error)
        if text and not isinstance(error, (OSError, ValueError, TypeError, MemoryError)):  # no text of ours
            text = f"{name}: {text}"
        text = text or name
        return replace(self.outcome("failed"), error=text.replace("\n", " "))

    def state(self) -> dict[str, Any]:
        """What the journal says of the source: its size and time, and those of its mask."""
        size, time = file_state(self.source) or [0, 0]
        return {"size": size, "mtime_ns": time, "mask": file_state(self.mask)}


@dataclass(frozen=True)
class Plan:
    """What to do, and the outcomes that are clear before: files left out, and folders that cannot be read."""

    tasks: list[FileTask]
    outcomes: list[Outcome]

    def shard(self, number: int, count: int) -> Plan:
        """Every `count`-th task, from the `number`-th on (from 1)."""
        return replace(self, tasks=self.tasks[number - 1 :: count])


def plan(
    sources: Iterable[Path | str],
    out: Path,
    *,
    kernels: Path | None = None,
    comparisons: Path | None = None,
    recursive: bool = False,
    suffix: str | None = None,
    masks: Path | None = None,
) -> Plan:
    """The tasks for files and folders. An output has the name of its source, and its place within the source folder.

    Parameters
    ----------
    sources : image files, and folders, also by URLs, as str, which fsspec opens (`stored_files`). The images of a
        folder are taken in order of name; hidden files, and folders that are links, are left out.
    out, kernels, comparisons : folders for the images and, if wanted, for the kernels (NAME.npy) and for pictures of
        each image beside its result (NAME_compare.png).
    recursive : whether to take folders within folders.
    suffix : of the images to write. None keeps that of the source, if its format is written (`result_suffix`).
    masks : folder of masks; that of an image has its name, but for the suffix, and its place within the source folder.

    Raises
    ------
    FileNotFoundError, ValueError
        A source does not exist or does not have the suffix of an image; there is no image at all; two outputs have the
        same name, or an output is a source; an image has two masks or is its own, or none has one.
    """
    other_folders = {folder.resolve() for folder in (out, kernels, comparisons, masks) if folder is not None}
    files, outcomes = pictures_of(sources, recursive=recursive, excluded=other_folders)
    tasks = []
    for source, relative in files:
        output = out / relative.with_suffix(suffix or result_suffix(relative))
        kernel = None if kernels is None else kernels / relative.with_suffix(".npy")
        comparison = None if comparisons is None else comparisons / relative.with_name(f"{relative.stem}_compare.png")
        tasks.append(FileTask(source, output, kernel, comparison))
    _check_outputs(tasks)
    if masks is not None:
        tasks = _with_masks(tasks, [relative for _, relative in files], masks)
    return Plan(tasks, outcomes)


def pictures_of(
    sources: Iterable[Path | str], *, recursive: bool = False, excluded: Iterable[Path] = ()
) -> tuple[list[tuple[Path | StoredFile, Path]], list[Outcome]]:
    """(file, its place within the folder that was named) of all images, and the outcomes of all else in the folders.

    Parameters and errors as in `plan`; `excluded` folders are passed over.
    """
    files: list[tuple[Path | StoredFile, Path]] = []
    outcomes: list[Outcome] = []
    for source in sources:
        if isinstance(source, str):
            for file, place, is_folder in stored_files(source, recursive=recursive):
                reason = _why_not_stored(place, is_folder, recursive)
                if reason:
                    outcomes.append(Outcome(str(file), "", None, "left out", reason=reason))
                elif not is_folder:
                    files.append((file, Path(place)))
        elif source.is_dir():
            folder = Folder.read(source, recursive, set(excluded))
            files.extend((file, file.relative_to(source)) for file in folder.images)
            outcomes += folder.outcomes
        elif not source.exists():
            raise FileNotFoundError(f"{source} does not exist; name files or folders")
        elif source.suffix.lower() not in READ_SUFFIXES:
            way_out = "convert it, or leave it out"
            if source.suffix.lower() in (".zip", ".tar"):
                way_out = f"name its pictures, {source.suffix[1:].lower()}://*.png::{source}"
            raise ValueError(f"{source} must end in {', '.join(READ_SUFFIXES)}; {way_out}")
        else:
            files.append((source, Path(source.name)))
    if not files and all(outcome.status == "left out" for outcome in outcomes):
        way_out = "name other folders" if recursive else "folders in folders need --recursive"
        raise ValueError(f"there is no picture ({', '.join(READ_SUFFIXES)}) in what was named; {way_out}")
    return files, outcomes


def _with_masks(tasks: list[FileTask], places: list[Path], folder: Path) -> list[FileTask]:
    """`tasks` with the masks in `folder` that have the names of their images, whose `places` are relative."""
    masks: dict[Path, list[Path]] = {}
    for file in Folder.read(folder, True, set()).images:
        masks.setdefault(file.relative_to(folder).with_suffix(""), []).append(file)
    result = []
    for task, place in zip(tasks, places, strict=True):
        files = masks.get(place.with_suffix(""), [])
        if len(files) > 1:
            raise ValueError(f"--mask must have one file for {task.source}, got {files[0]} and {files[1]}; remove one")
        if files and files[0].resolve() == _real_name(task.source):
            raise ValueError(f"--mask must be a folder of masks, got that of the picture {task.source}; name another")
        result.append(replace(task, mask=files[0] if files else None))
    if result and all(task.mask is None for task in result):
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


@dataclass(frozen=True)
class Folder:
    """The images of a folder, in order of name, and the outcomes of all else in it."""

    images: list[Path]
    outcomes: list[Outcome]

    @classmethod
    def read(cls, folder: Path, recursive: bool, excluded: set[Path]) -> Folder:
        """Read the names. `excluded` folders hold masks or results, and are passed over."""
        images: list[Path] = []
        outcomes: list[Outcome] = []

        def leave_out(path: Path, reason: str) -> None:
            outcomes.append(Outcome(str(path), "", None, "left out", reason=reason))

        def cannot_read(error: OSError) -> None:
            text = f"folder {error.filename} cannot be read ({error.strerror}); change its permissions, or leave it out"
            outcomes.append(Outcome(str(error.filename), "", None, "failed", error=text))

        for directory, subfolders, names in os.walk(folder, onerror=cannot_read):
            paths = {name: Path(directory) / name for name in subfolders}
            paths = {name: path for name, path in paths.items() if path.resolve() not in excluded}
            reasons = {name: _why_no_folder(path, recursive) for name, path in paths.items()}
            subfolders[:] = [name for name, reason in reasons.items() if not reason]
            for name, reason in reasons.items():
                if reason:
                    leave_out(paths[name], reason)
            for name in names:
                if name != JOURNAL_NAME:
                    path = Path(directory) / name
                    reason = _why_no_image(path)
                    if reason:
                        leave_out(path, reason)
                    else:
                        images.append(path)
        return cls(sorted(images), sorted(outcomes, key=lambda outcome: outcome.source))


def _why_no_folder(path: Path, recursive: bool) -> str:
    """Why a folder within a folder is left out; "" if it is not."""
    if path.name.startswith("."):
        return "hidden"
    if not recursive:
        return "folder (--recursive takes it)"
    return "link to a folder (name it to take it)" if os.path.islink(path) else ""


def _why_not_stored(place: PurePath, is_folder: bool, recursive: bool) -> str:
    """Why a file or folder in a store is left out; "" if it is not."""
    if any(part.startswith(".") for part in place.parts):
        return "hidden"
    if is_folder:
        return "" if recursive else "folder (--recursive takes it)"
    return "" if place.suffix.lower() in READ_SUFFIXES else place.suffix.lower() or "without suffix"


def _why_no_image(path: Path) -> str:
    """Why a file of a folder is left out; "" if it is not."""
    if path.name.startswith("."):
        return "hidden"
    if path.suffix.lower() not in READ_SUFFIXES:
        return path.suffix.lower() or "without suffix"
    # A broken link is taken, and fails.
    return "no regular file" if os.path.exists(path) and not os.path.isfile(path) else ""


def _check_outputs(tasks: list[FileTask]) -> None:
    sources = {_name_on_disk(_real_name(task.source)) for task in tasks}
    source_of: dict[str, Path | StoredFile] = {}
    for task in tasks:
        for output in task.outputs:
            name = _name_on_disk(output.resolve())
            if name in sources:
                raise ValueError(
                    f"output file {output} is an input; choose another folder, so that the photographs are kept"
                )
            if name in source_of and full_name(source_of[name]) == full_name(task.source):
                raise ValueError(f"{task.source} must be named once, got it twice; leave one out")
            if name in source_of:
                raise ValueError(
                    f"output files must differ in more than case, got {output} for both {source_of[name]} and "
                    f"{task.source}; rename one, or run them into different folders"
                )
            source_of[name] = task.source


def _real_name(source: Path | StoredFile) -> Path:
    """Without links; `realpath` takes those in a loop."""
    return Path(source.url if isinstance(source, StoredFile) else os.path.realpath(source))


def _name_on_disk(path: Path | str) -> str:
    """Some disks (NTFS, exFAT, those of macOS) do not tell upper from lower case, or ways to write an accent."""
    return unicodedata.normalize("NFC", str(path)).casefold()


@dataclass(frozen=True)
class Decision:
    """What is done with a task: its files to write, or without them the outcome of an earlier run.

    `replaces` says whether files that exist are written.
    """

    task: FileTask
    outcome: Outcome
    writes: list[Path]
    replaces: bool = False


def decide(
    tasks: Iterable[FileTask], journal: Journal, options_hash: str, *, overwrite: bool = False
) -> list[Decision]:
    """Decide by the files that exist and by the journal, before any work.

    An output is there if it is a regular file with contents. Those of a task that a run with the same options began and
    did not end are written again; others are not replaced unless `overwrite`.
    """
    decisions = []
    for task in tasks:
        missing = [file for file in task.outputs if not _has_contents(file)]
        line, replaces = journal.line(task.output), overwrite
        if overwrite or len(missing) == len(task.outputs):
            status, writes = "written", task.outputs
        elif line is None:
            status, writes = "written" if missing else "not in the journal", missing
        elif line.get("fingerprint") != options_hash:
            status, writes = "other options", []
        elif line["status"] == "writing":
            status, writes, replaces = "written", task.outputs, True
        elif not _same_source(task, line):
            status, writes = "source changed", []
        else:
            status, writes = "written" if missing else "skipped", missing
        outcome = task.outcome(status)
        if status == "skipped" and line is not None:
            figures: dict[str, Any] = {name: line.get(name) for name in FIGURES}
            outcome = replace(outcome, **figures, options=line.get("options", ""))
        decisions.append(Decision(task, outcome, writes, replaces))
    return decisions


FIGURES = ("confidence", "strength", "gamma", "seconds")  # of an outcome, in the journal


def _has_contents(path: Path) -> bool:
    """Whether it is a regular file that is not empty."""
    try:
        status = path.stat()
    except OSError:  # not there, or what `check_output` says of it
        return False
    return stat.S_ISREG(status.st_mode) and status.st_size > 0


def _same_source(task: FileTask, line: dict[str, Any]) -> bool:
    try:
        state = task.state()
    except OSError:  # its result is all there is
        return True
    return all(line.get(name) == value for name, value in state.items())


def deblur_files(
    decisions: list[Decision],
    journal: Journal,
    run_fields: dict[str, Any],
    kernel_size: Any = None,
    *,
    kernel: Any = None,
    bits: int | None = None,
    quality: int | None = None,
    strip: bool = False,
    **settings: Any,
) -> Generator[Outcome, None, None]:
    """Read, deblur and write the files, and yield the outcome of each. No file is left half-written.

    An error of one file, or of its mask, is its outcome. `run_fields` goes into each line of the journal; `bits` and
    `quality` as in `write_image`; `strip` leaves out the metadata of the sources; `settings` are those of
    `deblur_batch`, or with a `kernel` of `deconvolve_batch`, without `mask` if the tasks have masks.
    """
    yield from (decision.outcome for decision in decisions if not decision.writes)
    decisions = [decision for decision in decisions if decision.writes]
    # With the source's state, its alpha channel and its metadata; its pixels for a comparison.
    pending: deque[tuple[Decision, dict[str, Any], Any, Metadata | None, Any]] = deque()
    failed: deque[tuple[FileTask, Outcome]] = deque()  # before the computation
    masks: deque[np.ndarray | None] = deque()  # of the image that is read

    def masks_in_turn() -> Iterator[np.ndarray | None]:
        while masks:
            yield masks.popleft()

    def images() -> Iterator[np.ndarray]:
        for decision in decisions:
            task = decision.task
            try:
                state = task.state()  # before reading: a later change is another state
                photo = read_image(task.source)
                for folder in {file.parent for file in task.outputs}:
                    folder.mkdir(parents=True, exist_ok=True)
                alpha, pixels = photo.alpha is not None, photo.pixels
                facts: dict[str, Any] = {"dtype": pixels.dtype, "sides": pixels.shape[:2]}
                if isinstance(task.source, Path):
                    facts["source"] = task.source
                check_output(task.output, alpha=alpha, bits=bits, **facts)
                if task.kernel is not None:
                    check_output(task.kernel, suffixes=KERNEL_SUFFIXES)
                if task.comparison is not None:
                    check_output(task.comparison)
                mask = None if task.mask is None else read_mask(task.mask, photo.pixels.shape[:2])
            except Exception as error:  # noqa: BLE001 - whatever one file raises is its outcome
                failed.append((task, task.failed(error)))
                continue
            shown = photo.pixels if task.comparison in decision.writes else None
            pending.append((decision, state, photo.alpha, None if strip else photo.metadata, shown))
            masks.append(mask)
            yield photo.pixels if photo.pixels.ndim == 3 else photo.pixels[..., None]

    def record(task: FileTask, outcome: Outcome, state: dict[str, Any]) -> Outcome:
        """The outcome, which the journal has now."""
        figures = {name: getattr(outcome, name) for name in FIGURES}
        journal.append(task.output, outcome.status, **line_fields(task, state), **figures, error=outcome.error)
        return outcome

    def record_failure(task: FileTask, outcome: Outcome) -> Outcome:
        with suppress(OSError):  # such as the disk being full: one error of a picture is enough
            record(task, outcome, {})
        return outcome

    def line_fields(task: FileTask, state: dict[str, Any]) -> dict[str, Any]:
        kernel = None if task.kernel is None else os.path.abspath(task.kernel)
        return {"source": full_name(task.source), **state, "kernel": kernel, **run_fields}

    def write(
        decision: Decision,
        state: dict[str, Any],
        alpha: Any,
        metadata: Metadata | None,
        blurred: Any,
        result: BatchResult,
    ) -> Outcome:
        task, writes = decision.task, decision.writes
        if not decision.replaces:
            writes = [file for file in writes if not _has_contents(file)]
        if not writes:
            return replace(task.outcome("skipped"), reason="its outputs appeared during the run")
        info: dict[str, Any] = dict(result.info)
        figures: dict[str, Any] = {name: float(info[name]) for name in FIGURES if name in info}
        outcome = replace(task.outcome("written"), **{"strength": 1.0} | figures, options=run_fields.get("options", ""))
        image: Any = result.image
        colors, has_output = image[..., 0] if image.shape[-1] == 1 else image, task.output in writes
        if has_output:
            journal.append(task.output, "writing", **line_fields(task, state))
            white = white_of_file(result, settings.get("white"))
            write_image(task.output, colors, alpha, bits=bits, quality=quality, white=white, metadata=metadata)
        if task.kernel is not None and task.kernel in writes:
            write_kernel(task.kernel, result.kernel, gamma=result.info.get("gamma"))
        if task.comparison is not None and task.comparison in writes:
            blur_kernel = result.kernel if kernel is None else kernel
            write_comparison(task.comparison, blurred, colors, blur_kernel, result.info.get("white"))
        # An output that was there may have been made with other options.
        return record(task, outcome, state) if has_output else outcome

    if any(decision.task.mask is not None for decision in decisions):
        settings["mask"] = masks_in_turn()
    if kernel is None:
        iterator = deblur_batch(images(), kernel_size, channel_axis=-1, **settings)
    else:
        iterator = deconvolve_batch(images(), kernel, channel_axis=-1, **settings)
    with iterator as results:
        for result in results:
            while failed:
                yield record_failure(*failed.popleft())
            decision, state, alpha, metadata, blurred = pending.popleft()
            if result.error is None:
                try:
                    outcome = write(decision, state, alpha, metadata, blurred, result)
                except Exception as error:  # noqa: BLE001 - likewise
                    outcome = record_failure(decision.task, decision.task.failed(error))
            else:
                outcome = record_failure(decision.task, decision.task.failed(result.error))
            yield outcome
    while failed:
        yield record_failure(*failed.popleft())
