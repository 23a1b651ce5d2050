"""The command `gpudeblur train classifier`, which `gpudeblur.cli` registers. Torch is loaded when the command runs.

The function returns the rows of the table that is printed at the end. `context.obj()` is the progress bar of the
command line, a context manager that yields callback(stage, fraction).
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Annotated, Any

import typer


def classifier(
    context: typer.Context,
    clear: Annotated[
        list[Path], typer.Option(metavar="DIR", help="Folder of clear pictures; several have equal shares.")
    ],
    out: Annotated[Path, typer.Option("--out", "-o", metavar="OUT", help="The weights: .safetensors.")],
    validate: Annotated[
        list[Path] | None,
        typer.Option(metavar="DIR", help="Folders of clear pictures to validate on, not to train on."),
    ] = None,
    checkpoint: Annotated[
        Path | None, typer.Option(metavar="FILE", help="The state of the run; default: OUT.checkpoint.safetensors.")
    ] = None,
    initial: Annotated[Path | None, typer.Option(metavar="FILE", help="Weights to begin with.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the checkpoint, if there is one.")] = False,
    log: Annotated[Path | None, typer.Option(metavar="FILE", help="JSON lines: .jsonl.")] = None,
    steps: Annotated[int | None, typer.Option(help="Batches.")] = None,
    rate: Annotated[float | None, typer.Option(help="Learning rate.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Crops in a batch, half of them blurred.")] = None,
    patch: Annotated[int | None, typer.Option(help="Side of a crop in pixels, once reduced.")] = None,
    smallest_scale: Annotated[float, typer.Option(help="Crops are reduced by up to this factor.")] = 0.25,
    checkpoint_every: Annotated[int | None, typer.Option(help="Steps.")] = None,
    precision: Annotated[
        str | None, typer.Option(metavar="float32|bfloat16", help="bfloat16 is faster where the processor supports it.")
    ] = None,
    device: Annotated[str | None, typer.Option(metavar="cpu|cuda", help="Where to train.")] = None,
    seed: Annotated[int, typer.Option(help="Equal seeds give equal weights.")] = 0,
) -> dict[str, str]:
    """Train the classifier of `--prior discriminative`: which pictures are blurred. The blur is made while training."""
    from ...images.files import check_output
    from .. import bridge

    bridge.torch_module()  # raises the ImportError that says how to install it
    from . import data, evaluation, training
    from .network import load_classifier

    check_output(out, suffixes=(".safetensors",))
    checkpoint = check_output(checkpoint or out.with_suffix(".checkpoint.safetensors"), suffixes=(".safetensors",))
    if checkpoint.resolve() == out.resolve():
        raise ValueError(f"--checkpoint must be another file than --out, got {out} for both; rename one")
    if log is not None:
        check_output(log, suffixes=(".jsonl",))
    data_config = data.DataConfig(
        seed=seed, scales=(smallest_scale, 1.0), **_without_none(batch=batch_size, patch=patch)
    )
    config = training.TrainConfig(
        **_without_none(steps=steps, rate=rate, checkpoint_every=checkpoint_every, precision=precision, device=device)
    )
    load = functools.partial(data.load_folder, smallest_kernel=data_config.kernels[0])
    folders, validation = [load(folder) for folder in clear], [load(folder) for folder in validate or []]
    with context.obj() as callback:
        result = training.train(
            folders, data_config, config, checkpoint, initial=initial, resume=resume, log=log,
            progress=lambda step, loss, accuracy: callback(
                f"loss {loss:.3f}, accuracy {accuracy:.1%}", step / config.steps
            ),
        )  # fmt: skip
    training.write_classifier(out, result.network)
    rows = {"steps": str(result.step), "last loss": f"{result.loss:.4f}"}
    for folder in (*folders, *validation):
        rows[str(folder.path)] = f"{len(folder.images)} pictures, {len(folder.skipped)} skipped"
    skipped = [
        f"{folder.path / name}: {reason}" for folder in (*folders, *validation) for name, reason in folder.skipped
    ]
    if skipped:
        rows["skipped"] = "\n".join(skipped)
    probability = functools.partial(bridge.evaluate, load_classifier(out))
    for folder in validation:
        for scale, values in evaluation.evaluate(probability, folder).items():
            rows[f"{folder.path.name}, scale {scale:g}"] = (
                f"accuracy {values.accuracy:.1%}, f(clear) / f(blurred) {values.ratio:.3f}"
            )
    rows["written"] = f"{out}\n{checkpoint}"
    return rows


def _without_none(**options: Any) -> dict[str, Any]:
    """The options that the user gave, so that each default stands in one place."""
    return {name: value for name, value in options.items() if value is not None}
