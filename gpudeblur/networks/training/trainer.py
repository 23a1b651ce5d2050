"""One training loop for every network: optimizers, schedule, averaged weights, checkpoints, log.

Step n uses batch n of the task, and a checkpoint holds everything else that a step depends on: weights, their moving
average and the moments of the optimizers. A run that was killed and resumed therefore ends with exactly the weights of
an uninterrupted run (on the CPU, with the same number of threads, and with a number of steps rather than minutes).
"""

from __future__ import annotations

import hashlib
import json
import math
import re
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol

import torch
from torch import nn

from ...images.checks import check_choice, check_count, check_number
from ...images.files import write_whole
from ..catalog import is_shared
from ..weights import checkpoint_state, pack, part, read_weights, unpack

LOG_EVERY = 20  # steps, whose mean losses are one line of the log
RECENT = 100  # steps, whose mean figures are the result's
PROBE_STEPS = 6  # of each number of threads and precision before a run begins
LAST_RATE = 0.01  # of the schedules "cosine" and "exponential", as a fraction of the first
DROPS = (0.6, 0.85)  # shares of the run after which the schedule "drops" divides the rate by 5

Precision = Literal["float32", "bfloat16"]


class Loss(NamedTuple):
    """A loss of one module of a task, whose optimizer makes a step with it, and figures for the log.

    `clipped`: whether `TrainConfig.clip` bounds its gradient.
    """

    module: str
    value: torch.Tensor
    figures: Mapping[str, float] = {}
    clipped: bool = True


class Task(Protocol):
    """What is trained: modules, data and losses.

    A resumed run equals an uninterrupted one if a batch depends on nothing but its index, and the losses on nothing but
    the weights, the batch and the share: random numbers that the losses need are part of the batch.

    Attributes
    ----------
    modules : each has an optimizer of its own.
    shipped : the name of the module whose weights are the result.
    """

    modules: Mapping[str, nn.Module]
    shipped: str

    def batch(self, index: int) -> Any:
        """Batch `index`, whatever came before, on the device. Called in another thread."""

    def losses(self, batch: Any, share: float) -> Iterator[Loss]:
        """The losses of a batch; `share` of the run is done. After each, the optimizer of its module makes a step."""

    def describe(self) -> dict[str, Any]:
        """Everything except the pixels that the result depends on, for JSON; among it "architecture" and "network"."""


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """How long and how a network is trained.

    Attributes
    ----------
    steps : number of batches, if `minutes` is None.
    minutes : of the clock that the run takes, the pauses between resumed parts left out; the schedule follows it.
    rate : learning rate. For a residual network without normalization 2e-3 was seen to diverge.
    warm_up : steps over which the rate rises from 0.
    schedule : "cosine" or "exponential" to a hundredth of the rate, "drops" (by 5 after 60 % and 85 % of the run), or
        "constant".
    optimizer : "adamw", "sgd" (with momentum betas[0]) or "rmsprop".
    betas : decays of AdamW's moments.
    weight_decay : of the optimizer.
    clip : maximum norm of the gradient of a module's weights together; a longer one is scaled down to it.
    average : decay of the moving average of the weights, which is the result; 0: the last weights are.
    checkpoint_every : steps between checkpoints.
    threads : of torch; None: one or all, whichever was faster in a few steps before the run. The number affects
        rounding.
    device : torch device, "cpu", "cuda", "cuda:1", ... A resumed run is bit-equal on the CPU only.
    precision : of the convolutions, "float32", "bfloat16", or None: on a CPU whichever was faster in a few steps before
        the run, which depends on the processor; bfloat16 on a GPU. Weights and sums are float32.
    """

    steps: int = 6000
    minutes: float | None = None
    rate: float = 7e-4
    warm_up: int = 150
    schedule: Literal["cosine", "exponential", "drops", "constant"] = "cosine"
    optimizer: Literal["adamw", "sgd", "rmsprop"] = "adamw"
    betas: tuple[float, float] = (0.9, 0.99)
    weight_decay: float = 1e-4
    clip: float = 1.0
    average: float = 0.999
    checkpoint_every: int = 200
    threads: int | None = 1
    device: str = "cpu"
    precision: Precision | None = "float32"

    def __post_init__(self) -> None:
        for name, minimum in (("steps", 1), ("checkpoint_every", 1), ("warm_up", 0)):
            check_count(name, getattr(self, name), minimum=minimum)
        if self.threads is not None:
            check_count("threads", self.threads)
        if self.minutes is not None:
            check_number("minutes", self.minutes, "positive", lambda value: value > 0)
        for name in ("rate", "clip"):
            check_number(name, getattr(self, name), "positive", lambda value: value > 0)
        for name in ("weight_decay", "average"):
            check_number(name, getattr(self, name), "in [0, 1)", lambda value: 0 <= value < 1)
        for beta in self.betas:
            check_number("betas", beta, "in [0, 1)", lambda value: 0 <= value < 1)
        check_choice("schedule", self.schedule, ("cosine", "exponential", "drops", "constant"))
        check_choice("optimizer", self.optimizer, ("adamw", "sgd", "rmsprop"))
        if self.precision is not None:
            check_choice("precision", self.precision, ("float32", "bfloat16"))
        check_device(self.device)


def check_device(device: Any) -> None:
    """Refuse what is no torch device here."""
    if not (isinstance(device, str) and re.fullmatch(r"cpu|cuda(:\d+)?", device)):
        raise ValueError(f"device must be cpu, cuda or cuda:N, got {device!r}; leave it out for cpu")
    gpus = torch.cuda.device_count()
    if device != "cpu" and int(device.partition(":")[2] or 0) >= gpus:
        raise ValueError(
            f"device must be one of the {gpus} GPUs that torch {torch.__version__} (CUDA: {torch.version.cuda}) "
            f"sees, or cpu, got {device!r}"
        )


@dataclass(frozen=True)
class TrainResult:
    """What a run made.

    Attributes
    ----------
    weights : that ship.
    step, seconds : of the whole run.
    figures : means of losses and figures over the last 100 steps, each on a batch not trained on before.
    config : the settings, with what was measured.
    """

    weights: dict[str, torch.Tensor]
    step: int
    seconds: float
    figures: dict[str, float]
    config: TrainConfig


def rate_factor(step: int, share: float, config: TrainConfig) -> float:
    """The learning rate as a fraction of `config.rate`, for a step counted from 0 and the share of the run done."""
    factor = min(1.0, (step + 1) / max(1, config.warm_up))
    if config.schedule == "cosine":
        factor *= LAST_RATE + (1 - LAST_RATE) * 0.5 * (1 + math.cos(math.pi * min(share, 1.0)))
    elif config.schedule == "exponential":
        factor *= LAST_RATE ** min(share, 1.0)
    elif config.schedule == "drops":
        factor /= 5.0 ** sum(share >= drop for drop in DROPS)
    return factor


def train(
    task: Task,
    config: TrainConfig,
    checkpoint: Path,
    *,
    initial: Path | None = None,
    resume: bool = False,
    log: Path | None = None,
    progress: Callable[[int, float, Mapping[str, float]], bool | None] = lambda *_: None,
) -> TrainResult:
    """Train the modules of a task, in place, or resume from a checkpoint.

    Parameters
    ----------
    checkpoint : file, written atomically every `checkpoint_every` steps and at the end.
    initial : file of weights of the same network, or a checkpoint, for the shipped module to begin with; None: the
        weights that it has.
    resume : resume from `checkpoint` if it exists. It must be of the same task, settings and initial weights.
    log : file of JSON lines: step, mean losses and figures, and at checkpoints rate and seconds. Lines after the
        checkpoint that a run resumes from are removed.
    progress : called with (steps done, share of the run done, mean figures) after each step; True stops with a
        checkpoint.

    Raises
    ------
    FloatingPointError
        A loss is not finite. The message names the step and the last good checkpoint, which is not overwritten.
    OSError
        A file cannot be written; its earlier version is as it was. The message names it.
    """
    run = _Run.begin(task, config, Path(checkpoint), initial, resume)
    lines = _log_lines(log, run.step)
    saved_step, resumed_seconds, start = run.step, run.seconds, time.perf_counter()
    batches = _batches(task, run.step)
    # Closed explicitly: otherwise its thread would live for as long as a caller holds the error and its traceback.
    with closing(batches), _torch_settings(run.config.threads):
        while (share := run.share) < 1:
            rate = config.rate * rate_factor(run.step, share, config)
            figures = run.advance(next(batches), share, rate)
            run.seconds = resumed_seconds + time.perf_counter() - start
            bad = [name for name in task.modules if not math.isfinite(figures.get(name, 0))]
            if bad:
                source = f"from {checkpoint}, of step {saved_step}, as initial weights" if saved_step else "again"
                raise FloatingPointError(
                    f"the loss of the {bad[0]} is {figures[bad[0]]} in step {run.step}; start {source}, with a smaller "
                    f"rate than {config.rate:g}"
                )
            stop = progress(run.step, min(run.share, 1.0), run.figures())
            milestone = run.step % config.checkpoint_every == 0 or run.share >= 1
            if milestone or run.step % LOG_EVERY == 0:
                line = {"step": run.step} | {name: round(value, 6) for name, value in run.unlogged_figures().items()}
                line |= {"rate": rate, "seconds": round(run.seconds, 1)} if milestone else {}
                lines.append(json.dumps(line))
            if milestone or stop:
                run.save()
                saved_step = run.step
                if log is not None:
                    _write(Path(log), ("\n".join([*lines, ""])).encode())
            if stop:
                break
    return TrainResult(run.result(), run.step, run.seconds, run.figures(), run.config)


class _Run:
    """The state of a run: modules, optimizers, average, step, seconds and the last figures."""

    def __init__(self, task: Task, config: TrainConfig, checkpoint: Path, initial: Path | None) -> None:
        self.task, self.config, self.checkpoint = task, config, checkpoint
        self.initial = None if initial is None else hashlib.sha256(Path(initial).read_bytes()).hexdigest()
        self.step, self.seconds = 0, 0.0
        self.recent, self.unlogged = deque[dict[str, float]](maxlen=RECENT), 0  # figures; how many are in no line yet
        for module in task.modules.values():
            module.to(config.device)
        self.optimizers = {name: _optimizer(module, config) for name, module in task.modules.items()}
        shipped = task.modules[task.shipped].named_parameters() if config.average else ()
        self.average = {name: weight.detach().clone() for name, weight in shipped}

    @classmethod
    def begin(cls, task: Task, config: TrainConfig, checkpoint: Path, initial: Path | None, resume: bool) -> _Run:
        if not (resume and checkpoint.exists()):
            if initial is not None:
                load_initial(task, Path(initial))
            return cls(task, measured(task, config), checkpoint, initial)
        tensors, metadata = unpack(checkpoint)
        state = checkpoint_state(checkpoint, metadata)
        choice = {name: value for name, value in state["measured"].items() if getattr(config, name) is None}
        run = cls(task, replace(config, **choice), checkpoint, initial)
        run.load(tensors, state)
        return run

    @property
    def share(self) -> float:
        """Of the run that is done, 1 at its end."""
        if self.config.minutes is None:
            return self.step / self.config.steps
        return self.seconds / (60 * self.config.minutes)

    def advance(self, batch: Any, share: float, rate: float) -> dict[str, float]:
        """One step of every module: the figures. A module does not change by a loss that is not finite."""
        figures = optimize(self.task, self.optimizers, batch, share, rate, self.config)
        self.step += 1
        self.recent.append(figures)
        self.unlogged += 1
        # The first average is over few steps: a fixed decay would keep the random weights of the beginning.
        decay = min(self.config.average, self.step / (self.step + 10))
        weights = dict(self.task.modules[self.task.shipped].named_parameters())
        with torch.no_grad():
            for name, average in self.average.items():
                average.lerp_(weights[name], 1 - decay)
        return figures

    def figures(self) -> dict[str, float]:
        """The means over the last steps."""
        return _means(list(self.recent))

    def unlogged_figures(self) -> dict[str, float]:
        """The means over the steps since the last call, for a line of the log."""
        count, self.unlogged = min(self.unlogged, len(self.recent)), 0
        return _means(list(self.recent)[-count:])

    def result(self) -> dict[str, torch.Tensor]:
        """The weights that ship."""
        shipped = self.task.modules[self.task.shipped]
        return {name: tensor.detach().clone() for name, tensor in (shipped.state_dict() | self.average).items()}

    # -------------------------------------------------------------- files
    def describe(self) -> dict[str, Any]:
        """Everything except the pixels that the result of a run depends on; a checkpoint must agree with it."""
        run = {**asdict(self.config), **self.task.describe(), "initial": self.initial}
        for name in ("checkpoint_every", "threads", "precision"):
            del run[name]
        return dict(json.loads(json.dumps(run)))

    @property
    def measured(self) -> dict[str, Any]:
        """What was measured where the settings leave it open; it affects rounding."""
        return {"threads": self.config.threads, "precision": self.config.precision}

    def save(self) -> None:
        """Write weights, average and moments as safetensors, atomically."""
        tensors = {f"average.{name}": tensor for name, tensor in self.average.items()}
        for name, module in self.task.modules.items():
            tensors |= {f"module.{name}.{key}": tensor for key, tensor in module.state_dict().items()}
            for index, state in self.optimizers[name].state_dict()["state"].items():
                tensors |= {f"moment.{name}.{index}.{key}": value for key, value in state.items() if value is not None}
        run = {
            "step": self.step, "seconds": self.seconds, "about": self.describe(), "shipped": self.task.shipped,
            "measured": self.measured, "recent": list(self.recent), "unlogged": self.unlogged,
        }  # fmt: skip
        _write(self.checkpoint, pack(tensors, {"checkpoint": json.dumps(run)}))

    def load(self, tensors: Mapping[str, torch.Tensor], state: Mapping[str, Any]) -> None:
        """Go on from a checkpoint, of the same task and settings."""
        saved, here = state["about"] | state["measured"], self.describe() | self.measured
        for name in ("architecture", "network"):
            if saved.get(name) != here[name]:
                raise ValueError(
                    f"checkpoint {self.checkpoint} is of another network, {name} {saved.get(name)}, not {here[name]}; "
                    "train with its settings, or name another file"
                )
        differences = [f"{name} {saved.get(name)} there, {here.get(name)} here" for name in {**saved, **here}
                       if saved.get(name) != here.get(name)]  # fmt: skip
        if differences:
            changes = ", ".join(differences)
            raise ValueError(
                f"checkpoint {self.checkpoint} is of another run: {changes}; resume with its settings, or name "
                "another file"
            )
        if self.config.minutes is None and state["step"] > self.config.steps:
            raise ValueError(
                f"checkpoint {self.checkpoint} must be of at most {self.config.steps} steps, got {state['step']}; "
                "take an earlier copy of it, or begin a new run in another file"
            )
        try:
            self._load_tensors(tensors)
        except (RuntimeError, KeyError, ValueError) as error:  # torch's words name no file
            raise ValueError(
                f"checkpoint {self.checkpoint} must hold the tensors of its run, got others ({error}); take an earlier "
                "copy of it, or begin a new run in another file"
            ) from error
        self.step, self.seconds = state["step"], float(state["seconds"])
        self.recent.extend(state["recent"])
        self.unlogged = state["unlogged"]

    def _load_tensors(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """Weights, moments and average."""
        for name, module in self.task.modules.items():
            module.load_state_dict(part(tensors, f"module.{name}."))
            optimizer = self.optimizers[name]
            moments: dict[int, dict[str, torch.Tensor]] = {}
            for key, tensor in part(tensors, f"moment.{name}.").items():
                number, _, kind = key.partition(".")
                moments.setdefault(int(number), {})[kind] = tensor
            for index, weight in enumerate(module.parameters()):
                # Moments get the device and the strides of the weights, as in an uninterrupted run: the order of a sum
                # affects rounding. AdamW's number of steps stays on the CPU.
                optimizer.state[weight] = {
                    kind: tensor if kind == "step" else torch.zeros_like(weight).copy_(tensor)
                    for kind, tensor in moments.get(index, {}).items()
                }
        for name, tensor in part(tensors, "average.").items():
            self.average[name].copy_(tensor)


def validate(task: Task, batches: int) -> dict[str, float]:
    """The means of losses and figures over the first batches of a task, without a step."""
    lines: list[dict[str, float]] = []
    for index in range(batches):
        lines.append({})
        for loss in task.losses(task.batch(index), 1.0):
            lines[-1] |= {loss.module: float(loss.value.detach()), **loss.figures}
    return _means(lines)


def load_initial(task: Task, path: Path) -> None:
    """Give the shipped module of a task the weights of a file or checkpoint of the same network.

    What it shares with another network stays as it is: a file may have been trained beside an earlier one.
    """
    about, module = task.describe(), task.modules[task.shipped]
    tensors, metadata = read_weights(path)
    architecture = metadata.get("architecture", about["architecture"])  # the classifier's weights have none
    if architecture != about["architecture"]:
        raise ValueError(
            f"initial weights {path} must be of the network {about['architecture']!r}, got {architecture!r}; name "
            "another file"
        )
    tensors, expected_tensors = (
        {name: tensor for name, tensor in group.items() if not is_shared(module, name)}
        for group in (tensors, module.state_dict())
    )
    shapes, expected = ({name: tuple(t.shape) for name, t in ts.items()} for ts in (tensors, expected_tensors))
    if shapes != expected:
        network = metadata.get("config") or f"tensors of {sum(tensor.numel() for tensor in tensors.values())} numbers"
        raise ValueError(
            f"initial weights {path} must be of a {architecture} with {json.dumps(about['network'])}, got {network}; "
            "train with its settings, or name another file"
        )
    module.load_state_dict(tensors, strict=False)


def optimize(
    task: Task,
    optimizers: Mapping[str, torch.optim.Optimizer],
    batch: Any,
    share: float,
    rate: float,
    config: TrainConfig,
) -> dict[str, float]:
    """One step of every optimizer, in place: the losses by the name of their module, and the figures."""
    figures: dict[str, float] = {}
    kind, losses = config.device.partition(":")[0], task.losses(batch, share)
    while True:
        # Autocast is left for each step: it keeps the rounded weights for as long as it lasts.
        with torch.autocast(kind, torch.bfloat16, enabled=config.precision == "bfloat16"):
            loss = next(losses, None)
        if loss is None:
            return figures
        optimizer, module = optimizers[loss.module], task.modules[loss.module]
        optimizer.zero_grad(set_to_none=True)
        loss.value.backward()
        norm = float(nn.utils.clip_grad_norm_(module.parameters(), config.clip if loss.clipped else math.inf))
        value = float(loss.value.detach())
        figures |= {loss.module: value if math.isfinite(norm) else math.nan, **loss.figures}
        if not math.isfinite(figures[loss.module]):
            return figures
        for group in optimizer.param_groups:
            group["lr"] = rate
        optimizer.step()


def _optimizer(module: nn.Module, config: TrainConfig) -> torch.optim.Optimizer:
    weights, rate, decay = list(module.parameters()), config.rate, config.weight_decay
    if config.optimizer == "sgd":
        return torch.optim.SGD(weights, lr=rate, momentum=config.betas[0], weight_decay=decay)
    if config.optimizer == "rmsprop":
        return torch.optim.RMSprop(weights, lr=rate, weight_decay=decay)
    return torch.optim.AdamW(weights, lr=rate, betas=config.betas, weight_decay=decay)


def measured(task: Task, config: TrainConfig) -> TrainConfig:
    """`config` with the number of threads and the precision that are fastest here, where it leaves them open.

    Two threads beside other work can be many times slower than one, and bfloat16 is twice as fast on some processors
    and slower on others. The weights are the same after the measurement.
    """
    cpu = config.device == "cpu"
    threads = [config.threads] if config.threads else sorted({1, torch.get_num_threads()}) if cpu else [1]
    precisions: tuple[Precision, ...] = ("float32", "bfloat16") if cpu else ("bfloat16",)
    if config.precision:
        precisions = (config.precision,)
    choices = [replace(config, threads=count, precision=kind) for count in threads for kind in precisions]
    if len(choices) == 1:
        return choices[0]
    before = {name: {k: v.clone() for k, v in module.state_dict().items()} for name, module in task.modules.items()}
    seconds, batch = [], task.batch(0)
    for choice in choices:
        optimizers = {name: _optimizer(module, choice) for name, module in task.modules.items()}
        with _torch_settings(choice.threads):
            optimize(task, optimizers, batch, 0.0, 0.0, choice)
            start = time.perf_counter()
            for _ in range(PROBE_STEPS):
                optimize(task, optimizers, batch, 0.0, 0.0, choice)
            seconds.append(time.perf_counter() - start)
    for name, module in task.modules.items():
        module.load_state_dict(before[name])
    return choices[seconds.index(min(seconds))]


def _batches(task: Task, first: int) -> Generator[Any, None, None]:
    """The batches from `first` on, each made while the previous one is in use.

    The caller must close the generator, which ends its thread after the batch in progress.
    """
    with ThreadPoolExecutor(1, "batches") as executor:
        future = executor.submit(task.batch, first)
        while True:
            first, batch = first + 1, future.result()
            future = executor.submit(task.batch, first)
            yield batch


def _means(lines: list[dict[str, float]]) -> dict[str, float]:
    """The mean of each figure over the lines that have it."""
    names = dict.fromkeys(name for line in lines for name in line)
    values = {name: [line[name] for line in lines if name in line] for name in names}
    return {name: math.fsum(numbers) / len(numbers) for name, numbers in values.items()}


@contextmanager
def _torch_settings(threads: int | None) -> Iterator[None]:
    """A number of threads, and no TF32, whose 10 bits cuDNN takes for float32 by default; afterwards as before."""
    before = torch.get_num_threads(), torch.backends.cudnn.allow_tf32
    torch.set_num_threads(threads or before[0])
    torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.set_num_threads(before[0])
        torch.backends.cudnn.allow_tf32 = before[1]


def _write(path: Path, data: bytes) -> None:
    """`write_whole` whose error names the file and says that what was there is whole."""
    try:
        write_whole(path, data)
    except OSError as error:
        state = "the file that is there is whole" if path.exists() else "nothing is there"
        reason = error.strerror or str(error)
        raise OSError(f"{path} cannot be written ({reason}), {state}; make room, and resume") from error


def _log_lines(log: Path | None, step: int) -> list[str]:
    """The lines of the log up to a step."""
    if log is None or not step or not Path(log).exists():
        return []
    lines = [line for line in Path(log).read_text().splitlines() if line]
    try:
        return [line for line in lines if json.loads(line)["step"] <= step]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"log {log} must be one of gpudeblur train, JSON lines with a step, got {error!r}; name another file"
        ) from error
