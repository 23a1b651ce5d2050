"""Read and write network weights as safetensors, never as pickle; files of the package are checked by SHA-256."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

_NEW_RUN = "take an earlier copy of it, or begin a new run in another file"


def _safetensors() -> Any:
    try:
        import safetensors.torch
    except ImportError as error:
        raise ImportError(
            f"weights need the package safetensors, which cannot be imported ({error}); pip install 'gpudeblur[torch]'"
        ) from error
    return safetensors


def pack(tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, str] | None = None) -> bytes:
    """The bytes of a safetensors file; tensors of any device and layout."""
    contiguous = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    data: bytes = _safetensors().torch.save(contiguous, metadata=dict(metadata or {}))
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
    if checksum is not None and (sha256 := hashlib.sha256(data).hexdigest()) != checksum:
        raise ValueError(f"weights {path} must have SHA-256 {checksum}, got {sha256}; get a fresh copy of the package")
    try:
        tensors = library.torch.load(data)
        with library.safe_open(str(path), "pt") as file:
            metadata = file.metadata() or {}
    except (library.SafetensorError, ValueError, KeyError) as error:
        raise ValueError(
            f"weights {path} must be safetensors, got a damaged file ({error}); get a fresh copy"
        ) from error
    return tensors, metadata


def part(tensors: Mapping[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    """The tensors whose name begins with `prefix`, without it."""
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def read_weights(path: Path, checksum: str | None = None) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """`unpack`, of a file of weights or of a checkpoint: of that, what would ship, the average where there is one."""
    tensors, metadata = unpack(path, checksum)
    if "checkpoint" in metadata:
        state = checkpoint_state(path, metadata)
        tensors = part(tensors, f"module.{state['shipped']}.") | part(tensors, "average.")
        metadata = {
            "architecture": state["about"]["architecture"],
            "config": json.dumps(state["about"]["network"]),
        }
    return tensors, metadata


def checkpoint_state(path: Path, metadata: Mapping[str, str]) -> dict[str, Any]:
    """The state of the run in the metadata of a checkpoint; a ValueError that names the file if it is not whole."""
    if "checkpoint" not in metadata:
        raise ValueError(f"{path} must be a checkpoint of gpudeblur train, got other weights; name another file")
    rules: dict[str, Callable[[Any], bool]] = {
        "step": lambda step: type(step) is int and step >= 0,
        "seconds": lambda seconds: type(seconds) in (int, float) and 0 <= seconds < math.inf,
        "about": lambda about: isinstance(about, dict) and {"architecture", "network"} <= about.keys(),
        "shipped": lambda name: isinstance(name, str),
        "measured": lambda measured: isinstance(measured, dict) and measured.keys() == {"threads", "precision"},
        "recent": lambda lines: isinstance(lines, list) and all(isinstance(line, dict) for line in lines),
        "unlogged": lambda count: type(count) is int and count >= 0,
    }
    try:
        state = {"recent": [], "unlogged": 0} | json.loads(metadata["checkpoint"])
    except (json.JSONDecodeError, TypeError) as error:
        raise ValueError(f"checkpoint {path} must have metadata in JSON, got {error}; {_NEW_RUN}") from error
    for name, holds in rules.items():
        if name not in state or not holds(state[name]):
            got = f"{name} {state[name]!r}" if name in state else f"none of {name}"
            raise ValueError(f"checkpoint {path} must say how far its run is, got {got}; {_NEW_RUN}")
    return dict(state)
