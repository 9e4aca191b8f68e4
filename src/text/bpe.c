/* Byte-pair merging of one fragment: start with one symbol per byte, repeatedly join the adjacent pair of lowest rank,
 * leftmost among equals, until none is listed (facts §7.3).
 *
 * Three ways, same result: most fragments are a piece of the vocabulary whose own bytes merge to itself (memoised, one
 * search); short ones scan for the lowest rank in an array; long ones (a line of Chinese, a run of a million letters) use a
 * heap over a linked list, n log n. */
#include <stdlib.h>
#include <string.h>

#include "text/vocabulary.h"

enum { SHORT_FRAGMENT = 96 };
#define NO_RANK UINT32_MAX

struct symbol {
    int32_t id, merged; /* merged: what this and the next symbol would become */
    uint32_t rank;      /* of that merge */
};

static void rate(const struct vocabulary *v, struct symbol *s, int32_t next) {
    const struct pair *p = pair_find(v, s->id, next);
    s->rank = p ? p->rank : NO_RANK;
    s->merged = p ? p->merged : -1;
}

/* Merges within s[0..n); returns how many symbols are left. */
static int merge_short(const struct vocabulary *v, const unsigned char *bytes, int n, struct symbol *s) {
    for (int i = 0; i < n; i++) s[i].id = v->byte_ids[bytes[i]];
    for (int i = 0; i + 1 < n; i++) {
        const struct byte_pair *p = &v->byte_pairs[bytes[i] << 8 | bytes[i + 1]];
        s[i].merged = p->merged, s[i].rank = p->rank; /* rank of none: all bits set, NO_RANK */
    }
    s[n - 1].rank = NO_RANK;
    for (;;) {
        uint32_t best = NO_RANK;
        int at = -1;
        for (int i = 0; i + 1 < n; i++)
            if (s[i].rank < best) best = s[i].rank, at = i;
        if (at < 0) return n;
        s[at].id = s[at].merged;
        memmove(&s[at + 1], &s[at + 2], (size_t)(n - at - 2) * sizeof *s);
        n--;
        if (at + 1 < n) rate(v, &s[at], s[at + 1].id);
        else s[at].rank = NO_RANK;
        if (at > 0) rate(v, &s[at - 1], s[at].id);
    }
}

struct link {
    int32_t id; /* -1 once merged into its left neighbour */
    uint32_t previous, next;
};

struct candidate { /* ordered by rank, then position */
    uint64_t key;  /* rank << 32 | position */
    int32_t left, right;
};

struct heap {
    struct candidate *items;
    size_t count;
};

/* The heap never holds more than 3 n items: n - 1 at first, and each of at most n - 1 merges adds two and takes one. */
static void heap_push(struct heap *h, struct candidate c) {
    size_t i = h->count++;
    for (; i && c.key < h->items[(i - 1) / 2].key; i = (i - 1) / 2) h->items[i] = h->items[(i - 1) / 2];
    h->items[i] = c;
}

static struct candidate heap_pop(struct heap *h) {
    struct candidate top = h->items[0], last = h->items[--h->count];
    size_t i = 0;
    for (size_t child; (child = 2 * i + 1) < h->count; i = child) {
        if (child + 1 < h->count && h->items[child + 1].key < h->items[child].key) child++;
        if (last.key <= h->items[child].key) break;
        h->items[i] = h->items[child];
    }
    h->items[i] = last;
    return top;
}

static void offer(const struct vocabulary *v, struct heap *h, const struct link *links, uint32_t at, uint32_t end) {
    uint32_t next = links[at].next;
    if (next >= end) return;
    const struct pair *p = pair_find(v, links[at].id, links[next].id);
    if (p) heap_push(h, (struct candidate){(uint64_t)p->rank << 32 | at, links[at].id, links[next].id});
}

static int merge_long(const struct vocabulary *v, const unsigned char *bytes, size_t n, struct token_list *out) {
    if (n > UINT32_MAX / 4) return ERR_LIMIT;
    uint32_t end = (uint32_t)n;
    struct link *links = malloc(n * sizeof *links);
    struct heap heap = {malloc(3 * n * sizeof *heap.items), 0};
    int code = links && heap.items ? 0 : ERR_MEMORY;
    if (!code) {
        for (uint32_t i = 0; i < end; i++) links[i] = (struct link){v->byte_ids[bytes[i]], i - 1, i + 1};
        for (uint32_t i = 0; i < end; i++) offer(v, &heap, links, i, end);
    }
    while (!code && heap.count) {
        struct candidate c = heap_pop(&heap);
        uint32_t at = (uint32_t)c.key, next = links[at].next;
        /* Stale if either side has been merged since it was offered. */
        if (links[at].id != c.left || next >= end || links[next].id != c.right) continue;
        const struct pair *p = pair_find(v, c.left, c.right);
        if (!p) continue;
        links[at].id = p->merged;
        links[next].id = -1;
        links[at].next = links[next].next;
        if (links[at].next < end) links[links[at].next].previous = at;
        if (at > 0) offer(v, &heap, links, links[at].previous, end);
        offer(v, &heap, links, at, end);
    }
    for (uint32_t i = 0; !code && i < end; i = links[i].next)
        if (token_list_add(out, links[i].id)) code = ERR_MEMORY;
    free(links);
    free(heap.items);
    return code;
}

int bpe_encode(const struct vocabulary *v, const char *bytes, size_t n, struct token_list *out) {
    if (n == 0) return 0;
    const unsigned char *u = (const unsigned char *)bytes;
    if (n == 1) return token_list_add(out, v->byte_ids[u[0]]) ? ERR_MEMORY : 0;
    int32_t id = vocabulary_find(v, bytes, n);
    uint8_t known = 0;
    if (id >= 0) {
        known = v->ignore_merges ? 1 : atomic_load_explicit(&v->whole[id], memory_order_relaxed);
        if (known == 1) return token_list_add(out, id) ? ERR_MEMORY : 0;
    }
    size_t before = out->count;
    if (n <= SHORT_FRAGMENT) {
        struct symbol symbols[SHORT_FRAGMENT];
        int left = merge_short(v, u, (int)n, symbols);
        for (int i = 0; i < left; i++)
            if (token_list_add(out, symbols[i].id)) return ERR_MEMORY;
    } else {
        int code = merge_long(v, u, n, out);
        if (code) return code;
    }
    if (id >= 0 && !known) {
        bool whole = out->count == before + 1 && out->ids[before] == id;
        atomic_store_explicit(&v->whole[id], whole ? 1 : 2, memory_order_relaxed);
    }
    return 0;
}
