#!/bin/sh
# SPDX-License-Identifier: LGPL-2.1-or-later
# setup.sh build|demo|check: install what is missing for that (Debian, as root), or print the one line that does.
set -eu
build="build-essential pkg-config libdnnl-dev libsentencepiece-dev libutf8proc-dev
libavformat-dev libavcodec-dev libavutil-dev libswscale-dev libswresample-dev"
ffmpeg="nasm zlib1g-dev libx264-dev libvpx-dev libopus-dev libffmpeg-nvenc-dev xz-utils patch"
top=$(cd "$(dirname "$0")/.." && pwd)
sh "$top/tools/path.sh" "$top" "$(pwd)"
case ${1:-} in
    build) want=$build ;;
    demo) want="$build $ffmpeg espeak-ng" ;;
    check) want="$build $ffmpeg git libcmocka-dev libpng-dev libopenmpi-dev openmpi-bin python3 espeak-ng alsa-utils pocketsphinx-testdata" ;;
    *) echo "usage: setup.sh build|demo|check" >&2; exit 2 ;;
esac
command -v dpkg-query >/dev/null 2>&1 || { echo "not a Debian system; wanted here:" $want; exit 0; }
missing=
for p in $want; do
    dpkg-query -W -f '${Status}' "$p" 2>/dev/null | grep -q 'ok installed' || missing="$missing $p"
done
[ -n "$missing" ] || exit 0
if [ "$(id -u)" != 0 ]; then
    echo "As root: apt-get update && apt-get install -y --no-install-recommends$missing" >&2
    exit 1
fi
echo "installing$missing"
log=$(mktemp)
export DEBIAN_FRONTEND=noninteractive NEEDRESTART_MODE=a    # nothing asks; a configuration that was changed here stays
if ! { apt-get update -qq && apt-get install -y -qq --no-install-recommends -o Dpkg::Options::=--force-confdef \
    -o Dpkg::Options::=--force-confold $missing; } </dev/null >"$log" 2>&1; then
    tail -n 20 "$log" >&2
    echo "setup.sh: apt-get failed, its last words are above" >&2
    rm -f "$log"
    exit 1
fi
rm -f "$log"
