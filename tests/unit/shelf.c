/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The shelf: layers that stand, that are fetched, that are read again, give the same bits; what stays is what was planned; the
 * copying queue and the working one are out of step (guard), so that an order that nobody asked for shows.
 */
#include "files/shelf.h"
#include "weights.h"

enum { L = 7, D = 40, ROWS = 3 };

typedef struct Layer {
    Linear f;
    Tensor extra;                                       // layers differ in size
} Layer;

static int bind_layer(void *out, Binder *b, const void *opaque, int l)
{
    Layer *w = out;

    (void)opaque;
    w->f = avt_bind_linear(b, D, D, 1, "layer.%d", l);
    w->extra = l % 3 ? AVT_NONE : avt_bind(b, WEIGHT_PLAIN, AVT_DIMS(D), "extra.%d", l);
    return avt_binder_finish(b, 1);
}

typedef struct Stack {
    Weights file;
    Ckpt *ckpt;
    TestBench b;
    Backend *copy;
    Shelf *shelf;
    int in_place;
    size_t part;                                        // eighths of the room that there is on the device
    int slots;
} Stack;

static void open_file(Stack *s)
{
    char name[32];

    weights_init(&s->file);
    for (int l = 0; l < L; l++) {
        snprintf(name, sizeof(name), "layer.%d.weight", l);
        WEIGHTS_ADD(&s->file, 0, 0.3f, name, D, D);
        snprintf(name, sizeof(name), "layer.%d.bias", l);
        WEIGHTS_ADD(&s->file, 0, 1, name, D);
        snprintf(name, sizeof(name), "extra.%d", l);
        if (l % 3 == 0)
            WEIGHTS_ADD(&s->file, 0, 1, name, D);
    }
    weights_write(&s->file);
    REQUIRE_OK(avt_ckpt_open(&s->ckpt, s->file.path, test_log()));
}

static int open_shelf(Stack *s, size_t keep)
{
    const ShelfRoom room = s->in_place ? (ShelfRoom){ keep, 0, 1 } : (ShelfRoom){ keep * s->part / 8, keep, s->slots };

    return avt_shelf_open(&s->shelf, &(ShelfBook){ .ckpt = s->ckpt, .what = "stack", .nb_layers = L, .size = sizeof(Layer), .bind = bind_layer },
                          s->b.be, room, NULL);
}

static void open_stack(Stack *s, const char *device, size_t keep, int in_place)
{
    memset(s, 0, sizeof(*s));
    s->in_place = in_place;
    s->slots = 2;
    open_file(s);
    test_bench_open(&s->b, device, CPU_PLAIN, 1);
    s->b.be->log = test_log();
    REQUIRE_OK(avt_backend_open(&s->copy, device, &(BackendOptions){ .threads = 1, .level = CPU_PLAIN, .log = test_log() }));
    REQUIRE_OK(open_shelf(s, keep));
}

static void close_stack(Stack *s)
{
    avt_shelf_close(&s->shelf);
    avt_backend_close(&s->copy);
    test_bench_close(&s->b);
    avt_ckpt_close(&s->ckpt);
    weights_close(&s->file);
}

typedef struct Stream {                                 // x = f(x) + extra, layer by layer
    Tensor x, y;                                        // [ROWS, D]
} Stream;

static Stream stream_open(Stack *s)
{
    float v[ROWS * D];
    Stream x;

    test_random(v, ROWS * D, 9);
    x.x = TEST_TENSOR(&s->b, v, ROWS, D);
    x.y = avt_new(s->b.arena, DT_F32, ROWS, D);
    return x;
}

static void walk(Stack *s, ShelfReader *r, Stream *x)
{
    Backend *be = s->b.be;
    const Layer *w;

    for (int l = 0; l < L && (w = avt_shelf_layer(r, l)); l++) {
        avt_linear(be, x->y, x->x, &w->f, ACT_SILU);
        if (w->extra.be)
            avt_add(be, x->y, x->y, w->extra);
        avt_copy(be, x->x, x->y);
    }
}

/* One walk of a reader of its own. The result in `out` (opt), [ROWS, D]. */
static int pass(Stack *s, float *out)
{
    Backend *be = s->b.be;
    const size_t mark = avt_arena_mark(s->b.arena);
    Stream x = stream_open(s);
    ShelfReader r;
    int ret = avt_shelf_begin(&r, s->shelf, be, s->in_place ? be : s->copy, s->b.arena, 0);

    if (ret >= 0)
        walk(s, &r, &x);
    ret = avt_shelf_end(&r);
    if (ret >= 0 && out)
        ret = avt_download(be, out, x.x);
    avt_arena_release(s->b.arena, mark);
    return ret;
}

enum { WALKS = 3 };

/* Several walks of one reader, each on the result of the one before. @return bytes that came in the last of them
 * @param hasty  a planted fault: layers come in the order of their own queue alone, whatever is at work on a slot */
static size_t walks(Stack *s, float *out, int hasty)
{
    const size_t mark = avt_arena_mark(s->b.arena);
    Stream x = stream_open(s);
    ShelfReader r;
    double before = 0;

    REQUIRE_OK(avt_shelf_begin(&r, s->shelf, hasty ? s->copy : s->b.be, s->in_place ? s->b.be : s->copy, s->b.arena, 1));
    for (int i = 0; i < WALKS; i++) {
        before = s->copy->queue.fetched;
        walk(s, &r, &x);
    }
    before = s->copy->queue.fetched - before;
    REQUIRE_OK(avt_shelf_end(&r));
    REQUIRE_OK(avt_download(s->b.be, out, x.x));
    avt_arena_release(s->b.arena, mark);
    return (size_t)before;
}

static size_t all_bytes(void)
{
    Stack s;
    size_t all;

    open_stack(&s, "cpu", (size_t)1 << 40, 1);
    all = avt_shelf_planned(s.shelf);
    close_stack(&s);
    return all;
}

/* Three passes of a stack of which `part` eighths may stay, against `want`. */
static void check(const char *device, int part, int in_place, const float *want)
{
    const size_t keep = all_bytes() * (size_t)part / 8;
    float got[ROWS * D];
    size_t fetched = 0;
    Stack s;

    open_stack(&s, device, keep, in_place);
    REQUIRE(avt_shelf_planned(s.shelf) <= keep && avt_shelf_used(s.shelf) == 0);
    for (int i = 0; i < 3; i++) {
        s.copy->queue = (QueueStat){ 0 };
        REQUIRE_OK(pass(&s, got));
        REQUIRE(!memcmp(got, want, sizeof(got)));
        REQUIRE(avt_shelf_used(s.shelf) == avt_shelf_planned(s.shelf));
        fetched = (size_t)s.copy->queue.fetched;
    }
    REQUIRE(fetched == avt_shelf_planned(s.shelf) - avt_shelf_standing(s.shelf));           // all that does not stand came by fetch, once
    REQUIRE(avt_shelf_standing(s.shelf) == (in_place ? avt_shelf_planned(s.shelf) : 0));
    close_stack(&s);
}

static void all_ways_give_the_same_bits(void **state)
{
    float want[ROWS * D];
    Stack s;

    (void)state;
    open_stack(&s, "cpu", 0, 1);
    REQUIRE_OK(pass(&s, want));
    close_stack(&s);
    for (int part = 0; part <= 8; part++)
        for (int in_place = 0; in_place < 2; in_place++) {
            check("cpu", part, in_place, want);
            check("guard", part, in_place, want);
        }
}

/* A shelf that is filled, with so many eighths that stand on the device, and a reader that goes round: the bits of layers that all stand; a
 * walk costs what comes, once; and where all that comes has a slot, nothing. A reader that does not wait for work on a slot is found out. */
static void readers_go_round(void **state)
{
    float want[ROWS * D], got[ROWS * D];
    size_t bytes;
    Stack s;

    (void)state;
    open_stack(&s, "cpu", (size_t)1 << 40, 1);
    REQUIRE_OK(avt_shelf_fill(s.shelf, NULL, NULL, test_log()));
    REQUIRE(avt_shelf_used(s.shelf) == avt_shelf_planned(s.shelf));
    walks(&s, want, 0);
    close_stack(&s);
    for (int slots = 1; slots <= 3; slots++)
        for (size_t part = 0; part <= 8; part++) {
            int coming;

            open_stack(&s, "guard", 0, 0);
            avt_shelf_close(&s.shelf);
            s.part = part;
            s.slots = slots;
            REQUIRE_OK(open_shelf(&s, all_bytes()));
            REQUIRE_OK(avt_shelf_fill(s.shelf, NULL, NULL, test_log()));
            coming = avt_shelf_coming(s.shelf, &bytes);
            REQUIRE(avt_shelf_standing(s.shelf) <= all_bytes() * part / 8 && avt_shelf_standing(s.shelf) + bytes == all_bytes());
            REQUIRE(walks(&s, got, 0) == (coming > slots ? bytes : 0));
            REQUIRE(!memcmp(got, want, sizeof(got)));
            if (coming > slots) {
                walks(&s, got, 1);
                REQUIRE(memcmp(got, want, sizeof(got)));
            }
            close_stack(&s);
        }
}

/* What was planned is what a device that computes nothing finds, scratch too. */
static void planned_is_used(void **state)
{
    (void)state;
    for (int in_place = 0; in_place < 2; in_place++)
        for (size_t keep = 0; keep <= all_bytes(); keep += all_bytes() / 4) {
            Arena *arena;
            size_t planned, peak;
            Stack s;

            open_stack(&s, "guard", keep, in_place);
            REQUIRE_OK(pass(&s, NULL));
            planned = avt_shelf_planned(s.shelf);
            peak = avt_arena_peak(s.b.arena);
            avt_shelf_close(&s.shelf);
            avt_arena_close(&s.b.arena);
            avt_backend_close(&s.b.be);
            REQUIRE_OK(avt_backend_open(&s.b.be, "dry", &(BackendOptions){ .threads = 1, .level = CPU_PLAIN, .plan_for = "guard", .log = test_log() }));
            REQUIRE_OK(avt_arena_open(&arena, s.b.be, "scratch", ARENA_UNLIMITED));
            s.b.arena = arena;
            REQUIRE_OK(open_shelf(&s, keep));
            avt_backend_close(&s.copy);
            s.in_place = 1;                                                     // on dry there is one queue
            REQUIRE_OK(pass(&s, NULL));
            REQUIRE(avt_shelf_planned(s.shelf) == planned && avt_arena_peak(arena) == peak);
            close_stack(&s);
        }
}

/* A layer that stays wants its file once; one that does not, each time. */
static void the_file_is_read_once(void **state)
{
    (void)state;
    for (int in_place = 0; in_place < 2; in_place++)
        for (int keep = 0; keep < 2; keep++) {
            Stack s;

            open_stack(&s, "guard", keep ? (size_t)1 << 30 : 0, in_place);
            REQUIRE_OK(pass(&s, NULL));
            REQUIRE_OK(truncate(s.file.path, 3000));
            if (keep)
                REQUIRE_OK(pass(&s, NULL));
            else
                REQUIRE(pass(&s, NULL) == AVT_ERR(ESTALE));
            close_stack(&s);
        }
}

/* Given up, or out of memory at any place: an error, nothing lost, and the next reader finds the shelf in order. */
static void failures_leave_it_in_order(void **state)
{
    static const int one = 1;
    float want[ROWS * D], got[ROWS * D];
    int64_t bytes, n;
    Stack s;
    int ret;

    (void)state;
    for (int in_place = 0; in_place < 2; in_place++) {
        open_stack(&s, "guard", (size_t)1 << 30, in_place);
        REQUIRE_OK(pass(&s, want));
        avt_shelf_close(&s.shelf);
        bytes = avt_mem_bytes(MEM_NB);
        for (n = 1, ret = -1; ret < 0 && n < 1000; n++) {
            avt_mem_fail_at(n);
            ret = open_shelf(&s, (size_t)1 << 30);
            if (ret >= 0)
                ret = pass(&s, NULL);
            avt_mem_fail_at(0);
            avt_reset(s.b.be);
            avt_reset(s.copy);
            if (s.shelf)
                REQUIRE_OK(pass(&s, got));
            avt_shelf_close(&s.shelf);
            REQUIRE(avt_mem_bytes(MEM_NB) - bytes < 1 << 16);                   // backends keep lists
        }
        REQUIRE(n > 20 && n < 1000 && !memcmp(got, want, sizeof(got)));
        REQUIRE_OK(open_shelf(&s, (size_t)1 << 30));
        s.b.be->cancel = &one;
        REQUIRE(pass(&s, NULL) == AVT_ERR(ECANCELED));
        s.b.be->cancel = NULL;
        avt_reset(s.b.be);
        REQUIRE_OK(pass(&s, got));
        REQUIRE(!memcmp(got, want, sizeof(got)));
        close_stack(&s);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(all_ways_give_the_same_bits), cmocka_unit_test(readers_go_round), cmocka_unit_test(planned_is_used), cmocka_unit_test(the_file_is_read_once),
        cmocka_unit_test(failures_leave_it_in_order),
    };

    return test_main("unit/shelf", tests);
}
