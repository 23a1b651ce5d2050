"""Trains wider networks where there is a GPU, in minutes and from one file that can be carried to it.

    python -m bench.training.networks_gpu pack --clear DIR [--clear DIR ...] [--first N] -o FILE
    python -m bench.training.networks_gpu train --archive FILE --out FOLDER [--minutes 8] [--device cuda]

pack, on any machine: a tar archive of the files of the folders as they are (the first N of each by name: 7500 leaves
the faces out by which networks are judged) and of the pool of kernels, which takes up to a minute to make. JPEG files
are not encoded again, and small: 7,500 faces, the 200 photographs of BSDS500 (train) and 8,000 kernels are 49 MiB. More
than 60 MiB is refused.

train: DeepDeblur with (64, 128, 160) channels, then the paper's DeepDeblur, 60 % and 40 % of the minutes. Reading comes
on top, about half a minute. Leaves NAME.safetensors, NAME.jsonl (the log) and a line a network in runs.jsonl.
"""

from __future__ import annotations

import argparse
import io
import json
import tarfile
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from gpudeblur.images.files import PICTURE_SUFFIXES
from gpudeblur.networks.blocks import initialized, parameter_count
from gpudeblur.networks.catalog import write_network
from gpudeblur.networks.deepdeblur.network import DeepDeblur
from gpudeblur.networks.deepdeblur.training import DeepDeblurTask
from gpudeblur.networks.training import trainer
from gpudeblur.networks.training.command import RECIPES
from gpudeblur.networks.training.data import BatchMaker, RestorationConfig, load_pictures, make_kernels

from ..gpu_report import output_of

LARGEST_ARCHIVE = 60 << 20  # bytes
KERNELS = "kernels.npz"


@dataclass(frozen=True)
class Run:
    """A network, its share of the minutes, crops a batch, whether its losses are the paper's, and settings."""

    network: Callable[[], DeepDeblur]
    share: float
    batch: int
    paper: bool
    settings: dict[str, Any]


RUNS = {
    "deepdeblur-wide": Run(lambda: DeepDeblur(widths=(64, 128, 160)), 0.6, 96, False, {"average": 0.999}),
    "deepdeblur-paper": Run(DeepDeblur.paper, 0.4, 32, True, {**RECIPES["deepdeblur"].paper, "average": 0.999}),
}


def pack(folders: list[Path], out: Path, *, first: int | None, pool: int) -> None:
    with tarfile.open(out, "w") as archive:
        for number, folder in enumerate(folders):
            files = sorted(file for file in folder.iterdir() if file.suffix.lower() in PICTURE_SUFFIXES)
            for file in files[:first]:
                archive.add(file.resolve(), f"{number}_{folder.name}/{file.name}")
        kernels, sides = make_kernels(RestorationConfig(pool=pool))
        with io.BytesIO() as content:
            np.savez_compressed(content, kernels=kernels, sides=sides)
            header = tarfile.TarInfo(KERNELS)
            header.size = content.tell()
            content.seek(0)
            archive.addfile(header, content)
    if out.stat().st_size > LARGEST_ARCHIVE:
        raise SystemExit(f"{out} must be at most 60 MiB, got {out.stat().st_size / 2**20:.0f}; give a smaller --first")
    print(f"{out}: {out.stat().st_size / 2**20:.1f} MiB")


def train(archive: Path, out: Path, *, minutes: float, device: str, batch: int | None) -> None:
    out.mkdir(parents=True, exist_ok=True)
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as name, tarfile.open(archive) as packed:
        scratch = Path(name)
        packed.extractall(scratch, filter="data")
        folders = [load_pictures(folder) for folder in sorted(scratch.iterdir()) if folder.is_dir()]
        with np.load(scratch / KERNELS) as stored:
            kernels, sides = stored["kernels"], stored["sides"]
        print(
            f"{[len(folder.images) for folder in folders]} pictures in {time.perf_counter() - start:.1f} s", flush=True
        )
        for name, run in RUNS.items():
            data = RestorationConfig(batch=batch or run.batch, pool=len(kernels))
            network = initialized(run.network, 0)
            task = DeepDeblurTask(network, BatchMaker(folders, data, device, (kernels, sides)), paper=run.paper)
            config = trainer.TrainConfig(
                minutes=run.share * minutes, device=device, checkpoint_every=500,
                precision="float32" if device == "cpu" else "bfloat16", **run.settings,
            )  # fmt: skip
            checkpoint = scratch / f"{name}.checkpoint.safetensors"
            result = trainer.train(task, config, checkpoint, log=out / f"{name}.jsonl")
            line = {
                "network": name, "parameters": parameter_count(network), "minutes": round(result.seconds / 60, 2),
                "steps": result.step, "crops": result.step * data.batch, "figures": result.figures,
                "sha256": write_network(out / f"{name}.safetensors", network, result.weights),
                "device": torch.cuda.get_device_name(device) if device != "cpu" else "cpu",
                "torch": torch.__version__, "commit": output_of("git", "rev-parse", "HEAD"),
            }  # fmt: skip
            with (out / "runs.jsonl").open("a") as file:
                print(json.dumps(line), file=file)
            print(json.dumps(line), flush=True)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    packing = commands.add_parser("pack")
    packing.add_argument("--clear", type=Path, action="append", required=True, help="folder; the first is the main one")
    packing.add_argument("--first", type=int, help="pictures of each folder; all if left out")
    packing.add_argument("--pool", type=int, default=RestorationConfig.pool, help="kernels")
    packing.add_argument("-o", "--out", type=Path, required=True)
    training = commands.add_parser("train")
    training.add_argument("--archive", type=Path, required=True)
    training.add_argument("--out", type=Path, required=True, help="folder")
    training.add_argument("--minutes", type=float, default=8.0)
    training.add_argument("--device", default="cuda")
    training.add_argument("--batch", type=int, help="crops, in place of what suits a GPU")
    args = parser.parse_args(arguments)
    if args.command == "pack":
        pack(args.clear, args.out, first=args.first, pool=args.pool)
    else:
        train(args.archive, args.out, minutes=args.minutes, device=args.device, batch=args.batch)


if __name__ == "__main__":
    main()
