/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Where faces are, by dlib's frontal detector, where configure has found dlib. */
#ifndef AVT_TOOL_FACE_H
#define AVT_TOOL_FACE_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef enum FacePose { FACE_FRONT, FACE_LEFT, FACE_RIGHT, FACE_TILTED } FacePose;

typedef struct Face {
    int x0, y0, x1, y1;                 // may reach beyond the picture
    FacePose pose;
    double score;                       // 0 is where the detector decides
} Face;

/** Faces of rgb [h][w][3] of 80 pixels and more, the largest first. @return how many, at most `max`; -1: no memory */
int face_find(Face *list, int max, const uint8_t *rgb, int w, int h);

#ifdef __cplusplus
}
#endif

#endif
