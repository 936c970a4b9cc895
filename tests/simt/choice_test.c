/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Attention and convolutions on the emulated GPU: contests of those who can compute them, as tune_test.c has them for products, and cuDNN's plans
 * that are kept from run to run. Whoever computes, the numbers are right; what is kept and of no use is found or made anew.
 */
#include <dirent.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/mem.h"
#include "control.h"
#include "engine/kept.h"
#include "engine/tuning.h"
#include "files.h"

enum { QUERIES = 256, KEYS = 2048, HEAD = 128 };                // hardly more than the least that is worth a contest
enum { T = 3, SIDE = 20, WIDTH = 80 };                          // of pictures: 3 frames behind 2 that are kept, their channels

typedef enum Form { ATTENTION, ALONE, FUSED, IN_PLACE, EXACT, NB_FORMS } Form;       // convolutions: bf16, with bias and residual, over it; f32

typedef struct Numbers {
    float q[QUERIES * HEAD], k[KEYS * HEAD], v[KEYS * HEAD];
    float x[(T + 2) * SIDE * SIDE * WIDTH], w[WIDTH * WIDTH * 27], b[WIDTH], res[T * SIDE * SIDE * WIDTH];
    float right[T * SIDE * SIDE * WIDTH], out[T * SIDE * SIDE * WIDTH];
} Numbers;

static Numbers n[1];
static int fails;                                               // the library's next call is refused when it is to be run

/* A table for calls that the bed computes in no time */
static Tuned *table(void)
{
    Tuned *t = avt_tuned_open();

    t->least = 0x1p28;
    return t;
}

static int size_of(Form form)
{
    return form == ATTENTION ? QUERIES * HEAD : T * SIDE * SIDE * WIDTH;
}

static Tensor attend(TestBench *t)
{
    const Tensor q = TEST_ACT(t, n->q, QUERIES, 1, HEAD), k = TEST_ACT(t, n->k, KEYS, 1, HEAD), v = TEST_ACT(t, n->v, KEYS, 1, HEAD);
    const Tensor y = avt_new(t->arena, t->act, QUERIES, 1, HEAD);

    avt_attention(t->be, y, q, k, v, AVT_NONE, AVT_NONE, AVT_NONE, 0.1f);
    return y;
}

static Tensor convolve(TestBench *t, Form form)
{
    const ConvSpec spec = { .stride_t = 1, .stride = 1, .pad0 = 1, .pad1 = 1 };
    const Tensor all = TEST_ACT(t, n->x, T + 2, SIDE, SIDE, WIDTH), prev = TEST_ACT(t, n->x, 2, SIDE, SIDE, WIDTH);
    const Tensor res = TEST_ACT(t, n->res, T, SIDE, SIDE, WIDTH), y = form == IN_PLACE ? res : avt_new(t->arena, t->act, T, SIDE, SIDE, WIDTH);
    const int rest = form != ALONE && form != EXACT;
    Conv c = { .b = AVT_NONE };

    c.w = test_weight(t, WEIGHT_CONV3D, n->w, 5, (const int64_t[]){ WIDTH, WIDTH, 3, 3, 3 });
    if (form != ALONE)
        c.b = TEST_TENSOR(t, n->b, WIDTH);
    avt_conv3d(t->be, y, avt_rows(all, 2, T), prev, &c, rest ? res : AVT_NONE, spec);
    return y;
}

/* What a device computes in a form, into `out` */
static void compute(float *out, const char *device, Tuned *tuned, Form form, int small)
{
    const DType act = form == EXACT ? DT_F32 : DT_BF16;
    const BackendOptions opt = { .threads = 1, .act = act, .tuned = tuned, .log = test_log_at(LOG_DEBUG) };
    TestBench t = { .act = act, .rounded = act == DT_BF16 };
    float *got;
    Tensor y;

    REQUIRE_OK(avt_backend_open(&t.be, device, &opt));
    REQUIRE_OK(avt_arena_open(&t.arena, t.be, "test", 64 << 20));
    if (!small)
        REQUIRE_OK(avt_workspace_open(t.be, 96 << 20));
    if (fails)
        REQUIRE_OK(simt_set("FAIL", "product:0"));
    y = form == ATTENTION ? attend(&t) : convolve(&t, form);
    REQUIRE_OK(avt_sync(t.be));
    got = test_read(&t, y);
    memcpy(out, got, (size_t)size_of(form) * sizeof(*got));
    free(got);
    test_bench_close(&t);
}

static void find_right(Form form)
{
    compute(n->right, "cpu", NULL, form, 1);
}

/* Within what sums in any order and one rounding of the result leave; of attention, of weights as well. */
static void compare(Form form)
{
    const double rounding = form == EXACT ? 1e-5 : form == ATTENTION ? 0x1p-6 : 0x1p-8;
    double largest = 0;

    for (int i = 0; i < size_of(form); i++)
        largest = fmax(largest, fabs(n->right[i]));
    for (int i = 0; i < size_of(form); i++)
        if (!(fabs(n->out[i] - n->right[i]) <= largest * rounding))
            fail_msg("form %d: element %d is %g, not %g", form, i, n->out[i], n->right[i]);
}

/* ---- contests ---------------------------------------------------------------------------------------------------------------- */

/* cuDNN has a plan and does not run it. */
static void not_run(void **state)
{
    (void)state;
    find_right(ATTENTION);
    fails = 1;
    compute(n->out, "cuda0", NULL, ATTENTION, 0);
    fails = 0;
    REQUIRE(strstr(test_log_text(), "attention: cuDNN has made a plan that it does not run"));
    compare(ATTENTION);
    simt_clear();
}

static void contest(Form form, const char *pace, const char *fast, const char *shape)
{
    Tuned *t = table();

    REQUIRE_OK(simt_set("PACE", pace));
    compute(n->out, "cuda0", t, form, 0);
    REQUIRE(t->first && !t->first->next);
    if (strcmp(t->first->choice, fast) || strcmp(t->first->shape, shape))
        fail_msg("form %d: %s of '%s', not %s of '%s':\n%s", form, t->first->choice, t->first->shape, fast, shape, test_log_text());
    compare(form);
    avt_tuned_close(&t);
}

/* cuDNN's engine 9 is Hopper's and the heuristics' first, 8 Ampere's; our own kernel is 10 us, as all others. */
static void attention(void **state)
{
    static const char shape[] = "attention 256 over 2048+0, 1 heads of 128 bf16";

    (void)state;
    find_right(ATTENTION);
    contest(ATTENTION, "cuDNN 9=1,cuDNN 8=30", "cuDNN", shape);
    contest(ATTENTION, "cuDNN 9=40,cuDNN 8=40", "our own", shape);
    contest(ATTENTION, "cuDNN 9=40,cuDNN 8=1", "cuDNN 8", shape);
    REQUIRE_OK(simt_set("ARCH", "80"));
    contest(ATTENTION, "cuDNN 8=40", "our own", shape);
    contest(ATTENTION, "cuDNN 8=1", "cuDNN", shape);
    REQUIRE_OK(simt_set("ARCH", "90"));
}

static void convolutions(void **state)
{
    static const char fused[] = "conv 5x20x20x80 to 3x20x20x80, 3x3x3 bf16 bf16 bias residual";
    static const char alone[] = "conv 5x20x20x80 to 3x20x20x80, 3x3x3 bf16 bf16";
    static const char exact[] = "conv 5x20x20x80 to 3x20x20x80, 3x3x3 f32 f32";

    (void)state;
    find_right(FUSED);
    contest(FUSED, "cuDNN 7=20,cuDNN 2=10", "cuDNN 2", fused);
    contest(FUSED, "cuDNN 7=10,cuDNN 2=20", "cuDNN", fused);
    find_right(IN_PLACE);
    contest(IN_PLACE, "cuDNN 7=20,cuDNN 2=10", "cuDNN 2", fused);
    find_right(ALONE);
    contest(ALONE, "cuDNN 62=20,cuDNN 22=10", "cuDNN place 1", alone);
    find_right(EXACT);
    contest(EXACT, "cuDNN 28=20,cuDNN 0=10,cuDNN 38=1,cuDNN 22=1", "cuDNN 0", exact);
    contest(EXACT, "cuDNN 28=10,cuDNN 0=20,cuDNN 38=1,cuDNN 22=1", "cuDNN", exact);
}

/* A result over its residual, and no room to compute it elsewhere: no contest, the libraries' first. */
static void no_room(void **state)
{
    Tuned *t = table();

    (void)state;
    find_right(IN_PLACE);
    compute(n->out, "cuda0", t, IN_PLACE, 1);
    REQUIRE(!t->first);
    compare(IN_PLACE);
    avt_tuned_close(&t);
}

/* ---- kept plans -------------------------------------------------------------------------------------------------------------- */

static KeptFolder kept;

/* made, read: plans of cuDNN in a run with the folder */
static void run(Form form, int made, int read)
{
    const SimtStats before = *simt_stats();
    Tuned *t = table();

    avt_tuning_read(t, tmp_dir, test_log());
    t->shelf = &kept.shelf;
    compute(n->out, "cuda0", t, form, 0);
    compare(form);
    REQUIRE_OK(avt_tuning_write(t, tmp_dir, test_log()));
    if (simt_stats()->plans_made - before.plans_made != (uint64_t)made || simt_stats()->plans_read - before.plans_read != (uint64_t)read)
        fail_msg("form %d: %d plans were made, %d read, not %d, %d", form, (int)(simt_stats()->plans_made - before.plans_made),
                 (int)(simt_stats()->plans_read - before.plans_read), made, read);
    avt_tuned_close(&t);
}

static int open_folder(void **state)
{
    (void)state;
    tmp_open();
    REQUIRE_OK(avt_kept_open(&kept, tmp_dir));
    REQUIRE_OK(simt_set("PACE", "cuDNN 7=20,cuDNN 2=10,cuDNN 9=1,cuDNN 8=30"));
    return 0;
}

static int close_folder(void **state)
{
    (void)state;
    avt_kept_close(&kept);
    tmp_close();
    return 0;
}

/* Each file of the folder. @return how many */
static int each(void (*change)(const char *path, int i))
{
    struct dirent *e;
    char path[512];
    DIR *d = opendir(kept.folder);
    int nb = 0;

    while (d && (e = readdir(d)))
        if (e->d_name[0] != '.') {
            snprintf(path, sizeof(path), "%s/%s", kept.folder, e->d_name);
            if (change)
                change(path, nb);
            nb++;
        }
    if (d)
        closedir(d);
    return nb;
}

/* The second run compiles nothing: it takes the one plan of the engine that has won; the same bits. */
static void read_again(void **state)
{
    float *first = malloc(sizeof(n->out));

    (void)state;
    for (Form form = 0; form < NB_FORMS; form++) {
        find_right(form);
        simt_set("PACE", "cuDNN 7=20,cuDNN 2=10,cuDNN 9=1,cuDNN 8=30,cuDNN 62=1,cuDNN 22=30,cuDNN 28=1,cuDNN 0=30");
        run(form, form == EXACT ? 3 : form == IN_PLACE ? 0 : 2, form == IN_PLACE ? 1 : 0);
        memcpy(first, n->out, sizeof(n->out));
        run(form, 0, 1);
        REQUIRE(!memcmp(first, n->out, (size_t)size_of(form) * sizeof(*first)));
    }
    free(first);
}

static int kind;                                                // of damage

static void damage(const char *path, int i)
{
    struct stat st;
    FILE *f = fopen(path, "r+");

    (void)i;
    REQUIRE(f && !stat(path, &st));
    if (kind == 1)
        REQUIRE_OK(ftruncate(fileno(f), st.st_size / 2));
    if (kind == 2)
        REQUIRE_OK(ftruncate(fileno(f), 0));
    if (kind == 0) {
        fseek(f, st.st_size - 20, SEEK_SET);
        fputc('#', f);
    }
    fclose(f);
}

static void made_anew(void **state)
{
    (void)state;
    find_right(FUSED);
    run(FUSED, 2, 0);
    REQUIRE(each(NULL) == 2);
    for (kind = 0; kind < 3; kind++) {
        REQUIRE(each(damage) == 2);
        run(FUSED, 1, 0);                                           // the one that has won
        run(FUSED, 0, 1);
    }
}

/* Another kind of card has plans of its own; device and name are what a thing is found by. */
static void of_another(void **state)
{
    size_t size;
    void *got;

    (void)state;
    find_right(FUSED);
    run(FUSED, 2, 0);
    REQUIRE_OK(simt_set("ARCH", "80"));
    run(FUSED, 1, 0);
    REQUIRE_OK(simt_set("ARCH", "90"));
    run(FUSED, 0, 1);
    kept.shelf.put(&kept.shelf, "card", "plan", "text", 4);
    got = kept.shelf.take(&kept.shelf, "card", "plan", &size);
    REQUIRE(got && size == 4 && !memcmp(got, "text", 4));
    avt_free(got);
    REQUIRE(!kept.shelf.take(&kept.shelf, "other card", "plan", &size) && !kept.shelf.take(&kept.shelf, "card", "other plan", &size));
}

/* A shelf that gives whole texts which are not what was asked for: what cuDNN itself has to refuse. */
static char text[65536];
static size_t text_size;
static int nb_put;

static void *give_text(const TunedShelf *s, const char *device, const char *name, size_t *size)
{
    void *p = avt_malloc(MEM_BACKEND, text_size + 1);

    (void)s, (void)device, (void)name;
    *size = text_size;
    return p ? memcpy(p, text, text_size) : NULL;
}

static void keep_text(const TunedShelf *s, const char *device, const char *name, const void *bytes, size_t size)
{
    (void)s, (void)device, (void)name;
    REQUIRE(size < sizeof(text));
    memcpy(text, bytes, text_size = size);
    nb_put++;
}

static void refused(void **state)
{
    static const TunedShelf liar = { give_text, keep_text };
    Tuned *t = table();

    (void)state;
    find_right(FUSED);
    t->shelf = &liar;
    REQUIRE_OK(simt_set("ARCH", "80"));
    text_size = (size_t)snprintf(text, sizeof(text), "{}");
    compute(n->out, "cuda0", t, FUSED, 0);                          // the text is now a plan for sm_80
    REQUIRE(nb_put == 1);
    REQUIRE_OK(simt_set("ARCH", "90"));
    compute(n->out, "cuda0", t, FUSED, 0);
    compare(FUSED);
    REQUIRE(nb_put == 2);
    avt_tuned_close(&t);
}

/* A folder that nobody can write into, one that is no folder: plans are made, nothing is said. */
static void not_kept(void **state)
{
    KeptFolder good = kept;

    (void)state;
    find_right(FUSED);
    kept.folder = (char *)"/proc/avatar/plans";
    kept.cache = (char *)"/proc/avatar";
    run(FUSED, 2, 0);
    run(FUSED, 1, 0);
    kept = good;
}

int main(void)
{
    const struct CMUnitTest tests[] = { cmocka_unit_test(attention), cmocka_unit_test(not_run), cmocka_unit_test(convolutions), cmocka_unit_test(no_room),
                                        cmocka_unit_test_setup_teardown(read_again, open_folder, close_folder),
                                        cmocka_unit_test_setup_teardown(made_anew, open_folder, close_folder),
                                        cmocka_unit_test_setup_teardown(of_another, open_folder, close_folder), cmocka_unit_test(refused),
                                        cmocka_unit_test_setup_teardown(not_kept, open_folder, close_folder) };

    test_random(n->q, QUERIES * HEAD, 1);
    test_random(n->k, KEYS * HEAD, 2);
    test_random(n->v, KEYS * HEAD, 3);
    test_random(n->x, (T + 2) * SIDE * SIDE * WIDTH, 4);
    test_random(n->w, WIDTH * WIDTH * 27, 5);
    test_random(n->b, WIDTH, 6);
    test_random(n->res, T * SIDE * SIDE * WIDTH, 7);
    return test_main("choice", tests);
}
