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
DIMENSIONS = SIDE * SIDE - 1  # a patch's mean is no matter of the mixture
FILE = Path(__file__).with_name("mixture.npz")
# SHA-256 of the file; what it is and how it was made, mixture.md says.
CHECKSUM = "c38ed1a2f9cd88aa25221d3933c3ab5beb68f1f4e990a4677ebfdce59374ed0c"
# Nats by which a component, simplified for a noise, may differ from itself. With 0.1 and 1 the restored photographs
# have the same PSNR to 0.02 dB; all directions would cost two to six times as much.
TOLERANCE = 0.3
COLUMNS = 64  # patches at a time on NumPy: their projections, 1 MB at most, stay in the cache


@dataclass(frozen=True, eq=False)
class Mixture:
    """sum_k shares_k N(0, V_k diag(values_k) V_k^T) of patches less their mean.

    Attributes
    ----------
    shares : (K,) float64, sum 1.
    values : (K, 63) float64, positive, falling: the variances along
    vectors : (K, 63, 64) float64, orthonormal rows, each of sum 0.
    """

    shares: np.ndarray
    values: np.ndarray
    vectors: np.ndarray


class NoisyMixture(NamedTuple):
    """The mixture plus white noise of variance s, each component with its leading directions only.

    log(shares_k N(y; 0, C_k + s)) = constant_k - tail_k |y|^2 / 2 + sum_{j of k} (w_j y)^2 / 2, up to one number.
    """

    noise: float
    constant: np.ndarray  # (K, 1)
    tail: np.ndarray  # (K, 1)
    directions: np.ndarray  # (R, 64), the w_j of all components, one component after the other
    starts: np.ndarray  # (K + 1,), where those of each begin


def write(path: Path, mixture: Mixture) -> str:
    """Write what `read` reads, the same bytes each time; returns their SHA-256."""
    np.savez(
        path,
        shares=mixture.shares.astype(np.float32),
        values=mixture.values.astype(np.float32),
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
        Its SHA-256 is another than `checksum`, or what is in it is no mixture.
    """
    content = path.read_bytes()
    found = hashlib.sha256(content).hexdigest()
    if found != checksum:
        raise ValueError(f"{path} must have the SHA-256 {checksum}, got {found}; install the package again")
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
    """The one that comes with the package."""
    return read(FILE, CHECKSUM)


@functools.lru_cache(maxsize=16)
def with_noise(mixture: Mixture, noise: float, dtype: np.dtype, tolerance: float = TOLERANCE) -> NoisyMixture:
    """The mixture under noise of variance `noise`, on the host.

    A component keeps its r leading directions; over the others its variance becomes their mean (plus noise) t. Of all
    such simplifications this is the nearest (Tipping & Bishop 1999), and a Gaussian of d dimensions is then

        KL = ((d - r) log t - sum_{j > r} log(v_j + s)) / 2

    nats from itself; r is the smallest for which these are at most `tolerance`, and at least 1.
    """
    variance = mixture.values + noise
    logs, left = np.log(variance), np.arange(DIMENSIONS, 0, -1)
    mean = np.cumsum(variance[:, ::-1], axis=1)[:, ::-1] / left  # of the variances from j on
    divergence = (left * np.log(mean) - np.cumsum(logs[:, ::-1], axis=1)[:, ::-1]) / 2
    divergence[:, -1] = 0  # but for rounding
    rank = np.maximum(np.argmax(divergence <= tolerance, axis=1), 1)
    keep = np.arange(DIMENSIONS) < rank[:, None]
    tail = mean[np.arange(len(rank)), rank]
    volume = np.where(keep, logs, 0).sum(axis=1) + (DIMENSIONS - rank) * np.log(tail)
    length = np.sqrt(np.maximum(1 / tail[:, None] - 1 / variance, 0))
    return NoisyMixture(
        noise,
        (np.log(mixture.shares) - volume / 2)[:, None].astype(dtype),
        (1 / tail)[:, None].astype(dtype),
        (mixture.vectors[keep] * length[keep][:, None]).astype(dtype),
        np.concatenate([[0], np.cumsum(rank)]),
    )


def map_estimate(y: Array, at: NoisyMixture) -> Array:
    """argmin_z |z - y|^2 / (2 s) - log N(z; 0, C_k), k the component that is most probable for y: its Wiener filter.

    z = C_k (C_k + s)^-1 y (Zoran & Weiss 2011, section 4.2), by the projections w y alone:
    z = (1 - s tail_k) y + s sum_{j of k} w_j (w_j y).

    Parameters
    ----------
    y : (64, n), patches less their mean; overwritten.
    """
    return _on_host(y, at) if array_module(y) is np else _dense(y, at)


def _on_host(y: np.ndarray, at: NoisyMixture) -> np.ndarray:
    """The patches sorted by component, and a small product for each: the filter costs little beside the choice."""
    choice = np.empty(y.shape[1], np.intp)
    for begin in range(0, y.shape[1], COLUMNS):
        some = y[:, begin : begin + COLUMNS]
        squares = at.directions @ some
        np.square(squares, out=squares)
        scores = np.add.reduceat(squares, at.starts[:-1], axis=0)
        scores -= at.tail * np.einsum("dn,dn->n", some, some)
        scores += 2 * at.constant
        choice[begin : begin + COLUMNS] = scores.argmax(axis=0)
    order = np.argsort(choice, kind="stable")
    ends = np.searchsorted(choice[order], np.arange(len(at.tail) + 1))
    ordered = y[:, order]
    for k in np.flatnonzero(np.diff(ends)):
        block, w = ordered[:, ends[k] : ends[k + 1]], at.directions[at.starts[k] : at.starts[k + 1]]
        kept = w.T @ (w @ block)
        kept *= at.noise
        block *= 1 - at.noise * at.tail[k]
        block += kept
    y[:, order] = ordered
    return y


def _dense(y: Array, at: NoisyMixture) -> Array:
    """All products for all patches, and those of other components times 0: twice the work, nothing to wait for."""
    xp: Any = array_module(y)
    owner = np.repeat(np.arange(len(at.tail)), np.diff(at.starts))
    member = xp.asarray((owner == np.arange(len(at.tail))[:, None]).astype(y.dtype))
    directions, tail = xp.asarray(at.directions), xp.asarray(at.tail)
    projections = directions @ y
    scores = member @ (projections * projections)
    scores -= tail * (y * y).sum(axis=0)
    scores += 2 * xp.asarray(at.constant)
    choice = scores.argmax(axis=0)
    projections *= xp.asarray(owner)[:, None] == choice
    kept = directions.T @ projections
    y *= 1 - at.noise * tail[:, 0][choice]
    y += at.noise * kept
    return y
