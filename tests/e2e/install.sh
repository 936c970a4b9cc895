#!/bin/sh
# SPDX-License-Identifier: LGPL-2.1-or-later
# install.sh SRC: what `make install` leaves is enough for a program of somebody else's, shared and static; uninstall takes it away.
set -u
src=$(cd "$1" && pwd)
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
passed=0 failed=0
ok() { if [ "$1" = 0 ]; then passed=$((passed + 1)); echo "ok   $2"; else failed=$((failed + 1)); echo "FAIL $2"; fi; }

# a DESTDIR as bad as they come, and an umask that would hide everything
dest="$dir/ro ot's & (a)"
(umask 077; make -s --no-print-directory -C "$src" install DESTDIR="$dest" > "$dir/log" 2>&1)
ret=$?
ok $ret "make install"
[ $ret = 0 ] || cat "$dir/log"
mv "$dest" "$dir/root"
[ -z "$(find "$dir/root"/* ! -type l ! -perm -444)" ] && [ -z "$(find "$dir/root"/* -type d ! -perm -111)" ]
ok $? "umask 077: what is installed can be read by all"
prefix=$(sed -n 's/^prefix = //p' "$src/config.mak")
root=$dir/root$prefix
make -s --no-print-directory -C "$src" install DESTDIR="$dir/other" prefix=/elsewhere > "$dir/log" 2>&1
[ $? != 0 ] && [ ! -e "$dir/other" ] && grep -q 'configure --prefix' "$dir/log"
ok $? "another prefix than the configured one is refused"
cat > "$dir/t.c" <<'EOF'
#include <avatar.h>
#include <stdio.h>
int main(void)
{
    AvatarOptions opt;
    AvatarEngine *e = NULL;
    avatar_options_default(&opt);
    opt.model = "/nonexistent";
    return avatar_engine_open(&e, &opt) != AVATAR_ERR(ENOENT) || printf("%u\n", avatar_version()) < 0;
}
EOF
pc() { PKG_CONFIG_SYSROOT_DIR=$dir/root PKG_CONFIG_PATH=$root/lib/pkgconfig pkg-config "$@" libavatar; }
cc -std=c99 -o "$dir/shared" "$dir/t.c" $(pc --cflags --libs) && LD_LIBRARY_PATH=$root/lib "$dir/shared" >/dev/null
ok $? "a program against the shared library"
cc -std=c99 -o "$dir/static" "$dir/t.c" $(pc --cflags) "$root/lib/libavatar.a" $(pc --static --libs | sed 's/-lavatar//g') && "$dir/static" >/dev/null
ok $? "a program against the static library"
[ ! -e "$root/bin/avatar" ] || "$root/bin/avatar" --version >/dev/null
ok $? "the tool"
[ -s "$root/share/man/man1/avatar.1" ] && [ -s "$root/share/avatar/patches/7.1/series" ]
ok $? "man page and patches"
tree=$dir/ffmpeg
mkdir -p "$tree/doc" "$tree/libavfilter"
printf '%s\n' '  --enable-libass        x' '    libass' 'avgblur_opencl_filter_deps="opencl"' 'enabled libass            && x' 'the end' > "$tree/configure"
echo '@section avectorscope' > "$tree/doc/filters.texi"
echo 'OBJS-$(CONFIG_AVECTORSCOPE_FILTER)           += avf_avectorscope.o' > "$tree/libavfilter/Makefile"
echo 'extern const FFFilter ff_avf_avectorscope;' > "$tree/libavfilter/allfilters.c"
"$root/share/avatar/patches/gen.sh" "$tree" && grep -q ff_avf_avatar "$tree/libavfilter/allfilters.c" && grep -q '@section avatar' "$tree/doc/filters.texi"
ok $? "the installed gen.sh registers the filter"
missing=
for f in "$src"/libavfilter/*.[ch]; do
    cmp -s "$f" "$tree/libavfilter/${f##*/}" || missing="$missing ${f##*/}"
done
[ -z "$missing" ]
ok $? "and brings all of its files$missing"
make -s --no-print-directory -C "$src" uninstall DESTDIR="$dir/root" >/dev/null 2>&1
[ -z "$(find "$dir/root" -type f -o -type l)" ]
ok $? "make uninstall leaves no file"
echo "$passed passed, $failed failed"
[ "$failed" = 0 ]
