"""Training of the classifier ([Li2018], section 3): binary cross-entropy, SGD with momentum, exact resumption.

Step n uses batch n of `make_batch`, and a checkpoint holds everything else that a step depends on: weights and momenta.
A run that was killed and resumed therefore ends with exactly the weights of an uninterrupted run (on the CPU, with the
same number of threads).
"""

from __future__ import annotations

import hashlib
import json
import math
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ...images.checks import check_choice, check_count, check_number
from ...images.files import write_whole
from ..blocks import channels_last
from ..weights import pack, unpack
from .data import DataConfig, ImageFolder, make_batches
from .network import CHANNELS, Classifier, load_classifier

# The learning rate is divided by RATE_DROP (paper: 5) after these fractions of the steps.
RATE_DROPS = (0.6, 0.85)
RATE_DROP = 5.0


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """How the network is trained; `DataConfig` describes the data.

    Attributes
    ----------
    steps : number of batches.
    rate : learning rate. The paper has 1e-3 with 50 crops per batch and many epochs; 0.02 needs fewer steps.
    warm_up : steps over which the learning rate rises from 0.
    momentum, weight_decay : of SGD (paper: 0.9, 1e-4).
    clip : maximum norm of the gradient of all weights together; a longer gradient is scaled down to it.
    channels : of the network.
    checkpoint_every : steps between checkpoints.
    threads : of torch. The number affects rounding.
    device : torch device, "cpu", "cuda", "cuda:1", ... A resumed run is bit-equal on the CPU only.
    precision : of the convolutions, "float32" or "bfloat16", which is twice as fast where the processor supports it;
        weights and sums are float32.
    """

    steps: int = 6000
    rate: float = 0.02
    warm_up: int = 100
    momentum: float = 0.9
    weight_decay: float = 1e-4
    clip: float = 1.0
    channels: tuple[int, ...] = CHANNELS
    checkpoint_every: int = 200
    threads: int = 1
    device: str = "cpu"
    precision: str = "float32"

    def __post_init__(self) -> None:
        for name, minimum in (("steps", 1), ("checkpoint_every", 1), ("threads", 1), ("warm_up", 0)):
            check_count(name, getattr(self, name), minimum=minimum)
        for name in ("rate", "clip"):
            check_number(name, getattr(self, name), "positive", lambda value: value > 0)
        for name in ("momentum", "weight_decay"):
            check_number(name, getattr(self, name), "in [0, 1)", lambda value: 0 <= value < 1)
        check_choice("precision", self.precision, ("float32", "bfloat16"))
        if not (isinstance(self.device, str) and re.fullmatch(r"cpu|cuda(:\d+)?", self.device)):
            raise ValueError(f"device must be cpu, cuda or cuda:N, got {self.device!r}; leave it out for cpu")
        gpus = torch.cuda.device_count()
        if self.device != "cpu" and int(self.device.partition(":")[2] or 0) >= gpus:
            raise ValueError(
                f"device must be one of the {gpus} GPUs that torch {torch.__version__} (CUDA: {torch.version.cuda}) "
                f"sees, or cpu, got {self.device!r}"
            )


@dataclass(frozen=True)
class TrainResult:
    """The network, and the mean loss and accuracy over the last 100 steps, each on a batch not seen before."""

    network: Classifier
    step: int
    loss: float
    accuracy: float


def rate_at(step: int, config: TrainConfig) -> float:
    """The learning rate of a step, counted from 0."""
    drops = sum(step >= fraction * config.steps for fraction in RATE_DROPS)
    return config.rate * min(1.0, (step + 1) / max(1, config.warm_up)) / RATE_DROP**drops


def train(
    folders: Sequence[ImageFolder],
    data_config: DataConfig,
    config: TrainConfig,
    checkpoint: Path,
    *,
    initial: Path | None = None,
    resume: bool = False,
    log: Path | None = None,
    progress: Callable[[int, float, float], bool | None] = lambda *_: None,
) -> TrainResult:
    """Train a classifier from the beginning, or resume from a checkpoint.

    Parameters
    ----------
    folders : clear images.
    checkpoint : file, written atomically every `checkpoint_every` steps and at the end.
    initial : file of the initial weights, for the same network; None: random weights.
    resume : resume from `checkpoint` if it exists. It must be of the same network, settings and images.
    log : file of JSON lines, one per step: step, loss, accuracy, and at checkpoints rate and seconds. Lines after the
        checkpoint that a run resumes from are removed.
    progress : called with (steps done, mean loss, mean accuracy) after each step; True stops with a checkpoint.

    Raises
    ------
    FloatingPointError
        The loss is not finite. The message names the step and the last good checkpoint, which is not overwritten.
    """
    torch.set_num_threads(config.threads)
    checkpoint = Path(checkpoint)
    run = run_config(folders, data_config, config, initial)
    network = Classifier(config.channels)
    step = 0
    if resume and checkpoint.exists():
        step, momenta = load_checkpoint(checkpoint, network, run)
    else:
        _initialize(network, data_config.seed, initial)
        momenta = [torch.zeros_like(weight) for weight in network.parameters()]
    network.to(config.device)
    optimizer = _sgd(network, momenta, config)
    lines = _log_lines(log, step)
    losses: list[float] = []
    accuracies: list[float] = []
    saved_step, start = step, time.perf_counter()
    batches = make_batches(folders, data_config, step, config.steps)
    # Closed explicitly: otherwise its thread would live for as long as a caller holds the error and its traceback.
    with closing(batches), _without_tf32():
        for batch in batches:
            rate = rate_at(step, config)
            loss, accuracy = _step(network, optimizer, batch, rate, config)
            step += 1
            if not math.isfinite(loss):
                source = f"from {checkpoint}, of step {saved_step}, with --initial" if saved_step else "again"
                raise FloatingPointError(
                    f"the loss of step {step} is {loss}; start {source}, and a smaller --rate than {config.rate:g}"
                )
            losses, accuracies = [*losses[-99:], loss], [*accuracies[-99:], accuracy]
            line = {"step": step, "loss": round(loss, 6), "accuracy": round(accuracy, 4)}
            stop = progress(step, float(np.mean(losses)), float(np.mean(accuracies)))
            save = step % config.checkpoint_every == 0 or step == config.steps or stop
            if save:
                line |= {"rate": rate, "seconds": round(time.perf_counter() - start, 1)}
            lines.append(json.dumps(line))
            if save:
                save_checkpoint(checkpoint, network, optimizer, step, run)
                saved_step = step
                if log is not None:
                    write_whole(log, ("\n".join(lines) + "\n").encode())
            if stop:
                break
    means = [float(np.mean(values)) if values else math.nan for values in (losses, accuracies)]
    return TrainResult(network, step, *means)


@contextmanager
def _without_tf32() -> Iterator[None]:
    """By default cuDNN computes float32 convolutions on a GPU with the 10-bit mantissa of TF32."""
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32 = before


def _initialize(network: Classifier, seed: int, initial: Path | None) -> None:
    """Set the weights before the first step."""
    if initial is None:
        network.initialize(seed)
        return
    source = load_classifier(initial)
    if source.channels != network.channels:
        raise ValueError(f"weights {initial} must have channels {network.channels}, got {source.channels}")
    network.load_state_dict(source.state_dict())


def _sgd(network: Classifier, momenta: Sequence[torch.Tensor], config: TrainConfig) -> torch.optim.SGD:
    """The optimizer, with the momenta of the previous steps."""
    optimizer = torch.optim.SGD(
        network.parameters(), lr=config.rate, momentum=config.momentum, weight_decay=config.weight_decay
    )
    for weight, momentum in zip(network.parameters(), momenta, strict=True):
        optimizer.state[weight]["momentum_buffer"] = momentum.to(weight.device)
    return optimizer


def _step(
    network: Classifier,
    optimizer: torch.optim.SGD,
    batch: list[tuple[np.ndarray, np.ndarray]],
    rate: float,
    config: TrainConfig,
) -> tuple[float, float]:
    """One step of SGD, in place: (loss of eq. 3, accuracy). Nothing changes if the loss is not finite."""
    count = sum(len(labels) for _, labels in batch)
    loss, correct = 0.0, 0
    optimizer.zero_grad()
    for stack in batch:
        images, labels = (torch.from_numpy(array).to(config.device) for array in stack)
        with torch.autocast(images.device.type, torch.bfloat16, enabled=config.precision == "bfloat16"):
            logits = network.logits(images[:, None])
        part = torch.nn.functional.binary_cross_entropy_with_logits(logits, labels, reduction="sum") / count
        part.backward()
        loss += float(part.detach())
        correct += int(((logits.detach() > 0) == (labels > 0.5)).sum())
    norm = float(torch.nn.utils.clip_grad_norm_(network.parameters(), config.clip))
    if not math.isfinite(loss + norm):
        return math.nan, correct / count
    for group in optimizer.param_groups:
        group["lr"] = rate
    optimizer.step()
    return loss, correct / count


# ------------------------------------------------------------------ files
def write_classifier(path: Path, network: Classifier) -> str:
    """Write the weights alone, atomically; returns the SHA-256 of the file."""
    data = pack(network.state_dict())
    write_whole(Path(path), data)
    return hashlib.sha256(data).hexdigest()


def run_config(
    folders: Sequence[ImageFolder], data_config: DataConfig, config: TrainConfig, initial: Path | None = None
) -> dict[str, Any]:
    """Everything except the pixels that the result of a run depends on; a checkpoint must agree with it."""
    run = {"architecture": "classifier", **asdict(config), **asdict(data_config)}
    del run["checkpoint_every"]
    run["folders"] = [[f.path.name, len(f.images), sum(int(image.size) for image in f.images)] for f in folders]
    run["initial"] = None if initial is None else hashlib.sha256(Path(initial).read_bytes()).hexdigest()
    return json.loads(json.dumps(run))


def save_checkpoint(
    path: Path, network: Classifier, optimizer: torch.optim.SGD, step: int, run: Mapping[str, Any]
) -> None:
    """Write weights, momenta and `run` as safetensors, atomically."""
    momenta = {
        f"momentum.{name}": optimizer.state[weight]["momentum_buffer"] for name, weight in network.named_parameters()
    }
    metadata = {"checkpoint": json.dumps({"step": step, "about": run})}
    write_whole(path, pack({**network.state_dict(), **momenta}, metadata))


def load_checkpoint(path: Path, network: Classifier, run: Mapping[str, Any]) -> tuple[int, list[torch.Tensor]]:
    """(step, momenta); the weights are loaded into `network`. A checkpoint of another network or run is an error."""
    tensors, metadata = unpack(path)
    if "checkpoint" not in metadata:
        raise ValueError(f"{path} must be a checkpoint of gpudeblur train, got other weights; name another file")
    state = json.loads(metadata["checkpoint"])
    saved = state["about"]
    for name in ("architecture", "channels"):
        if saved.get(name) != run[name]:
            raise ValueError(
                f"checkpoint {path} is of another network, {name} {saved.get(name)}, not {run[name]}; train with its "
                "settings, or name another file"
            )
    differences = [f"{name} {saved.get(name)} there, {run[name]} here" for name in run if saved.get(name) != run[name]]
    if differences:
        changes = ", ".join(differences)
        raise ValueError(
            f"checkpoint {path} is of another run: {changes}; resume with its settings, or name another file"
        )
    network.load_state_dict({name: tensor for name, tensor in tensors.items() if not name.startswith("momentum.")})
    channels_last(network)
    # Momenta get the strides of the weights, as in an uninterrupted run, because the order of a sum affects rounding.
    momenta = [torch.zeros_like(w).copy_(tensors[f"momentum.{name}"]) for name, w in network.named_parameters()]
    return int(state["step"]), momenta


def _log_lines(log: Path | None, step: int) -> list[str]:
    """The lines of the log up to a step."""
    if log is None or not step or not Path(log).exists():
        return []
    return [line for line in Path(log).read_text().splitlines() if line and json.loads(line)["step"] <= step]
