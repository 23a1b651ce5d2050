"""Losses of the restoring networks; each is a mean over the batch, for pictures in [0, 1]."""

from __future__ import annotations

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
