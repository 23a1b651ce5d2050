"""
A camera that rotates
=====================

A camera that rolls blurs the corners of a picture otherwise than its middle. A :class:`gpudeblur.KernelField` holds
kernels on a grid over the image; :func:`gpudeblur.deconvolve` interpolates between them. Here the motion is known, as
from a gyroscope; ``deblur(photo, 31, blur="rotation")`` estimates it, in about three times the time of one kernel.
"""

import math

import matplotlib.pyplot as plt
from skimage import data

import gpudeblur as gd
from gpudeblur import metrics, synthesis

# %%
# Poses of the camera during the exposure: shifts of 8 pixels, and a roll that moves the corners by 12. Each pixel of
# the image is blurred by its own path.

sharp = (data.brick() / 255)[:200, :200]
path = synthesis.pose_path((180, 180), 8, 12, rng=1)
blurred = synthesis.blur_by_poses(sharp, path, math.inf, noise_sigma=0.003, rng=0)
field = synthesis.rotation_field(path, math.inf, blurred.shape, 25, grid=(5, 5))
margin = (200 - blurred.shape[0]) // 2
reference = sharp[margin : margin + blurred.shape[0], margin : margin + blurred.shape[1]]

by_one = gd.deconvolve(blurred, field.centre, method="sparse")
by_field = gd.deconvolve(blurred, field)

# %%
# The kernel of the middle restores the middle alone.

fig, axes = plt.subplots(2, 2, figsize=(8, 8.4), layout="constrained")
axes[0, 0].imshow(gd.show_kernels(field), cmap="gray")
axes[0, 0].set_title("kernels of the field")
pictures = {"blurred": blurred, "kernel of the middle": by_one, "field": by_field}
for ax, (name, picture) in zip(axes.flat[1:], pictures.items(), strict=True):
    ax.imshow(picture, cmap="gray", vmin=0.1, vmax=0.9)
    ax.set_title(f"{name}: {metrics.psnr(picture, reference):.1f} dB")
for ax in axes.flat:
    ax.set_axis_off()
