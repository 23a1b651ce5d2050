"""Plug-and-play restoration in PyTorch, through which the denoiser is trained: the twin of `nonblind.methods.pnp`.

A scene (N, C, H, W) is larger than what is observed of it, (N, C, H - K + 1, W - K + 1) for kernels (N, K, K), in its
middle; nothing is assumed of the blurred pixels around.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch.nn import functional

from .levels import step_levels

TV_FACTOR, TV_POWER, TV_BETA = 1.34, 1.6, 0.7  # of the weight of total variation, and of its beta: `nonblind.splitting`
TV_ITERATIONS = 20
COUPLING, RELAXATION = 0.1, 1.8
PREDICTIONS = 2  # of the unobserved pixels after each step of the denoiser

Denoise = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def transfer_function(kernels: torch.Tensor, shape: tuple[int, int]) -> torch.Tensor:
    """K (N, 1, H, W // 2 + 1) of kernels (N, k, k), k odd, whose middle is the origin."""
    radius = kernels.shape[-1] // 2
    padded = kernels.new_zeros(len(kernels), *shape)
    padded[:, : kernels.shape[1], : kernels.shape[2]] = kernels
    return torch.fft.rfft2(padded.roll((-radius, -radius), (1, 2)))[:, None]


def filtered(images: torch.Tensor, transfer: torch.Tensor) -> torch.Tensor:
    """Images (N, C, H, W), circularly filtered."""
    return torch.fft.irfft2(torch.fft.rfft2(images) * transfer, s=images.shape[-2:])


def split_step(
    blurred: torch.Tensor, otf: torch.Tensor, estimate: torch.Tensor, ratio: torch.Tensor | float
) -> torch.Tensor:
    """argmin_x |k * x - y|^2 + mu |x - x0|^2, circular: F^-1 [(conj(K) Y + mu F x0) / (|K|^2 + mu)].

    Parameters
    ----------
    blurred : y, (N, C, H, W).
    otf : K, (N, 1, H, W // 2 + 1), of `torch.fft.rfft2`.
    estimate : x0, as y.
    ratio : mu > 0, (N, 1, 1, 1) or a number: the variance of the noise of y over that of the proximal step.
    """
    spectrum = otf.conj() * torch.fft.rfft2(blurred) + ratio * torch.fft.rfft2(estimate)
    return torch.fft.irfft2(spectrum / (otf.abs().square() + ratio), s=blurred.shape[-2:])


def predicted(observed: torch.Tensor, otf: torch.Tensor, estimate: torch.Tensor) -> torch.Tensor:
    """k * x0 with what is `observed` in its middle."""
    margin = (estimate.shape[-1] - observed.shape[-1]) // 2
    blurred = filtered(estimate, otf)
    blurred[..., margin : margin + observed.shape[-2], margin : margin + observed.shape[-1]] = observed
    return blurred


def pnp_iterates(
    denoise: Denoise, observed: torch.Tensor, kernels: torch.Tensor, noise: torch.Tensor
) -> Iterator[torch.Tensor]:
    """The denoised scene of each step, (N, C, H, W); the last one is the result.

    Parameters
    ----------
    denoise : D(x, sigma) with sigma (N,).
    observed : (N, C, H - K + 1, W - K + 1).
    kernels : (N, K, K), K odd, sum 1.
    noise : (N,), standard deviation.
    """
    radius = kernels.shape[-1] // 2
    start = functional.pad(observed, (radius,) * 4, mode="replicate")
    otf = transfer_function(kernels, (start.shape[-2], start.shape[-1]))
    scene = total_variation(observed, otf, start, noise)
    levels = step_levels(noise)
    for step, level in enumerate(levels, start=1):
        denoised = denoise(scene, level)
        yield denoised
        if step == len(levels):
            return
        scene = denoised
        for _ in range(PREDICTIONS):
            ratio = (noise / level).square()[:, None, None, None]
            scene = split_step(predicted(observed, otf, scene), otf, denoised, ratio)


@torch.no_grad()
def total_variation(
    observed: torch.Tensor, otf: torch.Tensor, start: torch.Tensor, noise: torch.Tensor
) -> torch.Tensor:
    """The first iterate: `TV_ITERATIONS` passes of `nonblind.splitting.solve` with total variation, from `start`."""
    shape = (start.shape[-2], start.shape[-1])
    middle = (start.shape[-1] - observed.shape[-1]) // 2
    window = (..., slice(middle, middle + observed.shape[-2]), slice(middle, middle + observed.shape[-1]))
    weight = (TV_FACTOR * noise**TV_POWER)[:, None, None, None]
    beta = TV_BETA / weight.sqrt()
    rows = 2 * torch.pi * torch.fft.fftfreq(shape[0], device=start.device)[:, None]
    columns = 2 * torch.pi * torch.fft.rfftfreq(shape[1], device=start.device)
    laplacian = 4 - 2 * rows.cos() - 2 * columns.cos()
    denominator = otf.abs().square() + weight * beta / COUPLING * laplacian
    scene, target = start, start.clone()
    ex, ey, multiplier = torch.zeros_like(start), torch.zeros_like(start), torch.zeros_like(observed)
    for _ in range(TV_ITERATIONS):
        gx, gy = scene.roll(-1, -1) - scene + ex, scene.roll(-1, -2) - scene + ey
        shrink = 1 - 1 / (beta * torch.hypot(gx, gy)).clamp_min(1)
        sx, sy = gx * shrink, gy * shrink
        ex, ey = gx - sx, gy - sy
        px, py = sx - ex, sy - ey
        divergence = px.roll(1, -1) - px + py.roll(1, -2) - py
        spectrum = otf.conj() * torch.fft.rfft2(target) + weight * beta / COUPLING * torch.fft.rfft2(divergence)
        spectrum = spectrum / denominator
        blurred = torch.fft.irfft2(otf * spectrum, s=shape)
        target = RELAXATION * blurred + (1 - RELAXATION) * target
        relaxed = target[window] + (2 - RELAXATION) * multiplier
        value = (observed + COUPLING * relaxed) / (1 + COUPLING)
        multiplier = relaxed - value
        target[window] = value - multiplier
        scene = torch.fft.irfft2(spectrum, s=shape)
    return scene
