"""Deconvolution with a known kernel: every method, every boundary, three noises.

    python bench/nonblind.py --data DATA [--yardstick PATH/eval_levin.py]
        [--parts levin,edges,noise,clipped,seams,speed]

levin: the 32 pictures of Levin et al. with their true kernels, mean PSNR and SSIM; aligned and scored by the yardstick
script itself where it is given, by `gpudeblur.metrics.scores` else (the same numbers).
edges: 20 photographs of BSDS500 (val), valid-cropped, 8 bit, a kernel each (Levin's eight and two trajectories): PSNR
of the outer 5, 15 and 30 pixels, and of what is further inside than 15, each the mean over the pictures.
noise: the same photographs with 0, 1 and 5 % noise, no option; and fixed weights.
clipped: night scenes (`low_light_cases`, every third) and photographs with lamps of 8 to 120 times full scale, the true
kernel, with `saturation=None` and "auto"; PSNR of the whole picture, and of what is not clipped.
seams: "tv" in tiles of 256 on two pictures of 512 x 1024 and 400 x 1024 with 0.5 % noise against the untiled result:
rms within 16 px of the cuts, and of the outer 32 px of the picture.
speed: seconds of one thread, medians of CPU time; the yardstick's own sparse routine in turns with ours.
Appends to results/nonblind.jsonl.
"""

from __future__ import annotations

import timing  # before NumPy

# isort: split
import importlib.util
import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import skimage
from cases import (
    Case,
    gray_picture,
    levin_cases,
    levin_kernels,
    low_light_cases,
    make_case,
    name_seed,
    quantised,
    spread,
    valid,
)
from evaluate import Row, arguments, record, settings, table

from gpudeblur import deconvolve
from gpudeblur.images.saturation import PLATEAU
from gpudeblur.metrics import psnr, scores
from gpudeblur.nonblind import METHODS
from gpudeblur.nonblind.deconvolve import METHOD_SPECS
from gpudeblur.nonblind.regularization import estimate_weight
from gpudeblur.nonblind.splitting import TV_RULE
from gpudeblur.nonblind.tiles import tiled
from gpudeblur.synthesis import blur, trajectory_kernel

PARTS = ("levin", "edges", "noise", "clipped", "seams", "speed")
CLIPPED = ("tv", "sparse", "hyper-laplacian", "richardson-lucy")
RINGS, CENTRE = (5, 15, 30), 15
NOISES = (0.0, 0.01, 0.05)
LEVINS: dict[str, Any] = {"weight": 0.0068, "reweightings": 2}
FAST: dict[str, Any] = {"weight": 5e-4, "boundary": "liu-jia"}
LEVIN: dict[str, tuple[str, dict[str, Any]]] = {
    "sparse, Levin's weight": ("sparse", LEVINS),
    "sparse": ("sparse", {}),
    "sparse, 30 iterations": ("sparse", {"iterations": 30}),
    "hyper-laplacian, fixed weight, liu-jia": ("hyper-laplacian", FAST),
    "hyper-laplacian": ("hyper-laplacian", {}),
    "hyper-laplacian 1/2": ("hyper-laplacian", {"exponent": 0.5}),
    "hyper-laplacian 0.8": ("hyper-laplacian", {"exponent": 0.8}),
    "tv": ("tv", {}),
    "tv, anisotropic": ("tv", {"isotropic": False}),
    "tv, anisotropic, weight 5e-4, liu-jia": ("tv", {"isotropic": False, "weight": 5e-4, "boundary": "liu-jia"}),
    "tv, weight 4e-4": ("tv", {"weight": 4e-4}),
    "epll": ("epll", {}),
    "l0": ("l0", {}),
    "ringing-suppressed": ("ringing-suppressed", {}),
    "wiener": ("wiener", {}),
    "richardson-lucy": ("richardson-lucy", {}),
}
DEFAULT = "sparse"
EDGES = [
    *((name, {"boundary": mode}) for name in METHODS if name != "sparse" for mode in METHOD_SPECS[name].boundaries),
    ("sparse", {}),
    ("sparse", LEVINS),
]


def restored(case: Case, method: str, options: dict[str, Any]) -> np.ndarray:
    kernel = (case.kernel / case.kernel.sum()).astype(np.float32)
    return METHODS[method](case.blurred.astype(np.float32), kernel, **options)


def yardstick(path: Path) -> Any:
    """The script as a module."""
    spec = importlib.util.spec_from_file_location("eval_levin", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def photographs(folder: Path, noise: float, count: int = 20) -> Iterator[Case]:
    """`count` photographs with one kernel each, 8 bit."""
    kernels = [*levin_kernels(folder), trajectory_kernel(25, rng=5), trajectory_kernel(15, rng=2)]
    paths = spread(sorted((Path(folder) / "natural" / "val").glob("*.jpg")), count)
    for path, kernel in zip(paths, itertools.cycle(kernels), strict=False):
        yield make_case(f"edge_{path.stem}", gray_picture(path), kernel, noise=noise, quantise=True, picture=path.stem)


def levin(data: Path, judge: Callable[[np.ndarray, np.ndarray], dict[str, float]], only: str) -> list[Row]:
    rows = []
    cases = list(levin_cases(data))
    for name, (method, options) in LEVIN.items():
        if only in name:
            found = [judge(restored(case, method, options), case.sharp) for case in cases]
            rows.append({"method": name, **{key: np.mean([f[key] for f in found]) for key in ("psnr", "ssim")}})
    return rows


def in_rings(out: np.ndarray, sharp: np.ndarray) -> Row:
    """PSNR of the frames of `RINGS` pixels, and of the centre."""
    frame = np.minimum(*np.ogrid[: out.shape[0], : out.shape[1]])
    frame = np.minimum(frame, frame[::-1, ::-1])
    found = {f"outer {k}": psnr(out[frame < k], sharp[frame < k]) for k in RINGS}
    return {**found, "centre": psnr(out[frame >= CENTRE], sharp[frame >= CENTRE])}


def edges(data: Path, noise: float, only: str) -> list[Row]:
    rows, cases = [], list(photographs(data, noise))

    def row(name: str, mode: str, weight: str, restore: Callable[[Case], np.ndarray]) -> Row:
        found = [in_rings(restore(case), case.sharp) for case in cases]
        means = {key: float(np.mean([f[key] for f in found])) for key in found[0]}
        gap = means["centre"] - means["outer 15"]
        return {"method": name, "boundary": mode, "weight": weight, "noise": noise, **means, "gap": gap}

    rows.append(row("blurred", "-", "-", lambda case: case.blurred))
    for method, options in EDGES:
        if only in method:
            weight = "fixed" if "weight" in options else "noise"
            mode = options.get("boundary", "unknown")
            rows.append(row(method, mode, weight, lambda case: restored(case, method, options)))  # noqa: B023
    return rows


def noises(data: Path, only: str) -> list[Row]:
    rows = []
    for noise in NOISES:
        cases = list(photographs(data, noise))
        runs: list[tuple[str, str, dict[str, Any]]] = [(name, "noise", {}) for name in METHODS]
        runs += [("sparse", "fixed", LEVINS), ("hyper-laplacian", "fixed", FAST)]
        for method, weight, options in runs:
            if only in method:
                mean = np.mean([psnr(restored(case, method, options), case.sharp) for case in cases])
                blurred = np.mean([psnr(case.blurred, case.sharp) for case in cases])
                row = {"method": method, "weight": weight, "noise": noise, "psnr": mean, "gain": mean - blurred}
                rows.append(row)
    return rows


def lamp_cases(folder: Path, noise: float, count: int = 8) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """(light before the sensor, blurred and unclipped; sharp; kernel): dim photographs with 6 to 15 lamps."""
    kernels = [*levin_kernels(folder), trajectory_kernel(25, rng=5), trajectory_kernel(31, rng=2)]
    for number, path in enumerate(spread(sorted((folder / "natural" / "val").glob("*.jpg")), count)):
        random, scene = np.random.default_rng(name_seed(f"lamps_{path.stem}")), 0.5 * gray_picture(path) ** 1.5
        rows, columns = np.ogrid[: scene.shape[0], : scene.shape[1]]
        for _ in range(random.integers(6, 16)):
            y, x, radius = random.integers(scene.shape[0]), random.integers(scene.shape[1]), random.uniform(0.7, 3)
            inside = (rows - y) ** 2 + (columns - x) ** 2 <= radius**2
            scene = scene + inside * random.uniform(8, 120) / radius**2
        kernel = kernels[number % len(kernels)]
        light = blur(scene, kernel)
        light += noise * random.standard_normal(light.shape)
        yield light, np.minimum(valid(scene, kernel), 1), kernel


def clipping(data: Path, only: str) -> list[Row]:
    """Pictures, kernels and what was not clipped; by method and `saturation`."""
    night = [(case.blurred, case.sharp, case.kernel, case.blurred < PLATEAU) for case in low_light_cases(data)][::3]
    sets = {"night, 1 % noise": night}
    for noise in (0.0, 0.01):
        made = lamp_cases(data, noise)
        sets[f"lamps, {noise:.0%} noise"] = [
            (quantised(light), sharp, kernel, light < 1) for light, sharp, kernel in made
        ]
    rows = []
    for (name, cases), method in itertools.product(sets.items(), CLIPPED):
        if only not in method:
            continue
        for saturation in (None, "auto"):
            found = []
            for blurred, sharp, kernel, seen in cases:
                out = deconvolve(blurred.astype(np.float32), kernel, method=method, saturation=saturation)
                out = np.clip(out, 0, 1)
                found.append((psnr(out, sharp), psnr(out[seen], sharp[seen]), psnr(blurred, sharp)))
            whole, unclipped, before = np.mean(found, axis=0)
            row = {"set": name, "method": method, "saturation": str(saturation), "blurred": before}
            rows.append({**row, "psnr": whole, "unclipped": unclipped})
    return rows


def seams(only: str) -> list[Row]:
    rows = []
    scenes = {
        "camera, astronaut": (skimage.data.camera() / 255, skimage.color.rgb2gray(skimage.data.astronaut())),
        "coffee, moon": (skimage.color.rgb2gray(skimage.data.coffee())[:, :512], skimage.data.moon()[:400] / 255),
    }
    for (name, parts), (side, seed) in itertools.product(scenes.items(), ((19, 1), (25, 5), (25, 7), (35, 2))):
        if only not in "tv":
            continue
        kernel = trajectory_kernel(side, rng=seed).astype(np.float32)
        blurred = blur(np.hstack(parts), kernel.astype(float), noise_sigma=0.005, rng=0).astype(np.float32)
        weight = float(estimate_weight(blurred, kernel, TV_RULE))
        error = (tiled(blurred, kernel, weight=weight, tile=256) - METHODS["tv"](blurred, kernel, weight=weight)) ** 2
        near, border = np.zeros(error.shape, bool), np.ones(error.shape, bool)
        for axis, n in enumerate(error.shape):
            count = -(-n // 256)
            for cut in (n * i // count for i in range(1, count)):
                near[(slice(None),) * axis + (slice(cut - 16, cut + 16),)] = True
        border[32:-32, 32:-32] = False
        found = {"at the cuts": near & ~border, "inside": ~border, "border": border}
        rms = {key: float(np.sqrt(error[where].mean())) for key, where in found.items()}
        rows.append({"picture": name, "kernel": f"{side} px, seed {seed}", **rms})
    return rows


def speed(data: Path, script: Any, seconds: float, only: str) -> list[Row]:
    rows, host = [], timing.Host()
    kernel = trajectory_kernel(25, rng=5).astype(np.float32)
    picture = np.random.default_rng(0).random((512, 512), dtype=np.float32)
    runs: list[tuple[str, dict[str, Any]]] = [(name, {}) for name in METHODS]
    runs += [("hyper-laplacian", FAST), ("sparse", LEVINS)]
    for method, options in runs:
        if only in method:
            timed = host.time(lambda: METHODS[method](picture, kernel, **options), seconds=seconds)  # noqa: B023
            shown = ", ".join(f"{key}={value}" for key, value in options.items())
            rows.append({"method": f"{method}, 512 x 512, {shown}", "seconds": timed.cpu})
    if script is not None and only in "sparse":
        pairs = []
        for case in list(levin_cases(data))[::5]:
            theirs = host.time(lambda: script.deconv_sparse(case.blurred, case.kernel), seconds=0, least=2)  # noqa: B023
            ours = host.time(lambda: restored(case, "sparse", LEVINS), seconds=seconds, least=5)  # noqa: B023
            short = host.time(lambda: restored(case, *LEVIN[DEFAULT]), seconds=seconds, least=5)  # noqa: B023
            pairs.append((theirs.cpu, ours.cpu, short.cpu))
        other, own, less = np.median(pairs, axis=0)
        rows.append({"method": "Levin, the yardstick's routine", "seconds": other})
        for name, column, value in (("sparse, Levin's weight", 1, own), (DEFAULT, 2, less)):
            ratio = np.median([pair[0] / pair[column] for pair in pairs])
            rows.append({"method": f"Levin, {name}: the yardstick takes {ratio:.1f} times as long", "seconds": value})
    return rows


def main() -> None:
    parser = arguments(__doc__, "data", "only", "no-record")
    parser.add_argument("--yardstick", type=Path, help="eval_levin.py")
    parser.add_argument("--parts", default=",".join(PARTS), help="which, separated by commas")
    parser.add_argument("--seconds", type=float, default=2.0, help="for each figure of speed")
    args = parser.parse_args()
    parts = args.parts.split(",")
    if unknown := {*parts} - {*PARTS}:
        parser.error(f"--parts must be among {', '.join(PARTS)}, got {', '.join(sorted(unknown))}")

    script = None if args.yardstick is None else yardstick(args.yardstick)
    judge = script.image_metrics if script else lambda out, sharp: scores(out, sharp)._asdict()
    found: dict[str, list[Row]] = {}
    if "levin" in parts:
        found["levin"] = levin(args.data, judge, args.only)
        print(table(found["levin"], {"method": "", "psnr": ".2f", "ssim": ".4f"}), "\n")
    if "edges" in parts:
        columns = {"method": "", "boundary": "", "weight": "", "noise": "g"}
        columns |= dict.fromkeys([f"outer {k}" for k in RINGS] + ["centre", "gap"], ".2f")
        found["edges"] = []
        for noise in NOISES:
            rows = edges(args.data, noise, args.only)
            print(table(rows, columns), "\n", flush=True)
            found["edges"] += rows
    if "noise" in parts:
        found["noise"] = noises(args.data, args.only)
        columns = {"method": "", "weight": "", "noise": "g", "psnr": ".2f", "gain": "+.2f"}
        print(table(found["noise"], columns), "\n")
    if "clipped" in parts:
        found["clipped"] = clipping(args.data, args.only)
        columns = {"set": "", "method": "", "saturation": "", "blurred": ".2f", "psnr": ".2f", "unclipped": ".2f"}
        print(table(found["clipped"], columns), "\n")
    if "seams" in parts:
        found["seams"] = seams(args.only)
        columns = {"picture": "", "kernel": "", "at the cuts": ".5f", "inside": ".5f", "border": ".5f"}
        print(table(found["seams"], columns), "\n")
    if "speed" in parts:
        found["speed"] = speed(args.data, script, args.seconds, args.only)
        print(table(found["speed"], {"method": "", "seconds": ".3f"}))
    if not args.only and not args.no_record:
        for part, rows in found.items():
            record("nonblind", {**settings(args), "part": part, "yardstick": script is not None, "rows": rows})


if __name__ == "__main__":
    main()
