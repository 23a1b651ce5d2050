"""Groups of candidate kernels, on which `gpudeblur train judge` trains.

    python -m bench.training.judge --data DATA --out FOLDER [--minutes 20] [--split train|choose] [--device cuda]

Pictures of `KINDS` are blurred. The two-step method estimates their kernels from two of its initializations, drawn anew
for each batch, and takes the better one through the finest scale. To these come the true kernel and wrong ones of known
kinds (`wrong_kernels`). Each is judged by its error ratio (ER): squared error of the hyper-Laplacian restoration at the
best shift, 15 border pixels dropped, over that with the true kernel. A batch of them is a file NAME.groups.safetensors;
NAME.npz beside it has the signals of every candidate, by which the weight of the judge is chosen.

train: faces to 007500, BSDS500's train without its last 30, drawn pages. choose: faces 007501 to 007900, those 30,
pages of other letters, other kernels. No GPU has run this yet.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from scipy import ndimage

from gpudeblur.blind.observation import Observation
from gpudeblur.blind.options import Settings, TwoStepOptions
from gpudeblur.blind.schedule import finest_options
from gpudeblur.blind.selection import ENERGY_WEIGHT, KernelScores, explain, rank, signals, take
from gpudeblur.blind.two_step import WITHOUT_LIGHTS, Views, coarse_kernels, finish, views_of
from gpudeblur.images.kernels import fit_size
from gpudeblur.images.noise import divide_by_noise
from gpudeblur.images.planes import LUMA
from gpudeblur.networks.denoiser.training import draw_pages
from gpudeblur.networks.judge.training import SUFFIX, Groups
from gpudeblur.networks.training.data import RestorationConfig, make_kernels
from gpudeblur.nonblind.methods import hyper_laplacian, sparse
from gpudeblur.nonblind.regularization import equivalent_weight
from gpudeblur.numerics.arrays import Array, array_module, choose_module, move, stack, to_host
from gpudeblur.numerics.chunks import map_in_chunks
from gpudeblur.synthesis import blur

from ..cases import gray_picture, night_scene, quantised, valid
from ..evaluate import arguments

POOL = RestorationConfig(seed=71, pool=600, kernels=(5, 31))
TRAIN_FACES, CHOOSE_FACES, CHOOSE_PHOTOGRAPHS = 7500, 400, 30
PAGES, CHOOSE_PAGES = 40, 12
BORDER, MAX_SHIFT = 15, 5  # as the bench judges
WEIGHT = equivalent_weight(0.0068, sparse.WEIGHT_RULE, hyper_laplacian.WEIGHT_RULE)  # that of the bench's restoration
MAX_RATIO = 1e3
PICTURES = 8  # of a batch
HURRIED: dict[str, Any] = {"finest_candidates": 1, "iterations": 4, "finest_iterations": 3}  # half of the work


@dataclass(frozen=True)
class Kind:
    """Pictures of one shape and one kernel size; `sources` with their shares."""

    name: str
    shape: tuple[int, int]  # of the blurred picture
    size: int
    share: float  # of the batches
    sources: Mapping[str, float]


CROPS = {"photographs": 0.6, "pages": 0.3, "night": 0.1}
KINDS = (
    Kind("faces-19", (91, 71), 19, 0.2, {"faces": 1.0}),
    Kind("faces-27", (83, 63), 27, 0.2, {"faces": 1.0}),
    Kind("crops-15", (96, 96), 15, 0.3, CROPS),
    Kind("crops-21", (112, 112), 21, 0.3, CROPS),
)


class Library(NamedTuple):
    """Sharp gray pictures in [0, 1], or their files, by source, and kernels with their sides."""

    pictures: Mapping[str, Sequence[Any]]
    kernels: np.ndarray
    sides: np.ndarray


class Batch(NamedTuple):
    """Blurred (n, H, W) and sharp pictures, true kernels in their window (n, S, S), and wrong ones (m, n, S, S)."""

    kind: Kind
    blurred: np.ndarray
    sharp: np.ndarray
    kernel: np.ndarray
    wrong: np.ndarray


# ------------------------------------------------------------------ pictures
def library(data: Path, split: str) -> Library:
    """The pictures and kernels of "train" or "choose"."""
    is_train = split == "train"
    faces = sorted((data / "faces").glob("*.jpg"))
    shots = [gray_picture(path) for path in sorted((data / "natural" / "train").glob("*.jpg"))]
    shots = shots[:-CHOOSE_PHOTOGRAPHS] if is_train else shots[-CHOOSE_PHOTOGRAPHS:]
    pages = draw_pages(PAGES, (288, 288), 81) if is_train else draw_pages(CHOOSE_PAGES, (288, 288), 82)
    pictures: dict[str, Sequence[Any]] = {
        "faces": faces[:TRAIN_FACES] if is_train else faces[TRAIN_FACES : TRAIN_FACES + CHOOSE_FACES],
        "photographs": shots,
        "pages": [np.tensordot(LUMA, page.numpy() / 255, 1) for page in pages],
        "night": [scene for shot in shots if (scene := night_scene(shot)) is not None],
    }
    kernels, sides = make_kernels(POOL)
    chosen = (np.arange(len(sides)) % 5 != 0) == is_train
    return Library(pictures, kernels[chosen], sides[chosen])


def make_batch(kind: Kind, library: Library, seed: Sequence[int], count: int = PICTURES) -> Batch:
    """Random pictures of a kind; everything comes from the seed."""
    rng = np.random.default_rng(seed)
    names, shares = list(kind.sources), np.array(list(kind.sources.values()))
    rows = []
    for _ in range(count):
        source = str(rng.choice(names, p=shares / shares.sum()))
        pictures = library.pictures[source]
        kernel = _kernel(library, kind.size, rng, 0 if source == "faces" else 6)
        side = len(kernel)
        while True:
            picture = pictures[int(rng.integers(len(pictures)))]
            picture = gray_picture(picture) if isinstance(picture, Path) else picture
            picture = picture.T if source != "faces" and rng.random() < 0.5 else picture
            needed = [s + side - 1 for s in kind.shape]
            if all(have >= want for have, want in zip(picture.shape, needed, strict=True)):
                break
        places = [int(rng.integers(have - want + 1)) for have, want in zip(picture.shape, needed, strict=True)]
        crop = picture[places[0] : places[0] + needed[0], places[1] : places[1] + needed[1]]
        crop = crop[:, ::-1] if rng.random() < 0.5 else crop
        blurred, sharp = _observe(np.ascontiguousarray(crop), kernel, source, rng)
        window = fit_size(kernel, (kind.size, kind.size))
        rows.append((blurred, sharp, window, wrong_kernels(window / window.sum(), library, rng)))
    blurred, sharp, kernels, wrong = (np.stack(column).astype(np.float32) for column in zip(*rows, strict=True))
    return Batch(kind, blurred, sharp, kernels, wrong.swapaxes(0, 1).copy())


def _kernel(library: Library, size: int, rng: np.random.Generator, beyond: int = 6) -> np.ndarray:
    """A kernel whose side is, in two of three cases, nearly that of the window, and rarely more, by up to `beyond`."""
    low, high = (size - 4, size) if rng.random() < 2 / 3 else (7, size)
    if rng.random() < 0.05:
        low, high = size, size + beyond
    first, last = np.searchsorted(library.sides, (low, high + 1))
    number = int(rng.integers(min(first, len(library.sides) - 1), max(last, first + 1)))
    number = min(number, len(library.sides) - 1)
    kernel = fit_size(library.kernels[number], (int(library.sides[number]),) * 2).astype(np.float64)
    kernel = kernel.T if rng.random() < 0.5 else kernel
    kernel = np.rot90(kernel, int(rng.integers(4)))
    return np.ascontiguousarray(kernel / kernel.sum())


def _observe(crop: np.ndarray, kernel: np.ndarray, source: str, rng: np.random.Generator) -> tuple[np.ndarray, ...]:
    """(blurred, sharp): as the benches make them; some with less contrast, some blurred in another gamma."""
    noise = float(rng.choice([0, rng.uniform(0, 0.01), rng.uniform(0.01, 0.02)], p=[0.45, 0.3, 0.25]))
    if source == "night":
        blurred = np.minimum(blur(crop, kernel), 1)
        blurred = blurred + max(noise, 0.003) * rng.standard_normal(blurred.shape)
        return quantised(blurred), np.minimum(valid(crop, kernel), 1)
    if rng.random() < 0.15:
        crop = rng.uniform(0, 0.3) + rng.uniform(0.3, 0.7) * crop
    gamma = float(rng.choice([1, 2.2, 1 / 2.2], p=[0.8, 0.15, 0.05]))
    blurred = np.clip(blur(crop**gamma, kernel), 0, 1) ** (1 / gamma)
    blurred = blurred + noise * rng.standard_normal(blurred.shape)
    return quantised(blurred) if rng.random() < 0.8 else blurred, valid(crop, kernel)


def wrong_kernels(kernel: np.ndarray, library: Library, rng: np.random.Generator, count: int = 4) -> np.ndarray:
    """`count` kernels of different wrong kinds, made of a true one (S, S)."""
    size = len(kernel)

    def turned() -> np.ndarray:
        return kernel[::-1, ::-1] if rng.random() < 0.3 else np.rot90(kernel)

    def ghost() -> np.ndarray:
        reach = max(2, size // 3)
        shift = rng.integers(-reach, reach + 1, 2)
        return kernel + rng.uniform(0.15, 0.8) * ndimage.shift(kernel, shift, order=0)

    def spot() -> np.ndarray:
        delta = np.zeros_like(kernel)
        delta[size // 2, size // 2] = 1
        return ndimage.gaussian_filter(delta, np.exp(rng.uniform(np.log(0.2), np.log(2.0))))

    def sparse_one() -> np.ndarray:
        return kernel * (kernel > rng.uniform(0.1, 0.6) * kernel.max())

    def zoomed() -> np.ndarray:
        factor = np.exp(rng.choice([-1, 1]) * rng.uniform(0.08, 0.6))
        middle = size // 2
        matrix = np.eye(2) / factor
        return ndimage.affine_transform(kernel, matrix, [middle - middle / factor] * 2, order=1)

    def smooth() -> np.ndarray:
        return ndimage.gaussian_filter(kernel, rng.uniform(0.5, 2.0))

    def noisy() -> np.ndarray:
        near = ndimage.maximum_filter(kernel, 3) > 0.02 * kernel.max()
        return kernel + near * rng.uniform(0.1, 0.5) * kernel.max() * rng.standard_normal(kernel.shape)

    def other() -> np.ndarray:
        return fit_size(_kernel(library, size, rng), (size, size))

    def mixture() -> np.ndarray:
        share = rng.uniform(0.2, 0.8)
        return share * kernel + (1 - share) * other()

    kinds = [turned, ghost, spot, sparse_one, zoomed, smooth, noisy, other, mixture]
    kernels = []
    for number in rng.permutation(len(kinds))[:count]:
        candidate = np.maximum(kinds[number](), 0)
        kernels.append(candidate / candidate.sum() if candidate.sum() > 0 else kernel)
    return np.stack(kernels)


# ------------------------------------------------------------------ candidates
def make_groups(batch: Batch, xp: Any, starts: tuple[str, ...]) -> tuple[Groups, dict[str, np.ndarray]]:
    """The groups of a batch, and {energy, match, gain, noise_scale, log_ratio: (n, C), names: of the candidates}."""
    size, options = (batch.kind.size,) * 2, TwoStepOptions(starts=starts, **HURRIED)
    settings = Settings.of(
        kernel_size=size, channel_axis=None, device=None, method="two-step", final=None, gamma=1.0, prior=None,
        options=options, defects=None,
    )  # fmt: skip
    observed = Observation.of(move(batch.blurred, xp), settings)
    views = views_of(observed, size, options)
    coarse = coarse_kernels(*views.arrays, size=size, options=options, report=_silent)
    finished = _finished(views, coarse, size, options)
    given = move(np.concatenate([batch.kernel[None], batch.wrong]), xp)
    candidates = xp.concatenate([coarse[0], finished, given])
    names = [*(f"coarse {name}" for name in starts), *(f"finest {i}" for i in range(len(finished)))]
    names += ["true", *(f"wrong {i}" for i in range(len(batch.wrong)))]
    scaled = divide_by_noise(views.full if views.scoring is None else views.scoring, views.noise_scale)
    c, n, (h, w) = len(candidates), len(batch.blurred), batch.kind.shape
    flat = xp.ascontiguousarray(candidates.reshape(c * n, *size))
    images, scale = xp.tile(scaled, (c, 1, 1)), xp.tile(views.noise_scale, c)
    latent, residual, energy, match, gain = map_in_chunks(_explained, images, flat)
    log_ratio = _log_ratios(batch, flat, c, xp)

    def grouped(array: Array) -> torch.Tensor:
        host = np.ascontiguousarray(to_host(array))
        return torch.from_numpy(host).reshape(c, n, *host.shape[1:]).transpose(0, 1).contiguous()

    latent, residual = (grouped(array[:, :h, :w]).half() for array in (latent, residual))
    score = grouped(match - ENERGY_WEIGHT * energy / scale).float()
    groups = Groups(torch.from_numpy(to_host(scaled)).half(), latent, residual, log_ratio.T.contiguous(), score)
    columns = {"energy": energy, "match": match, "gain": gain, "noise_scale": scale}
    numbers = {name: grouped(column).numpy() for name, column in columns.items()}
    numbers |= {"log_ratio": groups.log_ratio.numpy(), "names": np.array(names), "kind": np.array(batch.kind.name)}
    return groups, numbers


def _explained(blurred: Array, kernel: Array) -> tuple[Array, ...]:
    """(latent, residual, energy, match, gain)."""
    padded, latent, residual = explain(blurred, kernel)
    return latent, residual, *signals(blurred, kernel, padded, latent, residual)


def _silent(fraction: float) -> None:
    """No report."""


def _finished(views: Views, coarse: Sequence[Array], size: tuple[int, int], options: TwoStepOptions) -> Array:
    """Kernels (runs, n, *size): the best initialization through the finest scale, with each of its variants."""
    kernels, *parts = coarse
    xp, scaled = array_module(views.full), divide_by_noise(views.full, views.noise_scale)
    unlit = scaled if views.unlit is None else divide_by_noise(views.unlit, views.noise_scale)
    scores = [KernelScores(*(part[i] for part in parts), views.noise_scale) for i in range(len(kernels))]  # type: ignore[call-arg]
    best, dark = rank(scores, 1)[0], xp.asarray([name in WITHOUT_LIGHTS for name in options.starts])
    image, kernel = xp.where(dark[best][:, None, None], unlit, scaled), take(kernels, best)
    return stack([finish(image, kernel, size, variant, _silent) for variant in finest_options(options)])


def _log_ratios(batch: Batch, flat: Array, c: int, xp: Any) -> torch.Tensor:
    """(C, n): logarithms of the error ratios of kernels (C n, S, S)."""
    sharp = torch.from_numpy(batch.sharp)

    def errors(kernels: Array, copies: int) -> torch.Tensor:
        blurred = xp.tile(move(batch.blurred, xp), (copies, 1, 1))
        restored = hyper_laplacian.hyper_laplacian(blurred, kernels, weight=WEIGHT, boundary="liu-jia")
        tensor = torch.from_numpy(np.ascontiguousarray(to_host(restored)))
        return torch.stack([least_error(part, sharp) for part in tensor.reshape(copies, *sharp.shape)])

    true = errors(move(batch.kernel, xp), 1)
    return (errors(flat, c) / true.clamp_min(1e-12)).clamp(1e-3, MAX_RATIO).log()


def least_error(images: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
    """Mean squared error (n,) at the best shift, as `gpudeblur.metrics.align` measures it: quarters of pixels."""
    n, h, w = reference.shape
    inside = reference[:, BORDER : h - BORDER, BORDER : w - BORDER]
    rows, columns = inside.shape[1:]

    def window(dy: int, dx: int) -> torch.Tensor:
        return images[:, BORDER + dy : BORDER + dy + rows, BORDER + dx : BORDER + dx + columns]

    shifts = [(dy, dx) for dy in range(-MAX_SHIFT, MAX_SHIFT + 1) for dx in range(-MAX_SHIFT, MAX_SHIFT + 1)]
    errors = torch.stack([(window(*shift) - inside).square().mean(dim=(1, 2)) for shift in shifts])
    best = torch.tensor(shifts, device=images.device)[errors.argmin(dim=0)].clamp(1 - MAX_SHIFT, MAX_SHIFT - 1)
    # The nine windows around the best shift, of each image by its own indices.
    y = torch.arange(BORDER - 1, BORDER + rows + 1, device=images.device) + best[:, :1]
    x = torch.arange(BORDER - 1, BORDER + columns + 1, device=images.device) + best[:, 1:]
    near = images[torch.arange(n, device=images.device)[:, None, None], y[:, :, None], x[:, None, :]]
    least = errors.amin(dim=0)
    for top in np.arange(0.25, 1.8, 0.25):
        for left in np.arange(0.25, 1.8, 0.25):
            (i, a), (j, b) = (divmod(float(value), 1.0) for value in (top, left))
            p, q = int(i), int(j)
            moved = sum(
                wy * wx * near[:, p + dy : p + dy + rows, q + dx : q + dx + columns]
                for dy, wy in ((0, 1 - a), (1, a)) if wy
                for dx, wx in ((0, 1 - b), (1, b)) if wx
            )  # fmt: skip
            least = torch.minimum(least, (moved - inside).square().mean(dim=(1, 2)))
    return least


def main(argv: Sequence[str] | None = None) -> None:
    parser = arguments(__doc__, "data", "device")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=20)
    parser.add_argument("--split", choices=["train", "choose"], default="train")
    args = parser.parse_args(argv)
    args.out.mkdir(parents=True, exist_ok=True)
    xp = choose_module(None, args.device)
    sources, end = library(args.data, args.split), time.monotonic() + 60 * args.minutes
    shares, done = np.array([kind.share for kind in KINDS]), np.zeros(len(KINDS))
    for number in itertools.count():
        which = int((shares * (number + 1) - done).argmax())
        done[which] += 1
        name = f"{args.split}-{number:04d}-{KINDS[which].name}"
        if (args.out / f"{name}{SUFFIX}").exists():
            continue
        starts = np.random.default_rng((1, number)).choice(TwoStepOptions().starts, 2, replace=False)
        groups, numbers = make_groups(make_batch(KINDS[which], sources, (0, number)), xp, tuple(map(str, starts)))
        np.savez(args.out / f"{name}.npz", allow_pickle=False, **numbers)
        groups.write(args.out / f"{name}{SUFFIX}")
        print(name, groups.log_ratio.exp().median(dim=0)[0].round(decimals=2).tolist(), flush=True)
        if time.monotonic() > end:
            break


if __name__ == "__main__":
    main()
