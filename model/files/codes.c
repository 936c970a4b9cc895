/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Scales and rotation of codes, by name: see codes.h. A file's are not believed: each scale is looked at. */
#include <stdio.h>
#include <string.h>

#include "files/codes.h"
#include "quantize.h"

static int64_t rows_of(const CkptTensor *t)
{
    return t->nd ? t->dim[0] : 1;
}

/* `tail` behind t's name, or in the place of its last part */
static const CkptTensor *beside(Codes *c, const Ckpt *ckpt, const CkptTensor *t, const char *tail)
{
    const char *dot = strrchr(t->name, '.');
    const int stem = tail[0] == '_' ? (int)strlen(t->name) : dot ? (int)(dot + 1 - t->name) : 0;
    const CkptTensor *found;
    char name[512];

    if (snprintf(name, sizeof(name), "%.*s%s", stem, t->name, tail) >= (int)sizeof(name))
        return NULL;
    found = avt_ckpt_find(ckpt, name);
    if (found)
        c->part[c->nb_parts++] = found;
    return found;
}

static int find_scale(Codes *c, const Ckpt *ckpt, const CkptTensor *t, char *why, size_t size)
{
    static const char *const unused[] = { "input_scale", "scale_input", "comfy_quant" };
    const CkptTensor *s = beside(c, ckpt, t, "_scale");

    if (!s)
        s = beside(c, ckpt, t, "scale_weight");
    for (size_t i = 0; i < sizeof(unused) / sizeof(unused[0]); i++)
        beside(c, ckpt, t, unused[i]);
    c->scale = s;
    if (!s)
        snprintf(why, size, "tensor %s: %s without its scales, %s_scale; use the published bf16 files, or what avatar convert writes", t->name,
                 avt_dtype_name(t->dtype), t->name);
    else if (t->pack || s->pack || s->dtype > DT_F16 || (avt_ckpt_values(s) != 1 && avt_ckpt_values(s) != rows_of(t)))
        snprintf(why, size, "tensor %s: %lld scales of type %s for %lld rows of %s; wanted one, or one a row, f32", s->name,
                 (long long)avt_ckpt_values(s), avt_ckpt_type(s), (long long)rows_of(t), t->name);
    else
        return 0;
    return AVT_INVALID;
}

static int find_rotation(Codes *c, const Ckpt *ckpt, const CkptTensor *t, char *why, size_t size, const Log *log)
{
    const CkptTensor *r = t->dtype == DT_I8 ? beside(c, ckpt, t, "_rotation") : NULL;
    const int64_t rows = rows_of(t), k = rows ? avt_ckpt_values(t) / rows : 0;
    int32_t group = 1;
    int ret = 0;

    if (r && (r->dtype != DT_I32 || avt_ckpt_values(r) != 1))
        group = 0;
    else if (r)
        ret = avt_ckpt_read(r, &group, 0, sizeof(group), log);
    c->group = group;
    if (ret < 0 || (group == 1 || group == 4 || group == 16 || group == 64 || group == CODE_GROUP ? k % group == 0 : 0))
        return ret;
    snprintf(why, size, "tensor %s: a group of %d; wanted an i32, a power of 4 that divides a row of %lld, at most %d", r ? r->name : t->name, group,
             (long long)k, CODE_GROUP);
    return AVT_INVALID;
}

int avt_codes_find(Codes *c, const Ckpt *ckpt, const CkptTensor *t, char *why, size_t size, const Log *log)
{
    int ret;

    memset(c, 0, sizeof(*c));
    ret = find_scale(c, ckpt, t, why, size);
    return ret < 0 ? ret : find_rotation(c, ckpt, t, why, size, log);
}

int avt_codes_scales(float *scale, const Codes *c, const CkptTensor *t, char *why, size_t size, const Log *log)
{
    const int64_t rows = rows_of(t), nb = avt_ckpt_values(c->scale);
    float one[2];
    void *raw = nb == 1 ? (void *)one : (void *)(scale + rows);
    int ret = avt_ckpt_read(c->scale, raw, 0, c->scale->size, log);

    if (ret < 0)
        return ret;
    avt_to_f32(scale, c->scale->dtype, raw, 0, nb == 1 ? rows > 0 : nb);
    for (int64_t i = 0; i < nb && i < rows; i++)
        if (!(scale[i] > 0 && scale[i] <= CODES_SCALE_MOST)) {
            snprintf(why, size, "tensor %s: scale %lld is %g; wanted above 0, at most %d: the file is damaged", c->scale->name, (long long)i,
                     (double)scale[i], CODES_SCALE_MOST);
            return AVT_INVALID;
        }
    for (int64_t i = nb; i < rows; i++)
        scale[i] = scale[0];
    return 0;
}
