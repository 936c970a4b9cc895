#!/bin/sh
# SPDX-License-Identifier: LGPL-2.1-or-later
# demo.sh film|filter SRC BUILD: a synthesized sentence and a drawn portrait make a film.
#   film     demo.mp4, by the tool
#   filter   demo-filter.mp4, the same by the filter in FFmpeg, three times as large; demo.png, a strip of its frames. Are the pictures the same?
set -eu
src=$(cd "$2" && pwd) build=$(cd "$3" && pwd)
work=$build/demo bin=$build/ffmpeg/bin
face=$src/model/nano/faces/anna.png
text="Hello! I am a drawing that talks. Everything you hear and see was made on this machine, by one small program."
mkdir -p "$work"

film()
{
    espeak-ng -v en-gb -s 150 -w "$work/demo.wav" "$text"
    "$build/avatar" speak "$work/demo.wav" "$face" --seed 3 --quiet -o demo.mp4
    echo "a first film: $(pwd)/demo.mp4"
}

filter()
{
    "$build/avatar" speak "$work/demo.wav" "$face" --seed 3 --quiet -o "$work/demo.nut"
    "$bin/ffmpeg" -hide_banner -loglevel error -nostats -y -i "$work/demo.wav" -i "$work/demo.nut" -filter_complex \
        "[0:a]avatar=image=$face:seed=3,split[a][b];[a]scale=iw*3:ih*3:flags=lanczos[v];[1:v]setparams=range=tv:colorspace=bt709[t];[b][t]psnr=stats_file=$work/psnr.txt[c]" \
        -map "[v]" -map 0:a -c:v libx264 -crf 18 -c:a aac demo-filter.mp4 -map "[c]" -f null -
    "$bin/ffmpeg" -hide_banner -loglevel error -nostats -y -i demo-filter.mp4 -vf "select='not(mod(n,7))',scale=128:-2,tile=12x2" \
        -frames:v 1 -update 1 demo.png
    frames=$(wc -l < "$work/psnr.txt")
    # alike to the bit, unless the versions of libswresample in tool and filter round the sound of 22 kHz differently
    worst=$(sed -n 's/.*psnr_y:\([0-9.inf]*\).*/\1/p' "$work/psnr.txt" | sed 's/inf/100/' | sort -n | head -n 1)
    awk -v w="${worst:-0}" 'BEGIN { exit !(w >= 40) }' ||
        { echo "demo.sh: the filter's pictures are not the tool's: PSNR ${worst:-unknown} dB in the worst of $frames frames" >&2; exit 1; }
    echo "the same by the filter: $(pwd)/demo-filter.mp4; its $frames pictures are those of the tool$([ "$worst" = 100 ] || echo " (PSNR $worst dB in the worst)")"
    cat <<END
Next:
  PATH="$build:$bin:\$PATH"
  espeak-ng --stdout "Say what you like" | avatar speak - $src/model/nano/faces/ben.png -o own-words.mp4
  ffmpeg -i $work/demo.wav -i $src/model/nano/faces/clara.png -filter_complex "[0:a][1:v]avatar" own-picture.mp4
nano speaks for drawings like those in $src/model/nano/faces; what photographs need stands in README.md under "Models".
END
}

"$1"
