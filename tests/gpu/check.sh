#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# check.sh SRC BUILD [simt]: everything that only a GPU can tell, in one run; writes doc/gpu/CARD.md and .json, results in BUILD/gpu.
#
#   kernels      every op against plain C                        parity    networks and the chain against the reference, f32 and bf16
#   frames       that stay on the GPU, read in another context, are those of the host
#   sanitizer    four tools of compute-sanitizer, one nano block  verify    two blocks of nano against its known answer
#   stream       the published sizes on random weights: times by op, memory, equal bits; beside PyTorch where that is installed
#
# With `simt` the same on the emulated GPU of tests/simt, with tiny shapes: that the run itself is whole. What has no tool here is said
# and stays "not measured". Exit code 1 when something that ran has failed.
set -u
src=$(cd "$1" && pwd) build=$(cd "$2" && pwd) simt=${3:-}
out=$build/gpu
bin=$build
[ -z "$simt" ] || bin=$build/simt out=$build/gpu-simt
rm -rf "$out" && mkdir -p "$out" || exit 2
device=cuda0 passed=0 failed=0 skipped=0
export OMP_WAIT_POLICY=passive

say() { printf '%-32s %s\n' "$1" "$2"; }
# step NAME SECONDS COMMAND...: run it, its output into NAME.log, or, where NAME.json is named in `into`, what it prints into that; its verdict into NAME.rc
into=
step() {
    local name=$1 limit=$2 start=$SECONDS rc
    shift 2
    timeout "$limit" "$@" > "$out/${into:-$name.log}" 2> "$out/$name.errors" < /dev/null
    rc=$?
    cat "$out/$name.errors" >> "$out/$name.log" && rm "$out/$name.errors"
    echo $rc > "$out/$name.rc"
    say "$name" "$([ $rc = 0 ] && echo passed || echo "FAILED ($rc), see $out/$name.log"), $((SECONDS - start)) s"
    if [ $rc = 0 ]; then passed=$((passed + 1)); else failed=$((failed + 1)); fi
}
skip() { say "$1" "not measured: $2"; echo "$2" > "$out/$1.skip"; [ -n "$simt" ] || skipped=$((skipped + 1)); }

card=simt
if [ -z "$simt" ]; then
    command -v nvidia-smi >/dev/null || { echo "check-gpu: no nvidia-smi, so no NVIDIA driver; make check-gpu SIMT=1 runs on an emulated GPU" >&2; exit 2; }
    nvidia-smi --query-gpu=name,driver_version,memory.total,power.limit --format=csv,noheader -i 0 > "$out/card.txt"
    card=$(cut -d, -f1 "$out/card.txt" | tr 'A-Z ' 'a-z-' | sed 's/^nvidia-//; s/^geforce-//')
else
    echo "emulated GPU (tests/simt)" > "$out/card.txt"
fi
echo "$card: $(cat "$out/card.txt")"

# ---- is it right ------------------------------------------------------------------------------------------------------------

kernels=$(cd "$bin/tests/kernels" && ls | grep -v '\.d$')
[ -z "$simt" ] || kernels="rope copy"
for t in $kernels; do step "kernels-$t" 120 "$bin/tests/kernels/$t" --device $device; done
for set in gold/parity ../../shared/golden; do
    dir=$src/tests/$set name=parity-$(basename $set)
    [ "$set" = gold/parity ] || dir=$(cd "$src/.." && pwd)/shared/golden
    [ -d "$dir" ] || { skip "$name-f32" "no $dir"; skip "$name-bf16" "no $dir"; continue; }
    case=$([ -z "$simt" ] || echo "--case rope")
    step "$name-f32" 120 "$bin/tests/parity" "$dir" --device $device $case
    step "$name-bf16" 120 "$bin/tests/parity" "$dir" --device $device --precision bf16 $case
done
python3 - "$out/short.wav" <<'P'
import math, struct, sys, wave
w = wave.open(sys.argv[1], "wb"); w.setnchannels(1); w.setsampwidth(2); w.setframerate(16000)
w.writeframes(b"".join(struct.pack("<h", int(6000 * math.sin(i * 0.1) * math.sin(i * 0.001))) for i in range(4800)))
P
face=$src/model/nano/faces/anna.png
speak() { "$bin/avatar" speak "$out/short.wav" "$face" --devices $device --quiet --seed 7 "$@"; }
if [ -z "$simt" ]; then
    for p in f32 bf16; do step "verify-$p" 60 "$bin/avatar" verify --devices $device --precision $p; done
    step film 60 "$bin/avatar" speak "$src/tests/gold/lips.wav" "$face" --devices $device -o "$out/film.mp4"
    sanitizer=$(command -v compute-sanitizer || ls /usr/local/cuda/bin/compute-sanitizer 2>/dev/null)
    for tool in memcheck racecheck initcheck synccheck; do
        if [ -n "$sanitizer" ]; then
            step "sanitizer-$tool" 90 "$sanitizer" --tool $tool --error-exitcode 9 --kernel-regex kns=avt "$bin/avatar" speak "$out/short.wav" "$face" \
                --devices $device --quiet -o "$out/$tool.mp4"
        else skip "sanitizer-$tool" "no compute-sanitizer"; fi
    done
else
    step film 400 "$bin/avatar" speak "$out/short.wav" "$face" --devices $device --size 64x64 --steps 1 --quiet -o "$out/film.mkv"
    for tool in memcheck racecheck initcheck synccheck; do skip "sanitizer-$tool" "the emulated GPU has checks of its own"; done
fi

if [ -z "$simt" ]; then
    step frames 60 "$bin/tests/gpu/frames" --devices $device
else
    step frames 300 env LD_LIBRARY_PATH="$bin/lib" "$build/tests/gpu/frames" --tiny
fi

# ---- how fast, how large ------------------------------------------------------------------------------------------------------

tiny=$([ -z "$simt" ] || echo "--tiny --repeats 2") limit=$([ -z "$simt" ] && echo 200 || echo 1200)
for p in bf16 f32; do
    [ -z "$simt" ] || [ $p = bf16 ] || { skip "stream-$p" "one precision is enough on the emulated GPU"; continue; }
    into=stream-$p.json
    step stream-$p $limit "$bin/tests/gpu/stream" --device $device --precision $p $tiny $([ $p = bf16 ] || echo "--repeats 3")
    into=
done
paper=$(echo "$card" | grep -oE 'h100-pcie|h100|h200|b200|l40s|4090|5090|3090|a100' | head -n 1 | sed 's/^a100$/a100-80/')
"$bin/avatar" plan --ops --devices $device --gpu "${paper:-h100}" --json > "$out/paper.json" 2>/dev/null
if [ -z "$simt" ] && python3 -c 'import torch, sys; sys.exit(not torch.cuda.is_available())' 2>/dev/null; then
    step peer 120 python3 "$src/tests/gpu/peer.py" "$out/peer.json"
else skip peer "no PyTorch with CUDA here"; fi
mkdir -p "$src/doc/gpu"
doc=$src/doc/gpu/$card
[ -z "$simt" ] || doc=$out/simt
python3 "$src/tests/gpu/report.py" "$out" "$doc" || failed=$((failed + 1))
echo "report: $doc.md"
echo "$passed passed, $failed failed, $skipped skipped"
[ $failed = 0 ]
