/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Two blocks through the model, or as many as it takes to see a film move: does its VAE know such pictures, does the sound move them, which
 * numbers are used where, are the latents what latents are. They are
 * normalized: about 1 in the root of their mean square (0.6 to 1.4 seen of nano and of what the published model gives), beyond 6 in hardly any
 * value; a wrong LoRA, scale or file shows here first.
 */
#include <limits.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "doctor.h"
#include "probe.h"

#define KNOWN_DB   28.0                             // as the session warns
#define UNKNOWN_DB 22.0
#define KNOWN_FACE_DB 25.0                          // it has more detail than the ground

/* Of what is in the box { x0, y0, x1, y1 }. */
static double psnr(const Probe *p, const int box[4])
{
    double sum = 1e-9;

    for (int64_t y = box[1]; y < box[3]; y++)
        for (int64_t i = 3 * (y * p->info.width + box[0]); i < 3 * (y * p->info.width + box[2]); i++)
            sum += ((double)p->px[i] - p->back[i]) * ((double)p->px[i] - p->back[i]);
    return 10 * log10(4 * 3.0 * (box[2] - box[0]) * (box[3] - box[1]) / sum);
}

static void judge_vae(Findings *f, const Probe *p)
{
    const int w = p->info.width, h = p->info.height, whole[4] = { 0, 0, w, h };
    const double all = psnr(p, whole);
    uint8_t *seen = malloc((size_t)p->nb_px);
    int face[4];

    doctor_number(f, "picture", "given back by the model's VAE", all, "dB", doctor_judge(all, KNOWN_DB, UNKNOWN_DB),
                  "it is of a kind that this model does not know: its film stands still or melts; nano knows drawings such as its own");
    for (int64_t i = 0; seen && i < p->nb_px; i++)
        seen[i] = (uint8_t)(255 * fmin(1, fmax(0, 0.5 + 0.5 * p->px[i])) + 0.5);
    if (seen && doctor_face_box(face, seen, w, h))
        doctor_number(f, "picture", "its face alone", psnr(p, face), "dB", doctor_judge(psnr(p, face), KNOWN_FACE_DB, UNKNOWN_DB),
                      "the model's VAE does not know such a face: eyes and lips will be soft");
    free(seen);
}

static void judge_latents(Findings *f, const Probe *p)
{
    const int64_t nb = PROBE_BLOCKS * p->nb;
    double sum = 0, most = 0, rms;

    for (int64_t i = 0; i < nb; i++) {
        sum += (double)p->latents[i] * p->latents[i];
        most = fabs(p->latents[i]) > most ? fabs(p->latents[i]) : most;
    }
    rms = sqrt(sum / (double)nb);
    doctor_number(f, "latents", "size", rms, "", rms >= 0.6 && rms <= 1.4 ? GOOD : rms >= 0.3 && rms <= 2.5 ? DOUBTFUL : BAD,
                  "latents are about 1: is the LoRA of this model, its alpha right, are all files of one download?");
    doctor_number(f, "latents", "largest", most, "", doctor_judge(most, 8, 16), "latents beyond 6 are hardly ever seen: see the files and the LoRA");
}

static void judge_precision(Findings *f, const Probe *p, const ToolOptions *o)
{
    const char *asked = o->engine.precision && strcmp(o->engine.precision, "auto") ? o->engine.precision : p->info.precision;

    doctor_words(f, "precision", "between operations", strcmp(asked, p->info.precision) ? BAD : GOOD, "%s, on every device; latents, sums and the picture's "
                 "encoder f32", p->info.precision);
    doctor_remedy(f, "%s was asked for: another rank may not do it", asked);
    doctor_words(f, "precision", "lower than asked", GOOD, "nowhere");
}

/* The model's own answer to a fixed question, where it has one. */
static void judge_answer(Findings *f, const ToolOptions *o)
{
    char path[PATH_MAX + 32];
    Likeness l;

    verify_path(path, sizeof(path), o);
    if (access(path, R_OK))
        return;
    if (verify_model(&l, o, path, NULL) < 0)
        doctor_words(f, "latents", "known answer", BAD, "it cannot be computed"), doctor_remedy(f, "avatar verify says why");
    else
        doctor_number(f, "latents", "off the known answer", 100 * l.worst, "%", l.same ? GOOD : BAD,
                      "another LoRA, alpha, prompt or file than those that verify.safetensors was recorded with, or a machine that computes wrongly");
}

/* MB that the machine has moved between memory and disk for want of room; -1: not known. */
static double paged_MB(void)
{
    const int64_t in = doctor_proc("/proc/vmstat", "pswpin "), out = doctor_proc("/proc/vmstat", "pswpout ");

    return in < 0 || out < 0 ? -1 : (double)(in + out) * (double)sysconf(_SC_PAGESIZE) / 1e6;
}

void doctor_block(Findings *f, const ToolOptions *o, const Heard *heard)
{
    const double before = paged_MB();
    const char *why = NULL;
    ProbeVoice voice;
    Probe p;
    int ret;
    double after;

    voice.nb = o->look.rgb ? doctor_speech(&voice.pcm, &why, o, heard) : 0;
    ret = probe_run(&p, o, voice.nb ? &voice : NULL);
    after = paged_MB();

    if (before >= 0 && after >= 0)
        doctor_number(f, "memory", "paged while it ran", after - before, "MB", doctor_judge(after - before, 16, 1e12),
                      "memory went to disk and back while some blocks were made: close other programs, or take a smaller size or offload=weights");
    if (ret < 0) {
        doctor_words(f, "latents", "two blocks", BAD, "they cannot be made: %s", avatar_error_text(ret));
        doctor_remedy(f, "avatar speak says more; see the other findings first");
    } else {
        judge_precision(f, &p, o);
        if (p.nb_px && o->look.rgb)
            judge_vae(f, &p);
        if (o->look.rgb)
            doctor_motion(f, why, p.moved);
        judge_latents(f, &p);
        judge_answer(f, o);
    }
    probe_free(&p);
}
