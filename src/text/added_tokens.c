/* Added tokens: exact strings that are cut out of the text before anything else, leftmost-longest as Hugging Face's
 * tokenizers does. Those with "normalized": true are searched in the normalised text, the others in the raw text. */
#include <stdlib.h>
#include <string.h>

#include "text/parts.h"

static int by_first_then_longest(const void *a, const void *b) {
    const struct added_token *x = a, *y = b;
    int order = (unsigned char)x->text[0] - (unsigned char)y->text[0];
    return order ? order : (x->len < y->len) - (x->len > y->len);
}

static int by_text(const void *a, const void *b) {
    return strcmp(((const struct added_token *)a)->text, ((const struct added_token *)b)->text);
}

static void index_set(struct added_set *set) {
    qsort(set->tokens, set->count, sizeof *set->tokens, by_first_then_longest);
    size_t at = 0;
    for (int b = 0; b < 256; b++) {
        set->first[b] = (uint32_t)at;
        while (at < set->count && (unsigned char)set->tokens[at].text[0] == b) at++;
    }
    set->first[256] = (uint32_t)at;
    set->only_byte = -1;
    if (set->count && set->tokens[0].text[0] == set->tokens[set->count - 1].text[0])
        set->only_byte = (unsigned char)set->tokens[0].text[0];
}

static int add_one(struct tokenizer *t, const struct json *entry, uint32_t i, const char *path, struct err *err) {
    const struct json *content = json_get(entry, "content");
    int64_t id = json_as_integer(json_get(entry, "id"), -1);
    if (!content || content->type != JSON_STRING || strlen(content->string) != content->count)
        return err_set(err, ERR_FORMAT, "%s: added_tokens[%u].content: expected a string without NUL, found something else", path,
                       i);
    if (id < 0 || id >= VOCABULARY_MAX_ID)
        return err_set(err, ERR_FORMAT, "%s: added_tokens[%u].id: expected 0 to %d, found %lld", path, i, VOCABULARY_MAX_ID - 1,
                       (long long)id);
    static const char *const flags[] = {"single_word", "lstrip", "rstrip"};
    for (int f = 0; f < 3; f++)
        if (json_as_bool(json_get(entry, flags[f]), false))
            return err_set(err, ERR_FORMAT, "%s: added_tokens[%u].%s: expected false (not supported), found true", path, i,
                           flags[f]);
    if (content->count == 0) return 0; /* Hugging Face ignores empty ones */
    bool special = json_as_bool(json_get(entry, "special"), false);
    uint32_t mark = PIECE_ADDED | (special ? PIECE_SPECIAL : 0);
    if (id < t->v.count && t->v.pieces[id].flags & PIECE_PRESENT) { /* also listed in the vocabulary */
        struct piece *p = &t->v.pieces[id];
        if (p->flags & PIECE_ADDED || p->len != content->count ||
            memcmp(piece_bytes(&t->v, (int32_t)id), content->string, p->len) != 0)
            return err_set(err, ERR_FORMAT, "%s: added_tokens[%u].id: expected a free id, found %lld, which is another token's",
                           path, i, (long long)id);
        p->flags |= mark;
    } else {
        int code = vocabulary_add(&t->v, (int32_t)id, content->string, content->count, mark);
        if (code) return err_set(err, code, "%s: added_tokens[%u]: out of memory or limits", path, i);
    }
    struct added_token token = {content->string, content->count, (int32_t)id};
    t->by_text[t->by_text_count++] = token;
    struct added_set *set = json_as_bool(json_get(entry, "normalized"), !special) && t->nfc ? &t->normalized : &t->raw;
    if (set == &t->normalized) {
        size_t n;
        char *nfc = text_nfc(token.text, token.len, &n);
        token.text = nfc ? arena_string(&t->arena, nfc, n) : NULL;
        token.len = (uint32_t)n;
        free(nfc);
        if (!token.text) return err_set(err, ERR_MEMORY, "%s: out of memory", path);
    }
    set->tokens[set->count++] = token;
    return 0;
}

int added_tokens_read(struct tokenizer *t, const struct json *list, const char *path, struct err *err) {
    if (list && list->type == JSON_NULL) list = NULL;
    if (list && list->type != JSON_ARRAY)
        return err_set(err, ERR_FORMAT, "%s: added_tokens: expected a list, found another type", path);
    size_t count = list ? list->count : 0;
    t->by_text = arena_array(&t->arena, count + 1, sizeof *t->by_text);
    t->raw.tokens = arena_array(&t->arena, count + 1, sizeof *t->raw.tokens);
    t->normalized.tokens = arena_array(&t->arena, count + 1, sizeof *t->normalized.tokens);
    if (!t->by_text || !t->raw.tokens || !t->normalized.tokens) return err_set(err, ERR_MEMORY, "%s: out of memory", path);
    for (uint32_t i = 0; i < count; i++) {
        int code = add_one(t, list->items[i], i, path, err);
        if (code) return code;
    }
    index_set(&t->raw);
    index_set(&t->normalized);
    qsort(t->by_text, t->by_text_count, sizeof *t->by_text, by_text);
    for (size_t i = 1; i < t->by_text_count; i++)
        if (strcmp(t->by_text[i - 1].text, t->by_text[i].text) == 0)
            return err_set(err, ERR_FORMAT, "%s: added_tokens: expected each text once, found \"%.100s\" twice", path,
                           t->by_text[i].text);
    return 0;
}

size_t added_find(const struct added_set *set, const char *text, size_t n, size_t from, const struct added_token **found) {
    *found = NULL;
    if (set->count == 0) return n;
    for (size_t i = from; i < n; i++) {
        if (set->only_byte >= 0) {
            const char *p = memchr(text + i, set->only_byte, n - i);
            if (!p) return n;
            i = (size_t)(p - text);
        }
        unsigned char b = (unsigned char)text[i];
        for (uint32_t k = set->first[b]; k < set->first[b + 1]; k++) {
            const struct added_token *token = &set->tokens[k];
            if (token->len <= n - i && memcmp(text + i, token->text, token->len) == 0) return *found = token, i;
        }
    }
    return n;
}
