#!/usr/bin/env bash
# Everything that needs a GPU, in one run of under 9 minutes: build, all CUDA tests, compute-sanitizer on small cases,
# and the benches with quality, of every model, the classifier and the optimisers. A stage that fails is noted, and the
# others still run. Needs nvcc, PyTorch, NumPy and pytest (with pytest-benchmark), and no network.
#
#   bench/gpu_suite.sh            on a machine with a GPU
#   bench/gpu_suite.sh --dry-run  the same Python code in small, on the CPU; nothing is built
#
#   OUT           where gpu.json, gpu.log, sanitizer.log and cuda_resources.txt go (default: build/gpu_suite/out)
#   W2V_EXT_DATA  folder with imdb.txt or imdb.txt.xz, imdb-sentiment-train.tsv.xz for the classifier, and eval/ with the
#                 judged word sets (default: data)
#   PYTHON        the python to use (default: python3)
#   SECONDS_ALL   time for all stages together (default: 520)
#   FAMILY_SECONDS  of the stage family, after which no further run is begun (default: 200, or what is left less 60)
#   CASES         how many of the cases of gpu_profile.py the stage profile runs (default: 2; each takes 10 to 60 s)
#   STAGES        what to run of: epoch loss tests sanitizers resources quality optim family sweep seq2seq profile
#                 (default: all but the last two; profile needs Nsight Compute)
set -uo pipefail
cd "$(dirname "$0")/.."
dry=
[[ ${1:-} == --dry-run ]] && dry=--dry-run
python="${PYTHON:-python3}"
work=build/gpu_suite
out="${OUT:-$work/out}"
data="${W2V_EXT_DATA:-data}"
rm -rf "$work/parts" "$work/cache"
mkdir -p "$work/parts" "$out"
log="$out/gpu.log"
: > "$log"
: > "$work/stages.tsv"
export W2V_EXT_CACHE="$PWD/$work/cache" PYTHONUNBUFFERED=1 PYTHONPATH="$PWD:${PYTHONPATH:-}" TORCH_CUDA_ARCH_LIST
TORCH_CUDA_ARCH_LIST="${TORCH_CUDA_ARCH_LIST:-9.0}"
deadline=$((SECONDS + ${SECONDS_ALL:-520}))

# stage NAME SECONDS COMMAND...: notes name, exit status and seconds; the output goes to its own log, and from there to
# the common one.
stage() {
  local name=$1 limit=$2 left=$((deadline - SECONDS)) started=$SECONDS status
  shift 2
  ((limit > left)) && limit=$left
  if ((limit < 5)); then
    status=skipped
    echo "no time left" > "$work/$name.log"
  else
    timeout --kill-after=10 "$limit" "$@" > "$work/$name.log" 2>&1
    status=$?
  fi
  printf '%s\t%s\t%s\n' "$name" "$status" $((SECONDS - started)) >> "$work/stages.tsv"
  { echo "==== $name: exit $status after $((SECONDS - started)) s"; tail -c 200000 "$work/$name.log"; } >> "$log"
  echo "==== $name: exit $status after $((SECONDS - started)) s"
  tail -n 12 "$work/$name.log" | cut -c 1-400
  merge
  [[ $status == 0 ]]
}

merge() {  # after every stage: what is there is kept, whatever happens next
  "$python" - "$work" "$out/gpu.json" << 'END'
import json, os, pathlib, sys
work, target = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2])
report = {"stages": {}, "parts": {}}
for line in (work / "stages.tsv").read_text().splitlines():
    name, status, seconds = line.split("\t")
    report["stages"][name] = {"exit": int(status) if status.isdigit() else status, "seconds": int(seconds)}
for part in sorted((work / "parts").glob("*.json")):
    report["parts"][part.stem] = json.loads(part.read_text())
temporary = target.with_suffix(f".{os.getpid()}.tmp")  # stages may end at the same time
temporary.write_text(json.dumps(report, indent=1) + "\n")
temporary.replace(target)
END
}

build() {
  local loads='import w2v_ext.ops as o; assert o.has_cuda_kernels(), "built, but not loaded"'
  if [[ -n $dry ]]; then
    echo "dry run: nothing is built"
    return
  fi
  nvidia-smi
  # Not built again where the kernels load and are newer than their sources.
  "$python" -c "$loads" 2> /dev/null && [[ -z $(find csrc setup.py -newer w2v_ext/_kernels_cuda.abi3.so) ]] &&
    { echo "built already"; return; }
  nvcc --version || "${CUDA_HOME:-/usr/local/cuda}/bin/nvcc" --version
  W2V_EXT_CUDA=1 MAX_JOBS="${MAX_JOBS:-$(nproc)}" "$python" setup.py build_ext --inplace &&
    "$python" -c "$loads"
}

tests() {
  local workers=()
  "$python" -c 'import xdist' 2> /dev/null && [[ -z $dry ]] && workers=(-n 8)
  "$python" -m pytest -q -p no:cacheprovider -m "cuda and (slow or not slow)" --durations=8 "${workers[@]}" \
    tests/test_cuda.py tests/test_batched.py tests/test_cuda_{step,optim,trainer,epoch,family,subword,classify,glove,softmax}.py \
    tests/test_nearest.py tests/test_seq2seq_{model,training}.py tests/test_trainer.py &&
    { [[ -n $dry ]] || grep -q -E "[1-9][0-9]* passed" "$work/tests.log"; }  # all skipped is not passed
}

# Only this library's kernels are looked at, except by initcheck, which must see what the others write. A report counts
# if it names a kernel of ours, or anything else went wrong.
sanitize() {
  local tool=$1 sanitizer only=(--kernel-regex kns=w2v)
  [[ -n $dry ]] && { echo "dry run: not run"; return 0; }
  sanitizer=$(command -v compute-sanitizer || echo "${CUDA_HOME:-/usr/local/cuda}/bin/compute-sanitizer")
  [[ -x $sanitizer ]] || { echo "no compute-sanitizer on this machine"; return 1; }
  [[ $tool == initcheck ]] && only=()
  export PYTORCH_NO_CUDA_MEMORY_CACHING=1
  "$sanitizer" --tool "$tool" --print-limit 200 "${only[@]}" "$python" bench/sanitize_case.py
  if ! grep -q "sanitize_case: done" "$work/$tool.log" && ((${#only[@]})); then  # its options may have other names here
    "$sanitizer" --tool "$tool" --print-limit 200 "$python" bench/sanitize_case.py
  fi
  grep -q "sanitize_case: done" "$work/$tool.log" && ! grep -q -e "=========     at .*w2v" "$work/$tool.log" &&
    { [[ $tool == initcheck ]] || grep -q -e "ERROR SUMMARY: 0 errors" -e "SUMMARY: 0 hazards" "$work/$tool.log"; }
}

bench() { "$python" bench/gpu_bench.py "$1" --data "$data" --out "$work/parts/$1.json" $dry; }

seq2seq() {
  [[ -n $dry ]] && { echo "dry run: not run"; return; }
  "$python" bench/seq2seq_speed.py decoder --device cuda --out "$work/parts/seq2seq-decoder.json" &&
    "$python" bench/seq2seq_speed.py loss --device cuda --rounds 3 --out "$work/parts/seq2seq-loss.json"
}

# What the epoch kernels wait for: Nsight Compute's report of one launch of each, and its counts for each instruction.
profile() {
  local only=(--section SpeedOfLight --section LaunchStats --section Occupancy --section SchedulerStats)
  only+=(--section WarpStateStats --section MemoryWorkloadAnalysis --section ComputeWorkloadAnalysis)
  only+=(--section InstructionStats --section SourceCounters)
  [[ -n $dry ]] && { "$python" bench/gpu_profile.py --data "$data" --dry-run; return; }
  ncu --clock-control none --profile-from-start off --kernel-name regex:train_ "${only[@]}" -f -o "$work/profile" \
    "$python" bench/gpu_profile.py --data "$data" --first "${CASES:-2}" || return
  ncu --import "$work/profile.ncu-rep" --page details > "$out/profile.txt"
  ncu --import "$work/profile.ncu-rep" --page source --csv | gzip > "$out/profile.csv.gz"
}

# timeout runs programs, not functions.
export -f build tests sanitize bench seq2seq profile
export python work data dry out
in_shell() { stage "$1" "$2" bash -c "$3"; }
wanted() { [[ " ${STAGES:-epoch loss tests sanitizers resources quality optim family sweep} " == *" $1 "* ]]; }

in_shell build 200 build
wanted epoch && in_shell epoch 90 "bench epoch"
wanted loss && in_shell loss 90 "bench loss"
# Tests and sanitizers look at no clock: all at once.
wanted tests && in_shell tests 180 tests &
for tool in memcheck racecheck initcheck; do wanted sanitizers && in_shell "$tool" 180 "sanitize $tool" & done
[[ -z $dry ]] && wanted resources && PYTHON="$python" in_shell resources 120 "bash tools/compile_cuda.sh" &
wait
wanted quality && in_shell quality 120 "bench quality"
wanted optim && in_shell optim 40 "bench optim"
family_seconds=$((deadline - SECONDS - 60))  # a run may take that long
((family_seconds > 200)) && family_seconds=200
export FAMILY_SECONDS="${FAMILY_SECONDS:-$family_seconds}"
wanted family && in_shell family 260 "bench family"
wanted sweep && in_shell sweep 120 "bench sweep"
wanted seq2seq && in_shell seq2seq 120 seq2seq
wanted profile && in_shell profile 90 profile
cp -f build/cuda_resources.txt "$out/" 2> /dev/null
cat "$work"/{memcheck,racecheck,initcheck}.log > "$out/sanitizer.log" 2> /dev/null
echo "==== stages (exit, seconds):"
cat "$work/stages.tsv"
! cut -f 2 "$work/stages.tsv" | grep -q -v '^0$'
