"""The commands `gpudeblur train NETWORK`, which `gpudeblur.cli` registers. Torch is loaded when one of them runs.

`train_network` returns the rows of the table that is printed at the end. `context.obj()` is the progress bar of the
command line, a context manager that yields callback(stage, fraction).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple, cast

import typer

from ...images.output import check_output
from .. import bridge

if TYPE_CHECKING:
    from .pictures import Pictures
    from .trainer import Task

VALIDATION_SEED = 1 << 20  # far from any training seed, so that the kernels were never trained on
VALIDATION_BATCHES = 20
VALIDATION_POOL = 400  # kernels
FACIAL = ("deepdeblur", "enhancement-gan")  # networks that --faces is for


@dataclass(frozen=True, kw_only=True)
class Request:
    """What is to be prepared: training, or validation on one folder.

    Attributes
    ----------
    clear : folders of sharp pictures.
    seed : of the weights and the data.
    batch_size : crops; None: the default of the network.
    paper : the configuration of the paper, in place of the one that ships.
    faces : the loss of a face recognizer too.
    device : torch device.
    validation : few kernels are enough.
    """

    clear: Sequence[Path]
    seed: int
    batch_size: int | None
    paper: bool
    faces: bool
    device: str
    validation: bool = False

    @property
    def data(self) -> dict[str, Any]:
        """The arguments of the configuration of the data."""
        return {"seed": self.seed} | _without_none(batch=self.batch_size)


class Prepared(NamedTuple):
    """A task with its folders, and the function (file, network) that writes its weights."""

    task: Task
    folders: list[Pictures]
    write: Callable[[Path, Any], Any]


@dataclass(frozen=True)
class Recipe:
    """How one network is trained.

    Attributes
    ----------
    help : of its command.
    prepare : makes network, data and task.
    settings, paper : what differs from the defaults of `TrainConfig`; with --paper both, the second before the first.
    """

    help: str
    prepare: Callable[[Request], Prepared]
    settings: Mapping[str, Any] = field(default_factory=dict)
    paper: Mapping[str, Any] = field(default_factory=dict)


def cataloged(name: str, task: str, **data: Any) -> Callable[[Request], Prepared]:
    """`Recipe.prepare` of a network of the catalog.

    Parameters
    ----------
    name : in the catalog. The class makes the default network, its `paper` that of the paper.
    task : "module:function", relative to `gpudeblur.networks`; called with (network, maker), and with
        faces, the recognizer, for --faces.
    data : what differs from the defaults of `RestorationConfig`.
    """

    def prepare(request: Request) -> Prepared:
        from ..blocks import initialized
        from ..catalog import entry, load_shared, write_network
        from .data import BatchMaker, RestorationConfig, load_pictures
        from .face_features import FaceFeatures

        options = {"faces": FaceFeatures().to(request.device)} if request.faces else {}
        config = RestorationConfig(**data | request.data | ({"pool": VALIDATION_POOL} if request.validation else {}))
        folders, network = [load_pictures(path) for path in request.clear], cast(Any, entry(name).network)
        module, _, task_class = task.partition(":")
        new = initialized(network.paper if request.paper else network, request.seed)
        load_shared(new)
        return Prepared(
            getattr(import_module(module, "gpudeblur.networks"), task_class)(
                new,
                BatchMaker(folders, config, request.device),
                **options,
            ),
            folders,
            lambda path, network: write_network(path, network, network.state_dict()),
        )

    return prepare


def classifying(request: Request) -> Prepared:
    """`Recipe.prepare` of the classifier."""
    from ..classifier.data import DataConfig, load_folder
    from ..classifier.network import CHANNELS, PAPER_CHANNELS, Classifier
    from ..classifier.training import ClassifierTask, write_classifier

    config = DataConfig(**({"batch": 50} if request.paper else {}) | request.data)
    folders = [load_folder(path, smallest_kernel=config.kernels[0]) for path in request.clear]
    network = Classifier(PAPER_CHANNELS if request.paper else CHANNELS).initialize(request.seed)
    return Prepared(ClassifierTask(network, folders, config, request.device), folders, write_classifier)


def denoising(request: Request) -> Prepared:
    """`Recipe.prepare` of the denoiser."""
    from ..blocks import initialized
    from ..catalog import write_network
    from ..denoiser.network import Denoiser
    from ..denoiser.training import DenoiserConfig, DenoiserTask, NoisyBatchMaker
    from .data import load_pictures

    if request.paper:
        raise ValueError("--paper must be for a network of a paper, got denoiser; leave it out")
    config = DenoiserConfig(**request.data | ({"pool": VALIDATION_POOL} if request.validation else {}))
    folders = [load_pictures(path) for path in request.clear]
    return Prepared(
        DenoiserTask(initialized(Denoiser, request.seed), NoisyBatchMaker(folders, config, request.device)),
        folders,
        lambda path, network: write_network(path, network, network.state_dict()),
    )


def judging(request: Request) -> Prepared:
    """`Recipe.prepare` of the judge, whose folders hold groups of candidate kernels."""
    from ..blocks import initialized
    from ..catalog import write_network
    from ..judge.network import Judge
    from ..judge.training import JudgeConfig, JudgeTask, read_groups

    if request.paper:
        raise ValueError("--paper must be for a network of a paper, got judge; leave it out")
    folders = [read_groups(path) for path in request.clear]
    groups = [part.to(request.device) for folder in folders for part in folder.images]
    source = ", ".join(folder.path.name for folder in folders)
    return Prepared(
        JudgeTask(initialized(Judge, request.seed), groups, JudgeConfig(**request.data), source),
        folders,
        lambda path, network: write_network(path, network, network.state_dict()),
    )


RECIPES = {
    "classifier": Recipe(
        "The classifier of --prior discriminative: which pictures are blurred.",
        classifying,
        # The paper has 50 crops a batch and many epochs; a rate of 0.02 needs fewer steps.
        {"optimizer": "sgd", "betas": (0.9, 0.0), "schedule": "drops", "rate": 0.02, "warm_up": 100, "average": 0.0},
        {"rate": 1e-3},
    ),
    "deepdeblur": Recipe(
        "DeepDeblur: the sharp picture from the blurred one in one step.",
        cataloged("deepdeblur", ".deepdeblur.training:DeepDeblurTask"),
        # The paper's rate also halves when the loss stalls.
        paper={"optimizer": "rmsprop", "schedule": "exponential", "rate": 1e-3, "weight_decay": 0.0},
    ),
    "denoiser": Recipe(
        "The denoiser: white noise, and what deconvolution leaves behind, for photographs (the first --clear), other "
        "pictures and drawn text.",
        denoising,
        {"rate": 1e-3},
    ),
    "enhancement-gan": Recipe(
        "The enhancement GAN: DeepDeblur's picture with the texture of sharp ones.",
        cataloged("enhancement-gan", ".enhancement_gan.training:make_task"),
        {"rate": 5e-4},
        {"betas": (0.5, 0.999), "schedule": "constant", "rate": 1e-4, "weight_decay": 0.0},
    ),
    "face-gate": Recipe(
        "The gate of restore: which pictures are small faces, as the first --clear and every --validate, and which are "
        "not, as the other --clear.",
        # Crops that hold most of a face.
        cataloged("face-gate", ".face_gate.training:FaceGateTask", batch=24, crop=(64, 109), natural=0.5),
        {"rate": 2e-3},
    ),
    "judge": Recipe(
        "The judge of candidate kernels; every folder holds groups of them, from python -m bench.training.judge.",
        judging,
        {"rate": 2e-3, "average": 0.998},
    ),
    "sketch": Recipe(
        "Sketch synthesis: the blur kernel by the structure of the face, and the picture with it.",
        # Whole faces: the kernel needs them. Smaller batches make as good a step of so many pixels.
        cataloged("sketch", ".sketch.training:SketchTask", batch=8, crop=(64, 101)),
        {"rate": 6e-4},
        {"rate": 2e-4, "weight_decay": 0.0},
    ),
}


def train_network(
    context: typer.Context,
    clear: Annotated[
        list[Path],
        typer.Option(
            metavar="DIR",
            help="Folder of sharp pictures; the blur is made while training. Several are for the classifier equal "
            "shares, for the others the pictures that the network is for, and a fifth that is anything else.",
        ),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", metavar="OUT", help="The weights: .safetensors.")],
    validate: Annotated[
        list[Path] | None,
        typer.Option(metavar="DIR", help="Folders of sharp pictures to validate on, not to train on."),
    ] = None,
    checkpoint: Annotated[
        Path | None, typer.Option(metavar="FILE", help="The state of the run; default: OUT.checkpoint.safetensors.")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the checkpoint, if there is one.")] = False,
    initial: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Weights, or a checkpoint, to begin with.")
    ] = None,
    log: Annotated[Path | None, typer.Option(metavar="FILE", help="JSON lines: .jsonl.")] = None,
    steps: Annotated[int | None, typer.Option(help="Batches, unless --minutes is given.")] = None,
    minutes: Annotated[float | None, typer.Option(help="How long to train.")] = None,
    rate: Annotated[float | None, typer.Option(help="Learning rate.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Crops in a batch.")] = None,
    checkpoint_every: Annotated[int | None, typer.Option(help="Steps.")] = None,
    precision: Annotated[
        str | None, typer.Option(metavar="float32|bfloat16", help="Of the convolutions; default: the faster one.")
    ] = None,
    device: Annotated[str, typer.Option(metavar="cpu|cuda", help="Where to train.")] = "cpu",
    threads: Annotated[int | None, typer.Option(help="Of a CPU; default: one or all, whichever is faster.")] = None,
    seed: Annotated[
        int, typer.Option(help="Equal seeds, steps, threads and precisions give equal weights on a CPU.")
    ] = 0,
    paper: Annotated[bool, typer.Option("--paper", help="The paper's network, losses and optimizer.")] = False,
    faces: Annotated[
        bool,
        typer.Option(
            "--faces",
            help="For deepdeblur and enhancement-gan, on CelebA's faces of 109 x 89 pixels: the loss of "
            "a face recognizer too, which pip install 'gpudeblur[faces]' brings.",
        ),
    ] = False,
) -> dict[str, str]:
    """Train the network that the command is named after."""
    bridge.torch_module()  # raises the ImportError that says how to install it
    from ..weights import read_weights
    from . import trainer

    check_output(out, suffixes=(".safetensors",))
    checkpoint = check_output(checkpoint or out.with_suffix(".checkpoint.safetensors"), suffixes=(".safetensors",))
    if checkpoint.resolve() == out.resolve():
        raise ValueError(f"--checkpoint must be another file than --out, got {out} for both; rename one")
    if log is not None:
        check_output(log, suffixes=(".jsonl",))
    name = str(context.command.name)
    recipe = RECIPES[name]
    if faces and name not in FACIAL:
        raise ValueError(f"--faces must be for {' or '.join(FACIAL)}, got {name}; leave it out")
    options = _without_none(steps=steps, minutes=minutes, rate=rate, checkpoint_every=checkpoint_every)
    settings = {**recipe.settings, **(recipe.paper if paper else {}), **options}
    settings |= {"device": device, "threads": threads, "precision": precision}
    config = trainer.TrainConfig(**settings)
    request = Request(clear=clear, seed=seed, batch_size=batch_size, paper=paper, faces=faces, device=device)
    task, folders, write = recipe.prepare(request)
    validations = {
        path: recipe.prepare(replace(request, clear=[path], faces=False, seed=VALIDATION_SEED, validation=True))
        for path in validate or []
    }
    with context.obj() as callback:
        result = trainer.train(
            task, config, checkpoint, initial=initial, resume=resume, log=log,
            progress=lambda step, share, figures: callback(_listed(figures), share),
        )  # fmt: skip
    network = task.modules[task.shipped]
    network.load_state_dict(result.weights)
    write(out, network)
    losses = {name: value for name, value in result.figures.items() if name in task.modules}
    rows = {
        "steps": str(result.step),
        "minutes": f"{result.seconds / 60:.1f}, {result.config.threads} threads, {result.config.precision}",
        "last loss": _listed(losses),
    }
    rows |= {name: f"{value:.4f}" for name, value in result.figures.items() if name not in losses}
    for path, validation in validations.items():
        folders = [*folders, *validation.folders]
        validation.task.modules[task.shipped].to(device).load_state_dict(read_weights(out)[0])
        rows[f"on {path.name}"] = _listed(trainer.validate(validation.task, VALIDATION_BATCHES))
    rows |= {str(f.path): f"{len(f.images)} pictures, {len(f.skipped)} skipped" for f in folders}
    if skipped := [f"{f.path / name}: {reason}" for f in folders for name, reason in f.skipped]:
        rows["skipped"] = "\n".join(skipped)
    rows["written"] = "\n".join(str(file) for file in (out, checkpoint, log) if file is not None)
    return rows


def _listed(figures: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {value:.4f}" for name, value in figures.items())


def _without_none(**options: Any) -> dict[str, Any]:
    """The options that the user gave, so that each default stands in one place."""
    return {name: value for name, value in options.items() if value is not None}
