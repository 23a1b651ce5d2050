"""Fit the strength: how much of a restoration a cautious result should have, by what the pictures gain from it.

    python bench/strength.py --data DATA [--jobs 2] [--no-record]

Each picture is mixed with its restoration in shares of 0, 0.1 ... 1; each mixture's PSNR is held against that of the
blurred picture. Fitted, by every set alike: the logistic function of the confidence's log odds and the log of the
overshoot whose mixtures gain most, where a loss counts twice and what it is over 0.5 dB six times. Pictures that are
not blurred have no PSNR to lose from; theirs counts from 30 dB, and by 3 dB at most. Fitted to training pictures and
the 28 portraits; Levin's 32 are shown, not fitted to. Prints the constants for gpudeblur/confidence.py and what they
do; results/strength.jsonl.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from cases import Case, face_cases, levin_cases, levin_kernels, low_light_cases, natural_cases, small_face_cases
from confidence import SIZES, one_kernel_each, sharp_cases
from evaluate import arguments, parallel, record
from scipy.optimize import minimize

from gpudeblur.confidence import MOST, TINY, log_odds, overshoot, strength
from gpudeblur.metrics import scores
from gpudeblur.synthesis import trajectory_kernel

SHARES = np.linspace(0, 1, 11)
LOSS, GREAT_LOSS, GREAT = 1.0, 4.0, 0.5  # what a dB of loss counts more than a dB of gain, and more again from 0.5 dB
RIDGE, TURNS = 1e-3, 6
UNBLURRED, MOST_LOST = 1e-3, 3.0  # mean square error that a picture without blur begins with; dB
NOT_FITTED = "Levin (not fitted)"


class Sample(NamedTuple):
    """[1, log odds, log overshoot], the strength now, the gain in dB by SHARES."""

    signals: list[float]
    strength: float
    gains: list[float]


def sample(case: Case) -> Sample:
    import gpudeblur

    blurred = case.blurred.astype(np.float32)
    result = gpudeblur.deblur(blurred, case.kernel.shape, options=gpudeblur.TwoStepOptions(cautious=False))
    trust, beyond = np.asarray(result.info["confidence"]), overshoot(result.image, blurred)
    mixtures = [blurred + np.float32(share) * (result.image - blurred) for share in SHARES]
    if case.kernel.any():
        psnr = np.array([scores(mixture, case.sharp).psnr for mixture in mixtures])
        gains = psnr - psnr[0]
    else:
        gains = np.array([-10 * np.log10(1 + np.mean((mixture - blurred) ** 2) / UNBLURRED) for mixture in mixtures])
        gains = np.maximum(gains, -MOST_LOST)
    signals = [1.0, float(log_odds(trust)), float(np.log(beyond + TINY))]
    return Sample(signals, float(strength(trust, beyond)), list(gains))


def sets(data: Any) -> Iterator[tuple[str, list[Case]]]:
    shaken = [trajectory_kernel(size, rng=1000 + size) for size in SIZES]
    yield "small faces", one_kernel_each(small_face_cases(data, 240, "train"))
    yield "portraits", list(face_cases(data))
    yield "portraits, 1 %", list(face_cases(data, noise=0.01))
    yield "photographs", one_kernel_each(natural_cases(data, levin_kernels(data), 0.0, 32, "train"))
    yield "photographs, 1 %", one_kernel_each(natural_cases(data, shaken, 0.01, 64, "train"))
    yield "photographs, 2 %", one_kernel_each(natural_cases(data, shaken, 0.02, 32, "train"))
    yield "low light", [case for i, case in enumerate(low_light_cases(data, 20, "train")) if i % 4 == i // 4 % 4]
    yield "sharp", list(sharp_cases(data))
    yield NOT_FITTED, list(levin_cases(data))


def gain_at(samples: list[Sample], shares: np.ndarray) -> np.ndarray:
    """dB of each picture at its share, between those measured."""
    return np.array([np.interp(share, SHARES, one.gains) for one, share in zip(samples, shares, strict=True)])


def worth(gains: np.ndarray) -> np.ndarray:
    return gains - LOSS * np.maximum(-gains, 0) - GREAT_LOSS * np.maximum(-GREAT - gains, 0)


def fit(samples: dict[str, list[Sample]]) -> np.ndarray:
    """The three constants; every set counts the same, however many pictures it has."""
    tables = {name: np.array([one.signals for one in some]) for name, some in samples.items() if name != NOT_FITTED}
    spread = np.concatenate(list(tables.values())).std(axis=0)
    spread[0] = 1

    def loss(slopes: np.ndarray) -> float:
        total = sum(worth(gain_at(samples[name], share_of(x / spread @ slopes))).mean() for name, x in tables.items())
        return -total / len(tables) + RIDGE * (slopes[1:] ** 2).sum()

    starts = np.array([1.5, 1, -1]) * (1 + 0.5 * np.random.default_rng(0).normal(size=(TURNS, 3)))
    found = [minimize(loss, start, method="Powell", options={"maxiter": 20000}) for start in starts]
    return min(found, key=lambda one: one.fun).x / spread


def share_of(score: np.ndarray) -> np.ndarray:
    return np.minimum(1, MOST / (1 + np.exp(-np.clip(score, -30, 30))))


def main() -> None:
    args = arguments(__doc__, "data", "jobs", "no-record").parse_args()
    samples: dict[str, list[Sample]] = {}
    for name, cases in sets(args.data):
        samples[name] = list(parallel(sample, cases, args.jobs))
        print(f"{name}: {len(cases)} pictures", flush=True)
    constants = fit(samples)
    print("CONSTANT, OF_ODDS, OF_OVERSHOOT =", ", ".join(f"{w:.2f}" for w in constants))
    line: dict[str, Any] = {"fitted": [round(float(w), 2) for w in constants]}
    print("| set | all of it: mean, worst dB | strength now | fitted | best share of each |\n|---|---|---|---|---|")
    for name, some in samples.items():
        fitted = share_of(np.array([one.signals for one in some]) @ constants)
        now = np.array([one.strength for one in some])
        columns = [gain_at(some, shares) for shares in (np.ones(len(some)), now, fitted)]
        columns.append(np.array([max(one.gains) for one in some]))
        line[name] = [[round(float(column.mean()), 3), round(float(column.min()), 3)] for column in columns]
        print(f"| {name} | " + " | ".join(f"{mean:+.2f}, {worst:+.2f}" for mean, worst in line[name]) + " |")
    if not args.no_record:
        record("strength", line)


if __name__ == "__main__":
    main()
