"""A Gaussian mixture of the patches of photographs: its file, and the most probable patch under noise."""

from __future__ import annotations

import functools
import hashlib
import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ...numerics.arrays import Array, array_module

SIDE = 8
DIMENSIONS = SIDE * SIDE - 1  # patches are taken less their mean
FILE = Path(__file__).with_name("mixture.npz")
# SHA-256 of the file, which mixture.md describes.
CHECKSUM = "c38ed1a2f9cd88aa25221d3933c3ab5beb68f1f4e990a4677ebfdce59374ed0c"
# Allowed divergence, in nats, of a component of reduced rank from the original. With 0.1 and 1 the restored photographs
# have the same PSNR to 0.02 dB; full rank would cost two to six times as much.
RANK_TOLERANCE = 0.3
CHUNK_PATCHES = 64  # at a time on NumPy, so that their projections, 1 MB at most, stay in the cache


@dataclass(frozen=True, eq=False)
class Mixture:
    """sum_k mixing_weights_k N(0, V_k diag(eigenvalues_k) V_k^T) of patches less their mean.

    Attributes
    ----------
    mixing_weights : (K,) float64, sum 1.
    eigenvalues : (K, 63) float64, positive, in descending order: the variances along `vectors`.
    vectors : (K, 63, 64) float64, orthonormal rows, each of sum 0.
    """

    mixing_weights: np.ndarray
    eigenvalues: np.ndarray
    vectors: np.ndarray


class NoisyMixture(NamedTuple):
    """The mixture plus white noise of variance s, each component reduced to its leading directions.

    log(mixing_weights_k N(y; 0, C_k + s)) = constant_k - tail_k |y|^2 / 2 + sum_{j of k} (w_j y)^2 / 2, up to a
    constant that is the same for all k.
    """

    noise: float
    constant: np.ndarray  # (K, 1)
    tail: np.ndarray  # (K, 1)
    directions: np.ndarray  # (R, 64), the w_j of all components, one component after the other
    starts: np.ndarray  # (K + 1,), the index of each component's first direction


def write(path: Path, mixture: Mixture) -> str:
    """Write the file that `read` reads, byte by byte reproducible; returns its SHA-256."""
    np.savez(
        path,
        shares=mixture.mixing_weights.astype(np.float32),
        values=mixture.eigenvalues.astype(np.float32),
        vectors=mixture.vectors.astype(np.float16),  # `read` makes them orthonormal again
    )
    return hashlib.sha256(path.read_bytes()).hexdigest()


def read(path: Path, checksum: str) -> Mixture:
    """The mixture in a file.

    Raises
    ------
    OSError
        There is no such file.
    ValueError
        Its SHA-256 differs from `checksum`, or it does not contain a mixture.
    """
    content = path.read_bytes()
    actual = hashlib.sha256(content).hexdigest()
    if actual != checksum:
        raise ValueError(f"{path} must have the SHA-256 {checksum}, got {actual}; install the package again")
    with np.load(io.BytesIO(content), allow_pickle=False) as file:
        if {*file.files} != {"shares", "values", "vectors"}:
            raise ValueError(f"{path} must hold shares, values and vectors, got {', '.join(sorted(file.files))}")
        shares, values, vectors = (file[name].astype(np.float64) for name in ("shares", "values", "vectors"))
    count = len(shares) if shares.ndim else 0
    expected = [(count,), (count, DIMENSIONS), (count, DIMENSIONS, SIDE * SIDE)]
    if count == 0 or [shares.shape, values.shape, vectors.shape] != expected:
        raise ValueError(
            f"{path} must hold K shares, (K, 63) values and (K, 63, 64) vectors, "
            f"got {shares.shape}, {values.shape}, {vectors.shape}"
        )
    if not all(np.isfinite(a).all() for a in (shares, values, vectors)) or shares.min() <= 0 or values.min() <= 0:
        raise ValueError(f"{path} must hold finite numbers, and positive shares and values")
    vectors -= vectors.mean(axis=-1, keepdims=True)
    vectors = np.linalg.qr(vectors.swapaxes(-1, -2)).Q.swapaxes(-1, -2)
    return Mixture(shares / shares.sum(), values, np.ascontiguousarray(vectors))


@functools.cache
def load_default() -> Mixture:
    """The mixture that comes with the package."""
    return read(FILE, CHECKSUM)


@functools.lru_cache(maxsize=16)
def with_noise(mixture: Mixture, noise: float, dtype: np.dtype, tolerance: float = RANK_TOLERANCE) -> NoisyMixture:
    """The mixture under noise of variance `noise`, on the host.

    A component keeps its r leading directions; along the others its variance (plus noise) becomes their mean t. Of all
    such approximations this is the closest ([Tipping1999]). Its divergence from a Gaussian of d dimensions is

        KL = ((d - r) log t - sum_{j > r} log(v_j + s)) / 2

    nats. r is the smallest rank for which this is at most `tolerance`, and at least 1.
    """
    variance = mixture.eigenvalues + noise
    logs, remaining = np.log(variance), np.arange(DIMENSIONS, 0, -1)
    mean = np.cumsum(variance[:, ::-1], axis=1)[:, ::-1] / remaining  # of the variances from j on
    divergence = (remaining * np.log(mean) - np.cumsum(logs[:, ::-1], axis=1)[:, ::-1]) / 2
    divergence[:, -1] = 0  # exactly
    rank = np.maximum(np.argmax(divergence <= tolerance, axis=1), 1)
    leading = np.arange(DIMENSIONS) < rank[:, None]
    tail = mean[np.arange(len(rank)), rank]
    volume = np.where(leading, logs, 0).sum(axis=1) + (DIMENSIONS - rank) * np.log(tail)
    length = np.sqrt(np.maximum(1 / tail[:, None] - 1 / variance, 0))
    return NoisyMixture(
        noise,
        (np.log(mixture.mixing_weights) - volume / 2)[:, None].astype(dtype),
        (1 / tail)[:, None].astype(dtype),
        (mixture.vectors[leading] * length[leading][:, None]).astype(dtype),
        np.concatenate([[0], np.cumsum(rank)]),
    )


def map_estimate(y: Array, noisy: NoisyMixture) -> Array:
    """argmin_z |z - y|^2 / (2 s) - log N(z; 0, C_k), with k the most probable component of y: its Wiener filter.

    z = C_k (C_k + s)^-1 y ([Zoran2011] section 4.2), from the projections w y alone:
    z = (1 - s tail_k) y + s sum_{j of k} w_j (w_j y).

    Parameters
    ----------
    y : (64, n), patches less their mean; overwritten.
    """
    return _on_host(y, noisy) if array_module(y) is np else _dense(y, noisy)


def _on_host(y: np.ndarray, noisy: NoisyMixture) -> np.ndarray:
    """The patches sorted by component, with one small product each: the filter costs little beside the selection."""
    component = np.empty(y.shape[1], np.intp)
    for begin in range(0, y.shape[1], CHUNK_PATCHES):
        chunk = y[:, begin : begin + CHUNK_PATCHES]
        squares = noisy.directions @ chunk
        np.square(squares, out=squares)
        scores = np.add.reduceat(squares, noisy.starts[:-1], axis=0)
        scores -= noisy.tail * np.einsum("dn,dn->n", chunk, chunk)
        scores += 2 * noisy.constant
        component[begin : begin + CHUNK_PATCHES] = scores.argmax(axis=0)
    order = np.argsort(component, kind="stable")
    ends = np.searchsorted(component[order], np.arange(len(noisy.tail) + 1))
    ordered = y[:, order]
    for k in np.flatnonzero(np.diff(ends)):
        block, w = ordered[:, ends[k] : ends[k + 1]], noisy.directions[noisy.starts[k] : noisy.starts[k + 1]]
        projection = w.T @ (w @ block)
        projection *= noisy.noise
        block *= 1 - noisy.noise * noisy.tail[k]
        block += projection
    y[:, order] = ordered
    return y


def _dense(y: Array, noisy: NoisyMixture) -> Array:
    """All products for all patches, those of other components times 0: twice the work, but no synchronization."""
    xp: Any = array_module(y)
    owner = np.repeat(np.arange(len(noisy.tail)), np.diff(noisy.starts))
    member = xp.asarray((owner == np.arange(len(noisy.tail))[:, None]).astype(y.dtype))
    directions, tail = xp.asarray(noisy.directions), xp.asarray(noisy.tail)
    projections = directions @ y
    scores = member @ (projections * projections)
    scores -= tail * (y * y).sum(axis=0)
    scores += 2 * xp.asarray(noisy.constant)
    component = scores.argmax(axis=0)
    projections *= xp.asarray(owner)[:, None] == component
    y *= 1 - noisy.noise * tail[:, 0][component]
    y += noisy.noise * (directions.T @ projections)
    return y
