"""The `gpudeblur` command: deblur, deconvolve, restore, batch, kernel, demo, train and info.

An error that a user can correct is one red line on stderr and exit code 2; no file is left half-written.
"""

from __future__ import annotations

import functools
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Annotated, Any

import typer

import gpudeblur

from ..batch.folders import deblur_files, decide, plan
from ..batch.journal import Journal, fingerprint
from ..batch.report import REPORT_SUFFIXES
from ..blind.restore import network_names
from ..images.files import check_output
from ..networks.training.command import RECIPES, train_network
from .app import HELP_OPTIONS, App, Group
from .batch import (
    ClusterOption,
    DryRunOption,
    QuietOption,
    ShardOption,
    cluster_client,
    parse_shard,
    print_any_name,
    run_batch,
    show_plan,
    signals_end_the_run,
)
from .deblur import deblur, kernel
from .info import demo, info, version_of
from .known import check_estimates_kernel as _check_estimates_kernel
from .known import deconvolve, restore
from .options import (
    BatchMaskOption,
    Bits,
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
    NoCautious,
    Preset,
    PresetOption,
    PriorOption,
    RegionOption,
    SmoothWeight,
    StrengthOption,
    StripOption,
    WhiteLevel,
    parse_defects,
    parse_gamma,
    parse_kernel_size,
    parse_mask,
    parse_region,
    parse_white_level,
    strength_of,
    two_step_options,
)
from .terminal import LOGGER, print_table, progress_bar, user_errors

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
        Path,
        typer.Option(
            "--out",
            "-o",
            metavar="DIR",
            help="Folder for the sharp pictures; created if need be.",
            rich_help_panel="Output",
        ),
    ],
    recursive: Annotated[
        bool,
        typer.Option(
            "--recursive",
            "-r",
            help="Also the folders within folders; DIR gets the same ones.",
            rich_help_panel="Input",
        ),
    ] = False,
    shard: ShardOption = None,
    method: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            help=f"two-step; or a network for faces ({', '.join(network_names())}), which takes no option of a kernel.",
            rich_help_panel="Kernel",
        ),
    ] = "two-step",
    kernel_size: KernelSize = "auto",
    region: RegionOption = "auto",
    preset: PresetOption = Preset.standard,
    gradient_weight: GradientWeight = None,
    smooth_weight: SmoothWeight = None,
    prior: PriorOption = None,
    final: FinalOption = Final.sparse,
    strength: StrengthOption = "auto",
    no_cautious: NoCautious = False,
    gamma: Gamma = None,
    white_level: WhiteLevel = None,
    mask: BatchMaskOption = None,
    defects: DefectsOption = Defects.auto,
    kernels_out: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Also write the kernels: NAME.npy.", rich_help_panel="Output"),
    ] = None,
    overwrite: Annotated[
        bool,
        typer.Option(
            "--overwrite/--no-overwrite",
            help="Replace results that exist, or skip their pictures.",
            rich_help_panel="Output",
        ),
    ] = False,
    report: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="The outcome of each picture: .csv or .json.", rich_help_panel="Output"),
    ] = None,
    format: Annotated[
        Format | None,
        typer.Option(help="Of the sharp pictures. Default: that of each IN.", rich_help_panel="Output"),
    ] = None,
    bits: Bits = None,
    strip: StripOption = False,
    dry_run: DryRunOption = False,
    quiet: QuietOption = False,
    device: DeviceOption = Device.auto,
    workers: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            help="CPU: number of threads, with --cluster local of processes. Default: one for each CPU.",
            rich_help_panel="Speed",
        ),
    ] = None,
    cluster: ClusterOption = None,
    batch_size: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            help="GPU: pictures at a time. Default: as many as its memory holds.",
            rich_help_panel="Speed",
        ),
    ] = None,
) -> None:
    """Deblur many pictures. Those that fail are listed at the end, and the exit code is 1; the others are written."""
    with signals_end_the_run(), user_errors():
        print_any_name()
        if report is not None:
            check_output(report, suffixes=REPORT_SUFFIXES)
        if kernels_out is not None:
            _check_estimates_kernel("--kernels-out", method)
        suffix, (number, count) = None if format is None else f".{format.value}", parse_shard(shard)
        masks = None if mask is None or mask.lower() == "nan" or not Path(mask).is_dir() else Path(mask)
        picture_plan = plan(sources, out, kernels=kernels_out, recursive=recursive, suffix=suffix, masks=masks)
        picture_plan = picture_plan.shard(number, count)
        settings: dict[str, Any] = {
            "method": method,
            "final": final.value,
            "gamma": parse_gamma(gamma, "auto" if method == "two-step" else 1.0),
            "white": parse_white_level(white_level),
            "mask": None if masks is not None else parse_mask(mask),
            "defects": parse_defects(defects),
            "region": parse_region(region),
        }
        size, blend = parse_kernel_size(kernel_size), strength_of(strength, no_cautious)
        options = two_step_options(gradient_weight, smooth_weight, prior, preset=preset, strength=blend)
        version = gpudeblur.__version__
        options_hash = fingerprint(
            version, settings | {"kernel_size": size, "bits": bits, "strip": strip, "options": options}
        )
        folders = {file.parent for task in picture_plan.tasks for file in task.outputs}
        with Journal(out, folders) as journal, ExitStack() as resources:
            decisions = decide(picture_plan.tasks, journal, options_hash, overwrite=overwrite)
            if dry_run:
                show_plan(picture_plan, decisions)
                return
            run_fields = {"fingerprint": options_hash, "version": version}
            settings |= {"bits": bits, "strip": strip, "device": device.value, "options": options}
            settings["batch_size"] = batch_size
            if cluster is None or not any(decision.writes for decision in decisions):
                if workers is not None and workers > 1:
                    LOGGER.debug("%d threads of this process compute; --cluster local takes processes", workers)
                outcomes = deblur_files(decisions, journal, run_fields, size, workers=workers, **settings)
            else:
                client = resources.enter_context(cluster_client(cluster, workers, device.value))
                outcomes = gpudeblur.distributed.run_on_cluster(
                    decisions, journal, run_fields, size, client=client, lock_name=f"{number}-{count}", **settings
                )
            with closing(outcomes):
                all_succeeded = run_batch(
                    picture_plan,
                    outcomes,
                    report=report,
                    quiet=quiet,
                    overwrite=overwrite,
                    is_network=method != "two-step",
                )
    if not all_succeeded:
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
