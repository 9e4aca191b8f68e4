/* Cutting text into fragments with the patterns of tokenizer.json, run by PCRE2's just-in-time compiler.
 *
 * The patterns are written for Oniguruma. The dialects agree on what such patterns use, except for \s: PCRE2 counts U+180E as
 * a space, Unicode does not; so \s and \S are spelled out. Matching never sees beyond the piece of text it is given, as in
 * Hugging Face's tokenizers: look-ahead ends at an added token. */
#include <stdlib.h>
#include <string.h>

#include "text/parts.h"

#define SPACE "\\t-\\r\\x{85}\\p{Z}"

/* Rewrites \s and \S; a \S inside a class has no such spelling and stays. */
static void translate(const char *regex, size_t n, struct buf *out) {
    int in_class = 0;
    for (size_t i = 0; i < n; i++) {
        char c = regex[i];
        if (c == '\\' && i + 1 < n) {
            char next = regex[++i];
            if (next == 's') buf_str(out, in_class ? SPACE : "[" SPACE "]");
            else if (next == 'S' && !in_class) buf_str(out, "[^" SPACE "]");
            else buf_char(out, c), buf_char(out, next);
            continue;
        }
        if (c == '[' && !in_class) in_class = 1;
        else if (c == ']') in_class = 0;
        buf_char(out, c);
    }
}

int split_add(struct tokenizer *t, const char *regex, size_t n, const char *path, struct err *err) {
    if (t->split_count == MAX_SPLITS)
        return err_set(err, ERR_FORMAT, "%s: pre_tokenizer: expected at most %d splits, found more", path, MAX_SPLITS);
    struct buf pattern = {0};
    translate(regex, n, &pattern);
    if (pattern.failed || !pattern.data) {
        buf_free(&pattern);
        return err_set(err, ERR_FORMAT, "%s: pre_tokenizer: expected a pattern, found an empty one", path);
    }
    int number;
    PCRE2_SIZE offset;
    pcre2_code *code = pcre2_compile((PCRE2_SPTR)pattern.data, pattern.len, PCRE2_UTF | PCRE2_UCP, &number, &offset, NULL);
    buf_free(&pattern);
    if (!code) {
        char why[120];
        pcre2_get_error_message(number, (PCRE2_UCHAR *)why, sizeof why);
        return err_set(err, ERR_FORMAT,
                       "%s: pre_tokenizer: expected a regular expression, found one that fails near character %zu: %s", path,
                       (size_t)offset, why);
    }
    pcre2_jit_compile(code, PCRE2_JIT_COMPLETE); /* without it pcre2_match interprets: slower, same result */
    t->splits[t->split_count++] = code;
    return 0;
}

/* Fragments repeat. A long text gets a small direct-mapped memory of those seen, which stays in the processor's second-level
 * cache while the vocabulary's tables do not. */
enum { MEMORY_SLOTS = 4096, MEMORY_LONGEST = 16, MEMORY_IDS = 5, MEMORY_FROM_BYTES = 2048 };

struct seen {
    uint64_t low, high;   /* the bytes */
    uint8_t bytes, count; /* bytes 0: empty */
    int32_t ids[MEMORY_IDS];
};

struct run {
    const struct tokenizer *t;
    struct seen *seen; /* NULL: none */
    pcre2_match_data *match;
    pcre2_match_context *limits;
    struct token_list *out;
    struct err *err;
};

static int find_next(struct run *r, int level, const char *text, size_t n, size_t from) {
    const pcre2_code *code = r->t->splits[level];
    int found = pcre2_jit_match(code, (PCRE2_SPTR)text, n, from, 0, r->match, r->limits);
    if (found == PCRE2_ERROR_JIT_BADOPTION || found == PCRE2_ERROR_JIT_STACKLIMIT)
        found = pcre2_match(code, (PCRE2_SPTR)text, n, from, PCRE2_NO_JIT | PCRE2_NO_UTF_CHECK, r->match, r->limits);
    return found;
}

static int encode_fragment(struct run *r, const char *text, size_t n) {
    if (!r->seen || n > MEMORY_LONGEST) return bpe_encode(&r->t->v, text, n, r->out);
    uint64_t low = n <= 8 ? short_key(text, n) : short_key(text, 8), high = n <= 8 ? 0 : short_key(text + n - 8, 8);
    uint64_t hash = (low ^ high * 0xBF58476D1CE4E5B9u ^ n) * 0x9E3779B97F4A7C15u;
    struct seen *s = &r->seen[hash >> 52];
    if (s->low != low || s->high != high || s->bytes != n) {
        size_t before = r->out->count;
        int code = bpe_encode(&r->t->v, text, n, r->out);
        if (code || r->out->count - before > MEMORY_IDS) return code;
        *s = (struct seen){low, high, (uint8_t)n, (uint8_t)(r->out->count - before), {0}};
        memcpy(s->ids, r->out->ids + before, s->count * sizeof *s->ids);
        return 0;
    }
    for (int i = 0; i < s->count; i++)
        if (token_list_add(r->out, s->ids[i])) return ERR_MEMORY;
    return 0;
}

static int encode_level(struct run *r, int level, const char *text, size_t n) {
    if (n == 0) return 0;
    if (level == r->t->split_count) {
        int code = encode_fragment(r, text, n);
        return code ? err_set(r->err, code, "tokenizer: out of memory for a fragment of %zu bytes", n) : 0;
    }
    size_t at = 0; /* what lies before is encoded */
    for (size_t from = 0; from < n;) {
        int found = find_next(r, level, text, n, from);
        if (found == PCRE2_ERROR_NOMATCH) break;
        if (found < 0)
            return err_set(r->err, ERR_LIMIT, "tokenizer: the split pattern gave up at byte %zu of %zu (PCRE2 error %d)", from, n,
                           found);
        const PCRE2_SIZE *span = pcre2_get_ovector_pointer(r->match);
        size_t begin = span[0], end = span[1];
        if (end <= begin) { /* an empty match cuts nothing */
            for (from = end + 1; from < n && (text[from] & 0xC0) == 0x80;) from++;
            continue;
        }
        int code = encode_level(r, level + 1, text + at, begin - at);
        if (!code) code = encode_level(r, level + 1, text + begin, end - begin);
        if (code) return code;
        at = from = end;
    }
    return encode_level(r, level + 1, text + at, n - at);
}

int split_encode(const struct tokenizer *t, const char *text, size_t n, struct token_list *out, struct err *err) {
    struct run r = {.t = t, .out = out, .err = err};
    if (t->split_count == 0) return encode_level(&r, 0, text, n);
    r.match = pcre2_match_data_create(1, NULL);
    r.limits = pcre2_match_context_create(NULL);
    if (n >= MEMORY_FROM_BYTES) r.seen = calloc(MEMORY_SLOTS, sizeof *r.seen); /* without it: slower, same result */
    int code = ERR_MEMORY;
    if (r.match && r.limits) {
        /* A hostile pattern in a tokenizer.json must not hang the process. */
        uint64_t limit = 1000000 + (uint64_t)n * 16;
        pcre2_set_match_limit(r.limits, limit < UINT32_MAX ? (uint32_t)limit : UINT32_MAX);
        pcre2_set_heap_limit(r.limits, 1 << 20); /* KiB */
        code = encode_level(&r, 0, text, n);
    } else {
        err_set(err, ERR_MEMORY, "tokenizer: out of memory");
    }
    free(r.seen);
    pcre2_match_context_free(r.limits);
    pcre2_match_data_free(r.match);
    return code;
}
