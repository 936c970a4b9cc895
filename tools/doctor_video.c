/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A finished film against the picture that it was made of: is the face as sharp, do colours drift, do frames stand still, do blocks show
 * their borders, does the picture move with the sound. One pass; some numbers a frame; curves as SVG.
 *
 *   sharpness   as of a picture, over that of the reference at the film's size
 *   motion      mean difference of a frame and the one before: 0 is a repeated frame, blocks of 12 that begin with a jump have seams
 *   offset      the lag within half a second at which the mouth follows the loudness best: lips.h
 */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include <libavutil/imgutils.h>
#include <libswscale/swscale.h>

#include "curves.h"
#include "doctor.h"
#include "lips.h"
#include "nets/picture.h"
#include "reader.h"
#include "speak.h"

#define OFFSET_FRAMES 100                           // of a film whose lips and sound can be compared
#define MOST_PIXELS (1280 * 720)                    // of a frame: a larger one is judged at that size, which is the largest of the published model
#define STILL 0.02                                  // levels of mean difference: nothing has moved

typedef struct Frame {                  // what is kept of one
    float sharpness, luma, u, v, motion;
    LipsFrame lips;
} Frame;

typedef struct Film {
    Frame *frame;
    int64_t nb, room;
    int w, h;
    uint8_t *yuv, *before;              // planes of 4:4:4
} Film;

/* ---- reading ------------------------------------------------------------------------------------------------------- */

static Frame *next_frame(Film *f)
{
    if (f->nb == f->room) {
        Frame *p = realloc(f->frame, sizeof(*p) * (size_t)(f->room ? 2 * f->room : 1024));

        if (!p)
            return NULL;
        f->frame = p;
        f->room = f->room ? 2 * f->room : 1024;
    }
    memset(&f->frame[f->nb], 0, sizeof(*f->frame));
    return &f->frame[f->nb++];
}

static float mean_of(const uint8_t *p, int64_t nb)
{
    int64_t sum = 0;

    for (int64_t i = 0; i < nb; i++)
        sum += p[i];
    return (float)((double)sum / (double)nb);
}

static float moved(const Film *f)
{
    const int64_t nb = (int64_t)f->w * f->h;
    int64_t sum = 0;

    for (int64_t i = 0; i < nb; i++)
        sum += abs(f->yuv[i] - f->before[i]);
    return (float)((double)sum / (double)nb);
}

static int look(Film *f)
{
    const int64_t n = (int64_t)f->w * f->h;
    Frame *k = next_frame(f);
    uint8_t *swap = f->yuv;

    if (!k)
        return AVERROR(ENOMEM);
    k->luma = mean_of(f->yuv, n);
    k->u = mean_of(f->yuv + n, n);
    k->v = mean_of(f->yuv + 2 * n, n);
    k->sharpness = (float)doctor_sharpness(f->yuv, f->w, f->h);
    k->motion = f->nb > 1 ? moved(f) : 0;
    lips_look(&k->lips, f->yuv, f->w, f->h);
    f->yuv = f->before;
    f->before = swap;
    return 0;
}

static int film_planes(Film *f, int w, int h)
{
    const double part = sqrt((double)MOST_PIXELS / ((double)w * h));
    size_t n;

    f->w = part < 1 ? 1 + (int)(w * part) : w;
    f->h = part < 1 ? 1 + (int)(h * part) : h;
    n = (size_t)f->w * (size_t)f->h * 3;
    f->yuv = malloc(n);
    f->before = malloc(n);
    return f->yuv && f->before ? 0 : AVERROR(ENOMEM);
}

static int read_pictures(Film *f, const char *path)
{
    struct SwsContext *sws = NULL;
    Reader r;
    int ret = reader_open(&r, path, AVMEDIA_TYPE_VIDEO, NULL, NULL);

    while (ret >= 0 && (ret = reader_next(&r)) > 0) {
        if (!f->yuv)
            ret = film_planes(f, r.frame->width, r.frame->height);
        sws = sws_getCachedContext(sws, r.frame->width, r.frame->height, r.frame->format, f->w, f->h, AV_PIX_FMT_YUV444P,
                                   f->w < r.frame->width ? SWS_AREA : SWS_BILINEAR, NULL, NULL, NULL);
        if (ret >= 0 && !sws)
            ret = AVERROR(EINVAL);
        if (ret >= 0) {
            uint8_t *dst[4] = { f->yuv, f->yuv + (int64_t)f->w * f->h, f->yuv + (int64_t)2 * f->w * f->h };
            const int stride[4] = { f->w, f->w, f->w };

            sws_scale(sws, (const uint8_t *const *)r.frame->data, r.frame->linesize, 0, r.frame->height, dst, stride);
            ret = look(f);
        }
    }
    sws_freeContext(sws);
    reader_close(&r);
    return ret;
}

/* Loudness of each frame's 40 ms, in dB; without sound it stays 0. */
static void read_loudness(Film *f, const char *path)
{
    const int one = AVATAR_SAMPLE_RATE / AVATAR_FPS;
    const AVFrame *frame;
    const float *pcm;
    SoundIn *in = NULL;
    double sum = 0;
    int64_t at = 0;
    int nb, ret = media_open_sound(&in, path, NULL, NULL);

    while (ret >= 0 && (ret = media_read_sound(in, &pcm, &nb, &frame)) > 0)
        for (int i = 0; i < nb; i++) {
            sum += (double)pcm[i] * pcm[i];
            if (++at % one)
                continue;
            if (at / one <= f->nb)
                f->frame[at / one - 1].lips.loud = lips_loudness(sum, one);
            sum = 0;
        }
    media_close_sound(&in);
}

/* ---- judging ------------------------------------------------------------------------------------------------------- */

static double mean_over(const Film *f, size_t field, int64_t from, int64_t to)
{
    double sum = 0;

    for (int64_t i = from; i < to; i++)
        sum += *(const float *)((const char *)&f->frame[i] + field);
    return to > from ? sum / (double)(to - from) : 0;
}

#define MEAN(f, what, from, to) mean_over(f, offsetof(Frame, what), from, to)

static void judge_sharpness(Findings *d, const Film *f, double ref)
{
    const int64_t part = f->nb / 10 + 1;
    const double first = MEAN(f, sharpness, 0, part), last = MEAN(f, sharpness, f->nb - part, f->nb), all = MEAN(f, sharpness, 0, f->nb);

    if (isnan(ref) || isnan(all))
        return;
    doctor_number(d, "film", "sharpness against the picture", 100 * all / ref, "%", doctor_judge(all / ref, 0.8, 0.6),
                  "softer than the picture: see the doctor's findings on model, LoRA and precision; more steps help");
    doctor_number(d, "film", "sharpness, end against start", 100 * last / first, "%", doctor_judge(last / first, 0.85, 0.7),
                  "it gets softer as it goes on: is this the original's model and size?");
}

static void judge_colour(Findings *d, const Film *f)
{
    const int64_t part = f->nb / 10 + 1, from = f->nb - part;
    const double y = MEAN(f, luma, from, f->nb) - MEAN(f, luma, 0, part), u = MEAN(f, u, from, f->nb) - MEAN(f, u, 0, part),
                 v = MEAN(f, v, from, f->nb) - MEAN(f, v, 0, part), drift = sqrt(y * y + u * u + v * v);

    doctor_number(d, "film", "drift of colour", drift, "of 255", doctor_judge(drift, 4, 10),
                  "brightness %+.1f, blue %+.1f, red %+.1f from start to end", y, u, v);
}

static void judge_motion(Findings *d, const Film *f)
{
    int64_t still = 0, longest = 0, run = 0;
    double seam = 0, inside = 0;
    int64_t seams = 0;

    for (int64_t i = 1; i < f->nb; i++) {
        run = f->frame[i].motion < STILL ? run + 1 : 0;
        still += run > 0;
        longest = run > longest ? run : longest;
        if (i % AVATAR_BLOCK_FRAMES)
            inside += f->frame[i].motion;
        else {
            seam += f->frame[i].motion;
            seams++;
        }
    }
    doctor_number(d, "film", "repeated frames", 100 * (double)still / (double)f->nb, "%", doctor_judge((double)still / (double)f->nb, 0.02, 0.3),
                  "frames stand still, up to %lld in a row: live mode was too slow, or the picture is none that the model can move", (long long)longest);
    inside /= f->nb > seams + 1 ? (double)(f->nb - 1 - seams) : 1;
    if (seams >= 3 && inside > STILL) {
        seam /= (double)seams * inside;
        doctor_number(d, "film", "change across block borders", seam, "of that inside", doctor_judge(seam, 1.6, 3),
                      "blocks do not fit onto each other: another version of the model, or of its caches?");
    }
}

static void judge_offset(Findings *d, Film *f)
{
    double r, other;
    int lag;

    if (f->nb < OFFSET_FRAMES)
        return;
    lips_find(&f->frame[0].lips, sizeof(f->frame[0]), f->nb);
    lag = lips_best(&f->frame[0].lips, sizeof(f->frame[0]), f->nb, &r, &other);
    if (r < 0.3) {
        doctor_words(d, "film", "lips and sound", DOUBTFUL, "the mouth does not follow the sound (r %.2f)", r);
        doctor_remedy(d, "it was made of another sound, or the mouth does not move");
    } else if (other > r - 0.1)
        doctor_words(d, "film", "lips and sound", GOOD, "the mouth follows, with which delay cannot be told (r %.2f)", r);
    else
        doctor_number(d, "film", "lips behind the sound", lag * 1000.0 / AVATAR_FPS, "ms", doctor_judge(abs(lag), 3, 5),
                      "shift the sound: ffmpeg -i film -itsoffset %.2f -i film -map 0:v -map 1:a -c copy out", lag / (double)AVATAR_FPS);
}

/* ---- curves -------------------------------------------------------------------------------------------------------- */

typedef struct Field {                  // one number of each frame
    const Film *film;
    size_t at;                          // in Frame
} Field;

static double field_of(const void *opaque, int64_t i)
{
    const Field *f = opaque;

    return *(const float *)((const char *)&f->film->frame[i] + f->at);
}

static int draw(const Film *f, const char *path)
{
    static const struct {
        size_t at;
        const char *name;
    } curves[] = { { offsetof(Frame, sharpness), "sharpness" }, { offsetof(Frame, luma), "brightness" }, { offsetof(Frame, motion), "motion" },
                   { offsetof(Frame, lips.mouth), "motion of the mouth" }, { offsetof(Frame, lips.loud), "loudness, dB" } };
    FILE *out = curves_open(path, 5, (double)(f->nb - 1) / AVATAR_FPS, " s");

    for (int i = 0; i < 5 && out; i++)
        curves_add(out, i, curves[i].name, f->nb, NAN, field_of, &(Field){ f, curves[i].at });
    return out ? curves_close(out) : -1;
}

/* ---- all of it ----------------------------------------------------------------------------------------------------- */

/* Sharpness of the reference at the film's size, or NAN. */
static double reference(const char *path, int w, int h)
{
    uint8_t *rgb = NULL, *cover = malloc((size_t)w * (size_t)h * 3), *y = malloc((size_t)w * (size_t)h);
    double s = NAN;
    int pw, ph;

    if (cover && y && media_read_picture(path, &rgb, &pw, &ph, NULL) >= 0 && avt_picture_cover(cover, w, h, rgb, 3 * (int64_t)pw, pw, ph) >= 0) {
        for (int64_t i = 0; i < (int64_t)w * h; i++)
            y[i] = (uint8_t)(0.2126 * cover[3 * i] + 0.7152 * cover[3 * i + 1] + 0.0722 * cover[3 * i + 2] + 0.5);
        s = doctor_sharpness(y, w, h);
    }
    free(rgb);
    free(cover);
    free(y);
    return s;
}

void doctor_film(Findings *d, const char *path, const char *picture, const char *svg)
{
    Film f = { .nb = 0 };
    const int ret = read_pictures(&f, path);

    if (ret == AVERROR(ETIMEDOUT))
        doctor_late(d, "film", (double)f.nb / AVATAR_FPS);
    if ((ret < 0 && ret != AVERROR(ETIMEDOUT)) || (ret >= 0 && f.nb < 2)) {
        doctor_words(d, "film", "read", BAD, f.nb ? "%.150s holds one frame" : "%.150s holds no film that can be decoded", path);
        doctor_remedy(d, f.nb ? "give a film of some seconds" : "give a file that ffmpeg plays");
    } else if (f.nb >= 2) {
        read_loudness(&f, path);
        doctor_number(d, "film", "frames", (double)f.nb, "", GOOD, "%s", "");
        judge_sharpness(d, &f, reference(picture, f.w, f.h));
        judge_colour(d, &f);
        judge_motion(d, &f);
        judge_offset(d, &f);
        if (svg && draw(&f, svg) < 0)
            doctor_words(d, "film", "curves", BAD, "%.150s cannot be written", svg), doctor_remedy(d, "name another file: -o FILE.svg");
    }
    free(f.frame);
    free(f.yuv);
    free(f.before);
}
