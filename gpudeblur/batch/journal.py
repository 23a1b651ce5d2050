"""The journal of an output folder: a line of JSON for each picture, by which later runs know what is done, and how.

A picture has a line of status "writing" before its files are written and a line of its outcome after it. A run that is
killed between the two leaves the first, and the next run does that picture again. The last line of a picture counts.
Each run begins with a line of status "run", which says how it was called.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import fields, is_dataclass
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from ..images.stored_file import StoredFile

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

JOURNAL_NAME = ".gpudeblur.jsonl"
BINARY = getattr(os, "O_BINARY", 0)  # Windows: a line ends in one byte
TEMPORARY_FILES = ".gpudeblur-*.tmp"  # of `images.output.write_whole`


def fingerprint(version: str, options: dict[str, Any]) -> str:
    """A hash of the options that decide the results, and of the version."""

    def digest(value: Any) -> Any:
        if is_dataclass(value):  # whose repr leaves out the middle of an array
            names = [field.name for field in fields(value) if field.repr]
            return [type(value).__name__, {name: getattr(value, name) for name in names}]
        if not isinstance(value, np.ndarray):
            return str(value)
        return f"{value.shape} {value.dtype} {hashlib.sha256(np.ascontiguousarray(value).tobytes()).hexdigest()}"

    text = json.dumps([version, options], sort_keys=True, default=digest)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def file_state(path: Path | StoredFile | None) -> list[Any] | None:
    """Size in bytes and time of change in nanoseconds: a file of another state has other contents."""
    if path is None:
        return None
    if isinstance(path, StoredFile):
        return path.state()
    status = path.stat()
    return [status.st_size, status.st_mtime_ns]


class Journal:
    """The journal in `folder`. Runs at the same time, such as shards, may share it.

    `run_line` is written before the first line of this run.

    Each run holds a shared lock on the file. A run that gets the exclusive lock is alone, so the temporary files in
    `output_folders` are those of killed runs, and it removes them. Without locks (Windows, some network drives) they
    stay.
    """

    def __init__(
        self, folder: Path, output_folders: Iterable[Path] = (), run_line: dict[str, Any] | None = None
    ) -> None:
        self.path, self._folders, self._run_line = folder / JOURNAL_NAME, {folder, *output_folders}, run_line
        self._descriptor: int | None = None

    def __enter__(self) -> Journal:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._descriptor is not None:
            try:
                self._remove_temporary_files()
            finally:
                os.close(self._descriptor)
                self._descriptor = None

    def line(self, output: Path) -> dict[str, Any] | None:
        """The last line "writing" or "written" of a picture, by its output file."""
        return self._lines.get(self.key(output))

    def append(self, output: Path, status: str, **values: Any) -> None:
        """Append a line at once, in a single write.

        Raises
        ------
        OSError
            It cannot be written; the message names the journal.
        """
        data = _line_bytes(self.key(output), status, values)
        try:
            self.hold()
            assert self._descriptor is not None
            if os.write(self._descriptor, data) < len(data):
                raise OSError("the disk is full")
        except OSError as error:
            raise OSError(
                f"the journal {self.path} cannot be written ({error}); make room, or choose another folder"
            ) from error

    def key(self, output: Path) -> str:
        return Path(os.path.relpath(output, self.path.parent)).as_posix()

    @cached_property
    def _lines(self) -> dict[str, dict[str, Any]]:
        """The lines by output file."""
        return {line["output"]: line for line in read_lines(self.path) if line["status"] in ("writing", "written")}

    def hold(self) -> None:
        """Open the file for writing, unless it is open, and with it hold the shared lock until the end."""
        if self._descriptor is not None:
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND | BINARY, 0o666)
        self._remove_temporary_files()
        size = os.fstat(self._descriptor).st_size
        if size and _last_byte(self.path) != b"\n":
            os.write(self._descriptor, b"\n")  # after a torn line
        if self._run_line is not None:
            os.write(self._descriptor, _line_bytes("", "run", self._run_line))

    def _remove_temporary_files(self) -> None:
        if fcntl is None or self._descriptor is None:
            return
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:  # another run is at work, or the disk has no locks
            pass
        else:
            for folder in self._folders:
                for file in folder.glob(TEMPORARY_FILES):
                    file.unlink(missing_ok=True)
        with suppress(OSError):
            fcntl.flock(self._descriptor, fcntl.LOCK_SH)


def read_lines(path: Path, start: int = 0) -> Iterator[dict[str, Any]]:
    """The lines of a journal from the byte `start` on.

    A line that is not whole, as of a run killed while it wrote it, does not count.
    """
    try:
        file = path.open("rb")
    except (FileNotFoundError, NotADirectoryError):
        return
    with file:
        file.seek(start)
        for text in file:
            try:
                line = json.loads(text) if text.endswith(b"\n") else {}
                is_whole = isinstance(line["output"], str) and isinstance(line["status"], str)
            except (ValueError, KeyError, TypeError):
                continue
            if is_whole:
                yield line


def _line_bytes(output: str, status: str, values: dict[str, Any]) -> bytes:
    return (json.dumps({"output": output, "status": status, **values}) + "\n").encode()


def _last_byte(path: Path) -> bytes:
    with path.open("rb") as file:
        file.seek(-1, os.SEEK_END)
        return file.read()
