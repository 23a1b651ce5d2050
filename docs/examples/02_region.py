"""
The kernel from a region
========================

If one kernel blurs the whole photograph, a part of it with strong edges is enough to estimate it, in a fraction of the
time. The region also leaves out what moved by itself: the argument ``region`` of :func:`gpudeblur.deblur`, or
``--region`` on the command line.
"""

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.patches import Rectangle
from skimage import data

import gpudeblur as gd
from gpudeblur import metrics, synthesis

true_kernel = synthesis.trajectory_kernel(19, rng=6)
blurred = synthesis.blur(data.camera()[:340, 80:420] / 255, true_kernel, noise_sigma=0.005, rng=0)

# %%
# Two slices, of rows and of columns. The whole photograph is restored.

region = np.s_[60:220, 60:240]
options = gd.TwoStepOptions(starts=("wide",))  # the fast setting: one initialization
result = gd.deblur(blurred, 19, region=region, options=options)
whole = gd.deblur(blurred, 19, region="all", options=options, final=None)  # the kernel alone
for name, r in {"region": result, "all": whole}.items():
    similarity = metrics.kernel_similarity(r.kernel, true_kernel)
    print(f"{name}: {r.info['seconds_kernel']:.1f} s for the kernel, similarity to the true one {similarity:.2f}")

# %%
rows, columns = region
corner, width, height = (columns.start, rows.start), columns.stop - columns.start, rows.stop - rows.start
fig, axes = plt.subplots(1, 3, figsize=(10, 4), layout="constrained", width_ratios=(3, 3, 1))
for ax, picture in zip(axes, (blurred, result.image), strict=False):
    ax.imshow(picture, cmap="gray", vmin=0, vmax=1)
axes[2].imshow(result.kernel, cmap="gray")
axes[0].add_patch(Rectangle(corner, width, height, fill=False, color="tab:orange", linewidth=2))
for ax, title in zip(axes, ("blurred, and the region", "deblurred", "kernel"), strict=True):
    ax.set_title(title)
    ax.set_axis_off()
