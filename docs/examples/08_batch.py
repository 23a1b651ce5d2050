"""
Many images, one of them broken
===============================

:func:`gpudeblur.deblur_batch` takes any iterable, a generator that reads files as well, and yields results in order. An
image that fails does not end the run: it is reported in its own ``error``. On the command line this is ``gpudeblur
batch``, see :doc:`/guide/batch`.
"""

from collections.abc import Iterator

import matplotlib.pyplot as plt
import numpy as np
from skimage import data

import gpudeblur as gd
from gpudeblur import synthesis

sharp = (data.astronaut() / 255).mean(axis=-1)
corners = ((20, 130), (10, 360), (300, 60), (250, 330))


def pictures() -> Iterator[np.ndarray]:
    """Parts of a photograph, each with its own kernel, and an image that is not valid."""
    for i, (y, x) in enumerate(corners):
        kernel = synthesis.trajectory_kernel(13, rng=i)
        yield synthesis.blur(sharp[y : y + 150, x : x + 150], kernel, noise_sigma=0.005, rng=i)
    yield np.full((150, 150), np.nan)


options = gd.TwoStepOptions(starts=("wide",))
with gd.deblur_batch(pictures(), 13, final="hyper-laplacian", options=options, workers=1) as results:
    finished = []
    for r in results:
        if r.error is None:
            print(f"{r.index}: confidence {r.info['confidence']:.2f}, strength {r.info['strength']:.2f}")
            finished.append(r)
        else:
            print(f"{r.index}: {r.error}")

# %%
# Each image equals what :func:`gpudeblur.deblur` gives, bit for bit. Where the confidence is low, less of the
# restoration is in the result: the strength.

fig, axes = plt.subplots(2, len(finished), figsize=(10, 5.3), layout="constrained")
for column, r, blurred in zip(axes.T, finished, pictures(), strict=False):
    column[0].imshow(blurred, cmap="gray", vmin=0, vmax=1)
    column[1].imshow(r.image, cmap="gray", vmin=0, vmax=1)
    column[1].set_title(f"confidence {r.info['confidence']:.2f}")
    for ax in column:
        ax.set_axis_off()
