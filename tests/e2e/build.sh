#!/bin/sh
# SPDX-License-Identifier: LGPL-2.1-or-later
# build.sh SRC: configure, setup, make and run.sh on machines that are not as they should be. Nothing is installed or compiled.
set -u
src=$(cd "$1" && pwd)
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
passed=0 failed=0
ok() { if [ "$1" = 0 ]; then passed=$((passed + 1)); echo "ok   $2"; else failed=$((failed + 1)); echo "FAIL $2"; fi; }
# stub NAME BODY: a program of that name, first on the path
stub() { mkdir -p "$dir/bin"; printf '#!/bin/sh\n%s\n' "$2" > "$dir/bin/$1"; chmod +x "$dir/bin/$1"; }
stubbed() { PATH=$dir/bin:$PATH "$@"; }

# as much of the tree as make reads before it does anything
skeleton()
{
    mkdir -p "$1/tools" "$1/tests" "$1/model"
    cp "$src/configure" "$src/Makefile" "$1"
    cp "$src"/tools/*.sh "$src"/tools/*.mak "$1/tools"
    cp "$src"/tests/*.mak "$1/tests"
    mkdir -p "$1/tests/simt" && cp "$src"/tests/simt/*.mak "$1/tests/simt"
    cp "$src/model/avatar.h" "$1/model"
}

# ---- what configure does not take -----------------------------------------------------------------------------------------

mkdir "$dir/relative"
(cd "$dir/relative" && "$src/configure" --prefix=here > out 2>&1)
[ $? = 2 ] && [ "$(wc -l < "$dir/relative/out")" = 1 ] && grep -qF 'prefix=here: an absolute path' "$dir/relative/out" && [ ! -e "$dir/relative/config.mak" ]
ok $? "a relative prefix is refused"
(cd "$dir/relative" && "$src/configure" --extra-cflags=-DA=#b > out 2>&1)
[ $? = 2 ] && grep -qF 'what follows a #' "$dir/relative/out" && [ ! -e "$dir/relative/config.mak" ]
ok $? "a flag that make would cut is refused"

# ---- folders that make cannot work in -------------------------------------------------------------------------------------

bad=0
for name in 'a b' 'a#b' 'a%b' 'a$b' 'a:b' "a'b" 'a&b' 'a(b' 'a\b'; do
    there=$dir/$name
    skeleton "$there"
    (cd "$there" && ./configure > out 2>&1) && bad=1
    grep -qF "$there" "$there/out" && [ "$(wc -l < "$there/out")" = 1 ] || bad=1
    (cd "$there" && make demo > out 2>&1) && bad=1
    grep -qF "move it" "$there/out" || bad=1
    [ $bad = 0 ] || { echo "in $there:"; cat "$there/out"; break; }
done
ok $bad "a folder with a blank or a sign of make's is refused in a sentence"
mkdir -p "$dir/Grüße-1_2.3,4+5@6~7=8"
(cd "$dir/Grüße-1_2.3,4+5@6~7=8" && "$src/configure" > out 2>&1)
ok $? "other names are not"

# ---- a configuration of yesterday -----------------------------------------------------------------------------------------

mkdir "$dir/stale"
stub pkg-config 'exit 1'
(cd "$dir/stale" && stubbed "$src/configure" --prefix="$dir/some where" > out && "$src/tools/fresh.sh" "$src" 2> said) &&
    grep -q '^TOOL = yes' "$dir/stale/config.mak" && grep -qF "prefix = $dir/some where" "$dir/stale/config.mak"
ok $? "what has come since is found when demo or check begin, with the options of before"
cp "$dir/stale/config.mak" "$dir/stale/before" && (cd "$dir/stale" && stubbed "$src/tools/fresh.sh" "$src") &&
    cmp -s "$dir/stale/config.mak" "$dir/stale/before"
ok $? "a complete configuration is left alone"
(cd "$dir/stale" && rm config.mak && stubbed "$src/tools/fresh.sh" "$src" 2> said) && grep -q 'left out: tool' "$dir/stale/said"
ok $? "what is left out is said"
sed -i 's/^MISSED.*/MISSED = tests/' "$dir/stale/config.mak"
stub cc "case \"\$*\" in *lcmocka*) exit 1 ;; esac; PATH=\${PATH#*:} exec cc \"\$@\""
rm "$dir/bin/pkg-config"
(cd "$dir/stale" && stubbed "$src/tools/fresh.sh" "$src" demo 2> said && [ ! -s said ] && stubbed "$src/tools/fresh.sh" "$src" 2> said && grep -q 'left out: tests' said)
ok $? "but not tests in a demo"
rm "$dir/bin/cc"
skeleton "$dir/clean" && (cd "$dir/clean" && make clean > out 2>&1) && [ ! -e "$dir/clean/config.mak" ]
ok $? "make clean does not configure"
make -s -C "$src" no-tool TOOL=no | grep -q 'SKIPPED the tool'
ok $? "a build without the tool says so"
make -n -C "$src" -W "$src/model/avatar.map" build/libavatar.so CFLAGS=-DMARK LDFLAGS=-Wl,-z,now | sed -e ':a' -e '/\\$/N; s/\\\n//; ta' | grep -e '-DMARK.*-shared' | grep -q 'z,now'
ok $? "the shared library is linked with CFLAGS and LDFLAGS"

# ---- kinds of card --------------------------------------------------------------------------------------------------------

mkdir "$dir/archs" && bad=0
for list in 75 sm_90 9.0 90b '' '80,x'; do
    (cd "$dir/archs" && ! "$src/configure" "--cuda-archs=$list" > out 2> said && grep -q '^configure: --cuda-archs: ' said && [ ! -e config.mak ]) || bad=1
done
(cd "$dir/archs" && "$src/configure" --cuda-archs=89,90a,120f > out && grep -qx '#define AVT_CUDA_ARCHS "89 90a 120f"' config.h) || bad=1
ok $bad "kinds of card that are none are refused, others are told to the kernels"

# ---- packages ---------------------------------------------------------------------------------------------------------------

stub dpkg-query 'exit 1'
stub id 'echo 1000'
stubbed "$src/tools/setup.sh" build > "$dir/out" 2>&1
[ $? = 1 ] && [ "$(wc -l < "$dir/out")" = 1 ] && grep -q 'apt-get update && apt-get install -y --no-install-recommends .*libdnnl-dev' "$dir/out"
ok $? "an ordinary user is told the whole line"
stub id 'echo 0'
stub apt-get "[ ! -t 0 ] && ! read -r line && [ \"\$DEBIAN_FRONTEND\" = noninteractive ] && echo \"\$*\" >> '$dir/apt'"
echo 'an answer' | stubbed "$src/tools/setup.sh" build > "$dir/out" 2>&1
[ $? = 0 ] && grep -q '^update' "$dir/apt" && grep -q '^install -y .*--no-install-recommends.*force-confold.*libdnnl-dev' "$dir/apt"
ok $? "apt asks nobody"
stub apt-get 'echo "E: no network" >&2; exit 100'
stubbed "$src/tools/setup.sh" build > "$dir/out" 2>&1
[ $? = 1 ] && [ "$(grep -c 'no network' "$dir/out")" = 1 ]
ok $? "what apt says is told once"
mkdir "$dir/few"
for t in sh dirname pwd mkdir cut awk ls sort sed sha256sum id grep head; do ln -s "$(command -v $t)" "$dir/few/$t"; done
PATH=$dir/few sh "$src/tools/fetch-ffmpeg.sh" 7.1 "$dir/cache" > "$dir/out" 2>&1
[ $? = 77 ] && grep -q 'curl is not installed' "$dir/out"
ok $? "without apt and curl the source's address is named"

mkdir -p "$dir/moved/nv-codec-7.1/lib/pkgconfig" "$dir/moved/nv-codec-7.1/include"
printf 'prefix=/where/it/was\nincludedir=${prefix}/include\n\nName: ffnvcodec\nDescription: headers\nVersion: 12\nCflags: -I${includedir}\n' \
    > "$dir/moved/nv-codec-7.1/lib/pkgconfig/ffnvcodec.pc"
pc=$("$src/tools/fetch-ffmpeg.sh" --headers 7.1 "$dir/moved" 2>"$dir/out")
[ "$(PKG_CONFIG_PATH=$pc pkg-config --variable=includedir ffnvcodec)" -ef "$dir/moved/nv-codec-7.1/include" ]
ok $? "NVIDIA's headers are found in a tree that was moved"

# ---- what run.sh counts -------------------------------------------------------------------------------------------------------

stub old 'printf "[==========] 3 test(s) run.\n[  PASSED  ] 2 test(s).\n[  SKIPPED ] 1 test(s), listed below:\n[  SKIPPED ] a\n\n 1 SKIPPED TEST(S)\n"'
stub new 'printf "[==========] group: 3 test(s) run.\n[  PASSED  ] 2 test(s).\n[  SKIPPED ] group: 1 test(s), listed below:\n[  SKIPPED ] a\n\n 1 SKIPPED TEST(S)\n"'
stub bad 'printf "[  PASSED  ] 1 test(s).\n[  FAILED  ] group: 2 test(s), listed below:\n\n 2 FAILED TEST(S)\n"; exit 2'
[ "$(stubbed "$src/tests/run.sh" old new | tail -n 1)" = "4 passed, 0 failed, 2 skipped" ] &&
    [ "$(stubbed "$src/tests/run.sh" new bad | tail -n 1)" = "3 passed, 2 failed, 1 skipped" ]
ok $? "cmocka's skips are counted, old and new"
echo "$passed passed, $failed failed"
[ "$failed" = 0 ]
