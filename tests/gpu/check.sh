#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# check.sh SRC BUILD [--simt] [--seconds N] [--into DIR] [--libs DIR]: everything that only a GPU can tell, in one run of at most N seconds (540); writes
# DIR/CARD.md and .json (DIR: SRC/doc/gpu), logs in BUILD/gpu. What matters most comes first, what there is no time for is said, and whoever ends the
# run (TERM) has the report of what was done until then.
#
#   kernels      every op against plain C                        parity    networks and the chain against the reference, f32 and bf16
#   stream       the published sizes on random weights: times by op, memory, equal bits; beside PyTorch where that is installed
#   verify       two blocks of nano against its known answer      frames    that stay on the GPU, read in another context, are those of the host
#   film         with contests: what the first one costs          sanitizer four tools of compute-sanitizer, one nano block
#
# With --simt the same on the emulated GPU of tests/simt, with tiny shapes: that the run itself is whole. What has no tool or no room here, or
# is cut by the end of the time, is said and stays "not measured". Exit code 1 when something that ran has failed.
#
# Only programs of ours are given a path for the loader, and DIR of --libs (the kit's) last: what the machine has of its own, its
# Python and PyTorch among it, keeps its libraries.
set -u
src=$(cd "$1" && pwd) build=$(cd "$2" && pwd) simt='' most='' into='' kit=
shift 2
while [ $# -gt 0 ]; do
    case $1 in
        --simt) simt=yes; shift ;;
        --seconds) most=$2; shift 2 ;;
        --into) into=$2; shift 2 ;;
        --libs) kit=$2; shift 2 ;;
        *) echo "check.sh: $1 is no option; --simt, --seconds N, --into DIR, --libs DIR are" >&2; exit 2 ;;
    esac
done
most=${most:-$([ -n "$simt" ] && echo 3600 || echo 540)}
out=$build/gpu bin=$build device=cuda0
[ -z "$simt" ] || bin=$build/simt out=$build/gpu-simt
rm -rf "$out" && mkdir -p "$out" || exit 2
[ -n "$into" ] || into=$([ -n "$simt" ] && echo "$out" || echo "$src/doc/gpu")
passed=0 failed=0 skipped=0
# nano where the kit lies; no plans of an earlier run
export OMP_WAIT_POLICY=passive AVATAR_MODELS=$src/model XDG_CACHE_HOME=$out/cache

# for the loader: the plugin, which is not beside test programs; NVIDIA's libraries where Python's packages alone have them; in front of the kit's
# libraries the machine's own, which are the newer ones
own=(env)
if [ -z "$simt" ]; then
    path=$build${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH} known=$(PATH=$PATH:/usr/sbin:/sbin ldconfig -p 2>/dev/null)
    for lib in libcublasLt.so.13 libcudnn.so.9 libnvrtc.so.13; do
        case $known in *"$lib "*) continue ;; esac
        more=$(python3 -c 'import glob, sysconfig; print(":".join(glob.glob(sysconfig.get_paths()["purelib"] + "/nvidia/*/lib")))')
        path=$path${more:+:$more}
        break
    done
    [ -z "$kit" ] || path=$path:$(echo "$known" | sed -n 's|.* => \(/.*\)/[^/]*$|\1|p' | sort -u | tr '\n' ':')$kit
    own=(env "LD_LIBRARY_PATH=$path")
fi

# ---- steps --------------------------------------------------------------------------------------------------------------------

say() { printf '%4d s  %-26s %s\n' $SECONDS "$1" "$2"; }
# skip NAME WHY: it is not measured
skip() { say "$1" "not measured: $2"; echo "$2" > "$out/$1.skip"; [ -n "$simt" ] || skipped=$((skipped + 1)); }
# perform NAME SECONDS COMMAND...: what it prints into NAME.out, all else into NAME.log, its exit code into NAME.rc; NAME.cut: less time was left
perform() {
    local name=$1 limit=$2 start=$SECONDS rc
    shift 2
    [ $limit -le $((most - SECONDS)) ] || { limit=$((most - SECONDS)); : > "$out/$name.cut"; }
    timeout -k 5 "$limit" "$@" > "$out/$name.out" 2> "$out/$name.log" < /dev/null &
    wait $!
    rc=$?
    echo "$((SECONDS - start)) s of $limit" > "$out/$name.took"
    echo $rc > "$out/$name.rc"
}
# verdict NAME: a line, and of a failure the end of what was printed. Exit code 77: it says last on stderr why it is not measured here
verdict() {
    local rc
    rc=$(cat "$out/$1.rc" 2>/dev/null || echo 'no end')
    case $rc in
        77) skip "$1" "$(tail -n 1 "$out/$1.log")" ;;
        124|137) [ ! -e "$out/$1.cut" ] || skip "$1" "no time was left, $(cat "$out/$1.took")" ;;
    esac
    [ ! -e "$out/$1.skip" ] || { rm "$out/$1.rc"; return 1; }
    if [ "$rc" = 0 ]; then passed=$((passed + 1)); say "$1" "passed, $(cat "$out/$1.took")"; return 0; fi
    failed=$((failed + 1))
    case $rc in 124|137) rc="$rc: no end in time" ;; esac
    say "$1" "FAILED ($rc), $(cat "$out/$1.took" 2>/dev/null); $out/$1.log:"
    cat "$out/$1.out" "$out/$1.log" 2>/dev/null | grep -v '^\[ *\(OK\|RUN\)' | tail -n 6 | cut -c1-300 | sed 's/^/            /'
    return 1
}
there_is_time() { [ $((most - SECONDS)) -ge 10 ] || { skip "$1" "no time was left"; return 1; }; }
step() { there_is_time "$1" || return 1; perform "$@"; verdict "$1"; }
# side_by_side N NAME...: steps of check(), N at a time
side_by_side() {
    local at_once=$1 names='' name
    shift
    for name; do
        there_is_time "$name" || continue
        names="$names $name"
        check "$name" &
        while [ "$(jobs -rp | wc -l)" -ge "$at_once" ]; do wait -n; done
    done
    wait
    for name in $names; do verdict "$name"; done
}

card=simt
report() {
    trap - EXIT
    mkdir -p "$into"
    python3 "$src/tests/gpu/report.py" "$out" "$into/$card" || failed=$((failed + 1))
    echo "report: $into/$card.md"
    echo "$passed passed, $failed failed, $skipped skipped"
    exit $((failed > 0))
}
trap report EXIT
trap 'kill $(jobs -p) 2>/dev/null; skip rest "the run was ended from outside"; failed=$((failed + 1)); exit 1' TERM INT

# ---- the card -------------------------------------------------------------------------------------------------------------------

if [ -z "$simt" ]; then
    command -v nvidia-smi >/dev/null || { trap - EXIT; echo "check-gpu: no nvidia-smi, so no NVIDIA driver; make check-gpu SIMT=1 runs on an emulated GPU" >&2; exit 2; }
    timeout 30 nvidia-smi --query-gpu=name,driver_version,memory.total,power.limit --format=csv,noheader -i 0 > "$out/card.txt"
    card=$(cut -d, -f1 "$out/card.txt" | tr 'A-Z /' 'a-z--' | sed 's/^nvidia-//; s/^geforce-//')
    card=${card:-unnamed}
else
    echo "emulated GPU (tests/simt)" > "$out/card.txt"
fi
echo "$card: $(cat "$out/card.txt")"
# nothing else makes sense where the backend does not open: a library that is missing, a plugin of another build
short=$([ -n "$simt" ] && echo 600 || echo 150)
step kernels-copy $short "${own[@]}" "$bin/tests/kernels/copy" --device $device || { skip rest "the simplest operation does not run: see above"; exit 1; }

# ---- is it right ------------------------------------------------------------------------------------------------------------------

set_of() { case $1 in parity-parity-*) echo "$src/tests/gold/parity" ;; *) echo "$src/../shared/golden" ;; esac; }
check() {
    case $1 in
        kernels-*) perform "$1" $short "${own[@]}" "$bin/tests/kernels/${1#kernels-}" --device $device ;;
        *) perform "$1" $short "${own[@]}" "$bin/tests/parity" "$(set_of "$1")" --device $device --precision "${1##*-}" $([ -z "$simt" ] || echo --case rope) ;;
    esac
}
names=$([ -n "$simt" ] && echo rope || (cd "$bin/tests/kernels" && ls | grep -v '\.d$\|^copy$'))
names=$(for t in $names; do echo "kernels-$t"; done)
for name in parity-{parity,golden}-{f32,bf16}; do
    if [ -d "$(set_of $name)" ]; then names="$names $name"; else skip $name "no $(set_of $name)"; fi
done
side_by_side $([ -n "$simt" ] && echo 1 || echo 8) $names

# ---- how fast, how large ------------------------------------------------------------------------------------------------------------

tiny=$([ -z "$simt" ] || echo "--tiny --repeats 2")
stream() { step stream-$1 $([ -z "$simt" ] && echo 200 || echo 1200) "${own[@]}" "$bin/tests/gpu/stream" --device $device --precision $1 $tiny $2; }
stream bf16 ""
paper=$(echo "$card" | grep -oE 'h100-pcie|h100|h200|b200|l40s|4090|5090|3090|a100' | head -n 1 | sed 's/^a100$/a100-80/')
step paper 60 "${own[@]}" "$bin/avatar" plan --ops --devices $device --gpus "${paper:-h100}" --json
if [ -z "$simt" ] && timeout 60 python3 -c 'import torch, sys; sys.exit(not torch.cuda.is_available())' 2>/dev/null; then
    step peer 120 python3 "$src/tests/gpu/peer.py" "$out/peer.json"
else skip peer "no PyTorch with CUDA here"; fi

# ---- films ----------------------------------------------------------------------------------------------------------------------------

python3 - "$out/short.wav" <<'P'
import math, struct, sys, wave
w = wave.open(sys.argv[1], "wb"); w.setnchannels(1); w.setsampwidth(2); w.setframerate(16000)
w.writeframes(b"".join(struct.pack("<h", int(6000 * math.sin(i * 0.1) * math.sin(i * 0.001))) for i in range(4800)))
P
face=$src/model/nano/faces/anna.png
if [ -z "$simt" ]; then
    for p in f32 bf16; do step "verify-$p" 100 "${own[@]}" "$bin/avatar" verify --devices $device --precision $p; done
    step frames 100 "${own[@]}" "$bin/tests/gpu/frames" --devices $device --model "$src/model/nano"
    stream f32 --forward
    for film in film film-again; do
        if [ -e "$build/no-films" ]; then skip $film "this kit has no FFmpeg"
        else step $film 120 "${own[@]}" "$bin/avatar" speak "$src/tests/gold/lips.wav" "$face" --devices $device -o "$out/$film.mp4"; fi
    done
else
    step film 1200 "$bin/avatar" speak "$out/short.wav" "$face" --devices $device --size 64x64 --steps 1 --quiet -o "$out/film.mkv"
    step frames 900 env LD_LIBRARY_PATH="$bin/lib" "$build/tests/gpu/frames" --tiny
    stream f32 --forward
fi
sanitizer=$(command -v compute-sanitizer || ls /usr/local/cuda/bin/compute-sanitizer 2>/dev/null)
# ours alone, by what their names end in; but whose numbers are uninitialized is seen of all or of none
for f in --kernel-regex --kernel-name --filter; do
    [ -n "$sanitizer" ] && "${own[@]}" "$sanitizer" --help 2>&1 | grep -q -e "$f" && { ours="$f kns=_kernel"; break; }
done
for tool in memcheck racecheck synccheck initcheck; do
    name=sanitizer-$tool
    if [ -n "$simt" ]; then skip $name "the emulated GPU has checks of its own"
    elif [ -z "$sanitizer" ]; then skip $name "no compute-sanitizer"
    elif there_is_time $name; then
        : > "$out/$name.cut"                                        # a tool may slow it down as it likes; the films have left the plans
        if [ -e "$build/no-films" ]; then work=(verify --devices $device --precision bf16)
        else work=(speak "$out/short.wav" "$face" --devices $device --quiet -o "$out/$tool.mp4"); fi
        perform $name 100 "${own[@]}" "$sanitizer" --tool $tool --error-exitcode 9 $([ $tool = initcheck ] || echo "${ours:-}") "$bin/avatar" "${work[@]}"
        if grep -qi 'device not supported' "$out/$name.out" "$out/$name.log"; then rm "$out/$name.rc"; skip $name "compute-sanitizer does not know this machine"
        else verdict $name; fi
    fi
done
