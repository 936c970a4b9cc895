#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# tree.sh SRC BUILD: is the house in order? Direction of includes, headers that compile alone, exported symbols, licence lines,
# trailing space, device headers where they belong, options that are the same in filter, tool and manual, links of the documents.
src=$1 build=$2
passed=0 failed=0
fail() { echo "FAIL $*"; bad=1; }
done_with() { if [ -n "$bad" ]; then failed=$((failed + 1)); else passed=$((passed + 1)); echo "ok   $1"; fi; bad=; }
cd "$src" || exit 1

# folders from left to right; a file includes only from its own or from folders to its left
rank() {
    case $1 in
        kernels/base/*) echo 0 ;; kernels/comm/*) echo 2 ;; kernels/*) echo 1 ;;
        model/files/*) echo 3 ;; model/nets/*) echo 4 ;; model/engine/*) echo 5 ;; model/avatar.h) echo -1 ;;
        libavfilter/*|tools/*) echo 6 ;; *) echo 9 ;;
    esac
}
find_header() { [ "$1" = config.h ] && return; for d in kernels model tools .; do [ -e "$d/$1" ] && { echo "$d/$1" | sed 's|^\./||'; return; }; done; }
for f in $(git ls-files '*.c' '*.h' '*.cc' '*.cu' | grep -vE '^tests/'); do
    own=$(rank "$f")
    for inc in $(sed -n 's/^#include "\(.*\)"/\1/p' "$f"); do
        h=$(find_header "$inc")
        [ -n "$h" ] || { [ -e "$(dirname "$f")/$inc" ] && h=$(dirname "$f")/$inc; }
        [ -n "$h" ] || continue
        [ "$(rank "$h")" -le "$own" ] || fail "$f includes $h, which is to its right"
    done
done
grep -nE '^#include "(base|tensor|kernels|files|nets|engine)' libavfilter/*.c && fail "libavfilter sees only avatar.h"
grep -lE '^#include <(cuda|cublas|cudnn|nccl)' $(git ls-files '*.c' '*.h' | grep -vE '^(kernels/cuda/|kernels/comm/comm_nccl|tests/simt/|tests/gpu/)') && fail "CUDA headers outside kernels/cuda, comm_nccl.c and what tests them"
grep -lE '^#include <mpi' $(git ls-files '*.c' '*.h' | grep -v '^kernels/comm/comm_mpi.c') && fail "mpi.h outside comm_mpi.c"
grep -lE '^#include <dnnl' $(git ls-files '*.c' '*.h' | grep -vE '^(kernels/cpu/onednn|tests/bench/onednn)') && fail "dnnl.h outside kernels/cpu/onednn.c and the bench"
done_with "direction of includes"

toolkit=$(echo '#include <cublasLt.h>' | ${CC:-cc} -E -x c - >/dev/null 2>&1 && echo yes)
for h in $(git ls-files '*.h' | grep -vE '^tests/|^tools/nano/|^libavfilter/avatar_filter.h'); do      # that one stands on FFmpeg's own
    case $h in kernels/cuda/cuda.h|kernels/cuda/plans.h) [ "$toolkit" ] || continue ;; esac
    std=c11
    [ "$h" = model/avatar.h ] && std=c99
    ${CC:-cc} -std=$std -D_GNU_SOURCE -Wall -Wextra -Werror -fopenmp -fsyntax-only -x c -I"$build/.." -I. -Ikernels -Imodel -Itools "$h" || fail "$h does not compile alone"
done
${CXX:-c++} -std=c++11 -fsyntax-only -x c++ model/avatar.h || fail "model/avatar.h does not compile as C++"
done_with "headers compile alone"

so=$(nm -D --defined-only "$build/libavatar.so" | awk '$2 != "A" { print $3 }' | grep -v '^avatar_')
[ -z "$so" ] || fail "libavatar.so exports: $(echo $so | head -c 300)"
a=$(nm -g --defined-only "$build/libavatar.a" 2>/dev/null | awk 'NF == 3 && $2 ~ /^[TDBRC]$/ { print $3 }' | grep -vE '^(avatar_|avt_)' | sort -u)
[ -z "$a" ] || fail "libavatar.a exports: $(echo $a | head -c 300)"
done_with "exported symbols"

calls=$(grep -nE '(^|[^a-zA-Z_>.])(malloc|calloc|realloc|free|printf|exit|getenv|setlocale) ?\(' $(git ls-files 'kernels/*.c' 'model/*.c') | grep -vE 'kernels/base/mem\.c|^[^:]*:[0-9]*: *(\*|//)|/\*' )
[ -z "$calls" ] || fail "calls that the library does not make: $calls"
done_with "no malloc, printf, exit, getenv in the library"

operands=$(sed -n '/operands, by number/,/^    };/p' kernels/backend.h | sed -nE 's|//.*||; s/.*[ }]([a-z_0-9]+);.*/\1/p' | paste -sd'|')
some=$(grep -rnE '\.op = (OP_|op,)' kernels tests --include=*.c --include=*.h --include=*.cu | grep -E "[ ,]\.($operands) = ")
[ "$operands" ] && [ -z "$some" ] || fail "an initializer that gives an op's operands by another name than in, so the others are what was there: $some"
done_with "absent operands are none"

for f in $(git ls-files '*.c' '*.h' '*.cc' '*.cu' '*.sh' '*.py' Makefile configure); do
    head -n 3 "$f" | grep -q 'SPDX-License-Identifier: LGPL-2.1-or-later' || fail "$f has no licence line"
done
done_with "licence lines"
git ls-files | grep -vE '\.(png|jpg|gif|webp|heic|gguf|safetensors|model|pth|bin|patch|wav|svg)$|^LICENSE$|^model/nano/|^tests/fuzz/corpus/' | xargs grep -nE '[[:space:]]+$' | head -n 5 | grep . && fail "trailing space"
done_with "no trailing space"
# options: names and words are spelled alike in the filter, the tool and the manual
lines() { tr ' |' '\n\n' | sed '/^$/d' | sort; }
differ() { diff <(lines <<< "$2") <(lines <<< "$3") > /dev/null || fail "$1: $(echo $2) / $(echo $3)"; }
filter=$(sed -nE 's/^    (STRING\("|\{ ")([a-z_]+)".*/\2/p' libavfilter/avatar_options.c)
tool=$(sed -nE 's/^    \{ "([a-z_]+)", +[A-Z0-9]+, +AT\(.*/\1/p' tools/options.c)
manual=$(awk '/^@table @option/ { d = 1; next } /^@table/ { d++ } /^@end table/ { d-- } d == 1 && sub(/^@item /, "") { gsub(/,/, ""); print }' doc/avatar.texi)
[ -n "$filter" ] && [ -n "$tool" ] || fail "no options found"
differ "filter and manual" "$filter" "$manual"
# some are of use in one of the two alone
lacks() { comm -23 <(lines <<< "$2") <(lines <<< "$3") | grep -vxE "$4" && fail "$1 lacks these"; }
lacks "tool" "$filter" "$tool" 'm|s|image|hw_format|max_gap|max_drift|hold|metadata'
lacks "filter" "$tool" "$filter" 'cpu_level|output|container|video_codec|audio_codec|input_format|quiet|help|memory|host_memory|json|ops|full|quick|manifest|picture|record|damage|calibrate|seeded|seconds|gpus|link'
differ "durations" "$(grep -B1 AV_OPT_TYPE_DURATION libavfilter/avatar_options.c | sed -nE 's/^    \{ "([a-z_]+)".*/\1/p' | grep -vxE 'max_gap|max_drift|hold')" \
    "$(sed -nE 's/^    \{ "([a-z_]+)", +TIME,.*/\1/p' tools/options.c)"
item() { awk -v name="$1" '/^@item / && d < 2 { on = $2 == name || $2 == name "," } /^@table/ { d++ } /^@end table/ { d-- } on' doc/avatar.texi; }
for o in compat late mode tail; do
    words=$(sed -nE "s/^    \{ \"$o\", .*\"([a-z|]+)\" \},/\1/p" tools/options.c)
    differ "$o: tool and filter" "$words" "$(sed -nE "s/^    CHOICE\(\"([a-z]+)\".*\"$o\"\),/\1/p" libavfilter/avatar_options.c)"
    differ "$o: tool and manual" "$words" "$(item $o | sed -n '/^@table/,$s/^@item //p')"
done
words=$(sed -nE 's/^    \{ "format", .*"([a-z0-9|]+)" \},/\1/p' tools/options.c)
differ "format: tool and filter" "$words" "$(sed -nE 's/^    \{ AV_PIX_FMT_([A-Z0-9]+), +AVATAR_.*/\L\1/p' libavfilter/avatar_output.c)"
for w in ${words//|/ }; do item format | grep -q "@samp{$w}" || fail "format: $w is not in the manual"; done
kinds=$(sed -nE 's/.*kind_names\[\] = \{ (.*) \};/\1/p' model/engine/plan.c | tr -d '",')
splits=$(sed -nE 's/.*split_names\[\] = \{ (.*) \};/\1/p' model/engine/plan.c | grep -oE '"[a-z]+"' | sed 's/"\(.*\)"/\1@var{P}/')
differ "plan: engine and manual" "auto $kinds $splits" "$(item plan | sed -n '/^@table/,$s/^@item //p')"
done_with "options of filter, tool and manual"

for f in $(git ls-files '*.md'); do
    for l in $(grep -oE '\]\([^)#]+' "$f" | sed 's/^](//' | grep -vE ':'); do
        [ -e "$(dirname "$f")/$l" ] || fail "$f: no $l"
    done
    for l in $(grep -oE '`(kernels|model|libavfilter|tools|tests|doc|patches)/[A-Za-z0-9_./-]*`' "$f" | tr -d '`'); do
        [ -e "$l" ] || fail "$f: no $l"
    done
done
done_with "files that the documents name"
echo "$passed passed, $failed failed"
[ "$failed" = 0 ]
