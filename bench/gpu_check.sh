#!/usr/bin/env bash
# Everything that only a machine with a GPU can show, in one call of under 9 minutes. Run it in the repository's root:
#
#     OUT=somewhere bash bench/gpu_check.sh [DATA]
#
# DATA (default: carry/data) holds levin/ and, beside it in carry/, eval_levin.py; without it the quality row is left out.
# Writes to $OUT: gpu_check.json (what passed, versions, seconds of each part), tests.log, sanitizer.log, and the JSON
# lines of the benches. Exits with 1 if any part failed, after running all of them.
set -u
OUT=${OUT:?set OUT to the folder for the results}
DATA=${1:-carry/data}
mkdir -p "$OUT"
export PYTHONPATH=$PWD${PYTHONPATH:+:$PYTHONPATH} PYTHONUNBUFFERED=1 GPUDEBLUR_RESULTS=$OUT
parts=()

part() { # name, limit in seconds, command...
    local name=$1 limit=$2 start=$SECONDS rc
    shift 2
    timeout "$limit" "$@" >"$OUT/$name.log" 2>&1
    rc=$?
    echo "== $name: exit $rc after $((SECONDS - start)) s"
    tail -n 6 "$OUT/$name.log"
    parts+=("\"$name\": {\"exit\": $rc, \"seconds\": $((SECONDS - start))}")
}

# Files and the command line have nothing to do with a GPU, and need packages that a GPU machine may lack.
ignored=(--ignore tests/test_io.py --ignore tests/test_cli.py --ignore tests/test_bad_input.py --ignore tests/test_demo.py)
part tests 120 python3 -m pytest -q -p no:cacheprovider -m gpu --require-gpu "${ignored[@]}" tests
for tool in memcheck racecheck; do
    part "sanitizer_$tool" 75 compute-sanitizer --tool "$tool" --error-exitcode 9 \
        python3 -m pytest -q -p no:cacheprovider -m gpu --require-gpu tests/test_cuda_device.py -k test_twins
done
part agreement 45 python3 bench/agreement.py --data "$DATA"
part throughput 90 python3 bench/throughput.py --device cuda
if [ -d "$DATA/levin" ]; then
    part levin 110 python3 bench/levin.py --data "$DATA" --yardstick "$(dirname "$DATA")/eval_levin.py" --device cuda --jobs 14
fi

python3 - "$OUT" "$(IFS=,; echo "{${parts[*]}}")" <<'PY'
import importlib.metadata as metadata, json, subprocess, sys, time
from pathlib import Path

def said(*command):
    try:
        return subprocess.run(command, capture_output=True, text=True).stdout.strip()
    except OSError as why:  # no such program here
        return str(why)

versions = {}
for name in ("numpy", "scipy", "cupy-cuda13x", "cupy-cuda12x", "torch"):
    try:
        versions[name] = metadata.version(name)
    except metadata.PackageNotFoundError:
        pass
parts = json.loads(sys.argv[2])
report = {
    "date": time.strftime("%Y-%m-%d"),
    "gpu": said("nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"),
    "commit": said("git", "rev-parse", "--short", "HEAD"),
    "versions": versions,
    "parts": parts,
}
Path(sys.argv[1], "gpu_check.json").write_text(json.dumps(report, indent=1))
print(json.dumps(report, indent=1))
sys.exit(any(part["exit"] for part in parts.values()))
PY
