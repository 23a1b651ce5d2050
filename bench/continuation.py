"""What the continuation buys: quality against transforms, for a list of settings of the alternation.

    python bench/continuation.py --data DATA [--settings default rate-2.8 ...] [--per-picture 2] [--jobs 2]

Each setting runs over the portraits with synthetic shake, BSDS training photographs under the Levin kernels, and some
with 1 % noise; validation photographs and the Levin pictures are not touched, so that settings may be chosen here. Cost
is counted, not timed: "full" is the pixels of all picture-size transforms of a kernel estimation over the pixels of the
finest wrapped grid, "small" the same for the grids of the kernel solver, "passes" and "smooth" those of the latent step
and of its smooth map. Appends one line a setting to results/continuation.jsonl.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import math
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from unittest import mock

for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[_name] = "1"  # read when NumPy loads its BLAS

import numpy as np  # noqa: E402
import scipy.fft  # noqa: E402
from ablation import picture_of  # noqa: E402
from cases import Case, face_cases, levin_kernels, natural_cases  # noqa: E402
from evaluate import evaluate, mean_interval, parallel, record, summary  # noqa: E402
from throughput import count_transforms  # noqa: E402

import gpudeblur  # noqa: E402
from gpudeblur import blind, filters, fourier, latent, pyramid, smooth_prior  # noqa: E402

DEFAULT = gpudeblur.TwoStepOptions()
SETS = ("portraits", "train", "noisy")


# ------------------------------------------------------------------ settings
def fewer(iterations: int, ratio: float = DEFAULT.scale_ratio) -> dict[str, Any]:
    """Fewer latent and kernel steps a scale, or fewer scales, with lambda where it was at the end of each octave."""
    last = max(1, round(DEFAULT.last_iterations * iterations / DEFAULT.iterations))
    steps = math.log(ratio) / math.log(DEFAULT.scale_ratio) * DEFAULT.iterations / iterations
    changed = {} if ratio == DEFAULT.scale_ratio else {"scale_ratio": ratio}
    return {
        "iterations": iterations,
        "gradient_weight_decay": round(DEFAULT.gradient_weight_decay**steps, 4),
        "last_iterations": last,
        "last_decay": round(DEFAULT.last_decay ** (DEFAULT.last_iterations / last), 4),
        **changed,
    }


# What the combinations share.
SHORT = {"beta_max": 10.0, "smooth_weight": 0.0}

# Name -> (fields of TwoStepOptions, arguments of `latent_variant`); those of the second kind are no options yet.
SETTINGS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "default": ({}, {}),
    "rate-2.8": ({"beta_rate": 2.8}, {}),
    "rate-4": ({"beta_rate": 4.0}, {}),
    "rate-8": ({"beta_rate": 8.0}, {}),
    "max-20": ({"beta_max": 20.0}, {}),
    "max-10": ({"beta_max": 10.0}, {}),
    "max-4": ({"beta_max": 4.0}, {}),
    "max-1": ({"beta_max": 1.0}, {}),
    "iterations-6": (fewer(6), {}),
    "iterations-5": (fewer(5), {}),
    "iterations-4": (fewer(4), {}),
    "iterations-3": (fewer(3), {}),
    "solver-20": ({"kernel_iterations": 20}, {}),
    "solver-15": ({"kernel_iterations": 15}, {}),
    "solver-10": ({"kernel_iterations": 10}, {}),
    "ratio-0.6": (fewer(8, 0.6), {}),
    "ratio-0.5": (fewer(8, 0.5), {}),
    "no-smooth": ({"smooth_weight": 0.0}, {}),
    "negligible-0.1": ({}, {"negligible": 0.1}),
    "start-8": ({}, {"first": 8.0}),
    "start-32": ({}, {"first": 32.0}),
    "start-128": ({}, {"first": 128.0}),
    "flat-32": ({}, {"first": 32.0, "flat": True}),
    "flat-128": ({}, {"first": 128.0, "flat": True}),
    "6+max-10": ({**fewer(6), **SHORT}, {}),
    "5+max-10": ({**fewer(5), **SHORT}, {}),
    "4+max-10": ({**fewer(4), **SHORT}, {}),
    "5+max-10+start-8": ({**fewer(5), **SHORT}, {"first": 8.0}),
    "4+max-10+start-8": ({**fewer(4), **SHORT}, {"first": 8.0}),
    "5+max-10+rate-2.8": ({**fewer(5), **SHORT, "beta_rate": 2.8}, {}),
    "5+max-10+solver-20": ({**fewer(5), **SHORT, "kernel_iterations": 20}, {}),
    "8+max-10+solver-20": ({**SHORT, "kernel_iterations": 20}, {}),
    "6+max-10+solver-20": ({**fewer(6), **SHORT, "kernel_iterations": 20}, {}),
    "6+start-8+solver-20": ({**fewer(6), "kernel_iterations": 20}, {"first": 8.0}),
}


def latent_variant(
    blurred: np.ndarray,
    kernel: np.ndarray,
    *,
    first: float = 2.0,
    flat: bool = False,
    negligible: float = latent.NEGLIGIBLE,
    blurred_hat: np.ndarray,
    gradient_weight: float,
    smooth_weight: float,
    smooth_sigma: float,
    smooth_radius: int,
    beta_rate: float,
    beta_max: float,
    work: Any = None,
) -> np.ndarray:
    """`latent_step` with what is not an option of it, and without its buffers.

    Parameters
    ----------
    first : beta starts at this many lambda instead of 2.
    flat : whether the first pass takes all gradients for 0 instead of those of the blurred picture above the threshold.
    negligible : share of beta under which the smooth prior is left out.
    """
    shape = blurred.shape[-2:]
    otf = fourier.psf_to_otf(kernel, shape)
    data, power = otf.conj() * blurred_hat, otf.real**2 + otf.imag**2
    picture, beta = blurred, first * gradient_weight
    while beta < beta_max:
        threshold, weight = gradient_weight / beta, beta
        split = latent.l0_split(picture, np.inf if flat and picture is blurred else threshold)
        if smooth_weight > negligible * beta:
            weight = beta + smooth_weight
            smooth = latent.smooth_map_split(picture, threshold, sigma=smooth_sigma, radius=smooth_radius)
            split += smooth * (smooth_weight / weight)
        solution = filters.spectral_solve(data, fourier.rfft2(split, overwrite=True), power, weight, shape)
        picture = fourier.irfft2(solution, shape, overwrite=True)
        beta *= beta_rate
    return picture


# ------------------------------------------------------------------ cost
@contextlib.contextmanager
def watched(original: Any) -> Iterator[tuple[Any, list[int]]]:
    """A stand-in for a function of a picture (H, W) that notes the pixels of each call."""
    pixels: list[int] = []

    def call(picture: np.ndarray, *arguments: Any, **keywords: Any) -> Any:
        pixels.append(picture.size)
        return original(picture, *arguments, **keywords)

    yield call, pixels


@dataclasses.dataclass(frozen=True)
class Measured:
    """`estimate_kernel` under a setting, as a value that travels to a worker: (kernel, its cost)."""

    options: Mapping[str, Any]
    variant: Mapping[str, Any]

    def __call__(self, case: Case) -> tuple[np.ndarray, dict[str, float]]:
        options = gpudeblur.TwoStepOptions(**self.options)

        def step(*arguments: Any, **keywords: Any) -> np.ndarray:
            return latent_variant(*arguments, **keywords, **self.variant)

        with contextlib.ExitStack() as stack:
            split, passes = stack.enter_context(watched(filters.l0_split))
            smooth_map, maps = stack.enter_context(watched(smooth_prior.smooth_map_split))
            stack.enter_context(mock.patch.object(latent, "l0_split", split))
            stack.enter_context(mock.patch.object(latent, "smooth_map_split", smooth_map))
            if self.variant:
                stack.enter_context(mock.patch.object(blind, "latent_step", step))
            found: list[np.ndarray] = []
            calls = count_transforms(
                scipy.fft,
                lambda: found.append(gpudeblur.estimate_kernel(case.blurred, case.kernel.shape, options=options)),
            )

        picture = case.blurred.shape
        support = pyramid.support_size(case.kernel.shape, picture, options.support_margin)
        scales = pyramid.kernel_sizes(support, ratio=options.scale_ratio, smallest=options.smallest_kernel)
        finest = math.prod(fourier.fast_size(n + k - 1) for n, k in zip(picture, support, strict=True))
        grids = {tuple(fourier.fast_size(2 * k - 1) for k in size) for size, _ in scales}
        work = {"full": 0, "small": 0}
        for (_, shape, _), count in calls.items():
            work["small" if shape[-2:] in grids else "full"] += count * math.prod(shape)
        work |= {"passes": sum(passes), "smooth": sum(maps)}
        cost = {name: pixels / finest for name, pixels in work.items()}
        return np.asarray(found[0], np.float64), {**cost, "calls": calls.total()}


# ------------------------------------------------------------------ the bench
def sets_of(data: Path, per_picture: int, draw: int | None) -> dict[str, list[Case]]:
    """Portraits, 24 training photographs, 12 with 1 % noise; a photograph has one Levin kernel, the next in turn."""
    kernels = levin_kernels(data)

    def in_turn(count: int, noise: float, offset: int) -> list[Case]:
        made = enumerate(natural_cases(data, kernels, noise=noise, count=count, split="train"))
        return [case for i, case in made if i % len(kernels) == (i // len(kernels) + offset) % len(kernels)]

    portraits = list(face_cases(data, per_picture=per_picture))
    return {
        "portraits": portraits if draw is None else portraits[draw::per_picture],
        "train": in_turn(24, 0.0, 0),
        "noisy": in_turn(12, 0.01, 4),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, type=Path, help="folder that holds faces_hq/, natural/ and levin/")
    parser.add_argument("--settings", nargs="*", default=list(SETTINGS), help="names, run in this order; default: all")
    parser.add_argument("--add", type=json.loads, default={}, help='{"name": [options, variant]}: settings to add')
    parser.add_argument("--per-picture", type=int, default=1, help="kernels for each portrait")
    parser.add_argument("--draw", type=int, help="only this kernel of each portrait, from 0")
    parser.add_argument("--sets", nargs="*", default=SETS, choices=SETS)
    parser.add_argument("--cache", type=Path, help="folder that keeps the figures of the true kernels")
    parser.add_argument("--jobs", type=int, default=2, help="processes of one thread each")
    parser.add_argument("--no-record", action="store_true", help="append nothing to bench/results")
    args = parser.parse_args()

    known = {**SETTINGS, **args.add}
    names = [*args.settings, *(name for name in args.add if name not in args.settings)]
    unknown = [name for name in names if name not in known]
    if unknown:
        parser.error(f"no setting {unknown}; there are {', '.join(known)}")
    sets = sets_of(args.data, args.per_picture, args.draw)
    cases = [case for name in args.sets for case in sets[name]]
    if not cases:
        parser.error(f"no pictures under {args.data}")
    groups = [name for name in args.sets for _ in sets[name]]

    print("ER <= 2, <= 3, median ER, mean gain over the blurred picture; last, mean PSNR against the first setting")
    print(f"| setting | full | small | passes | smooth | calls | {' | '.join(args.sets)} | paired, dB [95 %] |")
    print("|---" * (7 + len(args.sets)) + "|", flush=True)
    reference: list[float] = []
    for name in names:
        options, variant = known[name]
        found = list(parallel(Measured(options, variant), cases, args.jobs))
        kernels = [kernel for kernel, _ in found]
        cost = {key: float(np.mean([c[key] for _, c in found])) for key in found[0][1]}
        pairs = list(zip(cases, kernels, strict=True))
        rows = evaluate(pairs, settings={"method": "sparse"}, cache=args.cache, jobs=args.jobs)
        totals = {s: summary([r for r, g in zip(rows, groups, strict=True) if g == s]) for s in args.sets}
        psnr = [row["psnr"] for row in rows]
        reference = reference or psnr
        differences = [a - b for a, b in zip(psnr, reference, strict=True)]
        mean, low, high = mean_interval(differences, [picture_of(case.name) for case in cases])
        figures = " | ".join(
            f"{t['success_2']:.0%} {t['success_3']:.0%} {t['er_median']:.3f} {t['gain_mean']:+.2f}"
            for t in totals.values()
        )
        print(
            f"| {name} | {cost['full']:.0f} | {cost['small']:.1f} | {cost['passes']:.0f} | {cost['smooth']:.0f} "
            f"| {cost['calls']:.0f} | {figures} | {mean:+.3f} [{low:+.3f}, {high:+.3f}] |",
            flush=True,
        )
        if not args.no_record:
            settings = {"setting": name, "options": options, "variant": variant, "against": names[0]}
            settings |= {key: getattr(args, key) for key in ("per_picture", "draw", "sets")}
            er = {group: {} for group in args.sets}
            for row, group in zip(rows, groups, strict=True):
                er[group][row["name"]] = round(row["er"], 4)
            record("continuation", {**settings, "cost": cost, "totals": totals, "paired": [mean, low, high], "er": er})


if __name__ == "__main__":
    main()
