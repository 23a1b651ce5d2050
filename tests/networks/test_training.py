"""Training: what is made of clear pictures, and that a run can be killed, resumed and trusted."""

from __future__ import annotations

import json
import re
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from skimage import data
from typer.testing import CliRunner

from gpudeblur.cli import app

torch = pytest.importorskip("torch")
pytest.importorskip("safetensors")

from gpudeblur.networks import weights  # noqa: E402
from gpudeblur.networks.classifier import data as pairs  # noqa: E402
from gpudeblur.networks.classifier import evaluation, training  # noqa: E402
from gpudeblur.networks.classifier.network import Classifier, load_classifier  # noqa: E402

RECIPE = pairs.DataConfig(batch=4, patch=32, kernels=(7, 9))
SETTINGS = training.TrainConfig(steps=5, channels=(2, 2, 2, 2, 2), checkpoint_every=2, warm_up=2)


@pytest.fixture(scope="module")
def clear(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of three clear pictures."""
    folder = tmp_path_factory.mktemp("clear")
    camera = data.camera()
    for number in range(3):
        Image.fromarray(camera[60 * number + 120 : 60 * number + 184, 150:230]).save(folder / f"{number}.png")
    return folder


@pytest.fixture(scope="module")
def folders(clear: Path) -> list[pairs.ImageFolder]:
    return [pairs.load_folder(clear)]


def weights_of(path: Path) -> dict[str, np.ndarray]:
    return {name: one.numpy() for name, one in weights.unpack(path)[0].items()}


def same(a: Path, b: Path) -> bool:
    one, other = weights_of(a), weights_of(b)
    return one.keys() == other.keys() and all(np.array_equal(one[name], other[name]) for name in one)


# ------------------------------------------------------------------ pictures
def test_a_batch_depends_on_its_number_alone(folders: list[pairs.ImageFolder]) -> None:
    first, again, other = (pairs.make_batch(folders, RECIPE, number) for number in (7, 7, 8))
    for (pictures, labels), (same_pictures, _) in zip(first, again, strict=True):
        np.testing.assert_array_equal(pictures, same_pictures)
        np.testing.assert_array_equal(labels, np.tile([0, 1], len(pictures) // 2))
        assert pictures.dtype == labels.dtype == np.float32
    assert sum(len(labels) for _, labels in first) == RECIPE.batch
    assert first[0][0].shape != other[0][0].shape or abs(first[0][0] - other[0][0]).max() > 0


def test_the_smallest_pictures_that_are_taken_make_pairs() -> None:
    picture = data.camera()[130:168, 150:190].astype(np.float16) / 255
    folder = pairs.ImageFolder(Path("tiny"), ["a"], [picture], [])
    for number in range(6):
        ((pictures, _),) = pairs.make_batch([folder], pairs.DataConfig(batch=2, scales=(1.0, 1.0)), number)
        assert pictures.shape == (2, 32, 32)


def test_both_of_a_pair_differ_by_the_blur_alone() -> None:
    """With a kernel that does nothing, a classifier has nothing to go by."""
    region = data.camera()[:80, :90].astype(np.float32) / 255
    delta = np.zeros((7, 7), np.float32)
    delta[3, 3] = 1
    for quality in (None, 80):
        clear, blurred = pairs.make_pair(region, delta, 0.0, quality, np.random.default_rng(0))
        np.testing.assert_allclose(clear, blurred, atol=1.01 / 255)
        assert (clear != blurred).mean() < 0.01
        assert clear.shape == (74, 84)
        steps = clear * 255
        np.testing.assert_allclose(steps, np.round(steps), atol=1e-4)
    flat = np.full((200, 200), 0.5, np.float32)
    noisy = pairs.make_pair(flat, delta, 0.02, None, np.random.default_rng(0))
    spreads = [one.std() for one in noisy]
    np.testing.assert_allclose(spreads, 0.02, rtol=0.03)
    assert abs(np.corrcoef(noisy[0].ravel(), noisy[1].ravel())[0, 1]) < 0.02


def test_lights_over_the_top_leave_streaks() -> None:
    dark = np.zeros((40, 40), np.float32)
    dark[20, 20] = 30
    row = np.full((1, 9), 1 / 9, np.float32)
    clear, blurred = pairs.make_pair(dark, row, 0.0, None, np.random.default_rng(0))
    assert (clear == 1).sum() == 1
    assert (blurred == 1).sum() == 9


def test_a_folder_lists_what_it_skips(tmp_path: Path, clear: Path) -> None:
    for file in clear.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / "broken.jpg").write_bytes(b"\xff\xd8\xff\xe0 no")
    Image.new("L", (64, 64), 90).save(tmp_path / "flat.png")
    Image.new("L", (20, 64)).save(tmp_path / "small.png")
    (tmp_path / "notes.txt").write_text("no picture")
    folder = pairs.load_folder(tmp_path)
    assert len(folder.pictures) == 3
    found = dict(folder.skipped)
    assert "damaged or truncated" in found["broken.jpg"]
    assert found["flat.png"] == "flat: it looks the same when it is blurred"
    assert found["small.png"] == "64 x 20 pixels, less than 38"


def test_bad_folders_are_refused(tmp_path: Path) -> None:
    with pytest.raises(NotADirectoryError, match=r"folder of clear pictures .*none is not a folder"):
        pairs.load_folder(tmp_path / "none")
    with pytest.raises(ValueError, match=r"must hold pictures \(.png, .*\), got none"):
        pairs.load_folder(tmp_path)
    Image.new("L", (64, 64), 90).save(tmp_path / "flat.png")
    with pytest.raises(ValueError, match="all 1 are flat: clear and blurred would be one class"):
        pairs.load_folder(tmp_path)
    (tmp_path / "broken.png").write_bytes(b"no")
    with pytest.raises(ValueError, match=r"must hold usable pictures, none of 2 is; broken.png: .* must be a PNG"):
        pairs.load_folder(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"batch": 3}, "batch must be even and at least 2, got 3"),
        ({"patch": 8}, "patch must be at least 32, got 8"),
        ({"kernels": (7, 10)}, "kernels must be two odd sides"),
        ({"scales": (0, 1)}, r"scales must be two numbers in \(0, 1\]"),
        ({"noise": -1}, r"noise must be in \[0, 0.5\)"),
        ({"jpeg": 2}, r"jpeg must be in \[0, 1\]"),
    ],
)
def test_bad_recipes_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        pairs.DataConfig(**change)


def test_sides_are_log_uniform() -> None:
    rng = np.random.default_rng(0)
    sides = np.array([pairs.random_side(rng, 7, 51) for _ in range(4000)])
    assert set(sides) == set(range(7, 53, 2))
    assert abs((sides < 17).mean() - np.log(16 / 6) / np.log(52 / 6)) < 0.03


def test_batches_ahead_are_those_of_their_numbers(folders: list[pairs.ImageFolder]) -> None:
    found = list(pairs.make_batches(folders, RECIPE, 3, 6))
    assert len(found) == 3
    for number, batch in enumerate(found, start=3):
        for one, other in zip(batch, pairs.make_batch(folders, RECIPE, number), strict=True):
            np.testing.assert_array_equal(one[0], other[0])


def test_no_batch_is_made_for_nothing(folders: list[pairs.ImageFolder], monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[int] = []
    monkeypatch.setattr(pairs, "make_batch", lambda folders, recipe, number: made.append(number) or [])
    assert list(pairs.make_batches(folders, RECIPE, 3, 3)) == []
    assert len(list(pairs.make_batches(folders, RECIPE, 3, 5))) == 2
    assert made == [3, 4]


def test_a_batch_that_fails_fails_in_its_turn(
    folders: list[pairs.ImageFolder], monkeypatch: pytest.MonkeyPatch
) -> None:
    def make(folders: Any, recipe: Any, number: int) -> Any:
        if number == 2:
            raise MemoryError("batch 2")
        return []

    monkeypatch.setattr(pairs, "make_batch", make)
    batches = pairs.make_batches(folders, RECIPE, 0, 5)
    assert [next(batches), next(batches)] == [[], []]
    with pytest.raises(MemoryError, match="batch 2"):
        next(batches)


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError])
def test_a_run_that_ends_early_leaves_no_thread(error: Any, folders: list[pairs.ImageFolder], tmp_path: Path) -> None:
    """Also while the error, and with it the frames that it went through, is still held."""

    def fail(step: int, *_: float) -> None:
        raise error

    with pytest.raises(error) as held:
        training.train(folders, RECIPE, SETTINGS, tmp_path / "c.safetensors", report=fail)
    assert not [one.name for one in threading.enumerate() if one.name.startswith("batches")]
    assert held.traceback


# ------------------------------------------------------------------ runs
@pytest.fixture(scope="module")
def straight(folders: list[pairs.ImageFolder], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The checkpoint of a run that nothing disturbed."""
    path = tmp_path_factory.mktemp("straight") / "c.safetensors"
    training.train(folders, RECIPE, SETTINGS, path, log=path.with_suffix(".jsonl"))
    return path


@pytest.mark.parametrize("killed_at", [1, 2, 3, 4])
def test_a_killed_run_resumes_bit_for_bit(
    folders: list[pairs.ImageFolder], straight: Path, tmp_path: Path, killed_at: int
) -> None:
    path, log = tmp_path / "c.safetensors", tmp_path / "c.jsonl"

    def kill(step: int, loss: float, accuracy: float) -> None:
        if step == killed_at:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        training.train(folders, RECIPE, SETTINGS, path, log=log, report=kill)
    trained = training.train(folders, RECIPE, SETTINGS, path, resume=True, log=log)
    assert trained.step == SETTINGS.steps
    assert same(path, straight)
    lines = [
        [json.loads(line) for line in file.read_text().splitlines()] for file in (log, straight.with_suffix(".jsonl"))
    ]
    assert [line["step"] for line in lines[0]] == [1, 2, 3, 4, 5]
    assert [line["loss"] for line in lines[0]] == [line["loss"] for line in lines[1]]


def test_bfloat16_resumes_bit_for_bit_too(folders: list[pairs.ImageFolder], straight: Path, tmp_path: Path) -> None:
    whole, resumed = tmp_path / "a.safetensors", tmp_path / "b.safetensors"
    settings = replace(SETTINGS, precision="bfloat16")
    training.train(folders, RECIPE, settings, whole)
    training.train(folders, RECIPE, settings, resumed, report=lambda step, *_: step == 3)
    training.train(folders, RECIPE, settings, resumed, resume=True)
    assert same(whole, resumed)
    assert not same(whole, straight)
    # It learns what float32 does: beside the way that the weights went, what differs is little.
    exact, rounded = weights_of(straight), weights_of(whole)
    began = Classifier(SETTINGS.channels).initialise(RECIPE.seed).state_dict()
    went = sum(((exact[name] - one.numpy()) ** 2).sum() for name, one in began.items()) ** 0.5
    differs = sum(((exact[name] - rounded[name]) ** 2).sum() for name in began) ** 0.5
    assert 0 < differs < 0.3 * went


def test_float32_is_not_tf32(folders: list[pairs.ImageFolder], tmp_path: Path) -> None:
    """Its 10 bits move the momenta of five steps by 0.008; outside of the training it is the caller's choice."""
    before, within = torch.backends.cudnn.allow_tf32, []

    def report(*_: float) -> None:
        within.append(torch.backends.cudnn.allow_tf32)

    training.train(folders, RECIPE, SETTINGS, tmp_path / "c.safetensors", report=report)
    assert within == [False] * SETTINGS.steps
    assert torch.backends.cudnn.allow_tf32 == before


def test_logits_are_float32_also_where_convolutions_are_not() -> None:
    network = Classifier().initialise(0)
    pictures = torch.rand(4, 1, 40, 40, generator=torch.Generator().manual_seed(0))
    with torch.autocast("cpu", torch.bfloat16):
        logits = network.logits(pictures)
    assert logits.dtype == torch.float32
    assert (logits.bfloat16().float() != logits).any()
    assert network.double().logits(pictures.double()).dtype == torch.float64


def test_a_report_that_says_so_stops_with_a_checkpoint(
    folders: list[pairs.ImageFolder], straight: Path, tmp_path: Path
) -> None:
    path = tmp_path / "c.safetensors"
    assert training.train(folders, RECIPE, SETTINGS, path, report=lambda step, *_: step == 3).step == 3
    training.train(folders, RECIPE, SETTINGS, path, resume=True)
    assert same(path, straight)


def test_on_a_full_disk_the_old_checkpoint_stays(
    folders: list[pairs.ImageFolder], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "c.safetensors"
    training.train(folders, RECIPE, SETTINGS, path, report=lambda step, *_: step == 2)
    before = path.read_bytes()

    def full(self: Path, data: bytes) -> int:
        with self.open("wb") as file:
            file.write(data[: len(data) // 2])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OSError, match="No space left"):
        training.train(folders, RECIPE, SETTINGS, path, resume=True)
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["c.safetensors"]


def test_a_loss_that_is_no_number_stops_the_run(
    folders: list[pairs.ImageFolder], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, make = tmp_path / "c.safetensors", pairs.make_batch

    def bad_from_four_on(folders: Any, recipe: Any, number: int) -> Any:
        batch = make(folders, recipe, number)
        return batch if number < 3 else [(pictures * np.nan, labels) for pictures, labels in batch]

    monkeypatch.setattr(pairs, "make_batch", bad_from_four_on)
    with pytest.raises(FloatingPointError, match=r"step 4 is nan; the last good checkpoint is .*, of step 2; begin"):
        training.train(folders, RECIPE, SETTINGS, path)
    fresh = tmp_path / "fresh.safetensors"
    monkeypatch.setattr(pairs, "make_batch", make)
    training.train(folders, RECIPE, training.TrainConfig(**{**vars(SETTINGS), "rate": 1e-3}), fresh, initial=path)
    assert all(np.isfinite(one).all() for one in weights_of(path).values())


def test_checkpoints_of_other_runs_are_refused(
    folders: list[pairs.ImageFolder], straight: Path, clear: Path, random_weights: Path
) -> None:
    def go_on(recipe: Any = RECIPE, settings: Any = SETTINGS, path: Path = straight, some: Any = folders) -> None:
        training.train(some, recipe, settings, path, resume=True)

    wide = training.TrainConfig(**{**vars(SETTINGS), "channels": (3, 3, 3, 3, 3)})
    with pytest.raises(ValueError, match=r"is of another network, channels \[2, 2, 2, 2, 2\], not \[3, 3, 3, 3, 3\]"):
        go_on(settings=wide)
    fast = training.TrainConfig(**{**vars(SETTINGS), "rate": 0.5})
    with pytest.raises(ValueError, match=r"is of another run: rate 0.02 there, 0.5 here"):
        go_on(settings=fast)
    with pytest.raises(ValueError, match=r"is of another run: seed 0 there, 1 here"):
        go_on(recipe=pairs.DataConfig(**{**vars(RECIPE), "seed": 1}))
    with pytest.raises(ValueError, match=r"is of another run: folders"):
        go_on(some=folders * 2)
    with pytest.raises(ValueError, match="must be a checkpoint of gpudeblur train, got other weights"):
        go_on(path=random_weights)


def test_a_run_begins_with_the_weights_given(
    folders: list[pairs.ImageFolder], straight: Path, random_weights: Path, tmp_path: Path
) -> None:
    path = tmp_path / "c.safetensors"
    training.train(folders, RECIPE, SETTINGS, path, initial=random_weights)  # those that seed 0 draws
    assert same(path, straight)
    training.write_classifier(random_weights, training.Classifier((2, 2, 2, 2, 2)).initialise(1))
    with pytest.raises(ValueError, match=r"is of another run: initial [0-9a-f]+ there, [0-9a-f]+ here"):
        training.train(folders, RECIPE, SETTINGS, path, initial=random_weights, resume=True)
    training.train(folders, RECIPE, SETTINGS, path, initial=random_weights)
    assert not same(path, straight)
    training.write_classifier(random_weights, training.Classifier((2, 2, 2, 2, 3)).initialise(1))
    with pytest.raises(ValueError, match=r"must have channels \(2, 2, 2, 2, 2\), got \(2, 2, 2, 2, 3\)"):
        training.train(folders, RECIPE, SETTINGS, path, initial=random_weights)


@pytest.fixture
def random_weights(tmp_path: Path) -> Path:
    path = tmp_path / "w.safetensors"
    training.write_classifier(path, training.Classifier((2, 2, 2, 2, 2)).initialise(0))
    return path


@pytest.mark.parametrize("name", ["steps", "rate", "momentum", "weight_decay", "clip", "warm_up"])
def test_every_setting_matters_or_is_checked(folders: list[pairs.ImageFolder], tmp_path: Path, name: str) -> None:
    changed = {"steps": 3, "rate": 0.04, "momentum": 0.5, "weight_decay": 0.1, "clip": 1e-3, "warm_up": 50}[name]
    found = []
    for number, settings in enumerate((SETTINGS, training.TrainConfig(**{**vars(SETTINGS), name: changed}))):
        path = tmp_path / f"{number}.safetensors"
        training.train(folders, RECIPE, settings, path)
        found.append(path)
    assert not same(*found)
    with pytest.raises(ValueError, match=f"{name} must"):
        training.TrainConfig(**{name: -1})


def test_settings_of_words_are_checked() -> None:
    with pytest.raises(ValueError, match="precision must be float32 or bfloat16, got 'half'"):
        training.TrainConfig(precision="half")
    for device in ("tpu", "cpu:x", "cpu:", torch.device("cpu")):  # the last could not be written into a checkpoint
        with pytest.raises(ValueError, match=re.escape(f"device must be cpu, cuda or cuda:N, got {device!r}")):
            training.TrainConfig(device=device)  # type: ignore[arg-type]
    gpus = torch.cuda.device_count()
    with pytest.raises(ValueError, match=rf"device must be one of the {gpus} GPUs that torch .* sees, or cpu, got"):
        training.TrainConfig(device=f"cuda:{gpus}")


@pytest.mark.gpu
def test_training_on_a_device(cupy: Any, folders: list[pairs.ImageFolder], tmp_path: Path) -> None:
    """The same first steps as on the CPU, and a checkpoint that goes on."""
    on_cpu, on_gpu = tmp_path / "cpu.safetensors", tmp_path / "gpu.safetensors"
    training.train(folders, RECIPE, SETTINGS, on_cpu)
    settings = replace(SETTINGS, device="cuda")
    training.train(folders, RECIPE, settings, on_gpu, report=lambda step, *_: step == 3)
    training.train(folders, RECIPE, settings, on_gpu, resume=True)
    for name, one in weights_of(on_cpu).items():
        np.testing.assert_allclose(weights_of(on_gpu)[name], one, atol=1e-4)


def test_the_rate_rises_and_falls() -> None:
    settings = training.TrainConfig(steps=100, rate=1.0, warm_up=10)
    rates = [training.rate_at(step, settings) for step in (0, 9, 59, 60, 85)]
    np.testing.assert_allclose(rates, [0.1, 1, 1, 0.2, 0.04])


def test_training_tells_the_classes_apart(folders: list[pairs.ImageFolder], tmp_path: Path) -> None:
    """A few steps on one easy kind of pictures: long blur, no noise, no reduction."""
    recipe = pairs.DataConfig(batch=8, patch=40, kernels=(9, 9), scales=(1.0, 1.0), noise=0.0, jpeg=0.0)
    settings = training.TrainConfig(steps=150, rate=0.04, channels=(16, 16, 16, 16, 16), warm_up=30)
    log = tmp_path / "c.jsonl"
    training.train(folders, recipe, settings, tmp_path / "c.safetensors", log=log)
    losses = [json.loads(line)["loss"] for line in log.read_text().splitlines()]
    assert np.mean(losses[-10:]) < 0.4 < np.mean(losses[:10])


def test_judging_counts_both_classes(folders: list[pairs.ImageFolder]) -> None:
    def sharper_is_clear(pictures: np.ndarray) -> np.ndarray:
        return np.array([1.0 if pairs.mean_gradient(one) < 0.03 else 0.0 for one in pictures])

    always = evaluation.evaluate(lambda pictures: np.full(len(pictures), 0.7), folders[0], scales=(1.0, 0.5))
    assert {scale: found.accuracy for scale, found in always.items()} == {1.0: 0.5, 0.5: 0.5}
    np.testing.assert_allclose(always[1.0].ratio, 1)
    found = evaluation.evaluate(sharper_is_clear, folders[0], scales=(1.0,))[1.0]
    assert found.clear.shape == found.blurred.shape == (3,)


# ------------------------------------------------------------------ the command
def test_the_command_trains_resumes_and_judges(clear: Path, tmp_path: Path) -> None:
    out, log = tmp_path / "w.safetensors", tmp_path / "w.jsonl"
    (clear / "broken.png").write_bytes(b"no")
    command = ["train", "classifier", "--clear", str(clear), "-o", str(out), "--log", str(log), "--steps", "2"]
    command += ["--batch-size", "2", "--patch", "32", "--validate", str(clear), "--resume"]
    try:
        for _ in range(2):  # the second has nothing left to do
            done = CliRunner().invoke(app, command)
            assert done.exit_code == 0, done.output
    finally:
        (clear / "broken.png").unlink()
    assert "3 pictures, 1 skipped" in done.output
    assert "broken.png" in done.output
    assert "scale 0.25" in done.output
    assert load_classifier(out).channels == training.CHANNELS
    assert len(log.read_text().splitlines()) == 2


def test_the_command_says_what_is_wrong(clear: Path, tmp_path: Path) -> None:
    def message(*arguments: str) -> str:
        done = CliRunner().invoke(app, ["train", "classifier", *arguments])
        assert done.exit_code == 2
        return done.output

    out = str(tmp_path / "w.safetensors")
    assert "is not a folder" in message("--clear", str(tmp_path / "none"), "-o", out)
    assert "must hold pictures" in message("--clear", str(tmp_path), "-o", out)
    assert "must end in .safetensors" in message("--clear", str(clear), "-o", str(tmp_path / "w.pt"))
    assert "--checkpoint must be another file" in message("--clear", str(clear), "-o", out, "--checkpoint", out)
    assert "batch must be even" in message("--clear", str(clear), "-o", out, "--batch-size", "3")
    assert "precision must be float32 or" in message("--clear", str(clear), "-o", out, "--precision", "half")
    assert "device must be cpu, cuda" in message("--clear", str(clear), "-o", out, "--device", "tpu")
