"""
In place of scikit-image
========================

`gpudeblur.restoration` has the names, arguments and results of ``skimage.restoration``. What it adds: arrays of
CuPy and torch, stacks, colors, and ``boundary="unknown"``, which assumes nothing about the scene beyond the border.
"""

import matplotlib.pyplot as plt
import numpy as np
from skimage import data
from skimage import restoration as skimage_restoration

from gpudeblur import metrics, restoration, synthesis

sharp = (data.camera() / 255)[30:220, 140:330]
psf = synthesis.gaussian_kernel(2, 15)
blurred = synthesis.blur(sharp, psf, noise_sigma=0.002, rng=0)
reference = sharp[7:-7, 7:-7]

# %%
# The same call, the same result.

theirs = skimage_restoration.richardson_lucy(blurred, psf, num_iter=30)
ours = restoration.richardson_lucy(blurred, psf, num_iter=30)
print(f"largest difference: {np.abs(theirs - ours).max():.1e}")

# %%
# With zeros beyond the border, which scikit-image assumes, the border darkens and rings; an unknown border does not.

unknown = restoration.richardson_lucy(blurred, psf, num_iter=30, boundary="unknown")

fig, axes = plt.subplots(1, 3, figsize=(10, 3.7), layout="constrained")
pictures = {"blurred": blurred, "as scikit-image": ours, 'boundary="unknown"': unknown}
for ax, (name, picture) in zip(axes, pictures.items(), strict=True):
    ax.imshow(picture, cmap="gray", vmin=0, vmax=1)
    ax.set_title(f"{name}: {metrics.psnr(picture, reference):.1f} dB")
    ax.set_axis_off()
