"""Hashes of results on NumPy: what a change that must not change any result is compared by.

    python tests/record_results.py TREE > before.txt      # TREE: a checkout, this one if left out
    ... change the code ...
    python tests/record_results.py | diff before.txt -

Equal hashes mean equal bits of images, kernels and numbers in `info`. They hold on one machine with one set of library
versions only, so none are kept here.
"""

from __future__ import annotations

import functools
import hashlib
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

TREE = Path(sys.argv[1] if len(sys.argv) > 1 else Path(__file__).parents[1]).resolve()
sys.path.insert(0, str(TREE))

import numpy as np  # noqa: E402
from skimage.data import camera  # noqa: E402

import gpudeblur as gd  # noqa: E402
from gpudeblur import nonblind, restoration  # noqa: E402
from gpudeblur.priors import DarkChannel  # noqa: E402
from gpudeblur.synthesis import blur, trajectory_kernel  # noqa: E402

QUICK = gd.TwoStepOptions(starts=("wide",))
TWO = gd.TwoStepOptions(starts=("wide", "text"))


def blurred_images(n: int, shape: tuple[int, int] = (96, 112), k: int = 15) -> np.ndarray:
    sharp = camera()[100:, 150:] / 255
    rows, columns = shape[0] + k - 1, shape[1] + k - 1
    return np.stack([
        blur(sharp[20 * i : 20 * i + rows, 7 * i : 7 * i + columns], trajectory_kernel(k, rng=i)) for i in range(n)
    ]).astype(np.float32)  # fmt: skip


STACK = blurred_images(3)
IMAGE = STACK[0]
KERNELS = np.stack([trajectory_kernel(15, rng=i) for i in range(3)])
COLOR = np.stack([STACK, STACK**2, STACK], axis=-1)
NOISE = np.random.default_rng(0).normal(0, 0.02, STACK.shape).astype(np.float32)


def lights() -> np.ndarray:
    stack = np.clip(STACK * 0.5, 0, 1)
    stack[:, 40:52, 50:60] = 1
    return stack


def with_a_constant_image() -> np.ndarray:
    stack = STACK.copy()
    stack[1] = 0.5
    return stack


def batch() -> list[Any]:
    images = [*STACK, blurred_images(1, (64, 80))[0]]
    return [array for r in gd.deblur_batch(images, 15, options=QUICK) for array in (r.image, r.kernel)]


def deconvolutions(method: str) -> list[np.ndarray]:
    color = gd.deconvolve(COLOR[0], KERNELS[0], channel_axis=-1, method=method)
    return [gd.deconvolve(STACK, KERNELS, method=method), color]


CASES: dict[str, Callable[[], Any]] = {
    "deblur": lambda: gd.deblur(IMAGE, 15),
    "deblur stack": lambda: gd.deblur(STACK, 15),
    "deblur rectangle": lambda: gd.deblur(blurred_images(1, (131, 87))[0], (15, 11)),
    "deblur unknown size": lambda: gd.deblur(STACK[:2], options=TWO),
    "deblur hyper-laplacian": lambda: gd.deblur(STACK, 15, final="hyper-laplacian", options=QUICK),
    "deblur tv": lambda: gd.deblur(IMAGE, 15, final="tv", options=TWO),
    "deblur no restoration": lambda: gd.deblur(STACK, 15, final=None),
    "deblur color": lambda: gd.deblur(COLOR[0], 15, channel_axis=-1, options=QUICK),
    "deblur color stack": lambda: gd.deblur(COLOR, 15, channel_axis=-1, options=QUICK),
    "deblur lights": lambda: gd.deblur(lights(), 15),
    "deblur uint8": lambda: gd.deblur((IMAGE * 255).astype(np.uint8), 15, options=QUICK),
    "deblur big-endian": lambda: gd.deblur(IMAGE.astype(">f4"), 15, options=QUICK),
    "deblur float64": lambda: gd.deblur(IMAGE, 15, options=gd.TwoStepOptions(starts=("wide",), dtype="float64")),
    "deblur noise": lambda: gd.deblur(STACK + NOISE, 15),
    "deblur gamma": lambda: gd.deblur(IMAGE, 15, gamma=2.2, options=QUICK),
    "deblur of strength 1": lambda: gd.deblur(STACK, 15, options=gd.TwoStepOptions(starts=("wide",), strength=1)),
    "deblur constant image": lambda: gd.deblur(with_a_constant_image(), 15, options=QUICK),
    "deblur prior": lambda: gd.deblur(IMAGE, 15, prior=DarkChannel(), options=QUICK),
    "estimate_kernel": lambda: [gd.estimate_kernel(images, 15) for images in (IMAGE, STACK)],
    "deblur_batch": batch,
    **{f"deconvolve {method}": functools.partial(deconvolutions, method) for method in sorted(nonblind.METHODS)},
    "deconvolve boundaries": lambda: [
        gd.deconvolve(STACK, KERNELS, method="hyper-laplacian", boundary=boundary, weight=1e-3)
        for boundary in ("liu-jia", "reflect", "edge", "taper", "wrap")
    ],
    "deconvolve tiles": lambda: gd.deconvolve(blurred_images(1, (300, 280))[0], KERNELS[0], tile=120),
    "deconvolve saturation": lambda: [
        gd.deconvolve(np.clip(STACK * 1.6, 0, 1), KERNELS, method=method)
        for method in ("tv", "sparse", "hyper-laplacian")
    ],
    "nonblind unsupervised_wiener": lambda: nonblind.unsupervised_wiener(IMAGE, KERNELS[0], rng=0),
    "restoration wiener": lambda: restoration.wiener(IMAGE, KERNELS[0], 0.1),
    "restoration richardson_lucy": lambda: restoration.richardson_lucy(IMAGE, KERNELS[0], num_iter=10),
    "restoration unsupervised_wiener": lambda: restoration.unsupervised_wiener(IMAGE, KERNELS[0], rng=0)[0],
    "estimate_noise": lambda: gd.estimate_noise(STACK + NOISE),
}


def digest(result: Any) -> str:
    if isinstance(result, gd.BlindResult):
        numbers = {name: value for name, value in result.info.items() if not name.startswith("seconds")}
        arrays = [result.image, result.kernel, *(value for _, value in sorted(numbers.items()))]
    else:
        arrays = list(result) if isinstance(result, list | tuple) else [result]
    hasher = hashlib.sha256()
    for array in (np.ascontiguousarray(array) for array in arrays if not isinstance(array, str | None)):
        hasher.update(f"{array.shape} {array.dtype}".encode() + array.tobytes())
    return hasher.hexdigest()[:16]


if __name__ == "__main__":
    assert Path(gd.__file__).resolve().is_relative_to(TREE), gd.__file__
    warnings.simplefilter("ignore")
    for name, case in CASES.items():
        print(f"{digest(case())}  {name}", flush=True)
