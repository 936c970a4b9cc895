#!/bin/sh
# SPDX-License-Identifier: LGPL-2.1-or-later
# Make and train nano, stage by stage; every stage goes on where it was killed.
# OUT (build/nano) holds environment, data and checkpoints; *_MIN are minutes of training, on a CPU those that each core gave to it, CLIPS
# the number of clips, MADE_CLIPS that of the transformer's own, NICE (19) how far training stands back behind other work, REPORT options of report.py (--quick).
set -eu
cd "$(dirname "$0")/../.."
T=tools/nano
OUT=${OUT:-build/nano}
MODEL=${MODEL:-model/nano}
PY=${PY:-$OUT/venv/bin/python}
VAE_MIN=${VAE_MIN:-120} DECODER_MIN=${DECODER_MIN:-120} AUDIO_MIN=${AUDIO_MIN:-40} DIT_MIN=${DIT_MIN:-150} CLIPS=${CLIPS:-2500}
WORKERS=${WORKERS:-$(nproc)}
# one thread a process: threads that spin for each other cost half of the machine
export OMP_WAIT_POLICY=passive
mkdir -p "$OUT"

env() {
    [ -x "$PY" ] && return
    python3 -m venv "$OUT/venv"
    "$PY" -m pip install -q torch numpy scipy pillow safetensors sentencepiece pocketsphinx av
    # building pycairo needs cairo's headers; Debian's python3-cairo will do for the same Python
    "$PY" -m pip install -q pycairo ||
        ln -sfn /usr/lib/python3/dist-packages/cairo "$("$PY" -c 'import site; print(site.getsitepackages()[0])')/cairo"
}

run() { nice -n ${NICE:-19} "$PY" -u "$T/$@"; }
speech() { run train_audio.py --data-only ${UTTERANCES:+--utterances "$UTTERANCES"} --out "$OUT/audio.pt"; }
vae() { run train_vae.py --minutes "$VAE_MIN" --workers "$WORKERS" ${START:+--start "$START"} --out "$OUT/vae.pt"; }
audio() { run train_audio.py --minutes "$AUDIO_MIN" --workers "$WORKERS" ${START:+--start "$START"} --out "$OUT/audio.pt"; }

# START, a model folder, stands for the checkpoints of vae and audio that are not there, and the DiT begins with it.
of() { [ -e "$OUT/$1.pt" ] && echo "$OUT/$1.pt" || echo "${START:-$OUT/$1.pt}"; }
clips() {
    a="--vae $(of vae) --audio $(of audio) --speech $OUT/speech.pt --out $OUT/clips --half"
    run encode_clips.py $a --first 1000000 --count 50
    k=0
    while [ $k -lt "$WORKERS" ]; do
        run encode_clips.py $a --count "$CLIPS" --part $k --parts "$WORKERS" &
        k=$((k + 1))
    done
    wait
}

# MADE, a model folder: the decoder learns to draw what its transformer makes, too.
made() { run made.py --model "${MADE:-$MODEL}" --speech "$OUT/speech.pt" --out "$OUT/made" ${MADE_CLIPS:+--count "$MADE_CLIPS"}; }
decoder() {
    run train_vae.py --decoder-of "$(of vae)" --minutes "$DECODER_MIN" --workers "$WORKERS" --out "$OUT/decoder.pt" \
        $([ -d "$OUT/made" ] && echo "--made $OUT/made") ${START:+--lr 8e-4}
}
dit() {
    [ -z "${START:-}" ] || cp -n "$START/google/umt5-xxl/spiece.model" "$OUT"
    run train_dit.py --minutes "$DIT_MIN" --workers "$WORKERS" --clips "$OUT/clips" --tokenizer "$OUT/spiece.model" \
        ${START:+--start "$START" --lr 1e-3} --out "$OUT/dit.pt"
}
export_() {
    run export.py --vae "$([ -e "$OUT/decoder.pt" ] && echo "$OUT/decoder.pt" || of vae)" --audio "$(of audio)" --dit "$(of dit)" \
        --tokenizer "$([ -e "$OUT/spiece.model" ] && echo "$OUT/spiece.model" || echo "${START:-}/google/umt5-xxl/spiece.model")" --out "$MODEL"
    build/avatar verify --record --model "$MODEL" --precision f32 --cpu-level 0
}

# On from START (model/nano) for faces that are drawn anew, within ten minutes of a large GPU: clips, transformer, what it makes, decoder. The
# transformer stands in OUT/model until the decoder is there, too.
gpu() {
    START=${START:-$MODEL} CLIPS=${GPU_CLIPS:-600} DIT_MIN=${GPU_DIT_MIN:-4} DECODER_MIN=${GPU_DECODER_MIN:-3}
    UTTERANCES=${UTTERANCES:-120}
    [ -e "$OUT/speech.pt" ] || speech
    clips
    dit
    (MODEL=$OUT/model && export_)
    MADE=$OUT/model made
    decoder
    export_
}
report() { run report.py --model "$MODEL" --out "$OUT/report" ${REPORT:-}; }

for stage in ${@:-all}; do
    env
    case $stage in
    env) ;;
    all) speech; vae; audio; clips; decoder; dit; export_; report ;;
    export) export_ ;;
    gpu|speech|vae|audio|clips|made|decoder|dit|report) $stage ;;
    *) echo "nano.sh: no stage '$stage'" >&2; exit 1 ;;
    esac
done
