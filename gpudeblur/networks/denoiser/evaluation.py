"""How well the denoiser removes white noise from pictures that it was not trained on."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from ...images.planes import LUMA
from .network import Denoiser

LEVELS = (0.02, 0.05, 0.1, 0.2)
SIDE = 256  # pixels, largest side of the middle of a picture that is denoised


@torch.no_grad()
def white_noise_psnr(
    network: Denoiser, images: Sequence[torch.Tensor], sigma: float, *, gray: bool = False, seed: int = 0
) -> float:
    """The mean PSNR in dB of the denoised middles of pictures (3, H, W) uint8, with the noise of a seed."""
    device, values = next(network.parameters()).device, []
    generator = torch.Generator().manual_seed(seed)
    for image in images:
        top, left = (max(side - SIDE, 0) // 2 for side in image.shape[1:])
        clear = image[None, :, top : top + SIDE, left : left + SIDE].cpu().float() / 255
        if gray:
            clear = torch.einsum("c,nchw->nhw", torch.tensor(LUMA, dtype=torch.float32), clear)[:, None]
        noisy = clear + sigma * torch.randn(clear.shape, generator=generator)
        error = (network(noisy.to(device), sigma).cpu() - clear).square().mean()
        values.append(float(-10 * error.clamp_min(1e-12).log10()))
    return sum(values) / len(values)
