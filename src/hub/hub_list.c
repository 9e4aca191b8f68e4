/* What the Hub has, and what the cache has: listings, complete snapshots, verification, the account. */
#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/file.h"
#include "base/json.h"
#include "hub/hub_internal.h"

enum { LISTING_LIMIT = 32 << 20, MAX_FILES = 10000 };

void hub_listing_free(struct hub_listing *l) {
    for (int i = 0; i < l->count; i++) free(l->files[i].path);
    free(l->files);
    *l = (struct hub_listing){0};
}

bool hub_file_wanted(const char *path) {
    static const char *const endings[] = {".safetensors", ".json", ".jinja", ".txt"};
    if (strchr(path, '/')) return false; /* the models keep everything at the top; folders hold other formats */
    size_t n = strlen(path);
    for (size_t i = 0; i < sizeof endings / sizeof *endings; i++) {
        size_t e = strlen(endings[i]);
        if (n > e && !strcmp(path + n - e, endings[i])) return true;
    }
    return false;
}

static int add_file(struct hub_listing *l, const char *path, const char *etag, int64_t bytes, bool cached) {
    if (l->count >= MAX_FILES) return -1;
    struct hub_file *grown = realloc(l->files, (size_t)(l->count + 1) * sizeof *grown);
    char *copy = strdup(path);
    if (grown) l->files = grown;
    if (!grown || !copy) return free(copy), -1;
    struct hub_file *f = &l->files[l->count++];
    *f = (struct hub_file){.path = copy, .bytes = bytes, .cached = cached};
    snprintf(f->etag, sizeof f->etag, "%s", etag);
    return 0;
}

/* One page of the tree API: [{type, path, size, oid, lfs?: {oid, size}}, ...]. */
static int read_tree_page(const char *repo, const struct buf *body, const char *url, struct hub_listing *out, struct err *err) {
    struct arena arena = {0};
    const struct json *page = json_parse(body->data ? body->data : "", body->len, url, &arena, err);
    int result = page ? 0 : err ? err->code : ERR_FORMAT;
    if (page && page->type != JSON_ARRAY) result = err_set(err, ERR_FORMAT, "%s: expected a JSON array of files", url);
    for (uint32_t i = 0; !result && i < page->count; i++) {
        const struct json *e = page->items[i], *lfs = json_get(e, "lfs");
        if (strcmp(json_as_string(json_get(e, "type"), ""), "file")) continue;
        const char *path = json_as_string(json_get(e, "path"), "");
        const char *oid = json_as_string(json_get(lfs ? lfs : e, "oid"), "");
        int64_t bytes = json_as_integer(json_get(lfs ? lfs : e, "size"), -1);
        if (!hub_path_safe(path)) result = err_set(err, ERR_FORMAT, "%s: entry %u: unsafe file name", url, i);
        else if (!hub_is_hex(oid, 40) && !hub_is_hex(oid, 64)) result = err_set(err, ERR_FORMAT, "%s: %s: 'oid' is no hash", url, path);
        else if (bytes < 0) result = err_set(err, ERR_FORMAT, "%s: %s: 'size' is missing", url, path);
        else if (add_file(out, path, oid, bytes, hub_blob_complete(repo, oid, bytes))) result = err_set(err, ERR_MEMORY, "%s: too many files", url);
    }
    arena_free(&arena);
    return result;
}

int hub_list(const struct hub_settings *s, const char *id, const char *revision, struct hub_listing *out, struct err *err) {
    *out = (struct hub_listing){0};
    char repo[PATH_MAX];
    struct err unwanted = {0};
    if (!err) err = &unwanted;
    if (hub_repo_folder(s, id, repo, err)) return err->code;
    if (s->offline) return err_set(err, ERR_STATE, "%s: HF_HUB_OFFLINE is set: no request was made", id);
    struct buf url = {0}, body = {0};
    struct hub_answer a;
    buf_printf(&url, "%s/api/models/%s/revision/", s->endpoint, id);
    hub_quote(&url, revision, false);
    int result = url.failed ? err_set(err, ERR_MEMORY, "out of memory") : hub_get(s, url.data, LISTING_LIMIT, &body, &a, err);
    if (!result && a.status != 200) result = hub_refusal(s, &a, id, err);
    if (!result) {
        struct arena arena = {0};
        const struct json *info = json_parse(body.data ? body.data : "", body.len, url.data, &arena, err);
        const char *sha = json_as_string(json_get(info, "sha"), "");
        if (!info) result = err ? err->code : ERR_FORMAT;
        else if (!hub_is_hex(sha, 40)) result = err_set(err, ERR_FORMAT, "%s: 'sha' is no commit", url.data);
        else snprintf(out->commit, sizeof out->commit, "%s", sha);
        arena_free(&arena);
    }
    if (!result) {
        buf_clear(&url);
        buf_printf(&url, "%s/api/models/%s/tree/%s?recursive=true&expand=false", s->endpoint, id, out->commit);
        for (int pages = 0; !result; pages++) {
            result = hub_get(s, url.data, LISTING_LIMIT, &body, &a, err);
            if (!result && a.status != 200) result = hub_refusal(s, &a, id, err);
            if (!result) result = read_tree_page(repo, &body, url.data, out, err);
            if (result || !*a.link_next) break;
            char next[4096];
            if (pages > 100 || hub_resolve_url(url.data, a.link_next, next) || !hub_same_origin(next, s->endpoint)) {
                result = err_set(err, ERR_NETWORK, "%s: the listing's next page leads elsewhere or never ends", url.data);
                break;
            }
            buf_clear(&url);
            buf_str(&url, next);
        }
    }
    buf_free(&url), buf_free(&body);
    if (result) hub_listing_free(out);
    return result;
}

int hub_fetch(const struct hub_settings *s, const char *id, const char *revision, const char *path, size_t limit, struct buf *out,
              struct err *err) {
    if (!hub_id_valid(id) || !hub_path_safe(path)) return err_set(err, ERR_ARGUMENT, "'%s': '%s' is no file of a Hub model", id, path);
    if (s->offline) return err_set(err, ERR_STATE, "%s: HF_HUB_OFFLINE is set: no request was made", id);
    struct buf url = {0};
    struct hub_answer a;
    buf_printf(&url, "%s/%s/resolve/", s->endpoint, id);
    hub_quote(&url, revision, false);
    buf_char(&url, '/');
    hub_quote(&url, path, true);
    int result = url.failed ? err_set(err, ERR_MEMORY, "out of memory") : hub_get(s, url.data, limit, out, &a, err);
    if (!result && a.status != 200) result = hub_refusal(s, &a, id, err);
    buf_free(&url);
    return result;
}

static int snapshot_of(const struct hub_settings *s, const char *id, const char *revision, char repo[PATH_MAX], char folder[PATH_MAX],
                       struct err *err) {
    char path[PATH_MAX], commit[64] = "";
    if (!revision) revision = "main";
    if (hub_repo_folder(s, id, repo, err)) return err->code;
    if (hub_is_hex(revision, 40)) {
        snprintf(commit, sizeof commit, "%s", revision);
    } else {
        if (!hub_path_safe(revision)) return err_set(err, ERR_ARGUMENT, "'%s' is no revision", revision);
        struct buf text = {0};
        struct err inner = {0};
        if (snprintf(path, sizeof path, "%s/refs/%s", repo, revision) < PATH_MAX && !file_read(path, 256, &text, &inner)) {
            snprintf(commit, sizeof commit, "%.*s", (int)strcspn(text.data, " \r\n"), text.data);
        }
        buf_free(&text);
        if (!hub_is_hex(commit, 40)) return err_set(err, ERR_MISSING, "%s: revision %s is not in the cache %s", id, revision, s->cache);
    }
    if (snprintf(folder, PATH_MAX, "%s/snapshots/%s", repo, commit) >= PATH_MAX) return err_set(err, ERR_ARGUMENT, "path too long");
    return file_exists(folder) ? 0 : err_set(err, ERR_MISSING, "%s: commit %s is not in the cache %s", id, commit, s->cache);
}

static int need(const char *folder, const char *name, const char *id, struct err *err) {
    char path[PATH_MAX];
    struct stat st;
    if (snprintf(path, sizeof path, "%s/%s", folder, name) < PATH_MAX && !stat(path, &st) && S_ISREG(st.st_mode)) return 0;
    return err_set(err, ERR_MISSING, "%s: the cached snapshot lacks %s (download it again: pmd-agent models download %s)", id, name, id);
}

int hub_cached(const struct hub_settings *s, const char *id, const char *revision, char folder[PATH_MAX], struct err *err) {
    char repo[PATH_MAX], path[PATH_MAX];
    struct err unwanted = {0};
    if (!err) err = &unwanted;
    if (snapshot_of(s, id, revision, repo, folder, err)) return err->code;
    if (need(folder, "config.json", id, err) || need(folder, "tokenizer.json", id, err)) return err->code;
    if (snprintf(path, sizeof path, "%s/model.safetensors.index.json", folder) >= PATH_MAX || !file_exists(path)) {
        return need(folder, "model.safetensors", id, err);
    }
    struct arena arena = {0};
    const struct json *index = json_parse_file(path, 64 << 20, &arena, err), *map = json_get(index, "weight_map");
    int result = !index ? err->code : 0;
    if (!result && (!map || map->type != JSON_OBJECT)) result = err_set(err, ERR_FORMAT, "%s: 'weight_map' is missing", path);
    for (uint32_t i = 0; !result && i < map->count; i++) {
        const char *shard = json_as_string(map->members[i].value, "");
        if (!hub_path_safe(shard)) result = err_set(err, ERR_FORMAT, "%s: unsafe shard name for %s", path, map->members[i].key);
        else if (i == 0 || strcmp(shard, json_as_string(map->members[i - 1].value, ""))) result = need(folder, shard, id, err);
    }
    arena_free(&arena);
    return result;
}

/* One folder of a snapshot: files are links to blobs/<hash>. depth bounds folders that lead in a circle. */
static int verify_folder(const char *repo, const char *folder, bool repair, int depth, struct hub_verified *out, struct err *first) {
    DIR *dir = opendir(folder);
    if (!dir) return err_set(first, ERR_IO, "%s: cannot list: %s", folder, strerror(errno));
    int result = 0;
    for (struct dirent *e; !result && (e = readdir(dir));) {
        char path[PATH_MAX], blob[PATH_MAX], real[PATH_MAX];
        struct stat st;
        if (!strcmp(e->d_name, ".") || !strcmp(e->d_name, "..") || snprintf(path, sizeof path, "%s/%s", folder, e->d_name) >= PATH_MAX) continue;
        if (lstat(path, &st)) continue;
        if (S_ISDIR(st.st_mode)) {
            result = depth ? verify_folder(repo, path, repair, depth - 1, out, first) : 0;
            continue;
        }
        ssize_t n = S_ISLNK(st.st_mode) ? readlink(path, blob, sizeof blob - 1) : 0;
        blob[n > 0 ? n : 0] = 0;
        const char *slash = strrchr(blob, '/'), *etag = slash ? slash + 1 : "";
        bool gone = slash && stat(path, &st) && errno == ENOENT;
        if (!gone && !hub_is_hex(etag, 64) && !hub_is_hex(etag, 40)) {
            out->unhashed++;
            continue;
        }
        struct err one = {0};
        int wrong = gone ? err_set(&one, ERR_MISSING, "%s: its content is gone (%s)", path, blob) : hub_hash_check(path, etag, &one);
        out->files++;
        if (!wrong) continue;
        if (!out->damaged++) *first = one;
        if (repair && (gone || wrong == 1)) {
            if (!hub_blob_path(repo, etag, real)) unlink(real);
            unlink(path);
        }
    }
    closedir(dir);
    return result;
}

int hub_verify(const struct hub_settings *s, const char *id, const char *revision, bool repair, struct hub_verified *out, struct err *err) {
    char repo[PATH_MAX], folder[PATH_MAX];
    struct err first = {0}, unwanted = {0};
    if (!err) err = &unwanted;
    *out = (struct hub_verified){0};
    if (snapshot_of(s, id, revision, repo, folder, err)) return err->code;
    int result = verify_folder(repo, folder, repair, 8, out, &first);
    if (!result && out->damaged) result = ERR_FORMAT;
    if (result) *err = first;
    return result;
}

int hub_whoami(const struct hub_settings *s, char name[128], struct err *err) {
    if (!*s->token) {
        return err_set(err, ERR_MISSING, "no token: set HF_TOKEN, or log in with the Hugging Face tools (public models need none)");
    }
    if (s->offline) return err_set(err, ERR_STATE, "HF_HUB_OFFLINE is set: the token from %s was not checked", s->token_source);
    struct buf url = {0}, body = {0};
    struct hub_answer a;
    buf_printf(&url, "%s/api/whoami-v2", s->endpoint);
    int result = url.failed ? err_set(err, ERR_MEMORY, "out of memory") : hub_get(s, url.data, 1 << 20, &body, &a, err);
    if (!result && a.status == 401) {
        result = err_set(err, ERR_NETWORK, "the Hub refuses the token from %s (HTTP 401): make a new one at %s/settings/tokens", s->token_source, s->endpoint);
    } else if (!result && a.status != 200) {
        result = hub_refusal(s, &a, "token check", err);
    }
    if (!result) {
        struct arena arena = {0};
        const struct json *v = json_parse(body.data ? body.data : "", body.len, url.data, &arena, err);
        snprintf(name, 128, "%s", json_as_string(json_get(v, "name"), ""));
        if (!v) result = err ? err->code : ERR_FORMAT;
        arena_free(&arena);
    }
    buf_free(&url), buf_free(&body);
    return result;
}
