#!/bin/sh
# SPDX-License-Identifier: LGPL-2.1-or-later
# deb.sh DIR [cuda]: Debian packages of this tree into DIR: library, development files, tool, embedded model (tools/deb.control); with `cuda`
# the plugin libavatar_cuda.so, and where there is an mpicc libavatar_mpi.so.
#
# Builds in DIR/work with a Debian system's paths and flags, installs into DIR/all and moves that into a folder for each package.
# Nothing outside DIR is touched. The maintainer is DEBFULLNAME <DEBEMAIL>, or the author of the last commit.
set -eu
umask 022
src=$(cd "$(dirname "$0")/.." && pwd)
die() { echo "deb.sh: $*" >&2; exit 1; }
[ $# = 1 ] || [ "$#${2:-}" = 2cuda ] || { echo "usage: deb.sh DIR [cuda]" >&2; exit 2; }
for t in dpkg-deb dpkg-architecture dpkg-buildflags dpkg-gencontrol dpkg-gensymbols dpkg-shlibdeps; do
    command -v $t >/dev/null || die "no $t: packages are made on Debian, with dpkg-dev installed"
done
mkdir -p "$1/work/debian"
out=$(cd "$1" && pwd)
lib=usr/lib/$(dpkg-architecture -qDEB_HOST_MULTIARCH)
SOURCE_DATE_EPOCH=$(git -C "$src" log -1 --format=%ct 2>/dev/null || stat -c %Y "$src/CHANGELOG.md")
export SOURCE_DATE_EPOCH                                    # the time of all files: the same tree gives the same packages
maintainer=${DEBEMAIL:+${DEBFULLNAME:-$DEBEMAIL} <$DEBEMAIL>}
: "${maintainer:=$(git -C "$src" log -1 --format='%an <%ae>' 2>/dev/null || true)}"
[ -n "$maintainer" ] || die "set DEBFULLNAME and DEBEMAIL, the maintainer of the packages"

# ---- build, install, strip ------------------------------------------------------------------------------------------------

cd "$src"                                                   # the flags make this folder . in what is compiled
flags="$(dpkg-buildflags --get CFLAGS) $(dpkg-buildflags --get CPPFLAGS)" LDFLAGS=$(dpkg-buildflags --get LDFLAGS)
export LDFLAGS
cd "$out/work"
"$src/configure" --prefix=/usr --libdir="/$lib" "$([ $# = 2 ] && echo --enable-cuda || echo --disable-cuda)" --extra-cflags="$flags" >/dev/null
rm -rf "$out"/*.deb "$out/all" "$out"/avatar* "$out"/libavatar*
${MAKE:-make} -s --no-print-directory install DESTDIR="$out/all" >/dev/null
cd "$out/all"
version=$(sed -n 's/^Version: //p' "$lib/pkgconfig/libavatar.pc") so=$lib/libavatar.so.$version
soname=$(objdump -p "$so" | awk '$1 == "SONAME" { print $2 }')
nb=${soname##*.}
strip --strip-unneeded -R .comment -R .note "$so"
chmod 644 "$so"
strip --strip-debug -D -R .comment "$lib/libavatar.a"
plugin=$lib/libavatar_cuda.so
[ ! -e "$plugin" ] || strip --strip-unneeded -R .comment -R .note "$plugin"
mpi=$lib/libavatar_mpi.so
[ ! -e "$mpi" ] || strip --strip-unneeded -R .comment -R .note "$mpi"
[ ! -e usr/bin/avatar ] || strip -R .comment -R .note usr/bin/avatar
gzip -9n usr/share/man/man1/avatar.1

# ---- packages -------------------------------------------------------------------------------------------------------------

cd "$out/work"
sed "s/@SO@/$nb/; s/@MAINTAINER@/$maintainer/" "$src/tools/deb.control" > debian/control
{
    printf 'avatar (%s) unstable; urgency=medium\n\n' "$version"
    awk '/^## / { n++ } n == 1 && sub(/^- /, "")' "$src/CHANGELOG.md" | sed 's/^/  * /' | fold -sw 76 |
        sed '/^  \* /!s/^/    /; s/ *$//'
    printf '\n -- %s  %s\n' "$maintainer" "$(date -R -u -d "@$SOURCE_DATE_EPOCH")"
} > debian/changelog

# package NAME PROGRAM FILE...: the FILEs of all; PROGRAM, a path or empty, says what it depends on. Not the plugin: NVIDIA's libraries are in no
# package of Debian's, and each user takes them under NVIDIA's terms
package() {
    name=$1 program=$2 root=$out/$1 doc=$out/$1/usr/share/doc/$1
    shift 2
    mkdir -p "$root/DEBIAN" "$doc"
    (cd "$out/all" && cp --parents -a "$@" "$root" && rm -r "$@")
    printf 'Copyright (C) %s the authors of avatar\n\nLicense: LGPL-2.1-or-later, %s\n' "$(date -u -d "@$SOURCE_DATE_EPOCH" +%Y)" \
        "see /usr/share/common-licenses/LGPL-2.1" > "$doc/copyright"
    gzip -9nc debian/changelog > "$doc/changelog.gz"
    chmod -R u=rwX,go=rX "$root"
    (cd "$root" && find usr -type f -print0 | LC_ALL=C sort -z | xargs -0 md5sum > DEBIAN/md5sums)
    : > debian/substvars
    [ -z "$program" ] || dpkg-shlibdeps "$root/$program"
    dpkg-gencontrol "-p$name" "-P$root"
    dpkg-deb --root-owner-group --build "$root" "$out" >/dev/null
    ls "$out/$name"_*.deb
}
mkdir -p "$out/libavatar$nb/DEBIAN"
echo "libavatar $nb libavatar$nb (>= $version)" > "$out/libavatar$nb/DEBIAN/shlibs"
echo "activate-noawait ldconfig" > "$out/libavatar$nb/DEBIAN/triggers"
dpkg-gensymbols -q "-plibavatar$nb" "-v$version" "-e$out/all/$so" "-O$out/libavatar$nb/DEBIAN/symbols"
[ ! -e "$out/all/usr/bin/avatar" ] || package avatar usr/bin/avatar usr/bin usr/share/man
[ ! -e "$out/all/$plugin" ] || package avatar-cuda "" "$plugin"
[ ! -e "$out/all/$mpi" ] || package avatar-mpi "$mpi" "$mpi"
package avatar-nano "" usr/share/avatar/nano
package "libavatar$nb" "$so" "$so" "$lib/$soname"
package libavatar-dev "" usr/include "$lib" usr/share/avatar
echo "as root: apt-get install -y $(echo "$out"/*.deb)"
