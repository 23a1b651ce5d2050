"""`gpudeblur.restoration` beside `skimage.restoration` (cuCIM's on a GPU): the same calls on the same picture.

512 x 512 float32, a random psf of 15 x 15. scikit-image's temporary arrays cost it more in a process whose allocator
gives memory back to the system at once, as a fresh one does: glibc raises that threshold when a larger array is freed.
Here one has been.
"""

from __future__ import annotations

import numpy as np
import pytest
from skimage.data import camera
from skimage.transform import resize

from gpudeblur import restoration

CALLS = {
    "richardson_lucy, 30 iterations": lambda m, *x: m.richardson_lucy(*x, 30),
    "unsupervised_wiener": lambda m, *x: m.unsupervised_wiener(*x)[0],
    "unsupervised_wiener, same rng": lambda m, *x: m.unsupervised_wiener(*x, rng=0)[0],
    "wiener": lambda m, *x: m.wiener(*x, 0.1),
}


@pytest.mark.parametrize("library", ["theirs", "ours"])
@pytest.mark.parametrize("call", CALLS)
def test_drop_in(measure, device, smallest, call, library) -> None:
    theirs = pytest.importorskip(f"{'skimage' if device.name == 'cpu' else 'cucim.skimage'}.restoration")
    side = 64 if smallest else 512
    psf = np.random.default_rng(0).random((15, 15), np.float32)
    image, psf = device.put(resize(camera(), (side, side)).astype(np.float32)), device.put(psf / psf.sum())
    if call != "unsupervised_wiener":  # which draws other random numbers
        difference = abs(CALLS[call](theirs, image, psf) - CALLS[call](restoration, image, psf)).max()
        assert float(difference) < 1e-4, "these are not the same work"
    np.ones(1 << 22)  # 32 MB, freed at once: see above
    module = theirs if library == "theirs" else restoration
    measure(lambda: CALLS[call](module, image, psf), f"{call}, {side} x {side}")
