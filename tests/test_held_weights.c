/* Weights read into memory (held_weights.h, options.weights "memory") against mapped ones: the same logits bit for bit, the same answers; where they lie; what
 * the plan says; a file that ends early. */
#include <sys/stat.h>
#include <unistd.h>

#include "backend/cpu/held_weights.h"
#include "backend/cpu/model.h"
#include "base/file.h"
#include "checkpoint/place.h"
#include "qwen3vl.h"
#include "test.h"

extern const struct backend backend_cpu;
static const char *const folders[] = {"tests/golden/tiny-a", "tests/golden/tiny-b", "tests/golden/tiny-c", "tests/golden/tiny-fp8", "tests/golden/tiny-nf4",
                                      "tests/golden/tiny-nf4-plain", "models/tinywoods-vl"};

static struct backend_model *load(const char *folder, bool held, struct checkpoint **c) {
    struct err err = {0};
    struct backend_model *m;
    if (checkpoint_open(folder, c, &err) || backend_cpu.load(*c, &(struct backend_options){.threads = 2, .kv_bytes = 8 << 20}, &m, &err)) fail_msg("%s", err.message);
    if (held && hold_weights(m, &err)) fail_msg("%s", err.message);
    return m;
}

/* A prompt of 20 tokens, then 4 one by one; the logits of all of these passes' last rows: (5, vocab). */
static float *logits_of(struct backend_model *m) {
    enum { PROMPT = 20, MORE = 4 };
    struct err err = {0};
    int vocab = m->w.config.text.vocab;
    float *all = malloc((size_t)vocab * (1 + MORE) * sizeof *all);
    int32_t ids[PROMPT + MORE], positions[(PROMPT + MORE) * 3], page = backend_cpu.page_alloc(m);
    for (int i = 0; i < PROMPT + MORE; i++) {
        ids[i] = (i * 37 + 11) % vocab;
        positions[3 * i] = positions[3 * i + 1] = positions[3 * i + 2] = i;
    }
    for (int k = 0; k <= MORE; k++) {
        int first = k ? PROMPT + k - 1 : 0, count = k ? 1 : PROMPT, row = count - 1;
        struct span span = {.ids = ids + first, .count = count, .first = first, .positions = positions + 3 * first, .pages = &page, .page_count = 1,
                            .logits_rows = &row, .logits_count = 1, .logits = all + k * vocab};
        if (backend_cpu.forward(m, &span, 1, &err)) fail_msg("%s", err.message);
    }
    return all;
}

static void the_same_logits(void **state) {
    (void)state;
    for (size_t f = 0; f < sizeof folders / sizeof *folders; f++) {
        struct checkpoint *a, *b;
        struct backend_model *mapped = load(folders[f], false, &a), *held = load(folders[f], true, &b);
        float *x = logits_of(mapped), *y = logits_of(held);
        assert_memory_equal(x, y, (size_t)mapped->w.config.text.vocab * 5 * sizeof *x);
        free(x);
        free(y);
        /* Everything that decoding reads lies in the new memory, on cache lines; nothing of it in the file. */
        const struct text_config *t = &held->w.config.text;
        struct file_place place;
        size_t bytes = 0;
        for (int n = 0; n <= t->layers; n++) {
            const struct decoder_layer *l = &held->w.layers[n < t->layers ? n : 0];
            const struct linear_weight *layer[] = {&l->q, &l->k, &l->v, &l->o, &l->gate, &l->up, &l->down}, *head[] = {&held->w.head};
            for (int i = 0; i < (n < t->layers ? 7 : 1); i++) {
                const struct linear_weight *w = n < t->layers ? layer[i] : head[i];
                size_t at = (size_t)((uintptr_t)w->data - (uintptr_t)held->held);
                assert_int_equal((uintptr_t)w->data % 64, 0);
                assert_true(at < held->held_bytes);
                assert_false(checkpoint_place(b, w->data, 1, &place));
                bytes += linear_weight_bytes(w);
            }
        }
        if (t->tied) assert_ptr_equal(held->w.embed.data, held->w.head.data);
        assert_true(backend_cpu.memory_bytes(held) >= backend_cpu.memory_bytes(mapped) + held->held_bytes);
        /* The estimate is no less than the matrices, and little more than what was taken. */
        assert_true(held_weights_bytes(b) + (4 << 20) > held->held_bytes && held_weights_bytes(b) < held->held_bytes + bytes / 20 + (4 << 20));
        backend_cpu.unload(mapped);
        backend_cpu.unload(held);
        checkpoint_close(a);
        checkpoint_close(b);
    }
}

static void places(void **state) {
    (void)state;
    struct err err = {0};
    struct checkpoint *c;
    struct file_place place;
    if (checkpoint_open("tests/golden/tiny-a", &c, &err)) fail_msg("%s", err.message);
    struct buf file = {0};
    assert_int_equal(file_read("tests/golden/tiny-a/model.safetensors", 1 << 28, &file, &err), 0);
    for (size_t i = 0; i < checkpoint_tensor_count(c); i++) {
        const struct tensor *t = checkpoint_tensor_at(c, i);
        assert_true(checkpoint_place(c, t->data, t->bytes, &place));
        assert_string_equal(place.file, t->file);
        assert_true(place.offset + t->bytes <= file.len);
        assert_memory_equal(file.data + place.offset, t->data, t->bytes);
        assert_false(checkpoint_place(c, t->data, file.len, &place)); /* reaches beyond the file */
    }
    assert_false(checkpoint_place(c, &err, 1, &place));
    buf_free(&file);
    checkpoint_close(c);
}

static void plan(void **state) {
    (void)state;
    struct err err = {0};
    struct qvl_options o = {.device = "cpu", .kv_bytes = 16 << 20};
    struct qvl_plan mapped, held;
    assert_int_equal(qvl_plan_load("tests/golden/tiny-fp8", &o, &mapped, &err), 0);
    assert_int_equal(mapped.held_bytes, 0);
    o.weights = "memory";
    assert_int_equal(qvl_plan_load("tests/golden/tiny-fp8", &o, &held, &err), 0);
    assert_true(held.held_bytes > 2 << 20 && held.held_bytes < held.weight_bytes + (4 << 20));
    assert_int_equal(held.total_bytes, mapped.total_bytes + held.held_bytes);
    /* Too large is refused, and the words say what the weights take. */
    o.kv_bytes = held.available_bytes + ((size_t)1 << 30);
    assert_int_equal(qvl_plan_load("tests/golden/tiny-fp8", &o, &held, &err), ERR_LIMIT);
    char number[64];
    snprintf(number, sizeof number, "%.1f MiB of weights read into memory", (double)held.held_bytes / 1048576.0);
    assert_true(held.held_bytes > 0);
    assert_non_null(strstr(err.message, number));
    assert_non_null(strstr(err.message, "--weights mapped"));
    o = (struct qvl_options){.device = "cpu", .weights = "disk"};
    assert_int_equal(qvl_plan_load("tests/golden/tiny-fp8", &o, &held, &err), ERR_ARGUMENT);
    assert_non_null(strstr(err.message, "\"disk\""));
}

static char notices[400];
static void take_notice(void *user, const char *text) {
    (void)user;
    snprintf(notices + strlen(notices), sizeof notices - strlen(notices), "%s\n", text);
}

static void answers(void **state) {
    (void)state;
    int32_t ids[2][8];
    size_t count[2];
    for (int k = 0; k < 2; k++) {
        struct err err = {0};
        struct qvl_options o = {.device = "cpu", .threads = 2, .kv_bytes = 8 << 20, .weights = k ? "memory" : "mapped", .on_notice = take_notice};
        struct qvl_model *m;
        struct qvl_session *s;
        struct qvl_result r;
        struct qvl_generate g = {.sampling.greedy = true, .max_tokens = 8};
        struct qvl_part part = {.text = "which way?"};
        notices[0] = 0;
        if (qvl_load("tests/golden/tiny-nf4", &o, &m, &err) || qvl_session_new(m, &s, &err) || qvl_session_message(s, QVL_USER, &part, 1, &err) ||
            qvl_generate(s, &g, &r, &err))
            fail_msg("%s", err.message);
        if (k) assert_non_null(strstr(notices, "of weights are in memory, after"));
        else assert_string_equal(notices, "");
        count[k] = r.token_count;
        for (size_t i = 0; i < r.token_count; i++) ids[k][i] = r.tokens[i].id;
        qvl_result_free(&r);
        qvl_session_free(s);
        qvl_unload(m);
    }
    assert_true(count[0] > 0 && count[0] == count[1]);
    assert_memory_equal(ids[0], ids[1], count[0] * sizeof **ids);
}

/* A copy of tiny-a whose weights are cut while they are read: after it was opened. */
static void cut_short(void **state) {
    (void)state;
    static const char *const names[] = {"config.json", "model.safetensors"};
    char folder[] = "/tmp/test_held_XXXXXX", path[300], from[300];
    struct err err = {0};
    assert_non_null(mkdtemp(folder));
    for (int i = 0; i < 2; i++) {
        struct buf b = {0};
        snprintf(from, sizeof from, "tests/golden/tiny-a/%s", names[i]);
        snprintf(path, sizeof path, "%s/%s", folder, names[i]);
        assert_int_equal(file_read(from, 1 << 28, &b, &err), 0);
        assert_int_equal(file_replace(path, b.data, b.len, &err), 0);
        buf_free(&b);
    }
    struct checkpoint *c;
    struct backend_model *m = load(folder, false, &c);
    const void *before = m->w.layers[0].q.data;
    struct stat st;
    assert_int_equal(stat(path, &st), 0);
    const struct linear_weight *w = &m->w.layers[1].down;
    struct file_place place;
    assert_true(checkpoint_place(c, w->data, 1, &place));
    off_t left = (off_t)place.offset + 100; /* in the middle of this matrix */
    assert_int_equal(truncate(path, left), 0);
    assert_int_equal(hold_weights(m, &err), ERR_FORMAT);
    fprintf(stderr, "  %s\n", err.message);
    assert_non_null(strstr(err.message, path));
    const char *at = strstr(err.message, "ends at byte ");
    assert_non_null(at);
    size_t byte = strtoull(at + strlen("ends at byte "), NULL, 10);
    assert_true(byte >= (size_t)left && byte <= (size_t)st.st_size); /* the end, or where a matrix beyond it would begin */
    assert_ptr_equal(m->w.layers[0].q.data, before);
    assert_null(m->held);
    assert_int_equal(truncate(path, st.st_size), 0);
    unlink(path);
    assert_int_equal(hold_weights(m, &err), ERR_MISSING);
    assert_non_null(strstr(err.message, path));
    backend_cpu.unload(m);
    checkpoint_close(c);
    snprintf(path, sizeof path, "%s/config.json", folder);
    unlink(path);
    rmdir(folder);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(the_same_logits), cmocka_unit_test(places), cmocka_unit_test(plan), cmocka_unit_test(answers),
                                       cmocka_unit_test(cut_short)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
