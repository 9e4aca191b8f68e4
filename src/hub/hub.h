/* The Hugging Face Hub: a model id becomes a folder. Downloads over libcurl into the Hub's own cache layout, so that what `hf
 * download` fetched just runs and huggingface_hub reads what we fetched (facts: qwen3-vl.md §8).
 *
 * Files in flight are blobs/<etag>.pmd-part, guarded by an flock on .locks/<repo>/<etag>.lock (the lock huggingface_hub takes
 * too). A part file survives a crash and is resumed; it becomes blobs/<etag> by rename only after its size and its hash
 * (sha256 for 64-hex etags, git blob sha1 for 40-hex) are right and it is synced. Then the snapshot's symlink is made; refs/<rev>
 * is written last, when every wanted file is there. */
#ifndef HUB_HUB_H
#define HUB_HUB_H

#include <limits.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/buf.h"
#include "base/err.h"

struct hub_settings {
    char endpoint[512];    /* no trailing slash */
    char cache[PATH_MAX];  /* the hub folder: models--*, .locks */
    char token[512];       /* "" = none; never printed */
    const char *token_source; /* "HF_TOKEN", ..., "token file", NULL when there is none */
    bool offline;          /* no request at all */
    int head_timeout_s, read_timeout_s;
    double retry_pause_s; /* between tries, unless the server says how long: 1 */
};
/* Reads HF_ENDPOINT, HF_HUB_CACHE, HUGGINGFACE_HUB_CACHE, HF_HOME, XDG_CACHE_HOME, HF_TOKEN, HUGGING_FACE_HUB_TOKEN,
 * HUGGINGFACE_HUB_TOKEN, HF_TOKEN_PATH, HF_HUB_DISABLE_IMPLICIT_TOKEN, HF_HUB_OFFLINE, TRANSFORMERS_OFFLINE and the timeouts.
 * Quotes around paths and a leading ~ are cleaned. */
int hub_settings_read(struct hub_settings *out, struct err *err);

/* "owner/name" with the characters the Hub allows (so that it is safe in a path and a URL). */
bool hub_id_valid(const char *id);

struct hub_file {
    char *path;
    char etag[65]; /* sha256 of LFS files, git blob sha1 of small ones; "" when unknown (a cached file) */
    int64_t bytes;
    bool cached;   /* the blob is complete in the cache */
};
struct hub_listing {
    char commit[41];
    struct hub_file *files;
    int count;
};
void hub_listing_free(struct hub_listing *l);

/* Asks the Hub for the files of a model at a revision ("main"). Every refusal has its own advice in err: gated, not found, 401,
 * 403, 429, 5xx. */
int hub_list(const struct hub_settings *s, const char *id, const char *revision, struct hub_listing *out, struct err *err);

/* One small file of the repository at a revision (config.json), appended to out; nothing is kept in the cache. */
int hub_fetch(const struct hub_settings *s, const char *id, const char *revision, const char *path, size_t limit, struct buf *out,
              struct err *err);
/* After a failed request: no answer came from the Hub at all, so that asking again for another model is in vain. */
bool hub_unreachable(const struct err *err);

/* Is this file of the repository one that running the model needs (weights, configs, tokenizer, templates)? */
bool hub_file_wanted(const char *path);

struct hub_progress {
    int files_done, files;
    int64_t bytes_done, bytes; /* of the wanted files; what was cached counts as done */
    double bytes_per_s, eta_s; /* eta < 0: unknown */
    const char *note;          /* "retrying model.safetensors: ...", or NULL */
};
struct hub_download {
    const char *id, *revision; /* revision NULL = "main" */
    int parallel;              /* files at a time; 0 = 4 */
    void (*on_progress)(void *user, const struct hub_progress *p); /* about five times a second */
    void *user;
    volatile bool *stop; /* set by a signal handler: parts stay for the next run */
};
/* Fetches what is missing and returns the snapshot's folder. Offline, or when the Hub cannot be reached, a complete snapshot in
 * the cache is used (and err stays empty); gated and missing models are errors only when nothing is cached. */
int hub_download(const struct hub_settings *s, const struct hub_download *d, char folder[PATH_MAX], struct err *err);

/* The folder of a complete snapshot in the cache; no request. ERR_MISSING says what is absent. */
int hub_cached(const struct hub_settings *s, const char *id, const char *revision, char folder[PATH_MAX], struct err *err);

struct hub_verified {
    int files;     /* whose hash was computed */
    int damaged;   /* of these: wrong or gone */
    int unhashed;  /* without a hash to compare with: plain files instead of links, etags that are no hash */
};
/* Hashes every file of the cached snapshot again, those in its folders too. Damaged files are named and, with repair, removed so that
 * the next download fetches them (a file that cannot be read for another reason than being gone is not removed). Returns 0 when all
 * are right; err names the first that is not. */
int hub_verify(const struct hub_settings *s, const char *id, const char *revision, bool repair, struct hub_verified *out, struct err *err);

/* GET /api/whoami-v2: the account's name; ERR_MISSING when no token is set. */
int hub_whoami(const struct hub_settings *s, char name[128], struct err *err);

#endif
