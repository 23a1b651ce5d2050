"""The networks that restore faces, beside MAP and the true kernel.

    python -m bench networks faces --data DATA [--sets A B] [--methods blurred map] [--limit 20] [--cache DIR]
    python -m bench networks faces --data DATA --weights deepdeblur=FILE --sheet

| set | pictures, kernels | groups |
|---|---|---|
| A | 100 small faces, RGB, 1 % noise, kernels of their own | 5, 9, 13, 17, 21, 27 px |
| B | the 268 small faces of the quality bench, gray, Levin's kernels | centred, and as measured: see "aligned" |
| C | the faces of A, 15 px of straight motion | |
| D | the faces of A, sharp | 0 and 1 % noise |
| E | 60 crops of photographs, 20 whole ones, 10 pages of text | blurred with 1 % noise, and sharp |
| F | 28 portraits at 128 x 128 and 240 x 200 | 21, 31, 41, 51 px |
| G | the faces of A, uncropped, recognized among all 8,000 (needs --cache and dlib's weights) | sharp, 5 to 27 px |
| H | seconds for a picture of 112 x 96 and 240 x 200, alone and in a stack of 64, on one and two threads | |

Recipes are in face_cases.py. Methods: "blurred"; "map", what `deblur` returns; each network, and "face", as `restore`
returns with its automatic strength; "NAME-full" with strength 1; "ceiling", `deconvolve` with the true kernel and tv.
Those that cannot run are left out with the reason, unless they are named. "aligned" is the gain of the luminance over
the blurred picture, each at its own best shift; "worse" the share of pictures that lose; "to input" the PSNR against
the picture given, a measure of harm where that is sharp. Intervals are 95 %, by bootstrap over whole pictures. Equal
pictures count as 60 dB. The papers' own figures stand in the same tables, with their protocol for the group: other
pictures, to be read as orders of magnitude.

Appends a line for each set, group and method to results/networks.jsonl. --cache keeps what MAP and the true kernel make
of a case until the package's source changes, and the embeddings of G.
"""

from __future__ import annotations

import argparse
import functools
import hashlib
import importlib
import os
import time
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

import gpudeblur as gd
from gpudeblur.metrics import align, kernel_similarity, psnr, ssim

from .evaluate import Row, arguments, parallel, record, results_folder, settings
from .face_cases import NOT_TO_CHOOSE_BY, SETS, FaceCase, blurred_case, color_picture, faces, own_kernel
from .face_report import papers_of, print_table, sheet, totals

Outcome = tuple[np.ndarray, np.ndarray | None]  # image, kernel where there is one
Method = Callable[[FaceCase], Outcome]
MAX_PSNR = 60.0  # dB, about the rounding to 8 bits: equal pictures count so
LUMINANCE = np.array([0.2126, 0.7152, 0.0722])
ALIGN_BORDER = 15  # pixels
FULL = "-full"  # ends the names of methods with strength 1
SHEET_FACES = 12
TIMES_SHAPES, STACKS, REPEATS = ((112, 96), (240, 200)), (1, 64), 3
RECOGNITION_FACES = 100  # of a group in memory


# ------------------------------------------------------------------ methods
def blurred(case: FaceCase) -> Outcome:
    return case.blurred, None


@dataclass(frozen=True)
class Map:
    """`deblur`, as returned."""

    device: str = "cpu"

    def __call__(self, case: FaceCase) -> Outcome:
        result = gd.deblur(case.blurred, case.map_size, channel_axis=case.channel_axis, device=self.device)
        return result.image, result.kernel


@dataclass(frozen=True)
class Ceiling:
    """The true kernel: nothing can be expected to do much better."""

    device: str = "cpu"

    def __call__(self, case: FaceCase) -> Outcome:
        options: dict[str, Any] = {"channel_axis": case.channel_axis, "device": self.device}
        return gd.deconvolve(case.blurred, case.kernel, method="tv", **options), None


@dataclass(frozen=True)
class Restore:
    """`restore` by a network; `weights`: None for the package's."""

    network: str
    strength: float | str = "auto"
    weights: Path | None = None
    device: str = "cpu"

    def restore(self, image: Any, channel_axis: int | None) -> Any:
        options = {"weights": self.weights, "strength": self.strength, "device": self.device}
        # By its name: the bench also runs on versions of the package that have no `restore`.
        restore = importlib.import_module("gpudeblur").restore
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", ".* not look like one")  # some sets are no faces
            return restore(image, self.network, channel_axis=channel_axis, **options)

    def __call__(self, case: FaceCase) -> Outcome:
        result = self.restore(case.blurred, case.channel_axis)
        return result.image, result.kernel


@dataclass(frozen=True)
class Cached:
    """A method whose outcomes are kept in a folder, by the name of the case."""

    method: Method
    folder: Path

    def __call__(self, case: FaceCase) -> Outcome:
        path = self.folder / f"{case.name}.npz"
        if not path.exists():
            image, kernel = self.method(case)
            self.folder.mkdir(parents=True, exist_ok=True)
            temporary = path.with_suffix(f".{os.getpid()}.npz")
            arrays: dict[str, Any] = {"image": image.astype(np.float32)} | (
                {} if kernel is None else {"kernel": kernel}
            )
            np.savez(temporary, **arrays)
            temporary.replace(path)
        with np.load(path) as kept:
            return kept["image"], kept.get("kernel")


@functools.cache
def source_digest() -> str:
    """Changes with the source of MAP and of deconvolution: all of the package but its networks."""
    package = Path(gd.__file__).parent
    files = sorted(path for path in package.rglob("*.py") if "networks" not in path.relative_to(package).parts)
    return hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()[:12]


def all_methods(weights: Mapping[str, Path], cache: Path | None, device: str) -> dict[str, Method]:
    """By name, in the order of the tables."""
    from gpudeblur.networks.catalog import NETWORKS

    slow: dict[str, Method] = {"map": Map(device), "ceiling": Ceiling(device)}
    if cache is not None:
        slow = {name: Cached(method, cache / f"{name}-{source_digest()}") for name, method in slow.items()}
    methods: dict[str, Method] = {"blurred": blurred, "map": slow["map"]}
    for name in (*NETWORKS, "face"):
        methods[name] = Restore(name, "auto", weights.get(name), device)
        methods[name + FULL] = Restore(name, 1.0, weights.get(name), device)
    return methods | {"ceiling": slow["ceiling"]}


def why_not(method: Method) -> str | None:
    """Why it cannot run here, by a trial on a drawn picture; None if it can."""
    picture = np.random.default_rng(0).random((64, 64, 3))
    case = FaceCase("trial", picture, picture, np.ones((1, 1)), 0.0, "trial")
    try:
        method(case)
    except (AttributeError, ImportError, OSError, RuntimeError, ValueError) as error:
        return str(error)
    return None


# ------------------------------------------------------------------ figures
def capped(image: np.ndarray, reference: np.ndarray) -> float:
    return min(psnr(image, reference), MAX_PSNR)


def aligned_psnr(image: np.ndarray, sharp: np.ndarray) -> float:
    """PSNR of the luminance at the best shift, the border dropped."""
    image, sharp = (picture @ LUMINANCE if picture.ndim == 3 else picture for picture in (image, sharp))
    _, _, shifted, inner = align(image, sharp, border=ALIGN_BORDER)
    return capped(shifted, inner)


def figures(case: FaceCase, outcome: Outcome) -> Row:
    """What is measured of one outcome. A figure that makes no sense for the case is None."""
    image, kernel = np.asarray(outcome[0], np.float64), outcome[1]
    row: Row = {
        "psnr": capped(image, case.sharp),
        "ssim": ssim(image, case.sharp, channel_axis=case.channel_axis),
        "aligned": aligned_psnr(image, case.sharp),
        "to_input": capped(image, case.blurred),
        "similarity": None if kernel is None or case.is_sharp else kernel_similarity(kernel, case.kernel),
    }
    return row


def evaluated(
    case: FaceCase, methods: Mapping[str, Method], keep_images: bool = False
) -> tuple[list[Row], dict[str, np.ndarray]]:
    """A row of each method, with its gains over the blurred picture; and the images, if asked for."""
    before, rows, images = figures(case, blurred(case)), [], {}
    nothing_to_gain = case.is_sharp and case.noise_sigma == 0
    for name, method in methods.items():
        begin = time.process_time()
        outcome = method(case)
        seconds = None if method is blurred or isinstance(method, Cached) else time.process_time() - begin
        row = before | {"to_input": None} if method is blurred else figures(case, outcome)
        gains = {"gain": row["psnr"] - before["psnr"], "aligned_gain": row["aligned"] - before["aligned"]}
        if method is blurred or nothing_to_gain:
            gains = dict.fromkeys(gains)
        about = {"name": case.name, "method": name, "picture": case.picture, "group": case.group}
        rows.append(about | row | gains | {"cpu_seconds": seconds})
        if keep_images:
            images[name] = np.asarray(outcome[0], np.float32)
    return rows, images


def evaluate(
    cases: Iterable[FaceCase], methods: Mapping[str, Method], jobs: int = 0, identity: Any = None
) -> list[Row]:
    """Rows of all cases and methods; with an `Identity`, also whether it recognizes the faces, and their distance."""
    rows: list[Row] = []
    waiting: dict[str, list[tuple[Row, np.ndarray]]] = {name: [] for name in methods}
    for rows_of_case, images in parallel(
        partial(evaluated, methods=methods, keep_images=identity is not None), cases, jobs
    ):
        rows += rows_of_case
        for row in rows_of_case if identity is not None else ():
            waiting[row["method"]].append((row, images[row["method"]]))
            if len(waiting[row["method"]]) == RECOGNITION_FACES:
                recognize(waiting[row["method"]], identity)
                waiting[row["method"]].clear()
    for remaining in waiting.values():
        recognize(remaining, identity)
    return rows


def recognize(faces: Sequence[tuple[Row, np.ndarray]], identity: Any) -> None:
    """Add `recognized`, `distance` and `features` to the rows of restored faces."""
    if not faces:
        return
    index = {file.stem: number for number, file in enumerate(identity.files)}
    images = np.stack([image for _, image in faces]).transpose(0, 3, 1, 2)
    result = identity.measure(images, [index[row["picture"]] for row, _ in faces])
    values = zip(faces, result.recognized, result.distance, result.features, strict=True)
    for (row, _), recognized, distance, features in values:
        row |= {"recognized": bool(recognized), "distance": float(distance), "features": float(features)}


def make_identity(data: Path, cache: Path, weights: Path | None) -> Any:
    """The yardstick of identity.

    Raises
    ------
    ImportError
        There is none, or dlib's weights are missing.
    """
    # By its name, as `restore`.
    return importlib.import_module("bench.identity").Identity(data / "faces", cache / "identity", weights)


# ------------------------------------------------------------------ times
def times(data: Path, methods: Mapping[str, Method], device: str) -> list[Row]:
    """Median seconds for a picture on the wall (on CUDA between events, pictures and results there), and of the CPU."""
    from gpudeblur.networks.bridge import torch_module

    from .device import Cpu, Cuda

    machine, torch, rows = Cuda() if device == "cuda" else Cpu(), torch_module(), []
    timer = time.perf_counter if device == "cpu" else machine.timer
    threads_before = torch.get_num_threads()
    for shape in TIMES_SHAPES:
        picture = time_picture(data, shape)
        for stack in STACKS:
            for threads in (1, 2)[: 1 if device == "cuda" else len(os.sched_getaffinity(0))]:
                torch.set_num_threads(threads)
                for name, method in methods.items():
                    call = time_call(method, picture, stack, machine)
                    if call is None or (threads > 1 and not isinstance(method, Restore)):
                        continue  # MAP has one thread, and a stack takes it as long as its pictures
                    for _ in range(machine.warm_up):
                        call()
                    clocks = (timer, time.process_time)
                    seconds = []
                    for _ in range(REPEATS):
                        begin = [clock() for clock in clocks]
                        call()
                        seconds.append([(clock() - b) / stack for clock, b in zip(clocks, begin, strict=True)])
                    wall, cpu = np.median(seconds, axis=0).tolist()
                    group = f"{shape[0]} x {shape[1]}, {stack} at once, {threads} thread{'s' * (threads > 1)}"
                    rows.append({"method": name, "group": group, "seconds": wall, "cpu_seconds": cpu})
    torch.set_num_threads(threads_before)
    return rows


def time_picture(data: Path, shape: tuple[int, int]) -> FaceCase:
    """A face resized to `shape`, blurred by 13 px."""
    from skimage.transform import resize

    sharp = resize(color_picture(faces(data, False, 1)[0]), shape, order=3)
    kernel = own_kernel("time", 13, 0)
    return blurred_case("time", sharp, kernel, group="", picture="", mode="same")


def time_call(method: Method, case: FaceCase, stack: int, machine: Any) -> Callable[[], Any] | None:
    """What is timed; None where it is not."""
    if isinstance(method, Restore):
        pictures = machine.put(np.stack([case.blurred] * stack).astype(np.float32))
        return partial(method.restore, pictures if stack > 1 else pictures[0], -1)
    if stack > 1 or method is blurred:
        return None
    return partial(method.method if isinstance(method, Cached) else method, case)


# ------------------------------------------------------------------ command
def weights_file(text: str) -> tuple[str, Path]:
    name, equals, path = text.partition("=")
    if not equals or not Path(path).is_file():
        raise argparse.ArgumentTypeError(f"must be NAME=FILE with a file that exists, got {text!r}")
    return name, Path(path)


def chosen_methods(parser: argparse.ArgumentParser, args: argparse.Namespace) -> dict[str, Method]:
    """Those that are named, else those that can run."""
    methods = all_methods(dict(args.weights), args.cache, args.device)
    if unknown := [name for name in args.methods or () if name not in methods]:
        parser.error(f"no method {unknown[0]!r}; there are {', '.join(methods)}")
    for name in args.methods or list(methods):
        reason = why_not(methods[name]) if isinstance(methods[name], Restore) else None
        if reason is not None and args.methods:
            parser.error(f"method {name!r} cannot run: {reason}")
        if reason is not None:
            print(f"left out: {name}: {reason}", flush=True)
            del methods[name]
    return {name: method for name, method in methods.items() if not args.methods or name in args.methods}


def main(argv: Sequence[str] | None = None) -> None:
    parser = arguments(__doc__, "data", "jobs", "device", "no-record")
    parser.prog = "python -m bench networks faces"
    parser.add_argument("--sets", nargs="+", choices=[*SETS, "H"], help="all that can run by default")
    parser.add_argument("--methods", nargs="+", help="all that can run by default")
    parser.add_argument("--limit", type=int, help="pictures of each set, at even distances")
    parser.add_argument("--choose", action="store_true", help="pictures to choose and to fit by, not those for reports")
    parser.add_argument("--weights", type=weights_file, action="append", default=[], metavar="NAME=FILE",
                        help="weights of a network other than the package's; may be repeated")  # fmt: skip
    parser.add_argument("--cache", type=Path, help="folder for outcomes of MAP and the true kernel, and for embeddings")
    parser.add_argument("--identity-weights", type=Path, help="dlib's file, if not the installed package's")
    parser.add_argument("--sheet", action="store_true", help="write results/faces_NETWORK.jpg, and no figures")
    args = parser.parse_args(argv)
    excluded = NOT_TO_CHOOSE_BY if args.choose else ()
    if named := [name for name in args.sets or () if name in excluded]:
        parser.error(f"set {named[0]} has no pictures to choose by; leave out --choose, or the set")
    sets = args.sets or [name for name in (*SETS, "H") if name not in excluded]
    for name in sets:  # before hours of work: what is missing
        if name in SETS and next(SETS[name](args.data, args.choose, 1), None) is None:
            parser.error(f"no cases of set {name} under {args.data}")
    methods = chosen_methods(parser, args)
    if args.sheet:
        write_sheets(args, methods)
        return
    identity = None
    if "G" in sets:
        try:
            if args.cache is None:
                raise ValueError("--cache must name a folder for the embeddings of set G")
            identity = make_identity(args.data, args.cache, args.identity_weights)
        except (ImportError, OSError, ValueError) as error:
            if args.sets:
                parser.error(f"set G cannot run: {error}")
            print(f"left out: set G: {error}", flush=True)
            sets.remove("G")
    for name in sets:
        if name == "H":
            rows = times(args.data, methods, args.device)
        else:
            cases = SETS[name](args.data, args.choose, args.limit)
            jobs = 0 if args.device == "cuda" else args.jobs  # a device is used from this process alone
            rows = evaluate(cases, methods, jobs, identity if name == "G" else None)
        lines = totals(name, rows)
        print_table(name, [*lines, *papers_of(name)])
        about = {"kind": "faces", "set": name, **settings(args, "choose", "limit", "device")}
        for line in () if args.no_record else lines:
            record("networks", about | weights_of(methods[line["method"]]) | line)


def weights_of(method: Method) -> Row:
    """Which weights a figure is of, where they are not the package's."""
    if not isinstance(method, Restore) or method.weights is None:
        return {}
    return {"weights": method.weights.name, "sha256": hashlib.sha256(method.weights.read_bytes()).hexdigest()}


def write_sheets(args: argparse.Namespace, methods: Mapping[str, Method]) -> None:
    """A page for each network with its automatic strength: faces of set A, as many of each kernel side."""
    cases = list(SETS["A"](args.data, args.choose, SHEET_FACES))
    sides = sorted({case.kernel.shape[0] for case in cases})
    pictures = sorted({case.picture for case in cases})
    side_of = {picture: sides[number * len(sides) // len(pictures)] for number, picture in enumerate(pictures)}
    cases = [case for case in cases if case.kernel.shape[0] == side_of[case.picture]]
    for name, method in methods.items():
        if isinstance(method, Restore) and not name.endswith(FULL):
            results_folder().mkdir(parents=True, exist_ok=True)
            path = results_folder() / f"faces_{name}.jpg"
            path.write_bytes(sheet([(case, *method(case)) for case in cases]))
            print(f"{path.name}: {path.stat().st_size / 1000:.0f} kB", flush=True)
