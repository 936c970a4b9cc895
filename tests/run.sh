#!/bin/sh
# SPDX-License-Identifier: LGPL-2.1-or-later
# run.sh [--limit SECONDS] PROGRAM...: run test programs, one line each; the output of those that fail; "N passed, N failed, N skipped".
# A program is cmocka's, or closes with such a line itself. Each has ten minutes, or SECONDS.
passed=0 failed=0 skipped=0
limit=600
[ "$1" = --limit ] && { limit=$2; shift 2; }
out=$(mktemp)
trap 'rm -f "$out"' EXIT

# cmocka's own sums; from 1.1.6 on the name of the group stands before the number of those that passed
passes() { sed -n 's/^\[  PASSED  \] \(.*: \)\{0,1\}\([0-9][0-9]*\) test(s).*/\2/p' "$out" | head -n 1; }
count() { sed -n "s/^ *\([0-9][0-9]*\) $1 TEST(S).*/\1/p" "$out" | head -n 1; }

for prog; do
    start=$(date +%s)
    OMP_WAIT_POLICY=passive timeout "$limit" sh -c "$prog" > "$out" 2>&1 < /dev/null
    ret=$?
    line=$(grep -E '^[0-9]+ passed, [0-9]+ failed' "$out" | tail -n 1)
    if [ -n "$line" ]; then
        p=$(echo "$line" | sed 's/ passed.*//')
        f=$(echo "$line" | sed 's/.*passed, \([0-9]*\) failed.*/\1/')
        s=$(echo "$line" | sed -n 's/.*failed, \([0-9]*\) skipped.*/\1/p')
    else
        p=$(passes) s=$(count SKIPPED) f=$(count FAILED)
    fi
    p=${p:-0} f=${f:-0} s=${s:-0}
    [ "$ret" = 0 ] || [ "$f" -gt 0 ] || f=1                         # a crash or a time-out is a failure
    [ "$ret" = 0 ] && [ "$p" = 0 ] && [ "$s" = 0 ] && f=1           # so is a program that tested nothing
    passed=$((passed + p)) failed=$((failed + f)) skipped=$((skipped + s))
    name=$(echo "$prog" | sed 's|^.*/tests/||; s|^.*--no-print-directory ||')
    printf '%s %-44s %4d passed%s%s  %3d s\n' "$([ "$f" = 0 ] && echo 'ok  ' || echo 'FAIL')" "$name" "$p" \
        "$([ "$f" = 0 ] || echo ", $f failed")" "$([ "$s" = 0 ] || echo ", $s skipped")" $(($(date +%s) - start))
    grep -E '^(SKIP|\[  SKIPPED \] [^0-9])|SKIPPED:' "$out" | grep -v 'test(s), listed below' | sort -u | sed 's/^/     /'
    [ "$f" = 0 ] || { [ "$ret" = 124 ] && echo "     no end within $limit s"; { grep -E '^(FAIL|FAILED)\b' "$out"; tail -n 40 "$out"; } | sed 's/^/     /'; }
done
echo "$passed passed, $failed failed, $skipped skipped"
[ "$failed" = 0 ]
