"""Claims that someone can repeat: `python -m bench`. One thread a process, whatever the machine has."""

import os

THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
for name in THREADS:  # read when NumPy loads its BLAS, and handed on to worker processes
    os.environ.setdefault(name, "1")
