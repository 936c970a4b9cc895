/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * avatar doctor [AUDIO] [PICTURE]: looks at what goes in, at the model and at the machine, and says on one screen what is wrong and
 * what helps. Exit code: 0 good, 1 something is doubtful, 2 something is bad.
 */
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <libavformat/avformat.h>
#include <libavutil/time.h>

#include "base/text.h"
#include "doctor.h"
#include "engine/engine.h"
#include "json_out.h"
#include "plan.h"
#include "reader.h"
#include "speak.h"

#define SMALL_MODEL ((int64_t)1 << 30)

static const char *const verdicts[] = { "good", "doubtful", "bad" };

/* ---- findings ------------------------------------------------------------------------------------------------------ */

static Finding *add(Findings *f, const char *topic, const char *what, Verdict verdict)
{
    Finding *n = &f->list[f->nb < DOCTOR_MAX_FINDINGS ? f->nb++ : DOCTOR_MAX_FINDINGS - 1];

    *n = (Finding){ .topic = topic, .what = what, .value = NAN, .unit = "", .verdict = verdict };
    return n;
}

void doctor_number(Findings *f, const char *topic, const char *what, double value, const char *unit, Verdict verdict, const char *remedy, ...)
{
    Finding *n = add(f, topic, what, verdict);
    va_list ap;

    n->value = value;
    n->unit = unit;
    va_start(ap, remedy);
    if (verdict != GOOD)
        vsnprintf(n->remedy, sizeof(n->remedy), remedy, ap);
    va_end(ap);
}

void doctor_words(Findings *f, const char *topic, const char *what, Verdict verdict, const char *text, ...)
{
    Finding *n = add(f, topic, what, verdict);
    va_list ap;

    va_start(ap, text);
    vsnprintf(n->text, sizeof(n->text), text, ap);
    va_end(ap);
}

void doctor_remedy(Findings *f, const char *remedy, ...)
{
    Finding *n = &f->list[f->nb - 1];
    va_list ap;

    va_start(ap, remedy);
    if (n->verdict != GOOD)
        vsnprintf(n->remedy, sizeof(n->remedy), remedy, ap);
    va_end(ap);
}

void doctor_text(Findings *f, const char *text, ...)
{
    Finding *n = &f->list[f->nb - 1];
    va_list ap;

    va_start(ap, text);
    vsnprintf(n->text, sizeof(n->text), text, ap);
    va_end(ap);
}

void doctor_each(Findings *f, const double *each, int nb)
{
    Finding *n = &f->list[f->nb - 1];

    n->nb_each = nb < DOCTOR_MAX_EACH ? nb : DOCTOR_MAX_EACH;
    memcpy(n->each, each, (size_t)n->nb_each * sizeof(*each));
}

void doctor_late(Findings *f, const char *topic, double seconds)
{
    if (seconds > 0)
        doctor_words(f, topic, "read", DOUBTFUL, "only its first %.1f s came in %d s", seconds, READER_PATIENCE);
    else
        doctor_words(f, topic, "read", BAD, "nothing of it came in %d s", READER_PATIENCE);
    doctor_remedy(f, "fetch it into a file, and name that");
}

Verdict doctor_judge(double value, double doubtful, double bad)
{
    const double sign = bad < doubtful ? -1 : 1;

    if (!isfinite(value))
        return BAD;
    return sign * value > sign * bad ? BAD : sign * value > sign * doubtful ? DOUBTFUL : GOOD;
}

int doctor_by_value(const void *a, const void *b)
{
    const float x = *(const float *)a, y = *(const float *)b;

    return (x > y) - (x < y);
}

static Verdict worst_of(const Findings *f)
{
    Verdict w = GOOD;

    for (int i = 0; i < f->nb; i++)
        w = f->list[i].verdict > w ? f->list[i].verdict : w;
    return w;
}

/* ---- showing ------------------------------------------------------------------------------------------------------- */

static void show_line(const Finding *n, int colour)
{
    static const char *const paint[] = { "\033[32m", "\033[33m", "\033[31m" };
    char seen[sizeof(n->text) + 40] = "", remedy[sizeof(n->remedy)];

    avt_printable(remedy, sizeof(remedy), n->remedy);
    if (!isnan(n->value))
        snprintf(seen, sizeof(seen), fabs(n->value) < 1000 ? "%.3g%s%s%s" : "%.0f%s%s%s", n->value, n->unit[0] ? " " : "", n->unit, n->text[0] ? ": " : "");
    avt_printable(seen + strlen(seen), sizeof(seen) - strlen(seen), n->text);
    printf("%-10s%-30s%s%-9s%s%s\n", n->topic, n->what, colour ? paint[n->verdict] : "", verdicts[n->verdict], colour ? "\033[0m" : "", seen);
    if (n->verdict != GOOD && n->remedy[0])
        printf("%-40s-> %s\n", "", remedy);
}

static void show(const Findings *f)
{
    const int colour = isatty(1);
    int nb[3] = { 0, 0, 0 };

    for (int i = 0; i < f->nb; i++) {
        show_line(&f->list[i], colour);
        nb[f->list[i].verdict]++;
    }
    printf("%s: %d good, %d doubtful, %d bad\n", verdicts[worst_of(f)], nb[GOOD], nb[DOUBTFUL], nb[BAD]);
}

static void show_json(const Findings *f)
{
    printf("{\"verdict\": \"%s\", \"findings\": [", verdicts[worst_of(f)]);
    for (int i = 0; i < f->nb; i++) {
        const Finding *n = &f->list[i];

        printf("%s\n  {\"topic\": \"%s\", \"what\": \"%s\", \"value\": ", i ? "," : "", n->topic, n->what);
        json_number(stdout, n->value, 6);
        printf(", \"unit\": \"%s\", \"text\": ", n->unit);
        json_text(stdout, n->text);
        printf(", \"verdict\": \"%s\", \"remedy\": ", verdicts[n->verdict]);
        json_text(stdout, n->remedy);
        for (int k = 0; k < n->nb_each; k++) {
            printf(k ? ", " : ", \"each\": [");
            json_number(stdout, n->each[k], 6);
            printf(k + 1 < n->nb_each ? "" : "]");
        }
        printf("}");
    }
    printf("\n]}\n");
}

/* ---- the command --------------------------------------------------------------------------------------------------- */

typedef enum Input { INPUT_SOUND, INPUT_PICTURE, INPUT_ONCE, INPUT_EMPTY, INPUT_LATE, INPUT_UNREADABLE } Input;

/* It is looked at twice, and to its end. A file of /proc says of itself that it is empty, and may keep its reader for ever. INPUT_UNREADABLE: to be seen. */
static Input by_its_kind(const char *path)
{
    struct stat st;

    if (!strcmp(path, "-"))
        return INPUT_ONCE;
    if (stat(path, &st) || S_ISDIR(st.st_mode))
        return INPUT_UNREADABLE;
    return !S_ISREG(st.st_mode) ? INPUT_ONCE : st.st_size ? INPUT_UNREADABLE : INPUT_EMPTY;
}

/* By what libavformat finds: a picture has video and no sound. Of what says itself what it is, nothing need be found. */
static Input kind_of(const char *path, const char *format)
{
    AVFormatContext *fmt;
    Input kind = by_its_kind(path);
    int64_t since = av_gettime_relative();

    if (kind != INPUT_UNREADABLE || !(fmt = avformat_alloc_context()))
        return kind;
    fmt->interrupt_callback = (AVIOInterruptCB){ reader_is_late, &since };
    if (avformat_open_input(&fmt, path, NULL, NULL) < 0)
        return reader_is_late(&since) ? INPUT_LATE : format ? INPUT_SOUND : kind;
    avformat_find_stream_info(fmt, NULL);
    for (unsigned i = 0; i < fmt->nb_streams; i++) {
        const AVCodecParameters *c = fmt->streams[i]->codecpar;
        const enum AVMediaType type = c->codec_type;
        const int by_name = c->codec_id == AV_CODEC_ID_RAWVIDEO;    // .raw, which is what sound is called as well

        if (type == AVMEDIA_TYPE_AUDIO || (format && by_name))
            kind = INPUT_SOUND;
        else if (type == AVMEDIA_TYPE_VIDEO && kind == INPUT_UNREADABLE)
            kind = INPUT_PICTURE;
    }
    avformat_close_input(&fmt);
    return kind;
}

/* The picture stays in o->look. */
static void look_at_picture(Findings *f, const char *path, ToolOptions *o)
{
    AvatarLook *look = &o->look;
    ModelDir m = { .dir = NULL };
    uint8_t *rgb = NULL;
    int w, h;
    const int ret = media_read_picture(path, &rgb, &look->width, &look->height, NULL);

    if (ret) {
        doctor_words(f, "picture", "read", BAD, ret < 0 ? "%.150s cannot be read" : "%.150s is damaged: parts are missing or wrong", path);
        doctor_remedy(f, ret < 0 ? "give a file that an image viewer shows" : "give another copy of it");
    }
    if (ret < 0)
        return;
    avt_options_model(&m, &o->engine, NULL);
    if (avt_settle_size(&w, &h, &m, o->engine.compat, look, NULL) >= 0)
        doctor_picture(f, rgb, look->width, look->height, w, h);
    avt_modeldir_close(&m);
    free((void *)look->rgb);
    look->rgb = rgb;
}

static void refuse(Findings *f, const char *name, Input kind)
{
    if (kind == INPUT_LATE) {
        doctor_late(f, "input", 0);
        return;
    }
    doctor_words(f, "input", "read", BAD, kind == INPUT_ONCE ? "%.150s is a pipe or a device, which can be read only once" :
                 kind == INPUT_EMPTY ? "%.150s is empty (0 bytes)" : "%.150s is neither sound nor picture", name);
    doctor_remedy(f, kind == INPUT_ONCE ? "write it into a file, and name that" : "give files that ffmpeg plays");
}

static void look_at_inputs(Findings *f, Heard *heard, ToolOptions *o)
{
    for (int i = 0; i < o->nb_positional; i++) {
        const char *name = file_name(o->positional[i]);
        const Input kind = kind_of(name, o->input_format);

        if (kind == INPUT_SOUND)
            doctor_sound(f, heard, name, o->input_format);
        else if (kind == INPUT_PICTURE)
            look_at_picture(f, name, o);
        else
            refuse(f, name, kind);
    }
}

static void look_at_film(Findings *f, const ToolOptions *o)
{
    const char *const name[] = { file_name(o->positional[0]), file_name(o->picture) };
    int bad = 0;

    for (int i = 0; i < 2; i++) {
        const Input kind = by_its_kind(name[i]);

        if (kind != INPUT_UNREADABLE)
            refuse(f, name[i], kind);
        bad |= kind != INPUT_UNREADABLE;
    }
    if (!bad)
        doctor_film(f, name[0], name[1], o->output);
}

/* The embedded model's blocks take a second or two; a large one is loaded only when asked. */
static int model_is_small(const ToolOptions *o)
{
    const int64_t bytes = plan_host_bytes(&o->engine, &o->look, NULL);

    return bytes >= 0 && bytes < SMALL_MODEL;
}

/* What bears on a verdict; how the film will be written does not. */
static int takes(const ToolOptions *o)
{
    if (o->picture)                                     // the model judges no film, but a script may name it in every call
        return tool_takes(o, "doctor FILM --picture", " model picture json output");
    return tool_takes(o, "doctor", TAKES_MODEL TAKES_FRAMES TAKES_RUN " prompt compat input_format json quick full");
}

int cmd_doctor(int argc, char **argv)
{
    static Findings f;
    Heard heard = { .pcm = NULL };
    ToolOptions o;
    int ret = tool_options(&o, argc, argv);

    if (ret)
        return ret;
    if (o.help || o.nb_positional > 2 || (o.picture && o.nb_positional != 1)) {
        fprintf(o.help ? stdout : stderr, "usage: avatar doctor [AUDIO] [PICTURE] [--model DIR] [--json] [--quick] [--full] [--OPTION VALUE ...]\n"
                "       avatar doctor FILM --picture REFERENCE [--json] [-o CURVES.svg]\n"
                "Looks at sound, picture, model, prompt and machine; or at a finished film. Exit code: 0 good, 1 something is doubtful, 2 something is bad.\n");
        return o.help ? 0 : 2;
    }
    if (takes(&o))
        return 2;
    av_log_set_level(AV_LOG_QUIET);
    tool_protect(&o);
    if (o.picture)
        look_at_film(&f, &o);
    else {
        look_at_inputs(&f, &heard, &o);
        doctor_model(&f, &o);
        if (o.quick || (o.look.rgb && model_is_small(&o)))
            doctor_block(&f, &o, &heard);
        doctor_system(&f, &o);
        doctor_links(&f, &o);
        free((void *)o.look.rgb);
        free(heard.pcm);
    }
    (o.json ? show_json : show)(&f);
    return (int)worst_of(&f);
}
