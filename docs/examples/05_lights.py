"""
Saturated lights
================

A lamp is brighter than the sensor can tell. Where it was saturated, the convolution of the true scene exceeds what the
image shows, and a method that does not know this makes rings around each lamp. :func:`gpudeblur.deconvolve` detects
such plateaus and takes their values as a lower bound.
"""

import matplotlib.pyplot as plt
import numpy as np
from skimage import data

import gpudeblur as gd
from gpudeblur import metrics, synthesis

# %%
# A dark scene with lamps of up to forty times full scale; the blurred image is clipped at 1.

rng = np.random.default_rng(1)
scene = 0.25 * (data.astronaut() / 255)[:220, 100:340].mean(axis=-1)
for y, x in rng.integers(20, (200, 220), (7, 2)):
    scene[y : y + 2, x : x + 2] = rng.uniform(5, 40)
kernel = synthesis.trajectory_kernel(17, rng=2)
blurred = synthesis.blur(scene, kernel, noise_sigma=0.003, rng=0).clip(0, 1)
reference = scene[8:-8, 8:-8].clip(0, 1)

# %%
# ``saturation="auto"`` is the default. None treats clipped pixels as any other; a number is the level of a sensor that
# saturates elsewhere. (The traces of single bright pixels are as sharp as an overlay; ``defects=None`` keeps them.)

ordinary = gd.deconvolve(blurred, kernel, saturation=None, defects=None)
aware = gd.deconvolve(blurred, kernel, defects=None)

fig, axes = plt.subplots(1, 3, figsize=(10, 3.4), layout="constrained")
pictures = {"blurred": blurred, "saturation=None": ordinary, 'saturation="auto"': aware}
for ax, (name, picture) in zip(axes, pictures.items(), strict=True):
    ax.imshow(picture, cmap="gray", vmin=0, vmax=0.4)
    ax.set_title(f"{name}: {metrics.psnr(picture.clip(0, 1), reference):.1f} dB")
    ax.set_axis_off()
