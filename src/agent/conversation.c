#include "agent/conversation.h"

#include <stdlib.h>
#include <string.h>
#define XXH_INLINE_ALL
#include <xxhash.h>

void conversation_begin(struct conversation *c, int limit) {
    conversation_forget(c);
    c->limit = limit < 0 ? 0 : limit > HISTORY_MAX ? HISTORY_MAX : limit;
}

static void exchange_free(struct exchange *e) {
    free(e->text);
    free(e->rgb);
    free(e->reply);
    free(e->reply_tokens);
    free(e->wire);
    *e = (struct exchange){0};
}

static void drop_oldest(struct conversation *c, int count) {
    for (int i = 0; i < count; i++) exchange_free(&c->list[i]);
    c->count -= count;
    c->first += count;
    memmove(c->list, c->list + count, (size_t)c->count * sizeof *c->list);
}

void conversation_forget(struct conversation *c) {
    drop_oldest(c, c->count);
    c->told_count = 0;
}

void conversation_make_room(struct conversation *c) {
    if (!c->limit || c->count < c->limit) return;
    int drop = c->count - c->limit / 4;
    while (drop > 0 && c->list[drop].again) drop--;
    if (!drop) drop = c->count; /* one decision without end */
    drop_oldest(c, drop);
}

static void *copy(const void *data, size_t n, bool *ok) {
    void *out = data ? malloc(n + 1) : NULL;
    if (out) memcpy(out, data, n), ((char *)out)[n] = 0;
    *ok &= !data || out;
    return out;
}

void conversation_add(struct conversation *c, const struct exchange *e) {
    bool ok = true;
    if (!c->limit) return;
    if (c->count == HISTORY_MAX + 2) conversation_make_room(c);
    struct exchange *to = &c->list[c->count];
    *to = *e;
    to->wire = NULL;
    to->text = copy(e->text, strlen(e->text), &ok);
    to->rgb = copy(e->rgb, (size_t)e->width * (size_t)e->height * 3, &ok);
    to->reply = copy(e->reply, strlen(e->reply), &ok);
    to->reply_tokens = copy(e->reply_tokens, (size_t)e->reply_token_count * sizeof *e->reply_tokens, &ok);
    c->count++;
    if (!ok) conversation_forget(c);
}

static struct told_line *told(const struct conversation *c, uint64_t key) {
    for (int i = 0; i < c->told_count; i++) {
        if (c->told[i].key == key) return (struct told_line *)&c->told[i];
    }
    return NULL;
}

/* The exchange that said it is still there (and the turn being written is not one yet). */
static bool stands(const struct conversation *c, const struct told_line *t) { return t && t->exchange >= c->first && t->exchange < c->first + c->count; }

bool conversation_knows(const struct conversation *c, uint64_t key) { return c && c->limit && stands(c, told(c, key)); }

bool conversation_tells(struct conversation *c, uint64_t key, const char *text, size_t n) {
    if (!c || !c->limit) return true;
    uint64_t hash = XXH3_64bits(text, n);
    struct told_line *t = told(c, key);
    if (stands(c, t) && t->text == hash) return false;
    for (int i = 0; !t && i < c->told_count; i++) { /* in place of one that nobody remembers */
        if (!stands(c, &c->told[i]) && c->told[i].exchange < c->first) t = &c->told[i];
    }
    if (!t && c->told_count < TOLD_LINES) t = &c->told[c->told_count++];
    if (t) *t = (struct told_line){key, hash, c->first + c->count}; /* without room it is said every time */
    return true;
}

void conversation_place(struct conversation *c, int floor) {
    if (floor == c->place) return;
    c->place = floor;
    c->told_count = 0;
}
