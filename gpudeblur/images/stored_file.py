"""Pictures that fsspec opens: in object stores (s3://, gs://), archives (zip://, tar://), on servers and in memory."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

HEADER_BYTES = 1 << 16  # that are asked for at a time, to read the header of a file
# Where stores of different kinds say which contents a file has, or since when.
_VERSIONS = ("ETag", "etag", "md5Hash", "mtime", "LastModified", "last_modified", "modified", "created", "date_time")


@dataclass(frozen=True)
class StoredFile:
    """A file by its URL, and by its path in a file system of fsspec; takes the place of a `Path` in reading."""

    url: str
    path: str
    store: Any

    def __str__(self) -> str:
        return self.url

    @property
    def suffix(self) -> str:
        return PurePosixPath(self.path).suffix

    def read_bytes(self) -> bytes:
        return bytes(self.store.cat_file(self.path))

    def open(self) -> BinaryIO:
        """For reading a part, which is fetched as it is read."""
        file: BinaryIO = self.store.open(self.path, "rb", block_size=HEADER_BYTES)
        return file

    def state(self) -> list[Any]:
        """Its size, and its version or the time of its last change: of another state, it has other contents."""
        info = self.store.info(self.path)
        return [info.get("size"), next((str(info[name]) for name in _VERSIONS if info.get(name)), 0)]


def as_source(path: str | os.PathLike[str]) -> Path | str:
    """A URL of a store as it is, all else as a `Path`, also of file://."""
    name = os.fspath(path)
    if name.startswith("file://"):
        return Path(name.removeprefix("file://"))
    return name if "://" in name else Path(path)


def full_name(source: Path | StoredFile) -> str:
    """By which another run finds the file."""
    if not isinstance(source, StoredFile):
        return os.path.abspath(source)
    path, chain, archive = source.url.rpartition("::")
    return f"{path}::{os.path.abspath(archive)}" if chain and "://" not in archive else source.url


def stored_files(url: str, *, recursive: bool = False) -> list[tuple[StoredFile, PurePosixPath, bool]]:
    """(file, its place in the folder, whether it is a folder itself) of all that a URL names, in order of name.

    Parameters
    ----------
    url : a file, a folder, or a pattern with * or ?, whose folder is the last one without them; of a chain such as
        zip://*.png::https://host/archive.zip it is the first part.
    recursive : whether to look in folders within a folder.

    Raises
    ------
    ImportError, ValueError
        The package of the protocol is missing, or there is no such protocol.
    FileNotFoundError, OSError
        There is nothing; or the store, or the archive, does not answer.
    """
    try:
        from fsspec.core import has_magic, url_to_fs
    except ImportError as why:
        raise ImportError(f'{url} needs fsspec; pip install "gpudeblur[dask]"') from why
    try:
        store, top = url_to_fs(url, skip_instance_cache=True)  # of an archive that may have changed
    except ImportError as why:
        raise ImportError(f"{url} needs another package here and on all workers: {why}") from why
    except ValueError as why:
        raise ValueError(f"{url} must begin with a protocol of fsspec, such as s3:// or zip://: {why}") from why
    except Exception as why:  # of the store of an archive, of any type
        raise _unreadable(url, why) from why
    first, *chain = url.split("::")
    protocol, _, rest = first.partition("://")
    rest = rest.rstrip("/")
    prefix = f"{protocol}://" + (rest.removesuffix(top.lstrip("/")) if rest.endswith(top.lstrip("/")) else "")
    try:
        store.invalidate_cache()
        if has_magic(top) and not store.exists(top):
            parts = top.split("/")
            folder = "/".join(parts[: next(i for i, part in enumerate(parts) if has_magic(part))])
            entries = store.glob(top, detail=True)
            entries = {path: info for path, info in entries.items() if info["type"] == "file"}
        elif store.isdir(top):
            folder = top.rstrip("/")
            entries = store.find(top, maxdepth=None if recursive else 1, withdirs=True, detail=True)
        else:
            folder, entries = top.rpartition("/")[0], {top: store.info(top)}
    except FileNotFoundError:
        entries = {}
    except Exception as why:
        raise _unreadable(url, why) from why
    if not entries:
        raise FileNotFoundError(f"{url} names no file; check it, or name a folder or a pattern such as *.png")
    files = []
    for path, info in sorted(entries.items()):
        name = path.removeprefix(folder).strip("/")
        if name:
            file = StoredFile("::".join([prefix + path.lstrip("/"), *chain]), path, store)
            files.append((file, PurePosixPath(name), info["type"] == "directory"))
    return files


def stored_file(url: str) -> StoredFile:
    """The file that a URL names; errors as `stored_files`."""
    return stored_files(url)[0][0]


def _unreadable(url: str, why: Exception) -> OSError:
    text = str(why) or type(why).__name__
    return OSError(f"{url} cannot be read ({text}); check the name, the access rights and the connection")
