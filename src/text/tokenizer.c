/* Encoding and decoding (facts §7.3). See parts.h for what a tokenizer is made of. */
#include "text/tokenizer.h"

#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "text/parts.h"

enum { FILE_LIMIT = 256 << 20 };

int token_list_add(struct token_list *list, int32_t id) {
    if (list->count == list->cap) {
        size_t cap = list->cap ? list->cap * 2 : 64;
        int32_t *ids = realloc(list->ids, cap * sizeof *ids);
        if (!ids) return -1;
        list->ids = ids;
        list->cap = cap;
    }
    list->ids[list->count++] = id;
    return 0;
}

void token_list_free(struct token_list *list) {
    free(list->ids);
    *list = (struct token_list){0};
}

int tokenizer_parse(const char *json, size_t n, const char *path, struct tokenizer **out, struct err *err) {
    *out = NULL;
    struct tokenizer *t = calloc(1, sizeof *t);
    if (!t) return err_set(err, ERR_MEMORY, "%s: out of memory", path);
    t->trie = calloc(1, sizeof *t->trie);
    if (t->trie) pthread_mutex_init(&t->trie->lock, NULL);
    int code = t->trie ? tokenizer_read(t, json, n, path, err) : err_set(err, ERR_MEMORY, "%s: out of memory", path);
    if (code) return tokenizer_close(t), code;
    *out = t;
    return 0;
}

int tokenizer_open(const char *folder, struct tokenizer **out, struct err *err) {
    *out = NULL;
    char path[PATH_MAX];
    int n = snprintf(path, sizeof path, "%s/tokenizer.json", folder);
    if (n < 0 || (size_t)n >= sizeof path) return err_set(err, ERR_ARGUMENT, "model folder: path longer than %d bytes", PATH_MAX);
    struct file_map map;
    int code = file_map_open(path, &map, err);
    if (code) return code;
    if (map.bytes > FILE_LIMIT)
        code = err_set(err, ERR_LIMIT, "%s: expected at most %d bytes, found %zu", path, FILE_LIMIT, map.bytes);
    else code = tokenizer_parse(map.data ? map.data : "", map.bytes, path, out, err);
    file_map_close(&map);
    return code;
}

void tokenizer_close(struct tokenizer *t) {
    if (!t) return;
    for (int i = 0; i < t->split_count; i++) pcre2_code_free(t->splits[i]);
    if (t->trie) {
        token_trie_free(t->trie->trie);
        pthread_mutex_destroy(&t->trie->lock);
        free(t->trie);
    }
    vocabulary_free(&t->v);
    arena_free(&t->arena);
    free(t);
}

/* Text without added tokens, in its normal form. */
static int encode_normal(const struct tokenizer *t, const char *text, size_t n, bool parse_special, struct token_list *out,
                         struct err *err) {
    if (!parse_special || t->normalized.count == 0) return split_encode(t, text, n, out, err);
    for (size_t at = 0; at < n;) {
        const struct added_token *token;
        size_t found = added_find(&t->normalized, text, n, at, &token);
        int code = split_encode(t, text + at, found - at, out, err);
        if (code) return code;
        if (token && token_list_add(out, token->id)) return err_set(err, ERR_MEMORY, "tokenizer: out of memory");
        at = found + (token ? token->len : 0);
    }
    return 0;
}

static int encode_text(const struct tokenizer *t, const char *text, size_t n, bool parse_special, enum text_form form,
                       struct token_list *out, struct err *err) {
    if (n == 0) return 0;
    if (!t->nfc || form == TEXT_NFC) return encode_normal(t, text, n, parse_special, out, err);
    size_t length;
    char *normal = text_nfc(text, n, &length);
    if (!normal) return err_set(err, ERR_MEMORY, "tokenizer: out of memory for the normal form of %zu bytes", n);
    int code = encode_normal(t, normal, length, parse_special, out, err);
    free(normal);
    return code;
}

int tokenizer_encode(const struct tokenizer *t, const char *text, size_t n, bool parse_special, struct token_list *out,
                     struct err *err) {
    enum text_form form;
    size_t valid = text_check(text, n, &form);
    if (valid != n)
        return err_set(err, ERR_ARGUMENT, "text: expected UTF-8, found byte 0x%02x at offset %zu of %zu",
                       (unsigned char)text[valid], valid, n);
    size_t before = out->count;
    int code = 0;
    for (size_t at = 0; at < n && !code;) {
        const struct added_token *token = NULL;
        size_t found = parse_special ? added_find(&t->raw, text, n, at, &token) : n;
        code = encode_text(t, text + at, found - at, parse_special, form, out, err);
        if (!code && token && token_list_add(out, token->id)) code = err_set(err, ERR_MEMORY, "tokenizer: out of memory");
        at = found + (token ? token->len : 0);
    }
    if (code) out->count = before;
    return code;
}

const char *tokenizer_piece(const struct tokenizer *t, int32_t id, size_t *len) {
    if (id < 0 || id >= t->v.count || !(t->v.pieces[id].flags & PIECE_PRESENT)) return *len = 0, NULL;
    *len = t->v.pieces[id].len;
    return piece_bytes(&t->v, id);
}

static bool has_flag(const struct tokenizer *t, int32_t id, uint32_t flag) {
    return id >= 0 && id < t->v.count && t->v.pieces[id].flags & flag;
}
bool tokenizer_is_special(const struct tokenizer *t, int32_t id) { return has_flag(t, id, PIECE_SPECIAL); }
bool tokenizer_is_added(const struct tokenizer *t, int32_t id) { return has_flag(t, id, PIECE_ADDED); }
int32_t tokenizer_vocab(const struct tokenizer *t) { return t->v.count; }

int32_t tokenizer_added_id(const struct tokenizer *t, const char *text) {
    size_t low = 0, high = t->by_text_count;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        int order = strcmp(text, t->by_text[middle].text);
        if (order == 0) return t->by_text[middle].id;
        if (order < 0) high = middle;
        else low = middle + 1;
    }
    return -1;
}

int tokenizer_decode(const struct tokenizer *t, const int32_t *ids, size_t n, bool skip_special, struct buf *out,
                     struct err *err) {
    for (size_t i = 0; i < n; i++) {
        size_t len;
        const char *piece = tokenizer_piece(t, ids[i], &len);
        if (!piece)
            return err_set(err, ERR_ARGUMENT, "token %zu: expected an id below %d that has a token, found %d", i, t->v.count,
                           ids[i]);
        if (!(skip_special && tokenizer_is_special(t, ids[i]))) buf_append(out, piece, len);
    }
    return out->failed ? err_set(err, ERR_MEMORY, "tokenizer: out of memory for %zu tokens", n) : 0;
}
