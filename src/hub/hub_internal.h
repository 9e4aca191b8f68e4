/* What the files of the hub room share. */
#ifndef HUB_INTERNAL_H
#define HUB_INTERNAL_H

#include <curl/curl.h>

#include "base/buf.h"
#include "hub/hub.h"

/* ---- answers (hub_http.c) ---- */

/* The headers we read of one answer. */
struct hub_answer {
    long status;
    char etag[129], linked_etag[129], commit[65], error_code[64], error_message[256], location[4096], link_next[2048];
    int64_t length, linked_size, range_total; /* -1 = absent; range_total: after the slash of Content-Range */
    int retry_after_s;                        /* -1 = absent */
};
void hub_answer_clear(struct hub_answer *a);

/* A handle with our defaults: no automatic redirects, timeouts, the environment's proxies; answer is filled as headers come. */
CURL *hub_curl_new(const struct hub_settings *s, const char *url, struct hub_answer *answer);
/* Adds the token iff url has the endpoint's scheme, host and port. The list must live as long as the transfer. */
struct curl_slist *hub_auth_headers(const struct hub_settings *s, const char *url, struct curl_slist *list, bool *failed);
/* One whole GET with redirects followed by hand (the token only to the endpoint's own host); at most limit bytes. */
int hub_get(const struct hub_settings *s, const char *url, size_t limit, struct buf *body, struct hub_answer *answer, struct err *err);
/* The sentence with advice for a refusal. what: the model id or URL. */
int hub_refusal(const struct hub_settings *s, const struct hub_answer *a, const char *what, struct err *err);
/* Resolves a Location header against the URL it came from. */
int hub_resolve_url(const char *base, const char *location, char out[4096]);
bool hub_same_origin(const char *a, const char *b);
void hub_quote(struct buf *out, const char *text, bool keep_slash);

/* ---- cache (hub_cache.c) ---- */

int hub_repo_folder(const struct hub_settings *s, const char *id, char out[PATH_MAX], struct err *err);
bool hub_path_safe(const char *path); /* relative, no "..", no empty part, no control characters */
bool hub_is_hex(const char *s, size_t n);
int hub_blob_path(const char *repo, const char *etag, char out[PATH_MAX]);
bool hub_blob_complete(const char *repo, const char *etag, int64_t bytes);
/* snapshots/<commit>/<path> -> ../../blobs/<etag>; replaces a wrong link. */
int hub_publish(const char *repo, const char *commit, const char *path, const char *etag, struct err *err);
int hub_write_ref(const char *repo, const char *revision, const char *commit, struct err *err);
/* sha256 or git blob sha1 of a file against its etag. 0 equal, 1 different, negative error. */
int hub_hash_check(const char *file, const char *etag, struct err *err);
/* Advisory lock; waits until it is free or *stop. fd, or negative. */
int hub_lock(const struct hub_settings *s, const char *id, const char *etag, bool wait, volatile bool *stop, struct err *err);
void hub_unlock(int fd);

#endif
