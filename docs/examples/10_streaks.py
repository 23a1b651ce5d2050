"""
The kernel in the traces of lights
==================================

In a dark scene every small lamp draws the path of the camera. :func:`gpudeblur.streak_kernel` reads the kernel off
these traces; :func:`gpudeblur.deblur` looks for them by itself, and keeps such a kernel if it explains the image best.
"""

import matplotlib.pyplot as plt
import numpy as np
from skimage import data

import gpudeblur as gd
from gpudeblur import metrics, synthesis

rng = np.random.default_rng(3)
scene = 0.15 * (data.astronaut() / 255)[:260, 60:340].mean(axis=-1)
for y in range(40, 240, 60):
    for x in range(40, 260, 70):
        scene[y + rng.integers(-8, 8), x + rng.integers(-8, 8)] = rng.uniform(12, 30)
true_kernel = synthesis.trajectory_kernel(21, rng=1)
night = synthesis.blur(scene, true_kernel, noise_sigma=0.002, rng=0).clip(0, 1)

# %%
# The traces of single bright pixels are as sharp as an overlay, such as a time stamp; ``defects=None`` keeps them.

kernel = gd.streak_kernel(night)
print(f"{kernel.shape}, similarity to the true kernel {metrics.kernel_similarity(kernel, true_kernel):.2f}")
restored = gd.deconvolve(night, kernel, defects=None)

fig, axes = plt.subplots(1, 4, figsize=(11, 3.4), layout="constrained", width_ratios=(2, 2, 1, 1))
for ax, picture, title in zip(axes, (night, restored), ("night", "restored by the kernel of its traces"), strict=False):
    ax.imshow(picture, cmap="gray", vmin=0, vmax=0.3)
    ax.set_title(title)
for ax, picture, title in zip(axes[2:], (kernel, true_kernel), ("of the traces", "true"), strict=True):
    ax.imshow(picture, cmap="gray")
    ax.set_title(title)
for ax in axes:
    ax.set_axis_off()
