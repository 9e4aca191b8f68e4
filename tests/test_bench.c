/* The benchmark's parts: the matrix, result files, verdicts, random checkpoints, prompts; no speed is judged here. */
#include <math.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/file.h"
#include "bench/compare.h"
#include "bench/estimate.h"
#include "bench/matrix.h"
#include "bench/measure.h"
#include "bench/prompts.h"
#include "backend/weights.h"
#include "bench/random_checkpoint.h"
#include "bench/random_numbers.h"
#include "golden_session.h"

/* ---- matrix ---- */

static void lists_are_read(void **state) {
    (void)state;
    struct err err = {0};
    int64_t v[MATRIX_LIST];
    int n;
    assert_int_equal(matrix_parse_whole("--contexts", "1024,3k,100", 1, 1 << 20, v, &n, &err), 0);
    assert_int_equal(n, 3);
    assert_int_equal(v[0], 1024);
    assert_int_equal(v[1], 3072);
    assert_int_equal(v[2], 100);
    assert_int_equal(matrix_parse_whole("--contexts", "1k-256k", 1, 1 << 20, v, &n, &err), 0);
    assert_int_equal(n, 9);
    assert_int_equal(v[8], 262144);
    double shares[MATRIX_LIST];
    assert_int_equal(matrix_parse_shares("--image-text-ratios", "0.25,0.5", shares, &n, &err), 0);
    assert_int_equal(n, 2);
    assert_true(shares[1] == 0.5);
    struct matrix m = {0};
    assert_int_equal(matrix_parse_tasks("mixed,text", &m, &err), 0);
    assert_int_equal(m.task_count, 2);
    assert_int_equal(m.tasks[0], TASK_MIXED);
    assert_int_equal(matrix_parse_tasks("all", &m, &err), 0);
    assert_int_equal(m.task_count, TASK_COUNT);
}

static void wrong_lists_are_named(void **state) {
    (void)state;
    static const char *const wrong[] = {"", "x", "0", "-4", "1024,", "1024;2048", "8-4", "99999999999999999999", "4,4", "1e3", "4x",
                                        "9000000000000000k", "1-"};
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        int64_t v[MATRIX_LIST];
        int n;
        struct err err = {0};
        assert_int_equal(matrix_parse_whole("--batches", wrong[i], 1, 1024, v, &n, &err), ERR_ARGUMENT);
        assert_non_null(strstr(err.message, "--batches"));
    }
    struct matrix m = {0};
    double shares[MATRIX_LIST];
    int n;
    struct err err = {0};
    assert_int_equal(matrix_parse_tasks("text,films", &m, &err), ERR_ARGUMENT);
    assert_non_null(strstr(err.message, "films"));
    assert_int_equal(matrix_parse_tasks("text,,mixed", &m, &err), ERR_ARGUMENT);
    assert_int_equal(matrix_parse_shares("--image-text-ratios", "0.5,1.5", shares, &n, &err), ERR_ARGUMENT);
}

static void cells_of_a_matrix(void **state) {
    (void)state;
    struct err err = {0};
    struct cell *cells;
    size_t count;
    struct matrix m = {0};
    assert_int_equal(matrix_cells(&m, 6, &cells, &count, &err), 0);
    assert_string_equal(matrix_name(&m), "standard");
    assert_int_equal(count, 42);
    assert_int_equal(cells[41].model, 5);
    free(cells);
    m.full = true;
    assert_int_equal(matrix_cells(&m, 1, &cells, &count, &err), 0);
    assert_int_equal(count, 9 * 7 * 4 * 4);
    free(cells);
    m = (struct matrix){.contexts = {1024, 2048}, .context_count = 2, .batches = {1, 4, 8}, .batch_count = 3, .shares = {0.2, 0.8},
                        .share_count = 2, .tasks = {TASK_TEXT, TASK_MIXED}, .task_count = 2};
    assert_int_equal(matrix_cells(&m, 2, &cells, &count, &err), 0);
    assert_int_equal(count, 2 * (1 + 2) * 2 * 3);
    for (size_t i = 0; i < count; i++) {
        assert_int_equal(cells[i].best_of, 1);
        assert_true((cells[i].task == TASK_MIXED) == (cells[i].picture_share > 0));
        for (size_t k = 0; k < i; k++) assert_memory_not_equal(&cells[i], &cells[k], sizeof *cells);
    }
    free(cells);
}

/* ---- result files ---- */

static struct result example(int i) {
    struct result r;
    result_clear(&r);
    snprintf(r.model, sizeof r.model, "model, \"%d\"", i);
    snprintf(r.weights, sizeof r.weights, "random");
    snprintf(r.task, sizeof r.task, "text");
    snprintf(r.status, sizeof r.status, "measured");
    snprintf(r.machine, sizeof r.machine, "Processor \"X\", 2 cores");
    r.context = 1024;
    r.batch = i;
    r.best_of = 1;
    r.repeats = 3;
    r.prefill_tok_s = (struct measure){1234.567, 0.125};
    r.decode_tok_s = (struct measure){0.1 * i, 1e-9};
    r.token_p50_ms = 1e10 / 3;
    if (i % 2) r.memory_mib = 17;
    return r;
}

static void same_result(const struct result *a, const struct result *b) {
    struct buf x = {0}, y = {0};
    result_write_json(a, &x);
    result_write_json(b, &y);
    assert_string_equal(x.data, y.data);
    buf_free(&x);
    buf_free(&y);
}

static void both_forms_say_the_same(void **state) {
    (void)state;
    struct err err = {0};
    char json[] = "/tmp/bench-test-json-XXXXXX", csv[] = "/tmp/bench-test-csv-XXXXXX";
    close(mkstemp(json));
    close(mkstemp(csv));
    for (int i = 1; i <= 5; i++) {
        struct result r = example(i);
        assert_int_equal(result_append(json, false, &r, &err), 0);
        assert_int_equal(result_append(csv, true, &r, &err), 0);
    }
    struct results a, b;
    if (results_read(json, &a, &err) || results_read(csv, &b, &err)) fail_msg("%s", err.message);
    assert_int_equal(a.count, 5);
    assert_int_equal(b.count, 5);
    for (int i = 0; i < 5; i++) {
        struct result r = example(i + 1);
        same_result(&a.items[i], &b.items[i]);
        same_result(&a.items[i], &r);
        assert_true(isnan(a.items[i].memory_mib) == (i % 2 == 1));
        assert_true(isnan(b.items[i].ttft_half_ms.median));
    }
    results_free(&a);
    results_free(&b);
    /* A line that a crash tore is left out; what is whole counts. */
    struct stat st;
    assert_int_equal(stat(json, &st), 0);
    assert_int_equal(truncate(json, st.st_size - 20), 0);
    if (results_read(json, &a, &err)) fail_msg("%s", err.message);
    assert_true(a.torn);
    assert_int_equal(a.count, 4);
    assert_true(a.whole_bytes < (size_t)st.st_size);
    results_free(&a);
    unlink(json);
    unlink(csv);
}

static void broken_files_are_named(void **state) {
    (void)state;
    struct buf good = {0}, heading = {0};
    struct result r = example(1);
    result_write_json(&r, &good);
    result_write_csv_heading(&heading);
    char *cut = strdup(good.data);
    strcpy(strstr(cut, "\"batch\":1"), "\"batch\":\"one\"}\n");
    const char *const wrong[][2] = {{"{}\n", "line 1: model is missing"},
                                    {"{\"model\":3}\n", "model: expected a string"},
                                    {cut, "line 1"},
                                    {"model,weights\n", "expected"},
                                    {"nonsense\n", "column 1: expected 'model', found 'nonsense'"},
                                    {"{\"model\":\n", "line 1"}};
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        struct err err = {0};
        struct results l;
        char path[] = "/tmp/bench-test-wrong-XXXXXX";
        close(mkstemp(path));
        assert_int_equal(file_replace(path, wrong[i][0], strlen(wrong[i][0]), &err), 0);
        assert_int_not_equal(results_read(path, &l, &err), 0);
        if (!strstr(err.message, wrong[i][1]) || !strstr(err.message, path)) fail_msg("%zu: %s", i, err.message);
        unlink(path);
    }
    struct err err = {0};
    struct results l;
    buf_str(&heading, "a,b\n");
    char path[] = "/tmp/bench-test-wrong-XXXXXX";
    close(mkstemp(path));
    assert_int_equal(file_replace(path, heading.data, heading.len, &err), 0);
    assert_int_not_equal(results_read(path, &l, &err), 0);
    assert_non_null(strstr(err.message, "line 2: expected"));
    unlink(path);
    free(cut);
    buf_free(&good);
    buf_free(&heading);
}

/* ---- verdicts ---- */

static void verdicts(void **state) {
    (void)state;
    const struct {
        struct measure a, b;
        bool more;
        enum verdict want;
    } cases[] = {{{100, 2}, {110, 2}, true, VERDICT_FASTER},   {{100, 2}, {110, 2}, false, VERDICT_SLOWER},
                 {{100, 2}, {90, 2}, true, VERDICT_SLOWER},    {{100, 2}, {90, 2}, false, VERDICT_FASTER},
                 {{100, 6}, {110, 5}, true, VERDICT_NOISE},    {{100, 5}, {110, 4}, true, VERDICT_FASTER},
                 {{100, 0}, {100.5, 0}, true, VERDICT_NOISE},  {{100, 0}, {101.5, 0}, true, VERDICT_FASTER},
                 {{NAN, NAN}, {101.5, 0}, true, VERDICT_NONE}, {{100, NAN}, {120, NAN}, true, VERDICT_FASTER}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        assert_int_equal(compare_measures(cases[i].a, cases[i].b, cases[i].more), cases[i].want);
}

static void medians_and_percentiles(void **state) {
    (void)state;
    double odd[] = {5, NAN, 1, 3}, even[] = {4, 1, 2, 3};
    struct measure m = measure_of(odd, 4);
    assert_true(m.median == 3 && m.spread == 4);
    m = measure_of(even, 4);
    assert_true(m.median == 2.5 && m.spread == 3);
    assert_true(isnan(measure_of(NULL, 0).median));
    double sorted[100];
    for (int i = 0; i < 100; i++) sorted[i] = i + 1;
    assert_true(percentile(sorted, 100, 0.5) == 50 && percentile(sorted, 100, 0.99) == 99 && percentile(sorted, 1, 0.99) == 1);
}

/* ---- energy ---- */

/* A meter tells joules that only grow, or that it has none; a card that is not there has none. */
static void energy_or_not(void **state) {
    (void)state;
    for (int cards = 0; cards < 3; cards++) {
        struct energy_meter m;
        energy_meter_open(&m, cards == 2 ? 1000 : 0, cards ? 1 : 0);
        double first = energy_meter_read(&m), second = energy_meter_read(&m);
        if (!strcmp(m.source, "not available")) assert_true(isnan(first) && isnan(second));
        else assert_true(second >= first && first >= 0 && cards < 2 && !strcmp(m.source, cards ? "NVML" : "RAPL"));
        energy_meter_close(&m);
    }
}

/* ---- random checkpoints ---- */

static void *new_folder(char *path) {
    assert_non_null(mkdtemp(path));
    return path;
}

/* The published size of the 2B FP8 file; and what a decoded token reads, as the facts about the chip reckon it. */
static void real_shapes(void **state) {
    (void)state;
    static const struct {
        const char *name, *storage;
        double decode_gb, tolerance; /* mixed files keep some layers dense */
    } cases[] = {{"2b-fp8", "fp8", 2.032, 0.002}, {"2b-bf16", "bf16", 3.441, 0.002}, {"4b-bf16", "bf16", 8.045, 0.002},
                 {"8b-bf16", "bf16", 15.136, 0.002}, {"2b-nf4", "mixed nf4/bf16", 1.349, 0.08}, {"8b-nf4", "mixed nf4/bf16", 4.828, 0.08}};
    static const struct qvl_options options;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char folder[] = "/tmp/bench-test-shape-XXXXXX", path[300];
        struct err err = {0};
        struct model_facts f;
        struct stat st;
        const struct known_model *k = known_model_find(cases[i].name);
        new_folder(folder);
        if (random_checkpoint_write(folder, shape_find(k->size), k->format, true, &err)) fail_msg("%s", err.message);
        if (model_facts_read(folder, &options, &f, &err)) fail_msg("%s", err.message);
        assert_string_equal(f.storage, cases[i].storage);
        if (fabs((double)f.decode_bytes / 1e9 / cases[i].decode_gb - 1) > cases[i].tolerance)
            fail_msg("%s: %zu bytes a token", cases[i].name, f.decode_bytes);
        if (i == 0) {
            snprintf(path, sizeof path, "%s/model-00001-of-00001.safetensors", folder);
            assert_int_equal(stat(path, &st), 0);
            assert_int_equal(st.st_size, 3468553776);
            assert_int_equal(f.kv_token_bytes, 114688);
            assert_true(st.st_blocks * 512 < 64 << 20); /* holes */
        }
        random_checkpoint_remove(folder);
        assert_int_not_equal(stat(folder, &st), 0);
    }
    assert_ptr_equal(known_model_find("QWEN/Qwen3-VL-2B-Thinking-FP8"), known_model_find("2b-fp8"));
    assert_null(known_model_find("3b-fp8"));
}

static int by_row(const void *a, const void *b, void *bytes) { return memcmp(a, b, *(const size_t *)bytes); }

/* Equal rows of the vocabulary would give equal logits: a sampler must look at all of them, which no real checkpoint asks for. */
static void rows_differ(void **state) {
    (void)state;
    char folder[] = "/tmp/bench-test-rows-XXXXXX";
    struct err err = {0};
    struct checkpoint *c;
    struct model_weights w;
    struct shape s = *shape_find("tiny");
    s.vocab = 3 * POOL_COUNT / s.hidden; /* the pool goes round three times */
    new_folder(folder);
    if (random_checkpoint_write(folder, &s, SHAPE_BF16, false, &err)) fail_msg("%s", err.message);
    if (checkpoint_open(folder, &c, &err) || model_weights_open(c, &w, &err)) fail_msg("%s", err.message);
    size_t row = (size_t)s.hidden * 2, equal = 0;
    char *rows = malloc(row * (size_t)s.vocab);
    assert_non_null(rows);
    memcpy(rows, w.embed.data, row * (size_t)s.vocab);
    qsort_r(rows, (size_t)s.vocab, row, by_row, &row);
    for (int i = 1; i < s.vocab; i++) equal += memcmp(rows + row * (size_t)i, rows + row * (size_t)(i - 1), row) == 0;
    assert_int_equal(equal, 0);
    free(rows);
    model_weights_close(&w);
    checkpoint_close(c);
    random_checkpoint_remove(folder);
}

/* The tiny shape in every storage kind is a checkpoint that answers, with numbers that are no NaN. */
static void tiny_ones_answer(void **state) {
    (void)state;
    static const char *const names[] = {"tiny-bf16", "tiny-fp8", "tiny-nf4"};
    for (int i = 0; i < 3; i++) {
        char folder[] = "/tmp/bench-test-tiny-XXXXXX";
        struct err err = {0};
        struct qvl_model *m;
        struct qvl_session *s;
        struct qvl_result r;
        const struct known_model *k = known_model_find(names[i]);
        const struct qvl_options options = {.threads = 2, .kv_bytes = 16 << 20};
        new_folder(folder);
        if (random_checkpoint_write(folder, shape_find(k->size), k->format, false, &err)) fail_msg("%s", err.message);
        if (qvl_load(folder, &options, &m, &err)) fail_msg("%s", err.message);
        random_checkpoint_remove(folder);
        if (qvl_session_new(m, &s, &err) || qvl_session_raw(s, "a walk in the woods", 19, false, &err)) fail_msg("%s", err.message);
        const struct qvl_generate g = {.max_tokens = 12, .ignore_end = true};
        if (qvl_generate(s, &g, &r, &err)) fail_msg("%s: %s", names[i], err.message);
        assert_int_equal(r.token_count, 12);
        for (int t = 0; t < 12; t++) assert_true(isfinite(r.tokens[t].logprob) && r.tokens[t].logprob <= 0);
        qvl_result_free(&r);
        qvl_session_free(s);
        qvl_unload(m);
    }
}

/* ---- prompts ---- */

static size_t ids_of(struct qvl_session *s, int32_t **ids) {
    struct err err = {0};
    size_t n;
    if (qvl_session_ids(s, ids, &n, &err)) fail_msg("%s", err.message);
    return n;
}

static void prompts_have_their_length(void **state) {
    (void)state;
    struct err err = {0};
    const struct qvl_options options = {.threads = 2, .kv_bytes = 32 << 20};
    struct qvl_model *m = golden_model("tiny-a", &options);
    struct frame_files frames;
    struct prompt_maker p;
    frame_files_read("datasets/tinywoods-200", &frames);
    assert_int_equal(frames.count, 200);
    assert_true(frames.files[0].len < frames.files[199].len);
    if (prompt_maker_open(&p, m, &frames, &err)) fail_msg("%s", err.message);
    assert_true(p.picture_tokens > 3);
    for (int task = 0; task < TASK_COUNT; task++) {
        const struct cell c = {.task = (enum task)task, .picture_share = task == TASK_MIXED ? 0.6 : 0, .batch = 1, .best_of = 1};
        struct qvl_session *a, *b;
        int32_t *x, *y;
        int pictures;
        int64_t length = 8 * p.picture_tokens + 37, kept = length / 2;
        if (prompt_maker_make(&p, &c, length, 5, length, 0, &a, &pictures, &err)) fail_msg("%s", err.message);
        if (prompt_maker_make(&p, &c, length, 5, kept, 99, &b, &pictures, &err)) fail_msg("%s", err.message);
        assert_int_equal(ids_of(a, &x), length);
        assert_int_equal(ids_of(b, &y), length);
        assert_int_equal(pictures, task == TASK_TEXT ? 0 : task == TASK_MIXED ? 5 : 1);
        assert_memory_equal(x, y, (size_t)kept * sizeof *x);
        assert_memory_not_equal(x + kept, y + kept, (size_t)(length - kept) * sizeof *x);
        free(x);
        free(y);
        qvl_session_free(a);
        qvl_session_free(b);
    }
    struct qvl_session *none;
    int pictures;
    const struct cell small = {.task = TASK_PICTURE_SIMPLE};
    assert_int_equal(prompt_maker_make(&p, &small, p.picture_tokens, 1, 1, 1, &none, &pictures, &err), ERR_LIMIT);
    assert_null(none);
    prompt_maker_close(&p);
    frame_files_free(&frames);
    frame_files_read("/nonexistent", &frames);
    assert_int_equal(frames.count, 0);
    assert_non_null(strstr(frames.missing, "/nonexistent"));
    frame_files_free(&frames);
    qvl_unload(m);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(lists_are_read),          cmocka_unit_test(wrong_lists_are_named),
                                       cmocka_unit_test(cells_of_a_matrix),       cmocka_unit_test(both_forms_say_the_same),
                                       cmocka_unit_test(broken_files_are_named),  cmocka_unit_test(verdicts),
                                       cmocka_unit_test(medians_and_percentiles), cmocka_unit_test(real_shapes),
                                       cmocka_unit_test(energy_or_not), cmocka_unit_test(rows_differ), cmocka_unit_test(tiny_ones_answer),        cmocka_unit_test(prompts_have_their_length)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
