/* Opening a folder: configuration, shards, the table of tensors and the identity of the weights.
 *
 * model.safetensors.index.json, where present, names the shards; its weight_map must agree with what the shards hold.
 * The index comes from outside: a shard is a plain file name in the same folder, nothing else, so `..` leads nowhere. */
#include "checkpoint/checkpoint.h"

#define XXH_INLINE_ALL
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "base/json.h"
#include "checkpoint/room.h"

enum { INDEX_LIMIT = 64 << 20, MAX_SHARDS = 4096, SAMPLE = 256 };

void *checkpoint_memory(struct checkpoint *c, size_t bytes) {
    if (c->copy_count == c->copy_cap) {
        size_t cap = c->copy_cap ? c->copy_cap * 2 : 64;
        void **grown = realloc(c->copies, cap * sizeof *grown);
        if (!grown) return NULL;
        c->copies = grown;
        c->copy_cap = cap;
    }
    void *p = NULL;
    if (posix_memalign(&p, 64, bytes ? bytes : 1) != 0) return NULL;
    return c->copies[c->copy_count++] = p;
}

static char *path_in(struct checkpoint *c, const char *name) {
    size_t folder = strlen(c->folder), n = strlen(name);
    char *path = arena_alloc(&c->arena, folder + n + 2);
    if (!path) return NULL;
    memcpy(path, c->folder, folder);
    path[folder] = '/';
    memcpy(path + folder + 1, name, n + 1);
    return path;
}

static int open_file(struct checkpoint *c, const char *name, struct err *err) {
    char *path = path_in(c, name);
    if (!path) return err_set(err, ERR_MEMORY, "%s: out of memory", c->folder);
    int code = safetensors_open(path, &c->files[c->file_count], err);
    if (code == 0) c->file_count++;
    return code;
}

static bool plain_shard_name(const struct json *v) {
    const char *s = json_as_string(v, NULL);
    if (!s || strlen(s) != v->count || v->count < 13 || v->count > 255 || s[0] == '.' || strchr(s, '/')) return false;
    for (const char *p = s; *p; p++)
        if ((unsigned char)*p < 0x20 || *p == 0x7F) return false;
    return strcmp(s + v->count - 12, ".safetensors") == 0;
}

static int by_text(const void *a, const void *b) { return strcmp(*(const char *const *)a, *(const char *const *)b); }

/* Opens each shard that weight_map names, once, in the order of their names. */
static int open_shards(struct checkpoint *c, const struct json *map, const char *path, struct err *err) {
    const char **names = arena_array(&c->arena, map->count + 1, sizeof *names);
    if (!names) return err_set(err, ERR_MEMORY, "%s: out of memory", path);
    for (uint32_t i = 0; i < map->count; i++) {
        const struct json_member *m = &map->members[i];
        if (!plain_shard_name(m->value))
            return err_set(
                err, ERR_FORMAT,
                "%s: weight_map: %.200s: expected the plain name of a .safetensors file in this folder, found %s%.200s%s", path,
                m->key, m->value->type == JSON_STRING ? "\"" : "another type", json_as_string(m->value, ""),
                m->value->type == JSON_STRING ? "\"" : "");
        names[i] = m->value->string;
    }
    qsort(names, map->count, sizeof *names, by_text);
    size_t count = 0;
    for (uint32_t i = 0; i < map->count; i++)
        if (!count || strcmp(names[count - 1], names[i]) != 0) names[count++] = names[i];
    if (count == 0 || count > MAX_SHARDS)
        return err_set(err, ERR_FORMAT, "%s: weight_map: expected 1 to %d shards, found %zu", path, MAX_SHARDS, count);
    c->files = calloc(count, sizeof *c->files);
    if (!c->files) return err_set(err, ERR_MEMORY, "%s: out of memory", path);
    for (size_t i = 0; i < count; i++) {
        int code = open_file(c, names[i], err);
        if (code) return err_context(err, "%s: weight_map", path);
    }
    return 0;
}

static int by_name(const void *a, const void *b) {
    return strcmp((*(const struct tensor *const *)a)->name, (*(const struct tensor *const *)b)->name);
}

static int build_table(struct checkpoint *c, struct err *err) {
    size_t count = 0;
    for (size_t f = 0; f < c->file_count; f++) count += c->files[f].count;
    c->tensors = arena_array(&c->arena, count + 1, sizeof *c->tensors);
    if (!c->tensors) return err_set(err, ERR_MEMORY, "%s: out of memory for %zu tensors", c->folder, count);
    for (size_t f = 0; f < c->file_count; f++)
        for (size_t i = 0; i < c->files[f].count; i++) c->tensors[c->tensor_count++] = &c->files[f].tensors[i];
    qsort(c->tensors, count, sizeof *c->tensors, by_name);
    for (size_t i = 1; i < count; i++)
        if (strcmp(c->tensors[i - 1]->name, c->tensors[i]->name) == 0)
            return err_set(err, ERR_FORMAT, "%s: tensor %.200s: expected in one shard, found in %s too", c->tensors[i - 1]->file,
                           c->tensors[i]->name, c->tensors[i]->file);
    return 0;
}

/* Each name of the index must be in the shard it names. Tensors that the index does not list are allowed: they are read
 * by transformers too, which loads whole shards. */
static int check_index(struct checkpoint *c, const struct json *map, const char *path, struct err *err) {
    for (uint32_t i = 0; i < map->count; i++) {
        const struct json_member *m = &map->members[i];
        const struct tensor *t = strlen(m->key) == m->key_len ? checkpoint_find(c, m->key) : NULL;
        const char *found = t ? strrchr(t->file, '/') + 1 : "none";
        if (strcmp(found, m->value->string) != 0)
            return err_set(err, ERR_FORMAT, "%s: weight_map: %.200s: expected the tensor in %s, found it in %s", path, m->key,
                           m->value->string, found);
    }
    return 0;
}

static int open_weights(struct checkpoint *c, struct err *err) {
    char *index = path_in(c, "model.safetensors.index.json"), *single = path_in(c, "model.safetensors");
    if (!index || !single) return err_set(err, ERR_MEMORY, "%s: out of memory", c->folder);
    if (!file_exists(index)) {
        if (!file_exists(single))
            return err_set(err, ERR_MISSING, "%s: expected model.safetensors or model.safetensors.index.json, found neither",
                           c->folder);
        c->files = calloc(1, sizeof *c->files);
        if (!c->files) return err_set(err, ERR_MEMORY, "%s: out of memory", c->folder);
        int code = open_file(c, "model.safetensors", err);
        return code ? code : build_table(c, err);
    }
    struct arena arena = {0};
    struct err local = {0};
    err = err ? err : &local;
    const struct json *root = json_parse_file(index, INDEX_LIMIT, &arena, err), *map = json_get(root, "weight_map");
    int code = root ? 0 : err->code;
    if (root && (!map || map->type != JSON_OBJECT))
        code = err_set(err, ERR_FORMAT, "%s: weight_map: expected an object of tensor names and file names, found %s", index,
                       map ? "another type" : "nothing");
    if (!code) code = open_shards(c, map, index, err);
    if (!code) code = build_table(c, err);
    if (!code) code = check_index(c, map, index, err);
    arena_free(&arena);
    return code;
}

static void add_file(XXH3_state_t *h, const struct checkpoint *c, const char *name) {
    char path[PATH_MAX];
    snprintf(path, sizeof path, "%s/%s", c->folder, name);
    struct buf text = {0};
    if (file_exists(path) && file_read(path, INDEX_LIMIT, &text, NULL) == 0 && text.len)
        XXH3_128bits_update(h, text.data, text.len);
    XXH3_128bits_update(h, "\xFF", 1); /* ends the file: two contents cannot run into each other */
    buf_free(&text);
}

/* config.json and the two preprocessor files decide what the weights mean, so they belong to the identity. Of each
 * tensor the head, middle and tail are sampled: fine-tuned weights differ there, and 3 pages a tensor are read. */
static void compute_identity(struct checkpoint *c) {
    XXH3_state_t *h = XXH3_createState();
    if (!h) return;
    XXH3_128bits_reset(h);
    add_file(h, c, "config.json");
    add_file(h, c, "preprocessor_config.json");
    add_file(h, c, "video_preprocessor_config.json");
    for (size_t i = 0; i < c->tensor_count; i++) {
        const struct tensor *t = c->tensors[i];
        XXH3_128bits_update(h, t->name, strlen(t->name) + 1);
        XXH3_128bits_update(h, dtype_name(t->dtype), strlen(dtype_name(t->dtype)) + 1);
        XXH3_128bits_update(h, &t->rank, sizeof t->rank);
        XXH3_128bits_update(h, t->shape, sizeof t->shape);
        XXH3_128bits_update(h, &t->bytes, sizeof t->bytes);
        size_t starts[] = {0, t->bytes / 2, t->bytes > SAMPLE ? t->bytes - SAMPLE : 0};
        for (int s = 0; s < 3; s++) {
            size_t n = t->bytes - starts[s] < SAMPLE ? t->bytes - starts[s] : SAMPLE;
            if (n) XXH3_128bits_update(h, (const char *)t->data + starts[s], n);
        }
    }
    XXH128_canonicalFromHash((XXH128_canonical_t *)c->identity, XXH3_128bits_digest(h));
    XXH3_freeState(h);
}

int checkpoint_open(const char *folder, struct checkpoint **out, struct err *err) {
    *out = NULL;
    struct checkpoint *c = calloc(1, sizeof *c);
    if (!c || !(c->folder = strdup(folder))) {
        free(c);
        return err_set(err, ERR_MEMORY, "%s: out of memory", folder);
    }
    for (size_t n = strlen(c->folder); n > 1 && c->folder[n - 1] == '/'; n--) c->folder[n - 1] = 0;
    int code = config_read(c->folder, &c->config, err);
    if (!code) code = open_weights(c, err);
    if (code) {
        checkpoint_close(c);
        return code;
    }
    compute_identity(c);
    *out = c;
    return 0;
}

void checkpoint_close(struct checkpoint *c) {
    if (!c) return;
    for (size_t i = 0; i < c->copy_count; i++) free(c->copies[i]);
    free(c->copies);
    for (size_t i = 0; i < c->file_count; i++) safetensors_close(&c->files[i]);
    free(c->files);
    arena_free(&c->arena);
    free(c->folder);
    free(c);
}

const struct model_config *checkpoint_config(const struct checkpoint *c) { return &c->config; }
const char *checkpoint_folder(const struct checkpoint *c) { return c->folder; }
void checkpoint_identity(const struct checkpoint *c, uint8_t out[16]) { memcpy(out, c->identity, 16); }
size_t checkpoint_tensor_count(const struct checkpoint *c) { return c->tensor_count; }
const struct tensor *checkpoint_tensor_at(const struct checkpoint *c, size_t i) {
    return i < c->tensor_count ? c->tensors[i] : NULL;
}

const struct tensor *checkpoint_find(const struct checkpoint *c, const char *name) {
    size_t low = 0, high = c->tensor_count;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        int order = strcmp(name, c->tensors[middle]->name);
        if (order == 0) return c->tensors[middle];
        if (order < 0) high = middle;
        else low = middle + 1;
    }
    return NULL;
}
