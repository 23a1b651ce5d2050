"""The closed forms between the networks of [Lin2020], differentiable: kernel (eq. 8, 9) and picture (eq. 10, 11).

Both are the library's own steps for torch: `blind.kernel_step.normal_equations` with `numerics.toeplitz.toeplitz_cg`,
and the Wiener filter `nonblind.wiener` with the identity prior and periodic borders.
"""

from __future__ import annotations

import torch
from torch.nn import functional

from ...numerics.fourier import fast_size

Shape = tuple[int, int]
TINY = 1e-12


def gradient(images: torch.Tensor) -> torch.Tensor:
    """Forward differences of (..., H, W) along x and y, (..., 2, H, W); 0 in the last column and row."""
    dx, dy = torch.zeros_like(images), torch.zeros_like(images)
    dx[..., :, :-1] = images[..., :, 1:] - images[..., :, :-1]
    dy[..., :-1, :] = images[..., 1:, :] - images[..., :-1, :]
    return torch.stack([dx, dy], dim=-3)


def normal_equations(
    sketch: torch.Tensor, blurred: torch.Tensor, weight: torch.Tensor, side: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Matrix and right-hand side of eq. 8 on a kernel support of `side` pixels: (autocorrelation, correlation).

    a(l) = sum w(t) grad s(t) . grad s(t + l) and b(p) = sum w(t) grad s(t) . grad y(t + p), without wrapping around the
    border. The true kernel solves sum_q a(p - q) k(q) = b(p) for any weights w that are 0 nearer to the border than the
    kernel reaches, which eq. 9 with its circular transforms does not.

    Parameters
    ----------
    sketch, blurred, weight : (N, H, W), s, y and w.
    side : odd.

    Returns
    -------
    autocorrelation : (N, 2 side - 1, 2 side - 1), made symmetric and positive semi-definite by the real, positive part
        of its spectrum.
    correlation : (N, side, side).
    """
    h, w = sketch.shape[-2:]
    grid = fast_size(max(h, side) + side), fast_size(max(w, side) + side)
    votes = gradient(sketch)
    votes_hat = torch.fft.rfft2(weight[..., None, :, :] * votes, grid).conj()
    power = (votes_hat * torch.fft.rfft2(votes, grid)).sum(dim=-3).real.clamp_min(0)
    correlation = (votes_hat * torch.fft.rfft2(gradient(blurred), grid)).sum(dim=-3)
    matrix = central_lags(torch.fft.irfft2(power.to(correlation.dtype), grid), side - 1)
    return matrix, central_lags(torch.fft.irfft2(correlation, grid), side // 2)


def central_lags(correlation: torch.Tensor, radius: int) -> torch.Tensor:
    """The lags -radius..radius of a circular correlation in both directions, in rising order."""
    return correlation.roll((radius, radius), (-2, -1))[..., : 2 * radius + 1, : 2 * radius + 1]


def toeplitz_cg(
    autocorrelation: torch.Tensor, correlation: torch.Tensor, ridge: torch.Tensor, iterations: int
) -> torch.Tensor:
    """argmin_k |grad s * k - grad y|^2 + ridge |k|^2 by conjugate gradients from 0: (N, side, side), of any sign.

    Parameters
    ----------
    autocorrelation, correlation : of `normal_equations`.
    ridge : (N,), beta of eq. 8.
    iterations : fewer than are needed to converge are a regularization of their own.
    """
    side, lags = correlation.shape[-1], autocorrelation.shape[-1]
    grid = fast_size(lags), fast_size(lags)
    spectrum = torch.fft.rfft2(autocorrelation, grid)
    ridge = ridge[:, None, None]

    def apply(kernel: torch.Tensor) -> torch.Tensor:
        product = torch.fft.irfft2(torch.fft.rfft2(kernel, grid) * spectrum, grid)
        return product[..., side - 1 : 2 * side - 1, side - 1 : 2 * side - 1] + ridge * kernel

    kernel, residual = torch.zeros_like(correlation), correlation
    direction, energy = residual, dot(residual, residual)
    for _ in range(iterations):
        product = apply(direction)
        step = energy / (dot(direction, product) + TINY)
        kernel, residual = kernel + step * direction, residual - step * product
        energy, old = dot(residual, residual), energy
        direction = residual + energy / (old + TINY) * direction
    return kernel


def dot(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Inner products of two stacks (N, H, W), (N, 1, 1)."""
    return (a * b).sum(dim=(-2, -1), keepdim=True)


def kernel_fft(sketch: torch.Tensor, blurred: torch.Tensor, beta: torch.Tensor, side: int) -> torch.Tensor:
    """Eq. 9 as it stands: one quotient of circular transforms, cropped to (N, side, side); of any sign.

    `beta` (N,) or scalar refers to transforms without 1 / (H W).
    """
    shape = sketch.shape[-2:]
    dx, dy = (difference_otf(shape, axis, sketch) for axis in (-1, -2))
    power = dx.abs().square() + dy.abs().square()
    sketch_hat, blurred_hat = torch.fft.rfft2(sketch), torch.fft.rfft2(blurred)
    quotient = power * sketch_hat.conj() * blurred_hat / (power * sketch_hat.abs().square() + beta.reshape(-1, 1, 1))
    radius = min(side // 2, (min(shape) - 1) // 2)  # a small picture has no longer lags
    return functional.pad(central_lags(torch.fft.irfft2(quotient, shape), radius), (side // 2 - radius,) * 4)


def difference_otf(shape: torch.Size, axis: int, like: torch.Tensor) -> torch.Tensor:
    """The transform of the forward difference x(t + 1) - x(t) along an axis, (H, W // 2 + 1)."""
    filters = torch.zeros(tuple(shape), dtype=like.dtype, device=like.device)
    filters[0, 0] = -1
    filters[(0, -1) if axis == -1 else (-1, 0)] += 1
    return torch.fft.rfft2(filters)


def normalize_kernel(kernel: torch.Tensor) -> torch.Tensor:
    """k >= 0 with sum 1; a kernel without a positive value becomes a delta."""
    side = kernel.shape[-1]
    kernel = kernel.clamp_min(0)
    total = kernel.sum(dim=(-2, -1), keepdim=True)
    delta = torch.zeros_like(kernel)
    delta[..., side // 2, side // 2] = 1
    return torch.where(total > TINY, kernel / total.clamp_min(TINY), delta)


def kernel_otf(kernel: torch.Tensor, shape: Shape) -> torch.Tensor:
    """The transform of kernels (N, K, K) whose middle is the origin of a grid (H, W), (N, 1, H, W // 2 + 1)."""
    radius = kernel.shape[-1] // 2
    padded = functional.pad(kernel, (0, shape[1] - kernel.shape[-1], 0, shape[0] - kernel.shape[-2]))
    return torch.fft.rfft2(padded.roll((-radius, -radius), (-2, -1)))[:, None]


def wiener(blurred: torch.Tensor, kernel: torch.Tensor, gamma: torch.Tensor) -> torch.Tensor:
    """Eq. 11: argmin_x |x * k - y|^2 + gamma |x|^2 for (N, C, H, W) with periodic borders."""
    shape = (blurred.shape[-2], blurred.shape[-1])
    otf = kernel_otf(kernel, shape)
    quotient = otf.conj() * torch.fft.rfft2(blurred) / (otf.abs().square() + gamma)
    return torch.fft.irfft2(quotient, shape)


def corrected(blurred: torch.Tensor, kernel: torch.Tensor, gammas: torch.Tensor) -> list[torch.Tensor]:
    """Eq. 11 for x - y, of which y - y * k is the blurred version: argmin_x |x * k - y|^2 + gamma |x - y|^2.

    y + the Wiener filter of y - y * k, for each gamma (G,). Unlike eq. 11 it does not darken, and a delta kernel
    changes nothing.
    """
    shape = (blurred.shape[-2], blurred.shape[-1])
    otf, spectrum = kernel_otf(kernel, shape), torch.fft.rfft2(blurred)
    residual, power = otf.conj() * (1 - otf) * spectrum, otf.abs().square()
    return [torch.fft.irfft2(spectrum + residual / (power + gamma), shape) for gamma in gammas]


def periodic_border(blurred: torch.Tensor, kernel: torch.Tensor) -> torch.Tensor:
    """y with a border as wide as half the kernel that makes it periodic ([Kruse2017]): (N, C, H + m, W + m).

    The outermost pixels are repeated, and the borders blend into their blurred version, as an edge taper does, so that
    the blur explains what a circular transform joins. No gradient passes through the weights of the blend.
    """
    radius = kernel.shape[-1] // 2
    h, w = (fast_size(n + 2 * radius) for n in blurred.shape[-2:])
    bottom, right = h - blurred.shape[-2] - radius, w - blurred.shape[-1] - radius
    padded = functional.pad(blurred, (radius, right, radius, bottom), mode="replicate")
    otf = kernel_otf(kernel.detach(), (h, w))
    smooth = torch.fft.irfft2(torch.fft.rfft2(padded) * otf, (h, w))
    weight = _taper(kernel.detach(), h, -2) * _taper(kernel.detach(), w, -1)
    return weight * padded + (1 - weight) * smooth


def _taper(kernel: torch.Tensor, length: int, axis: int) -> torch.Tensor:
    """1 minus the normalized autocorrelation of the kernel's profile along an axis: 0 at the border, 1 inside."""
    profile = kernel.sum(dim=-1 if axis == -2 else -2)
    spectrum = torch.fft.rfft(profile, length - 1).abs().square()
    correlation = torch.fft.irfft(spectrum, length - 1)
    weight = 1 - correlation / correlation[..., :1]
    weight = torch.cat([weight, weight[..., :1]], dim=-1)
    return weight[:, None, :, None] if axis == -2 else weight[:, None, None, :]
