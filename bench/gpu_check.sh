#!/usr/bin/env bash
# Everything that only a machine with a GPU can show, in two calls: A within 320 s, B within 400 s. In the repository's root:
#
#     OUT=FOLDER bash bench/gpu_check.sh A
#     OUT=FOLDER bash bench/gpu_check.sh B [DATA]
#     bash bench/gpu_check.sh --plan A|B       the parts: turn, name, limit in seconds; parts of one turn run side by side
#
# carry/ may hold what A left in its $OUT: cupy_cache.tgz (compiled CUDA code, for either call) and smoke.jsonl (B repeats
# the steps that failed). DATA (default: carry/data) holds levin/, and the folder of DATA eval_levin.py; without them the
# quality row is left out. Writes at most eight files to $OUT, as the results come: gpu_check.jsonl (versions, a line a
# part, a summary), gpu_check.log (what each part says, each line with its name), cupy_cache.tgz (A), and the rows of the
# benches. A part that does not end within its limit gets SIGINT, so that it can tell where it was, and SIGKILL 10 s
# later. Exits with 1 if any part failed, after all of them.
#
# PYTHON and SANITIZER name the programs; GPU_CHECK_SCALE multiplies all limits (for tests).
set -u
plan=
if [ "${1:-}" = --plan ]; then
    plan=yes
    shift
fi
call=${1:?A or B}
data=${2:-carry/data}
case $call in
    A) total=320 ;;
    B) total=400 ;;
    *) echo "A or B, not $call" >&2; exit 2 ;;
esac
PYTHON=${PYTHON:-python3}
SANITIZER=${SANITIZER:-compute-sanitizer}
scale=${GPU_CHECK_SCALE:-1}
begin=$EPOCHREALTIME
turn=1

calculate() { awk "BEGIN { printf \"%.2f\", $* }"; }

seconds_left() { # for a part that may need 10 s more to be killed, and the summary 3 s
    calculate "($total - 13) * $scale - ($EPOCHREALTIME - $begin)"
}

run_part() { # name, limit in seconds, command...
    local name=$1 limit=$2 start=$EPOCHREALTIME left seconds pid rc log logger
    left=$(seconds_left)
    limit=$(calculate "$limit * $scale < $left ? $limit * $scale : ($left > 0.01 ? $left : 0.01)")
    shift 2
    exec {log}> >(exec sed -u -e '20000,$d' -e "s/^/$name: /" >>"$OUT/gpu_check.log") # outside the group that is killed
    logger=$!
    set -m # a process group of its own, which does not ignore SIGINT
    # In the foreground: SIGINT goes to the command alone, and once. A second one would cut off pytest's report.
    timeout --foreground -s INT -k "$(calculate "10 * $scale")" "$limit" "$@" \
        >&"$log" 2>&1 {log}>&- &
    pid=$!
    exec {log}>&-
    wait $pid
    rc=$?
    kill -KILL -- -$pid 2>/dev/null # what a part that was stopped has left running
    seconds=$(calculate "$EPOCHREALTIME - $start")
    echo "{\"part\": \"$name\", \"exit\": $rc, \"seconds\": $seconds, \"limit\": $limit}" >>"$OUT/gpu_check.jsonl"
    for _ in {1..20}; do # until all is written
        kill -0 "$logger" 2>/dev/null || break
        sleep 0.05
    done
    echo "== $name: exit $rc after $seconds of $limit s"
    grep "^$name: " "$OUT/gpu_check.log" | tail -n 12 | cut -c 1-200
}

beside() { # a part beside others, until `join`
    if [ "$plan" ]; then
        echo "$turn $1 $2"
    else
        run_part "$@" &
    fi
}

join() {
    [ "$plan" ] || wait
    turn=$((turn + 1))
}

part() { # a part that has the GPU to itself
    beside "$@"
    join
}

in_spare_time() { # a part that is left out where it does not fit into what the others left of the total
    [ "$plan" ] || [[ $(calculate "$(seconds_left) < $2 * $scale") == 1.00 ]] || run_part "$@"
}

if [ ! "$plan" ]; then
    OUT=${OUT:?set OUT to the folder for the results}
    mkdir -p "$OUT"
    export CUPY_CACHE_DIR=${CUPY_CACHE_DIR:-${TMPDIR:-/tmp}/gpudeblur_cupy_cache}
    export PYTHONPATH=$PWD${PYTHONPATH:+:$PYTHONPATH} PYTHONUNBUFFERED=1 GPUDEBLUR_RESULTS=$OUT
    mkdir -p "$CUPY_CACHE_DIR"
    if [ -f carry/cupy_cache.tgz ]; then
        tar xzf carry/cupy_cache.tgz -C "$CUPY_CACHE_DIR"
    fi
fi

smoke=("$PYTHON" -m bench.smoke --device cuda --out "${OUT:-}/smoke.jsonl")
speed=("$PYTHON" -m pytest -q -p no:cacheprovider --benchmark-only --device cuda)
pytest=("$PYTHON" -m pytest -q -p no:cacheprovider -p no:benchmark -m gpu --require-gpu)
bars="255x255-25 or 2048x2048 or host or full_batches"
memory="peak_on_a_gpu or full_gpu or more_pixels_than_32_bits"
device=tests/cuda/test_cuda_device.py
# Files and the command line have nothing to do with a GPU, and need packages that a GPU machine may lack.
ignored=(--ignore tests/images/test_io.py --ignore tests/test_cli.py --ignore tests/test_bad_input.py --ignore tests/blind/test_demo.py)

part versions 5 "$PYTHON" -m bench.gpu_report versions "${OUT:-}"
if [ "$call" = A ]; then
    beside smoke_1 100 "${smoke[@]}" transforms graph start streams masked
    beside smoke_2 100 "${smoke[@]}" default rotation
    beside smoke_3 100 "${smoke[@]}" finals double
    beside smoke_4 100 "${smoke[@]}" deconvolve volume field
    beside smoke_5 100 "${smoke[@]}" batch odd_input
    beside smoke_6 100 "${smoke[@]}" unknown_size network large
    join
    part smoke_memory 25 "${smoke[@]}" restore_after_clear
    part device_tests 60 "${pytest[@]}" -n 4 --maxfail 40 -k "not ($memory)" $device
    part bars 95 "${speed[@]}" --seconds 75 -k "$bars" bench/speed/test_estimation.py bench/speed/test_batch.py
    part cache 8 tar czf "${OUT:-}/cupy_cache.tgz" -C "${CUPY_CACHE_DIR:-.}" .
else
    part smoke 35 "${smoke[@]}" --failed carry/smoke.jsonl
    part bars 80 "${speed[@]}" --seconds 65 -k "$bars" bench/speed/test_estimation.py bench/speed/test_batch.py
    part tests 100 "${pytest[@]}" -n 10 --maxfail 40 "${ignored[@]}" --ignore $device -k "not ($memory)" tests
    part memory_tests 25 "${pytest[@]}" -k "$memory" $device tests/batch/test_gpu.py tests/batch/test_memory.py
    part kernels 50 "${speed[@]}" --seconds 40 bench/speed/test_cuda_kernels.py
    part peers 45 "${speed[@]}" --seconds 35 bench/speed/test_peers.py
    # None of these is timed.
    beside memcheck 50 "$SANITIZER" --tool memcheck --error-exitcode 9 "${pytest[@]}" -p bench.no_pool -k test_twins $device
    beside racecheck 50 "$SANITIZER" --tool racecheck --error-exitcode 9 "${pytest[@]}" -k test_twins $device
    if [ "$plan" ] || [ -d "$data/levin" ]; then
        beside levin 50 "$PYTHON" -m bench quality --sets levin --data "$data" --device cuda --jobs 12 \
            --yardstick "$(dirname "$data")/eval_levin.py"
    fi
    join
    in_spare_time learned 40 "$PYTHON" -m bench networks runtime --device cuda --repeats 1 --sizes 1
fi
[ "$plan" ] || "$PYTHON" -m bench.gpu_report summary "$OUT"
