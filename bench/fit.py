"""Fits the constants of gpudeblur's confidence and strength.

    python -m bench fit confidence --data DATA [--jobs 2]
    python -m bench fit strength --data DATA [--jobs 2]
    python -m bench fit mixture|networks --data DATA [--jobs 2]

mixture and networks: see `bench.fit_faces`.

confidence: the signals of blurred and of sharp pictures against "error ratio <= 2", a logistic function. Where a
picture is not blurred (training photographs, scikit-image's textures, white noise), no kernel is a success. The kernel
of a picture with a defect is judged on the picture without it.

strength: how much of a restoration the result should have, by what the pictures gain from it. Each picture is
mixed with its restoration in shares of 0, 0.1 ... 1; each mixture's PSNR is held against that of the blurred picture.
Fitted is the logistic function of the confidence's log odds and of the logs of ringing and change whose mixtures gain
most; a loss counts twice, and what it is over 0.5 dB six times. Pictures that are not blurred have no PSNR to lose
from; theirs counts from 30 dB, and by 3 dB at most.

Fitted to portraits, training photographs with and without defects, faces, pages and night scenes (`common_sets`).
Every set counts the same. Levin's 32 pictures are shown, not fitted to, nor is anything that quality.py takes but the
portraits. Prints the constants and what they do; a line goes to results/confidence.jsonl or results/strength.jsonl.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import skimage.data
from scipy.optimize import minimize

import gpudeblur
from gpudeblur.blind.confidence import (
    BLEND_SCALE,
    OFFSET,
    blend_weight,
    log_odds,
    small_image_factor,
)
from gpudeblur.blind.parts import RESULT_SIGNALS
from gpudeblur.metrics import scores
from gpudeblur.nonblind.final import restore
from gpudeblur.synthesis import trajectory_kernel

from .cases import (
    Case,
    drawn_page,
    face_cases,
    gray_picture,
    levin_cases,
    levin_kernels,
    low_light_cases,
    make_case,
    natural_cases,
    photographs,
    small_face_cases,
)
from .defect_cases import DefectCase, as_clean, defect_cases
from .evaluate import arguments, evaluation, parallel, record, roc_area

TEXTURES = ("brick", "grass", "gravel", "page", "text", "camera", "coins", "moon")
SIZES = (15, 19, 23, 27, 31, 35, 41, 51)
NOT_FITTED = "Levin (not fitted)"
CONFIDENCE_RIDGE = 2e-3  # on the slopes, so that a separable set has an answer
# Kinds of `defect_cases` in one set, and how many of each.
DEFECT_SETS = {
    "overlays": ("time stamp", "strip", "watermark", "logo", "subtitle"),
    "lines and pixels": ("dead lines", "hot pixels"),
    "borders": ("letterbox", "frame"),
    "frames": ("torn", "interlaced", "banding"),
    "dim": ("dim",),
}
PER_DEFECT = 10
SHARES = np.linspace(0, 1, 11)
LOSS, GREAT_LOSS, GREAT = 1.0, 4.0, 0.5  # what a dB of loss counts more than a dB of gain, and more again from 0.5 dB
STRENGTH_RIDGE, TURNS = 1e-3, 6
UNBLURRED, MOST_LOST = 1e-3, 3.0  # mean square error that a picture without blur begins with; dB
FONTS = (
    ("DejaVuSans-Oblique", 20, True),
    ("DejaVuSerif-Bold", 24, False),
    ("cmr10", 26, True),
    ("STIXGeneralItalic", 30, False),
    ("DejaVuSansMono-Oblique", 17, True),
    ("cmss10", 22, False),
    ("cmtt10", 18, True),
    ("STIXGeneralBolIta", 36, False),
)


def sharp_cases(data: Path) -> Iterator[Case]:
    """Pictures without blur; `kernel` only says which size to ask for."""

    def case(name: str, picture: np.ndarray, size: int) -> Case:
        return Case(name, picture, picture, np.zeros((size, size)), 0.0)

    for i, path in enumerate(photographs(data, "train")[::9]):
        yield case(f"sharp_{path.stem}", gray_picture(path)[:300, :400], (15, 25, 35)[i % 3])
    for name in TEXTURES:
        for size in (15, 25):
            yield case(f"sharp_{name}_{size}", getattr(skimage.data, name)()[:256, :256] / 255, size)
    for seed in range(4):
        yield case(f"noise_{seed}", np.random.default_rng(seed).random((200, 200)), 25)


def one_kernel_each(cases: Iterable[Case]) -> list[Case]:
    """The first picture with the first kernel, the second with the second, ... of pictures with 8 kernels each."""
    return [case for i, case in enumerate(cases) if i % 8 == i // 8 % 8]


def signals(case: Case) -> tuple[np.ndarray, list[float]]:
    """The kernel, and [border mass, spectral match, gradient gain, agreement, confidence]."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of defects and dim pictures
        result = gpudeblur.deblur(case.blurred, case.kernel.shape, final=None)
    names = ("border_mass", "spectral_match", "gradient_gain", "agreement", "confidence")
    info: dict[str, Any] = dict(result.info)
    return result.kernel, [float(info[name]) for name in names]


def features(rows: np.ndarray) -> np.ndarray:
    """What the logistic function sees, in the order of the constants of `gpudeblur.blind.confidence`."""
    border, match, gain, agreement = rows[:, :4].T
    return np.stack([np.ones(len(rows)), np.log(border + 0.01), match, np.log(gain + 0.01), agreement], axis=1)


def common_sets(data: Path, faces: int, noisy: int, noisier: int) -> dict[str, list[Case]]:
    """Pictures of what both fits see; so many small faces, photographs with 1 % noise and with 2 %."""
    shaken, measured = [trajectory_kernel(size, rng=1000 + size) for size in SIZES], levin_kernels(data)
    kernels = [*measured, *shaken]
    night = [case for i, case in enumerate(low_light_cases(data, 20, "train")) if i % 4 == i // 4 % 4]
    short = [kernel for kernel in kernels if len(kernel) <= 31]
    defects: dict[str, list[Case]] = {
        name: list(defect_cases(data, short, PER_DEFECT, "train", kinds)) for name, kinds in DEFECT_SETS.items()
    }
    return {
        "small faces": one_kernel_each(small_face_cases(data, faces, "train")),
        "portraits": list(face_cases(data)),
        "portraits, 1 %": list(face_cases(data, noise=0.01)),
        "photographs": one_kernel_each(natural_cases(data, measured, 0.0, 32, "train")),
        "photographs, 1 %": one_kernel_each(natural_cases(data, shaken, 0.01, noisy, "train")),
        "photographs, 2 %": one_kernel_each(natural_cases(data, shaken, 0.02, noisier, "train")),
        "sharp": list(sharp_cases(data)),
        "pages": list(pages(kernels)),
        "low light": night,
        **defects,
        NOT_FITTED: list(levin_cases(data)),
    }


def fit_confidence(data: Path, jobs: int) -> dict[str, Any]:
    sets, line = common_sets(data, 64, 32, 16), dict[str, Any]()
    rows: dict[str, np.ndarray] = {}
    success: dict[str, np.ndarray] = {}
    for name, cases in sets.items():
        outcomes = list(parallel(signals, cases, jobs))
        rows[name] = np.array([values for _, values in outcomes])
        judges = (as_clean(case) if isinstance(case, DefectCase) else case for case in cases)
        pairs = zip(judges, (kernel for kernel, _ in outcomes), strict=True)
        judged = parallel(evaluation, pairs if name != "sharp" else (), jobs)
        success[name] = np.array([row["er"] <= 2 for row in judged] or [False] * len(cases))
        confident = int((rows[name][:, -1] > 0.5).sum())
        line[name] = {"n": len(cases), "successes": int(success[name].sum()), "confident": confident}
        print(f"{name}: {line[name]}", flush=True)

    line |= confidence_constants(rows, success)
    return line


def confidence_constants(rows: dict[str, np.ndarray], success: dict[str, np.ndarray]) -> dict[str, Any]:
    """The fit to `signals` of each set, and what it does; every set counts the same."""
    fitted = [name for name in rows if name != NOT_FITTED]

    def together(table: dict[str, np.ndarray], names: Sequence[str]) -> np.ndarray:
        return np.concatenate([table[name] for name in names])

    x, right = features(together(rows, fitted)), together(success, fitted)
    count = np.concatenate([np.full(len(rows[name]), 1 / len(rows[name])) for name in fitted])
    count /= len(fitted)
    spread = x[:, 1:].std(axis=0)

    def loss(weights: np.ndarray) -> float:
        misses = np.logaddexp(0, -np.where(right, 1, -1) * (x @ weights))
        return float(count @ misses + CONFIDENCE_RIDGE * ((weights[1:] * spread) ** 2).sum())

    weights = minimize(loss, np.zeros(x.shape[1])).x
    line: dict[str, Any] = {"fitted": [round(float(w), 2) for w in weights]}
    for label, names in (("fitted", fitted), ("levin", [NOT_FITTED] if NOT_FITTED in rows else [])):
        if names:
            odds, correct = features(together(rows, names)) @ weights, together(success, names)
            confident = odds > np.log(0.6 / 0.4)
            line[f"auc_{label}"] = roc_area(odds, correct)
            line[f"auc_before_{label}"] = roc_area(together(rows, names)[:, -1], correct)
            line[f"wrong_over_0.6_{label}"] = float((confident & ~correct).mean())  # of all
            line[f"right_over_0.6_{label}"] = float(confident[correct].mean())  # of the right ones
    print("INTERCEPT, BORDER, MATCH, GAIN, AGREEMENT =", ", ".join(f"{w:.2f}" for w in weights))
    print({key: round(value, 3) for key, value in line.items() if key != "fitted"})
    return line


class Sample(NamedTuple):
    """[1, log odds, log ringing, log change], what wariness leaves, the strength now, the gain in dB by SHARES."""

    signals: list[float]
    small_factor: float
    strength: float
    gains: list[float]


def sample(case: Case) -> Sample:
    blurred = case.blurred.astype(np.float32)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        result = gpudeblur.deblur(blurred, case.kernel.shape, options=gpudeblur.TwoStepOptions(strength=1.0))
    info: dict[str, Any] = dict(result.info)
    trust, unknowns = np.asarray(info["confidence"]), np.asarray(case.kernel.size / blurred.size)
    ringing, changed, beyond = (np.asarray(info[name]) for name in RESULT_SIGNALS)
    restored = result.image
    if isinstance(case, DefectCase):  # what the kernel does to the picture, wherever the defect is
        blurred = as_clean(case).blurred.astype(np.float32)
        restored = restore(blurred, result.kernel.astype(np.float32), "sparse")
    mixtures = [blurred + np.float32(share) * (restored - blurred) for share in SHARES]
    if case.kernel.any():
        psnr = np.array([scores(mixture, case.sharp).psnr for mixture in mixtures])
        gains = psnr - psnr[0]
    else:
        gains = np.array([-10 * np.log10(1 + np.mean((mixture - blurred) ** 2) / UNBLURRED) for mixture in mixtures])
        gains = np.maximum(gains, -MOST_LOST)
    signals = [1.0, float(log_odds(trust)), float(np.log(ringing + OFFSET)), float(np.log(changed + OFFSET))]
    now = blend_weight(trust, unknowns, ringing, changed, beyond)
    return Sample(signals, float(small_image_factor(trust, unknowns, beyond)), float(now), list(gains))


def pages(kernels: list[np.ndarray]) -> Iterator[Case]:
    for i, (font, size, dark) in enumerate(FONTS):
        page = drawn_page(font, size, dark)
        for j, kernel in enumerate(kernels[(i + shift) % len(kernels)] for shift in (2, 5, 8, 11)):
            noise = 0.01 * ((i // 2 + j) % 2)
            yield make_case(f"{font}_{j}", page, kernel, noise=noise, quantise=True, picture=font)


def strength_sets(data: Path) -> dict[str, list[Case]]:
    sets = common_sets(data, 64, 32, 16)
    del sets["frames"], sets["dim"]  # torn and interlaced, these have no sharp picture; or nothing to gain
    return sets


def gain_at(samples: list[Sample], shares: np.ndarray) -> np.ndarray:
    """dB of each picture at its share, between those measured."""
    return np.array([np.interp(share, SHARES, sample.gains) for sample, share in zip(samples, shares, strict=True)])


def worth(gains: np.ndarray) -> np.ndarray:
    return gains - LOSS * np.maximum(-gains, 0) - GREAT_LOSS * np.maximum(-GREAT - gains, 0)


def strength_constants(samples: dict[str, list[Sample]]) -> np.ndarray:
    """The four constants; every set counts the same, however many pictures it has."""
    fitted = {name: group for name, group in samples.items() if name != NOT_FITTED}
    tables = {name: np.array([sample.signals for sample in group]) for name, group in fitted.items()}
    spread = np.concatenate(list(tables.values())).std(axis=0)
    spread[0] = 1

    def loss(slopes: np.ndarray) -> float:
        total = sum(worth(gain_at(group, shares(group, slopes / spread))).mean() for group in fitted.values())
        return -total / len(fitted) + STRENGTH_RIDGE * (slopes[1:] ** 2).sum()

    starts = np.array([1.5, 2, -1, 0.5]) * (1 + 0.5 * np.random.default_rng(0).normal(size=(TURNS, 4)))
    fits = [minimize(loss, start, method="Powell", options={"maxiter": 20000}) for start in starts]
    return min(fits, key=lambda fit: fit.fun).x / spread


def shares(samples: list[Sample], constants: np.ndarray) -> np.ndarray:
    score = np.array([sample.signals for sample in samples]) @ constants
    left = np.array([sample.small_factor for sample in samples])
    return left * np.minimum(1, BLEND_SCALE / (1 + np.exp(-np.clip(score, -30, 30))))


def fit_strength(data: Path, jobs: int) -> dict[str, Any]:
    samples: dict[str, list[Sample]] = {}
    for name, cases in strength_sets(data).items():
        samples[name] = list(parallel(sample, cases, jobs))
        print(f"{name}: {len(cases)} pictures", flush=True)
    constants = strength_constants(samples)
    print("CONSTANT, OF_ODDS, OF_RINGING, OF_CHANGE =", ", ".join(f"{w:.2f}" for w in constants))
    line: dict[str, Any] = {"fitted": [round(float(w), 2) for w in constants]}
    print("| set | all of it: mean, worst dB | strength now | fitted | best share of each |\n|---|---|---|---|---|")
    for name, group in samples.items():
        fitted = shares(group, constants)
        now = np.array([sample.strength for sample in group])
        columns = [gain_at(group, column) for column in (np.ones(len(group)), now, fitted)]
        columns.append(np.array([max(sample.gains) for sample in group]))
        line[name] = [[round(float(column.mean()), 3), round(float(column.min()), 3)] for column in columns]
        print(f"| {name} | " + " | ".join(f"{mean:+.2f}, {worst:+.2f}" for mean, worst in line[name]) + " |")
    return line


def fit_faces(name: str) -> Callable[[Path, int], dict[str, Any]]:
    """A fit of `fit_faces`, which needs PyTorch."""

    def fit(data: Path, jobs: int) -> dict[str, Any]:
        from . import fit_faces

        return dict(getattr(fit_faces, f"fit_{name}")(data, jobs))

    return fit


FITS = {
    "confidence": fit_confidence,
    "strength": fit_strength,
    "mixture": fit_faces("mixture"),
    "networks": fit_faces("networks"),
}


def main(argv: Sequence[str] | None = None) -> None:
    parser = arguments(__doc__, "data", "jobs", "no-record")
    parser.add_argument("constants", choices=FITS)
    args = parser.parse_args(argv)
    line = FITS[args.constants](args.data, args.jobs)
    if not args.no_record:
        record(args.constants, line)


if __name__ == "__main__":
    main()
