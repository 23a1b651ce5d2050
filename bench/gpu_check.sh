#!/usr/bin/env bash
# Everything that only a machine with a GPU can show, in one call of under 9 minutes. Run it in the repository's root:
#
#     OUT=somewhere bash bench/gpu_check.sh [DATA]
#
# DATA (default: carry/data) holds levin/ and, beside it in carry/, eval_levin.py; without it the quality row is left out.
# Writes eight files to $OUT: gpu_check.json (what passed, the bars, versions, seconds of each part), gpu_check.log (the
# end of what each part said), and the JSON lines of the benches. Exits with 1 if any part failed, after all of them.
set -u
OUT=${OUT:?set OUT to the folder for the results}
DATA=${1:-carry/data}
PYTHON=${PYTHON:-python3}
mkdir -p "$OUT"
logs=$(mktemp -d)
trap 'rm -rf "$logs"' EXIT
export PYTHONPATH=$PWD${PYTHONPATH:+:$PYTHONPATH} PYTHONUNBUFFERED=1 GPUDEBLUR_RESULTS=$OUT

part() { # name, limit in seconds, command...
    local name=$1 limit=$2 start=$SECONDS rc
    shift 2
    timeout -k 5 "$limit" "$@" >"$logs/$name.log" 2>&1
    rc=$?
    echo "{\"name\": \"$name\", \"exit\": $rc, \"seconds\": $((SECONDS - start)), \"limit\": $limit}" >"$logs/$name.json"
    {
        echo "== $name: exit $rc after $((SECONDS - start)) s: $*"
        tail -c 1000000 "$logs/$name.log"
    } >"$logs/$name.done"
    cat "$logs/$name.done" >>"$OUT/gpu_check.log" # in one go: parts may run side by side
    { head -n 1 "$logs/$name.done" && tail -n 12 "$logs/$name.log"; } | cut -c 1-200
}

twins=("$PYTHON" -m pytest -q -p no:cacheprovider -m gpu --require-gpu tests/test_cuda_device.py -k test_twins)
# Files and the command line have nothing to do with a GPU, and need packages that a GPU machine may lack.
ignored=(--ignore tests/test_io.py --ignore tests/test_cli.py --ignore tests/test_bad_input.py --ignore tests/test_demo.py)

# Each with the GPU to itself, the most important first: 430 s at most.
part tests 110 "$PYTHON" -m pytest -q -p no:cacheprovider -m gpu --require-gpu "${ignored[@]}" tests
part bars 85 "$PYTHON" bench/throughput.py --device cuda --bars --seconds 60
part kernels 45 "$PYTHON" bench/kernels.py --seconds 30
part peers 30 "$PYTHON" bench/peers.py --device cuda --seconds 20
part agreement 45 "$PYTHON" bench/agreement.py --data "$DATA"
part throughput 50 "$PYTHON" bench/throughput.py --device cuda --seconds 35 --longest 0.2
part learned 40 "$PYTHON" bench/learned_prior.py runtime --device cuda --repeats 2
part learned_batch 25 "$PYTHON" bench/learned_prior.py runtime --device cuda --repeats 1 --batch 64 --sizes 1 --only "one start"
# Side by side, as none of them is timed: 105 s at most.
for tool in memcheck racecheck; do
    part "sanitizer_$tool" 105 compute-sanitizer --tool "$tool" --error-exitcode 9 "${twins[@]}" &
done
if [ -d "$DATA/levin" ]; then
    yardstick=$(dirname "$DATA")/eval_levin.py
    part levin 105 "$PYTHON" bench/levin.py --data "$DATA" --yardstick "$yardstick" --device cuda --jobs 12 &
fi
wait

"$PYTHON" - "$OUT" "$logs" "$SECONDS" <<'PY'
import importlib.metadata as metadata, json, subprocess, sys, time
from pathlib import Path

out, logs = map(Path, sys.argv[1:3])


def said(*command):
    try:
        return subprocess.run(command, capture_output=True, text=True).stdout.strip()
    except OSError as why:  # no such program here
        return str(why)


def bars(name):
    try:
        lines = (out / f"{name}.jsonl").read_text().splitlines()
    except OSError:
        return []
    found = [bar for line in lines for bar in json.loads(line).get("bars", [])]
    return [{key: bar[key] for key in ("bar", "limit", "measured", "holds")} for bar in found]


versions = {}
for name in ("numpy", "scipy", "cupy-cuda13x", "cupy-cuda12x", "torch"):
    try:
        versions[name] = metadata.version(name)
    except metadata.PackageNotFoundError:
        pass
parts = [json.loads(path.read_text()) for path in sorted(logs.glob("*.json"))]
report = {
    "date": time.strftime("%Y-%m-%d"),
    "gpu": said("nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"),
    "commit": said("git", "rev-parse", "--short", "HEAD"),
    "versions": versions,
    "seconds": int(sys.argv[3]),
    "bars": bars("throughput") + bars("peers"),
    "parts": parts,
}
(out / "gpu_check.json").write_text(json.dumps(report, indent=1))
for part in parts:
    print(f"{part['name']}: exit {part['exit']}, {part['seconds']} of {part['limit']} s")
for bar in report["bars"]:
    verdict = {True: "holds ", False: "MISSED", None: "no bar"}[bar["holds"]]
    print(f"{verdict} {bar['bar']}: {bar['measured']:.4g} {bar['limit']}")
print(f"{report['seconds']} s in all")
sys.exit(any(part["exit"] for part in parts))
PY
