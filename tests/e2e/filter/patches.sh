#!/bin/sh
# SPDX-License-Identifier: LGPL-2.1-or-later
# The patches of every series: do they apply without fuzz, is git content with them, does gen.sh still make the same bytes, and
# does the filter compile with warnings as errors? A series whose source cannot be had is skipped aloud.
#
#   patches.sh [--cache DIR] [--work DIR] [--libavatar DIR] [--no-object] [SERIES...]
set -u

top=$(cd "$(dirname "$0")/../../.." && pwd)
cache=$top/build/ffmpeg-src work=$top/build/ffmpeg-build lib=$top/build object=1 wanted=
while [ $# -gt 0 ]; do
    case $1 in
    --cache) cache=$2; shift ;;
    --work) work=$2; shift ;;
    --libavatar) lib=$2; shift ;;
    --no-object) object= ;;
    *) wanted="$wanted $1" ;;
    esac
    shift
done
[ -n "$wanted" ] || wanted=$(awk '!/^#/ && NF { print $1 }' "$top/patches/series.txt")
passed=0 failed=0 skipped=0
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT

# check WHAT COMMAND...: run it, count it, show its talk when it fails
check()
{
    what=$1
    shift
    if "$@" >"$tmp/talk" 2>&1; then
        passed=$((passed + 1))
        echo "ok      $what"
    else
        failed=$((failed + 1))
        echo "FAILED  $what"
        sed 's/^/        /' "$tmp/talk" | tail -n 15
    fi
}

applies()
{
    (cd "$1" && patch -p1 --fuzz=0 --no-backup-if-mismatch <"$2") || return 1
    ! grep -q -i 'fuzz\|offset' "$tmp/talk" && [ -z "$(find "$1" -name '*.rej' -o -name '*.orig')" ] &&
        for f in $(cd "$top" && echo libavfilter/*.[ch]); do
            cmp "$1/$f" "$top/$f" || return 1
        done
}

git_am()
(
    cd "$1" && export GIT_CONFIG_NOSYSTEM=1 GIT_CONFIG_GLOBAL=/dev/null GIT_CEILING_DIRECTORIES="$tmp" &&
        git init -q && git add . && git -c user.name=t -c user.email=t@example.org commit -q -m base &&
        git -c user.name=t -c user.email=t@example.org am -q "$2" && [ -f libavfilter/avf_avatar.c ]
)

same_bytes() { "$top/patches/gen.sh" --patch "$1" >"$tmp/again" && cmp "$tmp/again" "$2"; }

twice_is_once()
{
    "$top/patches/gen.sh" "$1" && (cd "$1" && find . -type f -exec cksum {} + | sort) >"$tmp/once" &&
        "$top/patches/gen.sh" "$1" && (cd "$1" && find . -type f -exec cksum {} + | sort) | cmp - "$tmp/once"
}

for s in $wanted; do
    p=$top/patches/$s/0001-avfilter-add-avatar-filter.patch
    if ! ball=$("$top/tools/fetch-ffmpeg.sh" "$s" "$cache"); then
        skipped=$((skipped + 1))
        echo "SKIPPED $s: its source cannot be had here"
        continue
    fi
    for t in patch am gen; do
        mkdir -p "$tmp/$s-$t"
        tar -C "$tmp/$s-$t" --strip-components=1 --wildcards -xf "$ball" '*/configure' '*/doc/filters.texi' \
            '*/fftools/ffmpeg_*.[ch]' '*/libavfilter/Makefile' '*/libavfilter/allfilters.c'
    done
    check "$s: regenerates to the same bytes" same_bytes "$tmp/$s-gen" "$p"
    check "$s: applies without fuzz" applies "$tmp/$s-patch" "$p"
    if command -v git >/dev/null; then
        check "$s: git am" git_am "$tmp/$s-am" "$p"
    fi
    check "$s: registering twice changes nothing" twice_is_once "$tmp/$s-gen"
    check "$s: quilt series names the patch" grep -qx "${p##*/}" "$top/patches/$s/series"
    [ -z "$object" ] || check "$s: compiles without a warning" "$top/tools/build-ffmpeg.sh" --object --version "$s" --cache "$cache" \
        --work "$work" --libavatar "$lib" --prefix "$work/none" -j2
done
echo "$passed passed, $failed failed, $skipped skipped"
[ $failed = 0 ]
