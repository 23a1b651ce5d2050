"""
Noise and the weight of the prior
=================================

Deconvolution amplifies noise; the prior holds against it. Its weight follows from the standard deviation of the noise,
which :func:`gpudeblur.estimate_noise` measures in the image. This page shows what a wrong one does.
"""

import matplotlib.pyplot as plt
import numpy as np
from skimage import data

import gpudeblur as gd
from gpudeblur import metrics, synthesis

sharp = (data.camera() / 255)[30:220, 140:330]
kernel = synthesis.trajectory_kernel(15, rng=4)
blurred = synthesis.blur(sharp, kernel, noise_sigma=0.02, rng=0)
reference = sharp[7:-7, 7:-7]

noise_sigma = float(gd.estimate_noise(blurred))
print(f"noise: {noise_sigma:.4f} estimated, 0.0200 true")

# %%
# With a fraction of the noise, the restoration is noisy; with a multiple of it, smooth. ``noise_sigma`` is in fractions
# of full scale; ``weight`` sets the weight itself.

factors = 2.0 ** np.arange(-3, 4)
restored = [gd.deconvolve(blurred, kernel, noise_sigma=factor * noise_sigma) for factor in factors]
psnr = [metrics.psnr(picture, reference) for picture in restored]

fig = plt.figure(figsize=(9, 6), layout="constrained")
top, bottom = fig.subfigures(2, 1)
for i, index in enumerate((0, 3, 6)):
    ax = top.add_subplot(1, 3, i + 1)
    ax.imshow(restored[index], cmap="gray", vmin=0, vmax=1)
    ax.set_title(f"{factors[index]:g} x noise_sigma: {psnr[index]:.1f} dB")
    ax.set_axis_off()
ax = bottom.add_subplot()
ax.semilogx(factors, psnr, "o-", base=2)
ax.axhline(metrics.psnr(blurred, reference), color="gray", linestyle=":", label="blurred")
ax.set(xlabel="noise_sigma / estimated noise", ylabel="PSNR in dB")
_ = ax.legend()
