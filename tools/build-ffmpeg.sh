#!/bin/sh
# SPDX-License-Identifier: LGPL-2.1-or-later
# Build ffmpeg and ffprobe with the avatar filter, from the source of one of the supported series, beside the system's own.
#
#   build-ffmpeg.sh [--version 7.1]        series or release; patches/series.txt lists what is tested
#                   [--source TREE|TARBALL] instead of getting one; a tree is copied, never changed
#                   [--prefix DIR]         where bin/ffmpeg and bin/ffprobe go   (build/ffmpeg)
#                   [--libavatar DIR]      folder of libavatar.pc                (build, or what pkg-config finds)
#                   [--cache DIR]          tarballs                              (build/ffmpeg-src)
#                   [--work DIR]           unpacked sources and objects, kept    (build/ffmpeg-build)
#                   [--full]               all of FFmpeg's components, not the short list
#                   [--object]             only compile the filter, warnings are errors
#                   [-j N]
#
# Steps: packages, source, register the filter, configure, make, install, smoke test. What is done already is not done again.
# Exit code 77: the source cannot be had here.
set -eu

top=$(cd "$(dirname "$0")/.." && pwd)
version=7.1 source= prefix= pc= cache=$top/build/ffmpeg-src work=$top/build/ffmpeg-build set=minimal jobs=$(getconf _NPROCESSORS_ONLN)

die() { echo "build-ffmpeg.sh: $*" >&2; exit 1; }
note() { echo "ffmpeg $name: $*" >&2; }

while [ $# -gt 0 ]; do
    case $1 in
    --version) version=$2; shift ;;
    --source) source=$2; shift ;;
    --prefix) prefix=$2; shift ;;
    --libavatar) pc=$2; shift ;;
    --cache) cache=$2; shift ;;
    --work) work=$2; shift ;;
    --full) set=full ;;
    --minimal) set=minimal ;;
    --object) set=object ;;
    -j) jobs=$2; shift ;;
    -j*) jobs=${1#-j} ;;
    *) sed -n 's/^#   //p' "$0"; exit 2 ;;
    esac
    shift
done

# The short list: what the README's command lines, live streaming and the tests need.
minimal="--disable-autodetect --disable-everything --disable-doc --disable-debug --disable-ffplay
--enable-gpl --enable-libx264 --enable-zlib --enable-libavatar --enable-indev=lavfi
--enable-protocol=file,pipe,fd,data,tcp,udp,rtp,http,rtmp,unix,concat,crypto
--enable-demuxer=wav,mp3,aac,mov,matroska,flv,mpegts,hls,rtsp,ogg,flac,image2,image2pipe,image_png_pipe,image_jpeg_pipe
--enable-demuxer=pcm_s16le,pcm_f32le,rawvideo,yuv4mpegpipe,nut,concat,gif,image_webp_pipe,image_bmp_pipe,image_tiff_pipe
--enable-demuxer=aiff,amr,au,avi,caf,w64
--enable-muxer=mp4,ipod,mov,mp3,adts,flac,matroska,webm,flv,mpegts,hls,segment,tee,wav,pcm_s16le,pcm_f32le,rawvideo
--enable-muxer=yuv4mpegpipe,nut,null,framecrc,framemd5,md5,crc,image2,image2pipe,rtsp,avi,gif,ogg,opus,aiff
--enable-decoder=pcm_s16le,pcm_s24le,pcm_s32le,pcm_f32le,pcm_f64le,pcm_u8,pcm_mulaw,pcm_alaw,mp3float,aac,flac,opus,vorbis
--enable-decoder=png,mjpeg,gif,webp,bmp,tiff,h264,hevc,mpeg4,ffv1,rawvideo,wrapped_avframe
--enable-decoder=alac,amrnb,amrwb,ac3,adpcm_ms,adpcm_ima_wav,pcm_s16be,pcm_s24be
--enable-encoder=libx264,aac,flac,pcm_s16le,pcm_f32le,rawvideo,wrapped_avframe,png,mjpeg,ffv1,ac3,mpeg4,gif,bmp,pcm_s16be
--enable-parser=aac,ac3,bmp,mpegaudio,mpeg4video,h264,hevc,png,mjpeg,gif,webp,flac,opus,vorbis
--enable-bsf=aac_adtstoasc,h264_mp4toannexb,extract_extradata
--enable-filter=avatar,aresample,aformat,anull,scale,format,null,amovie,movie,sine,aevalsrc,anullsrc,color,testsrc,testsrc2
--enable-filter=asplit,split,aselect,select,concat,hstack,overlay,trim,atrim,setpts,asetpts,fps,loop,realtime,arealtime
--enable-filter=sendcmd,asendcmd,asetnsamples,volume,apad,adelay,showinfo,metadata,ametadata,amix,pad,crop,setparams,transpose,tile,psnr
--enable-filter=fade,afade,hflip,vflip,drawbox,palettegen,paletteuse,xfade,atempo,pan"
# Frames on the GPU, where NVIDIA's headers are; the driver is looked for when the program runs
cuda="--enable-ffnvcodec --enable-cuda --enable-nvenc --enable-encoder=h264_nvenc,hevc_nvenc --enable-filter=hwdownload,hwupload"
# WebM's codecs, where their libraries are
webm="libvpx:vpx:libvpx_vp8,libvpx_vp9 libopus:opus:libopus"
object="--disable-autodetect --disable-everything --disable-doc --disable-programs --enable-libavatar --enable-filter=avatar"
full="--disable-doc --disable-debug --disable-ffplay --enable-gpl --enable-libx264 --enable-libavatar"

need_packages()
{
    want=
    command -v cc >/dev/null || want="$want gcc libc6-dev"
    for tool in make nasm patch pkg-config xz; do
        command -v $tool >/dev/null || want="$want $(echo $tool | sed 's/^xz$/xz-utils/')"
    done
    [ $set = object ] || [ -e /usr/include/zlib.h ] || want="$want zlib1g-dev"
    [ $set = object ] || pkg-config --exists x264 2>/dev/null || want="$want libx264-dev"
    [ -n "$want" ] || return 0
    if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
        die "needs packages; as root: apt-get update && apt-get install -y --no-install-recommends$want"
    fi
    note "installing$want"
    { apt-get update && DEBIAN_FRONTEND=noninteractive NEEDRESTART_MODE=a apt-get install -y --no-install-recommends \
        -o Dpkg::Options::=--force-confdef -o Dpkg::Options::=--force-confold $want; } </dev/null >"$work/apt.log" 2>&1 ||
        die "apt-get failed, see $work/apt.log"
}

# Put an untouched source into $src, and remember where it came from, so that another one replaces it.
unpack()
{
    if [ -d "$from" ]; then
        stamp="tree $from $(cksum <"$from/configure") $(cksum <"$from/libavfilter/allfilters.c")"
    else
        stamp="tarball $(cksum <"$from")"
    fi
    stamp="$stamp, registered by $(cksum <"$top/patches/gen.sh"), files $(cd "$top/libavfilter" && echo *.[ch] | cksum)"
    stamp="$stamp, patched with $(grep -h '^+OBJS' "$top"/patches/*/*.patch | cksum)"
    [ "$(cat "$src.from" 2>/dev/null)" != "$stamp" ] || return 0
    note "unpacking ${from##*/}"
    rm -rf "$src" "$src.from"
    mkdir -p "$src"
    if [ -d "$from" ]; then
        (cd "$from" && tar --exclude=.git --exclude='*.o' -cf - .) | tar -C "$src" -xf -
    else
        tar -C "$src" --strip-components=1 -xf "$from"
    fi
    series=$(cut -d. -f1-2 "$src/RELEASE" 2>/dev/null || true)
    p=$top/patches/$series/0001-avfilter-add-avatar-filter.patch
    if [ -f "$p" ] && ! grep -q ff_avf_avatar "$src/libavfilter/allfilters.c"; then
        patch -s -p1 --fuzz=0 -d "$src" <"$p" >"$src.patch.log" 2>&1 || die "$p does not apply, see $src.patch.log"
    fi
    echo "$stamp" >"$src.from"
}

# Are the headers there that this FFmpeg's configure takes, with the presets that it asks for? Debian 12's own are too old for 7.1, Debian 13's
# too new for 5.1.
headers_fit()
{
    header=$(pkg-config --variable=includedir ffnvcodec 2>/dev/null)/ffnvcodec/nvEncodeAPI.h
    for preset in $(grep -o 'NV_ENC_PRESET_[A-Z0-9_]*' "$src/configure" | sort -u); do
        grep -qs "$preset" "$header" || return 1
    done
    sed -n 's/.*check_pkg_config ffnvcodec "\([^"]*\)".*/\1/p' "$src/configure" >wanted
    while read -r spec; do
        pkg-config --exists "$spec" && return 0
    done <wanted
    return 1
}

cuda_flags()
{
    if ! headers_fit && folder=$("$top/tools/fetch-ffmpeg.sh" --headers "$(cut -d. -f1-2 "$src/RELEASE")" "$cache"); then
        export PKG_CONFIG_PATH="${PKG_CONFIG_PATH:+$PKG_CONFIG_PATH:}$folder"
    fi
    if headers_fit; then
        flags="$flags $cuda"
    else
        note "without CUDA, as NVIDIA's headers are missing (libffmpeg-nvenc-dev): format=cuda will be refused"
    fi
}

run_configure()
{
    eval "flags=\$$set"
    cuda_flags
    for lib in $([ $set = object ] || echo "$webm"); do
        name_pc=${lib#*:}
        pkg-config --exists "${name_pc%%:*}" 2>/dev/null || continue
        flags="$flags --enable-${lib%%:*} --enable-encoder=${lib##*:} --enable-decoder=${lib##*:}"
    done
    cc=cc
    if command -v ccache >/dev/null; then
        cc="ccache cc"
    fi
    line="$flags --cc=$cc --prefix=$prefix $(pkg-config --cflags --libs libavatar)"
    if [ "$(cat .configured 2>/dev/null)" = "$line" ] && [ .configured -nt "$src/configure" ]; then
        return 0
    fi
    note configuring
    "$src/configure" $flags --cc="$cc" --prefix="$prefix" >configure.log 2>&1 ||
        die "configure failed: $(tail -n 3 configure.log | tr '\n' ' ') see $PWD/configure.log"
    rm -f ffmpeg ffmpeg_g ffprobe ffprobe_g        # linked with the libavatar of before
    echo "$line" >.configured
}

# make with its talk in make.log and a counter of compiled files on a terminal
run_make()
{
    { rc=0; make -j"$jobs" "$@" 2>&1 || rc=$?; echo $rc >make.rc; } | tee make.log | awk -v tty="$([ -t 2 ] && echo 1)" -v name="$name" '
        $1 == "CC" || $1 == "X86ASM" { nb++
            if (tty) printf "\rffmpeg %s: %d files compiled", name, nb >"/dev/stderr"
            else if (nb % 200 == 0) printf "ffmpeg %s: %d files compiled\n", name, nb >"/dev/stderr" }
        END { if (tty && nb) print "" >"/dev/stderr" }'
    [ "$(cat make.rc)" = 0 ] || die "make failed: $(grep -m 2 -E '(error|Error|ERROR|\*\*\*):? ' make.log | tr '\n' ' ') see $PWD/make.log"
}

absolute() { mkdir -p "$1" && cd "$1" && pwd; }

name=$version
if [ -n "$source" ]; then
    [ -e "$source" ] || die "--source $source does not exist"
    from=$(cd "$(dirname "$source")" && pwd)/$(basename "$source")
    name=$(basename "$source" | sed 's/\.tar\..*//')
else
    cache=$(absolute "$cache")
    from=$("$top/tools/fetch-ffmpeg.sh" "$version" "$cache") || exit $?
fi
work=$(absolute "$work/$name")
src=$work/src
prefix=$(absolute "${prefix:-$top/build/ffmpeg$([ "$version$source" = 7.1 ] || echo "-$name")}")
[ -n "$pc" ] || [ ! -e "$top/build/libavatar.pc" ] || pc=$top/build
[ -z "$pc" ] || export PKG_CONFIG_PATH="$(absolute "$pc")${PKG_CONFIG_PATH:+:$PKG_CONFIG_PATH}"

need_packages
pkg-config --exists 'libavatar >= 0.1.0' || die "libavatar is not found; run make first, or install it"
unpack
"$top/patches/gen.sh" "$src"
obj=$(absolute "$work/$set")
cd "$obj"
run_configure
if [ $set = object ]; then
    run_make $(cd "$top" && echo libavfilter/*.c | sed 's/\.c/.o/g') ECFLAGS=-Werror
    exit 0
fi
run_make
make install-progs >install.log 2>&1 || die "make install failed, see $obj/install.log"
"$prefix/bin/ffmpeg" -hide_banner -h filter=avatar >smoke.log 2>&1 && grep -q '^Filter avatar' smoke.log ||
    die "the program does not know the filter, see $obj/smoke.log"
echo "$prefix/bin/ffmpeg"
