#include <stdlib.h>
#include <string.h>

#include "record/run.h"

int token_chain_common(const struct token_chain *c, const int32_t *ids, int count) {
    int n = 0;
    while (n < count && n < c->count && ids[n] == c->ids[n]) n++;
    return n;
}

static bool reserve(struct token_chain *c, int count) {
    if (count <= c->capacity) return true;
    int32_t *more = realloc(c->ids, (size_t)count * 2 * sizeof *more);
    if (!more) return false;
    c->ids = more;
    c->capacity = count * 2;
    return true;
}

void token_chain_set(struct token_chain *c, const int32_t *prompt, int prompt_count, const int32_t *answer, int answer_count) {
    bool inside = prompt && c->ids && prompt >= c->ids && prompt < c->ids + c->capacity; /* then it is where it belongs */
    prompt_count = prompt ? prompt_count : 0;
    answer_count = answer ? answer_count : 0;
    c->count = 0;
    if (!reserve(c, prompt_count + answer_count + 1)) return;
    if (prompt_count && !inside) memcpy(c->ids, prompt, (size_t)prompt_count * sizeof *prompt);
    if (answer_count) memcpy(c->ids + prompt_count, answer, (size_t)answer_count * sizeof *answer);
    c->count = prompt_count + answer_count;
}

/* Appends an array of ids behind the first `from`. */
static bool append(struct token_chain *c, int from, const struct json *ids) {
    c->count = from;
    if (!ids || ids->type != JSON_ARRAY) return true;
    if (ids->count > 1 << 24 || !reserve(c, from + (int)ids->count + 1)) return false;
    for (uint32_t i = 0; i < ids->count; i++) c->ids[c->count++] = (int32_t)json_as_integer(ids->items[i], 0);
    return true;
}

const int32_t *token_chain_line(struct token_chain *c, const struct json *line, int *count) {
    const struct json *prompt = json_get(line, "prompt_tokens");
    int64_t from = json_as_integer(json_get(line, "prompt_from"), 0);
    bool fits = prompt && prompt->type == JSON_ARRAY && from >= 0 && from <= c->count && append(c, (int)from, prompt);
    *count = fits ? c->count : 0;
    if (!fits || !append(c, *count, json_get(line, "answer_tokens"))) c->count = 0;
    return fits && c->count ? c->ids : NULL;
}

void token_chain_free(struct token_chain *c) {
    free(c->ids);
    *c = (struct token_chain){0};
}
