"""Trains the networks that restore faces where there is a GPU, in minutes and from one file that can be carried to it.

    python -m bench.training.networks_gpu pack --clear DIR [--clear DIR ...] [--first N] -o FILE
    python -m bench.training.networks_gpu train NAME --archive FILE --out FOLDER [--minutes 3] [--device cuda]

pack, on any machine: a tar archive of the files of the folders as they are (the first N of each by name: 7500 leaves
the faces out by which networks are judged), of the pool of kernels, which takes up to a minute to make, and of the face
recognizer of the perceptual loss in float16, where it is installed. JPEG files are not encoded again, and small: 7,500
faces, the 200 photographs of BSDS500 (train) and 8,000 kernels are 49 MiB. More than 60 MiB is refused.

train: a network that ships, from the weights that ship, or DeepDeblur with (64, 128, 160) channels or as in the paper.
Reading comes on top of the minutes, about half a minute. Leaves NAME.safetensors, NAME.jsonl (the log) and a line in
runs.jsonl. --deepdeblur FILE: weights of DeepDeblur, in place of those that ship, for the networks that share them.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import tarfile
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from gpudeblur.images.files import PICTURE_SUFFIXES
from gpudeblur.networks.blocks import initialized, parameter_count
from gpudeblur.networks.catalog import NETWORKS, load_shared, shared_tensors, shipped_weights, write_network
from gpudeblur.networks.deepdeblur.network import DeepDeblur
from gpudeblur.networks.deepdeblur.training import DeepDeblurTask
from gpudeblur.networks.enhancement_gan.network import EnhancementGAN
from gpudeblur.networks.enhancement_gan.training import make_task
from gpudeblur.networks.sketch.network import Sketch
from gpudeblur.networks.sketch.training import SketchTask
from gpudeblur.networks.training import trainer
from gpudeblur.networks.training.command import RECIPES
from gpudeblur.networks.training.data import BatchMaker, RestorationConfig, load_pictures, make_kernels
from gpudeblur.networks.training.face_features import FaceFeatures, find_weights, read_dlib
from gpudeblur.networks.weights import read_weights

from ..gpu_report import output_of

LARGEST_ARCHIVE = 60 << 20  # bytes
KERNELS, RECOGNIZER = "kernels.npz", "recognizer.npz"


@dataclass(frozen=True)
class Run:
    """How a network is trained on a GPU.

    Attributes
    ----------
    network : makes it.
    task : of (network, batches, the face recognizer or None).
    batch, crop : as in `RestorationConfig`.
    settings : of `TrainConfig`.
    ships : whether weights in the package are the first ones.
    """

    network: Callable[[], Any]
    task: Callable[[Any, BatchMaker, FaceFeatures | None], trainer.Task]
    batch: int = 64
    crop: tuple[int, int] = RestorationConfig.crop
    settings: dict[str, Any] = field(default_factory=dict)
    ships: bool = True


RUNS = {
    "deepdeblur": Run(DeepDeblur, lambda network, maker, _: DeepDeblurTask(network, maker), settings={"rate": 5e-4}),
    "sketch": Run(
        Sketch,
        lambda network, maker, _: SketchTask(network, maker, (0.0, 0.0)),
        crop=(64, 101),
        settings={"rate": 5e-4},
    ),
    "enhancement-gan": Run(
        EnhancementGAN,
        lambda network, maker, faces: make_task(network, maker, faces=faces),
        crop=(64, 81),
        settings={"rate": 5e-4},
    ),
    "deepdeblur-wide": Run(
        lambda: DeepDeblur(widths=(64, 128, 160)),
        lambda network, maker, _: DeepDeblurTask(network, maker),
        batch=96,
        ships=False,
    ),
    "deepdeblur-paper": Run(
        DeepDeblur.paper,
        lambda network, maker, _: DeepDeblurTask(network, maker),
        batch=32,
        settings=dict(RECIPES["deepdeblur"].paper),
        ships=False,
    ),
}


def pack(folders: list[Path], out: Path, *, first: int | None, pool: int) -> None:
    with tarfile.open(out, "w") as archive:
        for number, folder in enumerate(folders):
            files = sorted(file for file in folder.iterdir() if file.suffix.lower() in PICTURE_SUFFIXES)
            for file in files[:first]:
                archive.add(file.resolve(), f"{number}_{folder.name}/{file.name}")
        kernels, sides = make_kernels(RestorationConfig(pool=pool))
        _add_arrays(archive, KERNELS, {"kernels": kernels, "sides": sides})
        try:
            tensors = read_dlib(find_weights())
        except ImportError as why:
            print(f"without a face recognizer: {why}")
        else:
            _add_arrays(archive, RECOGNIZER, {f"{i:02}": tensor.half().numpy() for i, tensor in enumerate(tensors)})
    if out.stat().st_size > LARGEST_ARCHIVE:
        raise SystemExit(f"{out} must be at most 60 MiB, got {out.stat().st_size / 2**20:.0f}; give a smaller --first")
    print(f"{out}: {out.stat().st_size / 2**20:.1f} MiB")


def _add_arrays(archive: tarfile.TarFile, name: str, arrays: Mapping[str, np.ndarray]) -> None:
    with io.BytesIO() as content:
        np.savez_compressed(content, allow_pickle=False, **arrays)
        header = tarfile.TarInfo(name)
        header.size = content.tell()
        content.seek(0)
        archive.addfile(header, content)


def train(
    name: str, archive: Path, out: Path, *, minutes: float, device: str, batch: int | None, deepdeblur: Path | None
) -> None:
    out.mkdir(parents=True, exist_ok=True)
    start, run = time.perf_counter(), RUNS[name]
    with tempfile.TemporaryDirectory() as folder, tarfile.open(archive) as packed:
        scratch = Path(folder)
        packed.extractall(scratch, filter="data")
        folders = [load_pictures(path) for path in sorted(scratch.iterdir()) if path.is_dir()]
        with np.load(scratch / KERNELS) as stored:
            kernels, sides = stored["kernels"], stored["sides"]
        faces = None
        if (scratch / RECOGNIZER).exists():
            with np.load(scratch / RECOGNIZER) as stored:
                tensors = [torch.from_numpy(array.astype(np.float32)) for array in stored.values()]
            faces = FaceFeatures(tensors).to(device)
        pictures = [len(folder.images) for folder in folders]
        print(f"{name}: {pictures} pictures in {time.perf_counter() - start:.1f} s", flush=True)
        network = initialized(run.network, 0)
        load_shared(network)
        if deepdeblur is not None:
            use_deepdeblur(network, deepdeblur)
        data = RestorationConfig(batch=batch or run.batch, crop=run.crop, pool=len(kernels))
        task = run.task(network, BatchMaker(folders, data, device, (kernels, sides)), faces)
        config = trainer.TrainConfig(
            minutes=minutes, device=device, checkpoint_every=500,
            precision="float32" if device == "cpu" else "bfloat16", **run.settings,
        )  # fmt: skip
        result = trainer.train(
            task, config, scratch / "checkpoint.safetensors", log=out / f"{name}.jsonl",
            initial=shipped_weights(name) if run.ships else None,
        )  # fmt: skip
    line = {
        "network": name, "parameters": parameter_count(network), "minutes": round(result.seconds / 60, 2),
        "steps": result.step, "crops": result.step * data.batch, "pictures": pictures, "figures": result.figures,
        "sha256": write_network(out / f"{name}.safetensors", network, result.weights),
        "device": torch.cuda.get_device_name(device) if device != "cpu" else "cpu",
        "torch": torch.__version__, "commit": output_of("git", "rev-parse", "HEAD"),
    }  # fmt: skip
    with (out / "runs.jsonl").open("a") as file:
        print(json.dumps(line), file=file)
    print(json.dumps(line), flush=True)


def use_deepdeblur(network: torch.nn.Module, path: Path) -> None:
    """Give a network that shares DeepDeblur's tensors those of a file, and in this process the catalog its checksum."""
    tensors, _ = read_weights(path)
    for prefix, other in shared_tensors(network).items():
        assert other == "deepdeblur", other
        network.load_state_dict({key: t.float() for key, t in tensors.items() if key.startswith(prefix)}, strict=False)
    checksum = hashlib.sha256(path.read_bytes()).hexdigest()
    NETWORKS["deepdeblur"] = replace(NETWORKS["deepdeblur"], checksum=checksum)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    packing = commands.add_parser("pack")
    packing.add_argument("--clear", type=Path, action="append", required=True, help="folder; the first is the main one")
    packing.add_argument("--first", type=int, help="pictures of each folder; all if left out")
    packing.add_argument("--pool", type=int, default=RestorationConfig.pool, help="kernels")
    packing.add_argument("-o", "--out", type=Path, required=True)
    training = commands.add_parser("train")
    training.add_argument("network", choices=RUNS)
    training.add_argument("--archive", type=Path, required=True)
    training.add_argument("--out", type=Path, required=True, help="folder")
    training.add_argument("--minutes", type=float, default=3.0)
    training.add_argument("--device", default="cuda")
    training.add_argument("--batch", type=int, help="crops, in place of what suits a GPU")
    training.add_argument("--deepdeblur", type=Path, help="weights, in place of those that ship")
    args = parser.parse_args(arguments)
    if args.command == "pack":
        pack(args.clear, args.out, first=args.first, pool=args.pool)
    else:
        train(
            args.network, args.archive, args.out, minutes=args.minutes, device=args.device, batch=args.batch,
            deepdeblur=args.deepdeblur,
        )  # fmt: skip


if __name__ == "__main__":
    main()
