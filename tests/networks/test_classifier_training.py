"""Training of the classifier: its pairs of images, its task in the training loop, its evaluation."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from skimage.data import camera

torch = pytest.importorskip("torch")
pytest.importorskip("safetensors")

from gpudeblur.networks.classifier import data, evaluation  # noqa: E402
from gpudeblur.networks.classifier.network import Classifier, load_classifier  # noqa: E402
from gpudeblur.networks.classifier.training import ClassifierTask, write_classifier  # noqa: E402
from gpudeblur.networks.training.command import RECIPES  # noqa: E402
from gpudeblur.networks.training.pictures import Pictures  # noqa: E402
from gpudeblur.networks.training.trainer import TrainConfig, load_initial, train  # noqa: E402

DATA = data.DataConfig(batch=4, patch=32, kernels=(7, 9))
CHANNELS = (2, 2, 2, 2, 2)
Folders = list[Pictures]
DELTA = np.pad(np.ones((1, 1), np.float32), 3)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Folders:
    """A folder of three clear images."""
    path = tmp_path_factory.mktemp("clear")
    for index in range(3):
        Image.fromarray(camera()[60 * index + 120 : 60 * index + 184, 150:230]).save(path / f"{index}.png")
    return [data.load_folder(path)]


# ------------------------------------------------------------------ data
def test_batch_depends_on_its_index_alone(folders: Folders) -> None:
    batch, repeated, different = (data.make_batch(folders, DATA, index) for index in (7, 7, 8))
    for (images, labels), (repeated_images, _) in zip(batch, repeated, strict=True):
        np.testing.assert_array_equal(images, repeated_images)
        np.testing.assert_array_equal(labels, np.tile([0, 1], len(images) // 2))
        assert images.dtype == labels.dtype == np.float32
    assert sum(len(labels) for _, labels in batch) == DATA.batch
    assert batch[0][0].shape != different[0][0].shape or (batch[0][0] != different[0][0]).any()


def test_smallest_accepted_image_makes_pairs() -> None:
    folder = Pictures(Path("tiny"), [camera()[130:168, 150:190].astype(np.float16) / 255], [])
    for index in range(6):
        ((images, _),) = data.make_batch([folder], data.DataConfig(batch=2, scales=(1.0, 1.0)), index)
        assert images.shape == (2, 32, 32)


def test_pair_differs_by_the_blur_alone() -> None:
    """With a delta kernel a classifier has nothing to go by; noise is drawn separately, of the same level."""
    region = camera()[:80, :90].astype(np.float32) / 255
    for quality in (None, 80):
        clear, blurred = data.make_pair(region, DELTA, 0.0, quality, np.random.default_rng(0))
        np.testing.assert_allclose(clear, blurred, atol=1.01 / 255)
        assert (clear != blurred).mean() < 0.01
        assert clear.shape == (74, 84)
        np.testing.assert_allclose(clear * 255, np.round(clear * 255), atol=1e-4)
    noisy = data.make_pair(np.full((200, 200), 0.5, np.float32), DELTA, 0.02, None, np.random.default_rng(0))
    np.testing.assert_allclose([image.std() for image in noisy], 0.02, rtol=0.03)
    assert abs(np.corrcoef(noisy[0].ravel(), noisy[1].ravel())[0, 1]) < 0.02


def test_lights_above_full_scale_leave_streaks() -> None:
    night = np.zeros((40, 40), np.float32)
    night[20, 20] = 30
    clear, blurred = data.make_pair(night, np.full((1, 9), 1 / 9, np.float32), 0.0, None, np.random.default_rng(0))
    assert ((clear == 1).sum(), (blurred == 1).sum()) == (1, 9)


def test_folder_lists_skipped_images(tmp_path: Path, folders: Folders) -> None:
    shutil.copy(folders[0].path / "0.png", tmp_path)
    (tmp_path / "broken.jpg").write_bytes(b"\xff\xd8\xff\xe0 no")
    Image.new("L", (64, 64), 90).save(tmp_path / "flat.png")
    Image.new("L", (20, 64)).save(tmp_path / "small.png")
    (tmp_path / "notes.txt").write_text("no picture")
    folder = data.load_folder(tmp_path)
    assert len(folder.images) == 1
    reasons = dict(folder.skipped)
    assert "damaged or truncated" in reasons["broken.jpg"]
    assert reasons["flat.png"] == "flat: it looks the same when it is blurred"
    assert reasons["small.png"] == "64 x 20 pixels, less than 38"
    assert len(reasons) == 3


def test_unusable_folders_are_refused(tmp_path: Path) -> None:
    with pytest.raises(NotADirectoryError, match=r"folder of sharp pictures .*none is not a folder"):
        data.load_folder(tmp_path / "none")
    with pytest.raises(ValueError, match=r"must hold pictures \(.png, .*\), got none"):
        data.load_folder(tmp_path)
    Image.new("L", (64, 64), 90).save(tmp_path / "flat.png")
    with pytest.raises(ValueError, match=r"none of 1 is; flat.png: flat: it looks the same"):
        data.load_folder(tmp_path)
    (tmp_path / "broken.png").write_bytes(b"no")
    with pytest.raises(ValueError, match=r"must hold usable pictures, none of 2 is; broken.png: .* must be an image"):
        data.load_folder(tmp_path)


def test_kernel_sides_are_log_uniform() -> None:
    rng = np.random.default_rng(0)
    sides = np.array([data.random_side(rng, 7, 51) for _ in range(4000)])
    assert set(sides) == set(range(7, 53, 2))
    assert abs((sides < 17).mean() - np.log(16 / 6) / np.log(52 / 6)) < 0.03


# ------------------------------------------------------------------ the task
def settings(**changes: Any) -> TrainConfig:
    """Those of the command, with changes."""
    return TrainConfig(**{**RECIPES["classifier"].settings, **changes})


def test_loss_is_the_mean_over_the_stacks(folders: Folders) -> None:
    """[Li2018] eq. 3, whatever the sizes of the crops."""
    task = ClassifierTask(Classifier(CHANNELS).initialize(0), folders, DATA)
    batch = [stack for index in range(3) for stack in task.batch(index)]
    assert len({images.shape for images, _ in batch}) > 1
    (loss,) = task.losses(batch, 0.0)
    f = torch.cat([task.network(images) for images, _ in batch]).double()
    labels = torch.cat([labels for _, labels in batch])
    expected = -torch.where(labels > 0.5, f.log(), (1 - f).log()).mean()
    torch.testing.assert_close(loss.value.double(), expected, rtol=1e-5, atol=0)
    assert loss.figures["accuracy"] == pytest.approx(float(((f > 0.5) == (labels > 0.5)).double().mean()))


def test_interrupted_run_resumes_bit_for_bit(folders: Folders, tmp_path: Path) -> None:
    """And a checkpoint is a file of weights, the last ones."""
    paths = tmp_path / "a.safetensors", tmp_path / "b.safetensors"

    def run(path: Path, **arguments: Any) -> Any:
        task = ClassifierTask(Classifier(CHANNELS).initialize(0), folders, DATA)
        return train(task, settings(steps=5, checkpoint_every=2), path, **arguments)

    result = run(paths[0])
    run(paths[1], progress=lambda step, *_: step == 3)
    run(paths[1], resume=True)
    networks = [load_classifier(path) for path in paths]
    for name, tensor in networks[0].state_dict().items():
        assert torch.equal(tensor, networks[1].state_dict()[name])
        assert torch.equal(tensor, result.weights[name])
    again = ClassifierTask(Classifier(CHANNELS).initialize(1), folders, DATA)
    write_classifier(tmp_path / "w.safetensors", networks[0])
    load_initial(again, tmp_path / "w.safetensors")
    assert torch.equal(again.network.layers[0].weight, networks[0].layers[0].weight)
    for other in ((folders * 2, DATA), (folders, replace(DATA, seed=1))):
        task = ClassifierTask(Classifier(CHANNELS), *other)
        with pytest.raises(ValueError, match=r"is of another run: (folders|seed)"):
            train(task, settings(steps=5), paths[0], resume=True)


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"batch": 3}, "batch must be even, got 3"),
    ({"batch": 0}, "batch must be at least 2, got 0"),
    ({"patch": 8}, "patch must be at least 32, got 8"),
    ({"kernels": (7, 10)}, "kernels must be two odd sides"),
    ({"scales": (0, 1)}, "scales must be two numbers in (0, 1]"),
    ({"noise": -1}, "noise must be in [0, 0.5)"),
    ({"jpeg": 2}, "jpeg must be in [0, 1]"),
]


@pytest.mark.parametrize(("change", "message"), REFUSED, ids=range(len(REFUSED)))
def test_invalid_settings_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        data.DataConfig(**change)


@pytest.mark.slow
def test_training_separates_the_classes(folders: Folders, tmp_path: Path) -> None:
    """A few steps on easy data: long blur, no noise, no reduction."""
    data_config = data.DataConfig(batch=8, patch=40, kernels=(9, 9), scales=(1.0, 1.0), noise=0.0, jpeg=0.0)
    task, log = ClassifierTask(Classifier((16,) * 5).initialize(0), folders, data_config), tmp_path / "c.jsonl"
    train(task, settings(steps=150, rate=0.04, warm_up=30), tmp_path / "c.safetensors", log=log)
    losses = [json.loads(line)["network"] for line in log.read_text().splitlines()]
    assert losses[-1] < 0.4 < losses[0]


def test_evaluation_counts_both_classes(folders: Folders) -> None:
    results = evaluation.evaluate(lambda images: np.full(len(images), 0.7), folders[0], scales=(1.0, 0.5))
    assert {scale: result.accuracy for scale, result in results.items()} == {1.0: 0.5, 0.5: 0.5}
    np.testing.assert_allclose(results[1.0].ratio, 1)
    sharpness = evaluation.evaluate(lambda images: np.array([data.mean_gradient(x) for x in images]), folders[0])[1.0]
    assert sharpness.clear.shape == (3,)
    assert (sharpness.clear > sharpness.blurred).all()
