"""Trains networks where there is a GPU, in minutes and from one file that can be carried to it.

    python -m bench.training.networks_gpu pack --clear DIR [--clear DIR ...] [--first N] [--pairs FILE] -o FILE
    python -m bench.training.networks_gpu train NAME --archive FILE --out FOLDER [--minutes 3] [--device cuda]

pack, on any machine: a tar archive of the files of the folders as they are (the first N of each by name: 7500 leaves
the faces out by which networks are judged), of the pool of kernels, which takes up to a minute to make, and of the face
recognizer of the perceptual loss in float16, where it is installed. JPEG files are not encoded again, and small: 7,500
faces, the 200 photographs of BSDS500 (train) and 8,000 kernels are 49 MiB. More than 60 MiB is refused.

train: a network that ships, from the weights that ship, or DeepDeblur with (64, 128, 160) channels or as in the paper.
The first folder of the denoiser is of photographs; the last ten by name are withheld, for the figures at its end.
Reading comes on top of the minutes, about half a minute. Leaves NAME.safetensors, NAME.jsonl (the log) and a line in
runs.jsonl; NAME.safetensors is also written each minute. SIGINT or SIGTERM ends the training early, with all of these.
--deepdeblur FILE: weights of DeepDeblur, in place of those that ship, for the networks that share them.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import signal
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
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
from gpudeblur.networks.denoiser.evaluation import LEVELS, white_noise_psnr
from gpudeblur.networks.denoiser.network import Denoiser
from gpudeblur.networks.denoiser.training import DenoiserConfig, DenoiserTask, NoisyBatchMaker
from gpudeblur.networks.enhancement_gan.network import EnhancementGAN
from gpudeblur.networks.enhancement_gan.training import make_task
from gpudeblur.networks.sketch.network import Sketch
from gpudeblur.networks.sketch.training import SketchTask
from gpudeblur.networks.training import trainer
from gpudeblur.networks.training.command import RECIPES
from gpudeblur.networks.training.data import BatchMaker, RestorationConfig, load_pictures, make_kernels
from gpudeblur.networks.training.face_features import FaceFeatures, find_weights, read_dlib
from gpudeblur.networks.training.pictures import Pictures
from gpudeblur.networks.weights import read_weights

from ..gpu_report import output_of

LARGEST_ARCHIVE = 60 << 20  # bytes
KERNELS, PAIRS, RECOGNIZER = "kernels.npz", "pairs.npz", "recognizer.npz"
WRITE_EVERY = 60  # seconds


@dataclass(frozen=True)
class Kernels:
    """The pool of kernels, what `make_kernels` returns, and for the denoiser pairs of kernels and blind estimates."""

    pool: tuple[np.ndarray, np.ndarray]
    pairs: tuple[np.ndarray, np.ndarray] | None = None


def blurred_batches(
    folders: Sequence[Pictures], batch: int, crop: tuple[int, int], device: str, kernels: Kernels
) -> BatchMaker:
    return BatchMaker(
        folders, RestorationConfig(batch=batch, crop=crop, pool=len(kernels.pool[0])), device, kernels.pool
    )


def noisy_batches(
    folders: Sequence[Pictures], batch: int, crop: tuple[int, int], device: str, kernels: Kernels
) -> NoisyBatchMaker:
    config = DenoiserConfig(batch=batch, crop=crop[0], pool=len(kernels.pool[0]))
    return NoisyBatchMaker(folders, config, device, kernels.pool, kernels.pairs)


def denoiser_figures(network: Denoiser, withheld: Sequence[torch.Tensor]) -> dict[str, float]:
    """PSNR for white noise of four levels, in color and gray."""
    if not withheld:
        return {}
    return {
        f"psnr_{'gray' if gray else 'color'}_{sigma:g}": round(white_noise_psnr(network, withheld, sigma, gray=gray), 3)
        for gray in (False, True)
        for sigma in LEVELS
    }


@dataclass(frozen=True)
class Run:
    """How a network is trained on a GPU.

    Attributes
    ----------
    network : makes it.
    task : of (network, batches, the face recognizer or None).
    batch, crop : crops in a batch; pixels, smallest and largest side of them.
    settings : of `TrainConfig`.
    ships : whether weights in the package are the first ones.
    batches : makes them.
    withheld : the last pictures of the first folder that are not trained on, at most half of them.
    figures : of (network, withheld pictures), each minute and at the end.
    """

    network: Callable[[], Any]
    task: Callable[[Any, Any, FaceFeatures | None], trainer.Task]
    batch: int = 64
    crop: tuple[int, int] = RestorationConfig.crop
    settings: dict[str, Any] = field(default_factory=dict)
    ships: bool = True
    batches: Callable[[Sequence[Pictures], int, tuple[int, int], str, Kernels], Any] = blurred_batches
    withheld: int = 0
    figures: Callable[[Any, Sequence[torch.Tensor]], dict[str, float]] = lambda *_: {}


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
    "denoiser": Run(
        Denoiser,
        lambda network, maker, _: DenoiserTask(network, maker),
        batch=128,
        crop=(96, 96),
        settings=dict(RECIPES["denoiser"].settings),
        batches=noisy_batches,
        withheld=10,
        figures=denoiser_figures,
    ),
}


def pack(
    folders: list[Path], out: Path, *, first: int | None, pool: int, recognizer: bool = True, pairs: Path | None = None
) -> None:
    # The default format has 1 KiB more a file, for times of fractions of a second.
    with tarfile.open(out, "w", format=tarfile.GNU_FORMAT) as archive:
        for number, folder in enumerate(folders):
            files = sorted(file for file in folder.iterdir() if file.suffix.lower() in PICTURE_SUFFIXES)
            for file in files[:first]:
                archive.add(file.resolve(), f"{number}_{folder.name}/{file.name}")
        kernels, sides = make_kernels(RestorationConfig(pool=pool))
        _add_arrays(archive, KERNELS, {"kernels": kernels, "sides": sides})
        if pairs is not None:
            archive.add(pairs, PAIRS)
        if recognizer:
            _add_recognizer(archive)
    if out.stat().st_size > LARGEST_ARCHIVE:
        raise SystemExit(f"{out} must be at most 60 MiB, got {out.stat().st_size / 2**20:.0f}; give a smaller --first")
    print(f"{out}: {out.stat().st_size / 2**20:.1f} MiB")


def _add_recognizer(archive: tarfile.TarFile) -> None:
    try:
        tensors = read_dlib(find_weights())
    except ImportError as why:
        print(f"without a face recognizer: {why}")
    else:
        _add_arrays(archive, RECOGNIZER, {f"{i:02}": tensor.half().numpy() for i, tensor in enumerate(tensors)})


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
            kernels = Kernels((stored["kernels"], stored["sides"]))
        if (scratch / PAIRS).exists():
            with np.load(scratch / PAIRS) as stored:
                kernels = replace(kernels, pairs=(stored["kernels"], stored["estimates"]))
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
        count, withheld = batch or run.batch, withhold(folders, run.withheld)
        task = run.task(network, run.batches(folders, count, run.crop, device, kernels), faces)
        config = trainer.TrainConfig(
            minutes=minutes, device=device, checkpoint_every=50 if device == "cpu" else 500,
            precision="float32" if device == "cpu" else "bfloat16", **run.settings,
        )  # fmt: skip
        torch.backends.cudnn.benchmark = run.crop[0] == run.crop[1]  # one shape of crops: the fastest algorithms pay
        checkpoint, first = scratch / "checkpoint.safetensors", shipped_weights(name) if run.ships else None
        monitor = Monitor(name, run, checkpoint, out, withheld, device)
        with monitor.stopped_by_signals():
            result = trainer.train(
                task, config, checkpoint, log=out / f"{name}.jsonl", initial=first, progress=monitor
            )  # fmt: skip
    checksum = write_network(out / f"{name}.safetensors", network, result.weights)
    network.load_state_dict(result.weights)
    line = {
        "network": name, "parameters": parameter_count(network), "minutes": round(result.seconds / 60, 2),
        "steps": result.step, "crops": result.step * count, "pictures": pictures,
        "figures": result.figures | run.figures(network.eval(), withheld), "sha256": checksum,
        "device": torch.cuda.get_device_name(device) if device != "cpu" else "cpu",
        "torch": torch.__version__, "commit": output_of("git", "rev-parse", "HEAD"),
    }  # fmt: skip
    with (out / "runs.jsonl").open("a") as file:
        print(json.dumps(line), file=file)
    print(json.dumps(line), flush=True)


def withhold(folders: list[Pictures], count: int) -> list[torch.Tensor]:
    """Take the last pictures of the first folder out of `folders`, in place, at most half of them."""
    images = folders[0].images
    count = min(count, len(images) // 2)
    folders[0] = replace(folders[0], images=images[: len(images) - count])
    return images[len(images) - count :]


class Monitor:
    """`progress` of a training: writes the averaged weights and prints a line each minute, and ends it by a signal."""

    def __init__(
        self, name: str, run: Run, checkpoint: Path, out: Path, withheld: Sequence[torch.Tensor], device: str
    ) -> None:
        self.name, self.run, self.checkpoint, self.out = name, run, checkpoint, out
        self.withheld, self.device = withheld, device
        self.is_stopped, self.start, self.last = False, time.perf_counter(), (time.perf_counter(), 0)

    def __call__(self, step: int, share: float, figures: Mapping[str, float]) -> bool:
        now = time.perf_counter()
        if now - self.last[0] >= WRITE_EVERY and self.checkpoint.exists():
            line: dict[str, Any] = {
                "seconds": round(now - self.start), "step": step,
                "steps_per_second": round((step - self.last[1]) / (now - self.last[0]), 2),
            }  # fmt: skip
            network = self.run.network().to(self.device)
            load_shared(network)
            tensors, _ = read_weights(self.checkpoint)
            network.load_state_dict({key: tensor.float() for key, tensor in tensors.items()}, strict=False)
            write_network(self.out / f"{self.name}.safetensors", network, network.state_dict())
            line |= {key: round(value, 4) for key, value in figures.items()}
            print(json.dumps(line | self.run.figures(network.eval(), self.withheld)), flush=True)
            self.last = time.perf_counter(), step
        return self.is_stopped

    @contextmanager
    def stopped_by_signals(self) -> Iterator[None]:
        """The first SIGINT or SIGTERM ends the training with what it has; a second one is as before."""

        def stop(number: int, _: Any) -> None:
            self.is_stopped = True
            signal.signal(number, before[signal.Signals(number)])

        before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


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
    packing.add_argument("--no-recognizer", action="store_true", help="the denoiser needs none")
    packing.add_argument("--pairs", type=Path, help="of bench.training.kernel_pairs, for the denoiser")
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
        pack(
            args.clear, args.out, first=args.first, pool=args.pool, recognizer=not args.no_recognizer, pairs=args.pairs
        )
    else:
        train(
            args.network, args.archive, args.out, minutes=args.minutes, device=args.device, batch=args.batch,
            deepdeblur=args.deepdeblur,
        )  # fmt: skip


if __name__ == "__main__":
    main()
