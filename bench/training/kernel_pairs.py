"""Pairs of a blur kernel and its estimate by the blind method, on which the denoiser of "pnp" is trained.

    python -m bench.training.kernel_pairs --data DATA --out PAIRS.npz [--minutes 15]

Crops of 240 x 240 of BSDS500's train (without its last ten photographs) are blurred by kernels of the pool of the
networks, with noise of 0.0005 to 0.03. The estimate is the blind method's with one initialization; pairs with a kernel
similarity under 0.75 are left out, since no restoration saves them. A blind estimate is shifted by a fraction of a
pixel, which a picture cannot tell: the true kernel is moved to where its estimate is.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from scipy import ndimage
from skimage.registration import phase_cross_correlation

import gpudeblur as gd
from gpudeblur.images.kernels import fit_size
from gpudeblur.metrics import kernel_similarity
from gpudeblur.networks.training.data import RestorationConfig, make_kernels
from gpudeblur.synthesis import blur

from ..cases import gray_picture, photographs

CROP, SIDE = 240, 27
WITHHELD = 10  # photographs
NOISE = (0.0005, 0.03)
MIN_SIMILARITY = 0.75
POOL = RestorationConfig(seed=29, pool=2000, kernels=(7, SIDE))
OPTIONS = gd.TwoStepOptions(starts=("wide",))


def pairs(data: Path, seed: int = 0) -> Iterator[tuple[np.ndarray, np.ndarray, float]]:
    """(true kernel, estimate, their similarity) without an end, (27, 27) float32 each."""
    rng, kernels = np.random.default_rng(seed), make_kernels(POOL)[0]
    files = photographs(data, "train", None)[:-WITHHELD]
    while True:
        picture = gray_picture(files[rng.integers(len(files))])
        kernel = kernels[rng.integers(len(kernels))]
        top, left = (int(rng.integers(0, n - CROP - SIDE + 2)) for n in picture.shape)
        scene = picture[top : top + CROP + SIDE - 1, left : left + CROP + SIDE - 1]
        noise = float(np.exp(rng.uniform(*np.log(NOISE))))
        image = blur(scene, kernel, noise_sigma=noise, rng=rng).astype(np.float32)
        filled = np.argwhere(kernel > 0)
        size = int(2 * abs(filled - SIDE // 2).max() + 1)
        estimate = fit_size(gd.estimate_kernel(image, size, options=OPTIONS), (SIDE, SIDE))
        yield moved(kernel, estimate), estimate.astype(np.float32), float(kernel_similarity(estimate, kernel))


def moved(kernel: np.ndarray, target: np.ndarray) -> np.ndarray:
    """A kernel shifted by a fraction of a pixel to where `target` is."""
    shift = phase_cross_correlation(target, kernel, upsample_factor=10, normalization=None)[0]
    result = ndimage.shift(kernel, shift, order=3).clip(0)
    return (result / result.sum()).astype(np.float32)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.training.kernel_pairs", description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=15)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(argv)
    end, true, estimated, count = time.monotonic() + 60 * args.minutes, [], [], 0
    for kernel, estimate, similarity in pairs(args.data, args.seed):
        count += 1
        if similarity >= MIN_SIMILARITY:
            true.append(kernel)
            estimated.append(estimate)
        if time.monotonic() > end:
            break
    np.savez_compressed(args.out, kernels=np.stack(true), estimates=np.stack(estimated))
    print(f"{len(true)} of {count} pairs in {args.out}")


if __name__ == "__main__":
    main()
