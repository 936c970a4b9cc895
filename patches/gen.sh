#!/bin/sh
# SPDX-License-Identifier: LGPL-2.1-or-later
# Register the avatar filter in an FFmpeg tree, and make the patches out of that. The only place that knows how.
#
#   gen.sh TREE             change TREE in place; what is there already stays, an unchanged file is not rewritten
#   gen.sh --patch TREE     print the patch for an untouched TREE ("git am" format, the same bytes every time)
#   gen.sh --all CACHE      rewrite the folder of every series of series.txt whose tarball can be had
#
# Each line is put beside an anchor: a line that all supported series have exactly once. An anchor that is missing or not
# unique stops everything with its name, so that a new FFmpeg never gets half a patch.
set -eu

here=$(cd "$(dirname "$0")" && pwd)
top=$(dirname "$here")
files="configure doc/filters.texi libavfilter/Makefile libavfilter/allfilters.c"
fftools="fftools/ffmpeg_filter.c fftools/ffmpeg_sched.c fftools/ffmpeg_sched.h"       # of some series
own=$(cd "$top" && echo libavfilter/*.[ch])
objects=$(cd "$top/libavfilter" && echo *.c | sed 's/\.c/.o/g')

die() { echo "gen.sh: $*" >&2; exit 1; }

# insert FILE MARK before|after ANCHOR TEXT: put TEXT beside the one line that matches ANCHOR (a regular expression);
# "after" skips the lines that continue the anchor's entry (indented by ten or more). MARK tells that TEXT is there already.
insert()
{
    if grep -q -e "$2" "$tree/$1"; then
        return 0
    fi
    nb=$(grep -c -e "$4" "$tree/$1") || true
    [ "$nb" = 1 ] || die "$1: $nb lines match the anchor \"$4\", wanted 1; this FFmpeg needs a new anchor"
    TEXT=$5 RE=$4 awk -v place="$3" '
        BEGIN { re = ENVIRON["RE"] }
        waiting && !/^          / { print ENVIRON["TEXT"]; waiting = 0 }
        $0 ~ re && place == "before" { print ENVIRON["TEXT"] }
        { print }
        $0 ~ re && place == "after" { waiting = 1 }' "$tree/$1" >"$tree/$1.new"
    grep -q -e "$2" "$tree/$1.new" || die "$1: nothing was inserted at \"$4\""
    cat "$tree/$1.new" >"$tree/$1"          # keeps the mode
    rm "$tree/$1.new"
}

# touched TREE: the files of FFmpeg's own that register() may change
touched() { for f in $files $fftools; do [ ! -f "$1/$f" ] || echo "$f"; done; }

# The ffmpeg of 7.1 and 8.1 makes all that its filters can make of what they have read before it heeds an interrupt: minutes of
# film. That of 9.0 looks after each frame, that of 5.1 reads no further. A filter is not told, so the program has to look.
heed_interrupts()
{
    grep -qs did_step "$tree/fftools/ffmpeg_filter.c" || return 0
    insert fftools/ffmpeg_sched.h sch_terminated after '^int sch_stop[(]' \
        '/** Was sch_stop() called? */
int sch_terminated(Scheduler *sch);'
    insert fftools/ffmpeg_sched.c sch_terminated before '^int sch_stop[(]' 'int sch_terminated(Scheduler *sch)
{
    return atomic_load(&sch->terminate);
}
'
    insert fftools/ffmpeg_filter.c sch_terminated before '// return after one iteration, so that scheduler' \
        '        // an interrupt ends the graph, whatever its filters could still make
        if (did_step && sch_terminated(fgp->sch))
            return AVERROR_EOF;
'
}

manual_section() { sed '/^@c /d' "$top/doc/avatar.texi"; echo; }

register()
{
    tree=$1
    for f in $files; do
        [ -f "$tree/$f" ] || die "$tree is not an FFmpeg tree: it has no $f"
    done
    insert configure '--enable-libavatar ' after '^  --enable-libass ' \
        '  --enable-libavatar       enable talking avatars via libavatar, needed for avatar filter [no]'
    insert configure '^    libavatar$' after '^    libass$' '    libavatar'
    insert configure '^avatar_filter_deps=' before '^avgblur_opencl_filter_deps=' \
        'avatar_filter_deps="libavatar avcodec avformat swresample swscale"'
    insert configure '^enabled libavatar ' after '^enabled libass ' \
        'enabled libavatar         && require_pkg_config libavatar "libavatar >= 0.1.0" avatar.h avatar_version'
    insert doc/filters.texi '^@section avatar$' before '^@section avectorscope$' "$(manual_section)
"
    insert libavfilter/Makefile 'CONFIG_AVATAR_FILTER' before 'CONFIG_AVECTORSCOPE_FILTER' \
        'OBJS-$(CONFIG_AVATAR_FILTER)                 += '"$objects"
    type=$(sed -n 's/^extern const \(.*\) ff_avf_avectorscope;$/\1/p' "$tree/libavfilter/allfilters.c")
    insert libavfilter/allfilters.c ' ff_avf_avatar;' before ' ff_avf_avectorscope;' "extern const $type ff_avf_avatar;"
    heed_interrupts
    for f in $own; do
        cmp -s "$top/$f" "$tree/$f" || cp "$top/$f" "$tree/$f"
    done
}

print_patch()
{
    tmp=$(mktemp -d)
    trap 'rm -rf "$tmp"' EXIT
    for d in doc fftools libavfilter; do
        mkdir -p "$tmp/a/$d" "$tmp/b/$d"
    done
    for f in $(touched "$1"); do
        cp "$1/$f" "$tmp/a/$f"
        cp "$1/$f" "$tmp/b/$f"
    done
    [ ! -f "$1/libavfilter/avf_avatar.c" ] || die "$1 has the filter already; --patch wants an untouched tree"
    register "$tmp/b"
    cat <<-END
	From 0000000000000000000000000000000000000000 Mon Sep 17 00:00:00 2001
	From: The avatar authors <avatar@example.org>
	Date: Wed, 25 Nov 2026 00:00:00 +0000
	Subject: [PATCH] avfilter: add avatar filter

	Speech and one picture in, a talking avatar at 25 frames a second out, computed
	by libavatar (LGPL 2.1 or later).
	---
	END
    for f in $(touched "$1"); do
        diff -u --label "a/$f" --label "b/$f" "$tmp/a/$f" "$tmp/b/$f" || [ $? = 1 ]
    done
    for f in $own; do
        diff -u --label /dev/null --label "b/$f" /dev/null "$tmp/b/$f" || [ $? = 1 ]
    done
    rm -rf "$tmp"
    trap - EXIT
}

# unpack TARBALL DIR: only the files that the filter touches
unpack()
{
    mkdir -p "$2"
    tar -C "$2" --strip-components=1 --wildcards -xf "$1" '*/fftools/ffmpeg_*.[ch]' $(for f in $files; do echo "*/$f"; done)
}

print_all()
{
    for s in $(awk '!/^#/ && NF { print $1 }' "$here/series.txt"); do
        ball=$("$top/tools/fetch-ffmpeg.sh" "$s" "$1") || continue
        scratch=$(mktemp -d)
        unpack "$ball" "$scratch"
        mkdir -p "$here/$s"
        print_patch "$scratch" >"$scratch/patch"
        cp "$scratch/patch" "$here/$s/0001-avfilter-add-avatar-filter.patch"
        echo 0001-avfilter-add-avatar-filter.patch >"$here/$s/series"
        rm -rf "$scratch"
        echo "patches/$s: made from ${ball##*/}"
    done
}

case ${1-} in
--patch) [ $# = 2 ] || die "wanted: gen.sh --patch TREE"; print_patch "$2" ;;
--all)   [ $# = 2 ] || die "wanted: gen.sh --all CACHE"; print_all "$2" ;;
-*|'')   sed -n 's/^#   //p' "$0"; exit 2 ;;
*)       register "$1" ;;
esac
