"""Deconvolution with a known kernel: every method, boundary and noise, saturated scenes, scikit-image's filters.

    python -m bench deconvolution --data DATA [--yardstick eval_levin.py] [--parts levin,noise,unlike,...]

levin: the 32 pictures of Levin et al. with their true kernels, mean PSNR and SSIM; aligned and scored by the yardstick
script itself where it is given, by `gpudeblur.metrics.scores` else (the same numbers).
noise: 20 photographs of BSDS500 (val), valid-cropped, 8 bit, a kernel each (Levin's eight and two trajectories), with
0, 1 and 5 % noise, no option; and fixed weights.
edges: the same photographs, every boundary of every method: PSNR of the outer 5, 15 and 30 pixels, and of the rest.
unlike: what no photograph of the training is like, true kernels: text pages, night scenes (linear light), drawn
patterns and plain noise, and small faces with 1 % noise, spread evenly; the worst loss of a picture against "tv".
misjudged: 6 of the photographs with 1 and 5 % noise, `noise_sigma` right, half and twice of it.
estimated: kernels as `estimate_kernel` finds them: 12 photographs (0 and 1 % noise in turn), 8 portraits, 8 of Levin's;
PSNR at the best shift, and the worst loss of a picture against "sparse".
saturated: every third night scene (`low_light_cases`) with its true kernel, `saturation` None and "auto": PSNR of the
whole picture, and of what is not saturated.
peers: three photographs of 255 x 255, valid-cropped. scikit-image's Richardson-Lucy and Wiener filters get what is best
on this very picture and no user knows: the setting, and whether they see the picture alone or wrapped smoothly by
`boundary.wrap`, as ours have it inside; ours run as they are. Times are those of `python -m bench speed`.

Each part is appended to results/deconvolution.jsonl.
"""

from __future__ import annotations

import functools
import itertools
import runpy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import skimage

from gpudeblur import deconvolve, estimate_kernel
from gpudeblur.images.saturation import PLATEAU
from gpudeblur.metrics import psnr, scores
from gpudeblur.nonblind import METHODS
from gpudeblur.nonblind.final import FINALS, restore
from gpudeblur.nonblind.specs import METHOD_SPECS
from gpudeblur.numerics.boundary import crop, pad_liu_jia
from gpudeblur.synthesis import trajectory_kernel

from .cases import (
    Case,
    face_cases,
    gray_picture,
    levin_cases,
    levin_kernels,
    low_light_cases,
    make_case,
    photographs,
    small_face_cases,
    spread,
    text_cases,
)
from .evaluate import Row, arguments, record, table

NOISES = (0.0, 0.01, 0.05)
LEVINS: dict[str, Any] = {"weight": 0.0068, "reweightings": 2}
FAST: dict[str, Any] = {"weight": 5e-4, "boundary": "liu-jia"}
PLAIN: dict[str, tuple[str, dict[str, Any]]] = {name: (name, {}) for name in METHODS}
FIXED = {
    "sparse, Levin's weight": ("sparse", LEVINS),
    "hyper-laplacian, fixed weight, liu-jia": ("hyper-laplacian", FAST),
}
LEVIN = PLAIN | FIXED | {"hyper-laplacian 1/2": ("hyper-laplacian", {"exponent": 0.5})}
LEARNED = ("tv", "sparse", "epll", "pnp")  # whose priors are compared, the first two not learned
COUNTS = {"text": 10, "night": 12, "faces": 40, "misjudged": 6, "photographs": 12, "portraits": 8, "levin": 8}
FRAMES = ("outer 5", "outer 15", "outer 30", "center")
PEERS = {"richardson_lucy": ("num_iter", (10, 30, 100)), "wiener": ("balance", (1e-3, 1e-2, 1e-1, 1.0))}


def restored(case: Case, method: str, options: dict[str, Any]) -> np.ndarray:
    kernel = (case.kernel / case.kernel.sum()).astype(np.float32)
    return METHODS[method](case.blurred.astype(np.float32), kernel, **options)


def one_kernel_cases(folder: Path, noise: float, count: int = 20) -> Iterator[Case]:
    """`count` photographs with one kernel each, 8 bit."""
    kernels = [*levin_kernels(folder), trajectory_kernel(25, rng=5), trajectory_kernel(15, rng=2)]
    for path, kernel in zip(photographs(folder, "val", count), itertools.cycle(kernels), strict=False):
        yield make_case(f"edge_{path.stem}", gray_picture(path), kernel, noise=noise, quantise=True, picture=path.stem)


def levin(data: Path, yardstick: Path | None) -> Iterator[Row]:
    cases, judge = list(levin_cases(data)), lambda out, sharp: scores(out, sharp)._asdict()
    if yardstick is not None:
        judge = runpy.run_path(str(yardstick))["image_metrics"]
    for name, (method, options) in LEVIN.items():
        figures = [judge(restored(case, method, options), case.sharp) for case in cases]
        yield {"method": name, **{key: np.mean([row[key] for row in figures]) for key in ("psnr", "ssim")}}


def noises(data: Path, _: Path | None) -> Iterator[Row]:
    for noise in NOISES:
        cases = list(one_kernel_cases(data, noise))
        blurred = np.mean([psnr(case.blurred, case.sharp) for case in cases])
        for name, (method, options) in (PLAIN | FIXED).items():
            mean = np.mean([psnr(restored(case, method, options), case.sharp) for case in cases])
            yield {"method": name, "noise": noise, "psnr": mean, "gain": mean - blurred}


def pattern_cases(folder: Path) -> Iterator[Case]:
    """Stripes, checks, rings and dots of 4 to 20 px, and white noise between 0 and 1; 1 % noise, 8 bit."""
    rows, columns = np.mgrid[:192, :192]
    radius = np.hypot(rows - 96, columns - 96)
    pictures = {
        "stripes": (rows + 2 * columns) // 9 % 2,
        "checks": (rows // 12 + columns // 12) % 2,
        "rings": 0.5 + 0.5 * np.cos(radius / 1.5),
        "dots": np.hypot(rows % 20 - 10, columns % 20 - 10) < 4,
        "noise": np.random.default_rng(0).random((192, 192)),
    }
    for (name, picture), kernel in zip(pictures.items(), levin_kernels(folder), strict=False):
        yield make_case(name, 0.1 + 0.8 * picture, kernel, noise=0.01, quantise=True, picture=name)


def noisy_faces(folder: Path) -> Iterator[Case]:
    """Small faces with 1 % noise."""
    for case in spread([*small_face_cases(folder)], COUNTS["faces"]):
        noise = 0.01 * np.random.default_rng(0).standard_normal(case.blurred.shape)
        yield replace(case, blurred=case.blurred + noise)


def unlike(data: Path, _: Path | None) -> Iterator[Row]:
    sets: dict[str, Iterator[Case]] = {
        "text": iter(spread([*text_cases(data)], COUNTS["text"])),
        "night": iter(spread([*low_light_cases(data)], COUNTS["night"])),
        "patterns": pattern_cases(data),
        "small faces, 1 %": noisy_faces(data),
    }
    for name, cases in sets.items():
        rows = [
            [psnr(deconvolve(case.blurred.astype(np.float32), case.kernel, method=m).clip(0, 1), case.sharp)
             for m in LEARNED]
            for case in cases
        ]  # fmt: skip
        for method, values in zip(LEARNED, np.transpose(rows), strict=True):
            yield {"set": name, "method": method, "psnr": values.mean(), "worst": (values - np.array(rows)[:, 0]).min()}


def misjudged(data: Path, _: Path | None) -> Iterator[Row]:
    for noise in (0.01, 0.05):
        cases = spread([*one_kernel_cases(data, noise)], COUNTS["misjudged"])
        for method in LEARNED:
            row: Row = {"method": method, "noise": noise}
            for factor in (1.0, 0.5, 2.0):
                images = [deconvolve(c.blurred, c.kernel, method=method, noise_sigma=factor * noise) for c in cases]
                row[f"{factor:g}"] = np.mean([psnr(x, c.sharp) for x, c in zip(images, cases, strict=True)])
            yield row


def estimated(data: Path, _: Path | None) -> Iterator[Row]:
    noisy = [*one_kernel_cases(data, 0.0)], [*one_kernel_cases(data, 0.01)]
    sets = {
        "photographs": [noisy[i % 2][j] for i, j in enumerate(spread(range(len(noisy[0])), COUNTS["photographs"]))],
        "portraits": spread([*face_cases(data, quantise=True)], COUNTS["portraits"]),
        "levin": spread([*levin_cases(data)], COUNTS["levin"]),
    }
    for name, cases in sets.items():
        rows = []
        for case in cases:
            blurred = case.blurred.astype(np.float32)
            kernel = estimate_kernel(blurred, max(case.kernel.shape) | 1).astype(np.float32)
            rows.append([scores(restore(blurred, kernel, final), case.sharp).psnr for final in FINALS])
        columns = dict(zip(FINALS, np.transpose(rows), strict=True))
        for final, values in columns.items():
            loss = (values - columns["sparse"]).min()
            yield {"set": name, "method": final, "psnr": values.mean(), "worst": loss}


def in_frames(image: np.ndarray, sharp: np.ndarray) -> dict[str, float]:
    """PSNR of the outer 5, 15 and 30 pixels, and of what is further inside than 15."""
    distance = np.minimum(*np.ogrid[: sharp.shape[0], : sharp.shape[1]])
    distance = np.minimum(distance, distance[::-1, ::-1])
    parts = {f"outer {k}": distance < k for k in (5, 15, 30)} | {"center": distance >= 15}
    return {name: psnr(image[part], sharp[part]) for name, part in parts.items()}


def edges(data: Path, _: Path | None) -> Iterator[Row]:
    runs = [(name, mode) for name in PLAIN for mode in METHOD_SPECS[name].boundaries]
    for noise in NOISES:
        cases = list(one_kernel_cases(data, noise))
        for name, mode in runs:
            options = {"boundary": mode} if len(METHOD_SPECS[name].boundaries) > 1 else {}
            frames = [in_frames(restored(case, name, options), case.sharp) for case in cases]
            means = {key: np.mean([row[key] for row in frames]) for key in frames[0]}
            yield {"method": name, "boundary": mode, "noise": noise, **means}


def saturated(data: Path, _: Path | None) -> Iterator[Row]:
    cases = list(low_light_cases(data))[::3]
    for method, saturation in itertools.product(("tv", "sparse", "hyper-laplacian"), (None, "auto")):
        rows = []
        for case in cases:
            image = deconvolve(case.blurred.astype(np.float32), case.kernel, method=method, saturation=saturation)
            image, exact = image.clip(0, 1), case.blurred < PLATEAU
            rows.append([psnr(image, case.sharp), psnr(image[exact], case.sharp[exact])])
        whole, rest = np.mean(rows, axis=0)
        yield {"method": method, "saturation": str(saturation), "psnr": whole, "unsaturated": rest}


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


def peers(*_: Any) -> Iterator[Row]:
    """The best setting of each peer on each picture, and ours."""
    for case in peer_cases():
        blurred, kernel = case.blurred.astype(np.float32), case.kernel.astype(np.float32)
        for name, (key, values) in PEERS.items():
            found: dict[str, float] = {}
            for value in values:
                filter = functools.partial(getattr(skimage.restoration, name), clip=False, **{key: value})
                found[f"{key} {value:g}"] = scores(filter(blurred, kernel), case.sharp).psnr
                found[f"{key} {value:g}, wrapped"] = scores(on_wrapped(filter, blurred, kernel), case.sharp).psnr
            setting = max(found, key=found.__getitem__)
            yield {"case": case.name, "method": f"skimage {name}", "setting": setting, "psnr": found[setting]}
        for method in ("tv", "hyper-laplacian", "sparse"):
            value = scores(deconvolve(blurred, kernel, method=method), case.sharp).psnr
            yield {"case": case.name, "method": f"gpudeblur {method}", "setting": "as it is", "psnr": value}


PARTS: dict[str, tuple[Callable[[Path, Path | None], Iterator[Row]], dict[str, str]]] = {
    "levin": (levin, {"method": "", "psnr": ".2f", "ssim": ".4f"}),
    "noise": (noises, {"method": "", "noise": "g", "psnr": ".2f", "gain": "+.2f"}),
    "unlike": (unlike, {"set": "", "method": "", "psnr": ".2f", "worst": "+.2f"}),
    "misjudged": (misjudged, {"method": "", "noise": "g", "1": ".2f", "0.5": ".2f", "2": ".2f"}),
    "estimated": (estimated, {"set": "", "method": "", "psnr": ".2f", "worst": "+.2f"}),
    "edges": (edges, {"method": "", "boundary": "", "noise": "g", **dict.fromkeys(FRAMES, ".2f")}),
    "saturated": (saturated, {"method": "", "saturation": "", "psnr": ".2f", "unsaturated": ".2f"}),
    "peers": (peers, {"case": "", "method": "", "setting": "", "psnr": ".2f"}),
}


def main(argv: Sequence[str] | None = None) -> None:
    parser = arguments(__doc__, "data", "yardstick", "no-record")
    parser.add_argument("--parts", type=lambda text: text.split(","), default=list(PARTS), help="with commas")
    args = parser.parse_args(argv)
    if unknown := {*args.parts} - {*PARTS}:
        parser.error(f"--parts must be among {', '.join(PARTS)}, got {', '.join(sorted(unknown))}")
    for part in args.parts:
        measure, columns = PARTS[part]
        rows = list(measure(args.data, args.yardstick))
        print(table(rows, columns), "\n", flush=True)
        if not args.no_record:
            record("deconvolution", {"part": part, "yardstick": args.yardstick is not None, "rows": rows})


if __name__ == "__main__":
    main()
