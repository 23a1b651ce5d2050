"""Losses of the restoring networks; each is a mean over the batch, for pictures in [0, 1]."""

from __future__ import annotations

from collections.abc import Callable

import torch

CHARBONNIER_EPSILON = 1e-3


def charbonnier(image: torch.Tensor, sharp: torch.Tensor) -> torch.Tensor:
    """mean sqrt(|x - x_true|^2 + epsilon^2): the absolute difference, smooth at 0."""
    return ((image - sharp).square() + CHARBONNIER_EPSILON**2).sqrt().mean()


def spectral(image: torch.Tensor, sharp: torch.Tensor) -> torch.Tensor:
    """mean |F (x - x_true)|, F orthonormal: errors of few frequencies, such as a remaining blur, count more."""
    return torch.view_as_real(torch.fft.rfft2((image - sharp).float(), norm="ortho")).abs().mean()


def total_variation(image: torch.Tensor) -> torch.Tensor:
    """mean |D x|^2 ([WangL2017] eq. 6, there a sum)."""
    dx, dy = image[..., :, 1:] - image[..., :, :-1], image[..., 1:, :] - image[..., :-1, :]
    return dx.square().mean() + dy.square().mean()


def psnr_gain(image: torch.Tensor, blurred: torch.Tensor, sharp: torch.Tensor) -> float:
    """How much nearer to the sharp pictures the restored ones are than the blurred ones, all together, in dB."""
    errors = torch.stack([(pictures - sharp).square().mean() for pictures in (blurred, image)])
    before, after = errors.clamp_min(1e-12).log10().tolist()
    return float(10 * (before - after))


def critic_loss(sharp_scores: torch.Tensor, restored_scores: torch.Tensor) -> torch.Tensor:
    """E D(x) - E D(x_true): [Qi2020] eq. 5 without its penalty, negated."""
    return restored_scores.float().mean() - sharp_scores.float().mean()


def generator_loss(restored_scores: torch.Tensor) -> torch.Tensor:
    """-E D(x)."""
    return -restored_scores.float().mean()


def gradient_penalty(
    critic: Callable[[torch.Tensor], torch.Tensor],
    sharp: torch.Tensor,
    restored: torch.Tensor,
    positions: torch.Tensor,
) -> torch.Tensor:
    """E (|grad D(x^)| - 1)^2 with x^ = t x_true + (1 - t) x ([Qi2020] eq. 5), D the mean of a picture's scores.

    Parameters
    ----------
    positions : t, (N,) in [0, 1].

    In float32 also under autocast: in bfloat16, with 8 bits, |grad D| - 1 would be rounding.
    """
    with torch.autocast(sharp.device.type, enabled=False):
        t = positions.float().reshape(-1, *(1,) * (sharp.ndim - 1))
        points = torch.lerp(restored.detach().float(), sharp.float(), t).requires_grad_()
        scores = critic(points).flatten(1).mean(dim=1).sum()  # a picture's gradient is that of its own score
        (gradient,) = torch.autograd.grad(scores, points, create_graph=True)
        # `vector_norm` has the gradient 0 at 0, where a square root has none.
        return (torch.linalg.vector_norm(gradient.flatten(1), dim=1) - 1).square().mean()
