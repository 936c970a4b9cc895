/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * avatar doctor: what is looked at, and what was found. A finding is a line: topic, what, figure, verdict, and what to do about it when
 * that is not good. Each file looks at one thing and adds its findings; none of them decides about another's.
 */
#ifndef AVT_TOOL_DOCTOR_H
#define AVT_TOOL_DOCTOR_H

#include <stdint.h>

#include "files/modeldir.h"
#include "options.h"

typedef enum Verdict { GOOD, DOUBTFUL, BAD } Verdict;

#define DOCTOR_MAX_EACH 64

typedef struct Finding {
    const char *topic;                  // "picture", "sound", ...: static
    const char *what;                   // static
    double value;                       // NAN: there is no number
    const char *unit;                   // static; "" for a ratio
    Verdict verdict;
    char text[200];                     // what was seen, where a number does not say it all; or ""
    char remedy[240];                   // "" when good
    double each[DOCTOR_MAX_EACH];       // value is of several alike, as layers: theirs
    int nb_each;
} Finding;

#define DOCTOR_MAX_FINDINGS 96

typedef struct Findings {
    Finding list[DOCTOR_MAX_FINDINGS];
    int nb;
} Findings;

/** Add a finding with a number. @param remedy  printf text, not shown when the verdict is GOOD */
void doctor_number(Findings *f, const char *topic, const char *what, double value, const char *unit, Verdict verdict,
                   const char *remedy, ...) __attribute__((format(printf, 7, 8)));
/** Add a finding in words. @param text  what was seen. The remedy is added with doctor_remedy(). */
void doctor_words(Findings *f, const char *topic, const char *what, Verdict verdict, const char *text, ...)
    __attribute__((format(printf, 5, 6)));
/** The remedy of the last finding. */
void doctor_remedy(Findings *f, const char *remedy, ...) __attribute__((format(printf, 2, 3)));

/** More words of the last finding, behind its number. */
void doctor_text(Findings *f, const char *text, ...) __attribute__((format(printf, 2, 3)));
/** What the last finding's number is the mean of, for --json. */
void doctor_each(Findings *f, const double *each, int nb);

/** Of a URL that has taken longer than a reader waits, `seconds` of it being there: the rest of a verdict is on those. */
void doctor_late(Findings *f, const char *topic, double seconds);

/** GOOD up to `doubtful`, DOUBTFUL up to `bad`, else BAD; bad < doubtful: the same downwards, for what should be large. NaN, infinity: BAD */
Verdict doctor_judge(double value, double doubtful, double bad);

/** Of two floats, for qsort(). */
int doctor_by_value(const void *a, const void *b);

/** doctor_picture.c: a picture as the model will see it, at the size of the frames. rgb [h][w][3] */
void doctor_picture(Findings *f, const uint8_t *rgb, int w, int h, int out_w, int out_h);
/** doctor_face.c: the face in what will be the frames. seen [h][w][3] */
void doctor_face(Findings *f, const uint8_t *seen, int w, int h);
/** The largest face in seen [h][w][3], { x0, y0, x1, y1 } within it. @return 1; 0: none is seen, or this build has no dlib */
int  doctor_face_box(int box[4], const uint8_t *seen, int w, int h);
/** Fine detail of luma [h][w] against coarser: about 0.5 when sharp; NAN when there is nothing to see. */
double doctor_sharpness(const uint8_t *luma, int w, int h);
/** doctor_video.c: a finished film against the picture that it was made of. @param svg  where its curves go, or NULL */
void doctor_film(Findings *f, const char *path, const char *picture, const char *svg);

#define DOCTOR_HEARD (60 * AVATAR_SAMPLE_RATE)

typedef struct Heard {                  // the beginning of a sound, at most DOCTOR_HEARD samples of 16 kHz mono
    float *pcm;                         // or NULL; free()
    int64_t nb;
} Heard;

/** doctor_sound.c: a file of sound, read to its end. @return 0 or an error that was said */
int  doctor_sound(Findings *f, Heard *heard, const char *path, const char *format);
/** doctor_model.c: the folder's files, the LoRA, the prompt. */
void doctor_model(Findings *f, const ToolOptions *o);
/** doctor_names.c: the tensors of a folder's files against what the networks want. Nothing is said where a file is missing. */
void doctor_names(Findings *f, const ToolOptions *o, const ModelDir *m);
/** doctor_lora.c: the LoRA of a folder. */
void doctor_lora(Findings *f, const ToolOptions *o, const ModelDir *m);
/** doctor_block.c: two blocks through the model, of o->look.rgb or of a drawn face; more where the sound is to move the picture. */
void doctor_block(Findings *f, const ToolOptions *o, const Heard *heard);
/** doctor_motion.c: the part of a sound that is enough to see whether a film moves. @param why  gets why a film that has not been seen to move is
 *  not judged; static. @return samples from *pcm on; 0: there is no such part, or something stands in the way */
int  doctor_speech(const float **pcm, const char **why, const ToolOptions *o, const Heard *heard);
/** What came of it: `moved` as Probe has it, `why` as above. */
void doctor_motion(Findings *f, const char *why, double moved);
/** A number behind `key` in a line of a file of /proc, or -1. */
int64_t doctor_proc(const char *file, const char *key);
/** doctor_links.c: what is between GPUs and between processes. */
void doctor_links(Findings *f, const ToolOptions *o);
/** doctor_system.c: processor, memory, devices, the ffmpeg on the path. */
void doctor_system(Findings *f, const ToolOptions *o);

#endif
