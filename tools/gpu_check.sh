#!/bin/bash
# On a machine with a GPU: are the CUDA kernels right, and how fast are they? Binaries come from `make gpu-binaries`, which needs no GPU; every
# part has its own time limit, what matters most comes first, results go to $OUT (default: gpu-results).
# usage: tools/gpu_check.sh [tests|bench|all] [checkpoint:arguments ...]
cd "$(dirname "$0")/.." || exit 1
what=${1:-all}
shift
out=${OUT:-gpu-results} bin=${BIN:-build/engine/gpu} made=${MADE:-/dev/shm/qvl}
mkdir -p "$out" "$made"
start=$(date +%s)
say() { echo "[$(($(date +%s) - start)) s] $*"; }
models=("$@")
[ ${#models[@]} -eq 0 ] && models=("2b-fp8:1024 1 8 64 -64" "2b-nf4:1024 1 8 64" "8b-nf4:1024 1 8 64" "2b-bf16:1024 1 8 64" "4b-nf4:1024 1 8 64")
nvidia-smi --query-gpu=name,driver_version,memory.total,clocks.max.sm,clocks.max.mem --format=csv,noheader | tee "$out/device.txt"
make_model() { # SIZE-FORMAT
    [ -e "$made/$1.done" ] || { python3 tools/make_checkpoint.py "$made/$1" --size "${1%%-*}" --format "${1#*-}" >"$made/$1.log" 2>&1 && touch "$made/$1.done"; }
}
if [ "$what" != tests ]; then
    for m in "${models[@]}"; do make_model "${m%%:*}" & done
fi
if [ "$what" != bench ]; then
    for t in ops pick model golden tower step kv; do
        {
            timeout "${TEST_LIMIT:-60}" "$bin/test_cuda_$t" >"$out/test_$t.log" 2>&1
            code=$?
            say "test_cuda_$t: exit $code"
            [ $code -ne 0 ] && grep -E 'ERROR|CUDA|Assert|error' "$out/test_$t.log" | head -8
        } &
    done
    [ "$what" = tests ] && wait
fi
if [ "$what" != tests ]; then
    wait
    say "tests and checkpoints done"
    for m in "${models[@]}"; do
        timeout "${BENCH_LIMIT:-40}" "$bin/bench_cuda" "$made/${m%%:*}" ${m#*:} 2>&1 | tee -a "$out/bench.log"
        say "${m%%:*} done"
    done
fi
if [ "$what" = all ] && command -v compute-sanitizer >/dev/null; then
    timeout "${SANITIZER_LIMIT:-30}" compute-sanitizer --error-exitcode 9 "$bin/test_cuda_pick" >"$out/sanitizer.log" 2>&1
    say "compute-sanitizer, picks: exit $?"
    tail -3 "$out/sanitizer.log"
fi
