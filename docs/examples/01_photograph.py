"""
A blurred photograph
====================

The camera moved while the shutter was open. How it moved is not known: :func:`gpudeblur.deblur` estimates the blur
kernel from the photograph alone, and restores the photograph with it.
"""

import matplotlib.pyplot as plt
import numpy as np
from skimage import data

import gpudeblur as gd
from gpudeblur import metrics, synthesis

# %%
# A photograph of scikit-image is blurred by the random path of a hand-held camera, with some noise, and stored as
# 8 bits. Your own picture comes from :func:`gpudeblur.read_image`.

sharp = data.astronaut()[30:200, 130:310] / 255
true_kernel = synthesis.trajectory_kernel(15, rng=3)
planes = synthesis.blur(np.moveaxis(sharp, -1, 0), true_kernel, noise_sigma=0.005, rng=0)
photo = (np.moveaxis(planes, 0, -1) * 255).round().clip(0, 255).astype(np.uint8)

# %%
# The kernel size is odd and at least as large as the blur; without it, it is estimated too. The result has the dtype
# of the photograph.

result = gd.deblur(photo, 15, channel_axis=-1)
print(f"{result.image.dtype}, confidence {result.info['confidence']:.2f}")
print(f"similarity to the true kernel: {metrics.kernel_similarity(result.kernel, true_kernel):.2f}")

# %%
# ``info["confidence"]`` is the estimated probability that the kernel is good.

fig, axes = plt.subplots(1, 4, figsize=(10, 3), layout="constrained", width_ratios=(2, 2, 1, 1))
titles = ("photograph", f"deblurred, confidence {result.info['confidence']:.2f}", "its kernel", "true kernel")
for ax, picture, title in zip(axes, (photo, result.image, result.kernel, true_kernel), titles, strict=True):
    ax.imshow(picture, cmap="gray")
    ax.set_title(title, fontsize="medium")
    ax.set_axis_off()
