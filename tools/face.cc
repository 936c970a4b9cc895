/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* See face.h. */
#include <algorithm>
#include <exception>
#include <vector>

#include <dlib/image_processing/frontal_face_detector.h>

#include "face.h"

/* The detector is five, in this order: front, turned to either side, front with the head tilted to either side. */
static FacePose pose_of(unsigned long part)
{
    return part == 1 ? FACE_LEFT : part == 2 ? FACE_RIGHT : part > 2 ? FACE_TILTED : FACE_FRONT;
}

static dlib::array2d<dlib::rgb_pixel> picture_of(const uint8_t *rgb, int w, int h)
{
    dlib::array2d<dlib::rgb_pixel> p(h, w);

    for (int y = 0; y < h; y++)
        for (int x = 0; x < w; x++, rgb += 3)
            p[y][x] = dlib::rgb_pixel(rgb[0], rgb[1], rgb[2]);
    return p;
}

static bool larger(const dlib::rect_detection &a, const dlib::rect_detection &b)
{
    return a.rect.area() > b.rect.area();
}

int face_find(Face *list, int max, const uint8_t *rgb, int w, int h)
{
    try {
        dlib::frontal_face_detector detector = dlib::get_frontal_face_detector();
        std::vector<dlib::rect_detection> found;
        int nb = 0;

        detector(picture_of(rgb, w, h), found);
        std::sort(found.begin(), found.end(), larger);
        for (const dlib::rect_detection &f : found)
            if (nb < max)
                list[nb++] = Face{ static_cast<int>(f.rect.left()), static_cast<int>(f.rect.top()), static_cast<int>(f.rect.right()) + 1,
                                   static_cast<int>(f.rect.bottom()) + 1, pose_of(f.weight_index), f.detection_confidence };
        return nb;
    } catch (const std::exception &) {
        return -1;
    }
}
