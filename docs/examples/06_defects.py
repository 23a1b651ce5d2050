"""
Dead pixels, overlays and masks
===============================

A dead column or a time stamp was not blurred by the camera. A deconvolution that takes it for a part of the scene
spreads it over the image. A mask, True where pixels are valid, leaves such pixels out and fills them in; without one,
:func:`gpudeblur.deconvolve` and :func:`gpudeblur.deblur` look for what is sharper than the blur can be, and warn.
"""

import warnings

import matplotlib.pyplot as plt
import numpy as np
from skimage import data

import gpudeblur as gd
from gpudeblur import metrics, synthesis

sharp = (data.camera() / 255)[30:230, 120:330]
kernel = synthesis.trajectory_kernel(15, rng=4)
blurred = synthesis.blur(sharp, kernel, noise_sigma=0.005, rng=0)
reference = sharp[7:-7, 7:-7]

# %%
# Two dead columns and ten hot pixels.

rng = np.random.default_rng(0)
valid = np.ones(blurred.shape, bool)
valid[:, [60, 141]] = False
valid[tuple(rng.integers(20, 160, (2, 10)))] = False
observed = np.where(valid, blurred, 1.0)

# %%
# As ordinary pixels, detected, and with the mask. The mask may also come as NaN in the image (``mask="nan"``) or as a
# ``numpy.ma.MaskedArray``.

ordinary = gd.deconvolve(observed, kernel, defects=None)
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    detected = gd.deconvolve(observed, kernel)
print(caught[0].message)
masked = gd.deconvolve(observed, kernel, mask=valid)

fig, axes = plt.subplots(2, 2, figsize=(8, 8), layout="constrained")
pictures = {"observed": observed, "defects=None": ordinary, 'defects="auto"': detected, "mask=valid": masked}
for ax, (name, picture) in zip(axes.flat, pictures.items(), strict=True):
    ax.imshow(picture, cmap="gray", vmin=0, vmax=1)
    ax.set_title(f"{name}: {metrics.psnr(picture, reference):.1f} dB")
    ax.set_axis_off()
