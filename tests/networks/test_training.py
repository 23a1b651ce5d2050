"""Training of the classifier: its pairs of images, exact resumption, and the command."""

from __future__ import annotations

import json
import re
import shutil
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from skimage.data import camera
from typer.testing import CliRunner

from gpudeblur.cli import app

torch = pytest.importorskip("torch")
pytest.importorskip("safetensors")

from gpudeblur.networks import weights  # noqa: E402
from gpudeblur.networks.classifier import data, evaluation, training  # noqa: E402
from gpudeblur.networks.classifier.network import CHANNELS, Classifier, load_classifier  # noqa: E402

DATA = data.DataConfig(batch=4, patch=32, kernels=(7, 9))
CONFIG = training.TrainConfig(steps=5, channels=(2, 2, 2, 2, 2), checkpoint_every=2, warm_up=2)
Folders = list[data.ImageFolder]
DELTA = np.pad(np.ones((1, 1), np.float32), 3)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Folders:
    """A folder of three clear images."""
    path = tmp_path_factory.mktemp("clear")
    for index in range(3):
        Image.fromarray(camera()[60 * index + 120 : 60 * index + 184, 150:230]).save(path / f"{index}.png")
    return [data.load_folder(path)]


def train(folders: Folders, path: Path, *, log: Any = None, progress: Any = lambda *_: None, **options: Any) -> Any:
    """`training.train`, where `options` change `CONFIG`."""
    arguments = {name: options.pop(name) for name in ("initial", "resume") if name in options}
    return training.train(folders, DATA, replace(CONFIG, **options), path, log=log, progress=progress, **arguments)


@pytest.fixture(scope="module")
def uninterrupted(folders: Folders, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The checkpoint of an uninterrupted run."""
    path = tmp_path_factory.mktemp("uninterrupted") / "c.safetensors"
    train(folders, path, log=path.with_suffix(".jsonl"))
    return path


@pytest.fixture
def random_weights(tmp_path: Path) -> Path:
    """A file of the weights that seed 0 initializes."""
    path = tmp_path / "w.safetensors"
    training.write_classifier(path, Classifier(CONFIG.channels).initialize(0))
    return path


def arrays_of(path: Path) -> dict[str, np.ndarray]:
    return {name: tensor.numpy() for name, tensor in weights.unpack(path)[0].items()}


def same(a: Path, b: Path) -> bool:
    first, second = arrays_of(a), arrays_of(b)
    return first.keys() == second.keys() and all(np.array_equal(first[name], second[name]) for name in first)


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
    folder = data.ImageFolder(Path("tiny"), [camera()[130:168, 150:190].astype(np.float16) / 255], [])
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
    with pytest.raises(NotADirectoryError, match=r"folder of clear pictures .*none is not a folder"):
        data.load_folder(tmp_path / "none")
    with pytest.raises(ValueError, match=r"must hold pictures \(.png, .*\), got none"):
        data.load_folder(tmp_path)
    Image.new("L", (64, 64), 90).save(tmp_path / "flat.png")
    with pytest.raises(ValueError, match="all 1 are flat; take photographs"):
        data.load_folder(tmp_path)
    (tmp_path / "broken.png").write_bytes(b"no")
    with pytest.raises(ValueError, match=r"must hold usable pictures, none of 2 is; broken.png: .* must be a PNG"):
        data.load_folder(tmp_path)


def test_kernel_sides_are_log_uniform() -> None:
    rng = np.random.default_rng(0)
    sides = np.array([data.random_side(rng, 7, 51) for _ in range(4000)])
    assert set(sides) == set(range(7, 53, 2))
    assert abs((sides < 17).mean() - np.log(16 / 6) / np.log(52 / 6)) < 0.03


def test_batches_made_ahead_are_those_of_their_indices(folders: Folders, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each is made once, none past the end; an error is raised in its turn."""

    def make(folders: Any, config: Any, index: int) -> Any:
        made.append(index)
        if index == 5:
            raise MemoryError("batch 5")
        return [index]

    made: list[int] = []
    make_batches: Any = data.make_batches
    monkeypatch.setattr(data, "make_batch", make)
    assert list(make_batches(folders, DATA, 3, 3)) == []
    assert list(make_batches(folders, DATA, 3, 5)) == [[3], [4]]
    assert made == [3, 4]
    batches = make_batches(folders, DATA, 4, 8)
    assert next(batches) == [4]
    with pytest.raises(MemoryError, match="batch 5"):
        next(batches)


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError])
def test_failed_run_leaves_no_thread(error: Any, folders: Folders, tmp_path: Path) -> None:
    """Not even while a caller holds the error, and with it the frames it passed through."""

    def fail(*_: float) -> None:
        raise error

    with pytest.raises(error) as info:
        train(folders, tmp_path / "c.safetensors", progress=fail)
    assert not [thread.name for thread in threading.enumerate() if thread.name.startswith("batches")]
    assert info.traceback


# ------------------------------------------------------------------ runs
@pytest.mark.parametrize("killed_at", [1, 2, 3])
def test_killed_run_resumes_bit_for_bit(folders: Folders, uninterrupted: Path, tmp_path: Path, killed_at: int) -> None:
    """Killed before, at and after a checkpoint. Float32 is not TF32, which would move the momenta by 0.008."""
    path, log, tf32 = tmp_path / "c.safetensors", tmp_path / "c.jsonl", torch.backends.cudnn.allow_tf32

    def kill(step: int, loss: float, accuracy: float) -> None:
        assert not torch.backends.cudnn.allow_tf32
        if step == killed_at:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(folders, path, log=log, progress=kill)
    assert torch.backends.cudnn.allow_tf32 == tf32
    assert train(folders, path, log=log, resume=True).step == CONFIG.steps
    assert same(path, uninterrupted)
    logs = (log, uninterrupted.with_suffix(".jsonl"))
    lines, expected = ([json.loads(line) for line in file.read_text().splitlines()] for file in logs)
    assert [line["step"] for line in lines] == [1, 2, 3, 4, 5]
    assert [line["loss"] for line in lines] == [line["loss"] for line in expected]


def test_stopped_run_resumes_bit_for_bit(folders: Folders, uninterrupted: Path, tmp_path: Path) -> None:
    """In both precisions, which differ by little beside the distance that the weights travel."""
    paths = {"float32": tmp_path / "a.safetensors", "bfloat16": tmp_path / "b.safetensors"}
    for precision, path in paths.items():
        assert train(folders, path, precision=precision, progress=lambda step, *_: step == 3).step == 3
        train(folders, path, precision=precision, resume=True)
    rounded = tmp_path / "c.safetensors"
    train(folders, rounded, precision="bfloat16")
    assert same(paths["float32"], uninterrupted)
    assert same(paths["bfloat16"], rounded)
    start = Classifier(CONFIG.channels).initialize(DATA.seed).state_dict()
    a, b = arrays_of(uninterrupted), arrays_of(rounded)
    travel = sum(((a[name] - tensor.numpy()) ** 2).sum() for name, tensor in start.items()) ** 0.5
    assert 0 < sum(((a[name] - b[name]) ** 2).sum() for name in start) ** 0.5 < 0.3 * travel


def test_full_disk_keeps_the_old_checkpoint(folders: Folders, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "c.safetensors"
    train(folders, path, progress=lambda step, *_: step == 2)
    before = path.read_bytes()

    def full(self: Path, content: bytes) -> int:
        with self.open("wb") as file:
            file.write(content[: len(content) // 2])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OSError, match="No space left"):
        train(folders, path, resume=True)
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["c.safetensors"]


def test_nan_loss_stops_the_run_and_keeps_the_checkpoint(
    folders: Folders, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, make = tmp_path / "c.safetensors", data.make_batch

    def nan_from_step_4_on(folders: Any, config: Any, index: int) -> Any:
        return [(images * (np.nan if index > 2 else 1), labels) for images, labels in make(folders, config, index)]

    monkeypatch.setattr(data, "make_batch", nan_from_step_4_on)
    with pytest.raises(FloatingPointError, match=r"step 4 is nan; start from .*, of step 2, with --initial, and"):
        train(folders, path)
    assert all(np.isfinite(array).all() for array in arrays_of(path).values())
    monkeypatch.undo()
    train(folders, tmp_path / "new.safetensors", rate=1e-3, initial=path)


def test_checkpoints_of_other_runs_are_refused(folders: Folders, uninterrupted: Path, random_weights: Path) -> None:
    other: list[tuple[dict[str, Any], str]] = [
        ({"channels": (3,) * 5}, "is of another network, channels [2, 2, 2, 2, 2], not [3, 3, 3, 3, 3]"),
        ({"rate": 0.5}, "is of another run: rate 0.02 there, 0.5 here"),
        ({"initial": random_weights}, "is of another run: initial None there, "),
        ({"folders": folders * 2}, "is of another run: folders"),
        ({"path": random_weights}, "must be a checkpoint of gpudeblur train, got other weights"),
    ]
    for change, message in other:
        with pytest.raises(ValueError, match=re.escape(message)):
            train(**{"folders": folders, "path": uninterrupted, "resume": True, **change})
    with pytest.raises(ValueError, match="is of another run: seed 0 there, 1 here"):
        training.train(folders, replace(DATA, seed=1), CONFIG, uninterrupted, resume=True)


def test_run_starts_with_the_initial_weights(
    folders: Folders, uninterrupted: Path, random_weights: Path, tmp_path: Path
) -> None:
    path = tmp_path / "c.safetensors"
    train(folders, path, initial=random_weights)
    assert same(path, uninterrupted)
    training.write_classifier(random_weights, Classifier(CONFIG.channels).initialize(1))
    train(folders, path, initial=random_weights)
    assert not same(path, uninterrupted)
    with pytest.raises(ValueError, match=r"must have channels \(2, 2, 2, 2, 3\), got \(2, 2, 2, 2, 2\)"):
        train(folders, path, initial=random_weights, channels=(2, 2, 2, 2, 3))


def test_every_setting_matters(folders: Folders, uninterrupted: Path, tmp_path: Path) -> None:
    changes = {"steps": 3, "rate": 0.04, "momentum": 0.5, "weight_decay": 0.1, "clip": 1e-3, "warm_up": 50}
    for name, value in changes.items():
        train(folders, tmp_path / "c.safetensors", **{name: value})
        assert not same(tmp_path / "c.safetensors", uninterrupted), name


COUNTS_AND_NUMBERS = ("steps", "rate", "momentum", "weight_decay", "clip", "warm_up", "threads", "checkpoint_every")
REFUSED: list[tuple[Any, dict[str, Any], str]] = [
    (data.DataConfig, {"batch": 3}, "batch must be even, got 3"),
    (data.DataConfig, {"batch": 0}, "batch must be at least 2, got 0"),
    (data.DataConfig, {"patch": 8}, "patch must be at least 32, got 8"),
    (data.DataConfig, {"kernels": (7, 10)}, "kernels must be two odd sides"),
    (data.DataConfig, {"scales": (0, 1)}, "scales must be two numbers in (0, 1]"),
    (data.DataConfig, {"noise": -1}, "noise must be in [0, 0.5)"),
    (data.DataConfig, {"jpeg": 2}, "jpeg must be in [0, 1]"),
    *((training.TrainConfig, {name: -1}, f"{name} must be ") for name in COUNTS_AND_NUMBERS),
    (training.TrainConfig, {"precision": "half"}, "precision must be one of 'float32', 'bfloat16', got 'half'"),
    *(
        (training.TrainConfig, {"device": device}, f"device must be cpu, cuda or cuda:N, got {device!r}")
        for device in ("tpu", "cpu:x", "cpu:", torch.device("cpu"))  # the last could not be written to a checkpoint
    ),
    (training.TrainConfig, {"device": "cuda:99"}, f"device must be one of the {torch.cuda.device_count()} GPUs that"),
]


@pytest.mark.parametrize(("config", "change", "message"), REFUSED, ids=range(len(REFUSED)))
def test_invalid_settings_are_refused(config: Any, change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        config(**change)


@pytest.mark.gpu
def test_training_on_a_device(cupy: Any, folders: Folders, uninterrupted: Path, tmp_path: Path) -> None:
    """The same first steps as on the CPU, and a checkpoint that resumes."""
    path = tmp_path / "c.safetensors"
    train(folders, path, device="cuda", progress=lambda step, *_: step == 3)
    train(folders, path, device="cuda", resume=True)
    arrays = arrays_of(path)
    for name, expected in arrays_of(uninterrupted).items():
        np.testing.assert_allclose(arrays[name], expected, atol=1e-4)


def test_rate_rises_and_falls() -> None:
    config = training.TrainConfig(steps=100, rate=1.0, warm_up=10)
    rates = [training.rate_at(step, config) for step in (0, 9, 59, 60, 85)]
    np.testing.assert_allclose(rates, [0.1, 1, 1, 0.2, 0.04])


@pytest.mark.slow
def test_training_separates_the_classes(folders: Folders, tmp_path: Path) -> None:
    """A few steps on easy data: long blur, no noise, no reduction."""
    data_config = data.DataConfig(batch=8, patch=40, kernels=(9, 9), scales=(1.0, 1.0), noise=0.0, jpeg=0.0)
    config = training.TrainConfig(steps=150, rate=0.04, channels=(16, 16, 16, 16, 16), warm_up=30)
    log = tmp_path / "c.jsonl"
    training.train(folders, data_config, config, tmp_path / "c.safetensors", log=log)
    losses = [json.loads(line)["loss"] for line in log.read_text().splitlines()]
    assert np.mean(losses[-10:]) < 0.4 < np.mean(losses[:10])


def test_evaluation_counts_both_classes(folders: Folders) -> None:
    results = evaluation.evaluate(lambda images: np.full(len(images), 0.7), folders[0], scales=(1.0, 0.5))
    assert {scale: result.accuracy for scale, result in results.items()} == {1.0: 0.5, 0.5: 0.5}
    np.testing.assert_allclose(results[1.0].ratio, 1)
    sharpness = evaluation.evaluate(lambda images: np.array([data.mean_gradient(x) for x in images]), folders[0])[1.0]
    assert sharpness.clear.shape == (3,)
    assert (sharpness.clear > sharpness.blurred).all()


# ------------------------------------------------------------------ the command
def test_command_trains_resumes_and_evaluates(folders: Folders, tmp_path: Path) -> None:
    folder, out, log = tmp_path / "clear", tmp_path / "w.safetensors", tmp_path / "w.jsonl"
    folder.mkdir()
    shutil.copy(folders[0].path / "0.png", folder)
    (folder / "broken.png").write_bytes(b"no")
    command = ["train", "classifier", "--clear", str(folder), "-o", str(out), "--log", str(log), "--steps", "2"]
    command += ["--batch-size", "2", "--patch", "32", "--validate", str(folder), "--resume"]
    for _ in range(2):  # nothing is left to do for the second
        result = CliRunner().invoke(app, command)
        assert result.exit_code == 0, result.output
    assert "1 pictures, 1 skipped" in result.output
    assert "broken.png" in result.output
    assert "scale 0.25" in result.output
    assert load_classifier(out).channels == CHANNELS
    assert len(log.read_text().splitlines()) == 2


def test_command_says_what_is_wrong(folders: Folders, tmp_path: Path) -> None:
    clear, out = f"--clear={folders[0].path}", f"--out={tmp_path / 'w.safetensors'}"
    for arguments, message in (
        ([f"--clear={tmp_path / 'none'}", out], "is not a folder"),
        ([clear, f"--out={tmp_path / 'w.pt'}"], "must end in .safetensors"),
        ([clear, out, out.replace("--out", "--checkpoint")], "--checkpoint must be another file"),
        ([clear, out, "--batch-size", "3"], "batch must be even"),
        ([clear, out, "--precision", "half"], "precision must be one of"),
    ):
        result = CliRunner().invoke(app, ["train", "classifier", *arguments])
        assert result.exit_code == 2
        assert message in result.output
