"""The classifier: any image size, independent images, and weights that are what they claim to be."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("safetensors")

from gpudeblur.networks import weights  # noqa: E402
from gpudeblur.networks.classifier.network import CHECKSUM, WEIGHTS, Classifier, load_classifier  # noqa: E402


@pytest.mark.parametrize("shape", [(1, 1), (5, 3), (32, 47), (64, 64)])
@torch.no_grad()
def test_any_size_and_each_image_by_itself(shape: tuple[int, int]) -> None:
    network = Classifier((4, 4, 4, 4, 4)).initialize(0).double()
    x = torch.rand(3, 1, *shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    f = network(x)
    np.testing.assert_allclose(f, torch.cat([network(image[None]) for image in x]), rtol=1e-12)
    np.testing.assert_allclose(f, network(x + 0.2), rtol=1e-9)  # brightness is not blur
    assert ((f > 0) & (f < 1)).all()


def test_logits_are_float32_under_autocast() -> None:
    network = Classifier().initialize(0)
    images = torch.rand(4, 1, 40, 40, generator=torch.Generator().manual_seed(0))
    with torch.autocast("cpu", torch.bfloat16):
        logits = network.logits(images)
    assert logits.dtype == torch.float32
    assert (logits.bfloat16().float() != logits).any()
    assert network.double().logits(images.double()).dtype == torch.float64


def test_package_weights_are_small_and_have_a_card() -> None:
    card = WEIGHTS.with_suffix(".md").read_text()
    assert WEIGHTS.stat().st_size < 5e6
    assert CHECKSUM in card
    assert "research" in card


def test_other_files_are_refused(tmp_path: Path) -> None:
    tensors = Classifier((4, 4, 4, 4, 4)).initialize(3).state_dict()
    good, pickled, path = weights.pack(tensors), tmp_path / "p.pt", tmp_path / "w.safetensors"
    torch.save({"a": torch.zeros(2)}, pickled)
    path.write_bytes(good)
    load_classifier(path)
    with pytest.raises(ValueError, match=r"must have SHA-256 abc, got [0-9a-f]{64}; get a fresh copy"):
        load_classifier(path, checksum="abc")
    with pytest.raises(ValueError, match="channels must be 5 positive numbers"):
        Classifier((3, 4))
    missing = {name: tensor for name, tensor in tensors.items() if name != "layers.2.bias"}
    refused: list[tuple[Any, str]] = [
        (good[:-9], "must be safetensors, got a damaged file"),
        (b"", "must be safetensors, got a damaged file"),
        (pickled.read_bytes(), "must be safetensors, got a pickle, which can run code"),
        (weights.pack({"x": torch.zeros(2)}), "must be those of a Classifier, got ['x']"),
        (weights.pack({**tensors, "layers.1.bias": torch.zeros(5)}), "must hold layers.1.bias of shape (4,), got (5,)"),
        (weights.pack(missing), "must hold layers.2.bias of shape (4,), got nothing"),
        (weights.pack({**tensors, "more": torch.zeros(2)}), "must hold a Classifier alone, got ['more']"),
    ]
    for content, message in refused:
        path.write_bytes(content)
        with pytest.raises(ValueError, match=re.escape(message)):
            load_classifier(path)
    with pytest.raises(FileNotFoundError):
        load_classifier(tmp_path / "none.safetensors")
