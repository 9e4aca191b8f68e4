/* Spill files, version 1. All numbers little-endian; offsets in bytes from the start of the file.
 *
 *     0  magic          8   "PMDKV1\r\n": a text-mode copy breaks it, other files do not begin so
 *     8  version        4   1; a reader drops what is newer than itself
 *    12  header_bytes   4   of header and tables with the zeros behind them, a multiple of 4096: where the pages begin
 *    16  checksum      16   XXH3-128 (low 8 bytes first) of bytes [0, header_bytes) with this field as zeros
 *    32  identity      16   of the model: weights, kernels, precision, preprocessing. Another identity's pages mean nothing to us
 *    48  file_bytes     8   of the whole file: a truncated or lengthened file shows at once, without reading it
 *    56  page_bytes     4   of one page as the backend exports it
 *    60  page_stride    4   page_bytes rounded up to 4096: pages are read and written past the page cache, which wants that
 *    64  page_tokens    4   token slots of a page
 *    68  vocab          4   floats of one row of logits
 *    72  logits_stride  4   4 * vocab rounded up to 4096
 *    76  pages          4   1 to 1024
 *    80  keys           4   1 to 4096
 *    84  logits         4   0 to 64
 *    88  zeros          8
 *    96  page table    16 * pages    XXH3-128 of each page's page_stride bytes, so that one page can be read and trusted alone
 *        logits table  16 * logits   likewise
 *        key table     32 * keys     key (16), page (4), tokens (4), logits (4, -1 = none), zeros (4)
 *        zeros to header_bytes
 *        pages         page_stride * pages     zeros behind page_bytes
 *        logits        logits_stride * logits  fp32, zeros behind 4 * vocab
 *
 * A key names everything up to and with a page's first `tokens` slots (kv_store.h); several keys may share a page, since a prompt
 * may end inside a page that an answer went on to fill.
 *
 * A file is valid iff its size is file_bytes, the checksum holds, and every count, stride, offset and index agrees with the
 * others as above. A page or row of logits is valid iff its file is and its own checksum holds. The name is 32 hex digits (a hash
 * of identity and key table) and ".kv": two processes that write the same pages write the same name, and either file serves. */
#include "engine/spill_file.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

_Static_assert(sizeof(struct spill_header) == 96 && sizeof(struct spill_key) == 32 && sizeof(struct hash128) == 16,
               "structs as in the file");
_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "numbers as in the file");

enum { VERSION = 1 };
static const char magic[8] = "PMDKV1\r\n";

static size_t table_bytes(uint32_t pages, uint32_t logits, uint32_t keys) {
    size_t n = sizeof(struct spill_header) + ((size_t)pages + logits) * sizeof(struct hash128) + keys * sizeof(struct spill_key);
    return (n + SPILL_BLOCK - 1) / SPILL_BLOCK * SPILL_BLOCK;
}

static struct hash128 header_sum(struct spill_header *h) {
    struct hash128 kept = h->checksum;
    h->checksum = (struct hash128){0, 0};
    struct hash128 sum = hash_bytes(h, h->header_bytes, 0);
    h->checksum = kept;
    return sum;
}

/* ---- reading ---- */

void spill_table_free(struct spill_table *t) {
    free(t->header);
    *t = (struct spill_table){0};
}

static int bad(enum qvl_spill_drop *reason, enum qvl_spill_drop what, const char *path, const char *sentence, struct err *err) {
    *reason = what;
    err_set(err, ERR_FORMAT, "%s: %s", path, sentence);
    return -1;
}

static int failed(enum qvl_spill_drop *reason, enum qvl_spill_drop what, const char *path, const char *doing, struct err *err) {
    *reason = what;
    err_set(err, ERR_IO, "%s: cannot %s: %s", path, doing, strerror(errno));
    return -1;
}

/* What the fixed part alone can tell, before anything of its sizes is believed. */
static int check_counts(const struct spill_header *h, uint64_t size, const char *path, enum qvl_spill_drop *reason,
                        struct err *err) {
    if (memcmp(h->magic, magic, sizeof magic)) return bad(reason, QVL_SPILL_FOREIGN, path, "no spill file (magic)", err);
    if (h->version > VERSION) return bad(reason, QVL_SPILL_NEWER, path, "written by a newer version", err);
    bool ok = h->version == VERSION && h->pages >= 1 && h->pages <= SPILL_MAX_PAGES && h->keys >= 1 && h->keys <= SPILL_MAX_KEYS &&
              h->logits <= SPILL_MAX_LOGITS && h->header_bytes == table_bytes(h->pages, h->logits, h->keys) &&
              h->page_bytes >= 1 && h->page_bytes <= SPILL_MAX_PAGE_BYTES && h->page_stride == spill_round(h->page_bytes) &&
              h->page_tokens >= 1 && h->vocab >= 1 && h->vocab <= 1u << 24 && h->logits_stride == spill_round(4 * h->vocab) &&
              h->file_bytes == (uint64_t)spill_logits_at(h, h->logits);
    if (!ok) return bad(reason, QVL_SPILL_DAMAGED, path, "header fields contradict each other", err);
    if (size < h->file_bytes) return bad(reason, QVL_SPILL_TRUNCATED, path, "shorter than its header says", err);
    if (size > h->file_bytes) return bad(reason, QVL_SPILL_DAMAGED, path, "longer than its header says", err);
    return 0;
}

static int check_table(struct spill_table *t, const char *path, enum qvl_spill_drop *reason, struct err *err) {
    struct spill_header *h = t->header;
    if (!hash_equal(header_sum(h), h->checksum)) return bad(reason, QVL_SPILL_DAMAGED, path, "header checksum is wrong", err);
    t->page_sums = (const struct hash128 *)(h + 1);
    t->logits_sums = t->page_sums + h->pages;
    t->keys = (const struct spill_key *)(t->logits_sums + h->logits);
    for (uint32_t i = 0; i < h->keys; i++) {
        const struct spill_key *k = &t->keys[i];
        if (k->page >= h->pages || k->tokens < 1 || k->tokens > h->page_tokens || k->logits < -1 ||
            k->logits >= (int32_t)h->logits)
            return bad(reason, QVL_SPILL_DAMAGED, path, "a key points outside the file", err);
    }
    return 0;
}

int spill_table_read(const struct disk_calls *io, int fd, const char *path, struct spill_table *out,
                     enum qvl_spill_drop *reason, struct err *err) {
    struct stat st;
    struct spill_header fixed;
    void *block = NULL, *whole = NULL;
    *out = (struct spill_table){0};
    if (fstat(fd, &st)) return failed(reason, QVL_SPILL_READ, path, "read", err);
    if (st.st_size < SPILL_BLOCK) return bad(reason, QVL_SPILL_TRUNCATED, path, "shorter than a header", err);
    if (posix_memalign(&block, SPILL_BLOCK, SPILL_BLOCK)) return bad(reason, QVL_SPILL_MEMORY, path, "out of memory", err);
    int r = 0;
    if (disk_read(io, fd, block, SPILL_BLOCK, 0)) r = failed(reason, QVL_SPILL_READ, path, "read", err);
    if (!r) {
        memcpy(&fixed, block, sizeof fixed);
        r = check_counts(&fixed, (uint64_t)st.st_size, path, reason, err);
    }
    if (!r && fixed.header_bytes > SPILL_BLOCK) {
        if (posix_memalign(&whole, SPILL_BLOCK, fixed.header_bytes))
            r = bad(reason, QVL_SPILL_MEMORY, path, "out of memory", err);
        else if (disk_read(io, fd, whole, fixed.header_bytes, 0))
            r = failed(reason, QVL_SPILL_READ, path, "read", err);
        free(block);
        block = whole;
        /* The second read stands for itself: what was checked must be what is used. */
        if (!r && memcmp(block, &fixed, sizeof fixed)) r = bad(reason, QVL_SPILL_DAMAGED, path, "changed while being read", err);
    }
    out->header = block;
    if (!r) r = check_table(out, path, reason, err);
    if (r) spill_table_free(out);
    return r;
}

/* ---- writing ---- */

int spill_pack_init(struct spill_pack *p, const struct spill_shape *shape, size_t bytes, struct err *err) {
    *p = (struct spill_pack){.shape = *shape, .page_stride = spill_round(shape->page_bytes),
                             .logits_stride = spill_round(4 * shape->vocab), .logits_room = 4};
    size_t room = bytes / p->page_stride;
    p->page_room = room < 1 ? 1 : room > SPILL_MAX_PAGES ? SPILL_MAX_PAGES : (uint32_t)room;
    p->key_room = p->page_room + 64;
    void *pages = NULL, *logits = NULL;
    if (posix_memalign(&pages, SPILL_BLOCK, (size_t)p->page_room * p->page_stride)) pages = NULL;
    if (posix_memalign(&logits, SPILL_BLOCK, (size_t)p->logits_room * p->logits_stride)) logits = NULL;
    p->pages = pages;
    p->logits = logits;
    p->keys = calloc(p->key_room, sizeof *p->keys);
    if (pages && logits && p->keys) return 0;
    spill_pack_free(p);
    return err_set(err, ERR_MEMORY, "out of memory for a spill file of %zu bytes", bytes);
}

void spill_pack_free(struct spill_pack *p) {
    free(p->pages);
    free(p->logits);
    free(p->keys);
    *p = (struct spill_pack){0};
}

bool spill_pack_key(struct spill_pack *p, struct hash128 key, uint32_t page, uint32_t tokens, const float *logits) {
    if (p->key_count == p->key_room || (logits && p->logits_count == p->logits_room)) return false;
    struct spill_key *k = &p->keys[p->key_count++];
    *k = (struct spill_key){.key = key, .page = page, .tokens = tokens, .logits = -1};
    if (!logits) return true;
    char *row = p->logits + (size_t)p->logits_count * p->logits_stride;
    memcpy(row, logits, 4 * (size_t)p->shape.vocab);
    memset(row + 4 * (size_t)p->shape.vocab, 0, p->logits_stride - 4 * (size_t)p->shape.vocab);
    k->logits = (int32_t)p->logits_count++;
    return true;
}

uint64_t spill_pack_bytes(const struct spill_pack *p) {
    return table_bytes(p->page_count, p->logits_count, p->key_count) + (uint64_t)p->page_count * p->page_stride +
           (uint64_t)p->logits_count * p->logits_stride;
}

void spill_pack_name(const struct spill_pack *p, char name[SPILL_NAME]) {
    struct hash128 h[2] = {p->shape.identity, hash_bytes(p->keys, p->key_count * sizeof *p->keys, VERSION)};
    h[0] = hash_bytes(h, sizeof h, 0);
    snprintf(name, SPILL_NAME, "%016llx%016llx.kv", (unsigned long long)h[0].high, (unsigned long long)h[0].low);
}

static struct spill_header *make_header(const struct spill_pack *p) {
    size_t bytes = table_bytes(p->page_count, p->logits_count, p->key_count);
    void *block = NULL;
    if (posix_memalign(&block, SPILL_BLOCK, bytes)) return NULL;
    memset(block, 0, bytes);
    struct spill_header *h = block;
    *h = (struct spill_header){.version = VERSION, .header_bytes = (uint32_t)bytes, .identity = p->shape.identity,
                               .file_bytes = spill_pack_bytes(p), .page_bytes = p->shape.page_bytes, .page_stride = p->page_stride,
                               .page_tokens = p->shape.page_tokens, .vocab = p->shape.vocab, .logits_stride = p->logits_stride,
                               .pages = p->page_count, .keys = p->key_count, .logits = p->logits_count};
    memcpy(h->magic, magic, sizeof magic);
    struct hash128 *sums = (struct hash128 *)(h + 1);
    for (uint32_t i = 0; i < p->page_count; i++) {
        char *page = p->pages + (size_t)i * p->page_stride;
        memset(page + p->shape.page_bytes, 0, p->page_stride - p->shape.page_bytes);
        *sums++ = hash_bytes(page, p->page_stride, 0);
    }
    for (uint32_t i = 0; i < p->logits_count; i++)
        *sums++ = hash_bytes(p->logits + (size_t)i * p->logits_stride, p->logits_stride, 0);
    memcpy(sums, p->keys, p->key_count * sizeof *p->keys);
    h->checksum = header_sum(h);
    return h;
}

static int write_all(const struct spill_pack *p, const struct disk_calls *io, const struct spill_header *h, int fd,
                     const char *path, enum qvl_spill_drop *reason, struct err *err) {
    if (flock(fd, LOCK_EX | LOCK_NB)) return failed(reason, QVL_SPILL_WRITE, path, "lock", err);
    if (disk_write(io, fd, h, h->header_bytes, 0) ||
        disk_write(io, fd, p->pages, (size_t)p->page_count * p->page_stride, spill_page_at(h, 0)) ||
        disk_write(io, fd, p->logits, (size_t)p->logits_count * p->logits_stride, spill_logits_at(h, 0)))
        return failed(reason, QVL_SPILL_WRITE, path, "write", err);
    /* A failed fsync is final: the kernel may have dropped what it could not write, so the file goes and is not tried again. */
    if (io->fsync(fd)) return failed(reason, QVL_SPILL_FSYNC, path, "fsync", err);
    return 0;
}

int spill_pack_write(const struct spill_pack *p, const struct disk_calls *io, const char *folder, const char *name,
                     enum qvl_spill_drop *reason, struct err *err) {
    char path[SPILL_PATH], temporary[SPILL_PATH];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    snprintf(temporary, sizeof temporary, "%s/%.32s.%ld.tmp", folder, name, (long)getpid());
    struct spill_header *h = make_header(p);
    if (!h) return bad(reason, QVL_SPILL_MEMORY, path, "out of memory", err);
    int fd = disk_open(io, temporary, O_WRONLY | O_CREAT | O_EXCL);
    int r = fd < 0 ? failed(reason, QVL_SPILL_WRITE, temporary, "create", err) : write_all(p, io, h, fd, temporary, reason, err);
    free(h);
    if (!r && io->rename(temporary, path)) r = failed(reason, QVL_SPILL_WRITE, path, "rename", err);
    if (r && fd >= 0) io->unlink(temporary);
    /* Open until here: the lock on a temporary file says that its writer lives; whoever can take it may remove the file. */
    if (fd >= 0) close(fd);
    if (!r && disk_sync_folder(io, folder)) { /* the name may not last: as if it had not been written */
        r = failed(reason, QVL_SPILL_FSYNC, folder, "fsync", err);
        io->unlink(path);
    }
    return r;
}
