#!/usr/bin/env bash
# Trains the networks that restore faces, within 9 minutes where there is a GPU. In the repository's root:
#
#     OUT=FOLDER bash bench/train_gpu.sh [ARCHIVE] [MINUTES]         what ships: DeepDeblur, then the two that share it
#     OUT=FOLDER bash bench/train_gpu.sh ARCHIVE MINUTES NAME...     others, in turn: deepdeblur-wide, deepdeblur-paper
#
# ARCHIVE (default: carry/pictures.tar) is what `python -m bench.training.networks_gpu pack` made; MINUTES (default: 7)
# are those of all trainings together. Weights, logs and train_gpu.log are left in $OUT. PYTHON names the program, DEVICE
# the torch device (default: cuda; BATCH crops for tests on a CPU).
set -u -o pipefail
OUT=${OUT:?set OUT to the folder for the results}
mkdir -p "$OUT"
export PYTHONPATH=$PWD${PYTHONPATH:+:$PYTHONPATH} PYTHONUNBUFFERED=1 OMP_WAIT_POLICY=PASSIVE
archive=${1:-carry/pictures.tar} minutes=${2:-7}
shift $(($# < 2 ? $# : 2))

train() { # name, share of the minutes, further arguments
    local name=$1 share=$2
    shift 2
    timeout -s INT -k 10 540 "${PYTHON:-python3}" -m bench.training.networks_gpu train "$name" --archive "$archive" \
        --out "$OUT" --minutes "$(awk "BEGIN { print $minutes * $share }")" --device "${DEVICE:-cuda}" \
        ${BATCH:+--batch "$BATCH"} "$@" 2>&1
}

all() {
    if [ $# -gt 0 ]; then
        local name
        for name in "$@"; do
            train "$name" "$(awk "BEGIN { print 1 / $# }")" || return
        done
        return
    fi
    train deepdeblur 0.4 || return
    local one two
    train sketch 0.6 --deepdeblur "$OUT/deepdeblur.safetensors" &
    one=$!
    train enhancement-gan 0.6 --deepdeblur "$OUT/deepdeblur.safetensors" &
    two=$!
    wait $one && wait $two
}

all "$@" | tee "$OUT/train_gpu.log"
