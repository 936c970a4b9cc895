/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The original's way with the reference picture: target sizes, resampling, crop, padding; all of it exact. */
#include <png.h>
#include <stdio.h>
#include <string.h>

#include "nets/picture.h"
#include "parity.h"

/* ---- pictures ------------------------------------------------------------------------------------------------- */

typedef struct Picture {
    uint8_t *rgb;
    int w, h;
} Picture;

uint8_t *golden_png(Golden *g, const char *name, int *w, int *h)
{
    png_image png = { .version = PNG_IMAGE_VERSION };
    Picture p = { 0 };
    char path[1024];

    snprintf(path, sizeof(path), "%s/%s", g->dir, name);
    if (png_image_begin_read_from_file(&png, path)) {
        png.format = PNG_FORMAT_RGB;
        p = (Picture){ golden_alloc(g, PNG_IMAGE_SIZE(png)), (int)png.width, (int)png.height };
        if (!png_image_finish_read(&png, NULL, p.rgb, 0, NULL))
            p.rgb = NULL;
    }
    if (!p.rgb)
        golden_fail(g, "%s: %s", name, png.message);
    png_image_free(&png);
    *w = p.w;
    *h = p.h;
    return p.rgb;
}

static void check_picture(Golden *g, const char *which, const Picture *in, int w, int h)
{
    const UpstreamFit fit = avt_picture_fit_upstream(w, h, in->w, in->h);
    const double box[4] = { 0, 0, in->w, in->h };
    const int64_t hw = (int64_t)w * h, size = (int64_t)fit.resized_w * fit.resized_h * 3;
    uint8_t *resized = golden_alloc(g, (size_t)size), *cropped = golden_alloc(g, (size_t)(3 * hw));
    const Tensor first = avt_new(g->work, DT_F32, 1, 3, h, w);
    int64_t dim[CKPT_MAX_DIM];

    if (golden_dims(g, dim, "out.%s.resized_u8", which) != 3 || dim[0] != fit.resized_h || dim[1] != fit.resized_w)
        golden_fail(g, "out.%s.resized_u8: we resize to %d x %d", which, fit.resized_w, fit.resized_h);
    if (avt_picture_resize(resized, fit.resized_w, fit.resized_h, in->rgb, in->w, in->h, box) < 0 ||
        avt_picture_upstream(cropped, w, h, in->rgb, (int64_t)in->w * 3, in->w, in->h) < 0)
        golden_fail(g, "no memory");
    golden_expect_u8(g, resized, size, 0, "%s.resized_u8", which);
    golden_expect_u8(g, cropped, 3 * hw, 0, "%s.cropped_u8", which);
    avt_channels_first(g->be, first, golden_picture(g, cropped, 1, h, w), AVT_NONE, AVT_NONE);
    golden_expect(g, first, "%s.pixels", which);
}

/* "main" is ref_image.png, any other <name> ref_image_<name>.png. */
void case_image_preprocess(Golden *g)
{
    for (int64_t i = 0; i < avt_ckpt_nb(g->file); i++) {
        const CkptTensor *t = avt_ckpt_get(g->file, i);
        const char *end = strstr(t->name, ".cropped_u8");
        char which[64], file[80];
        Picture p;

        if (!end || strncmp(t->name, "out.", 4) || t->nd != 3)
            continue;
        snprintf(which, sizeof(which), "%.*s", (int)(end - t->name - 4), t->name + 4);
        snprintf(file, sizeof(file), strcmp(which, "main") ? "ref_image_%s.png" : "ref_image.png", which);
        p.rgb = golden_png(g, file, &p.w, &p.h);
        if (p.rgb)
            check_picture(g, which, &p, (int)t->dim[1], (int)t->dim[0]);
    }
}

/* ---- sizes ---------------------------------------------------------------------------------------------------- */

static int number(const Json *o, const char *key)
{
    return (int)json_int(avt_json_get(o, key));
}

static int element(const Json *o, const char *key, int i)
{
    return (int)json_int(json_at(avt_json_get(o, key), i));
}

static void check_size(Golden *g, const Json *o)
{
    int w, h;

    avt_picture_size_upstream(&w, &h, number(o, "width"), number(o, "height"), number(o, "target_area"));
    if (h != element(o, "result", 0) || w != element(o, "result", 1))
        golden_fail(g, "%d x %d, area %d: we choose %d x %d (h x w)", number(o, "height"), number(o, "width"),
                    number(o, "target_area"), h, w);
}

static void check_fit(Golden *g, const Json *o)
{
    const int ih = element(o, "image", 0), iw = element(o, "image", 1), h = element(o, "target", 0), w = element(o, "target", 1);
    const UpstreamFit f = avt_picture_fit_upstream(w, h, iw, ih);
    const int left = f.left < 0 ? -f.left : 0, top = f.top < 0 ? -f.top : 0;
    const int right = left + f.resized_w < w ? w - left - f.resized_w : 0;
    const int bottom = top + f.resized_h < h ? h - top - f.resized_h : 0;
    const char *pad = "pad_left_top_right_bottom";

    if (f.resized_h != element(o, "resized", 0) || f.resized_w != element(o, "resized", 1) || left != element(o, pad, 0) ||
        top != element(o, pad, 1) || right != element(o, pad, 2) || bottom != element(o, pad, 3) ||
        (f.left > 0 ? f.left : 0) != number(o, "crop_left") || (f.top > 0 ? f.top : 0) != number(o, "crop_top"))
        golden_fail(g, "%d x %d into %d x %d: we resize to %d x %d (h x w), offset %d, %d", ih, iw, h, w, f.resized_h,
                    f.resized_w, f.left, f.top);
}

void case_resolution(Golden *g)
{
    static const struct {
        const char *section;
        void (*check)(Golden *g, const Json *o);
    } sections[] = { { "get_size_less_than_area", check_size }, { "resize_center_crop", check_fit } };
    char path[1024];
    Json *json = NULL;

    snprintf(path, sizeof(path), "%s/%s.json", g->dir, g->name);
    if (avt_json_read(&json, path, g->log) < 0) {
        golden_fail(g, "cannot be read");
        return;
    }
    for (int i = 0; i < 2; i++) {
        const Json *list = avt_json_get(json, sections[i].section);

        if (!json_nb(list))
            golden_fail(g, "no section %s", sections[i].section);
        for (const Json *o = avt_json_first(list); o; o = o->next, g->nb_compared++)
            sections[i].check(g, o);
    }
    avt_json_close(&json);
}
