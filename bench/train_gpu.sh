#!/usr/bin/env bash
# Trains DeepDeblur with wide layers, and the paper's, within 9 minutes where there is a GPU. In the repository's root:
#
#     OUT=FOLDER bash bench/train_gpu.sh [ARCHIVE] [MINUTES]
#
# ARCHIVE (default: carry/pictures.tar) is what `python -m bench.training.networks_gpu pack` made; MINUTES (default: 8)
# are those of both trainings together. Weights, logs and train_gpu.log are left in $OUT. PYTHON names the program, DEVICE
# the torch device (default: cuda; BATCH crops for tests on a CPU).
set -u -o pipefail
OUT=${OUT:?set OUT to the folder for the results}
mkdir -p "$OUT"
export PYTHONPATH=$PWD${PYTHONPATH:+:$PYTHONPATH} PYTHONUNBUFFERED=1 OMP_WAIT_POLICY=PASSIVE
timeout -s INT -k 10 540 "${PYTHON:-python3}" -m bench.training.networks_gpu train \
    --archive "${1:-carry/pictures.tar}" --out "$OUT" --minutes "${2:-8}" --device "${DEVICE:-cuda}" \
    ${BATCH:+--batch "$BATCH"} 2>&1 | tee "$OUT/train_gpu.log"
