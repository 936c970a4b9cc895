#!/bin/sh
# SPDX-License-Identifier: LGPL-2.1-or-later
# Get the source tarball of one FFmpeg series and print its path.
#
#   fetch-ffmpeg.sh SERIES|VERSION CACHE
#   fetch-ffmpeg.sh --headers SERIES CACHE     those of NVIDIA's codecs that go with it, which FFmpeg needs for CUDA: a folder for
#                                              PKG_CONFIG_PATH, from Debian's source archive
#
# Tried in this order: the cache folder, Debian's source archive (apt with a private configuration, the system's is not
# touched), the upstream release. A version that patches/series.txt names must have its hash; another release of the series
# is trusted only from apt, which checks signatures. Exit code 77: this series cannot be had here.
set -eu

top=$(cd "$(dirname "$0")/.." && pwd)
package=ffmpeg
[ "$1" != --headers ] || { package=nv-codec-headers; shift; }
want=$1
mkdir -p "$2"
cache=$(cd "$2" && pwd)
series=$(echo "$want" | cut -d. -f1-2)

note() { echo "ffmpeg $series: $*" >&2; }

# listed FIELD: a field of the series' line in series.txt, empty when the series is not listed
listed() { awk -v s="$series" -v f="$1" '$1 == s { print $f }' "$top/patches/series.txt"; }

# A file whose version is listed must be the listed bytes.
check_hash()
{
    [ "$1" = "$(listed 2)" ] || return 0
    [ "$(sha256sum <"$2" | cut -d' ' -f1)" = "$(listed 3)" ]
}

from_cache()
{
    for f in $(ls "$cache"/ffmpeg-"$want".tar.xz "$cache"/ffmpeg-"$want".[0-9]*.tar.xz 2>/dev/null | sort -rV); do
        v=${f##*/ffmpeg-}
        v=${v%.tar.xz}
        if check_hash "$v" "$f"; then
            echo "$f"
            exit 0
        fi
        note "$f has not the hash of patches/series.txt; not used"
    done
}

# A private apt: package lists of the suites that may serve FFmpeg, nothing of the system's own changed.
apt_setup()
{
    a=$cache/apt-$series
    mkdir -p "$a/parts" "$a/lists/partial" "$a/cache/archives/partial" "$a/get"
    uri=$(apt-get indextargets --format '$(ORIGIN) $(REPO_URI)' 'Created-By: Packages' 2>/dev/null |
          awk '$1 == "Debian" && $2 ~ /\/debian\/?$/ { print $2; exit }')
    [ -n "$uri" ] || uri=$(cat /etc/apt/sources.list /etc/apt/sources.list.d/* 2>/dev/null |
          grep -o 'https\{0,1\}://[^ ]*/debian/\{0,1\}\( \|$\)' | head -n 1 | tr -d ' ')
    [ -n "$uri" ] || uri=http://deb.debian.org/debian
    {
        echo "Types: deb-src"
        echo "URIs: $uri"
        echo "Suites: $1"
        echo "Components: main"
        echo "Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg"
    } >"$a/parts/ffmpeg.sources"
}

apt_private()
{
    tool=$1
    shift
    "$tool" -q -o Dir::Etc::SourceList=/dev/null -o Dir::Etc::SourceParts="$a/parts" -o Dir::State::Lists="$a/lists" \
        -o Dir::Cache="$a/cache" -o Acquire::Languages=none -o APT::Sandbox::User="$(id -un)" "$@"
}

apt_update()
{
    suites=$(listed 4 | tr , ' ')
    apt_setup "${suites:-bookworm trixie forky sid}"
    apt_private apt-get update >"$a/log" 2>&1 || note "apt-get update: $(grep '^E:' "$a/log" | tail -n 1)"
}

# apt_source PACKAGE[=VERSION]: its tarball into $a/get
apt_source()
{
    rm -f "$a"/get/*
    (cd "$a/get" && apt_private apt-get source --download-only --only-source --tar-only "$1") >"$a/log" 2>&1 ||
        { note "apt-get source $1: $(grep '^E:' "$a/log" | tail -n 1)"; return 1; }
}

# The headers are small and plain: unpacked, they are installed.
headers()
{
    at=$cache/nv-codec-$series
    if [ ! -e "$at/lib/pkgconfig/ffnvcodec.pc" ]; then
        command -v apt-get >/dev/null || { note "no apt-get for NVIDIA's headers"; exit 77; }
        apt_update
        apt_source nv-codec-headers || exit 77
        mkdir -p "$at/src"
        tar -C "$at/src" --strip-components=1 -xf "$a"/get/*.orig.tar.*
        make -s -C "$at/src" install PREFIX="$at" >"$a/log" 2>&1 || { note "NVIDIA's headers: $(tail -n 1 "$a/log")"; exit 77; }
    fi
    sed -i 's|^prefix=.*|prefix=${pcfiledir}/../..|' "$at/lib/pkgconfig/ffnvcodec.pc"      # a tree that is moved keeps them
    echo "$at/lib/pkgconfig"
    exit 0
}

from_apt()
{
    command -v apt-get >/dev/null || return 0
    apt_update
    full=$(apt_private apt-cache showsrc ffmpeg 2>/dev/null |
           awk -v s="$want" '$1 == "Version:" { v = $2; sub(/^[0-9]+:/, "", v); sub(/-[^-]*$/, "", v)
                                                if (v == s || index(v, s ".") == 1) print $2 }' | sort -rV | head -n 1)
    if [ -z "$full" ]; then
        note "no Debian suite of ${suites:-the usual ones} serves it"
        return 0
    fi
    v=$(echo "$full" | sed 's/^[0-9]*://; s/-[^-]*$//')
    apt_source "ffmpeg=$full" || return 0
    keep "$v" "$a/get/ffmpeg_$v.orig.tar.xz"
}

from_upstream()
{
    v=$want
    [ "$want" != "$series" ] || v=$(listed 2)
    url=https://ffmpeg.org/releases/ffmpeg-$v.tar.xz
    if [ "$v" != "$(listed 2)" ]; then
        return 0
    fi
    command -v curl >/dev/null || { note "$url was not tried: curl is not installed"; return 0; }
    curl -fsSL --max-time 600 -o "$cache/get.tmp" "$url" 2>"$cache/curl.log" ||
        { note "$url: $(tail -n 1 "$cache/curl.log")"; return 0; }
    keep "$v" "$cache/get.tmp"
}

keep()
{
    [ -f "$2" ] || return 0
    if ! check_hash "$1" "$2"; then
        note "$2 has not the hash of patches/series.txt"
        return 0
    fi
    mv "$2" "$cache/ffmpeg-$1.tar.xz"
    [ "$1" = "$(listed 2)" ] || note "$1 is newer than series.txt: sha256 $(sha256sum <"$cache/ffmpeg-$1.tar.xz" | cut -d' ' -f1)"
    echo "$cache/ffmpeg-$1.tar.xz"
    exit 0
}

[ $package = ffmpeg ] || headers
from_cache
from_apt
from_upstream
note "no source: put ffmpeg-$series.X.tar.xz into $cache, or give a tree or tarball by --source"
exit 77
