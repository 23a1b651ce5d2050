"""Wiener deconvolution whose weights are sampled with the image: a Gibbs sampler ([Orieux2010])."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from ...images import checks
from ...numerics.arrays import Array, array_module
from ...numerics.fourier import Shape, irfft2, psf_to_otf, rfft2, sum_last_axes
from ...numerics.progress import OnProgress
from .wiener import periodic_data, prior_power, squared_magnitude


class PosteriorChains(NamedTuple):
    """The mean of x, a spectrum (..., H, bins); the precisions of noise and prior, a list of (...) each."""

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
    """E(x | B) with the precisions of noise and prior unknown too, by Gibbs sampling ([Orieux2010]).

    In turn, x is drawn given both precisions, an independent Gaussian per frequency, and the precisions given x, from
    their gamma distributions. All images of a batch share the random numbers, so that a batch equals a loop.

    Parameters
    ----------
    blurred, kernel, boundary, callback : common to all methods, see `help(gpudeblur.nonblind)`. The boundary is one of
        "reflect", "edge" and "wrap".
    prior : see `wiener`.
    threshold : an image is done when a sample changes the mean by less than this fraction.
    burnin, min_num_iter, max_num_iter : samples that are left out of the mean; smallest and largest number of samples.
    rng : `numpy.random.Generator`, seed or None; for CuPy arrays a seed is CuPy's, or CuPy's `Generator`.

    Raises
    ------
    ValueError
        `max_num_iter` is less than ``burnin + 2``.
    """
    xp = array_module(blurred, kernel)
    kernel = kernel.astype(blurred.dtype, copy=False)
    if max_num_iter < burnin + 2:
        raise ValueError(
            f"max_num_iter must be at least burnin + 2, got {max_num_iter} and a burnin of {burnin}; nothing is left "
            "to be averaged"
        )
    data, window = periodic_data(blurred, kernel, boundary)
    grid = data.shape[-2:]
    unit = math.prod(grid) ** -0.5
    normal, gamma = random_streams(rng, xp, blurred.dtype)
    # Both precisions start at 1: a standard deviation of 1 makes the result independent of the image's unit.
    scale = blurred.std(axis=(-2, -1), keepdims=True)
    scale = xp.where(scale > 0, scale, 1)
    chains = gibbs(
        rfft2(data / scale) * unit,
        psf_to_otf(kernel, grid),
        xp.asarray(prior_power(grid, prior, blurred.dtype)),
        math.prod(grid),
        normal=normal,
        gamma=gamma,
        threshold=threshold,
        burnin=burnin,
        min_num_iter=min_num_iter,
        max_num_iter=max_num_iter,
        callback=callback,
    )
    return scale * irfft2(chains.mean * unit, grid, overwrite=True)[window]


def random_streams(rng: Any, xp: Any, dtype: Any) -> tuple[Callable[[Shape], Array], Callable[[float], Any]]:
    """(shape -> standard normal numbers (2, *shape) in the memory of `xp`, a -> one standard gamma number).

    For `rng`, see `unsupervised_wiener`.
    """
    if xp is not np and not isinstance(rng, np.random.Generator):
        generator = rng if isinstance(rng, xp.random.Generator) else xp.random.default_rng(rng)
        return (lambda shape: generator.standard_normal((2, *shape), dtype=dtype)), generator.standard_gamma
    host = checks.random_generator(rng)
    if dtype == np.float32:
        return (lambda shape: xp.asarray(_box_muller(host, shape))), host.standard_gamma
    return (lambda shape: xp.asarray(host.standard_normal((2, *shape), dtype))), host.standard_gamma


def _box_muller(host: np.random.Generator, shape: Shape) -> np.ndarray:
    """Standard normal float32 (2, *shape), up to 6.8 standard deviations, four times as fast as `standard_normal`."""
    # `integers`, not `random_raw`: not every bit generator has 64 bits.
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
    callback: OnProgress | None = None,
) -> PosteriorChains:
    """The sampler of `unsupervised_wiener` on unitary spectra (..., H, bins).

    Real and imaginary parts are the first axis of real arrays. The data are rotated by the phase of the kernel's
    transfer function, |B - K x| = |B conj(K) / |K| - |K| x|, so that no multiplication is complex.

    Parameters
    ----------
    spectrum, otf, penalty : F B, F k and |F D|^2, the last two for all images or one per image.
    pixels : of the image.
    normal, gamma : see `random_streams`; each iteration calls `normal` once, then `gamma` twice.
    halved : whether the spectra are of a real transform, whose other half counts too. (The last column of an even
        width then counts twice, as in scikit-image.)
    sample : called with each x.

    Equation numbers are those of [Orieux2010].
    """
    xp, real = array_module(spectrum, otf, penalty), penalty.dtype
    power = squared_magnitude(otf)
    gain = xp.sqrt(power)
    rotated = spectrum * (otf.conj() / xp.where(gain > 0, gain, 1))
    data = xp.stack([rotated.real, rotated.imag])
    lead, bins = spectrum.shape[:-2], spectrum.shape[-2:]
    total, scratch = xp.zeros_like(data), xp.empty_like(data)
    noise: Any = 1.0
    prior: Any = 1.0
    chains: tuple[list[Any], list[Any]] = ([1], [1])
    count, counts, done = 0, None, None

    def squared_norm(squares: Array) -> Array:
        result = sum_last_axes(squares, 2)
        if halved:
            result = 2 * result - sum_last_axes(squares[..., :1], 2)
        return result.sum(axis=0).astype(np.float64)

    for iteration in range(max_num_iter):
        # Sample of Eq. 27, p(x | noise, prior, B): independent Gaussians.
        precision = noise * power
        precision += prior * penalty  # Eq. 29
        variance = xp.divide(1, precision, out=precision)
        excursion = normal(bins).reshape(2, *(1,) * len(lead), *bins) * xp.sqrt(0.5 * variance)
        wiener_filter = noise * variance
        wiener_filter *= gain
        mean = xp.multiply(wiener_filter, data, out=scratch)  # mean Eq. 30
        x = excursion + mean
        if sample is not None:
            sample(x[0] + 1j * x[1])
        # Sample of Eq. 31, p(noise | x, B).
        residual = xp.multiply(gain, x, out=scratch)
        residual -= data
        residual *= residual
        noise = gamma(pixels / 2) * (2 / squared_norm(residual))
        # Sample of Eq. 31, p(prior | x).
        roughness = xp.multiply(x, x, out=scratch)
        roughness *= penalty
        prior = gamma((pixels - 1) / 2) * (2 / squared_norm(roughness))
        for chain, value in zip(chains, (noise, prior), strict=True):
            chain.append(value.reshape(lead) if lead else value.reshape(()))
        noise, prior = noise.astype(real), prior.astype(real)
        # Empirical mean, Eq. 44; images that are done add nothing more.
        if iteration > burnin:
            count += 1
            if done is not None:
                x = xp.where(done, 0, x)
            total += x
            counts = xp.full(noise.shape, count) if done is None else xp.where(done, counts, count)
        if iteration > min_num_iter and count > 1:
            converged = ~(_relative_change(total, x, count) >= threshold)  # NaN will never converge: done, too
            done = converged if done is None else done | converged
            if bool(done.all()):  # here CuPy must wait
                break
        if callback is not None:
            callback((iteration + 1) / max_num_iter)
    if callback is not None:
        callback(1.0)
    total /= (xp.ones(1) if counts is None else counts).astype(real)
    if not lead:
        chains = ([1, *map(float, chains[0][1:])], [1, *map(float, chains[1][1:])])
    return PosteriorChains(total[0] + 1j * total[1], *chains)


def _relative_change(total: Array, x: Array, count: int) -> Array:
    """sum |mean_n - mean_(n - 1)| / sum |n mean_n| / n, of the sum of n samples and the last of them; (..., 1, 1)."""
    xp = array_module(total)
    # mean_n - mean_(n - 1) = (x - mean_n) / (n - 1)
    step = x - total / count
    change, size = (sum_last_axes(xp.sqrt(part[0] ** 2 + part[1] ** 2), 2) for part in (step, total))
    return change / (count - 1) / xp.maximum(size, float(np.finfo(total.dtype).tiny)) / count
