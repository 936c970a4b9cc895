/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The face in a picture, as it will be in the frames: there or not, alone, large enough, seen from the front, whole. */
#include <stdlib.h>

#include "config.h"
#include "doctor.h"
#include "nets/picture.h"

#if HAVE_DLIB
#include "face.h"

#define SIDE  512                                   // pixels of the shorter side, in which faces are looked for: small ones are not seen
#define FACES 8

static void judge_face(Findings *f, const Face *a, int nb, int w, int h)
{
    static const char *const poses[] = { "seen from the front", "turned to the left", "turned to the right", "tilted" };
    const double share = (double)(a->y1 - a->y0) / h;
    const int cut = a->x0 < 0 || a->y0 < 0 || a->x1 > w || a->y1 > h;

    doctor_number(f, "picture", "faces", nb, "", nb > 1 ? DOUBTFUL : GOOD, "one of them speaks, which one is not known: crop the picture around one");
    doctor_number(f, "picture", "face, of the frame's height", 100 * share, "%", share > 0.95 ? DOUBTFUL : doctor_judge(share, 0.22, 0.12),
                  share > 0.5 ? "it is too near: leave some room around the head" : "it is small: crop the picture around head and shoulders");
    doctor_words(f, "picture", "face", a->pose == FACE_FRONT ? GOOD : DOUBTFUL, "%s", poses[a->pose]);
    doctor_remedy(f, "lips are best in a face that looks into the camera, upright");
    doctor_words(f, "picture", "face, whole", cut ? DOUBTFUL : GOOD, cut ? "the frame cuts it" : "all of it is in the frame");
    doctor_remedy(f, "its middle is what is shown: crop the picture around the face yourself");
}

/* Faces of a picture made *fw x *fh, so that small ones are seen; their number, or -1. */
static int find_faces(Face list[FACES], int *fw, int *fh, const uint8_t *seen, int w, int h)
{
    const double scale = (double)SIDE / (w < h ? w : h);
    uint8_t *p;
    int nb;

    *fw = (int)(w * scale);
    *fh = (int)(h * scale);
    p = malloc((size_t)*fw * (size_t)*fh * 3);
    nb = p && avt_picture_resize(p, *fw, *fh, seen, w, h, (const double[]){ 0, 0, w, h }) >= 0 ? face_find(list, FACES, p, *fw, *fh) : -1;
    free(p);
    return nb;
}

static int within(double v, int most)
{
    return v < 0 ? 0 : v > most ? most : (int)v;
}

int doctor_face_box(int box[4], const uint8_t *seen, int w, int h)
{
    Face list[FACES];
    int fw, fh;

    if (find_faces(list, &fw, &fh, seen, w, h) < 1)
        return 0;
    box[0] = within((double)list[0].x0 * w / fw, w);
    box[1] = within((double)list[0].y0 * h / fh, h);
    box[2] = within((double)list[0].x1 * w / fw, w);
    box[3] = within((double)list[0].y1 * h / fh, h);
    return box[0] < box[2] && box[1] < box[3];
}

void doctor_face(Findings *f, const uint8_t *seen, int w, int h)
{
    Face list[FACES];
    int fw, fh;
    const int nb = find_faces(list, &fw, &fh, seen, w, h);

    if (nb > 0)
        judge_face(f, list, nb, fw, fh);
    else if (!nb) {
        doctor_words(f, "picture", "face", DOUBTFUL, "none is seen from the front");
        doctor_remedy(f, "take a picture of one person who looks into the camera; a drawing may be one that the detector does not know");
    }
}

#else

int doctor_face_box(int box[4], const uint8_t *seen, int w, int h)
{
    (void)box, (void)seen, (void)w, (void)h;
    return 0;
}

void doctor_face(Findings *f, const uint8_t *seen, int w, int h)
{
    (void)seen, (void)w, (void)h;
    doctor_words(f, "picture", "face", GOOD, "not looked for: this build has no dlib");
}

#endif
