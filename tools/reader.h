/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* One decoder over one file, pipe, or what else libavformat opens: the parts that picture and sound share. */
#ifndef AVT_TOOL_READER_H
#define AVT_TOOL_READER_H

#include <libavcodec/avcodec.h>
#include <libavformat/avformat.h>

#include "file.h"

#define READER_PATIENCE 20              // seconds for all of a URL, where nobody can stop the reader

typedef struct Reader {
    const char *path;                   // the user's, for sentences: see reader_name()
    AVFormatContext *fmt;
    AVCodecContext *dec;
    AVPacket *pkt, *last;               // last: what the decoder was given last
    AVFrame *frame;
    AVIOContext *io;                    // ours over `fd`, or NULL where libavformat has opened `path` by itself
    int64_t base;                       // where `fd` stood
    int fd, seekable;
    FileStop stop;                      // or NULL
    int64_t since;                      // when it was opened, in microseconds
    int stream, drained, error;         // error: what the system said
} Reader;

/** libavformat's interrupt callback for a URL without `stop`: have READER_PATIENCE seconds gone since *(int64_t *)since? */
int  reader_is_late(void *since);
/** `path` in sentences. */
const char *reader_name(const char *path);
/** Say "avatar: PATH: WHAT: TEXT OF RET", once, unless the reader was stopped. @return ret */
int  reader_complain(const Reader *r, const char *what, int ret);
/**
 * Open `path`, "-" being stdin, for the best stream of a type.
 * @param format  name of a demuxer, or NULL: told from the bytes. Raw sound is 16 kHz mono
 * @return 0, or an error that was said; reader_close() is due in any case
 */
int  reader_open(Reader *r, const char *path, enum AVMediaType type, const char *format, FileStop stop);
/** Next decoded frame into r->frame: 1, 0 at the end, or an error (said). A damaged packet is passed over, as ffmpeg does.
 *  AVERROR(ETIMEDOUT): a URL that nobody can stop took too long; reader_open() too. */
int  reader_next(Reader *r);
/** Is the picture that reader_next() gave all there? Of what is decoded alone, as photographs are; 1 of all else. A decoder gives half a JPEG
 *  with the rest in grey. */
int  reader_is_whole(const Reader *r);
void reader_close(Reader *r);

#endif
