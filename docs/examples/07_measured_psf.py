"""
A measured point spread function
================================

The image of a bead or a star contains the offset of the camera and noise. Taken as a kernel, this floor counts as a
very wide blur: with 31 x 31 pixels, an offset of a hundredth of the peak is a sixth of the sum here. ``floor="auto"``
of :func:`gpudeblur.deconvolve` subtracts it.
"""

import warnings

import matplotlib.pyplot as plt
import numpy as np
from skimage import data

import gpudeblur as gd
from gpudeblur import metrics, synthesis

# %%
# Tissue under a microscope, blurred by a Gaussian, and the image of a bead: 2000 counts at the peak, an offset of 20.

tissue = (data.immunohistochemistry() / 255)[150:350, 150:350].mean(axis=-1)
kernel = synthesis.gaussian_kernel(2.5, 31)
blurred = synthesis.blur(tissue, kernel, noise_sigma=0.002, rng=0)
reference = tissue[15:-15, 15:-15]
bead = np.random.default_rng(0).poisson(20 + 2000 * kernel / kernel.max())

# %%
# Without ``floor`` there is a warning.

with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    as_it_is = gd.deconvolve(blurred, bead)
print(caught[0].message)
subtracted = gd.deconvolve(blurred, bead, floor="auto")
best = gd.deconvolve(blurred, kernel)

fig, axes = plt.subplots(1, 4, figsize=(11, 3.2), layout="constrained")
pictures = {"blurred": blurred, "bead": as_it_is, 'bead, floor="auto"': subtracted, "true kernel": best}
for ax, (name, picture) in zip(axes, pictures.items(), strict=True):
    ax.imshow(picture, cmap="gray", vmin=tissue.min(), vmax=tissue.max())
    ax.set_title(f"{name}: {metrics.psnr(picture, reference):.1f} dB", fontsize="medium")
    ax.set_axis_off()
