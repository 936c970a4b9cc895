#!/bin/sh
# SPDX-License-Identifier: LGPL-2.1-or-later
# man.sh SRC DATADIR: the man page on stdout. The text around is doc/avatar.1.in; at @OPTIONS@ stand the options of tools/options.c, in
# the words of the filter's manual (doc/avatar.texi), or in their own where the filter has no such option.
set -eu
src=$1 datadir=$2
version=$(awk '/define AVATAR_VERSION_(MAJOR|MINOR|MICRO)/ { printf "%s%s", dot, $3; dot = "." }' "$src/model/avatar.h")

# name<TAB>kind<TAB>help of each option of the tool
list_options() { sed -n 's/^    { "\([a-z_]*\)", *\([A-Z0-9]*\), *AT([^)]*), *"\(.*\)", *[N"].*/\1	\2	\3/p' "$src/tools/options.c"; }

options() {
    list_options | awk -F '\t' -v texi="$src/doc/avatar.texi" '
        BEGIN {
            kind["INT"] = kind["INT64"] = "N"; kind["SIZE"] = "WxH"; kind["TIME"] = "TIME"; kind["CONST"] = "WORD"; kind["TEXT"] = "TEXT"
            value["model"] = "DIR"; value["lora"] = value["output"] = "FILE"; value["container"] = value["video_codec"] = value["audio_codec"] = value["input_format"] = "NAME"; value["devices"] = value["opts"] = "LIST"
            value["plan"] = "WORD"; value["vae_device"] = value["front_device"] = "DEVICE"
            while ((getline line < texi) > 0)
                read_texi(line)
        }
        # Items of the outer table by name; an inner table becomes an indented list.
        function read_texi(line) {
            if (line ~ /^@c /)
                return
            if (line ~ /^@table @option/) { depth = 1; return }
            if (!depth)
                return
            if (line ~ /^@table/) { depth = 2; text[name] = text[name] ".RS\n"; return }
            if (line ~ /^@end table/) { if (depth == 2) text[name] = text[name] ".RE\n"; depth--; return }
            if (line ~ /^@item/) {
                sub(/^@item /, "", line)
                if (depth == 1) { sub(/,.*/, "", line); name = line } else text[name] = text[name] ".TP\n.B " line "\n"
                return
            }
            if (line == "" && depth == 2)
                return
            text[name] = text[name] (line == "" ? ".IP\n" : roff(line) "\n")
        }
        function roff(s,    out, tag, arg) {
            gsub(/\\/, "\\e", s)
            gsub(/-/, "\\-", s)
            gsub(/@:/, "", s)
            while (match(s, /@[a-z]+[{][^}]*[}]/)) {
                tag = substr(s, RSTART + 1, index(s, "{") - RSTART - 1)
                arg = substr(s, RSTART, RLENGTH)
                sub(/^@[a-z]+[{]/, "", arg)
                sub(/[}]$/, "", arg)
                if (tag == "option")
                    arg = "\\-\\-" arg
                out = out substr(s, 1, RSTART - 1) (tag == "file" || tag == "var" ? "\\fI" : "\\fB") arg "\\fR"
                s = substr(s, RSTART + RLENGTH)
            }
            return out s
        }
        {
            print ".TP"
            print ".B \\-\\-" $1 ($2 == "FLAG" ? "" : " \\fI" ($1 in value ? value[$1] : kind[$2]) "\\fR")
            t = $1 in text ? text[$1] : toupper(substr($3, 1, 1)) roff(substr($3, 2)) "\n"
            while (sub(/\.IP\n$/, "", t)) ;
            printf "%s", t
        }'
}

[ -n "$(list_options)" ] || { echo "man.sh: tools/options.c has no options that can be read" >&2; exit 1; }
sed -n '1,/^@OPTIONS@$/p' "$src/doc/avatar.1.in" | sed -e '/^@OPTIONS@$/d' -e "s/@VERSION@/$version/"
options
sed -e '1,/^@OPTIONS@$/d' -e "s|@DATADIR@|$datadir|" "$src/doc/avatar.1.in"
