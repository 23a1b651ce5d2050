"""Trains the prior of method "epll": a Gaussian mixture of photographs' patches, by expectation maximisation.

    python -m bench.training.epll --data DATA [--out PATH]

Patches of 8 x 8 from the 200 photographs of BSDS500 (train), Rec. 709 luma of the values as stored in [0, 1], each less
its mean; half of them turned, mirrored or both. All means are zero, as those of the patches are: no component stands
for a patch or for its negative, so the mixture is one of covariances. (This is why scikit-learn's is not taken: it has
no mixture without means.) Prints the mean log-likelihood of a patch after each pass, in nats, and that of patches of
BSDS500 (val), and writes what `nonblind.methods.mixture.read` reads. One seed, one thread, one NumPy: one file.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from scipy.linalg import eigh

from bench.cases import gray_picture
from bench.evaluate import arguments
from gpudeblur.nonblind.methods.mixture import SIDE, Mixture, write

COMPONENTS, PATCHES, PASSES = 64, 400_000, 40
RIDGE = 1e-6  # added to the covariances, the square of 0.001: an 8-bit step is noise of 0.0011
CHUNK = 1 << 13
LEAST = 1e-3  # a smaller share of a patch in a component does not count


def patches_of(paths: list[Path], count: int, rng: np.random.Generator) -> np.ndarray:
    """`count` patches (count, 64) float32 at random places, each less its mean."""
    found = []
    for number, path in enumerate(paths):
        picture = gray_picture(path).astype(np.float32)
        share = count * (number + 1) // len(paths) - count * number // len(paths)
        rows, columns = (rng.integers(0, side - SIDE + 1, share) for side in picture.shape)
        windows = np.lib.stride_tricks.sliding_window_view(picture, (SIDE, SIDE))
        some = windows[rows, columns]
        some[: share // 2] = some[: share // 2, ::-1]
        some[share // 4 : 3 * share // 4] = some[share // 4 : 3 * share // 4].swapaxes(1, 2)
        found.append(some.reshape(share, -1))
    y = np.concatenate(found)
    y -= y.mean(axis=1, keepdims=True)
    return y[rng.permutation(len(y))]


def without_mean() -> np.ndarray:
    """(64, 63): an orthonormal basis of the patches whose mean is zero, by frequency (the cosine transform's)."""
    n = np.arange(SIDE)
    one = np.cos(np.pi * (n[:, None] + 0.5) * n / SIDE) * np.where(n, 2 / SIDE, 1 / SIDE) ** 0.5
    return np.kron(one, one)[:, 1:].astype(np.float32)


def start(y: np.ndarray, components: int, rng: np.random.Generator) -> np.ndarray:
    """Covariances (K, D, D) that are each half a patch's direction, half that of all, as large as the patch."""
    whole = np.cov(y[:50000].T, bias=True).astype(np.float64)
    whole /= np.trace(whole)
    some = y[rng.choice(len(y), components, replace=False)].astype(np.float64)
    energy = (some**2).sum(axis=1)[:, None, None] + 1e-4
    return 0.5 * some[:, :, None] * some[:, None, :] + energy * whole


def scores_of(y: np.ndarray, shares: np.ndarray, covariances: np.ndarray) -> np.ndarray:
    """(n, K): log shares_k + log N(y; 0, covariances_k)."""
    out = np.empty((len(y), len(shares)), np.float32)
    values, vectors = np.linalg.eigh(covariances)
    whiten = (vectors / np.sqrt(values[:, None, :])).astype(np.float32)
    constant = np.log(shares) - 0.5 * (np.log(values).sum(axis=1) + y.shape[1] * np.log(2 * np.pi))
    white = np.empty_like(y)
    for k in range(len(shares)):
        np.matmul(y, whiten[k], out=white)
        out[:, k] = constant[k] - 0.5 * np.einsum("nd,nd->n", white, white)
    return out


def improved(y: np.ndarray, shares: np.ndarray, covariances: np.ndarray) -> tuple[np.ndarray, np.ndarray, float]:
    """One pass over all patches: new shares, new covariances, and the log-likelihood of the old ones."""
    dimensions, total = y.shape[1], 0.0
    mass, moments = np.zeros(len(shares)), np.zeros(covariances.shape)
    for begin in range(0, len(y), CHUNK):
        part = y[begin : begin + CHUNK]
        scores = scores_of(part, shares, covariances)
        top = scores.max(axis=1, keepdims=True)
        np.exp(scores - top, out=scores)
        norm = scores.sum(axis=1, keepdims=True)
        total += float((top + np.log(norm)).sum(dtype=np.float64))
        scores /= norm
        mass += scores.sum(axis=0, dtype=np.float64)
        for k in range(len(shares)):
            at = np.flatnonzero(scores[:, k] > LEAST)
            weighted = part[at] * np.sqrt(scores[at, k])[:, None]
            moments[k] += weighted.T @ weighted
    moments /= np.maximum(mass, 1)[:, None, None]
    moments[:, np.arange(dimensions), np.arange(dimensions)] += RIDGE
    return np.maximum(mass, 1) / np.maximum(mass, 1).sum(), moments, total / len(y)


def main() -> None:
    parser = arguments(__doc__, "data")
    parser.add_argument("--out", type=Path, default=Path("mixture.npz"))
    args = parser.parse_args()

    rng, basis = np.random.default_rng(0), without_mean()
    train, val = (sorted((args.data / "natural" / split).glob("*.jpg")) for split in ("train", "val"))
    y, held = patches_of(train, PATCHES, rng) @ basis, patches_of(val, 50000, rng) @ basis
    shares, covariances = np.full(COMPONENTS, 1 / COMPONENTS), start(y, COMPONENTS, rng)
    for number in range(1, PASSES + 1):
        part = y[:100000] if number <= PASSES // 2 else y  # the first passes need not see all
        shares, covariances, before = improved(part, shares, covariances)
        print(f"{number:3d} {before:.3f}", flush=True)
    print(f"val {improved(held, shares, covariances)[2]:.3f}")
    order = np.argsort(-shares)
    values, vectors = (np.stack(part)[..., ::-1] for part in zip(*(eigh(covariances[k]) for k in order), strict=True))
    print(write(args.out, Mixture(shares[order], values, (basis @ vectors).swapaxes(1, 2))))


if __name__ == "__main__":
    main()
