/* What lies in a spill folder: an index from page keys to places in files, kept by reading each file's header once.
 *
 * The folder may be shared by processes and by models. Files of other models count toward the size budget and may be evicted, but
 * are not used; names that are not ours are left alone. The folder's lock (flock on DIR/lock) is held for budget and eviction
 * only: reading needs none, since a file is complete from the moment it has its name, and one that is gone is a miss.
 *
 * One thread scans, evicts and writes; others look up. The index has its own lock, which is not held during disk work. */
#ifndef ENGINE_SPILL_FOLDER_H
#define ENGINE_SPILL_FOLDER_H

#include <pthread.h>
#include <time.h>

#include "engine/spill_file.h"

struct spill_place {
    char name[SPILL_NAME];
    uint32_t page, tokens;
    int32_t logits; /* -1: none */
};

struct spill_entry;
struct spill_member;

/* More files than this are evicted whatever their size: each costs a read when the folder is opened. */
enum { SPILL_MAX_FILES = 16384, SPILL_NAME_BUCKETS = 4096 };

struct spill_folder {
    const struct disk_calls *io;
    char *path;
    struct spill_shape shape;
    uint64_t budget;             /* bytes of all spill files */
    pthread_mutex_t lock;
    struct spill_entry **buckets;
    size_t bucket_count, entry_count;
    struct spill_member *members[SPILL_NAME_BUCKETS]; /* by name */
    uint64_t bytes;
    int64_t files, evicted, drops[QVL_SPILL_DROPS];
    struct timespec seen;        /* the folder's mtime when it was last scanned */
    uint64_t scans;
    void (*notice)(void *user, const char *text);
    void *notice_user;
};

/* Makes the folder if need be and reads what is there. On failure nothing is held. */
int spill_folder_open(struct spill_folder *f, const char *path, const struct spill_shape *shape, uint64_t budget,
                      const struct disk_calls *io, void (*notice)(void *, const char *), void *user, struct err *err);
void spill_folder_close(struct spill_folder *f);

bool spill_folder_find(struct spill_folder *f, struct hash128 key, struct spill_place *out);
/* Marks a file as used now. */
void spill_folder_used(struct spill_folder *f, const char *name);
/* A file that turned out unusable: removed from index and disk (gone already: from the index only), counted; the first of each
 * reason is told. */
void spill_folder_drop(struct spill_folder *f, const char *name, enum qvl_spill_drop reason, const char *sentence);
/* Something else was dropped (a write that did not happen): counted and told. */
void spill_folder_count_drop(struct spill_folder *f, enum qvl_spill_drop reason, const char *sentence);

/* For the one writing thread. */
bool spill_folder_changed(const struct spill_folder *f); /* by anyone, since the last scan */
void spill_folder_scan(struct spill_folder *f);
int spill_folder_lock(struct spill_folder *f, struct err *err); /* a descriptor to close, or -1 */
/* Removes the least recently used files until `bytes` more fit. false: they never will. The folder's lock is held. */
bool spill_folder_make_room(struct spill_folder *f, uint64_t bytes);
/* A file that this thread has just written. */
void spill_folder_add(struct spill_folder *f, const struct spill_pack *p, const char *name);
/* Writes times of use to the disk, so that eviction knows them after a restart. */
void spill_folder_save_times(struct spill_folder *f);

#endif
