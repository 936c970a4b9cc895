/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * libavatar: speech and one picture in, a talking avatar at 25 frames a second out.
 *
 * Engine = the loaded model, read-only, shareable. Session = one stream with its caches.
 *
 *     AvatarOptions opt;         avatar_options_default(&opt);  opt.model = "dir";  opt.devices = "cpu";
 *     AvatarEngine *e = NULL;    ret = avatar_engine_open(&e, &opt);
 *     AvatarLook look;           avatar_look_default(&look);    look.rgb = picture; ...
 *     AvatarSession *s = NULL;   ret = avatar_session_open(&s, e, &look);
 *     do {
 *         nb_samples = read_speech(pcm);                      // 16 kHz mono f32; NULL at the end of the stream
 *         ret = avatar_session_send(s, pcm, nb_samples);      // copies; NULL closes the stream
 *         while (ret >= 0 && (ret = avatar_session_receive(s, &frame, AVATAR_WAIT)) >= 0)
 *             show(&frame);                                   // valid until the next receive
 *     } while (ret == AVATAR_EAGAIN);                         // more speech is needed; AVATAR_EOF: every frame was given
 *
 * This loop takes all frames that there can be before it sends again, so send always has room; one that polls may be told to wait.
 *     avatar_session_close(&s);  avatar_engine_close(&e);     // both accept a pointer to NULL, both set NULL
 *
 * Thread-safety: an engine may be shared by sessions of several threads. A session is used by one thread at a time, but for
 * avatar_session_abort(), which may come from any. The session works in threads of its own; only AVATAR_WAIT waits.
 * The library prints nothing, never exits, and reads no environment variable. Its threads leave the host's signals to the host.
 * fork() copies the calling thread alone: in the child, calls with a session of the parent return ECHILD, and closing it forgets it. An
 * engine can be shared with children that were forked while it had no session, and none was being opened.
 * A host whose last thread leaves by pthread_exit() stays, as long as a session is open, whose threads no signal but SIGKILL ends: close it
 * first. Leaving main(), and exit(), close it themselves.
 *
 * AvatarOptions, AvatarLook, AvatarFrame and AvatarInfo lie in the caller's memory and grow at their end. So the size that he was compiled
 * with goes along: in the member `size`, which ..._default() sets, or by a function ..._sized(), which the one without that ending calls.
 * A newer library takes what he does not know for default and does not write it. An older one gives 0 in what it does not know, and
 * refuses (EINVAL) what is not 0 there.
 */
#ifndef AVATAR_AVATAR_H
#define AVATAR_AVATAR_H

#include <errno.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define AVATAR_VERSION_MAJOR 0
#define AVATAR_VERSION_MINOR 1
#define AVATAR_VERSION_MICRO 0

#if defined(__GNUC__)
#define AVATAR_API __attribute__((visibility("default")))
#else
#define AVATAR_API
#endif

/* Error codes are negative errno; the three below have FFmpeg's values. avatar_error_text() explains. */
#define AVATAR_ERR(e)  (-(e))
#define AVATAR_EAGAIN  AVATAR_ERR(EAGAIN)                                               /* more speech is needed */
#define AVATAR_EOF     (-(('E') | ('O' << 8) | ('F' << 16) | (' ' << 24)))              /* every frame was given */
#define AVATAR_INVALID (-(('I') | ('N' << 8) | ('D' << 16) | ('A' << 24)))              /* damaged or unfit data */

#define AVATAR_FPS          25          /* frames a second */
#define AVATAR_SAMPLE_RATE  16000       /* Hz of the speech */
#define AVATAR_BLOCK_FRAMES 12          /* frames of a block */

enum AvatarLogLevel { AVATAR_LOG_ERROR, AVATAR_LOG_WARNING, AVATAR_LOG_INFO, AVATAR_LOG_DEBUG, AVATAR_LOG_TRACE };

/**
 * One line of text without newline; called from any thread of the library, one at a time per engine. Inside of it
 * avatar_session_abort(), avatar_session_info(), avatar_error_text() and what fills defaults may be called; everything else
 * returns EDEADLK, or does nothing where it returns nothing.
 */
typedef void (*AvatarLogCallback)(void *opaque, int level, const char *text);

enum AvatarFormat { AVATAR_YUV420P, AVATAR_YUV444P, AVATAR_NV12, AVATAR_RGB24, AVATAR_GBRP };
enum AvatarCompat { AVATAR_COMPAT_NONE, AVATAR_COMPAT_UPSTREAM };

/** How a model is loaded. Strings need to live only until avatar_engine_open() returns; NULL or -1 (or 0 where said): choose for me. */
typedef struct AvatarOptions {
    size_t size;                        /* of this struct for the caller, by avatar_options_default() */
    const char *model;                  /* model folder, or a name without '/': see `models`; NULL: the embedded one, "nano" */
    const char *lora;                   /* "auto" (NULL), a path, or "none" */
    const char *devices;                /* "auto" (NULL), or cpu, cudaN joined by '|', of workers 1:cpu, 1:cudaN; one may be named twice */
    const char *plan;                   /* "auto" (NULL), "sequential", "wave", "timestep", "layer"; "tensorP", "ulyssesP" and
                                           "layer+tensorP" etc. split each layer over P devices */
    const char *vae_device;             /* "auto" (NULL), or an item of `devices`: shares its rank; "cpu:own": a rank of its own */
    int vae_split;                      /* 0, 1: one device decodes pictures; P: it and P - 1 others decode some rows each */
    const char *precision;              /* "auto" (NULL): what the devices run fastest; "f32", "bf16": of what lies between the ops and
                                           of the attention's keys and values; "int8", "fp8": the same as auto, but the transformer's
                                           layers multiply numbers of 8 bits. Latents, sums and the picture's encoder stay f32 */
    const char *kv;                     /* of the attention's keys and values that a stream keeps: "auto" (NULL), the type between the ops;
                                           "bf16"; "fp8": 8 bits and a scale a head, half the memory of bf16, pictures that differ a little */
    const char *offload;                /* layers' weights: "none": on the devices; "weights": come when their turn is, from the host's memory, on a
                                           CPU out of the file; "all": rings and sinks of keys and values as well, but for a CPU; the same bits,
                                           less memory, at worst less speed; "auto" (NULL): the first of these that fits the GPUs, else none */
    double resident;                    /* offload: GB (10^9) of the layers that stay on each device all the same */
    const char *front_device;           /* of the encoders of speech and text: "auto" (NULL, the VAE's), or any device */
    int steps;                          /* denoising steps; -1: the model's (4) */
    int cpu_threads;                    /* 0: all cores of the affinity mask, or what a quota is worth */
    int cpu_level;                      /* -1: the best; 0 plain C, 1 oneDNN, 2 AVX2, 3 AVX-512, 4 AMX: a cap, for tests */
    int compat;                         /* enum AvatarCompat */
    AvatarLogCallback log;              /* NULL: silence */
    void *log_opaque;
    int log_level;                      /* enum AvatarLogLevel, default AVATAR_LOG_INFO */
    const char *opts;                   /* expert settings "key=value:key=value" (doc/avatar.texi), or NULL; an unknown key is an error */
    const char *models;                 /* folders joined by ':' in which a named model is looked for, before the installed ones; or NULL */
    int launched;                       /* avatar_is_launched(): the devices of workers are at hand as well */
    const int *cancel;                  /* when it becomes non-zero, another thread's or a signal's doing, opening ends with ECANCELED; or NULL */
    int tune;                           /* 1: the ways in which a GPU can compute a product, an attention, a convolution are timed at a shape's
                                           first use and the fastest is taken; 0: the first one */
    const char *cache;                  /* avatar_cache_folder(): where that is kept for later runs, in tuned.json and plans/; NULL: nowhere */
    int width, height;                  /* of the frames that plan and offload=auto are chosen for; 0: the model's own. A session may have others */
} AvatarOptions;

/** How one stream looks. Everything is copied by avatar_session_open(). */
typedef struct AvatarLook {
    size_t size;                        /* of this struct for the caller, by avatar_look_default() */
    const uint8_t *rgb;                 /* reference picture, [height][width][3], 8 bits */
    int64_t stride;                     /* bytes from row to row; 0: 3 * width */
    int width, height;                  /* of the reference picture */
    const char *prompt;                 /* UTF-8; NULL: the model's default */
    int out_width, out_height;          /* size of the frames, multiples of 16; 0: the picture's ratio at the model's area */
    int64_t seed;                       /* -1: drawn and logged */
    int format;                         /* enum AvatarFormat */
    int on_device;                      /* 1: frames stay in the memory of the GPU that decodes them: avatar_engine_device() */
    int tail;                           /* enum AvatarTail: the last frames */
    int mode;                           /* enum AvatarMode */
    int latency_ms;                     /* live: how much sound after a block the audio encoder looks at; -1: 160 */
    int late;                           /* enum AvatarLate: what to do when sound runs ahead of the frames */
    int max_late_ms;                    /* live: how far ahead before `late` acts; -1: 2000 */
    const char *stats;                  /* file or pipe for a line of JSON a block: times, memory, delay (doc/live.md); NULL: none */
} AvatarLook;

enum AvatarMode { AVATAR_OFFLINE, AVATAR_LIVE };        /* hear up to 60 s at once, with what follows; block by block as it comes */
enum AvatarLate { AVATAR_LATE_WAIT, AVATAR_LATE_REPEAT, AVATAR_LATE_DROP };     /* nothing is lost; repeat a frame; leave a hole */

enum AvatarTail { AVATAR_TAIL_CEIL, AVATAR_TAIL_FLOOR, AVATAR_TAIL_BLOCK };     /* cover all sound; whole frames; whole block */

typedef struct AvatarEngine AvatarEngine;
typedef struct AvatarSession AvatarSession;

typedef struct AvatarFrame {
    const uint8_t *data[4];             /* planes; owned by the session, valid until the next receive or close: what reads them has ended by
                                           then. With look.on_device addresses in the GPU's primary context, where all of them is there */
    int linesize[4];                    /* bytes from row to row of each plane */
    int width, height;
    int format;                         /* enum AvatarFormat */
    int64_t index;                      /* frames from the start of the stream: time is index / 25 s */
    int64_t block;                      /* block of the model that it comes from */
    int repeated;                       /* 1: the frame before once more, for sound that was left out (late=repeat) */
    int64_t seed;                       /* seed in use for this block */
    int64_t prompt_id;                  /* counts prompts from 0 */
    double compute_ms;                  /* first frame of a block: time from start to picture; else 0 */
} AvatarFrame;

/** What a session settles on; for logs and pads. */
typedef struct AvatarInfo {
    int width, height;                  /* of the frames */
    int64_t seed;
    int steps;
    int64_t weight_bytes, state_bytes, scratch_bytes;   /* planned, all ranks together */
    char precision[8];                  /* "f32", "bf16", "int8", "fp8" */
    char kv[8];                         /* of keys and values: "f32", "bf16", "fp8" */
    char plan[192];                     /* devices in the order of the ranks: "layer on cpu|cpu|cpu+VAE" */
} AvatarInfo;

AVATAR_API unsigned avatar_version(void);                               /* major << 16 | minor << 8 | micro */
AVATAR_API const char *avatar_error_text(int code);                     /* static text; never NULL */

/** Fill with defaults, and `size`. Before anything else is done with the struct. */
AVATAR_API void avatar_options_default_sized(AvatarOptions *opt, size_t size);
AVATAR_API void avatar_look_default_sized(AvatarLook *look, size_t size);
static inline void avatar_options_default(AvatarOptions *opt)
{
    avatar_options_default_sized(opt, sizeof(*opt));
}
static inline void avatar_look_default(AvatarLook *look)
{
    avatar_look_default_sized(look, sizeof(*look));
}

/**
 * Fill size, steps and plan of a set-up by name, for the published model: "preview" (384x256, 3 steps), "standard" (704x384, 4 steps),
 * "long" (688x368, 4 steps), "quality" (704x384, 4 steps, all on one device). What is chosen already stays.
 * @param name  NULL or "none": nothing is filled
 * @param opt, look  either may be NULL; opt->log tells of an unknown name
 * @return 0 or EINVAL
 */
AVATAR_API int avatar_preset(const char *name, AvatarOptions *opt, AvatarLook *look);

/**
 * Check options without loading anything: values, combinations, that the model folder is there. For a filter's init(). With `launched` set
 * the processes meet before that, so that workers end with one that is refused.
 * @return 0, or a negative error after one logged sentence that names option, value and remedy
 */
AVATAR_API int avatar_options_check(const AvatarOptions *opt);

/**
 * Was this process started by mpirun or srun, maybe beside workers (doc/cluster.md)? For AvatarOptions.launched. Processes meet when options
 * with it are first checked or an engine is opened, and part when this one ends.
 * @param env  getenv(), as the library reads no environment of its own accord
 * @return 0: no; else how many were started on this host, 1 where that is not told
 */
AVATAR_API int avatar_is_launched(char *(*env)(const char *name));
/**
 * The folder for what can be found out again: avatar in XDG_CACHE_HOME, else in .cache in HOME. For AvatarOptions.cache.
 * @param path  gets it; size bytes, as PATH_MAX
 * @param env   getenv()
 * @return path, or NULL: there is no such folder, or its name is too long
 */
AVATAR_API const char *avatar_cache_folder(char *path, int size, char *(*env)(const char *name));
/**
 * Be a worker: lend `devices` to the process with the film, load the layers that it asks for from `model`, and serve until it ends.
 * For the main thread of a process of its own, with `launched` set.
 * @return 0: the run has ended; EINVAL: it was started alone; ETIMEDOUT: a process is lost; all after a sentence that is logged
 */
AVATAR_API int avatar_worker_run(const AvatarOptions *opt);

/**
 * Load a model, or share one that this process has open with the same folder, LoRA, devices and plan, when none of the files
 * was changed since. An open of a model that another thread is loading waits for that load; no other call does.
 * Names are for opening: from then on the host may change its folder, its root, its user, and the model's folder may be renamed. What is written
 * into its files meanwhile is found when they are read (ESTALE, out of receive), as is a descriptor of them that the host has closed.
 * The last user's engine stays, so that a rebuilt filter graph finds it. It goes with the first open, close or flush of any
 * engine that comes 10 s later or after that: the library keeps no thread for it.
 *
 * @return 0; ENOENT, AVATAR_INVALID (files), EINVAL (options), ENOMEM (memory, threads), ENOSYS (a device this build has not),
 *         ESTALE (a file was changed meanwhile), ECHILD (forked in the middle of a load); *e is NULL then
 */
AVATAR_API int  avatar_engine_open(AvatarEngine **e, const AvatarOptions *opt);
/** Give the engine back. Sessions must be closed first. */
AVATAR_API void avatar_engine_close(AvatarEngine **e);
/** Close the engines that have no user now. Before dlclose() of the library, and for a memory check at exit. */
AVATAR_API void avatar_engine_flush(void);

/**
 * Size of the frames that a session with this look would give (no session needed; look->rgb may be NULL).
 * @return 0, or EINVAL (logged) for a size that is not a multiple of 16 or outside 64 .. 4096
 */
AVATAR_API int avatar_engine_size(const AvatarEngine *e, const AvatarLook *look, int *width, int *height);

/**
 * The GPU that decodes pictures, in whose memory look.on_device leaves the frames: N of cudaN, as the driver counts.
 * @return ENOSYS after one logged sentence where it is none, or one of another process
 */
AVATAR_API int avatar_engine_device(const AvatarEngine *e);

/**
 * Start a stream: the plan is checked against free memory before anything is allocated; all threads that it will need are made;
 * then picture and prompt are encoded in the session's own thread (errors of that come out of receive). exit() aborts and joins
 * sessions that still run; close them when you can.
 *
 * @return 0; EINVAL (size, look, no picture), ENOMEM (memory, threads) with the numbers in the log, ENOSYS (on_device); *s is NULL then
 */
AVATAR_API int  avatar_session_open(AvatarSession **s, AvatarEngine *e, const AvatarLook *look);
/** Stop the session's threads and free it, in a fraction of a second: what is in progress is abandoned, in the middle of an op too. */
AVATAR_API void avatar_session_close(AvatarSession **s);
AVATAR_API void avatar_session_info_sized(const AvatarSession *s, AvatarInfo *info, size_t size);
static inline void avatar_session_info(const AvatarSession *s, AvatarInfo *info)
{
    avatar_session_info_sized(s, info, sizeof(*info));
}

/**
 * Give speech: nb_samples of 16 kHz mono f32 in [-1, 1], copied. NULL closes the stream, always; 0 samples with a pointer only ask
 * whether there is room. NaN and infinite samples are refused. What one call gives is taken whole, however much it is; nothing is
 * taken while 65 minutes of sound wait, 250 MB (never so with compat=upstream, which needs all of it). Who takes what frames there are
 * before he sends more has at most 90 s waiting.
 * @return 0; AVATAR_EAGAIN (nothing was taken: receive frames, which are there or are being made, then send again), EINVAL, AVATAR_EOF
 *         when the stream is closed already, ENOMEM, or the session's failure
 */
AVATAR_API int avatar_session_send(AvatarSession *s, const float *pcm, int64_t nb_samples);

enum { AVATAR_POLL, AVATAR_WAIT };
/**
 * Take the next frame. AVATAR_WAIT waits while frames are being made or can be made from what was sent; it never waits for sound.
 * After a failure the frames that were ready are given first, then the code.
 *
 * @return 0; AVATAR_EAGAIN (POLL: none ready; WAIT: more speech is needed), AVATAR_EOF, or the session's failure
 */
AVATAR_API int avatar_session_receive_sized(AvatarSession *s, AvatarFrame *frame, size_t size, int wait);
static inline int avatar_session_receive(AvatarSession *s, AvatarFrame *frame, int wait)
{
    return avatar_session_receive_sized(s, frame, sizeof(*frame), wait);
}

/**
 * Change prompt, picture or seed for blocks that have not started. Fields that are NULL (prompt, rgb) or -2 (seed) stay; others
 * of `look` are not looked at. Format, tail and size are the session's for good.
 * @return 0, EINVAL, ENOMEM
 */
AVATAR_API int avatar_session_set(AvatarSession *s, const AvatarLook *look);
/**
 * The same for blocks whose sound begins with sample `from` of the stream or later, as far as they have not started. That sound need
 * not have been sent yet. Changes of one block add up.
 *
 * @param frame  gets the index of the first frame that can show it; may be NULL
 * @return 0, EINVAL, ENOMEM; AVATAR_EOF: too late, no block is left that could start, and nothing was changed
 */
AVATAR_API int avatar_session_set_at(AvatarSession *s, const AvatarLook *look, int64_t from, int64_t *frame);
/** Would avatar_session_set() take this? @return 0, or EINVAL after one logged sentence */
AVATAR_API int avatar_look_check(const AvatarEngine *e, const AvatarLook *look);

/**
 * Change what is done from now on when sound runs ahead of the frames (live; elsewhere it changes nothing).
 * @return 0, EINVAL (as for AvatarLook)
 */
AVATAR_API int avatar_session_late(AvatarSession *s, int late, int max_late_ms);

/** Give up: receive fails with ECANCELED soon. May be called from another thread, one that watches a signal's flag too, but not
 * from a signal handler: it takes a lock that the interrupted thread may hold. */
AVATAR_API void avatar_session_abort(AvatarSession *s);

#ifdef __cplusplus
}
#endif

#endif
