#!/bin/sh
# SPDX-License-Identifier: LGPL-2.1-or-later
# deb.sh DIR: the packages that tools/deb.sh has left in DIR say of themselves what is so, and what they hold works when unpacked.
set -u
dir=$(cd "$1" && pwd)
src=$(cd "$(dirname "$0")/../.." && pwd)
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
root=$tmp/root
passed=0 failed=0 skipped=0
ok() { if [ "$1" = 0 ]; then passed=$((passed + 1)); echo "ok   $2"; else failed=$((failed + 1)); echo "FAIL $2"; fi; }
field() { dpkg-deb -f "$1" "$2"; }
version=$(awk '/define AVATAR_VERSION_(MAJOR|MINOR|MICRO)/ { printf "%s%s", dot, $3; dot = "." }' "$src/model/avatar.h")
arch=$(dpkg --print-architecture)
lib=usr/lib/$(dpkg-architecture -qDEB_HOST_MULTIARCH)
soname=$(sed -n 's/.*-soname,\(libavatar\.so\.[0-9]*\).*/\1/p' "$src/tools/ffmpeg.mak" | head -n 1)
so_package=libavatar${soname##*.}

for p in "$so_package:$arch" "libavatar-dev:$arch" "avatar:$arch" "avatar-nano:all" \
    $([ ! -e "$dir/avatar-mpi_${version}_$arch.deb" ] || echo "avatar-mpi:$arch") \
    $([ ! -e "$dir/avatar-cuda_${version}_$arch.deb" ] || echo "avatar-cuda:$arch"); do
    deb=$dir/${p%:*}_${version}_${p#*:}.deb
    bad=0
    [ "$(field "$deb" Package) $(field "$deb" Version) $(field "$deb" Architecture)" = "${p%:*} $version ${p#*:}" ] || bad=1
    for f in Maintainer Section Priority Installed-Size Description; do [ -n "$(field "$deb" $f)" ] || bad=1; done
    [ -z "$(dpkg-deb -c "$deb" | awk '$2 != "root/root" || $1 ~ /^.....w|^........w/ && $1 !~ /^l/')" ] || bad=1
    dpkg-deb -x "$deb" "$root" && dpkg-deb -e "$deb" "$tmp/${p%:*}" && (cd "$root" && md5sum -c --quiet "$tmp/${p%:*}/md5sums") || bad=1
    ok $bad "$p: fields, owners, modes, sums"
done

# every library that a program loads is in a package that its own package depends on
covered() {
    for l in $(objdump -p "$1" | awk '$1 == "NEEDED" { print $2 }'); do
        path=$(ldd "$1" | awk -v l="$l" '$1 == l { print $3 } $1 ~ "/" l "$" { print $1 }')
        owner=$({ dpkg -S "$path" || dpkg -S "/usr$path" || dpkg -S "$(readlink -f "$path")"; } 2>/dev/null | head -n 1 | sed 's/:.*//')
        field "$2" Depends | tr ',|' '\n\n' | sed 's/^ *//; s/[ :].*//' | grep -qx "$owner" ||
            { echo "$1: $l ($owner) is not in Depends"; return 1; }
    done
}
covered "$root/$lib/$soname" "$dir/${so_package}_${version}_$arch.deb"
ok $? "what the library needs"
covered "$root/usr/bin/avatar" "$dir/avatar_${version}_$arch.deb"
ok $? "what the tool needs"
[ ! -e "$root/$lib/libavatar_mpi.so" ] || { covered "$root/$lib/libavatar_mpi.so" "$dir/avatar-mpi_${version}_$arch.deb"; ok $? "what the plugin for MPI needs"; }
nm -D --defined-only "$root/$lib/$soname" | awk '$2 != "A" { sub(/@.*/, "", $3); print $3 }' | sort > "$tmp/exported"
sed -n 's/^ \(avatar_[a-z_]*\)@.*/\1/p' "$tmp/$so_package/symbols" | sort | cmp -s - "$tmp/exported"
ok $? "symbols"

cat > "$tmp/t.c" <<'EOT'
#include <avatar.h>
#include <stdio.h>
int main(int argc, char **argv)
{
    AvatarOptions opt;
    AvatarEngine *e = NULL;
    int ret;
    avatar_options_default(&opt);
    opt.model = argv[argc - 1];
    ret = avatar_engine_open(&e, &opt);
    avatar_engine_close(&e);
    return ret < 0 || printf("%u\n", avatar_version()) < 0;
}
EOT
pc() { PKG_CONFIG_SYSROOT_DIR=$root PKG_CONFIG_LIBDIR=$root/$lib/pkgconfig pkg-config "$@" libavatar; }
[ "$(pc --modversion)" = "$version" ] && cc -o "$tmp/t" "$tmp/t.c" $(pc --cflags --libs) &&
    LD_LIBRARY_PATH=$root/$lib "$tmp/t" "$root/usr/share/avatar/nano" >/dev/null
ok $? "a program against the development package opens the model"
"$root/usr/bin/avatar" --version | grep -qF "$version"
ok $? "the tool says its version"
nano=$root/usr/share/avatar/nano
head -c 16000 /dev/zero > "$tmp/silence"
"$root/usr/bin/avatar" speak - "$nano/faces/anna.png" --input_format s16le --model "$nano" --quiet -o "$tmp/o.nut" < "$tmp/silence" &&
    [ "$(stat -c %s "$tmp/o.nut")" -gt 300000 ]
ok $? "the tool speaks with the packaged model"
man=$(gzip -dc "$root/usr/share/man/man1/avatar.1.gz")
case $man in *".TH AVATAR 1"*) true ;; *) false ;; esac && [ -s "$root/usr/share/avatar/patches/7.1/series" ]
ok $? "man page and patches"

if command -v lintian >/dev/null; then
    lintian --allow-root --fail-on error,warning "$dir"/*.deb
    ok $? "lintian"
else
    skipped=1
    echo "SKIPPED: lintian is not installed"
fi
echo "$passed passed, $failed failed, $skipped skipped"
[ "$failed" = 0 ]
