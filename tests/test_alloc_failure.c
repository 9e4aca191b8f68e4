/* Every allocation of the checkpoint and text rooms is made to fail once, one after the other (failure class 7): the call must
 * report it, or succeed without that memory, and nothing may leak.
 *
 * malloc and its kin are replaced in this program. Only calls that come from the program itself fail: the libraries beneath have
 * their own answer to a lack of memory, which is not ours to test. */
#include "test.h"

#include "checkpoint/checkpoint.h"
#include "text/chat.h"
#include "text/constraint.h"

#ifdef __SANITIZE_ADDRESS__
static void skipped(void **state) {
    (void)state;
    skip_because("ASan has its own malloc");
}
int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(skipped)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
#else

extern char __executable_start, etext;
void *__libc_malloc(size_t n);
void *__libc_calloc(size_t count, size_t n);
void *__libc_realloc(void *p, size_t n);
void *__libc_memalign(size_t align, size_t n);
void __libc_free(void *p);

static long countdown = -1, live; /* countdown: allocations until one fails; negative: none does */

static int refuse(const void *caller) {
    if (countdown < 0 || (const char *)caller < &__executable_start || (const char *)caller >= &etext) return 0;
    return countdown-- == 0;
}

void *malloc(size_t n) {
    if (refuse(__builtin_return_address(0))) return NULL;
    live++;
    return __libc_malloc(n);
}
void *calloc(size_t count, size_t n) {
    if (refuse(__builtin_return_address(0))) return NULL;
    live++;
    return __libc_calloc(count, n);
}
void *realloc(void *p, size_t n) {
    if (refuse(__builtin_return_address(0))) return NULL;
    live += p == NULL;
    return __libc_realloc(p, n);
}
int posix_memalign(void **out, size_t align, size_t n) {
    if (refuse(__builtin_return_address(0))) return 12; /* ENOMEM */
    live++;
    return (*out = __libc_memalign(align, n)) ? 0 : 12;
}
void free(void *p) {
    live -= p != NULL;
    __libc_free(p);
}

/* Each scenario returns 0 or the error code of what failed, and releases everything. */
static int read_checkpoint(const char *folder) {
    struct checkpoint *c = NULL;
    struct err err = {0};
    int code = checkpoint_open(folder, &c, &err);
    if (code) {
        assert_null(c);
        assert_true(err.message[0] != 0);
        return code;
    }
    static const struct {
        const char *name;
        int64_t out, in;
    } matrices[] = {{"fp8", 130, 300}, {"nf4_nested", 160, 128}, {"nf4_plain", 48, 128}, {"bf16", 6, 10}};
    for (int i = 0; i < 4 && !code; i++) {
        struct linear_weight w;
        code = checkpoint_linear(c, matrices[i].name, matrices[i].out, matrices[i].in, i == 1, &w, &err);
    }
    checkpoint_close(c);
    return code;
}

static int quantised_checkpoint(void) { return read_checkpoint("tests/golden/quant"); }

static int sharded_checkpoint(void) {
    struct checkpoint *c = NULL;
    struct err err = {0};
    int code = checkpoint_open("tests/golden/tiny-b", &c, &err);
    checkpoint_close(c);
    return code;
}

static int tokenizer_and_chat(void) {
    struct tokenizer *t = NULL;
    struct err err = {0};
    int code = tokenizer_open("tests/golden/text", &t, &err);
    if (code) return code;
    struct token_list ids = {0};
    struct buf text = {0};
    char longer[3000];
    memset(longer, 'a', sizeof longer);
    code = tokenizer_encode(t, "e\xCC\x81 <|im_end|> text, not a piece", 33, true, &ids, &err);
    if (!code) code = tokenizer_encode(t, longer, sizeof longer, true, &ids, &err);
    if (!code) code = tokenizer_decode(t, ids.ids, ids.count, false, &text, &err);
    struct chat_part part = {.kind = CHAT_TEXT, .text = "hello", .text_len = 5};
    struct chat_message messages[] = {{.role = CHAT_USER, .parts = &part, .part_count = 1},
                                      {.role = CHAT_ASSISTANT, .parts = &part, .part_count = 1, .reasoning = "thought"}};
    struct chat_options options = {.format = CHAT_THINKING, .add_generation_prompt = true, .tools_json = "[{\"a\":[1,2.5]}]"};
    if (!code) code = chat_encode(t, &options, messages, 2, &ids, &err);
    buf_free(&text);
    token_list_free(&ids);
    tokenizer_close(t);
    return code;
}

static int constraint(void) {
    static const char schema[] = "{\"type\":\"object\",\"properties\":{\"a\":{\"enum\":[\"x\",\"y\"]},\"b\":{\"anyOf\":[{\"type\":"
                                 "\"string\"},{\"type\":\"array\",\"items\":{\"type\":\"integer\"}}]}}}";
    struct tokenizer *t; /* its own allocations are the other scenario's; the trie of its tokens is this one's */
    struct grammar *g = NULL;
    struct err err = {0};
    long count = countdown;
    countdown = -1;
    assert_int_equal(tokenizer_open("tests/golden/text", &t, &err), 0);
    countdown = count;
    int code = grammar_compile(schema, sizeof schema - 1, t, &g, &err);
    if (!code) {
        uint32_t *mask = __libc_calloc((size_t)tokenizer_vocab(t), 4);
        struct constraint_state *s = constraint_new(g), *copy = s ? constraint_copy(s) : NULL;
        const char *forced;
        bool done;
        code = s && copy ? 0 : ERR_MEMORY;
        if (s) constraint_forced(s, &forced);
        for (int i = 0; i < 14 && !code; i++) {
            if (constraint_mask(s, mask, &done) < 0) {
                code = ERR_MEMORY;
                break;
            }
            int32_t id = 0;
            while (id < tokenizer_vocab(t) && !(mask[id / 32] >> (id % 32) & 1)) id++;
            if (constraint_accept(s, id)) code = ERR_MEMORY;
        }
        __libc_free(mask);
        constraint_free(copy);
        constraint_free(s);
        grammar_free(g);
    }
    tokenizer_close(t);
    return code;
}

static void fail_each(int (*scenario)(void)) {
    countdown = -1;
    assert_int_equal(scenario(), 0);
    long n = 0;
    int failures = 0;
    for (;; n++) {
        long before = live;
        countdown = n;
        int code = scenario();
        bool spent = countdown < 0;
        countdown = -1;
        if (code != 0) failures++;
        if (live != before) fail_msg("allocation %ld: %ld blocks leaked", n, live - before);
        if (!spent) {
            assert_int_equal(code, 0);
            break;
        }
        if (n > 20000) fail_msg("no end of allocations");
    }
    fprintf(stderr, "%ld allocations failed in turn, %d were reported\n", n, failures);
    assert_true(n > 5 && failures > 5);
}

static void quantised(void **state) { (void)state, fail_each(quantised_checkpoint); }
static void sharded(void **state) { (void)state, fail_each(sharded_checkpoint); }
static void tokenizer(void **state) { (void)state, fail_each(tokenizer_and_chat); }
static void constrained(void **state) { (void)state, fail_each(constraint); }

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(quantised),
        cmocka_unit_test(sharded),
        cmocka_unit_test(tokenizer),
        cmocka_unit_test(constrained),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
#endif
