"""Beside deepinv, which is installed for this bench only (pip install deepinv): CPU time, one thread, in turns.

python -m bench deepinv [--turns 5] [--weights FILE|download] [--only blind]

512 x 512 under a kernel of 25 pixels with 1 % noise. deepinv has no Richardson-Lucy for a given kernel: its BlindRL
with no kernel step is one, and so are its operators in a loop. Its network of kernels is timed with random weights
unless --weights names its own.
"""

from __future__ import annotations

import argparse
import importlib
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from skimage.restoration import richardson_lucy

import gpudeblur as gd

from .cases import blurred_camera

SIDE, KERNEL, ITERATIONS = 512, 25, 30


def main(argv: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m bench deepinv", description=__doc__)
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--weights", help="of the network: a file, or download")
    parser.add_argument("--only", default="", help="methods whose names begin so, such as blind")
    options = parser.parse_args(argv)
    try:
        deepinv, torch = (importlib.import_module(name) for name in ("deepinv", "torch"))
    except ImportError as why:
        sys.exit(f"this bench needs deepinv, got {why}; pip install deepinv")
    torch.set_num_threads(1)
    torch.set_grad_enabled(False)
    print(f"deepinv {deepinv.__version__}, torch {torch.__version__}, gpudeblur {gd.__version__}")
    kernel = gd.synthesis.trajectory_kernel(KERNEL, rng=20).astype(np.float32)
    noise = 0.01 * np.random.default_rng(0).standard_normal((SIDE, SIDE))
    blurred = (blurred_camera((SIDE, SIDE), KERNEL) + noise).clip(1e-3, 1).astype(np.float32)
    y, k = (torch.from_numpy(array.copy())[None, None] for array in (blurred, kernel))

    def blind_rl(**arguments: Any) -> Any:
        return deepinv.optim.BlindRL(use_fft=True, **arguments)

    def loop() -> Any:
        physics, x = deepinv.physics.Blur(filter=k, padding="circular", use_fft=True), y
        norm = physics.A_adjoint(torch.ones_like(y))
        for _ in range(ITERATIONS):
            x = x * physics.A_adjoint(y / physics.A(x).clamp_min(1e-8)) / norm
        return x

    work: dict[str, Callable[[], Any]] = {
        f"Richardson-Lucy, {ITERATIONS}: deepinv BlindRL, k_steps=0": lambda: blind_rl(
            k_steps=0, max_iter=ITERATIONS, init=(y, k)
        )(y),
        f"Richardson-Lucy, {ITERATIONS}: operators of deepinv": loop,
        f"Richardson-Lucy, {ITERATIONS}: scikit-image": lambda: richardson_lucy(blurred, kernel, ITERATIONS),
        f"Richardson-Lucy, {ITERATIONS}: gpudeblur.restoration": lambda: gd.restoration.richardson_lucy(
            blurred, kernel, ITERATIONS
        ),
        f"Richardson-Lucy, {ITERATIONS}: gpudeblur.nonblind, unknown boundary": lambda: gd.nonblind.richardson_lucy(
            blurred, kernel, num_iter=ITERATIONS, accelerated=False, discrepancy=0
        ),
        'Richardson-Lucy, accelerated, until the noise: deconvolve(method="richardson-lucy")': lambda: gd.deconvolve(
            blurred, kernel, method="richardson-lucy"
        ),
        "blind: deepinv BlindRL, 100 iterations": lambda: blind_rl(kernel_size=KERNEL)(y)[1].numpy()[0, 0],
        "blind: deepinv KernelIdentificationNetwork": lambda: network(y)["filters"],
        "blind: gpudeblur.estimate_kernel": lambda: gd.estimate_kernel(blurred, KERNEL),
        'blind: gpudeblur.estimate_kernel, starts=("wide",)': lambda: gd.estimate_kernel(
            blurred, KERNEL, options=gd.TwoStepOptions(starts=("wide",))
        ),
    }
    network = deepinv.models.KernelIdentificationNetwork(pretrained=options.weights).eval()
    work = {name: function for name, function in work.items() if name.startswith(options.only)}
    seconds: dict[str, list[float]] = {name: [] for name in work}
    similarities = {}
    for turn in range(options.turns + 1):  # the first one warms up
        for name, function in work.items():
            start = time.process_time()
            result = function()
            if turn:
                seconds[name].append(time.process_time() - start)
            elif name.startswith("blind") and isinstance(result, np.ndarray):
                similarities[name] = f", similarity to the kernel {gd.metrics.kernel_similarity(result, kernel):.2f}"
    for name, times in seconds.items():
        print(
            f"{name}: {statistics.median(times):.2f} s [{min(times):.2f}, {max(times):.2f}]{similarities.get(name, '')}"
        )
