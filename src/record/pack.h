/* Packed frames for training: X.pack holds pictures, X.jsonl one line about each. Format: head of pack.c. */
#ifndef RECORD_PACK_H
#define RECORD_PACK_H

#include <stdint.h>

#include "base/err.h"
#include "emulator/emulator.h"

/* What X.jsonl says about a picture besides offset and length; NULL strings become null. */
struct pack_entry {
    uint32_t seed, episode_step;
    int floor;
    const char *scene, *prompt, *action, *decided_by, *oracle_action;
    const char *const *actions; /* offered; NULL = unknown */
    int action_count;
};

struct pack_writer;
/* Creates prefix.pack and prefix.jsonl; existing ones are refused. */
int pack_create(const char *prefix, struct pack_writer **out, struct err *err);
int pack_add(struct pack_writer *w, const uint8_t *rgb, const struct pack_entry *entry, struct err *err);
/* Flushes, closes and frees in every case; w may be NULL. */
int pack_close(struct pack_writer *w, struct err *err);

/* Unpacks one record's data (zlib) to RGB. what: its name in errors. */
int pack_decode(const void *data, size_t bytes, uint8_t rgb[FRAME_PIXELS * 3], const char *what, struct err *err);
/* Reads the record at offset (of its data, as in X.jsonl) of an open X.pack. */
int pack_read(int fd, uint64_t offset, uint32_t length, uint8_t rgb[FRAME_PIXELS * 3], const char *what, struct err *err);

#endif
