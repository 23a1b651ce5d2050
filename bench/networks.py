"""The networks: those that restore faces, and the classifier behind the learned prior [Li2018].

    python -m bench networks faces --data DATA ...                             see faces --help
    python -m bench networks accuracy --pictures DIR
    python -m bench networks runtime [--device cuda] [--repeats 1] [--sizes 1]
    python -m bench networks gate --data DATA [--pictures-per-set N]
    python -m bench networks score --data DATA [--pictures-per-set N]

Accuracy and runtime say how well the classifier tells blurred from clear pictures, and what it costs.

accuracy ([Li2018] Fig. 10a): share of clear and blurred pictures classified right, over the factor by which they were
reduced; DIR is the val folder that `python -m bench.training.classifier_data` makes. runtime (Table 2): seconds for the
kernel of 25 px with and without the learned prior, one start and the defaults. Whether the kernels are better is a
question for `python -m bench quality` with a variant that has a "prior" (Fig. 10b).

gate: the share of pictures that restore takes for small faces: the sets A, C, D and F of `faces`, on the faces to
choose by (7501 to 7900); E, photographs of BSDS500 val and pages; scikit-image's textures, sharp and with 2 px of blur.

score: `gpudeblur score` on photographs of BSDS500 val, 8 bit, as they are and with the 8 kernels of `mixed_kernels`:
area under the ROC curve (and that of scikit-image's `blur_effect`), false alarms and misses at 0.5, milliseconds of
processor time, and the rank correlation of the reduction at which a blurred one looks sharp (never: the largest) with
the rms radius of its kernel.

Each appends a line to results/networks.jsonl.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import skimage.data
from scipy.ndimage import center_of_mass, gaussian_filter
from scipy.stats import spearmanr
from skimage.measure import blur_effect

import gpudeblur as gd
from gpudeblur.batch.score import blur_of
from gpudeblur.networks.bridge import torch_module
from gpudeblur.networks.classifier import data, evaluation
from gpudeblur.networks.restore import face_probability

from .cases import Case, blurred_camera, gray_picture, levin_kernels, make_case, mixed_kernels, photographs
from .evaluate import Row, arguments, record, roc_area, settings
from .face_cases import linear_cases, other_cases, own_kernel_cases, portrait_cases, sharp_case, sharp_cases

SCALES = (1.0, 0.7071, 0.5, 0.3536, 0.25, 0.1768, 0.125, 0.0884, 0.0625)  # the paper goes down to 1 / 16
MIN_SIDE = 8  # pixels; smaller pictures are not classified
SHAPES = ((255, 255), (600, 600), (800, 800))
TEXTURES = ("brick", "coins", "grass", "gravel", "moon")  # of scikit-image, in the package
# One start without the smooth prior: objective (4) of the paper and the steps that minimise it.
ALONE: dict[str, Any] = {"starts": ("wide",), "smooth_weight": 0.0}


def accuracy(args: Any) -> list[Row]:
    prior, rows = gd.priors.DiscriminativePrior(weights=args.weights_file), []
    for path in sorted(folder for folder in args.pictures.iterdir() if folder.is_dir()):
        folder = data.load_folder(path)
        side = min(min(picture.shape) for picture in folder.images)
        scales = [scale for scale in SCALES if scale * (side - 51) >= MIN_SIDE]
        for scale, result in evaluation.evaluate(prior.probability, folder, scales=scales).items():
            right = {"clear_right": (result.clear < 0.5).mean(), "blurred_right": (result.blurred > 0.5).mean()}
            row = {"pictures": path.name, "n": 2 * len(folder.images), "scale": scale}
            rows.append({**row, "accuracy": result.accuracy, "ratio": result.ratio, **right})
            print(rows[-1], flush=True)
    return rows


def runtime(args: Any) -> list[Row]:
    rows = []
    torch_module().set_num_threads(2)
    prior = gd.priors.DiscriminativePrior(weights=args.weights_file)
    methods = {
        "one start, L0 alone": gd.TwoStepOptions(**ALONE),
        "one start, learned prior at all scales": gd.TwoStepOptions(**ALONE, prior=prior, finest_prior=True),
        "defaults": gd.TwoStepOptions(),
        "defaults, learned prior": gd.TwoStepOptions(prior=prior),
    }
    for shape in SHAPES[: args.sizes]:
        blurred = blurred_camera(shape, 25)
        for label, options in methods.items():
            seconds = []
            for _ in range(1 + args.repeats):  # the first compiles and loads
                begin, cpu = time.perf_counter(), time.process_time()
                gd.estimate_kernel(blurred, 25, options=options, device=args.device)  # brings the kernels here
                seconds.append((time.perf_counter() - begin, time.process_time() - cpu))
            wall, cpu = np.median(seconds[1:], axis=0).tolist()
            rows.append({"method": label, "picture": shape, "seconds": wall, "cpu_seconds": cpu})
            print(rows[-1], flush=True)
    return rows


def textures() -> Iterator[Case]:
    """Three crops of 109 x 89 pixels of each texture, sharp and blurred."""
    for name in TEXTURES:
        texture = getattr(skimage.data, name)() / 255
        for number in range(3):
            crop = texture[60 * number : 60 * number + 109, 60 * number : 60 * number + 89]
            for sigma, state in ((0, "sharp"), (2, "blurred")):
                blurred = gaussian_filter(crop, sigma)
                yield sharp_case(f"{name}{number}_{state}", blurred, group=f"textures, {state}", picture=name)


def gate(args: Any) -> list[Row]:
    folder, count, rows = args.data, args.pictures_per_set, list[Row]()
    sets = {
        "A": own_kernel_cases(folder, True, count), "C": linear_cases(folder, True, count),
        "D": sharp_cases(folder, True, count), "E": other_cases(folder, False, count),
        "F": portrait_cases(folder, True, count), "textures": textures(),
    }  # fmt: skip
    for name, cases in sets.items():
        groups: dict[str, list[float]] = {}
        for case in cases:
            planes = np.moveaxis(np.atleast_3d(case.blurred), -1, 0)[None].astype(np.float32)
            groups.setdefault(getattr(case, "group", ""), []).append(float(face_probability(planes)[0]))
        for group, values in groups.items():
            faces, mean = float(np.mean(np.array(values) > 0.5)), float(np.mean(values))
            rows.append({"set": name, "group": group, "n": len(values), "faces": faces, "mean": mean})
            print(rows[-1], flush=True)
    return rows


def rms_radius(kernel: np.ndarray) -> float:
    """Pixels, about the kernel's center of mass."""
    places = np.indices(kernel.shape) - np.array(center_of_mass(kernel))[:, None, None]
    return float(np.sqrt((kernel * (places**2).sum(axis=0)).sum() / kernel.sum()))


def score(args: Any) -> list[Row]:
    rows, measured = [], levin_kernels(args.data)
    for noise in (0.0, 0.01):
        figures: list[tuple[float, ...]] = []  # probability, reduction, radius, seconds, blur_effect
        for path in photographs(args.data, "val", args.pictures_per_set or 50):
            sharp, name = gray_picture(path), f"val_{path.stem}"
            for case, kernel in [(f"{name}_clear", np.ones((1, 1))), *mixed_kernels(measured, name)]:
                blurred = make_case(case, sharp, kernel, noise=noise, quantise=True).blurred.astype(np.float32)
                begin = time.process_time()
                probability, reduction = blur_of(blurred, 0.5)
                seconds = time.process_time() - begin
                figures.append((probability, reduction or np.inf, rms_radius(kernel), seconds, blur_effect(blurred)))
        probability, reduction, radius, seconds, effect = np.array(figures).T
        clear = radius == 0
        rows.append({
            "noise": noise, "clear": int(clear.sum()), "blurred": int((~clear).sum()),
            "area": roc_area(probability, ~clear), "area_of_blur_effect": roc_area(effect, ~clear),
            "false_alarms": float((probability[clear] >= 0.5).mean()),
            "misses": float((probability[~clear] < 0.5).mean()), "ms_clear": 1e3 * float(np.median(seconds[clear])),
            "ms_blurred": 1e3 * float(np.median(seconds[~clear])),
            "never_sharp": int(np.isinf(reduction[~clear]).sum()),
            "rank_correlation": float(spearmanr(reduction[~clear], radius[~clear]).statistic),
        })  # fmt: skip
        print(rows[-1], flush=True)
    return rows


def main(argv: Sequence[str] | None = None) -> None:
    argv = sys.argv[1:] if argv is None else argv
    if argv[:1] == ["faces"]:
        from . import faces

        faces.main(argv[1:])
        return
    parser = arguments(__doc__, "device", "no-record")
    parser.add_argument("kind", choices=["accuracy", "runtime", "gate", "score"])
    parser.add_argument("--pictures", type=Path, help="accuracy: folder of folders of clear pictures")
    parser.add_argument("--weights-file", type=Path, help="other weights than the package's")
    parser.add_argument("--repeats", type=int, default=3, help="runtime: the median of so many")
    parser.add_argument("--sizes", type=int, default=len(SHAPES), help="runtime: how many of the sizes")
    parser.add_argument("--data", type=Path, help="gate, score: folder of levin/, natural/, faces_hq/, faces/")
    parser.add_argument("--pictures-per-set", type=int, metavar="N", help="gate, score: so many, not all")
    args = parser.parse_args(argv)
    rows = {"accuracy": accuracy, "runtime": runtime, "gate": gate, "score": score}[args.kind](args)
    if not args.no_record:
        record("networks", {"kind": args.kind, **settings(args, "device", "repeats"), "rows": rows})


if __name__ == "__main__":
    main()
