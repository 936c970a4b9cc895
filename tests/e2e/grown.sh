#!/bin/sh
# SPDX-License-Identifier: LGPL-2.1-or-later
# grown.sh SRC BUILD MODEL: programs that were compiled with another avatar.h than the library, whose structs are shorter or longer at
# their end, make the film that one with the same avatar.h makes; what they set that the library does not have is refused.
set -u
src=$(cd "$1" && pwd) build=$(cd "$2" && pwd) model=$(cd "$3" && pwd)
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
passed=0 failed=0
ok() { if [ "$1" = 0 ]; then passed=$((passed + 1)); echo "ok   $2"; else failed=$((failed + 1)); echo "FAIL $2"; fi; }

cat > "$dir/film.c" <<'EOF'
/* film MODEL: the number of its frames and their sum. What is written behind a struct ends the program. */
#include <avatar.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define GUARD 64
#define GUARDED(Type, name) struct { Type is; unsigned char guard[GUARD]; } name

static void check(int right, const char *what)
{
    if (!right) {
        printf("%s\n", what);
        exit(1);
    }
}

static int whole(const unsigned char *guard)
{
    int i = 0;

    while (i < GUARD && guard[i] == 0xa5)
        i++;
    return i == GUARD;
}

static void say(void *opaque, int level, const char *text)
{
    (void)opaque;
    if (level == AVATAR_LOG_ERROR)
        printf("%s\n", text);
}

static GUARDED(AvatarOptions, opt);
static GUARDED(AvatarLook, look);
static GUARDED(AvatarFrame, frame);
static GUARDED(AvatarInfo, info);

static int open_engine(AvatarEngine **e, const char *model)
{
    int ret;

    avatar_options_default(&opt.is);
    check(whole(opt.guard) && opt.is.steps == -1 && opt.is.tune == 1, "options: their defaults");
    opt.is.log = say;
    opt.is.model = model;
    opt.is.devices = "cpu";
    opt.is.cpu_threads = 1;
#ifdef MORE_OPTIONS
    opt.is.more[1] = 1;
#endif
    ret = avatar_preset("preview", &opt.is, NULL);
    check(whole(opt.guard) && (ret < 0 || opt.is.steps == 3), "options: a preset");
    check(avatar_options_check(&opt.is) == ret && avatar_engine_open(e, &opt.is) == ret, "options: some calls take them, some do not");
    return ret;
}

static void open_session(AvatarSession **s, AvatarEngine *e)
{
    static const unsigned char rgb[64 * 64 * 3];
    int w, h, want = 0;

    avatar_look_default(&look.is);
    check(whole(look.guard) && look.is.seed == -1 && look.is.max_late_ms == -1, "look: its defaults");
    look.is.rgb = rgb;
    look.is.width = look.is.height = look.is.out_width = look.is.out_height = 64;
    look.is.seed = 7;
#ifdef MORE_LOOK
    look.is.more[3] = 1;
    want = AVATAR_ERR(EINVAL);
#endif
    check(avatar_engine_size(e, &look.is, &w, &h) == want && avatar_look_check(e, &look.is) == want && avatar_session_open(s, e, &look.is) == want,
          "look: some calls take it, some do not");
    if (want)
        exit(2);
    check(!avatar_session_set(*s, &look.is) && whole(look.guard), "look: a change");
    avatar_session_info(*s, &info.is);
    check(whole(info.guard) && info.is.width == 64 && info.is.steps == 3 && !strcmp(info.is.kv, info.is.precision), "info");
}

int main(int argc, char **argv)
{
    static const float pcm[16000];
    AvatarEngine *e = NULL;
    AvatarSession *s = NULL;
    unsigned long sum = 5381;
    int nb = 0, ret, i;

    memset(opt.guard, 0xa5, GUARD);
    memset(look.guard, 0xa5, GUARD);
    memset(frame.guard, 0xa5, GUARD);
    memset(info.guard, 0xa5, GUARD);
    if (open_engine(&e, argv[argc - 1]) < 0)
        return 2;
    open_session(&s, e);
    check(!avatar_session_send(s, pcm, 16000) && !avatar_session_send(s, NULL, 0), "the sound is not taken");
    while ((ret = avatar_session_receive(s, &frame.is, AVATAR_WAIT)) >= 0) {
        check(whole(frame.guard) && frame.is.index == nb && frame.is.block == nb / AVATAR_BLOCK_FRAMES && frame.is.seed == 7, "frame");
        for (i = 0; i < 64 * 64; i++)
            sum = sum * 33 ^ frame.is.data[0][i / 64 * frame.is.linesize[0] + i % 64];
        nb++;
    }
    check(ret == AVATAR_EOF, avatar_error_text(ret));
    avatar_session_close(&s);
    avatar_engine_close(&e);
    avatar_engine_flush();
    printf("%d frames, %lx\n", nb, sum);
    return 0;
}
EOF

# header NAME WAY: an avatar.h whose four structs have lost their last member, or have one more
header()
{
    mkdir "$dir/$1"
    awk -v way="$2" '
        /^typedef struct Avatar.*{$/ { nb = 0; inside = 1 }
        inside && /^} Avatar(Options|Look|Frame|Info);$/ {
            while (way == "shorter" && nb && line[nb--] !~ /^    [a-z].*;/)
                ;
            for (i = 1; i <= nb; i++)
                print line[i]
            if (way == "longer")
                print "    long long more[4];"
            inside = 0
        }
        inside { line[++nb] = $0; next }
        { print }' "$src/model/avatar.h" > "$dir/$1/avatar.h"
}

# film NAME [FLAG...]: what the program says that is compiled with this avatar.h
film()
{
    name=$1
    shift
    ${CC:-cc} -std=c99 -Wall -Werror -I"$dir/$name" "$@" -o "$dir/film" "$dir/film.c" -L"$build" -lavatar &&
        LD_LIBRARY_PATH=$build:${LD_LIBRARY_PATH:-} timeout 100 "$dir/film" "$model" 2>&1
}

header same same
header short shorter
header long longer
nb=$(grep -c ';' "$src/model/avatar.h")
[ "$(grep -c ';' "$dir/same/avatar.h")" = "$nb" ] && [ "$(grep -c ';' "$dir/short/avatar.h")" = $((nb - 4)) ] &&
    [ "$(grep -c ';' "$dir/long/avatar.h")" = $((nb + 4)) ]
ok $? "four structs that are a member shorter, or longer"
same=$(film same)
echo "$same" | grep -q '^25 frames, '
ok $? "with the library's avatar.h: $same"
short=$(film short)
[ "$short" = "$same" ]
ok $? "with one of before: $short"
long=$(film long)
[ "$long" = "$same" ]
ok $? "with one to come: $long"
for what in Options Look; do
    said=$(film long -DMORE_$(echo $what | tr a-z A-Z))
    [ $? = 2 ] && echo "$said" | grep -q "^Avatar$what: the program sets what libavatar .* does not have; load "
    ok $? "$what that the library does not have are refused: $(echo "$said" | head -n 1)"
done
echo "$passed passed, $failed failed"
[ "$failed" = 0 ]
