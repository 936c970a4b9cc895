/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Fuzzer entry: what a caller does to a session, in any order and size, on the tiny model. A byte is an order; some take a second
 * one. Whatever comes: no crash, no hang, frames in order, and no more of them than the sound that was sent asks for.
 */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "avatar.h"
#include "file.h"
#include "model.h"

#define SIZE 64
#define MAX_SAMPLES 40000               // 5 blocks and a bit: the sink is refreshed, and an input stays quick

enum { SEND, SEND_FEW, SEND_NOTHING, SEND_BAD, SEND_NEGATIVE, POLL, WAIT, PROMPT, PICTURE, SEED, BAD_LOOK, CLOSE_STREAM, ABORT,
       NB_ORDERS };

static AvatarEngine *engine;
static uint8_t picture[SIZE * SIZE * 3];
static float sound[MAX_SAMPLES + 256];

static void must(int ok)
{
    if (!ok)
        abort();
}

static void close_engine(void)
{
    avatar_engine_close(&engine);
    avatar_engine_flush();
}

static void open_engine(void)
{
    AvatarOptions o;
    TestModel m;

    fuzz_make_folder();
    test_model_default(&m);
    must(test_model_write(&m, fuzz_folder) >= 0);
    avatar_options_default(&o);
    o.model = fuzz_folder;
    o.plan = "wave";
    o.steps = 2;
    o.cpu_threads = 1;
    must(avatar_engine_open(&engine, &o) == 0 && !atexit(close_engine));
    for (size_t i = 0; i < sizeof(picture); i++)
        picture[i] = (uint8_t)(i * 7 + i / 192);
    for (int i = 0; i < MAX_SAMPLES + 256; i++)
        sound[i] = 0.3f * sinf((float)i * 0.05f);
}

typedef struct Stream {
    AvatarSession *s;
    AvatarLook look;
    int64_t sent, given;
    int closed, failed;                 // the end was sent; the session was given up
} Stream;

static void send(Stream *t, const float *pcm, int64_t nb)
{
    const int ret = t->sent + nb > MAX_SAMPLES ? AVATAR_EAGAIN : avatar_session_send(t->s, pcm, nb);

    if (ret == 0 && nb > 0)
        t->sent += nb;
    must(ret == 0 || t->closed || t->failed || ret == AVATAR_EAGAIN);
}

static int receive(Stream *t, int wait)
{
    AvatarFrame f;
    const int ret = avatar_session_receive(t->s, &f, wait);

    if (ret == 0) {
        volatile uint8_t last = f.data[2][SIZE / 2 * (SIZE / 2) - 1];

        (void)last;
        must(f.index == t->given++ && f.width == SIZE && t->given <= (t->sent + 639) / 640);
    }
    must(ret == 0 || ret == AVATAR_EAGAIN || ret == AVATAR_EOF || t->failed);
    must(ret != AVATAR_EOF || t->failed || t->given == (t->sent + 639) / 640);
    return ret;
}

static void change(Stream *t, int order, uint8_t arg)
{
    AvatarLook look = t->look;
    char prompt[3] = { (char)arg, (char)(arg >> 1), 0 };               // UTF-8 or not
    int ret;

    look.rgb = order == PICTURE ? picture + arg % 64 : NULL;
    look.stride = order == PICTURE && arg % 64 ? 3 * SIZE : 0;
    look.height = order == PICTURE && arg % 64 ? SIZE - 1 : SIZE;
    look.prompt = order == PROMPT ? prompt : NULL;
    look.seed = order == SEED ? arg : -2;
    if (order == BAD_LOOK)
        look = (AvatarLook){ .size = sizeof(look), .rgb = picture, .width = arg % 2 ? -1 : SIZE, .height = SIZE, .stride = 5, .seed = arg % 3 ? -7 : -2 };
    ret = avatar_session_set(t->s, &look);
    must(order == BAD_LOOK || (order == PROMPT && arg > 127) ? ret == AVATAR_ERR(EINVAL) : ret == 0);
}

static void obey(Stream *t, uint8_t order, uint8_t arg)
{
    static const float bad[2] = { 0, NAN };

    switch (order % NB_ORDERS) {
    case SEND:          send(t, sound + t->sent % 64, arg * 64); break;
    case SEND_FEW:      send(t, sound, arg); break;
    case SEND_NOTHING:  send(t, sound, 0); break;
    case SEND_BAD:      must(avatar_session_send(t->s, bad, 2) < 0); break;
    case SEND_NEGATIVE: must(avatar_session_send(t->s, sound, -1 - arg) < 0); break;
    case POLL:          receive(t, AVATAR_POLL); break;
    case WAIT:          receive(t, AVATAR_WAIT); break;
    case CLOSE_STREAM:  must((avatar_session_send(t->s, NULL, 0) == 0) == (!t->closed && !t->failed)); t->closed = 1; break;
    case ABORT:         avatar_session_abort(t->s); t->failed = 1; break;
    default:            change(t, order % NB_ORDERS, arg);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    Stream t = { 0 };
    int ret = 0;

    if (!engine)
        open_engine();
    avatar_look_default(&t.look);
    t.look.rgb = picture;
    t.look.width = t.look.height = t.look.out_width = t.look.out_height = SIZE;
    t.look.seed = 1;
    must(avatar_session_open(&t.s, engine, &t.look) == 0);
    for (size_t i = 0; i < size && i < 64; i++)
        obey(&t, data[i], i + 1 < size ? data[i + 1] : 0);
    if (size % 2) {                                                 // to the end, or closed in the middle
        avatar_session_send(t.s, NULL, 0);
        t.closed = 1;
        while (ret >= 0)
            ret = receive(&t, AVATAR_WAIT);
        must(ret == AVATAR_EOF || t.failed);
    }
    avatar_session_close(&t.s);
    return 0;
}
