/* A tokenizer.json from anywhere (first byte even), or any text through a good one: what is encoded must decode to the text's
 * normal form, and literal text must never become an added token (first byte odd). */
#include <stdlib.h>
#include <string.h>

#include "base/utf8.h"
#include "text/parts.h"

static void read_file(const char *json, size_t n) {
    struct tokenizer *t;
    struct err err;
    if (tokenizer_parse(json, n, "fuzz.json", &t, &err)) return;
    static const char text[] =
        "Hello, w\xC3\xB6rld 123 <|im_start|>\n\n  e\xCC\x81 \xE6\x97\xA5\xE6\x9C\xAC it's aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";
    struct token_list ids = {0};
    struct buf back = {0};
    if (tokenizer_encode(t, text, sizeof text - 1, true, &ids, &err) == 0)
        tokenizer_decode(t, ids.ids, ids.count, false, &back, &err);
    token_list_free(&ids);
    buf_free(&back);
    tokenizer_close(t);
}

static void encode_text(const char *text, size_t n) {
    static struct tokenizer *t;
    struct err err;
    if (!t && tokenizer_open("tests/golden/text", &t, &err)) abort();
    struct token_list ids = {0};
    struct buf back = {0};
    if (tokenizer_encode(t, text, n, false, &ids, &err)) {
        if (utf8_valid_prefix(text, n) == n) abort();
        return;
    }
    for (size_t i = 0; i < ids.count; i++)
        if (tokenizer_is_added(t, ids.ids[i])) abort();
    if (tokenizer_decode(t, ids.ids, ids.count, false, &back, &err)) abort();
    size_t length;
    char *normal = text_nfc(text, n, &length);
    if (length != back.len || (length && memcmp(normal, back.data, length) != 0)) abort();
    free(normal);
    ids.count = 0;
    if (tokenizer_encode(t, text, n, true, &ids, &err)) abort();
    token_list_free(&ids);
    buf_free(&back);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    if (size == 0) return 0;
    char *copy = malloc(size); /* its own block: reading past the end is seen */
    memcpy(copy, data + 1, size - 1);
    (data[0] & 1 ? encode_text : read_file)(copy, size - 1);
    free(copy);
    return 0;
}
