"""The `gpudeblur` command: deblur, deconvolve, restore, batch, score, report, kernel, demo, train and info.

An error that a user can correct is one red line on stderr and exit code 2; no file is left half-written.
"""

from __future__ import annotations

import functools
import hashlib
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated, Any

import typer

import gpudeblur

from ..images.output import check_output
from ..networks.catalog import network_names
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
)
from .config import command_text, options_text
from .deblur import deblur, kernel
from .info import demo, info, version_of
from .known import check_estimates_kernel as _check_estimates_kernel
from .known import deconvolve, gamma_with_kernel, read_single_kernel, refuse_options, restore
from .options import (
    BatchKernel,
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
    Preset,
    PresetOption,
    PriorOption,
    QualityOption,
    RegionOption,
    SmoothWeight,
    StrengthOption,
    StripOption,
    WhiteLevel,
    check_encoding,
    parse_defects,
    parse_gamma,
    parse_kernel_size,
    parse_mask,
    parse_region,
    parse_strength,
    parse_white_level,
    two_step_options,
)
from .report import HtmlOption, check_html
from .report import report as report_command
from .score import BLUR_THRESHOLD, BlurThresholdOption, OnlyBlurredOption, check_threshold, leave_out_sharp, score
from .terminal import LOGGER, print_table, progress_bar

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
    context: typer.Context,
    sources: Annotated[
        list[str],
        typer.Argument(
            metavar="IN...",
            help="Pictures of the formats that deblur reads, and folders of them; also URLs (s3://, zip://*.png::FILE) "
            "with the extra dask.",
        ),
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
    only_blurred: OnlyBlurredOption = False,
    blur_threshold: BlurThresholdOption = BLUR_THRESHOLD,
    method: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            help=f"two-step; or a network for faces ({', '.join(network_names())}), which takes no option of a kernel.",
            rich_help_panel="Kernel",
        ),
    ] = "two-step",
    kernel_size: KernelSize = "auto",
    kernel_file: BatchKernel = None,
    region: RegionOption = "auto",
    preset: PresetOption = Preset.standard,
    gradient_weight: GradientWeight = None,
    smooth_weight: SmoothWeight = None,
    prior: PriorOption = None,
    final: FinalOption = Final.sparse,
    strength: StrengthOption = "auto",
    gamma: Gamma = None,
    white_level: WhiteLevel = None,
    mask: BatchMaskOption = None,
    defects: DefectsOption = Defects.auto,
    kernels_out: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Also write the kernels: NAME.npy.", rich_help_panel="Output"),
    ] = None,
    compare: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Also write IN, the result and the kernel side by side: NAME_compare.png.",
            rich_help_panel="Output",
        ),
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
    html: HtmlOption = None,
    format: Annotated[
        Format | None,
        typer.Option(help="Of the sharp pictures. Default: that of each IN.", rich_help_panel="Output"),
    ] = None,
    bits: Bits = None,
    quality: QualityOption = None,
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
    from ..batch.folders import deblur_files, decide, plan
    from ..batch.journal import Journal, fingerprint
    from ..batch.report import REPORT_SUFFIXES, left_out_text
    from ..images.stored_file import as_source

    print_any_name()
    if report is not None:
        check_output(report, suffixes=REPORT_SUFFIXES)
    if html is not None:
        check_html(html)
    check_threshold(blur_threshold)
    for option, folder in {"--out": out, "--kernels-out": kernels_out, "--compare": compare}.items():
        if folder is not None and folder.exists() and not folder.is_dir():
            raise NotADirectoryError(f"{option} must be a folder, {folder} is a file; name another")
    if kernels_out is not None:
        _check_estimates_kernel("--kernels-out", method)
    suffix, (number, count) = None if format is None else f".{format.value}", parse_shard(shard)
    check_encoding(bits, quality, suffix)
    masks = None if mask is None or mask.lower() == "nan" or not Path(mask).is_dir() else Path(mask)
    picture_plan = plan(
        map(as_source, sources),
        out,
        kernels=kernels_out,
        comparisons=compare,
        recursive=recursive,
        suffix=suffix,
        masks=masks,
    )
    picture_plan = picture_plan.shard(number, count)
    size, blend, where = parse_kernel_size(kernel_size), parse_strength(strength), parse_region(region)
    settings: dict[str, Any] = {
        "white": parse_white_level(white_level),
        "mask": None if masks is not None else parse_mask(mask),
        "defects": parse_defects(defects),
    }
    if kernel_file is None:
        light = parse_gamma(gamma, "auto" if method == "two-step" else 1.0)
        options = two_step_options(gradient_weight, smooth_weight, prior, preset=preset, strength=blend)
        settings |= {"method": method, "final": final.value, "gamma": light, "region": where, "options": options}
        settings |= {"kernel_size": size}
    else:
        refuse_options(
            "--kernel, which leaves nothing to be estimated",
            {
                "--method": method != "two-step",
                "--kernel-size": size is not None,
                "--region": where != "auto",
                "--preset": preset is not Preset.standard,
                "--gradient-weight": gradient_weight is not None,
                "--smooth-weight": smooth_weight is not None,
                "--prior": prior is not None,
                "--strength": blend not in ("auto", 1),
                "--kernels-out": kernels_out is not None,
                "--batch-size": batch_size is not None,
            },
        )
        known_kernel = read_single_kernel(kernel_file)
        light, _ = gamma_with_kernel(parse_gamma(gamma, None, "--kernel"), kernel_file)
        settings |= {"method": final.value, "gamma": light, "kernel": known_kernel}
    speed: dict[str, Any] = {} if batch_size is None else {"batch_size": batch_size}
    version = gpudeblur.__version__
    encoding: dict[str, Any] = {"bits": bits, "quality": quality, "strip": strip}
    contents = {} if kernel_file is None else {"kernel": hashlib.sha256(kernel_file.read_bytes()).hexdigest()}
    options_hash = fingerprint(version, settings | encoding | contents)
    folders = {file.parent for task in picture_plan.tasks for file in task.outputs}
    run_line = {"version": version, "fingerprint": options_hash, "command": command_text(context)}
    with Journal(out, folders, run_line) as journal, ExitStack() as resources:
        decisions = decide(picture_plan.tasks, journal, options_hash, overwrite=overwrite)
        if only_blurred:
            picture_plan, decisions = leave_out_sharp(picture_plan, decisions, blur_threshold, settings["white"])
        run_line["left_out"] = left_out_text(picture_plan.outcomes)
        if dry_run:
            show_plan(picture_plan, decisions)
            return
        run_fields = {"fingerprint": options_hash, "version": version, "options": options_text(context)}
        run = functools.partial(
            deblur_files, decisions, journal, run_fields, device=device.value, **speed, **settings, **encoding
        )
        client = None
        if cluster is not None and any(decision.writes for decision in decisions):
            client = resources.enter_context(cluster_client(cluster, workers, device.value))
        elif workers is not None and workers > 1:
            LOGGER.debug("%d threads of this process compute; --cluster local takes processes", workers)

        def start_run(callback: Any) -> Any:
            if client is None:
                return run(workers=workers, callback=callback)
            names: dict[str, Any] = {"client": client, "lock_name": f"{number}-{count}"}
            return gpudeblur.distributed.run_on_cluster(*run.args, **run.keywords, **names)

        all_succeeded = run_batch(
            picture_plan,
            start_run,
            report=report,
            quiet=quiet,
            overwrite=overwrite,
            is_network=method != "two-step",
            html=html,
            facts={"version": version, "command": run_line["command"]},
        )
    if not all_succeeded:
        raise typer.Exit(1)


app.command()(score)
app.command("report")(report_command)
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
    print_table(train_network(**arguments))


for _name, _recipe in RECIPES.items():
    train_app.command(_name, help=_recipe.help)(_train_network)


def main() -> None:
    """Entry point of the `gpudeblur` command."""
    app()
