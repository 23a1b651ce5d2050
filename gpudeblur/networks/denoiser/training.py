"""How the denoiser is trained: on crops with white noise, and through the steps of plug-and-play restoration.

Half of a batch has white noise. The other half is blurred crops with noise, restored by `pnp_iterates` with the right
kernel or one that is slightly wrong. All random numbers come from the device, of the seed and the index of the batch,
and no step waits for a number from a GPU.
"""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import nn
from torch.nn import functional

from ...images.checks import check_count, check_number
from ...images.planes import LUMA
from ..training.data import RestorationConfig, blur, make_kernels
from ..training.losses import psnr_gain
from ..training.pictures import Pictures
from ..training.trainer import Loss
from .levels import MIN_NOISE
from .network import Denoiser
from .unrolled import filtered, pnp_iterates

CAMERA_NOISE = (0.001, 0.06)  # standard deviations of the noise of blurred crops
GAMMA, CONTRAST, LIGHT = 0.4, (0.6, 1.3), (0.7, 1.15)  # log of the exponent; factors
KERNEL_NOISE = (0.01, 0.04)  # standard deviation of the noise of wrong kernels, as a fraction of their largest value
KERNEL_CUT = 0.12  # fraction of the largest value, under which others are 0 in kernels that are cut, at most
KERNEL_WIDTH = 0.6  # pixels, largest standard deviation by which a wrong kernel is too wide or too narrow
MSE_EPSILON = 1e-5  # 50 dB
STEP_WEIGHTS = (0.1, 0.1, 0.2, 0.3, 1.0)  # of the losses of the iterates
FIGURES_EVERY = 20  # batches: a figure makes the host wait for a GPU

PAGE_SHAPE = (288, 288)  # of drawn pages of text
LETTERS = list("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789,.;:()-?    ")
# Fonts of matplotlib, if that is installed. None of those of the pages by which bench/cases.py judges.
FONTS = (
    "DejaVuSans-Oblique", "DejaVuSerif-Bold", "DejaVuSansMono-Oblique",
    "STIXGeneralItalic", "STIXGeneralBolIta", "DejaVuSerif-BoldItalic", "DejaVuSans-BoldOblique", "cmr10", "cmss10",
    "cmtt10", "cmb10",
)  # fmt: skip
PAGE_SEED = 3_000_017


@dataclass(frozen=True, kw_only=True)
class DenoiserConfig:
    """How crops are drawn and made noisy. Shares and probabilities are in [0, 1].

    Attributes
    ----------
    seed : of all random numbers.
    batch : crops per batch; half of them, rounded up, have white noise.
    crop : pixels, side of the crops.
    pool : number of blur kernels; flips and transposes make eight of each.
    pages : number of drawn pages of text.
    shares : of the pictures of the first folder, of those of the further ones, and of drawn text; they are divided by
        their sum, without that of missing folders.
    gray : crops without color, in three equal channels with equal noise.
    sigma : largest level of the white noise; the square roots of the levels are uniform.
    rounded : blurred crops that are rounded to 8 bits.
    estimated : blurred crops that are restored with a blind estimate of their kernel, where there are such pairs.
    wrong : of the others, those that are restored with a wrong kernel.
    misjudged : blurred crops whose noise is taken for up to twice or half of what it is.
    """

    seed: int = 0
    batch: int = 16
    crop: int = 96
    pool: int = 3000
    pages: int = 96
    shares: tuple[float, float, float] = (0.65, 0.2, 0.15)
    gray: float = 0.5
    sigma: float = 0.25
    rounded: float = 0.5
    estimated: float = 0.35
    wrong: float = 0.35
    misjudged: float = 0.6

    def __post_init__(self) -> None:
        for name, minimum in (("batch", 2), ("crop", 32), ("pool", 8), ("pages", 1)):
            check_count(name, getattr(self, name), minimum=minimum)
        for name in ("gray", "rounded", "estimated", "wrong", "misjudged"):
            check_number(name, getattr(self, name), "in [0, 1]", lambda share: 0 <= share <= 1)
        check_number("sigma", self.sigma, "in (0, 1]", lambda sigma: 0 < sigma <= 1)


class NoisyBatch(NamedTuple):
    """Clear crops in [0, 1] with white noise of a level, and scenes with what is observed of them.

    clear, noisy (N, 3, H, W), sigma (N,); scene (M, 3, H, W), blurred (M, 3, H - K + 1, W - K + 1), the `kernels`
    (M, K, K) that are taken for those of the blur, and the noise (M,) that is taken for that of the blurred ones.
    """

    number: int
    clear: torch.Tensor
    noisy: torch.Tensor
    sigma: torch.Tensor
    scene: torch.Tensor
    blurred: torch.Tensor
    kernels: torch.Tensor
    noise: torch.Tensor


# ------------------------------------------------------------------ pictures
class PictureStore:
    """Pictures of any sizes, (3, H, W) uint8, in one tensor of a device; a batch of regions is one gather."""

    def __init__(self, images: Sequence[torch.Tensor], device: torch.device) -> None:
        sizes = torch.tensor([[*image.shape[1:]] for image in images])
        self.pixels = torch.cat([image.reshape(-1) for image in images]).to(device)
        self.sizes = sizes.to(device)
        self.offsets = (torch.cumsum(3 * sizes.prod(dim=1), 0) - 3 * sizes.prod(dim=1)).to(device)

    def regions(self, picture: torch.Tensor, place: torch.Tensor, crop: int) -> torch.Tensor:
        """Regions (N, 3, crop, crop) in [0, 1], mirrored at the borders of pictures that are smaller.

        Parameters
        ----------
        picture : (N,) numbers of pictures.
        place : (2, N) in [0, 1): where the crop begins; it is inside if the picture is so large.
        """
        size, steps = self.sizes[picture].T, torch.arange(crop, device=picture.device)
        first = (place * (size - crop + 1).clamp_min(1)).long()
        rows, columns = (
            mirrored(start[:, None] + steps, side[:, None]) for start, side in zip(first, size, strict=True)
        )
        plane = (self.offsets[picture][:, None] + rows * size[1][:, None])[:, :, None] + columns[:, None, :]
        channels = torch.arange(3, device=picture.device)[:, None, None] * (size[0] * size[1])[:, None, None, None]
        return self.pixels[plane[:, None] + channels].float() / 255


def mirrored(index: torch.Tensor, side: torch.Tensor) -> torch.Tensor:
    """Indices of any range into [0, side), mirrored at the borders as NumPy's "symmetric"."""
    index = index % (2 * side)
    return torch.minimum(index, 2 * side - 1 - index)


def draw_pages(count: int, shape: tuple[int, int] = PAGE_SHAPE, seed: int = PAGE_SEED) -> list[torch.Tensor]:
    """Pages of random letters, (3, H, W) uint8, dark on light and light on dark in turn, an eighth of them colored."""
    rng, (height, width), pages = np.random.default_rng(seed), shape, []
    for number in range(count):
        size = float(np.exp(rng.uniform(*np.log((9, 44)))))
        font = find_font(FONTS[number % len(FONTS)], size)
        light, dark = rng.uniform(0.75, 1), rng.uniform(0, 0.3)
        paper, ink = (light, dark) if number % 2 == 0 else (dark, light)
        page, top = Image.new("L", (width, height), 0), float(rng.uniform(-size, 0))
        while top < height:
            line = "".join(rng.choice(LETTERS, int(3 * width / size) + 4))
            ImageDraw.Draw(page).text((float(rng.uniform(-size, 0)), top), line, 255, font)
            top += size * float(rng.uniform(1.1, 1.7))
        coverage = np.asarray(page, np.float32) / 255
        tint = rng.uniform(0.5, 1, (2, 3, 1, 1)) if number % 8 == 7 else np.ones((2, 3, 1, 1))
        picture = paper * tint[0] * (1 - coverage) + ink * tint[1] * coverage
        pages.append(torch.from_numpy(np.round(255 * picture).astype(np.uint8)))
    return pages


def find_font(name: str, size: float) -> Any:
    """A font that comes with matplotlib, or Pillow's own where that is missing."""
    library = importlib.util.find_spec("matplotlib")
    if library is not None and library.origin is not None:
        path = Path(library.origin).parent / "mpl-data" / "fonts" / "ttf" / f"{name}.ttf"
        if path.exists():
            return ImageFont.truetype(str(path), round(size), layout_engine=ImageFont.Layout.BASIC)
    return ImageFont.load_default(size)


# ------------------------------------------------------------------ batches
def lowpass(deviation: torch.Tensor, shape: tuple[int, int]) -> torch.Tensor:
    """Transfer functions (N, 1, H, W // 2 + 1) of Gaussians with standard deviations (N,) in pixels."""
    y = torch.fft.fftfreq(shape[0], device=deviation.device)[:, None]
    x = torch.fft.rfftfreq(shape[1], device=deviation.device)
    return torch.exp(-2 * (math.pi * deviation[:, None, None, None]) ** 2 * (y.square() + x.square()))


class NoisyBatchMaker:
    """Batches of clear and noisy crops.

    Parameters
    ----------
    folders : of clear pictures; the first is the main one.
    device : torch device of pictures, kernels and batches.
    kernels : what `make_kernels` returns, of any number; None: it is called, for `config.pool`.
    pairs : kernels and their blind estimates, (P, K, K) each with the K of the pool, or None.
    """

    def __init__(
        self,
        folders: Sequence[Pictures],
        config: DenoiserConfig,
        device: str = "cpu",
        kernels: tuple[np.ndarray, np.ndarray] | None = None,
        pairs: tuple[np.ndarray, np.ndarray] | None = None,
    ) -> None:
        self.config, self.device, self.folders = config, torch.device(device), list(folders)
        further = [image for folder in self.folders[1:] for image in folder.images]
        groups = [list(self.folders[0].images), further, draw_pages(config.pages)]
        self.store = PictureStore([image for group in groups for image in group], self.device)
        shares = torch.tensor([share if group else 0.0 for share, group in zip(config.shares, groups, strict=True)])
        counts = torch.tensor([len(group) for group in groups])
        self.bounds = (torch.cumsum(shares, 0) / shares.sum()).to(self.device)
        self.counts, self.firsts = counts.to(self.device), (torch.cumsum(counts, 0) - counts).to(self.device)
        self.luma = torch.tensor(LUMA, dtype=torch.float32, device=self.device)
        pool, _ = make_kernels(RestorationConfig(seed=config.seed, pool=config.pool)) if kernels is None else kernels
        self.kernels = torch.from_numpy(pool).to(self.device)
        self.pairs = None if pairs is None else torch.from_numpy(np.stack(pairs, axis=1)).to(self.device)

    def __call__(self, index: int) -> NoisyBatch:
        """Batch `index`."""
        config, draw = self.config, _Draw(self.device, self.config.seed, index)
        n, white = config.batch, (config.batch + 1) // 2
        is_gray = draw.uniform(n) < config.gray
        clear = self._clear(draw, n, is_gray)
        sigma = config.sigma * draw.uniform(white).square()
        noisy = clear[:white] + each(sigma) * draw.normal(clear[:white].shape, is_gray[:white])
        kernels, assumed = self._kernels(draw, n - white)
        low, high = CAMERA_NOISE
        noise = low * (high / low) ** draw.uniform(n - white)
        blurred = blur(clear[white:], kernels)
        blurred = blurred + each(noise) * draw.normal(blurred.shape, is_gray[white:])
        rounded = (255 * blurred.clamp(0, 1)).round() / 255
        blurred = torch.where(each(draw.uniform(n - white) < config.rounded), rounded, blurred)
        is_misjudged = draw.uniform(n - white) < config.misjudged
        factor = torch.exp(math.log(2) * (2 * draw.uniform(n - white) - 1))
        judged = torch.where(is_misjudged, noise * factor, noise).clamp_min(MIN_NOISE)
        return NoisyBatch(index, clear[:white], noisy, sigma, clear[white:], blurred, assumed, judged)

    def _clear(self, draw: _Draw, n: int, is_gray: torch.Tensor) -> torch.Tensor:
        """Regions of random pictures with random flips, transposes, gamma, contrast and light."""
        config = self.config
        group = (draw.uniform(n)[:, None] >= self.bounds).sum(dim=1).clamp_max(2)
        counts = self.counts[group]
        picture = self.firsts[group] + torch.minimum((draw.uniform(n) * counts).long(), counts - 1)
        images = self.store.regions(picture, draw.uniform(2, n), config.crop)
        images = turned(images, draw.uniform(3, n) < 0.5)
        luminance = torch.einsum("c,nchw->nhw", self.luma, images)[:, None].expand_as(images)
        images = torch.where(each(is_gray), luminance, images)
        varied = images ** each(torch.exp(GAMMA * (2 * draw.uniform(n) - 1)))
        mean = varied.mean(dim=(1, 2, 3), keepdim=True)
        varied = (mean + (varied - mean) * each(draw.between(n, *CONTRAST))) * each(draw.between(n, *LIGHT))
        return torch.where(each(draw.uniform(n) < 0.5), varied.clamp(0, 1), images)

    def _kernels(self, draw: _Draw, n: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Kernels (N, K, K) of the blur, and those taken for them: estimates, or noisy, cut, too wide or narrow."""
        kernels = self.kernels[(draw.uniform(n) * len(self.kernels)).long()]
        kernels = turned(kernels[:, None], draw.uniform(3, n) < 0.5)
        largest = kernels.amax(dim=(2, 3), keepdim=True)
        near = functional.max_pool2d(kernels, 3, 1, 1) > 0.02 * largest  # no haze far from the path
        deviation = each(draw.between(n, *KERNEL_NOISE)) * largest
        noisy = kernels + near * deviation * draw.normal(kernels.shape)
        cut = torch.where(kernels < each(KERNEL_CUT * draw.uniform(n)) * largest, 0.0, kernels)
        wide = filtered(kernels, lowpass(KERNEL_WIDTH * draw.uniform(n), (kernels.shape[-2], kernels.shape[-1])))
        kind = torch.where(draw.uniform(n) < self.config.wrong, draw.uniform(n), 1.0)
        assumed = kernels
        for changed, (begin, end) in ((noisy, (0.0, 0.4)), (cut, (0.3, 0.6)), (wide, (0.55, 0.8))):
            assumed = torch.where(each((kind >= begin) & (kind < end)), changed, assumed)
        kernels = torch.where(each((kind >= 0.8) & (kind < 1)), wide, kernels)
        both = torch.cat([kernels, assumed], dim=1)
        if self.pairs is not None:
            estimated = turned(self.pairs[(draw.uniform(n) * len(self.pairs)).long()], draw.uniform(3, n) < 0.5)
            both = torch.where(each(draw.uniform(n) < self.config.estimated), estimated, both)
        both = normalized(both.clamp_min(0))
        return both[:, 0], both[:, 1]


def normalized(kernels: torch.Tensor) -> torch.Tensor:
    """Kernels (..., K, K) with the sum 1."""
    return kernels / kernels.sum(dim=(-2, -1), keepdim=True)


class _Draw:
    """Random numbers of a batch, on the device."""

    def __init__(self, device: torch.device, seed: int, index: int) -> None:
        mixed = int(np.random.SeedSequence((seed, index)).generate_state(1, np.uint64)[0])
        self.device = device
        self.generator = torch.Generator(device).manual_seed(mixed >> 1)

    def uniform(self, *shape: int) -> torch.Tensor:
        return torch.rand(shape, generator=self.generator, device=self.device)

    def between(self, n: int, low: float, high: float) -> torch.Tensor:
        return low + (high - low) * self.uniform(n)

    def normal(self, shape: torch.Size, is_gray: torch.Tensor | None = None) -> torch.Tensor:
        """White noise; equal in the three channels of gray images (N, 3, H, W)."""
        noise = torch.randn(shape, generator=self.generator, device=self.device)
        return noise if is_gray is None else torch.where(each(is_gray), noise[:, :1].expand(shape), noise)


def each(values: torch.Tensor) -> torch.Tensor:
    """One value an image as a tensor that broadcasts over (N, C, H, W)."""
    return values[:, None, None, None]


def turned(images: torch.Tensor, which: torch.Tensor) -> torch.Tensor:
    """Square images (N, C, S, S) transposed where `which[0]`, and flipped in rows and columns where the others say."""
    images = torch.where(each(which[0]), images.transpose(-2, -1), images)
    images = torch.where(each(which[1]), images.flip(-2), images)
    return torch.where(each(which[2]), images.flip(-1), images)


# ------------------------------------------------------------------ task
def negative_psnr(images: torch.Tensor, clear: torch.Tensor) -> torch.Tensor:
    """mean log10(|x - x_true|^2 + epsilon) over the crops: a dB counts the same at every level of noise."""
    return ((images - clear).square().mean(dim=(1, 2, 3)) + MSE_EPSILON).log10().mean()


class DenoiserTask:
    """The error of denoised crops and of what `pnp_iterates` makes of blurred ones, through all of its steps.

    The figures are how much nearer to the clear crops the results are, in dB.
    """

    shipped = "network"

    def __init__(self, network: Denoiser, maker: NoisyBatchMaker) -> None:
        self.network, self.maker = network, maker
        self.modules: Mapping[str, nn.Module] = {"network": network}

    def batch(self, index: int) -> NoisyBatch:
        return self.maker(index)

    def losses(self, batch: NoisyBatch, share: float) -> Iterator[Loss]:
        white = self.network(batch.noisy, batch.sigma)
        loss, figures = negative_psnr(white, batch.clear), dict[str, float]()
        margin = batch.kernels.shape[-1] // 2
        inside = (..., slice(margin, -margin or None), slice(margin, -margin or None))
        scene = batch.scene[inside]
        iterates = [x[inside] for x in pnp_iterates(self.network, batch.blurred, batch.kernels, batch.noise)]
        for iterate, weight in zip(iterates, STEP_WEIGHTS, strict=True):
            loss = loss + weight * negative_psnr(iterate, scene)
        if batch.number % FIGURES_EVERY == 0:
            figures["white"] = psnr_gain(white.detach(), batch.noisy, batch.clear)
            figures["deconvolution"] = psnr_gain(iterates[-1].detach(), batch.blurred, scene)
        yield Loss("network", loss, figures)

    def describe(self) -> dict[str, Any]:
        folders = [[folder.path.name, len(folder.images)] for folder in self.maker.folders]
        return {
            "architecture": Denoiser.NAME, "network": self.network.config, "folders": folders,
            **asdict(self.maker.config),
        }  # fmt: skip
