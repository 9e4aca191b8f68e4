/* A data set as plain files: DIR/frames/ *.png and DIR/manifest.jsonl. Format: head of dataset.c. */
#ifndef RECORD_DATASET_H
#define RECORD_DATASET_H

#include <stdbool.h>

#include "base/buf.h"
#include "base/json.h"
#include "emulator/emulator.h"
#include "record/step.h"

struct dataset_entry {
    uint32_t seed, step;
    int part;                     /* 0: the picture of the decision; above: the n-th picture after it, before the next one */
    const uint8_t *rgb;
    const struct world *world;
    const char *action;           /* never NULL */
    const struct key_press *presses; int press_count;
    const char *scene, *oracle_action, *prompt; /* may be NULL (scene: not) */
    const char *notes;            /* may be NULL */
};

/* The line of an entry (with newline), and the hash of its picture and world together (two entries must not share it). */
int dataset_line(const struct dataset_entry *e, struct buf *line, char key[33], struct err *err);
/* Its picture: "frames/NAME.png" inside the folder. */
void dataset_frame_path(const struct dataset_entry *e, char out[64]);

struct dataset_writer;
/* worker < 0: writes DIR/manifest.jsonl itself; else a part that dataset_merge joins. A folder with a manifest is refused. */
int dataset_create(const char *folder, int worker, struct dataset_writer **out, struct err *err);
/* Writes picture and line, unless picture and world are there already (*kept = false, no error). kept may be NULL. */
int dataset_add(struct dataset_writer *w, const struct dataset_entry *e, bool *kept, struct err *err);
/* An entry made earlier: its line, key and PNG. */
int dataset_add_made(struct dataset_writer *w, const char *frame_path, const struct buf *png, const struct buf *line, const char key[33], bool *kept,
                     struct err *err);
int dataset_close(struct dataset_writer *w, struct err *err); /* frees w in every case; w may be NULL */
/* Joins the parts of so many workers to manifest.jsonl, leaving out repeats; *entries and *repeats are counted. */
int dataset_merge(const char *folder, int workers, int64_t *entries, int64_t *repeats, struct err *err);

/* Reads every entry and picture. Each thing wrong is one line to `problem`; *entries and *problems count. Negative only when the
 * manifest itself cannot be read. known: all action names. */
struct dataset_check {
    const char *const *known_actions; int known_count;
    void (*problem)(void *user, const char *text);
    void *user;
    int64_t entries, problems;
};
int dataset_check(const char *folder, struct dataset_check *check, struct err *err);

/* Every entry in turn, with its decoded picture; stops at the first error. visit returns 0 to go on. */
int dataset_each(const char *folder, int (*visit)(void *user, const struct json *entry, const uint8_t *rgb, struct err *err), void *user, struct err *err);

#endif
