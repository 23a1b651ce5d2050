"""Training of the classifier (seed 3, section 3): binary cross-entropy, SGD with momentum, checkpoints at any time.

Step n takes batch n of `pairs.make_batch`, whatever came before it, and a checkpoint holds all else that a step depends
on: weights and momenta. So a run that was killed and resumed ends with the very weights of one that was not (on the
CPU, with as many threads).
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

from ...images.files import write_whole
from ..weights import pack, unpack
from .data import DataConfig, ImageFolder, check, make_batches
from .network import CHANNELS, Classifier, channels_last, load_classifier

# The learning rate falls by 5 (paper) after these shares of the steps.
DROPS = (0.6, 0.85)
RATE_DROP = 5.0


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """How the network is trained; `DataConfig` says on what.

    Attributes
    ----------
    steps : batches.
    rate : learning rate. The paper has 1e-3 with 50 crops a batch and many epochs; 0.02 needs fewer steps.
    warm_up : steps over which the rate rises to that from 0.
    momentum, weight_decay : of SGD (paper: 0.9, 1e-4).
    clip : longest gradient, all weights together; longer ones are shortened to it.
    channels : of the network.
    checkpoint_every : steps.
    threads : of torch. Another number rounds sums otherwise.
    device : of torch, "cpu", "cuda" or "cuda:1", ... Only on the CPU is a run that was resumed equal to the bit.
    precision : of the convolutions, "float32" or "bfloat16", which is twice as fast where the processor has it; weights
        and sums are float32.
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
        for name in ("steps", "checkpoint_every", "threads"):
            check(name, getattr(self, name) >= 1, "be at least 1", getattr(self, name))
        for name in ("rate", "clip"):
            check(name, 0 < getattr(self, name) < math.inf, "be positive", getattr(self, name))
        check("momentum", 0 <= self.momentum < 1, "be in [0, 1)", self.momentum)
        check("weight_decay", 0 <= self.weight_decay < 1, "be in [0, 1)", self.weight_decay)
        check("warm_up", self.warm_up >= 0, "not be negative", self.warm_up)
        check("precision", self.precision in ("float32", "bfloat16"), "be float32 or bfloat16", self.precision)
        named = isinstance(self.device, str) and re.fullmatch(r"cpu|cuda(:\d+)?", self.device)
        check("device", bool(named), "be cpu, cuda or cuda:N", self.device)
        gpus = torch.cuda.device_count()
        known = self.device == "cpu" or int(self.device.partition(":")[2] or 0) < gpus
        why = f"be one of the {gpus} GPUs that torch {torch.__version__} (CUDA: {torch.version.cuda}) sees, or cpu"
        check("device", known, why, self.device)


@dataclass(frozen=True)
class TrainResult:
    """A network, and the mean loss and accuracy over the last steps on fresh training pictures."""

    network: Classifier
    step: int
    loss: float
    accuracy: float


def rate_at(step: int, settings: TrainConfig) -> float:
    """The learning rate of a step, counted from 0."""
    drops = sum(step >= share * settings.steps for share in DROPS)
    return settings.rate * min(1.0, (step + 1) / max(1, settings.warm_up)) / RATE_DROP**drops


def train(
    folders: Sequence[ImageFolder],
    recipe: DataConfig,
    settings: TrainConfig,
    checkpoint: Path,
    *,
    initial: Path | None = None,
    resume: bool = False,
    log: Path | None = None,
    report: Callable[[int, float, float], bool | None] = lambda *_: None,
) -> TrainResult:
    """Train a classifier from the beginning, or go on from a checkpoint.

    Parameters
    ----------
    folders : of clear pictures.
    checkpoint : file, written every `checkpoint_every` steps and at the end; whole or not at all.
    initial : weights to begin with, of the same network; None draws them.
    resume : go on from `checkpoint`, where there is one.
    log : JSON lines, one a step: step, loss, accuracy, rate, scale of time. What is in it past the checkpoint goes.
    report : told (steps done, mean loss, mean accuracy) after each step; True stops with a checkpoint.

    Raises
    ------
    ValueError
        The checkpoint is of another network, other settings or other pictures.
    FloatingPointError
        The loss is not finite: the step, and where the last good checkpoint is. It is not written over.
    OSError
        The checkpoint or the log cannot be written; an earlier checkpoint stays.
    """
    torch.set_num_threads(settings.threads)
    checkpoint = Path(checkpoint)
    about = run_config(folders, recipe, settings, initial)
    network = Classifier(settings.channels)
    first = 0
    if resume and checkpoint.exists():
        first, momenta = load_checkpoint(checkpoint, network, about)
    else:
        _begin(network, recipe.seed, initial)
        momenta = [torch.zeros_like(one) for one in network.parameters()]
    network.to(settings.device)
    optimiser = _sgd(network, momenta, settings)
    lines = _kept_lines(log, first)
    losses: list[float] = []
    hits: list[float] = []
    good = f"the last good checkpoint is {checkpoint}, of step {first}" if first else "there is no checkpoint yet"
    step, began = first, time.perf_counter()
    batches = make_batches(folders, recipe, first, settings.steps)
    # Not closed, its thread would live on for as long as somebody holds the error.
    with closing(batches), _without_tf32():
        for batch in batches:
            loss, hit = _step(network, optimiser, batch, rate_at(step, settings), settings)
            if not math.isfinite(loss):
                raise FloatingPointError(
                    f"the loss of step {step + 1} is {loss}; {good}; begin again with a smaller --rate, it was "
                    f"{settings.rate:g}, and with --initial from that checkpoint, if there is one"
                )
            step += 1
            losses, hits = [*losses[-99:], loss], [*hits[-99:], hit]
            lines.append(json.dumps({"step": step, "loss": round(loss, 6), "accuracy": round(hit, 4)}))
            stop = report(step, float(np.mean(losses)), float(np.mean(hits)))
            if step % settings.checkpoint_every == 0 or step == settings.steps or stop:
                save_checkpoint(checkpoint, network, optimiser, step, about)
                good = f"the last good checkpoint is {checkpoint}, of step {step}"
                if log is not None:
                    more = {"rate": rate_at(step - 1, settings), "seconds": round(time.perf_counter() - began, 1)}
                    lines[-1] = json.dumps({**json.loads(lines[-1]), **more})
                    write_whole(log, ("\n".join(lines) + "\n").encode())
            if stop:
                break
    last = [float(np.mean(some)) if some else math.nan for some in (losses, hits)]
    return TrainResult(network, step, *last)


@contextmanager
def _without_tf32() -> Iterator[None]:
    """On a GPU cuDNN takes the 10 bits of TF32 for float32 unless it is told not to."""
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32 = before


def _begin(network: Classifier, seed: int, initial: Path | None) -> None:
    """The weights before the first step."""
    if initial is None:
        network.initialise(seed)
        return
    given = load_classifier(initial)
    if given.channels != network.channels:
        raise ValueError(f"weights {initial} must have channels {network.channels}, got {given.channels}")
    network.load_state_dict(given.state_dict())


def _sgd(network: Classifier, momenta: Sequence[torch.Tensor], settings: TrainConfig) -> torch.optim.SGD:
    """The optimiser, with the momenta of the steps before."""
    weights = list(network.parameters())
    decay = settings.weight_decay
    optimiser = torch.optim.SGD(weights, lr=settings.rate, momentum=settings.momentum, weight_decay=decay)
    for weight, momentum in zip(weights, momenta, strict=True):
        optimiser.state[weight]["momentum_buffer"] = momentum.to(weight.device)
    return optimiser


def _step(
    network: Classifier,
    optimiser: torch.optim.SGD,
    batch: list[tuple[np.ndarray, np.ndarray]],
    rate: float,
    settings: TrainConfig,
) -> tuple[float, float]:
    """One step of SGD, in place: (loss of eq. 3, share told right). A loss that is not finite moves nothing."""
    count = sum(len(labels) for _, labels in batch)
    loss, right = 0.0, 0
    optimiser.zero_grad()
    for pictures, labels in batch:
        given, expected = (torch.from_numpy(one).to(settings.device) for one in (pictures, labels))
        kind = torch.device(settings.device).type
        with torch.autocast(kind, torch.bfloat16, enabled=settings.precision == "bfloat16"):
            logits = network.logits(given[:, None])
        part = torch.nn.functional.binary_cross_entropy_with_logits(logits, expected, reduction="sum") / count
        part.backward()
        loss += float(part.detach())
        right += int(((logits.detach() > 0) == (expected > 0.5)).sum())
    length = float(torch.nn.utils.clip_grad_norm_(network.parameters(), settings.clip))
    if not math.isfinite(loss + length):
        return math.nan, right / count
    for group in optimiser.param_groups:
        group["lr"] = rate
    optimiser.step()
    return loss, right / count


# ------------------------------------------------------------------ files
def write_classifier(path: Path, network: Classifier) -> str:
    """Write the weights alone, whole or not at all; the SHA-256 of the file."""
    data = pack({name: one.detach().cpu().contiguous() for name, one in network.state_dict().items()})
    write_whole(Path(path), data)
    return hashlib.sha256(data).hexdigest()


def run_config(
    folders: Sequence[ImageFolder], recipe: DataConfig, settings: TrainConfig, initial: Path | None = None
) -> dict[str, Any]:
    """All that a run's result depends on, but the pixels: what a checkpoint must agree with to go on from."""
    pictures = [[one.path.name, len(one.pictures), sum(int(p.size) for p in one.pictures)] for one in folders]
    own = {name: value for name, value in asdict(settings).items() if name != "checkpoint_every"}
    begun = None if initial is None else hashlib.sha256(Path(initial).read_bytes()).hexdigest()
    known = {"architecture": "classifier", **own, **asdict(recipe), "folders": pictures, "initial": begun}
    return json.loads(json.dumps(known))


def save_checkpoint(
    path: Path, network: Classifier, optimiser: torch.optim.SGD, step: int, about: Mapping[str, Any]
) -> None:
    """Weights, momenta and `about`, as safetensors; whole or not at all."""
    tensors = {name: one.detach().cpu().contiguous() for name, one in network.state_dict().items()}
    for name, weight in network.named_parameters():
        tensors[f"momentum.{name}"] = optimiser.state[weight]["momentum_buffer"].cpu().contiguous()
    write_whole(path, pack(tensors, {"checkpoint": json.dumps({"step": step, "about": about})}))


def load_checkpoint(path: Path, network: Classifier, about: Mapping[str, Any]) -> tuple[int, list[torch.Tensor]]:
    """(step, momenta); the weights go into the network.

    Raises
    ------
    ValueError
        It is no checkpoint, or one of another network or run; the message names what differs.
    """
    tensors, metadata = unpack(path)
    if "checkpoint" not in metadata:
        raise ValueError(f"{path} must be a checkpoint of gpudeblur train, got other weights; name another file")
    kept = json.loads(metadata["checkpoint"])
    old = kept["about"]
    for name in ("architecture", "channels"):
        if old.get(name) != about[name]:
            raise ValueError(
                f"checkpoint {path} is of another network, {name} {old.get(name)}, not {about[name]}; train with its "
                "settings, or name another file"
            )
    differ = [name for name in about if old.get(name) != about[name]]
    if differ:
        told = ", ".join(f"{name} {old.get(name)} there, {about[name]} here" for name in differ)
        raise ValueError(f"checkpoint {path} is of another run: {told}; resume with its settings, or name another file")
    names = [name for name, _ in network.named_parameters()]
    network.load_state_dict({name: one for name, one in tensors.items() if not name.startswith("momentum.")})
    channels_last(network)
    own = dict(network.named_parameters())
    # Strides too are as in a run that was not interrupted: sums over them round alike.
    return int(kept["step"]), [torch.zeros_like(own[name]).copy_(tensors[f"momentum.{name}"]) for name in names]


def _kept_lines(log: Path | None, step: int) -> list[str]:
    """What the log says of the steps up to a checkpoint's."""
    if log is None or not step or not Path(log).exists():
        return []
    lines = Path(log).read_text().splitlines()
    return [line for line in lines if line and json.loads(line)["step"] <= step]
