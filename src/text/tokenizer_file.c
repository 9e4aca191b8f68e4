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

/* Where the members of an object lie in the text. */
struct member {
    const char *name;
    struct json_scan value; /* at == NULL: absent */
};

struct reading {
    struct tokenizer *t;
    const char *path, *start;
    struct err *err;
    char *scratch; /* 2 * PIECE_LIMIT */
};

static int malformed(const struct reading *r, const struct json_scan *s, const char *where, const char *expected) {
    return err_set(r->err, ERR_FORMAT, "%s: %s: expected %s at byte %td, found something else", r->path, where, expected, s->at - r->start);
}

/* Cuts an object into its members. Unknown ones are checked to be JSON and otherwise ignored; a known one may occur once. */
static int cut_object(const struct reading *r, struct json_scan *s, const char *where, struct member *members, int count) {
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
        if (!scan_skip(s) || s->at == value.at) return malformed(r, s, where, "a value");
        value.end = s->at;
        struct member *known = NULL;
        for (int i = 0; i < count; i++)
            if (strlen(members[i].name) == n && memcmp(members[i].name, name, n) == 0) known = &members[i];
        if (known && known->value.at) return err_set(r->err, ERR_FORMAT, "%s: %s: expected %s once, found it twice", r->path, where, known->name);
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

static int read_vocab(const struct reading *r, struct json_scan s) {
    const char *start = s.at;
    if (!scan_char(&s, '{')) return malformed(r, &s, "model.vocab", "an object");
    if (scan_char(&s, '}')) return 0;
    int code = vocabulary_reserve(&r->t->v, (size_t)(s.end - start) / 24, 0); /* a guess; tables grow if it is low */
    if (code) return err_set(r->err, code, "%s: out of memory", r->path);
    do {
        size_t n, space;
        bool byte_level;
        int32_t id;
        if (!scan_piece(&s, r->scratch, PIECE_LIMIT, &n, &byte_level, false, &space)) return malformed(r, &s, "model.vocab", "a string of at most 65536 bytes in UTF-8");
        if (!scan_char(&s, ':') || !scan_integer(&s, &id) || id >= VOCABULARY_MAX_ID) return malformed(r, &s, "model.vocab", "':' and an id below 4194304");
        code = vocabulary_add(&r->t->v, id, r->scratch, n, byte_level ? 0 : PIECE_VERBATIM);
        if (code == ERR_FORMAT) return err_set(r->err, code, "%s: model.vocab: expected unique pieces and ids, found a second one before byte %td (id %" PRId32 ")", r->path, s.at - r->start, id);
        if (code) return err_set(r->err, code, "%s: model.vocab: out of memory at id %" PRId32, r->path, id);
    } while (scan_char(&s, ','));
    return scan_char(&s, '}') ? 0 : malformed(r, &s, "model.vocab", "',' or '}'");
}

/* "a b" or ["a", "b"]: the bytes of both in scratch, *middle bytes belong to a. */
static bool read_pair(struct json_scan *s, char *scratch, size_t *middle, size_t *n) {
    bool byte_level;
    if (scan_peek(s) == '"') return scan_piece(s, scratch, 2 * PIECE_LIMIT, n, &byte_level, true, middle) && byte_level && *middle != SIZE_MAX;
    size_t space, right;
    if (!scan_char(s, '[') || !scan_piece(s, scratch, PIECE_LIMIT, middle, &byte_level, false, &space) || !byte_level) return false;
    if (!scan_char(s, ',') || !scan_piece(s, scratch + *middle, PIECE_LIMIT, &right, &byte_level, false, &space) || !byte_level) return false;
    *n = *middle + right;
    return scan_char(s, ']');
}

static int read_merges(const struct reading *r, struct json_scan s) {
    struct vocabulary *v = &r->t->v;
    const char *start = s.at;
    if (!scan_char(&s, '[')) return malformed(r, &s, "model.merges", "a list");
    if (scan_char(&s, ']')) return 0;
    int code = vocabulary_reserve(v, 0, (size_t)(s.end - start) / 16);
    if (code) return err_set(r->err, code, "%s: out of memory", r->path);
    uint32_t rank = 0;
    do {
        size_t middle, n;
        if (!read_pair(&s, r->scratch, &middle, &n)) return malformed(r, &s, "model.merges", "\"a b\" or [\"a\", \"b\"] of byte-level pieces");
        int32_t left = vocabulary_find(v, r->scratch, middle), right = vocabulary_find(v, r->scratch + middle, n - middle),
                merged = vocabulary_find(v, r->scratch, n);
        if (left < 0 || right < 0 || merged < 0)
            return err_set(r->err, ERR_FORMAT, "%s: model.merges[%" PRIu32 "]: expected pieces of the vocabulary, found %s that is not in it", r->path, rank,
                           left < 0 ? "a left side" : right < 0 ? "a right side" : "a result");
        code = vocabulary_add_merge(v, left, right, merged, rank++);
        if (code == ERR_FORMAT) return err_set(r->err, code, "%s: model.merges[%" PRIu32 "]: expected each pair once, found one twice", r->path, rank - 1);
        if (code) return err_set(r->err, code, "%s: model.merges: out of memory", r->path);
    } while (scan_char(&s, ','));
    return scan_char(&s, ']') ? 0 : malformed(r, &s, "model.merges", "',' or ']'");
}

static int refuse(const struct reading *r, const char *field, const char *expected, const struct json *found) {
    return err_set(r->err, ERR_FORMAT, "%s: %s: expected %s, found %.80s", r->path, field, expected,
                   !found ? "nothing" : found->type == JSON_STRING ? found->string : found->type == JSON_BOOL ? (found->boolean ? "true" : "false") : "another value");
}

static bool empty(const struct json *v) { return !v || v->type == JSON_NULL || (v->type == JSON_STRING && v->count == 0); }

static int read_model(const struct reading *r, struct json_scan s) {
    enum { TYPE, VOCAB, MERGES, DROPOUT, UNKNOWN, PREFIX, SUFFIX, FALLBACK, IGNORE, COUNT };
    struct member m[COUNT] = {[TYPE] = {.name = "type"}, [VOCAB] = {.name = "vocab"}, [MERGES] = {.name = "merges"},
                              [DROPOUT] = {.name = "dropout"}, [UNKNOWN] = {.name = "unk_token"},
                              [PREFIX] = {.name = "continuing_subword_prefix"}, [SUFFIX] = {.name = "end_of_word_suffix"},
                              [FALLBACK] = {.name = "byte_fallback"}, [IGNORE] = {.name = "ignore_merges"}};
    int code = cut_object(r, &s, "model", m, COUNT);
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
    if ((code = read_vocab(r, m[VOCAB].value)) || (code = read_merges(r, m[MERGES].value))) return code;
    return 0;
}

static const char *type_of(const struct json *v) { return json_as_string(json_get(v, "type"), ""); }

static int read_normalizer(const struct reading *r, const struct json *v) {
    if (!v) return 0;
    if (strcmp(type_of(v), "NFC") == 0) return r->t->nfc = true, 0;
    const struct json *list = json_get(v, "normalizers");
    if (strcmp(type_of(v), "Sequence") != 0 || !list || list->type != JSON_ARRAY) return refuse(r, "normalizer", "NFC or null", json_get(v, "type"));
    for (uint32_t i = 0; i < list->count; i++) {
        if (strcmp(type_of(list->items[i]), "NFC") != 0) return refuse(r, "normalizer", "NFC or null", json_get(list->items[i], "type"));
        r->t->nfc = true;
    }
    return 0;
}

/* GPT-2's own pattern: what ByteLevel uses by itself when use_regex is true. */
static const char gpt2_split[] = "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+";

static int read_split(const struct reading *r, const struct json *v) {
    const struct json *pattern = json_get(v, "pattern"), *regex = json_get(pattern, "Regex"), *text = json_get(pattern, "String");
    if (strcmp(json_as_string(json_get(v, "behavior"), ""), "Isolated") != 0) return refuse(r, "pre_tokenizer.behavior", "Isolated", json_get(v, "behavior"));
    if (json_as_bool(json_get(v, "invert"), false)) return refuse(r, "pre_tokenizer.invert", "false", json_get(v, "invert"));
    if (regex && regex->type == JSON_STRING) return split_add(r->t, regex->string, regex->count, r->path, r->err);
    if (!text || text->type != JSON_STRING || strstr(text->string, "\\E")) return refuse(r, "pre_tokenizer.pattern", "Regex or String", pattern);
    struct buf quoted = {0};
    buf_printf(&quoted, "\\Q%s\\E", text->string);
    int code = quoted.failed ? err_set(r->err, ERR_MEMORY, "%s: out of memory", r->path) : split_add(r->t, quoted.data, quoted.len, r->path, r->err);
    buf_free(&quoted);
    return code;
}

static int read_pre_tokenizer(const struct reading *r, const struct json *v, bool *byte_level) {
    if (strcmp(type_of(v), "Split") == 0) return read_split(r, v);
    if (strcmp(type_of(v), "ByteLevel") != 0) return refuse(r, "pre_tokenizer", "Split or ByteLevel", json_get(v, "type"));
    if (json_as_bool(json_get(v, "add_prefix_space"), true)) return refuse(r, "pre_tokenizer.add_prefix_space", "false", json_get(v, "add_prefix_space"));
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
    if (strcmp(type_of(v), "Sequence") != 0 || !list || list->type != JSON_ARRAY) return refuse(r, "post_processor", "ByteLevel or null", json_get(v, "type"));
    for (uint32_t i = 0; i < list->count; i++)
        if (strcmp(type_of(list->items[i]), "ByteLevel") != 0) return refuse(r, "post_processor", "ByteLevel or null", json_get(list->items[i], "type"));
    return 0;
}

int tokenizer_read(struct tokenizer *t, const char *json, size_t n, const char *path, struct err *err) {
    struct err local = {0};
    struct reading r = {t, path, json, err ? err : &local, malloc(2 * PIECE_LIMIT)};
    if (!r.scratch) return err_set(err, ERR_MEMORY, "%s: out of memory", path);
    enum { ADDED, NORMALIZER, PRE, POST, DECODER, MODEL, COUNT };
    struct member m[COUNT] = {[ADDED] = {.name = "added_tokens"}, [NORMALIZER] = {.name = "normalizer"}, [PRE] = {.name = "pre_tokenizer"},
                              [POST] = {.name = "post_processor"}, [DECODER] = {.name = "decoder"}, [MODEL] = {.name = "model"}};
    struct json_scan s = {json, json + n};
    int code = cut_object(&r, &s, "document", m, COUNT);
    if (!code && scan_peek(&s)) code = malformed(&r, &s, "document", "the end");
    const struct json *v[COUNT] = {0};
    for (int i = 0; i < MODEL && !code; i++) code = tree(&r, &m[i], &v[i]);
    if (!code) code = read_normalizer(&r, v[NORMALIZER]);
    if (!code) code = read_pre_tokenizers(&r, v[PRE]);
    if (!code) code = check_post_processor(&r, v[POST]);
    if (!code && v[DECODER] && strcmp(type_of(v[DECODER]), "ByteLevel") != 0) code = refuse(&r, "decoder", "ByteLevel", json_get(v[DECODER], "type"));
    if (!code && !m[MODEL].value.at) code = refuse(&r, "model", "an object", NULL);
    if (!code) code = read_model(&r, m[MODEL].value);
    int missing = -1;
    if (!code && (code = vocabulary_finish(&t->v, &missing)) != 0) {
        if (missing >= 0) err_set(r.err, code, "%s: model.vocab: expected a piece for each of the 256 bytes, found none for byte 0x%02x", path, missing);
        else err_set(r.err, code, "%s: out of memory", path);
    }
    if (!code) code = added_tokens_read(t, v[ADDED], path, r.err);
    free(r.scratch);
    return code;
}
