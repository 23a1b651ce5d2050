"""
A known kernel: the methods beside each other
=============================================

With a known kernel, :func:`gpudeblur.deconvolve` restores the image by one of eight methods. They differ in what they
take an image to be like. Every weight follows from the noise, which is estimated.
"""

import matplotlib.pyplot as plt
from skimage import data

import gpudeblur as gd
from gpudeblur import metrics, synthesis

sharp = (data.camera() / 255)[30:220, 140:330]
kernel = synthesis.trajectory_kernel(15, rng=4)
blurred = synthesis.blur(sharp, kernel, noise_sigma=0.01, rng=0)
reference = sharp[7:-7, 7:-7]  # `blur` leaves out the pixels that depend on what is beyond the border

methods = ("tv", "sparse", "hyper-laplacian", "epll", "pnp", "l0", "ringing-suppressed", "wiener", "richardson-lucy")
restored = {method: gd.deconvolve(blurred, kernel, method=method) for method in methods}

# %%
# No boundary condition is assumed: the true scene goes on beyond the image, and nothing rings at the borders. "pnp", a
# neural network that removes noise, needs PyTorch and is the slowest; "epll" has learned what patches of photographs
# are like; "sparse" is the best of the others on images without noise, and "l0" on drawings and text.

pictures = {"blurred": blurred} | restored
fig, axes = plt.subplots(2, 5, figsize=(15, 6.6), layout="constrained")
for ax, (name, picture) in zip(axes.flat, pictures.items(), strict=True):
    ax.imshow(picture, cmap="gray", vmin=0, vmax=1)
    ax.set_title(f"{name}: {metrics.psnr(picture, reference):.1f} dB")
    ax.set_axis_off()
