"""
A stack with one kernel
=======================

Channels taken at once, or frames of one tripod, have the same blur. With ``shared_kernel=True``,
:func:`gpudeblur.deblur` estimates one kernel for all images of a stack: small or noisy images, which would fail by
themselves, contribute together.
"""

import matplotlib.pyplot as plt
import numpy as np
from skimage import data

import gpudeblur as gd
from gpudeblur import metrics, synthesis

sharp = (data.camera() / 255)[np.newaxis]
corners = ((40, 160), (110, 130), (90, 210), (300, 150), (330, 250), (180, 260))
parts = np.concatenate([sharp[:, y : y + 80, x : x + 80] for y, x in corners])
true_kernel = synthesis.trajectory_kernel(11, rng=5)
stack = synthesis.blur(parts, true_kernel, noise_sigma=0.01, rng=0)

options = gd.TwoStepOptions(starts=("wide",))
separate = gd.deblur(stack, 11, options=options)
together = gd.deblur(stack, 11, options=options, shared_kernel=True)

for name, result in {"separate": separate, "together": together}.items():
    similarity = [metrics.kernel_similarity(kernel, true_kernel) for kernel in result.kernel]
    print(f"{name}: similarity to the true kernel {np.round(similarity, 2)}")

# %%
# Below the images are the kernels, at the right the true one.

fig, axes = plt.subplots(2, len(stack) + 2, figsize=(11, 3), layout="constrained")
for column, blurred, kernel in zip(axes.T, stack, separate.kernel, strict=False):
    column[0].imshow(blurred, cmap="gray", vmin=0, vmax=1)
    column[1].imshow(kernel, cmap="gray")
axes[1, -2].imshow(together.kernel[0], cmap="gray")
axes[1, -2].set_title("together", fontsize="small")
axes[1, -1].imshow(true_kernel, cmap="gray")
axes[1, -1].set_title("true", fontsize="small")
for ax in axes.flat:
    ax.set_axis_off()
