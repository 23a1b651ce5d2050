"""Weights in and out: safetensors, never pickle; those that ship with the package are held to a checksum."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch


def _safetensors() -> Any:
    try:
        import safetensors.torch
    except ImportError as why:
        raise ImportError(
            f"weights need the package safetensors, which cannot be imported ({why}); pip install 'gpudeblur[torch]'"
        ) from why
    return safetensors


def pack(tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, str] | None = None) -> bytes:
    """A safetensors file."""
    data: bytes = _safetensors().torch.save(dict(tensors), metadata=dict(metadata or {}))
    return data


def unpack(path: Path, checksum: str | None = None) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """(tensors, metadata) of a safetensors file.

    Raises
    ------
    FileNotFoundError
        There is no such file.
    ValueError
        It is a pickle, damaged or truncated, or its SHA-256 is not `checksum`.
    """
    path, library = Path(path), _safetensors()
    data = path.read_bytes()
    if data[:2] in (b"PK", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05"):
        raise ValueError(f"weights {path} must be safetensors, got a pickle, which can run code; convert it first")
    if checksum is not None and (found := hashlib.sha256(data).hexdigest()) != checksum:
        raise ValueError(f"weights {path} must have SHA-256 {checksum}, got {found}; get a fresh copy of the package")
    try:
        tensors = library.torch.load(data)
        with library.safe_open(str(path), "pt") as file:
            metadata = file.metadata() or {}
    except (library.SafetensorError, ValueError, KeyError) as why:
        raise ValueError(f"weights {path} must be safetensors, got a damaged file ({why}); get a fresh copy") from why
    return tensors, metadata
