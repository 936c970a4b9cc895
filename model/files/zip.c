/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The central directory of a zip archive.
 *
 *   local header | data | local header | data | .. | central directory | zip64 end | zip64 locator | end record
 *
 * Traps: PyTorch's local headers have zero sizes, so sizes come from the central directory; but where the data starts only
 * the local header tells, its name and extra field having lengths of their own (the padding to 64 bytes sits there).
 * Sizes and offsets of 0xFFFFFFFF (counts of 0xFFFF) mean: look in the zip64 field. Source: PKWARE APPNOTE 6.3.10, 4.3 - 4.5.
 */
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "files/zip.h"

#define MAX_ENTRIES 200000
#define END_SIZE    22
#define LOC_SIZE    20
#define END64_SIZE  56
#define CENTRAL     46
#define LOCAL       30
#define MAX_NAME    0xffff
#define MAX_SIZE    (64 << 20)          // of the directory
#define TAIL        (END_SIZE + 0xffff + LOC_SIZE)

typedef struct Directory {
    uint64_t nb, size, offset;
} Directory;

static uint32_t get16(const uint8_t *p)
{
    return (uint32_t)(p[0] | p[1] << 8);
}

static uint32_t get32(const uint8_t *p)
{
    return get16(p) | get16(p + 2) << 16;
}

static uint64_t get64(const uint8_t *p)
{
    return get32(p) | (uint64_t)get32(p + 4) << 32;
}

static int bad(const CkptFile *f, const Log *log, const char *what)
{
    return avt_fail(log, AVT_INVALID, "%s: damaged zip archive: %s", f->path, what);
}

static int bad_entry(const CkptFile *f, const ZipEntry *e, const Log *log, const char *what)
{
    return avt_fail(log, AVT_INVALID, "%s: damaged zip archive: entry %.*s: %s", f->path,
                    (int)(e->name_size < 200 ? e->name_size : 200), e->name, what);
}

/* The end record, offset in `tail` (n bytes): the last one whose comment reaches exactly to the end. -1: none */
static int64_t find_end(const uint8_t *tail, size_t n)
{
    for (size_t back = END_SIZE; back <= n && back <= END_SIZE + 0xffff; back++) {
        const uint8_t *p = tail + n - back;

        if (get32(p) == 0x06054b50 && get16(p + 20) == back - END_SIZE)
            return p - tail;
    }
    return -1;
}

/* limit: where the locator lies in the file */
static int read_end64(Directory *d, const CkptFile *f, const uint8_t *loc, uint64_t limit, const Log *log)
{
    const uint64_t at = get64(loc + 8);
    const Directory small = *d;
    uint8_t p[END64_SIZE];
    int ret;

    if (get32(loc + 4) || get32(loc + 16) > 1)
        return bad(f, log, "it spans several disks");
    if (limit < END64_SIZE || at > limit - END64_SIZE)
        return bad(f, log, "its zip64 end record is not where it should be");
    ret = avt_ckpt_bytes(f, p, at, sizeof(p), log);
    if (ret < 0)
        return ret;
    if (get32(p) != 0x06064b50)
        return bad(f, log, "its zip64 end record is not where it should be");
    if (get32(p + 16) || get32(p + 20) || get64(p + 24) != get64(p + 32))
        return bad(f, log, "it spans several disks");
    *d = (Directory){ .nb = get64(p + 32), .size = get64(p + 40), .offset = get64(p + 48) };
    if ((small.nb != 0xffff && small.nb != d->nb) || (small.size != 0xffffffff && small.size != d->size) ||
        (small.offset != 0xffffffff && small.offset != d->offset))
        return bad(f, log, "its two end records contradict each other");
    return 0;
}

/* The directory, by the end record in the file's last n bytes. */
static int parse_end(Directory *d, const CkptFile *f, const uint8_t *tail, size_t n, const Log *log)
{
    const int64_t at = find_end(tail, n);
    const uint8_t *end = tail + at;
    const uint64_t place = f->size - n + (uint64_t)at;              // of the end record in the file
    int ret = 0;

    if (at < 0)
        return avt_fail(log, AVT_INVALID,
                        "%s: damaged zip archive: it has no end record after %lld bytes (is the download complete?)",
                        f->path, (long long)f->size);
    if (get16(end + 4) || get16(end + 6) || get16(end + 8) != get16(end + 10))
        return bad(f, log, "it spans several disks");
    *d = (Directory){ .nb = get16(end + 10), .size = get32(end + 12), .offset = get32(end + 16) };
    if (at >= LOC_SIZE && get32(end - LOC_SIZE) == 0x07064b50)
        ret = read_end64(d, f, end - LOC_SIZE, place - LOC_SIZE, log);
    else if (d->nb == 0xffff || d->size == 0xffffffff || d->offset == 0xffffffff)
        ret = bad(f, log, "it needs a zip64 end record and has none");
    if (ret < 0)
        return ret;
    if (d->offset > place || d->size > place - d->offset)
        return bad(f, log, "its directory lies outside the file (is the download complete?)");
    return d->nb > MAX_ENTRIES || d->nb > d->size / CENTRAL || d->size > MAX_SIZE ? bad(f, log, "it counts too many entries") : 0;
}

static int read_end(Directory *d, const CkptFile *f, const Log *log)
{
    const size_t n = f->size < TAIL ? f->size : TAIL;
    uint8_t *tail = avt_malloc(MEM_CKPT, n);
    int ret = tail ? avt_ckpt_bytes(f, tail, f->size - n, n, log) : AVT_ERR(ENOMEM);

    if (ret >= 0)
        ret = parse_end(d, f, tail, n, log);
    avt_free(tail);
    return ret;
}

/* 64-bit values stand in the extra field 0x0001 in a fixed order, only for those fields that say 0xFFFFFFFF. */
static int read_extra64(uint64_t *value[3], const uint8_t *p, size_t size)
{
    size_t i = 0;
    uint32_t n = 0;

    for (; size - i >= 4; i += 4 + n) {
        n = get16(p + i + 2);
        if (n > size - i - 4)
            return -1;
        if (get16(p + i) == 1)
            break;
    }
    if (size - i < 4)
        n = 0;
    p += i + 4;
    for (int k = 0; k < 3; k++)
        if (*value[k] == 0xffffffff) {
            if (n < 8)
                return -1;
            *value[k] = get64(p);
            p += 8;
            n -= 8;
        }
    return 0;
}

static int find_data(ZipEntry *e, const Zip *z, const CkptFile *f, uint64_t offset, uint64_t size, uint64_t limit,
                     const Log *log)
{
    const uint64_t head = LOCAL + e->name_size;
    const uint8_t *p = z->local;
    uint64_t start;
    int ret;

    if (limit < head || offset > limit - head)
        return bad_entry(f, e, log, "lies outside the file");
    ret = avt_ckpt_bytes(f, z->local, offset, head, log);
    if (ret < 0)
        return ret;
    if (get32(p) != 0x04034b50)
        return bad_entry(f, e, log, "has no local header");
    if (get16(p + 6) & 1 || get16(p + 8) != 0)
        return bad_entry(f, e, log, "is compressed or encrypted");
    start = offset + LOCAL + get16(p + 26) + get16(p + 28);
    if (start > limit || size > limit - start)
        return bad_entry(f, e, log, "lies outside the file");
    if (get16(p + 26) != e->name_size || memcmp(p + LOCAL, e->name, e->name_size))
        return bad_entry(f, e, log, "has another name in its local header");
    if ((get32(p + 22) && get32(p + 22) != 0xffffffff && get32(p + 22) != size))
        return bad_entry(f, e, log, "has another size in its local header");
    e->begin = offset;
    e->start = start;
    e->size = (size_t)size;
    return 0;
}

/* One central header at p, `left` bytes to the directory's end. @return its length or an error */
static int64_t read_central(ZipEntry *e, const Zip *z, const CkptFile *f, const uint8_t *p, uint64_t left, uint64_t limit,
                            const Log *log)
{
    uint64_t packed, size, offset;
    uint64_t *const wide[3] = { &size, &packed, &offset };
    uint32_t nb_name, nb_extra, total;
    int ret;

    if (left < CENTRAL || get32(p) != 0x02014b50)
        return bad(f, log, "its directory ends too early");
    nb_name = get16(p + 28);
    nb_extra = get16(p + 30);
    total = CENTRAL + nb_name + nb_extra + get16(p + 32);
    if (total > left || !nb_name)
        return bad(f, log, "its directory ends too early");
    e->name = (const char *)p + CENTRAL;
    e->name_size = nb_name;
    packed = get32(p + 20);
    size = get32(p + 24);
    offset = get32(p + 42);
    if (memchr(e->name, 0, nb_name))
        return bad(f, log, "an entry's name holds a zero byte");
    if (read_extra64((uint64_t **)wide, p + CENTRAL + nb_name, nb_extra) < 0)
        return bad_entry(f, e, log, "its zip64 field is damaged");
    if (get16(p + 8) & 1)
        return bad_entry(f, e, log, "is encrypted");
    if (get16(p + 10) != 0)
        return bad_entry(f, e, log, "is compressed; PyTorch stores its entries as they are");
    if (packed != size)
        return bad_entry(f, e, log, "is stored, but has two sizes");
    if (get16(p + 34) && get16(p + 34) != 0xffff)
        return bad_entry(f, e, log, "is on another disk");
    ret = find_data(e, z, f, offset, size, limit, log);
    return ret < 0 ? ret : (int64_t)total;
}

static int by_place(const void *a, const void *b)
{
    const ZipEntry *x = a, *y = b;

    return (x->begin > y->begin) - (x->begin < y->begin);
}

static int by_name(const void *a, const void *b)
{
    const ZipEntry *x = a, *y = b;
    const int c = memcmp(x->name, y->name, x->name_size < y->name_size ? x->name_size : y->name_size);

    return c ? c : (x->name_size > y->name_size) - (x->name_size < y->name_size);
}

static int check_entries(Zip *z, const CkptFile *f, const Log *log)
{
    if (z->nb)
        qsort(z->entry, z->nb, sizeof(*z->entry), by_place);
    for (size_t i = 1; i < z->nb; i++)
        if (z->entry[i].begin < z->entry[i - 1].start + z->entry[i - 1].size)
            return bad_entry(f, &z->entry[i], log, "overlaps another entry");
    if (z->nb)
        qsort(z->entry, z->nb, sizeof(*z->entry), by_name);
    for (size_t i = 1; i < z->nb; i++)
        if (!by_name(&z->entry[i - 1], &z->entry[i]))
            return bad_entry(f, &z->entry[i], log, "is there twice");
    return 0;
}

static int read_directory(Zip *z, const Directory *d, const CkptFile *f, const Log *log)
{
    const uint8_t *p = z->directory;
    uint64_t left = d->size;

    for (uint64_t i = 0; i < d->nb; i++) {
        const int64_t n = read_central(&z->entry[i], z, f, p, left, d->offset, log);

        if (n < 0)
            return (int)n;
        p += n;
        left -= (uint64_t)n;
        z->nb++;
    }
    return left ? bad(f, log, "its directory is longer than its entries") : check_entries(z, f, log);
}

int avt_zip_open(Zip *z, const CkptFile *f, const Log *log)
{
    Directory d = { 0 };
    int ret = read_end(&d, f, log);

    *z = (Zip){ 0 };
    if (ret < 0)
        return ret;
    z->entry = avt_calloc(MEM_CKPT, (size_t)d.nb + 1, sizeof(*z->entry));
    z->directory = avt_malloc(MEM_CKPT, (size_t)d.size + 1);
    z->local = avt_malloc(MEM_CKPT, LOCAL + MAX_NAME);
    ret = z->entry && z->directory && z->local ? avt_ckpt_bytes(f, z->directory, d.offset, (size_t)d.size, log) : AVT_ERR(ENOMEM);
    if (ret >= 0)
        ret = read_directory(z, &d, f, log);
    if (ret < 0)
        avt_zip_close(z);
    return ret;
}

void avt_zip_close(Zip *z)
{
    avt_free(z->entry);
    avt_free(z->directory);
    avt_free(z->local);
    *z = (Zip){ 0 };
}

const ZipEntry *avt_zip_find(const Zip *z, const char *folder, size_t folder_size, const char *name, size_t name_size)
{
    size_t lo = 0, hi = z->nb;

    while (lo < hi) {                                               // names come in two pieces, so no bsearch()
        const size_t mid = lo + (hi - lo) / 2;
        const ZipEntry *e = &z->entry[mid];
        const size_t n = folder_size + 1 + name_size;
        int c = 0;

        for (size_t i = 0; i < n && i < e->name_size && !c; i++) {
            const char want = i < folder_size ? folder[i] : i == folder_size ? '/' : name[i - folder_size - 1];

            c = (unsigned char)want - (unsigned char)e->name[i];
        }
        if (!c)
            c = (n > e->name_size) - (n < e->name_size);
        if (!c)
            return e;
        if (c < 0)
            hi = mid;
        else
            lo = mid + 1;
    }
    return NULL;
}
