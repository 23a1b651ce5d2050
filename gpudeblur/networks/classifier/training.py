"""Training of the classifier ([Li2018], section 3): binary cross-entropy; the optimizer is SGD with momentum."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ...images.files import write_whole
from ..training.pictures import Pictures
from ..training.trainer import Loss
from ..weights import pack
from .data import DataConfig, make_batch
from .network import Classifier

Stack = tuple[torch.Tensor, torch.Tensor]


class ClassifierTask:
    """Binary cross-entropy of clear and blurred crops ([Li2018] eq. 3)."""

    shipped = "network"

    def __init__(
        self, network: Classifier, folders: Sequence[Pictures], config: DataConfig, device: str = "cpu"
    ) -> None:
        self.network, self.folders, self.config, self.device = network, folders, config, device
        self.modules: Mapping[str, nn.Module] = {"network": network}

    def batch(self, index: int) -> list[Stack]:
        """Stacks of crops of equal size, images (n, 1, h, w), and labels (n,), 1 for blurred."""
        stacks = make_batch(self.folders, self.config, index)
        return [
            (torch.from_numpy(images)[:, None].to(self.device), torch.from_numpy(labels).to(self.device))
            for images, labels in stacks
        ]

    def losses(self, batch: list[Stack], share: float) -> Iterator[Loss]:
        logits = torch.cat([self.network.logits(images) for images, _ in batch])
        labels = torch.cat([labels for _, labels in batch])
        loss = nn.functional.binary_cross_entropy_with_logits(logits, labels)
        accuracy = ((logits.detach() > 0) == (labels > 0.5)).float().mean()
        yield Loss("network", loss, {"accuracy": float(accuracy)})

    def describe(self) -> dict[str, Any]:
        folders = [[f.path.name, len(f.images), sum(int(image.size) for image in f.images)] for f in self.folders]
        return {
            "architecture": Classifier.NAME, "network": self.network.config, "folders": folders,
            **asdict(self.config),
        }  # fmt: skip


def write_classifier(path: Path, network: Classifier) -> str:
    """Write the weights alone, atomically; returns the SHA-256 of the file."""
    data = pack(network.state_dict())
    write_whole(Path(path), data)
    return hashlib.sha256(data).hexdigest()
