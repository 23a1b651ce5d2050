"""Fit the confidence: the signals of blurred and of sharp pictures against "error ratio <= 2".

    python bench/confidence.py --data DATA [--jobs 2] [--no-record]

Fitted to: 28 portraits with a kernel each, without noise and with 1 %, training photographs with Levin's kernels (no
noise) and with trajectories (1 and 2 %), small training faces, and pictures that are not blurred (training photographs,
scikit-image's textures, white noise), where no kernel is a success. Levin's 32 pictures are not fitted to, nor is
anything that bench/quality.py takes but the portraits. Prints the constants for
gpudeblur/confidence.py and the areas under the ROC curve by the constants that are there; results/confidence.jsonl.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from cases import Case, face_cases, gray_picture, levin_cases, levin_kernels, natural_cases, small_face_cases
from evaluate import arguments, evaluate, parallel, record, roc_area
from scipy.optimize import minimize

from gpudeblur.synthesis import trajectory_kernel

TEXTURES = ("brick", "grass", "gravel", "page", "text", "camera", "coins", "moon")
SIZES = (15, 19, 23, 27, 31, 35, 41, 51)
RIDGE = 2e-3  # on the slopes, so that a separable set has an answer


def sharp_cases(data: Path) -> Iterator[Case]:
    """Pictures without blur; `kernel` only says which size to ask for."""
    from skimage import data as shipped

    def case(name: str, picture: np.ndarray, size: int) -> Case:
        return Case(name, picture, picture, np.zeros((size, size)), 0.0, 0)

    paths = sorted((data / "natural" / "train").glob("*.jpg"))[::9]
    for i, path in enumerate(paths):
        yield case(f"sharp_{path.stem}", gray_picture(path)[:300, :400], (15, 25, 35)[i % 3])
    for name in TEXTURES:
        for size in (15, 25):
            yield case(f"sharp_{name}_{size}", getattr(shipped, name)()[:256, :256] / 255, size)
    for seed in range(4):
        yield case(f"noise_{seed}", np.random.default_rng(seed).random((200, 200)), 25)


def one_kernel_each(cases: Iterable[Case]) -> list[Case]:
    """The first picture with the first kernel, the second with the second, ... of pictures with 8 kernels each."""
    return [case for i, case in enumerate(cases) if i % 8 == i // 8 % 8]


def signals(case: Case) -> tuple[np.ndarray, list[float]]:
    """The kernel, and [border mass, spectral match, gradient gain, agreement, sum k^2, confidence]."""
    import gpudeblur

    result = gpudeblur.deblur(case.blurred, case.kernel.shape, final=None)
    names = ("border_mass", "spectral_match", "gradient_gain", "agreement")
    values = [float(result.info[name]) for name in names]
    return result.kernel, [*values, float((result.kernel**2).sum()), float(result.info["confidence"])]


def features(rows: np.ndarray) -> np.ndarray:
    """What the logistic function sees: 1, log(border mass + 0.01), match, log(gradient gain + 0.01), agreement."""
    border, match, gain, agreement = rows[:, :4].T
    return np.stack([np.ones(len(rows)), np.log(border + 0.01), match, np.log(gain + 0.01), agreement], axis=1)


def main() -> None:
    args = arguments(__doc__, "data", "jobs", "cache", "no-record").parse_args()
    shaken = [trajectory_kernel(size, rng=1000 + size) for size in SIZES]
    sets = {
        "portraits": list(face_cases(args.data)),
        "portraits, 1 %": list(face_cases(args.data, noise=0.01)),
        "photographs": one_kernel_each(natural_cases(args.data, levin_kernels(args.data), 0.0, 32, "train")),
        "photographs, 1 %": one_kernel_each(natural_cases(args.data, shaken, 0.01, 32, "train")),
        "photographs, 2 %": one_kernel_each(natural_cases(args.data, shaken, 0.02, 16, "train")),
        "small faces": one_kernel_each(small_face_cases(args.data, 64, "train")),
        "sharp": list(sharp_cases(args.data)),
        "Levin (not fitted)": list(levin_cases(args.data)),
    }
    rows: dict[str, np.ndarray] = {}
    success: dict[str, np.ndarray] = {}
    for name, cases in sets.items():
        found = list(parallel(signals, cases, args.jobs))
        rows[name] = np.array([values for _, values in found])
        if name == "sharp":
            success[name] = np.zeros(len(cases), dtype=bool)
        else:
            pairs = zip(cases, (kernel for kernel, _ in found), strict=True)
            judged = evaluate(pairs, cache=args.cache, jobs=args.jobs)
            success[name] = np.array([row["er"] <= 2 for row in judged])
        shown = rows[name][:, -1]
        print(f"{name}: {success[name].sum()} of {len(cases)} succeed, {(shown > 0.5).sum()} have over 0.5", flush=True)

    fitted = [name for name in sets if "not fitted" not in name]
    blurred = [name for name in fitted if name != "sharp"]

    def together(names: list[str], table: dict[str, np.ndarray]) -> np.ndarray:
        return np.concatenate([table[name] for name in names])

    x, sign = features(together(fitted, rows)), 2 * together(fitted, success) - 1
    share = np.concatenate([np.full(len(rows[name]), 1 / len(rows[name])) for name in fitted]) / len(fitted)

    def loss(weights: np.ndarray) -> float:
        """Every set counts the same, however many pictures it has."""
        return float(share @ np.logaddexp(0, -sign * (x @ weights)) + RIDGE * (weights[1:] ** 2).sum())

    weights = minimize(loss, np.zeros(5)).x
    line: dict[str, Any] = {"fitted": [round(float(w), 2) for w in weights]}
    for label, names in (("fitted_blurred", blurred), ("fitted_all", fitted), ("levin", ["Levin (not fitted)"])):
        line[f"auc_{label}"] = roc_area(together(names, rows)[:, -1], together(names, success))
    for name in sets:
        counts = [len(success[name]), int(success[name].sum()), int((rows[name][:, -1] > 0.5).sum())]
        line[name] = dict(zip(("n", "successes", "confident"), counts, strict=True))
    print("INTERCEPT, BORDER, MATCH, GAIN, AGREEMENT =", ", ".join(f"{w:.2f}" for w in weights))
    print({key: round(value, 3) for key, value in line.items() if key.startswith("auc")})
    if not args.no_record:
        record("confidence", line)


if __name__ == "__main__":
    main()
