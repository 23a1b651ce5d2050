"""The weights in the package: files, cards, and what they do to a face that no network was trained on."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("safetensors")

from skimage.data import astronaut, page  # noqa: E402
from skimage.transform import resize  # noqa: E402

import gpudeblur as gd  # noqa: E402
from gpudeblur.metrics import kernel_similarity, psnr  # noqa: E402
from gpudeblur.networks import catalog  # noqa: E402
from gpudeblur.networks.deepdeblur.training import DeepDeblurTask  # noqa: E402
from gpudeblur.networks.enhancement_gan.training import make_task  # noqa: E402
from gpudeblur.networks.sketch.training import SketchTask  # noqa: E402
from gpudeblur.networks.training.data import BatchMaker, Pictures, RestorationConfig  # noqa: E402
from gpudeblur.networks.training.trainer import load_initial  # noqa: E402
from gpudeblur.synthesis import blur, trajectory_kernel  # noqa: E402

SIDE = 11


def face() -> np.ndarray:
    """Scikit-image's astronaut as the networks know faces: 109 x 89 pixels, (3, H, W)."""
    picture = resize(astronaut()[20:218, 143:305], (109, 89), anti_aliasing=True)
    return np.moveaxis(picture, -1, 0).astype(np.float32)


def blurred_face(seed: int = 1) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(blurred, sharp, kernel); the pictures (H, W, 3)."""
    kernel = trajectory_kernel(SIDE, rng=seed)
    blurred = blur(face(), kernel, noise_sigma=0.01, rng=0)
    sharp = face()[:, SIDE // 2 : -(SIDE // 2), SIDE // 2 : -(SIDE // 2)]
    return np.moveaxis(blurred, 0, -1).copy(), np.moveaxis(sharp, 0, -1).copy(), kernel


def test_files_are_small_and_as_the_cards_say() -> None:
    files = catalog.all_weights()
    networks = {"deepdeblur", "sketch", "enhancement_gan", "face_gate", "judge", "classifier"}
    assert {file.stem for file in files} >= networks
    sizes = {file.stem: file.stat().st_size for file in files}
    assert sizes.pop("denoiser") <= 3_000_000
    assert sum(sizes.values()) <= 6_000_000
    for file in files:
        checksum = hashlib.sha256(file.read_bytes()).hexdigest()
        assert checksum in file.with_suffix(".md").read_text()
    for name in catalog.NETWORKS | catalog.JUDGES | catalog.STEPS:
        assert catalog.entry(name).checksum == hashlib.sha256(catalog.shipped_weights(name).read_bytes()).hexdigest()


@pytest.mark.parametrize("name", [*catalog.NETWORKS, "face"])
def test_a_blurred_face_gains(name: str) -> None:
    blurred, sharp, _ = blurred_face()
    result = gd.restore(blurred, name, channel_axis=-1)
    gain = psnr(result.image, sharp) - psnr(blurred, sharp)
    assert gain > 0.5
    assert result.info["strength"] > 0.5


def test_sketch_finds_the_kernel() -> None:
    blurred, _, kernel = blurred_face()
    estimate: Any = gd.restore(blurred, "sketch", channel_axis=-1).kernel
    assert estimate.shape == (27, 27)
    assert kernel_similarity(estimate, kernel) > 0.75


@pytest.mark.parametrize("name", list(catalog.NETWORKS))
def test_a_sharp_face_stays(name: str) -> None:
    sharp = np.moveaxis(face(), 0, -1)
    assert psnr(gd.restore(sharp, name, channel_axis=-1).image, sharp) > 36


@pytest.mark.parametrize("name", list(catalog.NETWORKS))
def test_what_is_no_face_is_hardly_changed(name: str) -> None:
    text = page()[:120, :140] / 255.0
    with pytest.warns(UserWarning, match="do not look like one|does not"):
        result = gd.restore(text, name)
    assert psnr(result.image, text) > 60
    assert result.info["face"] < 0.5


@pytest.mark.parametrize("name", list(catalog.NETWORKS))
def test_training_goes_on_from_the_weights_of_the_package(name: str) -> None:
    """Those that a network shares with another are in the other's file."""
    tasks: dict[str, Any] = {"deepdeblur": DeepDeblurTask, "sketch": SketchTask, "enhancement-gan": make_task}
    pictures = Pictures(Path("faces"), [torch.zeros(3, 109, 89, dtype=torch.uint8)], [])
    maker = BatchMaker([pictures], RestorationConfig(pool=8))
    network = catalog.NETWORKS[name].network()
    catalog.load_shared(network)
    load_initial(tasks[name](network, maker), catalog.shipped_weights(name))
    expected = catalog.load_network(name).state_dict()
    assert all(torch.equal(tensor, expected[key]) for key, tensor in network.state_dict().items())
