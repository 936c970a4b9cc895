#!/bin/sh
# SPDX-License-Identifier: LGPL-2.1-or-later
# demo.sh SRC BUILD: a synthesized sentence and a drawn portrait through the filter: demo.mp4 and a strip of its frames, demo.png.
set -eu
src=$1 build=$2
ffmpeg=$build/ffmpeg/bin/ffmpeg
text="Hello! I am a drawing that talks. Everything you hear and see was made on this machine, by one F F mpeg filter."
espeak-ng -v en-gb -s 150 -w "$build/demo.wav" "$text"

start=$(date +%s)
stats=-nostats; [ ! -t 2 ] || stats=-stats
"$ffmpeg" -hide_banner -loglevel error $stats -y -i "$build/demo.wav" \
    -filter_complex "[0:a]avatar=image=$src/model/nano/faces/anna.png:seed=3,scale=iw*3:ih*3:flags=lanczos[v]" \
    -map "[v]" -map 0:a -c:v libx264 -crf 18 -c:a aac demo.mp4
"$ffmpeg" -hide_banner -loglevel error -y -i demo.mp4 -vf "select='not(mod(n,7))',scale=128:-2,tile=12x2" -frames:v 1 -update 1 demo.png
echo "demo.mp4: $("$build/ffmpeg/bin/ffprobe" -v error -count_packets -select_streams v -show_entries stream=nb_read_packets -of csv=p=0 demo.mp4) frames," \
    "made in $(($(date +%s) - start)) s -> $(pwd)/demo.mp4"
echo "demo.png: every seventh frame                -> $(pwd)/demo.png"
