#!/bin/sh
# SPDX-License-Identifier: LGPL-2.1-or-later
# path.sh FOLDER...: make cuts file names at blanks and reads some signs as its own, so a folder that has one is refused in a sentence.
for dir; do
    case $dir in
        *[[:space:]\#%\$:\'\"\&\(\)\\\;\|\<\>*?{}\`!]*)
            printf '%s\n' "'$dir' has a blank or one of # % \$ : ' \" & ( ) \\ ; | < > * ? { } \` ! in its name, which make cannot build in; move it" >&2
            exit 1 ;;
    esac
done
