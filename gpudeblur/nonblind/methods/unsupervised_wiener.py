"""Wiener deconvolution whose weights are sampled with the image: a Gibbs sampler (Orieux et al. 2010)."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from ...numerics.arrays import Array, array_module
from ...numerics.fourier import Shape, irfftn, rfftn, sum_last_axes
from ...numerics.progress import OnProgress
from .wiener import BOUNDARIES, _squared, kernel_otf, on_grid, prior_power


# ------------------------------------------------------------------ unsupervised
class PosteriorChains(NamedTuple):
    """What the sampler found: the mean of x (..., bins) complex; the precisions of noise and prior, a list of (...)."""

    mean: Array
    noise: list[Any]
    prior: list[Any]


def unsupervised_wiener(
    blurred: Array,
    kernel: Array,
    *,
    prior: str = "laplacian",
    threshold: float = 1e-4,
    burnin: int = 15,
    min_num_iter: int = 30,
    max_num_iter: int = 200,
    rng: Any = None,
    boundary: str = "edge",
    callback: OnProgress | None = None,
) -> Array:
    """E(x | B) with the precisions of the noise and of the prior unknown too, by Gibbs sampling (Orieux et al. 2010).

    In turn, x is drawn given both precisions, an independent Gaussian a frequency, and these given x, from their gamma
    distributions. All pictures of a batch share the random numbers, so that each is as it would be alone.

    Parameters
    ----------
    blurred, kernel, prior : see `wiener`.
    threshold : a picture is done when a sample changes the mean by less than this share.
    burnin, min_num_iter, max_num_iter : samples that do not count; at least, and at most, so many in all.
    rng : `numpy.random.Generator`, seed or None; for CuPy arrays a seed is CuPy's, and it may be CuPy's `Generator`.
    boundary : {"reflect", "edge", "wrap"}; see `wiener`.
    callback : called with the fraction done after each sample.

    Returns
    -------
    (..., H, W), not clipped.

    References
    ----------
    F. Orieux, J.-F. Giovannelli, T. Rodet: Bayesian estimation of regularization and point spread function parameters
    for Wiener-Hunt deconvolution, J. Opt. Soc. Am. A 27 (2010).
    """
    xp = array_module(blurred, kernel)
    if boundary not in BOUNDARIES[1:]:
        raise ValueError(f"boundary must be one of {', '.join(map(repr, BOUNDARIES[1:]))}, got {boundary!r}")
    kernel = kernel.astype(blurred.dtype, copy=False)
    if max_num_iter < burnin + 2:
        raise ValueError(
            f"max_num_iter must be at least burnin + 2, got {max_num_iter} and a burnin of {burnin}; nothing is left "
            "to be averaged"
        )
    data, inside = on_grid(blurred, kernel, boundary)
    grid = data.shape[-2:]
    unit = math.prod(grid) ** -0.5
    normal, gamma = random_streams(rng, xp, blurred.dtype)
    # Both precisions begin at 1: the unit of the picture must not matter.
    scale = blurred.std(axis=(-2, -1), keepdims=True)
    scale = xp.where(scale > 0, scale, 1)
    found = gibbs(
        rfftn(data / scale, 2) * unit,
        kernel_otf(kernel, grid),
        xp.asarray(prior_power(grid, prior, blurred.dtype)),
        math.prod(grid),
        normal=normal,
        gamma=gamma,
        threshold=threshold,
        burnin=burnin,
        min_num_iter=min_num_iter,
        max_num_iter=max_num_iter,
        report=callback,
    )
    return scale * irfftn(found.mean * unit, grid)[inside]


def random_streams(rng: Any, xp: Any, dtype: Any) -> tuple[Callable[[Shape], Array], Callable[[float], Any]]:
    """(shape -> standard normal numbers (2, *shape), a -> one number of the standard gamma distribution).

    The first in the memory of `xp`; for a `rng`, see `unsupervised_wiener`.
    """
    if xp is not np and not isinstance(rng, np.random.Generator):
        generator = rng if isinstance(rng, xp.random.Generator) else xp.random.default_rng(rng)
        return (lambda shape: generator.standard_normal((2, *shape), dtype=dtype)), generator.standard_gamma
    host = np.random.default_rng(rng)
    if dtype == np.float32:
        return (lambda shape: xp.asarray(_box_muller(host, shape))), host.standard_gamma
    return (lambda shape: xp.asarray(host.standard_normal((2, *shape), dtype))), host.standard_gamma


def _box_muller(host: np.random.Generator, shape: Shape) -> np.ndarray:
    """Standard normal float32 (2, *shape), up to 6.8 standard deviations, in a quarter of the generator's own time."""
    # As integers, not raw: not every bit generator has 64 of them.
    bits = host.integers(1 << 64, size=math.prod(shape), dtype=np.uint64).view(np.uint32).reshape(2, *shape)
    out = bits.astype(np.float32)
    radius, angle = out
    radius += 0.5
    radius *= 2.0**-32
    np.log(radius, out=radius)
    radius *= -2
    np.sqrt(radius, out=radius)
    angle *= 2 * math.pi * 2.0**-32
    sine = np.sin(angle)
    np.cos(angle, out=angle)
    angle *= radius
    radius *= sine
    return out


def gibbs(
    spectrum: Array,
    otf: Array,
    penalty: Array,
    pixels: int,
    *,
    normal: Callable[[Shape], Array],
    gamma: Callable[[float], Any],
    threshold: float,
    burnin: int,
    min_num_iter: int,
    max_num_iter: int,
    halved: bool = True,
    sample: Callable[[Array], Any] | None = None,
    report: OnProgress | None = None,
) -> PosteriorChains:
    """The sampler of `unsupervised_wiener` on unitary spectra (..., H, bins).

    The real and the imaginary part are two arrays of real numbers, and the data are turned by the phase of the kernel's
    transfer function, |B - K x| = |B conj(K) / |K| - |K| x|: nothing is left to be multiplied by a complex number.

    Parameters
    ----------
    spectrum, otf, penalty : F B, F k and |F D|^2, the last two for all or one a picture.
    pixels : of the picture.
    normal, gamma : see `draws`; `normal` gives fresh numbers for real and imaginary parts, `gamma` follows, twice.
    halved : whether the spectra are of a real transform, whose other half counts too. (The last column of an even
        width then counts twice, as in scikit-image.)
    sample : called with each x.
    """
    xp, real = array_module(spectrum, otf, penalty), penalty.dtype
    power = _squared(otf)
    gain = xp.sqrt(power)
    turned = spectrum * (otf.conj() / xp.where(gain > 0, gain, 1))
    data = xp.stack([turned.real, turned.imag])
    lead, bins = spectrum.shape[:-2], spectrum.shape[-2:]
    total, work = xp.zeros_like(data), xp.empty_like(data)
    noise: Any = 1.0
    prior: Any = 1.0
    chains: tuple[list[Any], list[Any]] = ([1], [1])
    count, counts, done = 0, None, None

    def norm(squares: Array) -> Array:
        both = sum_last_axes(squares, 2)
        if halved:
            both = 2 * both - sum_last_axes(squares[..., :1], 2)
        return both.sum(axis=0).astype(np.float64)

    for iteration in range(max_num_iter):
        inverse = noise * power
        inverse += prior * penalty
        xp.divide(1, inverse, out=inverse)
        x = normal(bins).reshape(2, *(1,) * len(lead), *bins) * xp.sqrt(0.5 * inverse)
        inverse *= noise
        inverse *= gain
        xp.multiply(inverse, data, out=work)
        x = x + work
        if sample is not None:
            sample(x[0] + 1j * x[1])
        xp.multiply(gain, x, out=work)
        work -= data
        work *= work
        noise = gamma(pixels / 2) * (2 / norm(work))
        xp.multiply(x, x, out=work)
        work *= penalty
        prior = gamma((pixels - 1) / 2) * (2 / norm(work))
        for chain, value in zip(chains, (noise, prior), strict=True):
            chain.append(value.reshape(lead) if lead else value.reshape(()))
        noise, prior = noise.astype(real), prior.astype(real)
        if iteration > burnin:
            count += 1
            if done is not None:
                x = xp.where(done, 0, x)
            total += x
            counts = xp.full(noise.shape, count) if done is None else xp.where(done, counts, count)
        if iteration > min_num_iter and count > 1:
            close = ~(_relative_change(total, x, count) >= threshold)  # NaN is not going to be closer
            done = close if done is None else done | close
            if bool(done.all()):  # here CuPy must wait
                break
        if report is not None:
            report((iteration + 1) / max_num_iter)
    if report is not None:
        report(1.0)
    total /= (xp.ones(1) if counts is None else counts).astype(real)
    if not lead:
        chains = ([1, *map(float, chains[0][1:])], [1, *map(float, chains[1][1:])])
    return PosteriorChains(total[0] + 1j * total[1], *chains)


def _relative_change(total: Array, x: Array, count: int) -> Array:
    """sum |mean_n - mean_(n - 1)| / sum |n mean_n| / n, of the sum of n samples and the last of them; (..., 1, 1)."""
    xp = array_module(total)
    # mean_n - mean_(n - 1) = (x - mean_n) / (n - 1)
    step = x - total / count
    step, whole = (sum_last_axes(xp.sqrt(part[0] ** 2 + part[1] ** 2), 2) for part in (step, total))
    return step / (count - 1) / xp.maximum(whole, float(np.finfo(total.dtype).tiny)) / count
