"""
What a wrong result looks like
==============================

Blind deblurring fails on some images: too little texture, too small for the blur, too noisy. The result says so:
``info["confidence"]`` is the estimated probability that the kernel is good, and ``info["strength"]`` the share of the
restoration that was handed out. The rest is the blurred image, so that a wrong kernel does little harm.
"""

import matplotlib.pyplot as plt
from skimage import data

import gpudeblur as gd
from gpudeblur import metrics, synthesis

scenes = {
    "texture": (data.camera() / 255)[30:200, 140:310],
    "few edges": (data.moon() / 255)[40:210, 40:210],
    "strong noise": (data.camera() / 255)[30:200, 140:310],
}
true_kernel = synthesis.trajectory_kernel(15, rng=3)
options = [gd.TwoStepOptions(starts=("wide",), strength=strength) for strength in (None, 1)]

# %%
# The right column is what ``strength=1`` hands out, ``--strength 1`` on the command line: noise turned into structure,
# and rings along edges. If a result looks like that, take a larger or smaller kernel size, a region with more edges, or
# another photograph. In the third row the confidence is just above 0.5, but the restoration exceeds the range of the
# image, and is withheld for that.

fig, axes = plt.subplots(3, 4, figsize=(10, 8), layout="constrained", width_ratios=(3, 1, 3, 3))
for row, (name, sharp) in zip(axes, scenes.items(), strict=True):
    blurred = synthesis.blur(sharp, true_kernel, noise_sigma=0.06 if "noise" in name else 0.005, rng=0)
    result, whole = (gd.deblur(blurred, 15, options=each, final="hyper-laplacian") for each in options)
    info = result.info
    similarity = metrics.kernel_similarity(result.kernel, true_kernel)
    print(f"{name}: confidence {info['confidence']:.2f}, strength {info['strength']:.2f}, similarity {similarity:.2f}")
    titles = (name, "kernel", f"strength {info['strength']:.2f}", "strength 1")
    for ax, picture, title in zip(row, (blurred, result.kernel, result.image, whole.image), titles, strict=True):
        limits = {} if title == "kernel" else {"vmin": sharp.min(), "vmax": sharp.max()}
        ax.imshow(picture, cmap="gray", **limits)
        ax.set_title(title, fontsize="medium")
        ax.set_axis_off()
