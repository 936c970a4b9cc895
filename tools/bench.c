/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * avatar bench --calibrate: how long this CPU takes for operations (calibrate.h). avatar bench --damage: what the precisions cost a film of this
 * model, or of random weights of the published width. The same ten blocks in f32 and in each of the others: the probe's voice, seed 7, the
 * picture or a drawn face; so that they differ by rounding alone.
 *
 * A longer film says the same again and again: its second take, past the cold start, and its last one show how far it drifts.
 */
#include <limits.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/thread.h"
#include "calibrate.h"
#include "doctor.h"
#include "engine/engine.h"
#include "engine/session.h"
#include "json_out.h"
#include "lips.h"
#include "options.h"
#include "plan.h"
#include "probe.h"
#include "seeded.h"
#include "speak.h"
#include "stop.h"

#define CALIBRATION_SECONDS 3

enum { BLOCKS = 10, FRAMES = BLOCKS * AVATAR_BLOCK_FRAMES, SAMPLES = FRAMES * (AVATAR_SAMPLE_RATE / AVATAR_FPS) };     // of a take
enum { LONG = 3, LAYERS = 64 };         // takes from which on drift is measured; most layers that are looked at

typedef struct Film {
    AvatarInfo info;
    float *latents;                     // [BLOCKS][nb]
    int64_t nb, size;
    uint8_t *yuv, *early, *late;        // [FRAMES][size], 4:2:0: of the first take; the second and the last, or NULL
    int frames, takes;
    float *layer[LAYERS];               // what each layer gives at the first step of the first block: [nb_layer]
    int64_t nb_layer;
    double seconds;
} Film;

typedef struct Damage {                 // against f32
    double latents;                     // relative L2 of the worst block
    double worst, all;                  // dB of the brightness, of the worst block and of all frames
    double sharp, mouth, eyes;          // sharpness of the frames over theirs, and of two parts of them
    double lips, lips_want;             // how the mouth follows the sound: correlation, and theirs at the same lag
    double drift, drift_want;           // of sharpness and colour, as a share, and theirs; NAN: the film is too short
    double layer[LAYERS];               // relative L2 behind each layer
    int nb_layers;
} Damage;

static void take_latents(void *opaque, int64_t block, const float *v, int64_t nb)
{
    Film *f = opaque;

    if (!f->latents)
        f->latents = calloc((size_t)nb * BLOCKS, sizeof(*f->latents));
    f->nb = nb;
    if (f->latents && block < BLOCKS)
        memcpy(f->latents + block * nb, v, sizeof(*v) * (size_t)nb);
}

/* What a layer gives, the audio's share included, if it has one */
static void take_layer(void *opaque, const char *name, Tensor t)
{
    Film *f = opaque;
    int i = -1;

    if (sscanf(name, "layer_%d_after_", &i) != 1 || i < 0 || i >= LAYERS || t.dtype != DT_F32)
        return;
    f->nb_layer = avt_numel(t);
    if (!f->layer[i])
        f->layer[i] = calloc((size_t)f->nb_layer, sizeof(*f->layer[i]));
    if (f->layer[i])
        avt_download(t.be, f->layer[i], t);
}

/* Where a frame of the film is kept, or NULL */
static uint8_t *place_of(const Film *f, int frame)
{
    const int take = frame / FRAMES;
    uint8_t *to = !take ? f->yuv : take == 1 ? f->early : take == f->takes - 1 ? f->late : NULL;

    return to ? to + frame % FRAMES * f->size : NULL;
}

/* Planes of a frame, one after another */
static void keep_frame(const Film *f, uint8_t *to, const AvatarFrame *frame)
{
    for (int p = 0; p < 3; p++) {
        const int w = f->info.width / (p ? 2 : 1), h = f->info.height / (p ? 2 : 1);

        for (int y = 0; y < h; y++, to += w)
            memcpy(to, frame->data[p] + y * frame->linesize[p], (size_t)w);
    }
}

static int open_frames(Film *f)
{
    uint8_t **const take[] = { &f->yuv, &f->early, &f->late };
    int ret = 0;

    for (int i = 0; i < (f->takes < LONG ? 1 : 3) && ret >= 0; i++) {
        *take[i] = calloc((size_t)f->size, FRAMES);
        ret = *take[i] ? 0 : AVATAR_ERR(ENOMEM);
    }
    return ret;
}

static int run_session(Film *f, AvatarEngine *e, const AvatarLook *look, const float *pcm)
{
    const DitProbe probe = { take_layer, f };
    const SessionHooks hooks = { .rank = { .opaque = f, .latents = take_latents, .probe = &probe } };
    AvatarSession *s = NULL;
    AvatarFrame frame;
    int ret = avt_session_open(&s, e, look, &hooks);

    stop_session(s);
    if (ret >= 0) {
        avatar_session_info(s, &f->info);
        f->size = (int64_t)f->info.width * f->info.height * 3 / 2;
        ret = open_frames(f);
    }
    for (int i = 0; i < f->takes && ret >= 0; i++)
        ret = avatar_session_send(s, pcm, SAMPLES);
    if (ret >= 0)
        ret = avatar_session_send(s, NULL, 0);
    while (ret >= 0 && (ret = avatar_session_receive(s, &frame, AVATAR_WAIT)) >= 0) {
        uint8_t *to = place_of(f, f->frames++);

        if (to)
            keep_frame(f, to, &frame);
    }
    stop_session(NULL);
    avatar_session_close(&s);
    return ret == AVATAR_EOF ? f->latents ? 0 : AVATAR_ERR(ENOMEM) : ret;
}

static int make_film(Film *f, const ToolOptions *o, const char *precision, const uint8_t *face, const float *pcm)
{
    AvatarOptions opt = o->engine;
    AvatarLook look = o->look;
    AvatarEngine *e = NULL;
    int ret;

    memset(f, 0, sizeof(*f));
    f->takes = o->seconds > 0 ? (int)((int64_t)o->seconds * AVATAR_SAMPLE_RATE / SAMPLES) : 1;
    opt.precision = precision;
    if (!look.rgb) {
        look.rgb = face;
        look.width = look.height = PROBE_FACE;
    }
    look.seed = 7;
    look.mode = AVATAR_OFFLINE;                                     // a late block would be another film
    look.format = AVATAR_YUV420P;
    ret = avatar_engine_open(&e, &opt);
    if (ret >= 0) {
        const int64_t start = avt_now_ns();

        ret = run_session(f, e, &look, pcm);
        f->seconds = 1e-9 * (double)(avt_now_ns() - start);
    }
    avatar_engine_close(&e);
    avatar_engine_flush();
    return ret;
}

static void free_film(Film *f)
{
    free(f->latents);
    free(f->yuv);
    free(f->early);
    free(f->late);
    for (int i = 0; i < LAYERS; i++)
        free(f->layer[i]);
}

static double to_dB(double sum, double nb)
{
    return 10 * log10(255.0 * 255.0 * nb / fmax(sum, 1e-9));
}

static double squares(const Film *a, const Film *b, int frame)
{
    const int64_t nb = (int64_t)a->info.width * a->info.height;
    double sum = 0;

    for (int64_t i = 0; i < nb; i++) {
        const double d = (double)a->yuv[frame * a->size + i] - b->yuv[frame * b->size + i];

        sum += d * d;
    }
    return sum;
}

/* ---- parts of a face -------------------------------------------------------------------------------------------------- */

/* Mean gradient, as tools/nano measures it, where a portrait has the eyes, and the mouth: the middle half across; from a quarter down, from
 * the middle down. */
static double part_gradient(const Film *f, const uint8_t *take, int frame, int from, int to)
{
    const int w = f->info.width, h = f->info.height;
    const uint8_t *p = take + frame * f->size;
    int64_t sum = 0;

    for (int y = h * from / 4; y < h * to / 4 - 1; y++)
        for (int x = w / 4; x < w * 3 / 4 - 1; x++)
            sum += abs(p[y * w + x + 1] - p[y * w + x]) + abs(p[(y + 1) * w + x] - p[y * w + x]);
    return (double)sum;
}

/* Of all frames of a take, over another one's. */
static double part_ratio(const Film *f, const uint8_t *take, const uint8_t *want, int from, int to)
{
    double a = 0, b = 0;

    for (int i = 0; i < FRAMES; i++) {
        a += part_gradient(f, take, i, from, to);
        b += part_gradient(f, want, i, from, to);
    }
    return a / fmax(b, 1e-30);
}

static double plane_mean(const Film *f, const uint8_t *take, int plane)
{
    const int64_t nb = (int64_t)f->info.width * f->info.height, first = plane ? nb + (plane - 1) * nb / 4 : 0;
    double sum = 0;

    for (int i = 0; i < FRAMES; i++)
        for (int64_t j = first; j < first + (plane ? nb / 4 : nb); j++)
            sum += take[i * f->size + j];
    return sum;
}

/* The largest change between two takes that say the same: of sharpness, of the middle, its eyes or its mouth; of a plane's mean. */
static double drift(const Film *f)
{
    static const int part[][2] = { { 0, 4 }, { 1, 2 }, { 2, 4 } };
    double most = 0;

    if (!f->late)
        return NAN;
    for (int i = 0; i < 3; i++) {
        most = fmax(most, fabs(part_ratio(f, f->late, f->early, part[i][0], part[i][1]) - 1));
        most = fmax(most, fabs(plane_mean(f, f->late, i) / fmax(plane_mean(f, f->early, i), 1) - 1));
    }
    return most;
}

static void compare_layers(Damage *d, const Film *f, const Film *want)
{
    for (int i = 0; i < LAYERS && f->layer[i] && want->layer[i]; i++) {
        double far = 0, size = 0;

        for (int64_t j = 0; j < want->nb_layer; j++) {
            far += ((double)f->layer[i][j] - want->layer[i][j]) * ((double)f->layer[i][j] - want->layer[i][j]);
            size += (double)want->layer[i][j] * want->layer[i][j];
        }
        d->layer[d->nb_layers++] = sqrt(far / fmax(size, 1e-30));
    }
}

/* How the mouth follows the voice: at *lag, or where it does best when that is said so. */
static double lips_of(const Film *f, const float *pcm, int *lag, int find)
{
    const int one = AVATAR_SAMPLE_RATE / AVATAR_FPS;
    static LipsFrame k[FRAMES];
    double r, other;

    for (int i = 0; i < FRAMES; i++) {
        double sum = 0;

        for (int j = 0; j < one; j++)
            sum += (double)pcm[i * one + j] * pcm[i * one + j];
        lips_look(&k[i], f->yuv + i * f->size, f->info.width, f->info.height);
        k[i].loud = lips_loudness(sum, one);
    }
    lips_find(k, sizeof(k[0]), FRAMES);
    if (find)
        *lag = lips_best(k, sizeof(k[0]), FRAMES, &r, &other);
    return lips_follow(k, sizeof(k[0]), FRAMES, *lag);
}

static Damage compare(const Film *f, const Film *want, const float *pcm)
{
    const double pixels = (double)f->info.width * f->info.height;
    double all = 0, sharp = 0, sharp_want = 0;
    Damage d = { .worst = INFINITY };
    int lag;

    for (int b = 0; b < BLOCKS; b++) {
        double sum = 0, far = 0, size = 0;

        for (int i = b * AVATAR_BLOCK_FRAMES; i < (b + 1) * AVATAR_BLOCK_FRAMES; i++) {
            sum += squares(f, want, i);
            sharp += doctor_sharpness(f->yuv + i * f->size, f->info.width, f->info.height);
            sharp_want += doctor_sharpness(want->yuv + i * want->size, f->info.width, f->info.height);
        }
        for (int64_t i = b * f->nb; i < (b + 1) * f->nb; i++) {
            far += ((double)f->latents[i] - want->latents[i]) * ((double)f->latents[i] - want->latents[i]);
            size += (double)want->latents[i] * want->latents[i];
        }
        all += sum;
        d.worst = fmin(d.worst, to_dB(sum, pixels * AVATAR_BLOCK_FRAMES));
        d.latents = fmax(d.latents, sqrt(far / fmax(size, 1e-30)));
    }
    d.all = to_dB(all, pixels * FRAMES);
    d.sharp = sharp / fmax(sharp_want, 1e-30);
    d.mouth = part_ratio(f, f->yuv, want->yuv, 2, 4);
    d.eyes = part_ratio(f, f->yuv, want->yuv, 1, 2);
    d.lips_want = lips_of(want, pcm, &lag, 1);
    d.lips = lips_of(f, pcm, &lag, 0);
    d.drift = drift(f);
    d.drift_want = drift(want);
    compare_layers(&d, f, want);
    return d;
}

static void show_head(const Film *want)
{
    printf("%dx%d, %d blocks, against f32 (%.2f s, weights %.1f MB)\n%-9s %9s %14s %11s %11s %6s %6s %6s %6s %7s %6s %9s %12s\n", want->info.width, want->info.height,
           BLOCKS, want->seconds, (double)want->info.weight_bytes / 1e6, "", "latents", "worst block dB", "all dB", "sharpness %", "mouth", "eyes", "lips r",
           "f32's", "drift %", "f32's", "seconds", "weights MB");
}

static void show(const Film *f, const Damage *d)
{
    printf("%-9s %9.1e %14.1f %11.1f ", f->info.precision, d->latents, d->worst, d->all);
    if (isnan(d->sharp))
        printf("%11s", "-");                                        // there is nothing to see
    else
        printf("%11.1f", 100 * d->sharp);
    printf(" %6.1f %6.1f %6.3f %6.3f ", 100 * d->mouth, 100 * d->eyes, d->lips, d->lips_want);
    if (isnan(d->drift))
        printf("%7s %6s", "-", "-");
    else
        printf("%7.2f %6.2f", 100 * d->drift, 100 * d->drift_want);
    printf(" %9.2f %12.1f\n%9s", f->seconds, (double)f->info.weight_bytes / 1e6, "by layer");
    for (int i = 0; i < d->nb_layers; i++)
        printf(" %.1e", d->layer[i]);
    printf("\n");
    fflush(stdout);
}

typedef struct Row {                    // what stays of a film
    AvatarInfo info;
    Damage damage;
    double seconds;
} Row;

static void show_json(const Row *row, int nb)
{
    printf("{\"width\": %d, \"height\": %d, \"blocks\": %d, \"precisions\": [", row->info.width, row->info.height, BLOCKS);
    for (int i = 0; i < nb; i++) {
        const Damage *d = &row[i].damage;

        printf("%s{\"precision\": \"%s\", \"latents\": ", i ? ", " : "", row[i].info.precision);
        json_number(stdout, d->latents, 3);
        printf(", \"worst_block\": %.2f, \"all\": %.2f, \"sharpness\": ", d->worst, d->all);
        json_number(stdout, d->sharp, 4);
        printf(", \"mouth\": ");
        json_number(stdout, d->mouth, 4);
        printf(", \"eyes\": ");
        json_number(stdout, d->eyes, 4);
        printf(", \"lips\": ");
        json_number(stdout, d->lips, 4);
        printf(", \"lips_f32\": ");
        json_number(stdout, d->lips_want, 4);
        printf(", \"drift\": ");
        json_number(stdout, d->drift, 5);
        printf(", \"drift_f32\": ");
        json_number(stdout, d->drift_want, 5);
        printf(", \"layers\": [");
        for (int j = 0; j < d->nb_layers; j++) {
            printf("%s", j ? ", " : "");
            json_number(stdout, d->layer[j], 4);
        }
        printf("], \"seconds\": %.3f, \"weights\": %lld}", row[i].seconds, (long long)row[i].info.weight_bytes);
    }
    printf("]}\n");
}

/* JSON comes when all of it is there. */
static int damage(const ToolOptions *o, const uint8_t *face, const float *pcm)
{
    static const char *const precision[] = { "bf16", "int8", "fp8" };
    const char *asked = o->engine.precision && strcmp(o->engine.precision, "auto") && strcmp(o->engine.precision, "f32") ? o->engine.precision : NULL;
    Row row[sizeof(precision) / sizeof(precision[0])];
    Film want, f;
    int nb = 0, ret = make_film(&want, o, "f32", face, pcm);

    if (ret >= 0 && !o->json)
        show_head(&want);
    for (size_t i = 0; i < sizeof(precision) / sizeof(precision[0]) && ret >= 0; i++) {
        if (asked && strcmp(asked, precision[i]))
            continue;
        ret = make_film(&f, o, precision[i], face, pcm);
        if (ret >= 0) {
            row[nb++] = (Row){ f.info, compare(&f, &want, pcm), f.seconds };
            if (!o->json)
                show(&f, &row[nb - 1].damage);
        }
        free_film(&f);
    }
    if (o->json && ret >= 0)
        show_json(row, nb);
    free_film(&want);
    return ret;
}

/* How long this CPU takes for the calls of a plan. */
static int calibrate(ToolOptions *o)
{
    static Planned q;
    Calibration c;
    int ret = plan_read(&q, o), before;

    if (!ret)
        ret = plan_make(&q, o);
    for (int r = 0; r < q.plan.nb_ranks && !ret; r++)
        if (strcmp(q.plan.rank[r].device, "cpu"))
            ret = fprintf(stderr, "avatar: bench --calibrate measures the CPU; of %s published rates are known: avatar plan --gpus\n", q.plan.rank[r].device) > 0;
    if (ret)
        return ret;
    before = calibration_open(&c, q.opt.level);
    ret = calibration_measure(&c, &q.plan, &q.sizes, &q.opt, CALIBRATION_SECONDS) < 0;
    if (!ret)
        printf("%s: %d calls, %d of them new, in %s\n", c.device, c.nb, c.nb - before, c.path);
    calibration_close(&c);
    return ret;
}

/* What is given, or --seeded: for as long as it takes. */
static int damage_of(ToolOptions *o, const uint8_t *face, const float *pcm)
{
    char folder[PATH_MAX] = "";
    int ret = 0;

    if (o->seeded) {
        stop_removes(seeded_remove, folder);
        ret = stop_watch() < 0 ? -1 : seeded_open(folder, sizeof(folder), o->seeded, o->engine.models, stop_asked);
        o->engine.model = folder;
    }
    if (ret >= 0)
        ret = damage(o, face, pcm);
    if (folder[0])
        seeded_remove(folder);
    stop_removes(NULL, NULL);
    if (stop_asked())
        fprintf(stderr, "avatar: interrupted\n");
    return ret;
}

/* The question is fixed: its seed, its mode, the format of its frames. @return 0, or the exit code behind a sentence */
static int refuse(const ToolOptions *o)
{
    const Log log = { .write = tool_log_line, .level = LOG_ERROR };
    int ret;

    if (o->calibrate && o->nb_positional)
        return fprintf(stderr, "avatar: bench --calibrate has no use for a picture; leave '%s' away\n", file_shown(o->positional[0])), 2;
    if (o->seeded && o->engine.model)
        return fprintf(stderr, "avatar: bench: --seeded makes its own model; leave --model away\n"), 2;
    if (o->calibrate)
        ret = tool_takes(o, "bench --calibrate", " calibrate model devices memory host_memory" TAKES_FRAMES TAKES_PLAN TAKES_CPU);
    else
        ret = tool_takes(o, "bench --damage", " damage seconds seeded prompt compat stats json" TAKES_MODEL TAKES_FRAMES TAKES_RUN);
    return ret ? ret : avt_options_numbers(&o->engine, &log) < 0;
}

int cmd_bench(int argc, char **argv)
{
    uint8_t *face = malloc(3 * PROBE_FACE * PROBE_FACE), *rgb = NULL;
    float *pcm = malloc(SAMPLES * sizeof(*pcm));
    ToolOptions o;
    int ret = tool_options(&o, argc, argv);

    if (!ret && (o.help || o.nb_positional > 1 || o.damage + o.calibrate != 1)) {
        fprintf(o.help ? stdout : stderr, "usage: avatar bench --damage [PICTURE] [--model DIR | --seeded 40] [--precision P] [--seconds 600] [--json]\n"
                                          "what bf16, int8 and fp8 cost a film of this model, against f32: doc/precision.md\n"
                                          "       avatar bench --calibrate [--model DIR] [--size WxH] [--devices LIST] [--plan PLAN] [--precision P]\n"
                                          "how long this CPU takes for the operations of such a plan, in 3 s: avatar plan then knows times\n");
        ret = o.help ? -1 : 2;
    } else if (!ret) {
        ret = refuse(&o);
    }
    if (!ret && o.calibrate) {
        ret = calibrate(&o);
    } else if (!ret && (!face || !pcm || (o.nb_positional && media_read_picture(o.positional[0], &rgb, &o.look.width, &o.look.height, NULL) < 0))) {
        ret = 1;
    } else if (!ret) {
        o.engine.log = tool_log_line;
        o.engine.log_level = AVATAR_LOG_ERROR;
        probe_face(face);
        probe_voice(pcm, SAMPLES);
        o.look.rgb = rgb;
        ret = damage_of(&o, face, pcm) < 0;
    }
    free(face);
    free(pcm);
    free(rgb);
    return ret < 0 ? 0 : ret;
}
