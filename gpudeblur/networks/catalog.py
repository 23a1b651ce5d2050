"""The networks that restore pictures: their classes, their weights in the package, and files of weights."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

import torch
from torch import nn

from ..images.files import write_whole
from .weights import pack, read_weights


@dataclass(frozen=True)
class Entry:
    """A network of the package.

    Attributes
    ----------
    location : "module:class", relative to this package.
    checksum : SHA-256 of the weights that ship, NAME.safetensors beside the module; None: none do.
    """

    location: str
    checksum: str | None

    @property
    def network(self) -> type[nn.Module]:
        module, _, name = self.location.partition(":")
        network: type[nn.Module] = getattr(import_module(module, __package__), name)
        return network


NETWORKS = {
    "deepdeblur": Entry(".deepdeblur.network:DeepDeblur", None),
}


def shipped_weights(name: str) -> Path:
    """The file of the weights that ship with the package."""
    folder = NETWORKS[name].location.split(".")[1]
    return Path(__file__).parent / folder / f"{folder}.safetensors"


def load_network(name: str, path: Path | None = None) -> nn.Module:
    """A network with the weights of the package, or with those of a file or checkpoint, in float32 for evaluation.

    Raises
    ------
    ValueError
        As `unpack`; or the file is of another network.
    """
    path, checksum = (Path(path), None) if path is not None else (shipped_weights(name), NETWORKS[name].checksum)
    tensors, metadata = read_weights(path, checksum)
    architecture = metadata.get("architecture")
    if architecture != name:
        raise ValueError(
            f"weights {path} must be of the network {name!r}, got {architecture!r}; name another file or network"
        )
    network = NETWORKS[name].network(**json.loads(metadata["config"]))
    expected = network.state_dict()
    shapes = {key: tuple(tensor.shape) for key, tensor in tensors.items()}
    if shapes != {key: tuple(tensor.shape) for key, tensor in expected.items()}:
        raise ValueError(f"weights {path} must hold the tensors of its config, got others; get a fresh copy")
    network.load_state_dict({key: tensor.float() for key, tensor in tensors.items()})
    return network.eval().requires_grad_(False)


def write_network(path: Path, network: nn.Module, weights: Mapping[str, torch.Tensor]) -> str:
    """Write weights of a network in float16, atomically; returns the SHA-256 of the file."""
    metadata = {"architecture": str(network.NAME), "config": json.dumps(network.config)}
    data = pack({name: tensor.half() for name, tensor in weights.items()}, metadata)
    write_whole(Path(path), data)
    return hashlib.sha256(data).hexdigest()
