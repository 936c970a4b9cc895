#!/bin/sh
# SPDX-License-Identifier: LGPL-2.1-or-later
# install.sh SRC: what `make install` leaves is enough for a program of somebody else's, shared and static; uninstall takes it away.
set -u
src=$(cd "$1" && pwd)
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
passed=0 failed=0
ok() { if [ "$1" = 0 ]; then passed=$((passed + 1)); echo "ok   $2"; else failed=$((failed + 1)); echo "FAIL $2"; fi; }

make -s --no-print-directory -C "$src" install DESTDIR="$dir/root" > "$dir/log" 2>&1
ok $? "make install" || cat "$dir/log"
prefix=$(sed -n 's/^prefix = //p' "$src/config.mak")
root=$dir/root$prefix
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
make -s --no-print-directory -C "$src" uninstall DESTDIR="$dir/root" >/dev/null 2>&1
[ -z "$(find "$dir/root" -type f -o -type l)" ]
ok $? "make uninstall leaves no file"
echo "$passed passed, $failed failed"
[ "$failed" = 0 ]
