/* The automaton: what one byte does to a configuration.
 *
 * The innermost frame either takes the byte, or is complete and lets the frame around it take it, or neither. Meaning of a
 * frame's fields:
 *   LITERALS  step: bytes matched; [a, b): the texts that begin with them
 *   STRING    step: see enum string_step; a: characters so far; b: UTF-8 bounds and rest, or hex digit, of the character in work
 *   INTEGER   step: 0 nothing, 1 sign, 2 digits; a: magnitude so far; b: 1 when negative
 *   NUMBER    step: 0 nothing, 1 sign, 2 a zero, 3 integer digits, 4 point, 5 fraction; a: digits of that part
 *   OBJECT    step: which text; a: bytes of it matched; the value after text i is a frame of its own, above
 *   ARRAY     step: see enum array_step; a: items so far
 * Every value has one spelling: strings escape only what must be, integers have no leading zeros and no "-0". */
#include <stdlib.h>
#include <string.h>

#define XXH_INLINE_ALL
#include <xxhash.h>

#include "text/grammar.h"

enum string_step { STRING_START, STRING_INSIDE, STRING_UTF8, STRING_ESCAPE, STRING_U1, STRING_U2, STRING_U3, STRING_U4 };
enum array_step { ARRAY_START, ARRAY_EMPTY, ARRAY_ITEM, ARRAY_AFTER };
enum outcome { REFUSED, TAKEN, COMPLETE, LET_PARENT };

/* ---- sets --------------------------------------------------------------------------------------------------------------- */

static bool same(const struct config *x, const struct config *y) {
    return x->depth == y->depth && memcmp(x->frames, y->frames, x->depth * sizeof *x->frames) == 0;
}

void set_add(struct config_set *set, const struct config *c) {
    for (uint32_t i = 0; i < set->count; i++)
        if (same(&set->items[i], c)) return;
    if (set->count == set->cap) {
        uint32_t cap = set->cap ? set->cap * 2 : 2;
        struct config *grown = realloc(set->items, cap * sizeof *grown);
        if (!grown) {
            set->failed = true;
            return;
        }
        set->items = grown;
        set->cap = cap;
    }
    struct config *to = &set->items[set->count++];
    to->depth = c->depth;
    memcpy(to->frames, c->frames, c->depth * sizeof *c->frames);
}

void set_free(struct config_set *set) {
    free(set->items);
    *set = (struct config_set){0};
}

/* ---- entering and leaving values ---------------------------------------------------------------------------------------- */

/* Pushes a frame for node onto a copy of c; anyOf makes one configuration for each branch. Nesting is bounded by the schema's. */
static void enter(const struct grammar *g, struct config *c, uint32_t node, struct config_set *out) {
    const struct node *n = &g->nodes[node];
    if (n->kind == NODE_ANY) {
        for (uint32_t i = 0; i < n->count; i++) enter(g, c, n->children[i], out);
        return;
    }
    c->frames[c->depth++] = (struct frame){node, 0, 0, n->kind == NODE_LITERALS ? (int64_t)n->count : 0};
    set_add(out, c);
    c->depth--;
}

void grammar_start(const struct grammar *g, struct config_set *set) {
    struct config c = {.depth = 0};
    enter(g, &c, g->root, set);
}

/* The innermost value of c has ended: the one around it goes on. */
static void leave(const struct grammar *g, struct config *c, struct config_set *out) {
    c->depth--;
    if (c->depth) {
        struct frame *f = &c->frames[c->depth - 1];
        if (g->nodes[f->node].kind == NODE_OBJECT) f->step++, f->a = 0;
        else f->step = ARRAY_AFTER, f->a++;
    }
    set_add(out, c);
}

/* ---- bytes -------------------------------------------------------------------------------------------------------------- */

static enum outcome step_literals(const struct node *n, struct frame *f, uint8_t byte) {
    int64_t a = f->a, b = f->b;
    bool complete = n->texts[a].n == f->step; /* the shortest text comes first */
    if (complete) a++;
    while (a < b && (uint8_t)n->texts[a].text[f->step] < byte) a++;
    int64_t end = a;
    while (end < b && (uint8_t)n->texts[end].text[f->step] == byte) end++;
    if (a == end) return complete ? LET_PARENT : REFUSED;
    f->a = a, f->b = end, f->step++;
    return end == a + 1 && n->texts[a].n == f->step ? COMPLETE : TAKEN;
}

/* UTF-8 (Unicode table 3-7): first byte to the bounds of the second and the number of bytes after that. */
static bool begin_utf8(struct frame *f, uint8_t c) {
    if (c < 0xC2 || c > 0xF4) return false;
    int rest = c < 0xE0 ? 0 : c < 0xF0 ? 1 : 2;
    int low = c == 0xE0 ? 0xA0 : c == 0xF0 ? 0x90 : 0x80, high = c == 0xED ? 0x9F : c == 0xF4 ? 0x8F : 0xBF;
    f->b = low | high << 8 | rest << 16;
    f->step = STRING_UTF8;
    return true;
}

static enum outcome character_done(struct frame *f) { return f->step = STRING_INSIDE, f->b = 0, f->a++, TAKEN; }

/* \u00XX only for the control characters that have no short escape. */
static enum outcome step_hex(struct frame *f, uint8_t c) {
    switch (f->step) {
    case STRING_U1:
    case STRING_U2:
        if (c != '0') return REFUSED;
        f->step++;
        return TAKEN;
    case STRING_U3:
        if (c != '0' && c != '1') return REFUSED;
        f->b = c - '0';
        f->step++;
        return TAKEN;
    default:
        if (f->b == 0 && !((c >= '0' && c <= '7') || c == 'b' || c == 'e' || c == 'f')) return REFUSED;
        if (!((c >= '0' && c <= '9') || (c >= 'a' && c <= 'f'))) return REFUSED;
        return character_done(f);
    }
}

static enum outcome step_string(const struct node *n, struct frame *f, uint8_t c) {
    switch (f->step) {
    case STRING_START:
        if (c != '"') return REFUSED;
        f->step = STRING_INSIDE;
        return TAKEN;
    case STRING_INSIDE:
        if (c == '"') return f->a >= n->low ? COMPLETE : REFUSED;
        if (f->a >= n->high || c < 0x20) return REFUSED;
        if (c == '\\') return f->step = STRING_ESCAPE, TAKEN;
        if (c >= 0x80) return begin_utf8(f, c) ? TAKEN : REFUSED;
        return character_done(f);
    case STRING_UTF8:
        if (c < (f->b & 0xFF) || c > (f->b >> 8 & 0xFF)) return REFUSED;
        if (f->b >> 16 == 0) return character_done(f);
        f->b = 0x80 | 0xBF << 8 | ((f->b >> 16) - 1) << 16;
        return TAKEN;
    case STRING_ESCAPE:
        if (c == 'u') return f->step = STRING_U1, TAKEN;
        return c && strchr("\"\\nrtbf", c) ? character_done(f) : REFUSED;
    default: return step_hex(f, c);
    }
}

/* Whether magnitude m, as it is or with more digits, can be one of low..high (0 <= low). */
static bool can_reach(int64_t m, int64_t low, int64_t high) {
    if (m > high || (m == 0 && low > 0)) return false;
    for (int64_t first = m, last = m;; first *= 10, last = last * 10 + 9) { /* high < 2^53: no overflow before first > high */
        if (first > high) return false;
        if (last >= low) return true;
        if (m == 0) return false; /* no digits after a leading zero */
    }
}

static void magnitudes(const struct node *n, bool negative, int64_t *low, int64_t *high) {
    *low = negative ? (n->high < 0 ? -n->high : 1) : (n->low > 0 ? n->low : 0);
    *high = negative ? -n->low : n->high;
}

static enum outcome step_integer(const struct node *n, struct frame *f, uint8_t c) {
    int64_t low, high;
    bool digit = c >= '0' && c <= '9';
    if (f->step == 0 && c == '-') {
        magnitudes(n, true, &low, &high);
        if (low > high) return REFUSED;
        return f->step = 1, f->b = 1, TAKEN;
    }
    magnitudes(n, f->b != 0, &low, &high);
    if (f->step < 2) {
        if (!digit || (f->b && c == '0') || !can_reach(c - '0', low, high)) return REFUSED;
        return f->a = c - '0', f->step = 2, TAKEN;
    }
    if (digit && f->a != 0 && can_reach(f->a * 10 + (c - '0'), low, high)) return f->a = f->a * 10 + (c - '0'), TAKEN;
    return !digit && f->a >= low && f->a <= high ? LET_PARENT : REFUSED;
}

enum { NUMBER_DIGITS = 15 };

static enum outcome step_number(struct frame *f, uint8_t c) {
    bool digit = c >= '0' && c <= '9';
    if (f->step == 0 && c == '-') return f->step = 1, TAKEN;
    if (f->step < 2) return digit ? (f->step = c == '0' ? 2 : 3, f->a = 1, TAKEN) : REFUSED;
    if (c == '.' && f->step <= 3) return f->step = 4, f->a = 0, TAKEN;
    if (f->step == 4) return digit ? (f->step = 5, f->a = 1, TAKEN) : REFUSED;
    if (digit && f->step != 2 && f->a < NUMBER_DIGITS) return f->a++, TAKEN;
    return digit ? REFUSED : LET_PARENT;
}

void config_step(const struct grammar *g, const struct config *from, uint8_t byte, struct config_set *out) {
    if (from->depth == 0) return;
    struct config c;
    c.depth = from->depth;
    memcpy(c.frames, from->frames, from->depth * sizeof *from->frames);
    for (;;) { /* once more for each frame that lets its parent take the byte: a number can be the last item of nothing else */
        struct frame *f = &c.frames[c.depth - 1];
        const struct node *n = &g->nodes[f->node];
        enum outcome outcome = REFUSED;
        switch (n->kind) {
        case NODE_LITERALS: outcome = step_literals(n, f, byte); break;
        case NODE_STRING: outcome = step_string(n, f, byte); break;
        case NODE_INTEGER: outcome = step_integer(n, f, byte); break;
        case NODE_NUMBER: outcome = step_number(f, byte); break;
        case NODE_OBJECT: {
            const struct text_slice *text = &n->texts[f->step];
            if ((uint8_t)text->text[f->a] != byte) return;
            f->a++;
            if (f->a < text->n) outcome = TAKEN;
            else if (f->step == n->count) outcome = COMPLETE;
            else return enter(g, &c, n->children[f->step], out);
            break;
        }
        case NODE_ARRAY:
            if (f->step == ARRAY_START && byte == '[') {
                if (n->low == 0) f->step = ARRAY_EMPTY, set_add(out, &c);
                if (n->high > 0) f->step = ARRAY_ITEM, enter(g, &c, n->children[0], out);
                return;
            }
            if (f->step == ARRAY_AFTER && byte == ',' && f->a < n->high)
                return f->step = ARRAY_ITEM, enter(g, &c, n->children[0], out);
            if (byte == ']' && (f->step == ARRAY_EMPTY || (f->step == ARRAY_AFTER && f->a >= n->low))) outcome = COMPLETE;
            break;
        case NODE_ANY: break; /* never on the stack */
        }
        if (outcome == TAKEN) set_add(out, &c);
        if (outcome == COMPLETE) leave(g, &c, out);
        if (outcome != LET_PARENT) return;
        /* The value is complete without this byte: its parent is asked, in the state after the value. */
        c.depth--;
        if (c.depth == 0) return;
        f = &c.frames[c.depth - 1];
        if (g->nodes[f->node].kind == NODE_OBJECT) f->step++, f->a = 0;
        else f->step = ARRAY_AFTER, f->a++;
    }
}

bool config_may_end(const struct grammar *g, const struct config *c) {
    if (c->depth != 1) return c->depth == 0;
    const struct frame *f = &c->frames[0];
    const struct node *n = &g->nodes[f->node];
    int64_t low, high;
    switch (n->kind) {
    case NODE_LITERALS: return n->texts[f->a].n == f->step;
    case NODE_INTEGER: magnitudes(n, f->b != 0, &low, &high); return f->step == 2 && f->a >= low && f->a <= high;
    case NODE_NUMBER: return f->step == 2 || f->step == 3 || f->step == 5;
    default: return false;
    }
}

int64_t config_string_room(const struct grammar *g, const struct config *c) {
    if (c->depth == 0) return -1;
    const struct frame *f = &c->frames[c->depth - 1];
    const struct node *n = &g->nodes[f->node];
    if (n->kind != NODE_STRING || f->step != STRING_INSIDE) return -1;
    return n->high == INT64_MAX ? INT64_MAX : n->high - f->a;
}

/* Counters matter only as far as one token can move them. */
static int64_t clamp(int64_t v, int64_t most) { return v < 0 ? 0 : v > most ? most : v; }

void config_key(const struct grammar *g, const struct config *c, uint64_t key[2]) {
    struct {
        struct frame frames[GRAMMAR_MAX_DEPTH + 1];
        uint32_t depth, unused;
    } k;
    memset(&k, 0, sizeof k);
    int64_t longest = g->trie->longest + 1;
    k.depth = c->depth;
    for (uint32_t i = 0; i < c->depth; i++) {
        struct frame f = c->frames[i];
        const struct node *n = &g->nodes[f.node];
        if (n->kind == NODE_STRING || n->kind == NODE_ARRAY) {
            int64_t need = clamp(n->low - f.a, longest), room = n->high == INT64_MAX ? longest : clamp(n->high - f.a, longest);
            f.a = need << 32 | room;
        }
        k.frames[i] = f;
    }
    XXH128_hash_t h = XXH3_128bits(&k, sizeof k);
    key[0] = h.low64, key[1] = h.high64;
}
