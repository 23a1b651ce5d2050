"""Laws of the training loop: resumption bit for bit, checkpoints that survive, schedules, and the command."""

from __future__ import annotations

import json
import re
import resource
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
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

from gpudeblur.networks import catalog, weights  # noqa: E402
from gpudeblur.networks.blocks import initialized  # noqa: E402
from gpudeblur.networks.deepdeblur.network import DeepDeblur  # noqa: E402
from gpudeblur.networks.deepdeblur.training import DeepDeblurTask  # noqa: E402
from gpudeblur.networks.training import trainer  # noqa: E402
from gpudeblur.networks.training.data import BatchMaker, RestorationConfig  # noqa: E402
from gpudeblur.networks.training.pictures import Pictures  # noqa: E402
from gpudeblur.networks.training.trainer import Loss, TrainConfig, rate_factor  # noqa: E402

DATA = RestorationConfig(batch=2, crop=(24, 32), kernels=(3, 7), pool=8)
CONFIG = TrainConfig(steps=47, checkpoint_every=10, warm_up=2)
SMALL: dict[str, Any] = {"widths": (4, 4, 8), "counts": (1, 1, 1, 1, 1)}


class ToyTask:
    """Two modules with a loss each, one with a single number as weight: y = scale * (A x), and a critic's threshold."""

    shipped = "network"

    def __init__(self, size: int = 3) -> None:
        self.size = size
        network = torch.nn.ParameterDict({"matrix": torch.eye(size), "scale": torch.tensor(0.5)})
        self.modules: Any = {"network": network, "critic": torch.nn.Linear(size, 1)}
        torch.nn.init.ones_(self.modules["critic"].weight)
        torch.nn.init.zeros_(self.modules["critic"].bias)
        self.spoiled: set[int] = set()

    def batch(self, index: int) -> Any:
        x = torch.randn(5, self.size, generator=torch.Generator().manual_seed(index))
        return x * (torch.nan if index in self.spoiled else 1)

    def losses(self, batch: Any, share: float) -> Iterator[Loss]:
        network, critic = self.modules["network"], self.modules["critic"]
        y = network["scale"] * (batch @ network["matrix"].T)
        yield Loss("network", (y - 2 * batch.flip(-1)).square().mean(), {"scale": float(network["scale"].detach())})
        yield Loss("critic", (critic(y.detach()) - share).square().mean())

    def describe(self) -> dict[str, Any]:
        return {"architecture": "toy", "network": {"size": self.size}}


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The checkpoint of an uninterrupted run, its log beside it."""
    path = tmp_path_factory.mktemp("uninterrupted") / "c.safetensors"
    trainer.train(ToyTask(), CONFIG, path, log=path.with_suffix(".jsonl"))
    return path


def train(path: Path, task: Any = None, *, resume: bool = False, **changes: Any) -> trainer.TrainResult:
    """`trainer.train` of a new task, where `changes` change `CONFIG` or are arguments of it."""
    arguments = {name: changes.pop(name) for name in ("initial", "log", "progress") if name in changes}
    return trainer.train(task or ToyTask(), replace(CONFIG, **changes), path, resume=resume, **arguments)


def same(a: Path, b: Path) -> bool:
    """Weights, average and moments are, bit by bit."""
    first, second = weights.unpack(a)[0], weights.unpack(b)[0]
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def log_of(path: Path) -> list[dict[str, float]]:
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    return [{name: value for name, value in line.items() if name != "seconds"} for line in lines]


# ------------------------------------------------------------------ learning
def eight_pictures() -> Pictures:
    drawn = [camera()[20 * i : 20 * i + 60, 30 * i : 30 * i + 64] for i in range(8)]
    images = [torch.from_numpy(np.broadcast_to(picture, (3, *picture.shape)).copy()) for picture in drawn]
    return Pictures(Path("drawn"), images, [])


@pytest.mark.training
@pytest.mark.parametrize("settings", [SMALL, {"trunk": "inception", "widths": (16,), "counts": (2,)}])
def test_thirty_steps_halve_the_loss(tmp_path: Path, settings: dict[str, Any]) -> None:
    """Of a network that begins with a random last layer instead of zeros; by the paper's losses also."""
    network = initialized(lambda: DeepDeblur(**settings), 0)
    with torch.no_grad():
        weight = network.trunk.exit.weight
        weight.copy_(0.1 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(0)))
    task, log = DeepDeblurTask(network, BatchMaker([eight_pictures()], DATA)), tmp_path / "c.jsonl"
    config = TrainConfig(steps=30, rate=5e-3, warm_up=2, checkpoint_every=5)
    trainer.train(task, config, tmp_path / "c.safetensors", log=log)
    losses = [line["network"] for line in log_of(log)]
    assert losses[-1] < 0.5 * losses[0]


# ------------------------------------------------------------------ resumption
@pytest.mark.parametrize("at", [1, 9, 10, 11, 46])
@pytest.mark.parametrize("killed", [True, False])
def test_interrupted_run_resumes_bit_for_bit(uninterrupted: Path, tmp_path: Path, at: int, killed: bool) -> None:
    """Killed or stopped before, at and after a checkpoint; the log has the same lines."""
    path, log, before = tmp_path / "c.safetensors", tmp_path / "c.jsonl", torch.get_num_threads()

    def interrupt(step: int, share: float, figures: Any) -> bool:
        assert share == step / CONFIG.steps
        assert figures.keys() == {"network", "critic", "scale"}
        assert not torch.backends.cudnn.allow_tf32
        if step == at and killed:
            raise KeyboardInterrupt
        return step == at

    if killed:
        with pytest.raises(KeyboardInterrupt):
            train(path, log=log, progress=interrupt)
    else:
        assert train(path, log=log, progress=interrupt).step == at
    assert torch.backends.cudnn.allow_tf32
    assert torch.get_num_threads() == before
    result = train(path, log=log, resume=True)
    again = train(path, resume=True)  # nothing is left to do
    assert result.step == again.step == CONFIG.steps
    assert result.figures == again.figures
    assert same(path, uninterrupted)
    assert log_of(log) == log_of(uninterrupted.with_suffix(".jsonl"))
    assert [line["step"] for line in log_of(log)] == [10, 20, 30, 40, 47]


@pytest.mark.parametrize("optimizer", ["sgd", "rmsprop"])
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_every_optimizer_and_precision_resumes(tmp_path: Path, optimizer: str, precision: str) -> None:
    paths = tmp_path / "a.safetensors", tmp_path / "b.safetensors"
    settings: dict[str, Any] = {"optimizer": optimizer, "precision": precision, "average": 0.0, "rate": 1e-3}
    train(paths[0], **settings)
    train(paths[1], **settings, progress=lambda step, *_: step == 5)
    result = train(paths[1], resume=True, **settings)
    assert same(*paths)
    for name, tensor in weights.read_weights(paths[0])[0].items():  # without an average, the last weights
        assert torch.equal(tensor, result.weights[name])


def test_convolutions_resume_bit_for_bit(tmp_path: Path) -> None:
    """Weights and moments are stored in another order of memory than they have; batches are made in a thread."""
    paths = tmp_path / "a.safetensors", tmp_path / "b.safetensors"

    def run(path: Path, **arguments: Any) -> None:
        task = DeepDeblurTask(initialized(lambda: DeepDeblur(**SMALL), 0), BatchMaker([eight_pictures()], DATA))
        trainer.train(task, replace(CONFIG, steps=4, checkpoint_every=3), path, **arguments)

    run(paths[0])
    run(paths[1], progress=lambda step, *_: step == 2)
    run(paths[1], resume=True)
    assert same(*paths)


def test_checkpoint_holds_the_average_that_ships(uninterrupted: Path) -> None:
    tensors, metadata = weights.read_weights(uninterrupted)
    assert (metadata["architecture"], json.loads(metadata["config"])) == ("toy", {"size": 3})
    stored = weights.unpack(uninterrupted)[0]
    assert torch.equal(tensors["matrix"], stored["average.matrix"])
    assert not torch.equal(tensors["matrix"], stored["module.network.matrix"])


def test_average_is_the_recursion_of_its_decay(tmp_path: Path) -> None:
    task, average, seen = ToyTask(), None, []
    average = task.modules["network"]["matrix"].detach().clone()
    train(
        tmp_path / "c.safetensors", task, steps=30, average=0.7,
        progress=lambda *_: seen.append(task.modules["network"]["matrix"].detach().clone()),
    )  # fmt: skip
    for step, matrix in enumerate(seen, 1):
        average = average + (1 - min(0.7, step / (step + 10))) * (matrix - average)
    torch.testing.assert_close(weights.read_weights(tmp_path / "c.safetensors")[0]["matrix"], average)


def test_checkpoints_of_other_runs_are_refused(uninterrupted: Path, tmp_path: Path) -> None:
    other = tmp_path / "w.safetensors"
    other.write_bytes(weights.pack({"matrix": torch.eye(3), "scale": torch.tensor(1.0)}))
    refused: list[tuple[dict[str, Any], str]] = [
        ({"task": ToyTask(4)}, "is of another network, network {'size': 3}, not {'size': 4}; train with its settings"),
        ({"rate": 0.5}, "is of another run: rate 0.0007 there, 0.5 here; resume with its settings"),
        ({"minutes": 1.0}, "is of another run: minutes None there, 1.0 here"),
        ({"precision": "bfloat16"}, "is of another run: precision float32 there, bfloat16 here"),
        ({"threads": 2}, "is of another run: threads 1 there, 2 here"),
        ({"initial": other}, "is of another run: initial None there, "),
        ({"path": other}, "must be a checkpoint of gpudeblur train, got other weights"),
    ]
    before = uninterrupted.read_bytes()
    for change, message in refused:
        with pytest.raises(ValueError, match=re.escape(message)):
            train(**{"path": uninterrupted, "resume": True, **change})
    train(uninterrupted, resume=True, checkpoint_every=3)  # which changes no result
    assert uninterrupted.read_bytes() == before


# ------------------------------------------------------------------ what goes wrong
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"about": None},
            "must say how far its run is, got about None; take an earlier copy of it, or begin a new",
        ),
        ({"step": 1.5}, "must say how far its run is, got step 1.5; "),
        ({"step": 99}, "must be of at most 47 steps, got 99; "),
        ({"seconds": "long"}, "must say how far its run is, got seconds 'long'; "),
        ({"measured": {}}, "must say how far its run is, got measured {}; "),
        ("{", "must have metadata in JSON, got Expecting property name"),
        ("[]", "must have metadata in JSON, got "),
        ("{}", "must say how far its run is, got none of step; "),
    ],
)
def test_changed_metadata_is_refused(change: Any, message: str, uninterrupted: Path, tmp_path: Path) -> None:
    tensors, metadata = weights.unpack(uninterrupted)
    text = change if isinstance(change, str) else json.dumps(json.loads(metadata["checkpoint"]) | change)
    path = tmp_path / "c.safetensors"
    path.write_bytes(weights.pack(tensors, {"checkpoint": text}))
    with pytest.raises(ValueError, match="^checkpoint " + re.escape(f"{path} {message}")):
        train(path, resume=True)


def test_other_tensors_and_other_logs_are_refused_by_name(uninterrupted: Path, tmp_path: Path) -> None:
    tensors, metadata = weights.unpack(uninterrupted)
    path, log = tmp_path / "c.safetensors", tmp_path / "log.jsonl"
    changed: list[dict[str, Any]] = [
        {name: tensor for name, tensor in tensors.items() if "critic" not in name},
        tensors | {"average.other": torch.zeros(1)},
        tensors | {"moment.network.first.step": torch.zeros(1)},
        {name: tensor[..., :1].contiguous() if tensor.ndim else tensor for name, tensor in tensors.items()},
    ]
    for others in changed:
        path.write_bytes(weights.pack(others, metadata))
        with pytest.raises(ValueError, match=re.escape(f"checkpoint {path} must hold the tensors of its run, got oth")):
            train(path, resume=True)
    for text in ("{", "[1]", '{"epoch": 3}'):
        log.write_text(text)
        with pytest.raises(ValueError, match=re.escape(f"log {log} must be one of gpudeblur train, JSON lines with")):
            train(uninterrupted, resume=True, log=log)


def test_nan_loss_stops_at_the_last_good_checkpoint(tmp_path: Path) -> None:
    path, task = tmp_path / "c.safetensors", ToyTask()
    task.spoiled = {23}
    message = (
        rf"loss of the network is nan in step 24; start from {path}, of step 20, as initial weights, with a smaller"
    )
    with pytest.raises(FloatingPointError, match=message):
        train(path, task)
    assert all(tensor.isfinite().all() for tensor in weights.unpack(path)[0].values())
    train(path.with_name("new.safetensors"), initial=path, rate=1e-4)
    task.spoiled = {0}
    with pytest.raises(FloatingPointError, match="in step 1; start again, with a smaller rate than 0"):
        train(tmp_path / "never.safetensors", task)
    assert not (tmp_path / "never.safetensors").exists()


@contextmanager
def full_disk(room: int) -> Iterator[None]:
    """No file can grow beyond `room` bytes."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_full_disk_keeps_the_old_checkpoint(uninterrupted: Path, tmp_path: Path) -> None:
    path = tmp_path / "c.safetensors"
    train(path, progress=lambda step, *_: step == 12)
    before = path.read_bytes()
    with (
        full_disk(1000),
        pytest.raises(OSError, match=rf"{path} cannot be written \(.*\), the file that is there is who"),
    ):
        train(path, resume=True)
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["c.safetensors"]
    train(path, resume=True)
    assert same(path, uninterrupted)


def test_folder_that_has_gone_is_named(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    with pytest.raises(
        OSError, match=rf"{folder / 'c.safetensors'} cannot be written \(No such file.*nothing is there"
    ):
        train(folder / "c.safetensors", progress=lambda step, *_: shutil.rmtree(folder) if step == 5 else None)


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError])
def test_failed_run_leaves_no_thread(error: Any, tmp_path: Path) -> None:
    """Not even while a caller holds the error, and with it the frames it passed through."""

    def fail(*_: Any) -> None:
        raise error

    with pytest.raises(error) as info:
        train(tmp_path / "c.safetensors", progress=fail)
    assert not [thread.name for thread in threading.enumerate() if thread.name.startswith("batches")]
    assert info.traceback


def test_error_of_a_batch_is_raised_in_its_turn(tmp_path: Path) -> None:
    task, steps = ToyTask(), []
    original = task.batch

    def batch(index: int) -> Any:
        if index == 5:
            raise MemoryError("batch 5")
        return original(index)

    task.batch = batch  # type: ignore[method-assign]
    with pytest.raises(MemoryError, match="batch 5"):
        train(tmp_path / "c.safetensors", task, progress=lambda step, *_: steps.append(step))
    assert steps == [1, 2, 3, 4, 5]


# ------------------------------------------------------------------ initial weights
def test_run_begins_with_the_initial_weights(tmp_path: Path) -> None:
    """In float16 as networks ship; of another network they are refused with both names."""
    network = initialized(lambda: DeepDeblur(**SMALL), 3)
    path, maker = tmp_path / "w.safetensors", BatchMaker([eight_pictures()], DATA)
    catalog.write_network(path, network, network.state_dict())

    def task(**changes: Any) -> DeepDeblurTask:
        return DeepDeblurTask(initialized(lambda: DeepDeblur(**SMALL | changes), 0), maker)

    first = task()
    trainer.load_initial(first, path)
    for name, weight in first.network.state_dict().items():
        assert weight.dtype == torch.float32
        assert torch.equal(weight, network.state_dict()[name].half().float())
    checkpoint = tmp_path / "c.safetensors"
    trainer.train(task(), replace(CONFIG, steps=1, warm_up=1000), checkpoint, initial=path)
    for name, weight in weights.read_weights(checkpoint)[0].items():
        torch.testing.assert_close(weight, first.network.state_dict()[name], atol=1e-5, rtol=0)
    loaded = catalog.load_network("deepdeblur", checkpoint)  # a checkpoint is a file of weights
    assert loaded.config == network.config
    with pytest.raises(ValueError, match="must be of the network 'toy', got 'deepdeblur'; name another file"):
        train(tmp_path / "t.safetensors", initial=path)
    message = r"must be of a deepdeblur with .*\[8, 4, 8\].*, got .*\[4, 4, 8\].*; train with its settings"
    with pytest.raises(ValueError, match=message):
        trainer.load_initial(task(widths=(8, 4, 8)), path)


# ------------------------------------------------------------------ settings
def test_every_setting_matters(uninterrupted: Path, tmp_path: Path) -> None:
    changes: dict[str, Any] = {
        "steps": 30, "rate": 1e-3, "warm_up": 9, "schedule": "constant", "optimizer": "sgd", "betas": (0.5, 0.9),
        "weight_decay": 0.1, "clip": 1e-3, "average": 0.5, "precision": "bfloat16",
    }  # fmt: skip
    for name, value in changes.items():
        train(tmp_path / "c.safetensors", **{name: value})
        stored = weights.read_weights(tmp_path / "c.safetensors")[0], weights.read_weights(uninterrupted)[0]
        assert not torch.equal(stored[0]["matrix"], stored[1]["matrix"]), name


def test_rate_in_closed_form() -> None:
    """Warm-up, then cosine to a hundredth, an exponential to a hundredth, drops by 5, or nothing."""
    config = TrainConfig(warm_up=10)
    np.testing.assert_allclose([rate_factor(step, 0, config) for step in (0, 4, 9, 99)], [0.1, 0.5, 1, 1])
    expected = {
        "cosine": [1, 0.01 + 0.99 * (2 + 2**0.5) / 4, 0.505, 0.01], "exponential": [1, 0.01**0.25, 0.1, 0.01],
        "drops": [1, 1, 1, 1 / 25], "constant": [1, 1, 1, 1],
    }  # fmt: skip
    for schedule, factors in expected.items():
        config = TrainConfig(warm_up=0, schedule=schedule)  # type: ignore[arg-type]
        np.testing.assert_allclose([rate_factor(0, share, config) for share in (0, 0.25, 0.5, 1)], factors)
    drops = TrainConfig(warm_up=0, schedule="drops")
    np.testing.assert_allclose([rate_factor(0, s, drops) for s in (0.599, 0.6, 0.849, 0.85)], [1, 0.2, 0.2, 0.04])


def test_minutes_end_the_run_and_the_schedule(tmp_path: Path) -> None:
    """Also of a run in two parts, of which each counts its own time."""
    path, log, shares = tmp_path / "c.safetensors", tmp_path / "c.jsonl", []

    def note(step: int, share: float, figures: Any) -> bool:
        shares.append(share)
        return 0.5 < share < 1

    settings: dict[str, Any] = {"minutes": 0.005, "steps": 1, "log": log, "progress": note}
    stopped = train(path, **settings)
    assert 0.5 < shares[-1] < 1
    result = train(path, resume=True, **settings)
    while result.seconds < 0.3:
        result = train(path, resume=True, **settings)
    assert stopped.step < result.step
    assert shares == sorted(shares)
    assert shares[-1] == 1
    assert 0.3 <= result.seconds < 1
    assert log_of(log)[-1]["rate"] < 0.02 * CONFIG.rate


def test_threads_and_precision_are_measured(tmp_path: Path) -> None:
    """Without a change of the weights; the choice is in the checkpoint, and a resumed run takes it from there."""
    before, task = torch.get_num_threads(), ToyTask()
    try:
        torch.set_num_threads(2)
        chosen = trainer.measured(task, replace(CONFIG, threads=None, precision=None))
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
    assert chosen.threads in (1, 2)
    assert chosen.precision in ("float32", "bfloat16")
    for name, module in ToyTask().modules.items():
        for key, tensor in module.state_dict().items():
            assert torch.equal(tensor, task.modules[name].state_dict()[key])
    assert trainer.measured(task, CONFIG) is not None
    paths = tmp_path / "a.safetensors", tmp_path / "b.safetensors"
    result = train(paths[0], threads=None, precision=None, progress=lambda step, *_: step == 5)
    stored = json.loads(weights.unpack(paths[0])[1]["checkpoint"])["measured"]
    assert stored == {"threads": result.config.threads, "precision": result.config.precision}
    train(paths[0], threads=None, precision=None, resume=True)
    train(paths[1], **stored)
    assert same(*paths)


REFUSED: list[tuple[dict[str, Any], str]] = [
    *(({name: -1}, f"{name} must be ") for name in ("steps", "checkpoint_every", "threads", "warm_up", "minutes")),
    *(({name: -1}, f"{name} must be ") for name in ("rate", "weight_decay", "clip", "average")),
    ({"betas": (0.9, 1.5)}, "betas must be in [0, 1)"),
    ({"schedule": "linear"}, "schedule must be one of 'cosine', 'exponential', 'drops', 'constant', got 'linear'"),
    ({"optimizer": "lion"}, "optimizer must be one of 'adamw', 'sgd', 'rmsprop', got 'lion'"),
    ({"precision": "half"}, "precision must be one of 'float32', 'bfloat16', got 'half'"),
    *(
        ({"device": device}, f"device must be cpu, cuda or cuda:N, got {device!r}")
        for device in ("tpu", "cpu:x", "cpu:", torch.device("cpu"))  # the last could not be written to a checkpoint
    ),
    ({"device": "cuda:99"}, f"device must be one of the {torch.cuda.device_count()} GPUs that"),
]


@pytest.mark.parametrize(("change", "message"), REFUSED, ids=range(len(REFUSED)))
def test_invalid_settings_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        TrainConfig(**change)


@pytest.mark.gpu
def test_training_on_a_device(cupy: Any, uninterrupted: Path, tmp_path: Path) -> None:
    """Nearly the weights of the CPU, data made on the device, and a checkpoint that resumes."""

    class DeviceTask(ToyTask):
        def batch(self, index: int) -> Any:
            return super().batch(index).cuda()

    path = tmp_path / "c.safetensors"
    train(path, DeviceTask(), device="cuda", progress=lambda step, *_: step == 3)
    train(path, DeviceTask(), device="cuda", resume=True)
    expected = weights.unpack(uninterrupted)[0]
    for name, tensor in weights.unpack(path)[0].items():
        torch.testing.assert_close(tensor, expected[name], atol=1e-4, rtol=1e-3)
    network = initialized(lambda: DeepDeblur(**SMALL), 0)
    task = DeepDeblurTask(network, BatchMaker([eight_pictures()], DATA, "cuda"))
    assert task.batch(0).blurred.is_cuda
    trainer.train(task, replace(CONFIG, steps=3, device="cuda", precision=None), tmp_path / "d.safetensors")


# ------------------------------------------------------------------ the command
@pytest.fixture
def clear(tmp_path: Path) -> Path:
    """A folder of two pictures and one that is none."""
    folder = tmp_path / "clear"
    folder.mkdir()
    for index in range(2):
        Image.fromarray(camera()[60 * index + 120 : 60 * index + 184, 150:230]).save(folder / f"{index}.png")
    (folder / "broken.png").write_bytes(b"no")
    return folder


@pytest.mark.training
@pytest.mark.parametrize("network", [pytest.param("deepdeblur", marks=pytest.mark.slow), "classifier"])
def test_command_trains_resumes_and_validates(network: str, clear: Path, tmp_path: Path) -> None:
    out, log = tmp_path / "w.safetensors", tmp_path / "w.jsonl"
    command = ["train", network, "--clear", str(clear), "-o", str(out), "--log", str(log), "--steps", "2"]
    command += ["--batch-size", "2", "--validate", str(clear), "--resume", "--precision", "float32", "--threads", "1"]
    for _ in range(2 if network == "classifier" else 1):  # nothing is left to do for the second
        result = CliRunner().invoke(app, command)
        assert result.exit_code == 0, result.output
    for words in ("steps", "minutes", "last loss", "2 pictures, 1 skipped", "broken.png", "on clear", "written"):
        assert words in result.output
    assert log_of(log)[-1]["step"] == 2
    if network == "classifier":
        from gpudeblur.networks.classifier.network import load_classifier

        load_classifier(out)
        load_classifier(out.with_suffix(".checkpoint.safetensors"))
    else:
        assert catalog.load_network(network, out).config == DeepDeblur().config
    other = ["train", "classifier", "--clear", str(clear), f"--out={tmp_path / 'v.safetensors'}", "--steps", "1"]
    result = CliRunner().invoke(app, [*other, "--initial", str(out.with_suffix(".checkpoint.safetensors"))])
    assert result.exit_code == (0 if network == "classifier" else 2), result.output
    if network != "classifier":
        assert "must be of the network 'classifier', got 'deepdeblur'" in result.output


def test_command_says_what_is_wrong(clear: Path, tmp_path: Path) -> None:
    option, out = f"--clear={clear}", f"--out={tmp_path / 'w.safetensors'}"
    empty = tmp_path / "empty"
    empty.mkdir()
    refused: list[tuple[list[str], str]] = [
        ([f"--clear={tmp_path / 'none'}", out], "is not a folder"),
        ([f"--clear={empty}", out], "must hold pictures"),
        ([option, f"--out={tmp_path / 'w.pt'}"], "must end in .safetensors"),
        ([option, out, out.replace("--out", "--checkpoint")], "--checkpoint must be another file"),
        ([option, out, f"--log={tmp_path / 'w.txt'}"], "must end in .jsonl"),
        ([option, out, "--batch-size", "3"], "batch must be even"),
        ([option, out, "--precision", "half"], "precision must be one of"),
        ([option, out, "--minutes", "0"], "minutes must be positive"),
        ([option, out, "--steps", "1", "--initial", str(clear / "0.png")], "must be safetensors"),
    ]
    for arguments, message in refused:
        result = CliRunner().invoke(app, ["train", "classifier", *arguments])
        assert result.exit_code == 2, result.output
        assert message in result.output
