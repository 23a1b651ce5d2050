"""Fit the strength: how much of a restoration a cautious result should have, by what the pictures gain from it.

    python bench/strength.py --data DATA [--jobs 2] [--no-record]

Each picture is mixed with its restoration in shares of 0, 0.1 ... 1; each mixture's PSNR is held against that of the
blurred picture. Fitted, by every set alike: the logistic function of the confidence's log odds and of the logs of
ringing and change whose mixtures gain most, with the wariness of small pictures as it is; a loss counts twice, and what
it is over 0.5 dB six times. Pictures that are not blurred have no PSNR to lose from; theirs counts from 30 dB, and by
3 dB at most. Fitted to training pictures, pages in fonts that quality.py does not draw, and the 28 portraits; Levin's
32 are shown, not fitted to. Prints the constants for gpudeblur/confidence.py and what they do; results/strength.jsonl.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from cases import (
    Case,
    drawn_page,
    face_cases,
    levin_cases,
    levin_kernels,
    low_light_cases,
    make_case,
    natural_cases,
    small_face_cases,
)
from confidence import SIZES, one_kernel_each, sharp_cases
from evaluate import arguments, parallel, record
from scipy.optimize import minimize

from gpudeblur.blind.confidence import MOST, TINY, blend_weight, log_odds, result_signals, small_image_factor
from gpudeblur.images.saturation import find_saturated
from gpudeblur.metrics import scores
from gpudeblur.synthesis import trajectory_kernel

SHARES = np.linspace(0, 1, 11)
LOSS, GREAT_LOSS, GREAT = 1.0, 4.0, 0.5  # what a dB of loss counts more than a dB of gain, and more again from 0.5 dB
RIDGE, TURNS = 1e-3, 6
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
NOT_FITTED = "Levin (not fitted)"


class Sample(NamedTuple):
    """[1, log odds, log ringing, log change], what wariness leaves, the strength now, the gain in dB by SHARES."""

    signals: list[float]
    wary: float
    strength: float
    gains: list[float]


def sample(case: Case) -> Sample:
    import gpudeblur

    blurred = case.blurred.astype(np.float32)
    result = gpudeblur.deblur(blurred, case.kernel.shape, options=gpudeblur.TwoStepOptions(cautious=False))
    trust, unknowns = np.asarray(result.info["confidence"]), np.asarray(case.kernel.size / blurred.size)
    ringing, changed, beyond = result_signals(result.image, blurred, find_saturated(blurred))
    mixtures = [blurred + np.float32(share) * (result.image - blurred) for share in SHARES]
    if case.kernel.any():
        psnr = np.array([scores(mixture, case.sharp).psnr for mixture in mixtures])
        gains = psnr - psnr[0]
    else:
        gains = np.array([-10 * np.log10(1 + np.mean((mixture - blurred) ** 2) / UNBLURRED) for mixture in mixtures])
        gains = np.maximum(gains, -MOST_LOST)
    signals = [1.0, float(log_odds(trust)), float(np.log(ringing + TINY)), float(np.log(changed + TINY))]
    now = blend_weight(trust, unknowns, ringing, changed, beyond)
    return Sample(signals, float(small_image_factor(unknowns, beyond)), float(now), list(gains))


def pages(kernels: list[np.ndarray]) -> Iterator[Case]:
    for i, (font, size, dark) in enumerate(FONTS):
        page = drawn_page(font, size, dark)
        for j, kernel in enumerate(kernels[(i + shift) % len(kernels)] for shift in (2, 5, 8, 11)):
            noise = 0.01 * ((i // 2 + j) % 2)
            yield make_case(f"{font}_{j}", page, kernel, noise=noise, quantise=True, picture=font)


def sets(data: Any) -> Iterator[tuple[str, list[Case]]]:
    shaken = [trajectory_kernel(size, rng=1000 + size) for size in SIZES]
    yield "small faces", one_kernel_each(small_face_cases(data, 240, "train"))
    yield "portraits", list(face_cases(data))
    yield "portraits, 1 %", list(face_cases(data, noise=0.01))
    yield "photographs", one_kernel_each(natural_cases(data, levin_kernels(data), 0.0, 32, "train"))
    yield "photographs, 1 %", one_kernel_each(natural_cases(data, shaken, 0.01, 64, "train"))
    yield "photographs, 2 %", one_kernel_each(natural_cases(data, shaken, 0.02, 32, "train"))
    yield "pages", list(pages([*levin_kernels(data), *shaken]))
    yield "low light", [case for i, case in enumerate(low_light_cases(data, 20, "train")) if i % 4 == i // 4 % 4]
    yield "sharp", list(sharp_cases(data))
    yield NOT_FITTED, list(levin_cases(data))


def gain_at(samples: list[Sample], shares: np.ndarray) -> np.ndarray:
    """dB of each picture at its share, between those measured."""
    return np.array([np.interp(share, SHARES, one.gains) for one, share in zip(samples, shares, strict=True)])


def worth(gains: np.ndarray) -> np.ndarray:
    return gains - LOSS * np.maximum(-gains, 0) - GREAT_LOSS * np.maximum(-GREAT - gains, 0)


def fit(samples: dict[str, list[Sample]]) -> np.ndarray:
    """The four constants; every set counts the same, however many pictures it has."""
    fitted = {name: some for name, some in samples.items() if name != NOT_FITTED}
    tables = {name: np.array([one.signals for one in some]) for name, some in fitted.items()}
    spread = np.concatenate(list(tables.values())).std(axis=0)
    spread[0] = 1

    def loss(slopes: np.ndarray) -> float:
        total = sum(worth(gain_at(some, shares(some, slopes / spread))).mean() for some in fitted.values())
        return -total / len(fitted) + RIDGE * (slopes[1:] ** 2).sum()

    starts = np.array([1.5, 2, -1, 0.5]) * (1 + 0.5 * np.random.default_rng(0).normal(size=(TURNS, 4)))
    found = [minimize(loss, start, method="Powell", options={"maxiter": 20000}) for start in starts]
    return min(found, key=lambda one: one.fun).x / spread


def shares(samples: list[Sample], constants: np.ndarray) -> np.ndarray:
    score = np.array([one.signals for one in samples]) @ constants
    left = np.array([one.wary for one in samples])
    return left * np.minimum(1, MOST / (1 + np.exp(-np.clip(score, -30, 30))))


def main() -> None:
    args = arguments(__doc__, "data", "jobs", "no-record").parse_args()
    samples: dict[str, list[Sample]] = {}
    for name, cases in sets(args.data):
        samples[name] = list(parallel(sample, cases, args.jobs))
        print(f"{name}: {len(cases)} pictures", flush=True)
    constants = fit(samples)
    print("CONSTANT, OF_ODDS, OF_RINGING, OF_CHANGE =", ", ".join(f"{w:.2f}" for w in constants))
    line: dict[str, Any] = {"fitted": [round(float(w), 2) for w in constants]}
    print("| set | all of it: mean, worst dB | strength now | fitted | best share of each |\n|---|---|---|---|---|")
    for name, some in samples.items():
        fitted = shares(some, constants)
        now = np.array([one.strength for one in some])
        columns = [gain_at(some, given) for given in (np.ones(len(some)), now, fitted)]
        columns.append(np.array([max(one.gains) for one in some]))
        line[name] = [[round(float(column.mean()), 3), round(float(column.min()), 3)] for column in columns]
        print(f"| {name} | " + " | ".join(f"{mean:+.2f}, {worst:+.2f}" for mean, worst in line[name]) + " |")
    if not args.no_record:
        record("strength", line)


if __name__ == "__main__":
    main()
