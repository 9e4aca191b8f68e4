/* The levels of the prefix cache below the device: host memory (for devices with memory of their own) and a folder on disk.
 *
 *     device pages (kv_store)  →  host pages (host_pages)  →  spill files (spill_folder, spill_file)
 *
 * When a sequence ends, it offers the names of its pages; one thread copies what the lower levels lack. The queue holds names,
 * not pages: a page that leaves the device before its turn is not written, and no step ever waits for the disk to write. A
 * restore (spill_restore.c) is the one thing that a step waits for, and only where computing would take longer: what the model
 * computes and what the disk reads a second is measured and remembered in the folder.
 *
 * Order of locks: the model's, then this one's, then the folder's. */
#ifndef ENGINE_SPILL_H
#define ENGINE_SPILL_H

#include "engine/host_pages.h"
#include "engine/room.h"
#include "engine/spill_folder.h"

enum { SPILL_QUEUE = 64 }; /* sequences whose pages wait to be written */

struct page_name {
    struct hash128 key;
    int tokens;
};
struct spill_job {
    struct spill_job *next;
    size_t count;
    struct page_name pages[];
};

/* One page of a prompt on its way to the device. */
struct known_page {
    struct hash128 key;
    int tokens;
    int32_t page;             /* on the device, one reference held; -1: not (yet) */
    struct host_blob *blob;   /* else here (one reference held) ... */
    bool on_disk;             /* ... or here */
    struct spill_place place;
};

struct spill {
    struct qvl_model *m;
    const struct disk_calls *io;
    struct host_pages host;      /* guarded by the model's lock */
    bool has_folder;
    struct spill_folder folder;
    uint64_t daily;
    bool always;                 /* restore and write whatever the rates say */
    double rest_seconds;         /* pause after a failed write: a full disk is not asked again at once */

    pthread_mutex_t lock;
    pthread_cond_t work, idle;
    struct spill_job *first, *last;
    int waiting;
    bool stop, busy, look;       /* look: a lookup missed, another process may have written */
    pthread_t thread;
    bool running;
    double compute_rate, read_rate;     /* tokens, bytes a second; 0: not known */
    int refused;                 /* lookups since the last restore that computing won */
    double looked;               /* when a lookup that missed last asked for a look */
    int64_t host_hit_tokens, disk_hit_tokens; /* atomic */
    int64_t recomputed;
    uint64_t read_bytes, written_bytes;

    /* Of the thread alone. */
    double rest_until;
    struct spill_pack pack;
    float *logits;               /* (vocab) */
};

/* Sets m->spill when o asks for a level that the device can have. */
int spill_open(struct qvl_model *m, const struct qvl_options *o, struct err *err);
/* Writes what is queued, then lets everything go. Before the page table. */
void spill_close(struct qvl_model *m);
/* Offers pages, in order of the prompt; several names may be of one page and then follow each other. Never waits. */
void spill_offer(struct spill *s, const struct page_name *pages, size_t count);
/* Until everything offered so far is written or dropped. */
void spill_wait(struct spill *s);
/* Lets the thread look for files of other processes, now; or, after a lookup that missed, at most once a second. */
void spill_look(struct spill *s);
void spill_missed(struct spill *s);

/* Tokens computed in `seconds` by one prefill pass. */
void spill_note_compute(struct spill *s, int64_t tokens, double seconds);
void spill_note_read(struct spill *s, uint64_t bytes, double seconds);
/* Is reading `bytes` faster than computing `tokens`? Yes while that is unknown. */
bool spill_worth(struct spill *s, int64_t tokens, uint64_t bytes);
void spill_stats(struct spill *s, struct qvl_stats *out); /* the model's lock is held */

/* spill_restore.c: brings the pages of list that are below onto the device, in order. Returns how many of its first are there
 * now (each with one reference for the caller); the others hold nothing any more. */
int spill_restore(struct spill *s, struct known_page *list, int count);
/* Drops the references that the pages of list hold. */
void spill_let_go(struct spill *s, struct known_page *list, int count);
/* Reads the logits that a place names; false: they are not to be had. */
bool spill_read_logits(struct spill *s, const struct spill_place *place, float *logits);

#endif
