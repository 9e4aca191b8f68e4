/* tokenizer.json into a tokenizer (facts §7.1).
 *
 * The file has a small part, read as a tree and checked strictly, and two huge members, model.vocab and model.merges, scanned in
 * place: 300,000 strings in some 25 ms. Whatever this reader does not implement is refused by name, since a tokenizer that
 * is nearly right is worse than none. */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "text/json_scan.h"
#include "text/parts.h"

enum { PIECE_LIMIT = 65536 };

struct reading;

/* Where the members of an object lie in the text. A huge one has a reader of its own, called on the spot, so that the file is
 * passed over once. */
struct member {
    const char *name;
    struct json_scan value; /* at == NULL: absent */
    int (*read)(struct reading *r, struct json_scan *s);
};

struct reading {
    struct tokenizer *t;
    const char *path, *start;
    struct err *err;
    char *scratch;                /* 2 * PIECE_LIMIT */
    struct json_scan late_merges; /* a merge list that came before the vocabulary */
    bool vocab_read;
};

static int malformed(const struct reading *r, const struct json_scan *s, const char *where, const char *expected) {
    return err_set(r->err, ERR_FORMAT, "%s: %s: expected %s at byte %td, found something else", r->path, where, expected,
                   s->at - r->start);
}

/* Cuts an object into its members. Unknown ones are checked to be JSON and otherwise ignored; a known one may occur once. */
static int cut_object(struct reading *r, struct json_scan *s, const char *where, struct member *members, int count) {
    if (!scan_char(s, '{')) return malformed(r, s, where, "an object");
    if (scan_char(s, '}')) return 0;
    do {
        char *name = r->scratch;
        size_t n, space;
        bool byte_level;
        if (!scan_piece(s, name, PIECE_LIMIT - 1, &n, &byte_level, false, &space)) return malformed(r, s, where, "a key");
        name[n] = 0;
        if (!scan_char(s, ':')) return malformed(r, s, where, "':'");
        scan_peek(s);
        struct json_scan value = *s;
        struct member *known = NULL;
        for (int i = 0; i < count; i++)
            if (strlen(members[i].name) == n && memcmp(members[i].name, name, n) == 0) known = &members[i];
        if (known && known->value.at)
            return err_set(r->err, ERR_FORMAT, "%s: %s: expected %s once, found it twice", r->path, where, known->name);
        if (known && known->read) {
            known->value = value;
            int code = known->read(r, s);
            if (code) return code;
            continue;
        }
        if (!scan_skip(s) || s->at == value.at) return malformed(r, s, where, "a value");
        value.end = s->at;
        if (known) {
            known->value = value;
            continue;
        }
        struct arena arena = {0};
        bool valid = json_parse(value.at, (size_t)(value.end - value.at), r->path, &arena, r->err) != NULL;
        arena_free(&arena);
        if (!valid) return ERR_FORMAT;
    } while (scan_char(s, ','));
    return scan_char(s, '}') ? 0 : malformed(r, s, where, "',' or '}'");
}

/* A small member as a tree in the tokenizer's arena; *out is NULL when it is absent or null. */
static int tree(const struct reading *r, const struct member *m, const struct json **out) {
    *out = NULL;
    if (!m->value.at) return 0;
    *out = json_parse(m->value.at, (size_t)(m->value.end - m->value.at), r->path, &r->t->arena, r->err);
    if (!*out) return err_context(r->err, "%s (bytes of this member, which starts at %td)", m->name, m->value.at - r->start);
    if ((*out)->type == JSON_NULL) *out = NULL;
    return 0;
}

static int read_vocab(struct reading *r, struct json_scan *s) {
    r->vocab_read = true;
    if (!scan_char(s, '{')) return malformed(r, s, "model.vocab", "an object");
    if (scan_char(s, '}')) return malformed(r, s, "model.vocab", "at least the 256 bytes");
    int code;
    do {
        size_t n, space;
        bool byte_level;
        int32_t id;
        if (!scan_piece(s, r->scratch, PIECE_LIMIT, &n, &byte_level, false, &space))
            return malformed(r, s, "model.vocab", "a string of at most 65536 bytes in UTF-8");
        if (!scan_char(s, ':') || !scan_integer(s, &id) || id >= VOCABULARY_MAX_ID)
            return malformed(r, s, "model.vocab", "':' and an id below 4194304");
        code = vocabulary_add(&r->t->v, id, r->scratch, n, byte_level ? 0 : PIECE_VERBATIM);
        if (code == ERR_FORMAT)
            return err_set(r->err, code, "%s: model.vocab: expected unique ids, found %" PRId32 " a second time before byte %td",
                           r->path, id, s->at - r->start);
        if (code) return err_set(r->err, code, "%s: model.vocab: out of memory at id %" PRId32, r->path, id);
    } while (scan_char(s, ','));
    if (!scan_char(s, '}')) return malformed(r, s, "model.vocab", "',' or '}'");
    int32_t twice = -1;
    code = vocabulary_index(&r->t->v, &twice);
    if (code == ERR_FORMAT)
        return err_set(r->err, code, "%s: model.vocab: expected unique pieces, found that of id %" PRId32 " twice", r->path,
                       twice);
    return code ? err_set(r->err, code, "%s: out of memory", r->path) : 0;
}

/* "a b" or ["a", "b"]: the bytes of both in scratch, *middle bytes belong to a. */
static bool read_pair(struct json_scan *s, char *scratch, size_t *middle, size_t *n) {
    bool byte_level;
    if (scan_peek(s) == '"')
        return scan_piece(s, scratch, 2 * PIECE_LIMIT, n, &byte_level, true, middle) && byte_level && *middle != SIZE_MAX;
    size_t space, right;
    if (!scan_char(s, '[') || !scan_piece(s, scratch, PIECE_LIMIT, middle, &byte_level, false, &space) || !byte_level)
        return false;
    if (!scan_char(s, ',') || !scan_piece(s, scratch + *middle, PIECE_LIMIT, &right, &byte_level, false, &space) || !byte_level)
        return false;
    *n = *middle + right;
    return scan_char(s, ']');
}

/* Files list merges in the order of their results' ids: looking at that id first saves most searches. */
static int32_t result_of_merge(const struct vocabulary *v, const char *bytes, size_t n, int32_t guess) {
    if (guess < v->count && v->pieces[guess].flags == PIECE_PRESENT && v->pieces[guess].len == n &&
        memcmp(piece_bytes(v, guess), bytes, n) == 0)
        return guess;
    return vocabulary_find(v, bytes, n);
}

/* The sides of one merge while the list is read. */
struct sides {
    uint32_t offset, middle, n; /* bytes of both at offset, middle of them belong to the left one */
};

struct merge_list {
    struct buf bytes, sides; /* sides: an array of struct sides */
    struct merge *merges;
};

static int scan_merges(struct reading *r, struct json_scan *s, struct merge_list *list) {
    if (!scan_char(s, '[')) return malformed(r, s, "model.merges", "a list");
    if (scan_char(s, ']')) return 0;
    do {
        size_t middle, n;
        if (!read_pair(s, r->scratch, &middle, &n))
            return malformed(r, s, "model.merges", "\"a b\" or [\"a\", \"b\"] of byte-level pieces");
        struct sides sides = {(uint32_t)list->bytes.len, (uint32_t)middle, (uint32_t)n};
        buf_append(&list->bytes, r->scratch, n);
        buf_append(&list->sides, &sides, sizeof sides);
        if (list->bytes.failed || list->sides.failed || list->bytes.len > UINT32_MAX / 2)
            return err_set(r->err, ERR_MEMORY, "%s: model.merges: out of memory", r->path);
    } while (scan_char(s, ','));
    return scan_char(s, ']') ? 0 : malformed(r, s, "model.merges", "',' or ']'");
}

/* Pieces to ids; the searches of a later merge are announced to the memory while this one is worked on. */
static int resolve_merges(struct reading *r, struct merge_list *list, size_t count) {
    enum { AHEAD = 12 };
    struct vocabulary *v = &r->t->v;
    const struct sides *sides = (const struct sides *)list->sides.data;
    int32_t last = -1;
    for (size_t i = 0; i < count; i++) {
        if (i + AHEAD < count) {
            const struct sides *later = &sides[i + AHEAD];
            vocabulary_prefetch(v, list->bytes.data + later->offset, later->middle);
            vocabulary_prefetch(v, list->bytes.data + later->offset + later->middle, later->n - later->middle);
        }
        const char *bytes = list->bytes.data + sides[i].offset;
        struct merge m = {vocabulary_find(v, bytes, sides[i].middle),
                          vocabulary_find(v, bytes + sides[i].middle, sides[i].n - sides[i].middle),
                          result_of_merge(v, bytes, sides[i].n, last + 1)};
        if (m.left < 0 || m.right < 0 || m.merged < 0)
            return err_set(r->err, ERR_FORMAT,
                           "%s: model.merges[%zu]: expected pieces of the vocabulary, found %s that is not in it", r->path, i,
                           m.left < 0    ? "a left side"
                           : m.right < 0 ? "a right side"
                                         : "a result");
        list->merges[i] = m;
        last = m.merged;
    }
    return 0;
}

static int read_merges(struct reading *r, struct json_scan *s) {
    if (!r->vocab_read) {
        r->late_merges = *s;
        return scan_skip(s) ? 0 : malformed(r, s, "model.merges", "a list");
    }
    struct merge_list list = {0};
    int code = scan_merges(r, s, &list);
    size_t count = list.sides.len / sizeof(struct sides), twice = 0;
    if (!code && !(list.merges = malloc((count + 1) * sizeof *list.merges)))
        code = err_set(r->err, ERR_MEMORY, "%s: out of memory", r->path);
    if (!code) code = resolve_merges(r, &list, count);
    if (!code) {
        code = vocabulary_add_merges(&r->t->v, list.merges, count, &twice);
        if (code == ERR_FORMAT)
            err_set(r->err, code, "%s: model.merges[%zu]: expected each pair once, found one twice", r->path, twice);
        else if (code) err_set(r->err, code, "%s: model.merges: out of memory", r->path);
    }
    buf_free(&list.bytes);
    buf_free(&list.sides);
    free(list.merges);
    return code;
}

static int refuse(const struct reading *r, const char *field, const char *expected, const struct json *found) {
    return err_set(r->err, ERR_FORMAT, "%s: %s: expected %s, found %.80s", r->path, field, expected,
                   !found                       ? "nothing"
                   : found->type == JSON_STRING ? found->string
                   : found->type == JSON_BOOL   ? (found->boolean ? "true" : "false")
                                                : "another value");
}

static bool empty(const struct json *v) { return !v || v->type == JSON_NULL || (v->type == JSON_STRING && v->count == 0); }

static int read_model(struct reading *r, struct json_scan *s) {
    enum { TYPE, VOCAB, MERGES, DROPOUT, UNKNOWN, PREFIX, SUFFIX, FALLBACK, IGNORE, COUNT };
    struct member m[COUNT] = {[TYPE] = {.name = "type"},
                              [VOCAB] = {.name = "vocab", .read = read_vocab},
                              [MERGES] = {.name = "merges", .read = read_merges},
                              [DROPOUT] = {.name = "dropout"},
                              [UNKNOWN] = {.name = "unk_token"},
                              [PREFIX] = {.name = "continuing_subword_prefix"},
                              [SUFFIX] = {.name = "end_of_word_suffix"},
                              [FALLBACK] = {.name = "byte_fallback"},
                              [IGNORE] = {.name = "ignore_merges"}};
    int code = cut_object(r, s, "model", m, COUNT);
    const struct json *v[COUNT] = {0};
    for (int i = 0; i < COUNT && !code; i++)
        if (i != VOCAB && i != MERGES) code = tree(r, &m[i], &v[i]);
    if (code) return code;
    if (strcmp(json_as_string(v[TYPE], "BPE"), "BPE") != 0) return refuse(r, "model.type", "BPE", v[TYPE]);
    if (json_as_number(v[DROPOUT], 0) != 0) return refuse(r, "model.dropout", "none", v[DROPOUT]);
    if (!empty(v[PREFIX])) return refuse(r, "model.continuing_subword_prefix", "none", v[PREFIX]);
    if (!empty(v[SUFFIX])) return refuse(r, "model.end_of_word_suffix", "none", v[SUFFIX]);
    if (json_as_bool(v[FALLBACK], false)) return refuse(r, "model.byte_fallback", "false", v[FALLBACK]);
    r->t->v.ignore_merges = json_as_bool(v[IGNORE], false);
    if (!m[VOCAB].value.at) return refuse(r, "model.vocab", "an object", NULL);
    if (!m[MERGES].value.at) return refuse(r, "model.merges", "a list", NULL);
    return r->late_merges.at ? read_merges(r, &r->late_merges) : 0;
}

static const char *type_of(const struct json *v) { return json_as_string(json_get(v, "type"), ""); }

static int read_normalizer(const struct reading *r, const struct json *v) {
    if (!v) return 0;
    if (strcmp(type_of(v), "NFC") == 0) return r->t->nfc = true, 0;
    const struct json *list = json_get(v, "normalizers");
    if (strcmp(type_of(v), "Sequence") != 0 || !list || list->type != JSON_ARRAY)
        return refuse(r, "normalizer", "NFC or null", json_get(v, "type"));
    for (uint32_t i = 0; i < list->count; i++) {
        if (strcmp(type_of(list->items[i]), "NFC") != 0)
            return refuse(r, "normalizer", "NFC or null", json_get(list->items[i], "type"));
        r->t->nfc = true;
    }
    return 0;
}

/* GPT-2's own pattern: what ByteLevel uses by itself when use_regex is true. */
static const char gpt2_split[] = "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+";

static int read_split(const struct reading *r, const struct json *v) {
    const struct json *pattern = json_get(v, "pattern"), *regex = json_get(pattern, "Regex"), *text = json_get(pattern, "String");
    if (strcmp(json_as_string(json_get(v, "behavior"), ""), "Isolated") != 0)
        return refuse(r, "pre_tokenizer.behavior", "Isolated", json_get(v, "behavior"));
    if (json_as_bool(json_get(v, "invert"), false)) return refuse(r, "pre_tokenizer.invert", "false", json_get(v, "invert"));
    if (regex && regex->type == JSON_STRING) return split_add(r->t, regex->string, regex->count, r->path, r->err);
    if (!text || text->type != JSON_STRING || strstr(text->string, "\\E"))
        return refuse(r, "pre_tokenizer.pattern", "Regex or String", pattern);
    struct buf quoted = {0};
    buf_printf(&quoted, "\\Q%s\\E", text->string);
    int code = quoted.failed ? err_set(r->err, ERR_MEMORY, "%s: out of memory", r->path)
                             : split_add(r->t, quoted.data, quoted.len, r->path, r->err);
    buf_free(&quoted);
    return code;
}

static int read_pre_tokenizer(const struct reading *r, const struct json *v, bool *byte_level) {
    if (strcmp(type_of(v), "Split") == 0) return read_split(r, v);
    if (strcmp(type_of(v), "ByteLevel") != 0) return refuse(r, "pre_tokenizer", "Split or ByteLevel", json_get(v, "type"));
    if (json_as_bool(json_get(v, "add_prefix_space"), true))
        return refuse(r, "pre_tokenizer.add_prefix_space", "false", json_get(v, "add_prefix_space"));
    if (*byte_level) return refuse(r, "pre_tokenizer", "one ByteLevel", json_get(v, "type"));
    *byte_level = true;
    if (!json_as_bool(json_get(v, "use_regex"), true)) return 0;
    return split_add(r->t, gpt2_split, sizeof gpt2_split - 1, r->path, r->err);
}

static int read_pre_tokenizers(const struct reading *r, const struct json *v) {
    bool byte_level = false;
    const struct json *list = json_get(v, "pretokenizers");
    int code = 0;
    if (strcmp(type_of(v), "Sequence") != 0) {
        code = read_pre_tokenizer(r, v, &byte_level);
    } else if (!list || list->type != JSON_ARRAY) {
        return refuse(r, "pre_tokenizer.pretokenizers", "a list", list);
    } else {
        for (uint32_t i = 0; i < list->count && !code; i++) {
            if (byte_level) return refuse(r, "pre_tokenizer", "ByteLevel last", json_get(list->items[i], "type"));
            code = read_pre_tokenizer(r, list->items[i], &byte_level);
        }
    }
    if (!code && !byte_level) return refuse(r, "pre_tokenizer", "a ByteLevel step", json_get(v, "type"));
    return code;
}

/* Only a post-processor that adds no tokens. */
static int check_post_processor(const struct reading *r, const struct json *v) {
    if (!v || strcmp(type_of(v), "ByteLevel") == 0) return 0;
    const struct json *list = json_get(v, "processors");
    if (strcmp(type_of(v), "Sequence") != 0 || !list || list->type != JSON_ARRAY)
        return refuse(r, "post_processor", "ByteLevel or null", json_get(v, "type"));
    for (uint32_t i = 0; i < list->count; i++)
        if (strcmp(type_of(list->items[i]), "ByteLevel") != 0)
            return refuse(r, "post_processor", "ByteLevel or null", json_get(list->items[i], "type"));
    return 0;
}

int tokenizer_read(struct tokenizer *t, const char *json, size_t n, const char *path, struct err *err) {
    struct err local = {0};
    struct reading r = {.t = t, .path = path, .start = json, .err = err ? err : &local, .scratch = malloc(2 * PIECE_LIMIT)};
    if (!r.scratch) return err_set(err, ERR_MEMORY, "%s: out of memory", path);
    enum { ADDED, NORMALIZER, PRE, POST, DECODER, MODEL, COUNT };
    struct member m[COUNT] = {[ADDED] = {.name = "added_tokens"}, [NORMALIZER] = {.name = "normalizer"},
                              [PRE] = {.name = "pre_tokenizer"},  [POST] = {.name = "post_processor"},
                              [DECODER] = {.name = "decoder"},    [MODEL] = {.name = "model", .read = read_model}};
    struct json_scan s = {json, json + n};
    int code = cut_object(&r, &s, "document", m, COUNT);
    if (!code && scan_peek(&s)) code = malformed(&r, &s, "document", "the end");
    const struct json *v[COUNT] = {0};
    for (int i = 0; i < MODEL && !code; i++) code = tree(&r, &m[i], &v[i]);
    if (!code) code = read_normalizer(&r, v[NORMALIZER]);
    if (!code) code = read_pre_tokenizers(&r, v[PRE]);
    if (!code) code = check_post_processor(&r, v[POST]);
    if (!code && v[DECODER] && strcmp(type_of(v[DECODER]), "ByteLevel") != 0)
        code = refuse(&r, "decoder", "ByteLevel", json_get(v[DECODER], "type"));
    if (!code && !m[MODEL].value.at) code = refuse(&r, "model", "an object", NULL);
    int missing = -1;
    if (!code && (code = vocabulary_finish(&t->v, &missing)) != 0) {
        if (missing >= 0)
            err_set(r.err, code, "%s: model.vocab: expected a piece for each of the 256 bytes, found none for byte 0x%02x", path,
                    missing);
        else err_set(r.err, code, "%s: out of memory", path);
    }
    if (!code) code = added_tokens_read(t, v[ADDED], path, r.err);
    free(r.scratch);
    return code;
}
