/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What is wrong with a sound, as far as lips are concerned. One pass over the file, memory of a few numbers for each 20 ms.
 *
 *   level, noise   power of frames of 20 ms: speech is the 80th percentile of those within 25 dB of the loudest, the room the 5th of all
 *   speech         a frame within 25 dB of the speech and 6 dB above the room; blocks of 0.48 s that hold five of them
 *   clipping       runs of three equal samples near the peak, at the file's own rate
 *   bandwidth      mean spectrum of speech frames: up to where it stays within 50 dB of its peak
 *   echo           mean cepstrum of windows of 0.5 s: a copy of gain g after d seconds stands in it as g / 2 at d
 *   music          speech pauses between syllables, music does not: share of frames below half of the mean of the second around
 */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "doctor.h"
#include "speak.h"
#include "spectrum.h"

#define RATE        AVATAR_SAMPLE_RATE
#define FRAME       (RATE / 50)                     // 20 ms
#define BLOCK       (AVATAR_BLOCK_FRAMES * 2)       // frames of 20 ms in a block
#define SPECTRUM    512                             // 32 ms
#define CEPSTRUM    8192                            // 0.5 s
#define QUIET_DB    -90.0

typedef struct Hearing {
    float *db;                          // of each frame of 20 ms
    int64_t nb_frames, room;
    float tail[CEPSTRUM];               // the last samples, the newest at the end
    int64_t nb_samples;
    double spectrum[SPECTRUM / 2], loudest;
    double cepstrum[CEPSTRUM / 2];
    int64_t nb_spectra, nb_cepstra;
    double energy;                      // of the frame under way
    int64_t broken;                     // samples that are no numbers
    Spectrum fine, coarse;
    /* at the file's own rate */
    int rate, channels, run;
    float last, peak;
    int64_t flat, native;
    double left, right, product;        // energies of two channels, and their product's sum
} Hearing;

static void hear_spectrum(Hearing *h)
{
    spectrum_power(&h->fine, h->tail + CEPSTRUM - SPECTRUM);
    for (int i = 0; i < SPECTRUM / 2; i++)
        h->spectrum[i] += h->fine.out[i].re;
    h->nb_spectra++;
}

static void hear_cepstrum(Hearing *h)
{
    Spectrum *s = &h->coarse;

    spectrum_power(s, h->tail);
    for (int i = 0; i < s->nb; i++)
        s->in[i] = (AVComplexFloat){ .re = logf(s->out[i].re + 1e-9f) };
    spectrum_run(s);
    for (int i = 0; i < s->nb / 2; i++)
        h->cepstrum[i] += s->out[i].re / (float)s->nb;
    h->nb_cepstra++;
}

static int end_frame(Hearing *h)
{
    const double db = 10 * log10(h->energy / FRAME + 1e-12);

    if (h->nb_frames == h->room) {
        float *p = realloc(h->db, sizeof(*p) * (size_t)(h->room ? 2 * h->room : 4096));

        if (!p)
            return 0;
        h->db = p;
        h->room = h->room ? 2 * h->room : 4096;
    }
    h->db[h->nb_frames++] = (float)(db < QUIET_DB ? QUIET_DB : db);
    h->energy = 0;
    h->loudest = fmax(h->loudest - 0.001, db);                      // forgets a bang within minutes
    if (db > h->loudest - 20 && db > -60)
        hear_spectrum(h);
    if (h->nb_frames % (CEPSTRUM / FRAME / 2) == 0 && db > h->loudest - 30 && h->nb_samples >= CEPSTRUM)
        hear_cepstrum(h);
    return 1;
}

/* What is no number, and told apart, a session would refuse. */
static void keep(Heard *heard, const float *pcm, int nb)
{
    for (int i = 0; i < nb && heard->pcm && heard->nb < DOCTOR_HEARD; i++)
        heard->pcm[heard->nb++] = isfinite(pcm[i]) ? pcm[i] : 0;
}

static int hear(Hearing *h, const float *pcm, int nb)
{
    for (int done = 0, n; done < nb; done += n) {
        const int left = FRAME - (int)(h->nb_samples % FRAME);

        n = nb - done < left ? nb - done : left;
        memmove(h->tail, h->tail + n, sizeof(float) * (size_t)(CEPSTRUM - n));
        memcpy(h->tail + CEPSTRUM - n, pcm + done, sizeof(float) * (size_t)n);
        for (int i = 0; i < n; i++)
            h->broken += !isfinite(pcm[done + i]);
        for (int i = 0; i < n; i++)
            h->energy += (double)pcm[done + i] * pcm[done + i];
        h->nb_samples += n;
        if (h->nb_samples % FRAME == 0 && !end_frame(h))
            return 0;
    }
    return 1;
}

/* ---- as it was decoded ------------------------------------------------------------------------------------------------- */

/* Flat tops: the third of equal samples in a row at three quarters of the largest so far, or above. */
static void hear_native(Hearing *h, const float *v, int nb)
{
    for (int i = 0; i < nb; i++) {
        const float a = fabsf(v[i]);

        h->peak = a > h->peak ? a : h->peak;
        h->run = fabsf(v[i] - h->last) < 1e-4f && a > 0.75f * h->peak && a > 0.1f ? h->run + 1 : 0;
        h->flat += h->run >= 2;
        h->last = v[i];
    }
    h->native += nb;
}

static void hear_pair(Hearing *h, const float *l, const float *r, int nb)
{
    for (int i = 0; i < nb; i++) {
        h->left += (double)l[i] * l[i];
        h->right += (double)r[i] * r[i];
        h->product += (double)l[i] * r[i];
    }
}

/* The decoded frame as planes of float: its first one or two channels. */
static int hear_frame(Hearing *h, SwrContext **swr, const AVFrame *f)
{
    const int channels = f->ch_layout.nb_channels == 2 ? 2 : 1;
    uint8_t *plane[2] = { NULL, NULL };
    int nb;

    if (!*swr && media_mixer(swr, f, channels, AV_SAMPLE_FMT_FLTP, f->sample_rate) < 0)
        return 0;
    for (int c = 0; c < channels; c++)
        plane[c] = malloc(sizeof(float) * (size_t)(f->nb_samples + 64));
    nb = plane[0] && (channels < 2 || plane[1]) ?
        swr_convert(*swr, plane, f->nb_samples + 64, (const uint8_t **)f->extended_data, f->nb_samples) : -1;
    if (nb > 0) {
        hear_native(h, (const float *)plane[0], nb);
        if (channels == 2)
            hear_pair(h, (const float *)plane[0], (const float *)plane[1], nb);
    }
    free(plane[0]);
    free(plane[1]);
    return nb >= 0;
}

/* ---- what it comes to -------------------------------------------------------------------------------------------------- */

typedef struct Levels {
    double speech, room;                // dB
    double share, blocks;               // of frames, of blocks that speak
    double start;                       // seconds before the first word
    double pauses;                      // share of frames below half of the mean around them
} Levels;

static int speaks(const Levels *l, float db)
{
    return db > l->speech - 25 && db > l->room + 6 && db > -65;
}

/* Share of frames with less than a quarter of the power (half of the amplitude) of the mean over the second around them. */
static double pauses(const Hearing *h)
{
    int64_t nb = 0, low = 0;

    for (int64_t i = 25; i + 25 < h->nb_frames; i++) {
        double mean = 0;

        for (int64_t j = i - 25; j < i + 25; j++)
            mean += pow(10, h->db[j] / 20) / 50;
        if (20 * log10(mean) < -60)
            continue;
        nb++;
        low += pow(10, h->db[i] / 20) < 0.5 * mean;
    }
    return nb ? (double)low / (double)nb : NAN;
}

static int levels_of(Levels *l, const Hearing *h)
{
    float *sorted = malloc(sizeof(float) * (size_t)h->nb_frames);
    int64_t spoken = 0, blocks = 0, first = -1, quiet = 0;
    const int64_t nb = h->nb_frames;

    if (!sorted)
        return 0;
    memcpy(sorted, h->db, sizeof(float) * (size_t)nb);
    qsort(sorted, (size_t)nb, sizeof(*sorted), doctor_by_value);
    while (quiet < nb - 1 && sorted[quiet] < sorted[nb * 199 / 200] - 25)
        quiet++;
    *l = (Levels){ .speech = sorted[quiet + (nb - quiet) * 8 / 10], .room = sorted[nb / 20] };
    free(sorted);
    for (int64_t b = 0; b * BLOCK < h->nb_frames; b++) {
        int n = 0;

        for (int64_t i = b * BLOCK; i < (b + 1) * BLOCK && i < h->nb_frames; i++)
            n += speaks(l, h->db[i]);
        if (n >= 5 && first < 0)
            first = b;
        spoken += n;
        blocks += n >= 5;
    }
    l->share = (double)spoken / (double)h->nb_frames;
    l->blocks = (double)blocks / (double)((h->nb_frames + BLOCK - 1) / BLOCK);
    l->start = first < 0 ? 0 : (double)(first * BLOCK) / 50;
    l->pauses = pauses(h);
    return 1;
}

/* Up to which frequency the mean spectrum of speech, smoothed over 250 Hz, stays within 50 dB of its peak. */
static double bandwidth(const Hearing *h)
{
    double peak = 0, edge = 0;

    for (int i = 3; i < SPECTRUM / 2; i++)
        peak = h->spectrum[i] > peak ? h->spectrum[i] : peak;
    for (int i = 8; i < SPECTRUM / 2; i++) {
        double mean = 0;

        for (int j = i - 7; j <= i; j++)
            mean += h->spectrum[j] / 8;
        if (mean > 1e-5 * peak)
            edge = (double)i * RATE / SPECTRUM;
    }
    return edge;
}

/* The largest cepstral peak between 40 and 400 ms, of which a tenth around it is noise: gain of an echo. */
static double echo_of(const Hearing *h, double *delay)
{
    double best = 0;

    for (int i = RATE * 40 / 1000; i < CEPSTRUM / 2 - 64; i++) {
        double around = 0;
        const double v = 2 * h->cepstrum[i] / (double)(h->nb_cepstra ? h->nb_cepstra : 1);

        for (int j = i - 64; j <= i + 64; j++)
            around += fabs(h->cepstrum[j]) * 2 / 129 / (double)(h->nb_cepstra ? h->nb_cepstra : 1);
        if (v > best && v > 6 * around) {
            best = v;
            *delay = (double)i / RATE;
        }
    }
    return best;
}

static void judge_channels(Findings *f, const Hearing *h)
{
    const double less = fmin(h->left, h->right), more = fmax(h->left, h->right);
    const double alike = less > 0 ? h->product / sqrt(h->left * h->right) : 0;

    if (h->channels != 2 || more <= 0)
        return;
    if (alike < -0.9)
        doctor_words(f, "sound", "channels", BAD, "one is the other's negative: mixed they are silence"),
            doctor_remedy(f, "give one of them: ffmpeg -i IN -af pan=mono\\|c0=c0 OUT");
    else if (less < 1e-4 * more)
        doctor_words(f, "sound", "channels", DOUBTFUL, "one of two is silent"),
            doctor_remedy(f, "give the other one alone: ffmpeg -i IN -af pan=mono\\|c0=%s OUT", h->left > h->right ? "c0" : "c1");
    else
        doctor_words(f, "sound", "channels", GOOD, "two");
}

static void judge_levels(Findings *f, const Levels *l)
{
    doctor_number(f, "sound", "level of speech", l->speech, "dBFS", doctor_judge(l->speech, -42, -55),
                  "it is very quiet: raise it, -af loudnorm");
    doctor_number(f, "sound", "speech above the room", l->speech - l->room, "dB", doctor_judge(l->speech - l->room, 14, 8),
                  "noise or music covers the speech: the mouth follows both; use a clean voice track");
    doctor_number(f, "sound", "frames with speech", 100 * l->share, "%", doctor_judge(l->share, 0.2, 0.03),
                  "little or no speech is heard: is this the right file and track?");
    doctor_number(f, "sound", "blocks with speech", 100 * l->blocks, "%", doctor_judge(l->blocks, 0.25, 0.03),
                  "the mouth will stay shut for most of the film");
    doctor_number(f, "sound", "silence at its start", l->start, "s", doctor_judge(l->start, 3, INFINITY),
                  "the film begins with %.1f s of a silent face: cut it with -ss", l->start);
    if (!isnan(l->pauses))
        doctor_number(f, "sound", "pauses between syllables", 100 * l->pauses, "%", doctor_judge(l->pauses, 0.08, -1),
                      "speech has pauses, this has not: is there music in it?");
}

static void judge(Findings *f, const Hearing *h, const Levels *l)
{
    const double flat = h->native ? 100 * (double)h->flat / (double)h->native : 0, seconds = (double)h->nb_samples / RATE;
    double delay = 0, gain;

    doctor_number(f, "sound", "length", seconds, "s", doctor_judge(seconds, 0.5, 0.04), "too short to speak a word");
    doctor_number(f, "sound", "sample rate", h->rate, "Hz", doctor_judge(h->rate, 16000, 7999),
                  "the model hears up to 8 kHz; a telephone's sound has half of that");
    if (h->broken)
        doctor_number(f, "sound", "samples that are no numbers", (double)h->broken, "", BAD, "NaN or infinity, which is refused: what wrote the file is at fault");
    judge_channels(f, h);
    judge_levels(f, l);
    doctor_number(f, "sound", "clipped samples", flat, "%", doctor_judge(flat, 0.02, 1), "it was recorded too loud, and its tops are cut off");
    if (h->nb_spectra)
        doctor_number(f, "sound", "bandwidth", bandwidth(h), "Hz", doctor_judge(bandwidth(h), 4200, 1500),
                      "S, F and SH are missing, as on a telephone: lips follow, less sharply");
    gain = echo_of(h, &delay);
    doctor_number(f, "sound", "echo", gain, "of the voice", doctor_judge(gain, 0.2, 0.6),
                  "a copy of the voice follows after %.0f ms: the mouth speaks both", 1000 * delay);
}

static int listen(Hearing *h, Heard *heard, SoundIn *in)
{
    SwrContext *swr = NULL;
    const AVFrame *frame;
    const float *pcm;
    int nb, ret;

    while ((ret = media_read_sound(in, &pcm, &nb, &frame)) > 0) {
        keep(heard, pcm, nb);
        if (!hear(h, pcm, nb) || (frame && !hear_frame(h, &swr, frame))) {
            ret = AVERROR(ENOMEM);
            break;
        }
    }
    swr_free(&swr);
    return ret;
}

int doctor_sound(Findings *f, Heard *heard, const char *path, const char *format)
{
    Hearing *h = calloc(1, sizeof(*h));
    SoundIn *in = NULL;
    Levels l;
    int ret = h && spectrum_open(&h->fine, SPECTRUM) && spectrum_open(&h->coarse, CEPSTRUM) ? media_open_sound(&in, path, format, NULL) : AVERROR(ENOMEM);

    free(heard->pcm);
    *heard = (Heard){ .pcm = malloc(sizeof(float) * DOCTOR_HEARD) };
    if (ret >= 0) {
        h->loudest = QUIET_DB;
        media_sound_shape(in, &h->rate, &h->channels);
        ret = listen(h, heard, in);
    }
    if (ret == AVERROR(ETIMEDOUT))
        doctor_late(f, "sound", (double)h->nb_samples / RATE);
    if ((ret >= 0 || ret == AVERROR(ETIMEDOUT)) && h->nb_frames && levels_of(&l, h))
        judge(f, h, &l);
    else if (ret != AVERROR(ETIMEDOUT)) {
        doctor_words(f, "sound", "read", BAD, ret < 0 ? "it cannot be read" : "there are less than 20 ms of it");
        doctor_remedy(f, "give a file that ffmpeg plays");
    }
    media_close_sound(&in);
    if (h) {
        spectrum_close(&h->fine);
        spectrum_close(&h->coarse);
        free(h->db);
    }
    free(h);
    return ret;
}
