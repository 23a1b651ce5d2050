"""The networks that restore pictures or judge them: their classes, their weights in the package, files of weights."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from ..images.output import write_whole

if TYPE_CHECKING:  # the names of the networks are needed without torch
    import torch
    from torch import nn


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
    "deepdeblur": Entry(
        ".deepdeblur.network:DeepDeblur", "cc59144d9c15ceadf36dc27b96bb4ee50bde04ae8789eef20a1c99e96515e564"
    ),
    "sketch": Entry(".sketch.network:Sketch", "f006a3e93e9390ce568bcd61789b185a41f48c28123887d73c4b5181efc94757"),
    "enhancement-gan": Entry(
        ".enhancement_gan.network:EnhancementGAN", "8c015feed98dec3d8c150e0f898a19b11d9abf93e7f214ba68a622296f54e466"
    ),
}
# Networks that restore nothing, but judge images or kernels for those that do.
JUDGES = {
    "face-gate": Entry(
        ".face_gate.network:FaceGate", "07cfff4da9f56d3e065812a9f00ee709b0a260bb56a0340c40054475b7cce7fe"
    ),
    "judge": Entry(".judge.network:Judge", "d008aeb8afac63beeef9755b98d88f63710b4a69ed3fbf9fac21d38acc975bf1"),
}
# Networks that methods use as a step; they restore nothing by themselves.
STEPS = {
    "denoiser": Entry(".denoiser.network:Denoiser", "82eaa3ef356a1220667a7f75e50d83ffe5b9d01ae5ae34412e3c259d6bf6929f")
}


def entry(name: str) -> Entry:
    """The entry of a network, judge or step."""
    return (NETWORKS | JUDGES | STEPS)[name]


def shipped_weights(name: str) -> Path:
    """The file of the weights that ship with the package."""
    folder = entry(name).location.split(".")[1]
    return Path(__file__).parent / folder / f"{folder}.safetensors"


# Of all weights in the package.
LICENSE = "research use: trained on CelebA"


def all_weights() -> list[Path]:
    """The files of all weights in the package, those of the classifier included."""
    return sorted(Path(__file__).parent.glob("*/*.safetensors"))


def load_network(name: str, path: Path | None = None) -> nn.Module:
    """A network with the weights of the package, or with those of a file or checkpoint, in float32 for evaluation.

    Raises
    ------
    OSError
        The file cannot be read, or no weights of this network ship.
    ValueError
        As `weights.unpack`; or the file is of another network.
    """
    from .weights import read_weights

    if path is None and not shipped_weights(name).exists():
        raise FileNotFoundError(
            f"no weights of the network {name!r} ship with this version; train some, and name the file"
        )
    path, checksum = (Path(path), None) if path is not None else (shipped_weights(name), entry(name).checksum)
    tensors, metadata = read_weights(path, checksum)
    architecture = metadata.get("architecture")
    if architecture != name:
        raise ValueError(
            f"weights {path} must be of the network {name!r}, got {architecture!r}; name another file or network"
        )
    try:
        network = entry(name).network(**json.loads(metadata["config"]))
    except (KeyError, ValueError, TypeError) as error:
        raise ValueError(f"weights {path} must hold the config of {name!r}, got {error!r}; get a fresh copy") from error
    for other in shared_tensors(network).values():
        trained_with, here = json.loads(metadata.get("shared", "{}")).get(other), entry(other).checksum
        if trained_with != here:
            raise ValueError(f"weights {path} must be for the {other!r} of this version, {here}, got {trained_with}")
    load_shared(network)
    expected = {key: t for key, t in network.state_dict().items() if not is_shared(network, key)}
    tensors = {key: tensor for key, tensor in tensors.items() if not is_shared(network, key)}  # of a checkpoint
    shapes = {key: tuple(tensor.shape) for key, tensor in tensors.items()}
    if shapes != {key: tuple(tensor.shape) for key, tensor in expected.items()}:
        raise ValueError(f"weights {path} must hold the tensors of its config, got others; get a fresh copy")
    network.load_state_dict({key: tensor.float() for key, tensor in tensors.items()}, strict=False)
    return network.eval().requires_grad_(False)


def shared_tensors(network: nn.Module) -> dict[str, str]:
    """{prefix of tensors: name of the network whose they are}: what the file of a network does not hold."""
    return dict(getattr(network, "shared", {}))


def is_shared(network: nn.Module, name: str) -> bool:
    """Whether a tensor of that name is another network's."""
    return name.startswith(tuple(shared_tensors(network)))


def load_shared(network: nn.Module) -> None:
    """Give a network the tensors that it shares with others, from their weights in the package."""
    for prefix, other in shared_tensors(network).items():
        tensors = load_network(other).state_dict()
        network.load_state_dict({key: t for key, t in tensors.items() if key.startswith(prefix)}, strict=False)


def write_network(path: Path, network: nn.Module, weights: Mapping[str, torch.Tensor]) -> str:
    """Write weights of a network in float16, atomically; returns the SHA-256 of the file."""
    from .weights import pack

    shared = shared_tensors(network)
    metadata = {"architecture": str(network.NAME), "config": json.dumps(network.config)}
    if shared:
        metadata["shared"] = json.dumps({other: entry(other).checksum for other in shared.values()})
    tensors = {name: tensor.half() for name, tensor in weights.items() if not is_shared(network, name)}
    data = pack(tensors, metadata)
    write_whole(Path(path), data)
    return hashlib.sha256(data).hexdigest()


def network_names() -> tuple[str, ...]:
    """What `restore` accepts: the networks, and "face"."""
    return (*NETWORKS, "face")
