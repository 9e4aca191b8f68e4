/* One spill file: pages of a prompt on disk. The format is specified at the head of spill_file.c. */
#ifndef ENGINE_SPILL_FILE_H
#define ENGINE_SPILL_FILE_H

#include "base/err.h"
#include "engine/disk_calls.h"
#include "engine/hash.h"
#include "qwen3vl.h"

/* SPILL_PATH: room for a folder (SPILL_FOLDER_MAX) and a name behind it. */
enum { SPILL_NAME = 40, SPILL_FOLDER_MAX = 4000, SPILL_PATH = 4200 };
enum { SPILL_BLOCK = 4096, SPILL_MAX_PAGES = 1024, SPILL_MAX_KEYS = 4096, SPILL_MAX_LOGITS = 64,
       SPILL_MAX_PAGE_BYTES = 1 << 30 };

/* What pages of one model look like: a file is ours iff all of this is equal. */
struct spill_shape {
    struct hash128 identity;
    uint32_t page_bytes, page_tokens, vocab;
};
static inline uint32_t spill_round(uint32_t bytes) { return (bytes + SPILL_BLOCK - 1) / SPILL_BLOCK * SPILL_BLOCK; }

/* As they stand in the file. */
struct spill_header {
    char magic[8];
    uint32_t version, header_bytes;
    struct hash128 checksum, identity;
    uint64_t file_bytes;
    uint32_t page_bytes, page_stride, page_tokens, vocab, logits_stride, pages, keys, logits;
    uint64_t unused;
};
struct spill_key {
    struct hash128 key;
    uint32_t page, tokens;
    int32_t logits; /* which, or -1 */
    uint32_t unused;
};

/* A file's header and tables, checked. */
struct spill_table {
    struct spill_header *header; /* owned: header_bytes, aligned to SPILL_BLOCK */
    const struct hash128 *page_sums, *logits_sums;
    const struct spill_key *keys;
};
void spill_table_free(struct spill_table *t);
static inline off_t spill_page_at(const struct spill_header *h, uint32_t page) {
    return (off_t)h->header_bytes + (off_t)page * h->page_stride;
}
static inline off_t spill_logits_at(const struct spill_header *h, uint32_t i) {
    return spill_page_at(h, h->pages) + (off_t)i * h->logits_stride;
}

/* Reads and checks header and tables of an open file. 0, or -1 with the reason and a sentence. Whether the file is of another
 * model is the caller's to ask: it is valid all the same. */
int spill_table_read(const struct disk_calls *io, int fd, const char *path, struct spill_table *out,
                     enum qvl_spill_drop *reason, struct err *err);

/* A file in the making: pages side by side in memory as they will stand in the file. */
struct spill_pack {
    struct spill_shape shape;
    uint32_t page_stride, logits_stride, page_room, logits_room;
    char *pages;                 /* (page_room, page_stride) aligned to SPILL_BLOCK */
    char *logits;                /* (logits_room, logits_stride) likewise */
    uint32_t page_count, logits_count, key_count, key_room;
    struct spill_key *keys;
};
int spill_pack_init(struct spill_pack *p, const struct spill_shape *shape, size_t bytes, struct err *err);
void spill_pack_free(struct spill_pack *p);
static inline char *spill_pack_next_page(struct spill_pack *p) { return p->pages + (size_t)p->page_count * p->page_stride; }
/* Adds a key for page `page`; logits (vocab floats) may be NULL. false: no room. */
bool spill_pack_key(struct spill_pack *p, struct hash128 key, uint32_t page, uint32_t tokens, const float *logits);
uint64_t spill_pack_bytes(const struct spill_pack *p);
/* The name that these keys give the file, NUL-terminated: equal keys, equal name. */
void spill_pack_name(const struct spill_pack *p, char name[SPILL_NAME]);
/* Writes folder/name: temporary file, fsync, rename, fsync of the folder. 0, or -1 with the reason and a sentence; then nothing
 * of it stays. */
int spill_pack_write(const struct spill_pack *p, const struct disk_calls *io, const char *folder, const char *name,
                     enum qvl_spill_drop *reason, struct err *err);

#endif
