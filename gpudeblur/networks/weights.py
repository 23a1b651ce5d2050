"""Weights in and out: safetensors, never pickle; those that ship with the package are held to a checksum."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from .classifier import Classifier

FOLDER = Path(__file__).parent
# SHA-256 of what ships.
CHECKSUMS: Mapping[str, str] = {
    "classifier.safetensors": "0e0a9c0c5c3c6266f4173e2a9294fe592a6a5d2977c4e08b93f2567b9c6dfea3",
}


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


def load_classifier(path: Path | None = None, *, checksum: str | None = None) -> Classifier:
    """The classifier with the weights that ship with the package, or with those of a file.

    Raises
    ------
    ValueError
        As `unpack`; or the file holds other names or shapes than the network.
    """
    if path is None:
        path, checksum = FOLDER / "classifier.safetensors", CHECKSUMS["classifier.safetensors"]
    tensors, _ = unpack(path, checksum)
    tensors = {name: one for name, one in tensors.items() if not name.startswith("momentum.")}
    weights = [tensors.get(f"layers.{number}.weight") for number in range(6)]
    if any(one is None or one.ndim != 4 for one in weights):
        raise ValueError(f"weights {path} must be those of a Classifier, got {sorted(tensors)}; name another file")
    network = Classifier([len(one) for one in weights[:-1] if one is not None])
    for name, own in network.state_dict().items():
        if name not in tensors or tensors[name].shape != own.shape:
            got = tuple(tensors[name].shape) if name in tensors else "nothing"
            raise ValueError(
                f"weights {path} must hold {name} of shape {tuple(own.shape)}, got {got}; they are of another network"
            )
    if extra := sorted(set(tensors) - set(network.state_dict())):
        raise ValueError(f"weights {path} must hold a Classifier alone, got {extra} too; they are of another network")
    network.load_state_dict(tensors)
    return network.eval().requires_grad_(False)
