"""How the denoiser is trained: pairs of a clear and a noisy crop, made on the device, and the loss of what it leaves.

Half of a batch has white noise. The other half is what the quadratic step of half-quadratic splitting makes of a
blurred noisy crop, for the right kernel or one that is slightly wrong. All random numbers come from the device, of the
seed and the index of the batch, and no step waits for a number from a GPU.
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
from ..training.data import RestorationConfig, make_kernels
from ..training.losses import charbonnier, psnr_gain
from ..training.pictures import Pictures
from ..training.trainer import Loss
from .network import Denoiser

MIN_SIGMA, MAX_STEP_SIGMA = 0.003, 0.15  # levels of the proximal step, which the denoiser is told
# Noise of blurred crops; the smallest is the rounding to 8 bits.
MIN_CAMERA_SIGMA, MAX_CAMERA_SIGMA = 0.001, 0.05
LEAST_RATIO = 0.5  # of the level of the step to the noise of the blurred crop: splitting does not go on below about 1
GAMMA, CONTRAST, LIGHT = 0.4, (0.6, 1.3), (0.7, 1.15)  # log of the exponent; factors
KERNEL_NOISE = (0.01, 0.03)  # standard deviation of the noise of wrong kernels, as a share of their largest value
KERNEL_WIDTH = 0.6  # pixels, largest standard deviation by which a wrong kernel is too wide or too narrow
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
    crop : pixels, side of the crops that the network gets.
    margin : pixels around them that are blurred, too, by a circular convolution.
    pool : number of blur kernels; flips and transposes make eight of each.
    pages : number of drawn pages of text.
    shares : of the pictures of the first folder, of those of the further ones, and of drawn text; they are divided by
        their sum, without that of missing folders.
    gray : crops without color, in three equal channels with equal noise.
    sigma : largest level of the white noise; the square roots of the levels are uniform.
    wrong : crops with residues of deconvolution that were deconvolved with a wrong kernel.
    """

    seed: int = 0
    batch: int = 16
    crop: int = 96
    margin: int = 16
    pool: int = 3000
    pages: int = 96
    shares: tuple[float, float, float] = (0.65, 0.2, 0.15)
    gray: float = 0.5
    sigma: float = 0.25
    wrong: float = 0.2

    def __post_init__(self) -> None:
        for name, minimum in (("batch", 2), ("crop", 16), ("margin", 0), ("pool", 8), ("pages", 1)):
            check_count(name, getattr(self, name), minimum=minimum)
        for name in ("gray", "wrong"):
            check_number(name, getattr(self, name), "in [0, 1]", lambda share: 0 <= share <= 1)
        check_number("sigma", self.sigma, "in (0, 1]", lambda sigma: 0 < sigma <= 1)

    @property
    def region(self) -> int:
        """Pixels, side of what is blurred."""
        return self.crop + 2 * self.margin


class NoisyBatch(NamedTuple):
    """Crops (N, 3, H, W), clear ones in [0, 1] and noisy ones, and the level (N,) that the denoiser is told."""

    number: int
    clear: torch.Tensor
    noisy: torch.Tensor
    sigma: torch.Tensor


# ------------------------------------------------------------------ pictures
class PictureStore:
    """Pictures of any sizes, (3, H, W) uint8, in one tensor of a device; a batch of regions is one gather."""

    def __init__(self, images: Sequence[torch.Tensor], device: torch.device) -> None:
        sizes = torch.tensor([[*image.shape[1:]] for image in images])
        self.pixels = torch.cat([image.reshape(-1) for image in images]).to(device)
        self.sizes = sizes.to(device)
        self.offsets = (torch.cumsum(3 * sizes.prod(dim=1), 0) - 3 * sizes.prod(dim=1)).to(device)

    def regions(self, picture: torch.Tensor, place: torch.Tensor, crop: int, margin: int) -> torch.Tensor:
        """Regions (N, 3, S, S) in [0, 1], S = crop + 2 margin, mirrored at the borders of their pictures.

        Parameters
        ----------
        picture : (N,) numbers of pictures.
        place : (2, N) in [0, 1): where the crop, without the margin, begins; it is inside if the picture is so large.
        """
        size, steps = self.sizes[picture].T, torch.arange(-margin, crop + margin, device=picture.device)
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


# ------------------------------------------------------------------ residues of deconvolution
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


def lowpass(deviation: torch.Tensor, shape: tuple[int, int]) -> torch.Tensor:
    """Transfer functions (N, 1, H, W // 2 + 1) of Gaussians with standard deviations (N,) in pixels."""
    y = torch.fft.fftfreq(shape[0], device=deviation.device)[:, None]
    x = torch.fft.rfftfreq(shape[1], device=deviation.device)
    return torch.exp(-2 * (math.pi * deviation[:, None, None, None]) ** 2 * (y.square() + x.square()))


def filtered(images: torch.Tensor, transfer: torch.Tensor) -> torch.Tensor:
    """Images (N, C, H, W), circularly filtered."""
    return torch.fft.irfft2(torch.fft.rfft2(images) * transfer, s=images.shape[-2:])


def transfer_function(kernels: torch.Tensor, shape: tuple[int, int]) -> torch.Tensor:
    """K (N, 1, H, W // 2 + 1) of kernels (N, k, k), k odd, whose middle is the origin."""
    radius = kernels.shape[-1] // 2
    padded = kernels.new_zeros(len(kernels), *shape)
    padded[:, : kernels.shape[1], : kernels.shape[2]] = kernels
    return torch.fft.rfft2(padded.roll((-radius, -radius), (1, 2)))[:, None]


class NoisyBatchMaker:
    """Batches of clear and noisy crops.

    Parameters
    ----------
    folders : of clear pictures; the first is the main one.
    device : torch device of pictures, kernels and batches.
    kernels : what `make_kernels` returns, of any number; None: it is called, for `config.pool`.
    """

    def __init__(
        self,
        folders: Sequence[Pictures],
        config: DenoiserConfig,
        device: str = "cpu",
        kernels: tuple[np.ndarray, np.ndarray] | None = None,
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

    def __call__(self, index: int) -> NoisyBatch:
        """Batch `index`."""
        config, draw = self.config, _Draw(self.device, self.config.seed, index)
        n, white = config.batch, (config.batch + 1) // 2
        is_gray = draw.uniform(n) < config.gray
        clear = self._clear(draw, n, is_gray)
        sigma = config.sigma * draw.uniform(white).square()
        noise = draw.normal(clear[:white].shape, is_gray[:white])
        noisy = clear[:white] + each(sigma) * noise
        restored, step_sigma = self._restored(draw, clear[white:], is_gray[white:])
        crop = (..., *(slice(config.margin, config.margin + config.crop),) * 2)
        return NoisyBatch(
            index,
            clear[crop].contiguous(),
            torch.cat([noisy[crop], restored[crop]]),
            torch.cat([sigma, step_sigma]),
        )

    def _clear(self, draw: _Draw, n: int, is_gray: torch.Tensor) -> torch.Tensor:
        """Regions of random pictures with random flips, transposes, gamma, contrast and light."""
        config = self.config
        group = (draw.uniform(n)[:, None] >= self.bounds).sum(dim=1).clamp_max(2)
        counts = self.counts[group]
        picture = self.firsts[group] + torch.minimum((draw.uniform(n) * counts).long(), counts - 1)
        images = self.store.regions(picture, draw.uniform(2, n), config.crop, config.margin)
        images = turned(images, draw.uniform(3, n) < 0.5)
        luminance = torch.einsum("c,nchw->nhw", self.luma, images)[:, None].expand_as(images)
        images = torch.where(each(is_gray), luminance, images)
        varied = images ** each(torch.exp(GAMMA * (2 * draw.uniform(n) - 1)))
        mean = varied.mean(dim=(1, 2, 3), keepdim=True)
        varied = (mean + (varied - mean) * each(draw.between(n, *CONTRAST))) * each(draw.between(n, *LIGHT))
        return torch.where(each(draw.uniform(n) < 0.5), varied.clamp(0, 1), images)

    def _restored(self, draw: _Draw, clear: torch.Tensor, is_gray: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(x, sigma): what `split_step` makes of blurred regions, and the level of the proximal step."""
        n, shape = len(clear), (clear.shape[-2], clear.shape[-1])
        camera = MIN_CAMERA_SIGMA + (MAX_CAMERA_SIGMA - MIN_CAMERA_SIGMA) * draw.uniform(n).square()
        min_step = (LEAST_RATIO * camera).clamp_min(MIN_SIGMA)
        sigma = min_step * (MAX_STEP_SIGMA / min_step) ** draw.uniform(n)
        kernels = self.kernels[(draw.uniform(n) * len(self.kernels)).long()]
        kernels = turned(kernels[:, None], draw.uniform(3, n) < 0.5)[:, 0]
        otf, assumed = self._otfs(draw, kernels, shape)
        blurred = filtered(clear, otf) + each(camera) * draw.normal(clear.shape, is_gray)
        estimate = self._estimate(draw, clear, is_gray, blurred, assumed, camera, sigma)
        return split_step(blurred, assumed, estimate, each((camera / sigma).square())), sigma

    def _otfs(self, draw: _Draw, kernels: torch.Tensor, shape: tuple[int, int]) -> tuple[torch.Tensor, torch.Tensor]:
        """The transfer functions of the blur and of the kernel that is taken for it: noisy, or too wide or narrow."""
        n = len(kernels)
        is_wrong = draw.uniform(n) < self.config.wrong
        largest = kernels.amax(dim=(1, 2), keepdim=True)
        deviation = draw.between(n, *KERNEL_NOISE)[:, None, None] * largest
        near = functional.max_pool2d(kernels[:, None], 3, 1, 1)[:, 0] > 0.02 * largest  # no haze far from the path
        noisy = (kernels + near * deviation * draw.normal(kernels.shape)).clamp_min(0)
        noisy = noisy / noisy.sum(dim=(1, 2), keepdim=True)
        wide = lowpass(KERNEL_WIDTH * draw.uniform(n), shape)
        kind = draw.uniform(n)
        otf = transfer_function(kernels, shape)
        assumed = torch.where(each(is_wrong & (kind < 0.6)), transfer_function(noisy, shape), otf)
        assumed = torch.where(each(is_wrong & (kind > 0.4) & (kind < 0.8)), assumed * wide, assumed)
        return torch.where(each(is_wrong & (kind >= 0.8)), otf * wide, otf), assumed

    @staticmethod
    def _estimate(
        draw: _Draw,
        clear: torch.Tensor,
        is_gray: torch.Tensor,
        blurred: torch.Tensor,
        assumed: torch.Tensor,
        camera: torch.Tensor,
        sigma: torch.Tensor,
    ) -> torch.Tensor:
        """x0 of `split_step`, a crude earlier estimate, the cruder the larger the level of the step.

        The clear region, smoothed, with smooth noise; from a level of 0.02 in half of the cases an estimate with more
        regularization; from 0.06 in a fifth of them the blurred region itself, as in the first pass.
        """
        n, shape = len(clear), (clear.shape[-2], clear.shape[-1])
        smooth = lowpass(1.2 * (sigma / MAX_STEP_SIGMA).sqrt() * draw.uniform(n), shape)
        noise = filtered(draw.normal(clear.shape, is_gray), lowpass(draw.between(n, 0, 1.5), shape))
        noise = noise / noise.std(dim=(1, 2, 3), keepdim=True).clamp_min(1e-6)
        estimate = filtered(clear, smooth) + each(sigma * draw.uniform(n)) * noise
        regular = each((10 ** draw.between(n, 1, 3) * camera.square()).clamp(1e-4, 0.1))
        wiener = split_step(blurred, assumed, blurred.mean(dim=(2, 3), keepdim=True).expand_as(blurred), regular)
        kind = draw.uniform(n)
        estimate = torch.where(each((kind < 0.5) & (sigma > 0.02)), wiener, estimate)
        return torch.where(each((kind > 0.8) & (sigma > 0.06)), blurred, estimate)


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
class DenoiserTask:
    """The Charbonnier loss of denoised crops. The figures are how much nearer to the clear ones they are, in dB."""

    shipped = "network"

    def __init__(self, network: Denoiser, maker: NoisyBatchMaker) -> None:
        self.network, self.maker = network, maker
        self.modules: Mapping[str, nn.Module] = {"network": network}

    def batch(self, index: int) -> NoisyBatch:
        return self.maker(index)

    def losses(self, batch: NoisyBatch, share: float) -> Iterator[Loss]:
        image = self.network(batch.noisy, batch.sigma)
        figures: dict[str, float] = {}
        if batch.number % FIGURES_EVERY == 0:
            white = (len(image) + 1) // 2
            for name, part in (("white", slice(white)), ("deconvolution", slice(white, None))):
                figures[name] = psnr_gain(image[part].detach(), batch.noisy[part], batch.clear[part])
        yield Loss("network", charbonnier(image, batch.clear), figures)

    def describe(self) -> dict[str, Any]:
        folders = [[folder.path.name, len(folder.images)] for folder in self.maker.folders]
        return {
            "architecture": Denoiser.NAME, "network": self.network.config, "folders": folders,
            **asdict(self.maker.config),
        }  # fmt: skip
