"""
A small face through a network
==============================

Networks trained on small faces restore one in a fraction of the time that :func:`gpudeblur.deblur` takes, without a
kernel. :func:`gpudeblur.restore` needs PyTorch, the extra ``torch``.
"""

import matplotlib.pyplot as plt
import numpy as np
from skimage import data
from skimage.transform import downscale_local_mean

import gpudeblur as gd
from gpudeblur import metrics, synthesis

face = downscale_local_mean(data.astronaut()[0:220, 120:330] / 255, (2, 2, 1))
kernel = synthesis.trajectory_kernel(13, rng=3)
planes = synthesis.blur(np.moveaxis(face, -1, 0), kernel, noise_sigma=0.005, rng=0)
blurred = np.moveaxis(planes, 0, -1)
reference = face[6:-6, 6:-6]

# %%
# "deepdeblur" aims at the picture that is nearest to the true one on average. ``info["face"]`` is the probability that
# the picture is of a small face; below 0.5 there is a warning. ``info["strength"]`` is the share of the network's
# change in the result.

result = gd.restore(blurred, "deepdeblur", channel_axis=-1)
print({name: round(float(result.info[name]), 2) for name in ("face", "confidence", "strength")})

fig, axes = plt.subplots(1, 3, figsize=(9, 3.6), layout="constrained")
pictures = {"blurred": blurred, "restored": result.image, "true": reference}
for ax, (name, picture) in zip(axes, pictures.items(), strict=True):
    decibels = "" if picture is reference else f": {metrics.psnr(picture, reference):.1f} dB"
    ax.imshow(picture.clip(0, 1))
    ax.set_title(name + decibels)
    ax.set_axis_off()
