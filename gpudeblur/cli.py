"""The `gpudeblur` command: deblur, deconvolve, restore, batch, kernel, demo, train and info.

An error that a user can correct is one red line on stderr and exit code 2; no file is left half-written.
"""

from __future__ import annotations

import functools
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from .batch.folders import deblur_files, plan
from .batch.report import REPORT_SUFFIXES, summary, write_report
from .blind.restore import network_names
from .cli_app import HELP_OPTIONS, App, Group
from .cli_deblur import deblur, kernel
from .cli_info import demo, info, version_of
from .cli_known import check_estimates_kernel as _check_estimates_kernel
from .cli_known import deconvolve, restore
from .cli_options import (
    BatchMaskOption,
    Bits,
    CautiousOption,
    Defects,
    DefectsOption,
    Device,
    DeviceOption,
    Final,
    FinalOption,
    Format,
    Gamma,
    GradientWeight,
    KernelSize,
    PriorOption,
    SmoothWeight,
    StripOption,
    WhiteLevel,
    parse_defects,
    parse_gamma,
    parse_kernel_size,
    parse_mask,
    parse_white_level,
    two_step_options,
)
from .cli_terminal import counter, print_table, progress_bar, user_errors
from .images.files import check_output
from .networks.training.command import RECIPES, train_network

app = App(
    cls=Group,
    help="Blind image deblurring: a blurred photograph goes in, the sharp one and its blur kernel come out.",
    epilog="Example: gpudeblur deblur photo.jpg",
    no_args_is_help=True,
    context_settings=HELP_OPTIONS,
    pretty_exceptions_show_locals=False,
)


def _show_version(is_asked: bool) -> None:
    if is_asked:
        print(version_of("gpudeblur"))
        raise typer.Exit()


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """What `gpudeblur` takes without a command."""


app.command()(deblur)
app.command()(deconvolve)
app.command()(restore)


@app.command()
def batch(
    sources: Annotated[
        list[Path],
        typer.Argument(metavar="IN...", help="Pictures of the formats that deblur reads, and folders of them."),
    ],
    out: Annotated[
        Path, typer.Option("--out", "-o", metavar="DIR", help="Folder for the sharp pictures; created if need be.")
    ],
    method: Annotated[
        str,
        typer.Option(
            metavar="|".join(("two-step", *network_names())),
            help="two-step, or a network for faces, which takes no option of the method or of the kernel.",
        ),
    ] = "two-step",
    kernel_size: KernelSize = "auto",
    kernels_out: Annotated[Path | None, typer.Option(metavar="DIR", help="Also write the kernels: NAME.npy.")] = None,
    recursive: Annotated[
        bool, typer.Option("--recursive", "-r", help="Also the folders within folders; DIR gets the same ones.")
    ] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite/--no-overwrite", help="Replace results that exist, or skip their pictures.")
    ] = False,
    report: Annotated[
        Path | None, typer.Option(metavar="FILE", help="The outcome of each picture: .csv or .json.")
    ] = None,
    device: DeviceOption = Device.auto,
    final: FinalOption = Final.sparse,
    gamma: Gamma = None,
    white_level: WhiteLevel = None,
    mask: BatchMaskOption = None,
    defects: DefectsOption = Defects.auto,
    gradient_weight: GradientWeight = None,
    smooth_weight: SmoothWeight = None,
    prior: PriorOption = None,
    cautious: CautiousOption = True,
    format: Annotated[Format | None, typer.Option(help="Of the sharp pictures; default: that of each IN.")] = None,
    bits: Bits = None,
    strip: StripOption = False,
    workers: Annotated[
        int | None, typer.Option(metavar="N", help="CPU: number of threads; default: one for each CPU.")
    ] = None,
    batch_size: Annotated[
        int | None, typer.Option(metavar="N", help="GPU: pictures at a time; default: as many as its memory holds.")
    ] = None,
) -> None:
    """Deblur many pictures. Those that fail are listed at the end, and the exit code is 1; the others are written."""
    with user_errors():
        if report is not None:
            check_output(report, suffixes=REPORT_SUFFIXES)
        if kernels_out is not None:
            _check_estimates_kernel("--kernels-out", method)
        suffix = None if format is None else f".{format.value}"
        masks = None if mask is None or mask.lower() == "nan" or not Path(mask).is_dir() else Path(mask)
        tasks = plan(sources, out, kernels=kernels_out, recursive=recursive, suffix=suffix, masks=masks)
        start, outcomes = time.perf_counter(), []
        try:
            with counter(len(tasks)) as count:
                for outcome in deblur_files(
                    tasks,
                    parse_kernel_size(kernel_size),
                    overwrite=overwrite,
                    bits=bits,
                    strip=strip,
                    device=device.value,
                    method=method,
                    final=final.value,
                    gamma=parse_gamma(gamma, "auto" if method == "two-step" else 1.0),
                    white=parse_white_level(white_level),
                    mask=None if masks is not None else parse_mask(mask),
                    defects=parse_defects(defects),
                    options=two_step_options(gradient_weight, smooth_weight, prior, cautious),
                    workers=workers,
                    batch_size=batch_size,
                ):
                    outcomes.append(outcome)
                    count(outcome.status == "failed")
        finally:  # also if the run is interrupted
            order = {str(task.source): number for number, task in enumerate(tasks)}
            outcomes.sort(key=lambda outcome: order[outcome.source])
            if report is not None and outcomes:
                write_report(report, outcomes)
        seconds = time.perf_counter() - start
        rows = summary(outcomes, len(tasks), seconds, is_network=method != "two-step")
        print_table(rows if report is None else rows | {"report": str(report)})
    if "failed" in rows:
        raise typer.Exit(1)


app.command()(kernel)
app.command()(demo)
app.command()(info)


train_app = App(help="Train a network of your own.", no_args_is_help=True)
app.add_typer(train_app, name="train")


@train_app.callback()
def train(context: typer.Context) -> None:
    """Train a network of your own."""
    context.obj = progress_bar


@functools.wraps(train_network)
def _train_network(**arguments: Any) -> None:
    with user_errors():
        print_table(train_network(**arguments))


for _name, _recipe in RECIPES.items():
    train_app.command(_name, help=_recipe.help)(_train_network)


def main() -> None:
    """Entry point of the `gpudeblur` command."""
    app()
