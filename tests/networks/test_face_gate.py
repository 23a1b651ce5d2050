"""The gate for what is no face: its training data, the probability of images, and what the weights that ship know."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from skimage import data

from gpudeblur.networks import confidence, restore
from gpudeblur.numerics.arrays import to_host
from gpudeblur.numerics.resample import resample
from gpudeblur.synthesis import blur, linear_kernel

torch = pytest.importorskip("torch")
pytest.importorskip("safetensors")

from gpudeblur.networks.blocks import initialized, parameter_count  # noqa: E402
from gpudeblur.networks.face_gate.network import FaceGate  # noqa: E402
from gpudeblur.networks.face_gate.training import FaceGateTask, draw  # noqa: E402
from gpudeblur.networks.training.data import BatchMaker, RestorationConfig  # noqa: E402
from gpudeblur.networks.training.pictures import Pictures  # noqa: E402
from gpudeblur.networks.training.trainer import TrainConfig, train  # noqa: E402

DATA = RestorationConfig(batch=8, crop=(24, 32), kernels=(3, 7), pool=8, natural=0.5)


def pictures(*images: np.ndarray) -> Pictures:
    tensors = [torch.from_numpy(np.broadcast_to(image, (3, *image.shape)).copy()) for image in images]
    return Pictures(Path("drawn"), tensors, [])


def task(seed: int = 0) -> FaceGateTask:
    """Bright squares are the faces, stripes the rest."""
    square, stripes = np.zeros((48, 48), np.uint8), np.zeros((48, 48), np.uint8)
    square[16:32, 16:32], stripes[::4] = 200, 200
    config = RestorationConfig(**{**vars(DATA), "seed": seed})
    return FaceGateTask(initialized(FaceGate, 0), BatchMaker([pictures(square), pictures(stripes)], config))


# ------------------------------------------------------------------ training
def test_a_batch_is_sharp_and_blurred_and_depends_on_its_index_alone() -> None:
    maker, batches = task(), [task().batch(index) for index in range(12)]
    for index, (images, labels) in enumerate(batches):
        again = maker.batch(index)
        assert torch.equal(again.images, images)
        assert len(images) == len(labels)
        assert torch.equal(labels[: len(labels) // 2], labels[len(labels) // 2 :])
        assert 0 <= float(images.min()) <= float(images.max()) <= 1
        if max(images.shape[-2:]) > 1.6 * 32:
            assert not labels.any()  # large faces are none
    assert {float(label) for _, labels in batches for label in labels} == {0, 1}
    assert not torch.equal(task(1).batch(0).images[:1, :, :16, :16], batches[0].images[:1, :, :16, :16])


def test_drawings_are_of_many_kinds() -> None:
    rng = np.random.default_rng(0)
    drawings = np.stack([draw(rng, (40, 50)) for _ in range(60)])
    assert drawings.dtype == np.float32
    assert 0 <= drawings.min() <= drawings.max() <= 1
    contrast = drawings.std(axis=(1, 2))
    assert (contrast == 0).any()
    assert (contrast > 0.2).any()


@pytest.mark.slow
def test_training_lowers_the_loss(tmp_path: Path) -> None:
    trained = task()

    def loss() -> float:
        with torch.no_grad():
            return sum(float(next(trained.losses(trained.batch(index), 0.0)).value) for index in range(1000, 1006))

    before = loss()
    train(trained, TrainConfig(steps=40, rate=5e-3, warm_up=5, average=0), tmp_path / "c.safetensors")
    assert loss() < 0.6 * before


# ------------------------------------------------------------------ images
def face() -> np.ndarray:
    """The astronaut's face, in the size of the training faces, display values."""
    planes = np.moveaxis(data.astronaut()[10:210, 142:306].astype(np.float32) / 255, -1, 0)
    return np.clip(resample(np.ascontiguousarray(planes), (109, 89)), 0, 1)


def others() -> np.ndarray:
    gray = [data.page(), data.text(), data.brick(), data.grass(), data.moon()]
    return np.stack([np.broadcast_to(image[20:129, 20:109] / np.float32(255), (3, 109, 89)) for image in gray])


def test_the_weights_that_ship_know_a_face_by_its_size() -> None:
    probability = restore.face_probability
    smeared = blur(face(), linear_kernel(13, 30, dtype=np.float32))
    assert min(probability(image[None])[0] for image in (face(), smeared)) > 0.9
    assert (probability(others()) < 0.3).all()
    large = resample(face(), (300, 245))
    assert probability(large[None])[0] < 0.5
    assert parameter_count(FaceGate()) < 20_000


def test_a_batch_is_a_loop_and_gray_is_equal_channels() -> None:
    images = np.concatenate([others(), np.broadcast_to(face()[:1], (1, 3, 109, 89))] * 2)  # more than `CPU_STACK`
    images.flags.writeable = False
    result = restore.face_probability(images)
    assert (result.shape, result.dtype) == ((12,), np.float32)
    loop = [restore.face_probability(image[None])[0] for image in images]
    np.testing.assert_allclose(result, loop, rtol=1e-3)
    np.testing.assert_allclose(restore.face_probability(images[:, :1].astype(np.float64)), result, rtol=1e-3)
    np.testing.assert_array_equal(restore.face_probability(10 * images - 3), restore.face_probability(10 * images - 3))


@pytest.mark.parametrize("shape", [(16, 16), (17, 1000), (1500, 900)])
def test_every_size_from_16_pixels(shape: tuple[int, int]) -> None:
    result = restore.face_probability(np.random.default_rng(0).random((1, 1, *shape), dtype=np.float32))
    assert 0 <= result[0] < 0.5


def test_flat_and_overexposed_images_are_no_faces() -> None:
    values = np.array([0.0, 0.5, 1.0, 1e6, -1e6], np.float32)
    assert (restore.face_probability(np.broadcast_to(values[:, None, None, None], (5, 1, 40, 50))) < 0.5).all()


@pytest.mark.gpu
def test_on_a_gpu(cupy: Any) -> None:
    images = np.concatenate([others(), face()[None]])
    result = restore.face_probability(cupy.asarray(images))
    np.testing.assert_allclose(to_host(result), restore.face_probability(images), atol=1e-3)


def test_the_log_odds_of_the_gate_are_a_feature_up_to_a_limit() -> None:
    one, face = np.ones(4, np.float32), np.array([0, 0.25, 0.5, 1], np.float32)
    odds = confidence.features(one, one, one, face)[:, -1]
    limit = confidence.MAX_ODDS
    np.testing.assert_allclose(odds, [-limit, np.log(1 / 3), 0, limit], atol=1e-5)
    np.testing.assert_allclose(confidence.features(one, one, one)[:, -1], limit)
