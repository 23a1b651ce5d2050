"""Deconvolution with a known kernel: every method, every boundary, three noises.

    python -m bench deconvolution --data DATA [--yardstick eval_levin.py] [--parts levin,edges,noise,...]

levin: the 32 pictures of Levin et al. with their true kernels, mean PSNR and SSIM; aligned and scored by the yardstick
script itself where it is given, by `gpudeblur.metrics.scores` else (the same numbers).
edges: 20 photographs of BSDS500 (val), valid-cropped, 8 bit, a kernel each (Levin's eight and two trajectories): PSNR
of the outer 5, 15 and 30 pixels, and of what is further inside than 15, each the mean over the pictures.
noise: the same photographs with 0, 1 and 5 % noise, no option; and fixed weights.
clipped: night scenes (`low_light_cases`, every third) and photographs with lamps of 8 to 120 times full scale, the true
kernel, with `saturation=None` and "auto"; PSNR of the whole picture, and of what is not clipped.
seams: "tv" in tiles of 256 on two pictures of 512 x 1024 and 400 x 1024 with 0.5 % noise against the untiled result:
rms within 16 px of the cuts, and of the outer 32 px of the picture.
peers: three photographs of 255 x 255, valid-cropped. scikit-image's Richardson-Lucy and Wiener filters get what is best
on this very picture and no user knows: the setting, and whether they see the picture alone or wrapped smoothly by
`boundary.wrap`, as ours have it inside; ours run as they are. Times are those of `python -m bench speed`.

Each part is appended to results/deconvolution.jsonl.
"""

from __future__ import annotations

import functools
import importlib.util
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import skimage

from gpudeblur import deconvolve
from gpudeblur.images.saturation import PLATEAU
from gpudeblur.metrics import psnr, scores
from gpudeblur.nonblind import METHODS
from gpudeblur.nonblind.deconvolve import METHOD_SPECS
from gpudeblur.nonblind.regularization import estimate_weight
from gpudeblur.nonblind.tiles import tiled
from gpudeblur.numerics.boundary import crop, pad_liu_jia
from gpudeblur.synthesis import blur, trajectory_kernel

from .cases import (
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
from .evaluate import Row, arguments, record, table

CLIPPED = ("tv", "sparse", "hyper-laplacian", "richardson-lucy")
RINGS, CENTRE = (5, 15, 30), 15
NOISES = (0.0, 0.01, 0.05)
LEVINS: dict[str, Any] = {"weight": 0.0068, "reweightings": 2}
FAST: dict[str, Any] = {"weight": 5e-4, "boundary": "liu-jia"}
LEVIN: dict[str, tuple[str, dict[str, Any]]] = {
    **{name: (name, {}) for name in METHODS},
    "sparse, Levin's weight": ("sparse", LEVINS),
    "hyper-laplacian, fixed weight, liu-jia": ("hyper-laplacian", FAST),
    "hyper-laplacian 1/2": ("hyper-laplacian", {"exponent": 0.5}),
}
EDGES: list[tuple[str, dict[str, Any]]] = [
    *((name, {"boundary": mode}) for name in METHODS if name != "sparse" for mode in METHOD_SPECS[name].boundaries),
    ("sparse", {}),
    ("sparse", LEVINS),
]
PEERS = {"richardson_lucy": ("num_iter", (10, 30, 100)), "wiener": ("balance", (1e-3, 1e-2, 1e-1, 1.0))}


def restored(case: Case, method: str, options: dict[str, Any]) -> np.ndarray:
    kernel = (case.kernel / case.kernel.sum()).astype(np.float32)
    return METHODS[method](case.blurred.astype(np.float32), kernel, **options)


def means(rows: Iterable[Row]) -> Row:
    """Of each figure."""
    rows = list(rows)
    return {key: float(np.mean([row[key] for row in rows])) for key in rows[0]}


def photographs(folder: Path, noise: float, count: int = 20) -> Iterator[Case]:
    """`count` photographs with one kernel each, 8 bit."""
    kernels = [*levin_kernels(folder), trajectory_kernel(25, rng=5), trajectory_kernel(15, rng=2)]
    paths = spread(sorted((Path(folder) / "natural" / "val").glob("*.jpg")), count)
    for path, kernel in zip(paths, itertools.cycle(kernels), strict=False):
        yield make_case(f"edge_{path.stem}", gray_picture(path), kernel, noise=noise, quantise=True, picture=path.stem)


def levin(data: Path, only: str, yardstick: Path | None) -> Iterator[Row]:
    cases = list(levin_cases(data))

    def judge(out: np.ndarray, sharp: np.ndarray) -> Row:
        return scores(out, sharp)._asdict()

    if yardstick is not None:
        spec = importlib.util.spec_from_file_location("eval_levin", yardstick)
        assert spec is not None
        assert spec.loader is not None
        script = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(script)
        judge = script.image_metrics
    for name, (method, options) in LEVIN.items():
        if only in name:
            figures = means(judge(restored(case, method, options), case.sharp) for case in cases)
            yield {"method": name, "psnr": figures["psnr"], "ssim": figures["ssim"]}


def in_rings(out: np.ndarray, sharp: np.ndarray) -> Row:
    """PSNR of the frames of `RINGS` pixels, and of the centre."""
    frame = np.minimum(*np.ogrid[: out.shape[0], : out.shape[1]])
    frame = np.minimum(frame, frame[::-1, ::-1])
    rings = {f"outer {k}": psnr(out[frame < k], sharp[frame < k]) for k in RINGS}
    return {**rings, "centre": psnr(out[frame >= CENTRE], sharp[frame >= CENTRE])}


def edges(data: Path, only: str, _: Path | None) -> Iterator[Row]:
    for noise in NOISES:
        cases = list(photographs(data, noise))
        for method, options in [("blurred", {"boundary": "-"}), *EDGES]:
            if only not in method:
                continue
            pictures = (case.blurred if method == "blurred" else restored(case, method, options) for case in cases)
            row = means(in_rings(picture, case.sharp) for picture, case in zip(pictures, cases, strict=True))
            about = {"boundary": options.get("boundary", "unknown"), "weight": options.get("weight", "noise")}
            yield {"method": method, **about, "noise": noise, **row, "gap": row["centre"] - row["outer 15"]}


def noises(data: Path, only: str, _: Path | None) -> Iterator[Row]:
    runs: list[tuple[str, dict[str, Any]]] = [(name, {}) for name in METHODS]
    for noise in NOISES:
        cases = list(photographs(data, noise))
        for method, options in [*runs, ("sparse", LEVINS), ("hyper-laplacian", FAST)]:
            if only in method:
                mean = np.mean([psnr(restored(case, method, options), case.sharp) for case in cases])
                gain = mean - np.mean([psnr(case.blurred, case.sharp) for case in cases])
                weight = options.get("weight", "noise")
                yield {"method": method, "weight": weight, "noise": noise, "psnr": mean, "gain": gain}


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


def clipping(data: Path, only: str, _: Path | None) -> Iterator[Row]:
    """By set, method and `saturation`."""
    night = [(case.blurred, case.sharp, case.kernel, case.blurred < PLATEAU) for case in low_light_cases(data)][::3]
    sets = {"night, 1 % noise": night}
    for noise in (0.0, 0.01):
        scenes = lamp_cases(data, noise)
        sets[f"lamps, {noise:.0%} noise"] = [(quantised(light), sharp, k, light < 1) for light, sharp, k in scenes]
    for (name, cases), method in itertools.product(sets.items(), [method for method in CLIPPED if only in method]):
        for saturation in (None, "auto"):
            rows = []
            for blurred, sharp, kernel, inside in cases:
                out = deconvolve(blurred.astype(np.float32), kernel, method=method, saturation=saturation).clip(0, 1)
                unclipped = psnr(out[inside], sharp[inside])
                rows.append({"blurred": psnr(blurred, sharp), "psnr": psnr(out, sharp), "unclipped": unclipped})
            yield {"set": name, "method": method, "saturation": str(saturation), **means(rows)}


def seams(_: Path, only: str, __: Path | None) -> Iterator[Row]:
    scenes = {
        "camera, astronaut": (skimage.data.camera() / 255, skimage.color.rgb2gray(skimage.data.astronaut())),
        "coffee, moon": (skimage.color.rgb2gray(skimage.data.coffee())[:, :512], skimage.data.moon()[:400] / 255),
    }
    for (name, parts), (side, seed) in itertools.product(scenes.items(), ((19, 1), (25, 5), (25, 7), (35, 2))):
        if only not in "tv":
            continue
        kernel = trajectory_kernel(side, rng=seed).astype(np.float32)
        blurred = blur(np.hstack(parts), kernel.astype(float), noise_sigma=0.005, rng=0).astype(np.float32)
        weight = float(estimate_weight(blurred, kernel, "tv"))
        error = (tiled(blurred, kernel, weight=weight, tile=256) - METHODS["tv"](blurred, kernel, weight=weight)) ** 2
        near, border = np.zeros(error.shape, bool), np.ones(error.shape, bool)
        for axis, n in enumerate(error.shape):
            count = -(-n // 256)
            for cut in (n * i // count for i in range(1, count)):
                near[(slice(None),) * axis + (slice(cut - 16, cut + 16),)] = True
        border[32:-32, 32:-32] = False
        places = {"at the cuts": near & ~border, "inside": ~border, "border": border}
        rms = {key: float(np.sqrt(error[where].mean())) for key, where in places.items()}
        yield {"picture": name, "kernel": f"{side} px, seed {seed}", **rms}


def peer_cases() -> Iterator[Case]:
    """Three photographs with kernels of 15, 25 and 31 px, without noise and with 1 %."""
    for name, top, left, size in (("camera", 60, 150, 15), ("brick", 100, 100, 25), ("coins", 20, 40, 31)):
        side = 255 + size - 1
        sharp = getattr(skimage.data, name)()[top : top + side, left : left + side] / 255
        for noise in (0.0, 0.01):
            yield make_case(f"{name}_k{size}_{noise:.0%}", sharp, trajectory_kernel(size, rng=size), noise=noise)


def on_wrapped(filter: Callable[..., np.ndarray], blurred: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    whole = pad_liu_jia(blurred, (kernel.shape[0] - 1, kernel.shape[1] - 1))
    return crop(filter(whole, kernel), blurred.shape)


def peers(_: Path, only: str, __: Path | None) -> Iterator[Row]:
    """The best setting of each peer on each picture, and ours."""
    for case in peer_cases():
        blurred, kernel = case.blurred.astype(np.float32), case.kernel.astype(np.float32)
        rows: list[Row] = []

        def judge(method: str, setting: str, out: np.ndarray, rows: list[Row] = rows, case: Case = case) -> None:
            psnr = scores(out, case.sharp).psnr
            rows.append({"case": case.name, "method": method, "setting": setting, "psnr": psnr})

        for name, (key, values) in PEERS.items():
            for value in values if only in f"skimage {name}" else ():
                filter = functools.partial(getattr(skimage.restoration, name), clip=False, **{key: value})
                judge(f"skimage {name}", f"{key} {value:g}", filter(blurred, kernel))
                judge(f"skimage {name}", f"{key} {value:g}, wrapped", on_wrapped(filter, blurred, kernel))
        for method in ("tv", "hyper-laplacian", "sparse"):
            if only in f"gpudeblur {method}":
                judge(f"gpudeblur {method}", "as it is", deconvolve(blurred, kernel, method=method))
        for method in dict.fromkeys(row["method"] for row in rows):
            yield max((row for row in rows if row["method"] == method), key=lambda row: row["psnr"])


PARTS: dict[str, tuple[Callable[[Path, str, Path | None], Iterator[Row]], dict[str, str]]] = {
    "levin": (levin, {"method": "", "psnr": ".2f", "ssim": ".4f"}),
    "edges": (
        edges,
        {"method": "", "boundary": "", "weight": "", "noise": "g"}
        | dict.fromkeys([f"outer {k}" for k in RINGS] + ["centre", "gap"], ".2f"),
    ),
    "noise": (noises, {"method": "", "weight": "", "noise": "g", "psnr": ".2f", "gain": "+.2f"}),
    "clipped": (
        clipping,
        {"set": "", "method": "", "saturation": "", "blurred": ".2f", "psnr": ".2f", "unclipped": ".2f"},
    ),
    "seams": (seams, {"picture": "", "kernel": "", "at the cuts": ".5f", "inside": ".5f", "border": ".5f"}),
    "peers": (peers, {"case": "", "method": "", "setting": "", "psnr": ".2f"}),
}


def main(argv: Sequence[str] | None = None) -> None:
    parser = arguments(__doc__, "data", "only", "no-record")
    parser.add_argument("--yardstick", type=Path, help="eval_levin.py")
    parser.add_argument("--parts", default=",".join(PARTS), help="which, separated by commas")
    args = parser.parse_args(argv)
    parts = args.parts.split(",")
    if unknown := {*parts} - {*PARTS}:
        parser.error(f"--parts must be among {', '.join(PARTS)}, got {', '.join(sorted(unknown))}")
    for part in parts:
        measure, columns = PARTS[part]
        rows = list(measure(args.data, args.only, args.yardstick))
        print(table(rows, columns), "\n", flush=True)
        if not args.only and not args.no_record:
            record("deconvolution", {"part": part, "yardstick": args.yardstick is not None, "rows": rows})


if __name__ == "__main__":
    main()
