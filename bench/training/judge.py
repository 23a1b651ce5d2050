"""Groups of candidate kernels for the judge (`gpudeblur train judge`), and its training where there is a GPU.

    python -m bench.training.judge pack --data DATA -o FILE
    python -m bench.training.judge groups --pictures FILE --out FOLDER [--count 400] [--split train] [--device cpu]
    python -m bench.training.judge gpu --pictures FILE --out FOLDER [--minutes 3.6]

pack: a tar archive (gzip) of pictures as they are, the faces to 007900, BSDS500's train, and a pool of kernels; 40 MiB.

groups: pictures of `KINDS` are blurred; the two-step method estimates their kernels from all initializations, and the
best two go through the finest scale. To these come wrong kernels of known kinds (`wrong_kernels`) and the true one.
Each is judged by its error ratio (ER): squared error of the hyper-Laplacian restoration at the best shift, 15 border
pixels dropped, over that with the true kernel. A batch of them is a file NAME.groups.safetensors.

gpu: groups for two fifths of the minutes, then trainings of `VARIANTS` on the same groups. Leaves the weights of each,
judge.jsonl (the log), and choose.npz: of held-out pictures (faces 7501 to 7900, the last 30 photographs, pages of other
letters) the scores, the logits of each variant and the ER of every candidate. What was learned is written each minute.
"""

from __future__ import annotations

import argparse
import functools
import io
import json
import tarfile
import time
import traceback
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from scipy import ndimage

from gpudeblur.blind.observation import Observation
from gpudeblur.blind.options import Settings, TwoStepOptions
from gpudeblur.blind.schedule import finest_options
from gpudeblur.blind.selection import KernelScores, explain, rank, score_kernels, take
from gpudeblur.blind.two_step import WITHOUT_LIGHTS, Views, coarse_kernels, finish, views_of
from gpudeblur.images.kernels import fit_size
from gpudeblur.images.noise import divide_by_noise
from gpudeblur.images.planes import LUMA
from gpudeblur.networks import bridge
from gpudeblur.networks.blocks import initialized
from gpudeblur.networks.catalog import write_network
from gpudeblur.networks.denoiser.training import draw_pages
from gpudeblur.networks.judge.network import WIDTHS, Judge
from gpudeblur.networks.judge.training import SUFFIX, Groups, JudgeConfig, JudgeTask, logits
from gpudeblur.networks.training import trainer
from gpudeblur.networks.training.data import RestorationConfig, make_kernels
from gpudeblur.nonblind.methods import hyper_laplacian, sparse
from gpudeblur.nonblind.regularization import equivalent_weight
from gpudeblur.numerics.arrays import Array, array_module, move, replayed, side_by_side, stack
from gpudeblur.synthesis import blur

from ..cases import night_scene, quantised, valid

KERNELS = "kernels.npz"
POOL = RestorationConfig(seed=71, pool=5000, kernels=(5, 51))
TRAIN_FACES, CHOOSE_FACES, CHOOSE_PHOTOGRAPHS = 7500, 400, 30
PAGES, CHOOSE_PAGES = 100, 25
BORDER, MAX_SHIFT = 15, 5  # as the bench judges
WEIGHT = equivalent_weight(0.0068, sparse.WEIGHT_RULE, hyper_laplacian.WEIGHT_RULE)  # that of the bench's restoration
MAX_RATIO = 1e3
GROUPS_SHARE = 0.4  # of the minutes on a GPU
CHOOSE_SHARE = 1 / 6  # of the batches, of held-out pictures
LARGEST = 25e9  # bytes of groups on a GPU
VARIANTS: dict[str, Sequence[int]] = {"judge": WIDTHS, "wide": (24, 32, 48, 64, 96)}


@dataclass(frozen=True)
class Kind:
    """Pictures of one shape and one kernel size, in batches of `count`; `sources` with their shares."""

    name: str
    shape: tuple[int, int]  # of the blurred picture
    size: int
    count: int
    share: float  # of the batches
    sources: Mapping[str, float]


PHOTOGRAPHIC = {"photographs": 0.7, "pages": 0.3}
KINDS = (
    Kind("faces-19", (91, 71), 19, 96, 0.2, {"faces": 1.0}),
    Kind("faces-27", (83, 63), 27, 96, 0.2, {"faces": 1.0}),
    Kind("crops-23", (160, 160), 23, 48, 0.15, PHOTOGRAPHIC),
    Kind("crops-21", (255, 255), 21, 32, 0.12, PHOTOGRAPHIC),
    Kind("crops-31", (255, 255), 31, 32, 0.15, PHOTOGRAPHIC),
    Kind("crops-51", (255, 255), 51, 32, 0.1, PHOTOGRAPHIC),
    Kind("night-31", (255, 255), 31, 32, 0.08, {"night": 1.0}),
)


class Library(NamedTuple):
    """Sharp gray pictures in [0, 1] by source, and kernels with their sides, for training or to choose by."""

    pictures: dict[str, list[np.ndarray]]
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
def pack(data: Path, out: Path) -> None:
    kernels, sides = make_kernels(POOL)
    buffer = io.BytesIO()
    np.savez_compressed(buffer, kernels=kernels.astype(np.float16), sides=sides)
    faces = sorted((data / "faces").glob("*.jpg"))[: TRAIN_FACES + CHOOSE_FACES]
    with tarfile.open(out, "w:gz") as archive:
        for name, files in {"faces": faces, "photographs": sorted((data / "natural" / "train").glob("*.jpg"))}.items():
            for file in files:
                archive.add(file, f"{name}/{file.name}")
        information = tarfile.TarInfo(KERNELS)
        information.size = buffer.tell()
        buffer.seek(0)
        archive.addfile(information, buffer)


def libraries(path: Path, threads: int) -> dict[str, Library]:
    """{"train": ..., "choose": ...} of an archive of `pack`."""
    with tarfile.open(path) as archive:
        files = {member.name: archive.extractfile(member).read() for member in archive.getmembers()}  # type: ignore[union-attr]
    pool = np.load(io.BytesIO(files.pop(KERNELS)))
    kernels, sides = pool["kernels"].astype(np.float32), pool["sides"]
    kernels /= kernels.sum(axis=(1, 2), keepdims=True)
    names = sorted(files)
    with ThreadPoolExecutor(threads) as executor:
        gray = dict(zip(names, executor.map(lambda name: _gray(files[name]), names), strict=True))
    faces = [gray[name] for name in names if name.startswith("faces/")]
    photographs = [gray[name] for name in names if name.startswith("photographs/")]
    result = {}
    for split, seed, pages in (("train", 81, PAGES), ("choose", 82, CHOOSE_PAGES)):
        train = split == "train"
        shots = photographs[:-CHOOSE_PHOTOGRAPHS] if train else photographs[-CHOOSE_PHOTOGRAPHS:]
        pictures = {
            "faces": faces[:TRAIN_FACES] if train else faces[TRAIN_FACES:],
            "photographs": shots,
            "pages": [np.tensordot(LUMA, page.numpy() / 255, 1) for page in draw_pages(pages, (360, 360), seed)],
            "night": [scene for shot in shots if (scene := night_scene(shot)) is not None],
        }
        take_every = np.arange(len(sides)) % 5 != 0
        chosen = take_every if train else ~take_every
        result[split] = Library(pictures, kernels[chosen], sides[chosen])
    return result


def _gray(data: bytes) -> np.ndarray:
    pixels = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"), np.float64) / 255
    return pixels @ np.asarray(LUMA)


def make_batch(kind: Kind, library: Library, seed: Sequence[int], count: int | None = None) -> Batch:
    """Random pictures of a kind; everything comes from the seed."""
    rng, n = np.random.default_rng(seed), count or kind.count
    names, shares = list(kind.sources), np.array(list(kind.sources.values()))
    rows = []
    for _ in range(n):
        source = str(rng.choice(names, p=shares / shares.sum()))
        pictures = library.pictures[source]
        kernel = _kernel(library, kind.size, rng)
        side = len(kernel)
        while True:
            picture = pictures[rng.integers(len(pictures))]
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


def _kernel(library: Library, size: int, rng: np.random.Generator) -> np.ndarray:
    """A kernel whose side is, in two of three cases, nearly that of the window, and rarely more."""
    low, high = (size - 4, size) if rng.random() < 2 / 3 else (7, size)
    if rng.random() < 0.05:
        low, high = size, min(size + 6, 51)
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


def wrong_kernels(kernel: np.ndarray, library: Library, rng: np.random.Generator, count: int = 5) -> np.ndarray:
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
def make_groups(batch: Batch, xp: Any, device: str, graphs: bool = True) -> tuple[Groups, dict[str, np.ndarray]]:
    """The groups of a batch, and {energy, match, gain, noise_scale, log_ratio: (n, C), names: of the candidates}.

    With `graphs`, repeated calls on a device are CUDA graphs.
    """
    size, options = (batch.kind.size,) * 2, TwoStepOptions()
    settings = Settings.of(
        kernel_size=size, channel_axis=None, device=None, method="two-step", final=None, gamma=1.0, prior=None,
        options=options, defects=None,
    )  # fmt: skip
    observed = Observation.of(move(batch.blurred, xp), settings)
    views = Views(observed.luminance, observed.noise_scale)
    if "night" in batch.kind.sources:
        views = views_of(observed, size, options)
    coarse = replayed(
        ("judge coarse", size), functools.partial(coarse_kernels, size=size, options=options), *views.arrays,
        report=_silent, capturable=graphs,
    )  # fmt: skip
    (finished,) = replayed(
        ("judge finest", size), functools.partial(_finished, size=size, options=options), *views.arrays, *coarse,
        report=_silent, capturable=graphs,
    )  # fmt: skip
    kernels, best = coarse[0], finished[0]
    turned = xp.ascontiguousarray(xp.rot90(best, axes=(-2, -1)))[None]
    given = move(np.concatenate([batch.kernel[None], batch.wrong]), xp)
    candidates = xp.concatenate([kernels, finished, turned, given])
    names = [*(f"coarse {name}" for name in options.starts), *(f"finest {i}" for i in range(len(finished)))]
    names += ["turned", "true", *(f"wrong {i}" for i in range(len(batch.wrong)))]
    scaled = divide_by_noise(views.full if views.scoring is None else views.scoring, views.noise_scale)
    c, n, (h, w) = len(candidates), len(batch.blurred), batch.kind.shape
    flat = xp.ascontiguousarray(candidates.reshape(c * n, *size))
    images, scale = xp.tile(scaled, (c, 1, 1)), xp.tile(views.noise_scale, c)
    scores = score_kernels(images, flat, scale)
    _, latent, residual = explain(images, flat)
    log_ratio = _log_ratios(batch, flat, c, xp, device)

    def grouped(array: Array) -> torch.Tensor:
        tensor = on_torch(array, device)
        return tensor.reshape(c, n, *tensor.shape[1:]).transpose(0, 1).contiguous()

    latent, residual = (grouped(array[:, :h, :w]).half() for array in (latent, residual))
    score = grouped(scores.match - 0.8 * scores.energy / scores.noise_scale).float()
    groups = Groups(on_torch(scaled, device).half(), latent, residual, log_ratio.T.contiguous(), score)
    numbers = {
        name: grouped(getattr(scores, name)).cpu().numpy() for name in ("energy", "match", "gain", "noise_scale")
    }
    numbers |= {"log_ratio": groups.log_ratio.cpu().numpy(), "names": np.array(names)}
    good = torch.isfinite(groups.score).all(1) & torch.isfinite(groups.log_ratio).all(1)
    good &= torch.isfinite(groups.latent).all(1).all(1).all(1)
    mask = good.cpu().numpy()
    numbers = {name: values if name == "names" else values[mask] for name, values in numbers.items()}
    return Groups(*(tensor[good] for tensor in groups)), numbers


def on_torch(array: Array, device: str) -> torch.Tensor:
    """A tensor of an array, without a copy where both are on one device; ready when this returns."""
    xp = array_module(array)
    if xp is not np:
        xp.cuda.get_current_stream().synchronize()
    tensor: torch.Tensor = bridge.to_torch(array)
    return tensor.to(device)


def _silent(fraction: float) -> None:
    """No report."""


def _finished(*arrays: Array, size: tuple[int, int], options: TwoStepOptions, report: Any) -> tuple[Array]:
    """Kernels (runs, n, *size): the two best initializations through the finest scale, with each of its variants."""
    views, (kernels, energy, match, gain, logit) = Views(*arrays[:-5]), arrays[-5:]
    xp, scaled = array_module(views.full), divide_by_noise(views.full, views.noise_scale)
    unlit = scaled if views.unlit is None else divide_by_noise(views.unlit, views.noise_scale)
    scores = [KernelScores(*parts, views.noise_scale) for parts in zip(energy, match, gain, logit, strict=True)]
    ranks, variants = rank(scores, options.finest_candidates), finest_options(options)
    dark = [number for number, name in enumerate(options.starts) if name in WITHOUT_LIGHTS]

    def run(number: int) -> Array:
        candidate = ranks[number // len(variants)]
        without = functools.reduce(xp.logical_or, [candidate == i for i in dark])
        image = xp.where(without[:, None, None], unlit, scaled)
        return finish(image, take(kernels, candidate), size, variants[number % len(variants)], report)

    runs = range(options.finest_candidates * len(variants))
    return (stack(side_by_side(xp, [functools.partial(run, number) for number in runs])),)


def _log_ratios(batch: Batch, flat: Array, c: int, xp: Any, device: str) -> torch.Tensor:
    """(C, n): logarithms of the error ratios of kernels (C n, S, S)."""
    blurred = move(batch.blurred, xp)

    def errors(kernels: Array, copies: int) -> torch.Tensor:
        restored = hyper_laplacian.hyper_laplacian(xp.tile(blurred, (copies, 1, 1)), kernels, weight=WEIGHT)
        sharp = torch.from_numpy(batch.sharp).to(device)
        tensor = on_torch(restored, device)
        return torch.stack([least_error(part, sharp) for part in tensor.reshape(copies, -1, *sharp.shape[1:])])

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


def batches(
    library: Mapping[str, Library], threads: int, count: int | None = None, split: str | None = None, seed: int = 0
) -> Iterator[tuple[str, Batch]]:
    """(split, batch) without an end, made in threads ahead of their use; kinds in turn, by their shares."""
    shares, done = np.array([kind.share for kind in KINDS]), np.zeros(len(KINDS))
    waiting: list[tuple[str, Future[Batch]]] = []
    with ThreadPoolExecutor(threads) as executor:
        number = 0
        while True:
            while len(waiting) < 2 * threads:
                is_held_out = np.random.default_rng((seed, number)).random() < CHOOSE_SHARE
                name = split or ("choose" if is_held_out else "train")
                which = int((shares * (number + 1) - done).argmax()) if number >= len(KINDS) else number
                done[which] += 1
                future = executor.submit(make_batch, KINDS[which], library[name], (seed, number), count)
                waiting.append((name, future))
                number += 1
            name, future = waiting.pop(0)
            yield name, future.result()


# ------------------------------------------------------------------ on a GPU
def train_on_gpu(pictures: Path, out: Path, minutes: float, device: str, threads: int, count: int | None) -> None:
    begin, out = time.perf_counter(), Path(out)
    out.mkdir(parents=True, exist_ok=True)
    log = (out / "judge.jsonl").open("a")

    def say(**line: Any) -> None:
        line = {"seconds": round(time.perf_counter() - begin, 1)} | line
        print(json.dumps(line), file=log, flush=True)
        print(line, flush=True)

    xp: Any = np
    if device != "cpu":
        import cupy

        xp = cupy
    library = libraries(pictures, threads)
    say(pictures={name: {key: len(value) for key, value in part.pictures.items()} for name, part in library.items()})
    groups: dict[str, list[Groups]] = {"train": [], "choose": []}
    numbers: list[dict[str, np.ndarray]] = []
    kinds: list[str] = []
    failures, total = 0, 0.0
    for split, batch in batches(library, threads, count=count):
        start = time.perf_counter()
        try:
            part, values = make_groups(batch, xp, device, failures < 2)
        except Exception:  # noqa: BLE001 one kind that fails on a device must not cost the others
            failures += 1
            say(failed=batch.kind.name, error=traceback.format_exc()[-1500:])
            if failures > 8:
                break
            continue
        groups[split].append(part)
        total += sum(tensor.numel() * tensor.element_size() for tensor in part)
        if split == "choose":
            numbers.append(values)
            kinds.append(batch.kind.name)
        spent = time.perf_counter() - begin
        say(kind=batch.kind.name, split=split, groups=len(part.blurred), took=round(time.perf_counter() - start, 2),
            median_ratio=[round(float(x), 2) for x in part.log_ratio.exp().median(dim=0)[0]])  # fmt: skip
        if spent > 60 * minutes * GROUPS_SHARE or total > LARGEST:
            break
    if xp is not np:
        xp.get_default_memory_pool().free_all_blocks()
    say(groups={split: sum(len(part.blurred) for part in parts) for split, parts in groups.items()}, bytes=total)
    networks = {name: initialized(functools.partial(Judge, widths), 0) for name, widths in VARIANTS.items()}
    task = JudgeTask(networks, groups["train"], JudgeConfig(), pictures.name)
    left = minutes - (time.perf_counter() - begin) / 60 - 0.25
    config = trainer.TrainConfig(
        minutes=left, rate=2e-3, device=device, precision="float32", checkpoint_every=200, average=0.998
    )
    written = [time.perf_counter()]

    def write() -> None:
        arrays: dict[str, np.ndarray] = {}
        for name, network in networks.items():
            write_network(out / f"{name}.safetensors", network, network.state_dict())
        for index, (part, values, kind) in enumerate(zip(groups["choose"], numbers, kinds, strict=True)):
            arrays |= {f"{index}/{key}": value for key, value in values.items()} | {f"{index}/kind": np.array(kind)}
            for name, network in networks.items():
                arrays[f"{index}/logit_{name}"] = all_logits(network, part).numpy()
        np.savez_compressed(out / "choose.npz", allow_pickle=False, **arrays)

    def progress(step: int, share: float, figures: Mapping[str, float]) -> None:
        if step % 100 == 0:
            say(step=step, **{name: round(value, 4) for name, value in figures.items()})
        if time.perf_counter() - written[0] > 40:
            write()
            written[0] = time.perf_counter()

    result = trainer.train(task, config, out / "judge.checkpoint.safetensors", progress=progress)
    networks["judge"].load_state_dict(result.weights)  # the average
    write()
    say(done=result.step)


@torch.no_grad()
def all_logits(network: Judge, groups: Groups, count: int = 8) -> torch.Tensor:
    """(n, C), on the host."""
    device = next(network.parameters()).device
    parts = [Groups(*(tensor[i : i + count].to(device).float() for tensor in groups))
             for i in range(0, len(groups.blurred), count)]  # fmt: skip
    return torch.cat([logits(network, part).cpu() for part in parts])


def write_groups(pictures: Path, out: Path, count: int, split: str, device: str, threads: int, size: int) -> None:
    """`count` batches of `size` groups as files."""
    xp: Any = np
    if device != "cpu":
        import cupy

        xp = cupy
    out.mkdir(parents=True, exist_ok=True)
    for number, (_, batch) in enumerate(batches(libraries(pictures, threads), threads, size, split, 1)):
        if number == count:
            break
        groups, numbers = make_groups(batch, xp, "cpu")
        name = f"{split}-{number:04d}-{batch.kind.name}"
        groups.write(out / f"{name}{SUFFIX}")
        np.savez_compressed(out / f"{name}.npz", allow_pickle=False, kind=np.array(batch.kind.name), **numbers)
        print(
            name, len(groups.blurred), [round(float(x), 2) for x in groups.log_ratio.exp().median(dim=0)[0]], flush=True
        )


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    packing = commands.add_parser("pack")
    packing.add_argument("--data", type=Path, required=True)
    packing.add_argument("-o", "--out", type=Path, required=True)
    for name in ("groups", "gpu"):
        command = commands.add_parser(name)
        command.add_argument("--pictures", type=Path, required=True)
        command.add_argument("--out", type=Path, required=True)
        command.add_argument("--device", default="cpu" if name == "groups" else "cuda")
        command.add_argument("--threads", type=int, default=1 if name == "groups" else 8)
        command.add_argument("--batch", type=int, help="groups in a batch")
        if name == "groups":
            command.add_argument("--count", type=int, default=100, help="batches")
            command.add_argument("--split", choices=["train", "choose"], default="train")
        else:
            command.add_argument("--minutes", type=float, default=3.6)
    args = parser.parse_args(argv)
    if args.command == "pack":
        pack(args.data, args.out)
    elif args.command == "groups":
        write_groups(args.pictures, args.out, args.count, args.split, args.device, args.threads, args.batch or 8)
    else:
        train_on_gpu(args.pictures, args.out, args.minutes, args.device, args.threads, args.batch)


if __name__ == "__main__":
    main()
