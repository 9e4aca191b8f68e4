/* KV pages of e4m3 (--kv fp8) against those of bf16: what they cost in accuracy on the checkpoints of tests/golden and on the bundled trained one,
 * that a page of one kind is never taken for one of the other, that half the memory is planned for. Runs on a GPU, or under
 * tests/cuda_emulation (fewer prompts). The kernels alone: test_cuda_ops.cu. */
#include <dirent.h>
#include <unistd.h>

#include "backend/cuda/cuda.h"
#include "engine/room.h"
#include "golden_prompt.h"
#include "golden_session.h"

static const size_t mib = 1 << 20;

static bool emulated(void) {
    struct qvl_info info;
    struct qvl_options o = {.device = "cuda", .threads = 1, .kv_bytes = 8 * mib};
    struct qvl_model *m = golden_model("tiny-a", &o);
    qvl_model_info(m, &info);
    bool yes = strstr(info.kernels, "emulated") != NULL;
    qvl_unload(m);
    return yes;
}

/* Logits of a golden's prompt cut every so many tokens (each cut goes another way), from the reference's fp32 run. */
static double distance_of(const char *model, const char *name, bool kv_fp8, int cut, double *noise) {
    struct prompt_case x;
    struct backend_options o = {.kv_bytes = 64 * mib, .kv_fp8 = kv_fp8};
    prompt_case_open(&x, &backend_cuda, model, name, &o);
    double d = prompt_case_distance(&x, cut ? cut : x.p.n);
    *noise = x.noise;
    prompt_case_close(&x);
    return d;
}

/* Random weights, which attend to everything a little: the loss is that of rounding values to 1/16, averaged. */
static void goldens(void **state) {
    (void)state;
    static const char *const cases[][2] = {{"tiny-a", "text"}, {"tiny-c", "text"}, {"tiny-c", "image"}, {"tiny-fp8", "text"}, {"tiny-nf4", "text"}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        static const int cuts[] = {0, 17, 1};
        double noise, least = INFINITY, most = 0;
        double bf16 = distance_of(cases[i][0], cases[i][1], false, 0, &noise);
        for (int k = 0; k < 3; k++) {
            double d = distance_of(cases[i][0], cases[i][1], true, cuts[k], &noise);
            if (!(d < 0.05)) fail_msg("%s %s cut every %d tokens: logits %.3g from the reference with FP8 pages", cases[i][0], cases[i][1], cuts[k], d);
            if (d < least) least = d;
            if (d > most) most = d;
        }
        fprintf(stderr, "  %-9s %-6s logits from the fp32 reference: bf16 pages %.2e, FP8 pages %.2e to %.2e (the reference's own bf16 run %.2e)\n", cases[i][0], cases[i][1], bf16, least,
                most, noise);
        assert_true(least > bf16 && most < 1.5 * least); /* all ways read the same bytes */
    }
}

/* A page carried out and in again, or copied, holds the same; of a copy of some tokens, their factors too. */
static void pages(void **state) {
    (void)state;
    struct checkpoint *c;
    struct err err = {0};
    struct backend_options o = {.kv_bytes = 64 * mib, .kv_fp8 = true};
    struct backend_model *m = prompt_load(&backend_cuda, "tiny-c", &o, &c);
    size_t n = backend_cuda.page_bytes(m);
    assert_int_equal(n, 2 * 2 * 2 * 32 * (128 + 4)); /* layers, k and v, kv heads, tokens, values and a factor */
    uint8_t *in = malloc(n), *out = malloc(n);
    for (size_t i = 0; i < n; i++) in[i] = (uint8_t)(1 + i % 251);
    int32_t a = backend_cuda.page_alloc(m), b = backend_cuda.page_alloc(m), d = backend_cuda.page_alloc(m);
    assert_int_equal(backend_cuda.page_import(m, a, in, &err), 0);
    assert_int_equal(backend_cuda.page_copy(m, b, a, BACKEND_PAGE_TOKENS, &err), 0);
    assert_int_equal(backend_cuda.page_export(m, b, out, &err), 0);
    assert_memory_equal(in, out, n);
    memset(out, 0, n);
    assert_int_equal(backend_cuda.page_import(m, d, out, &err), 0);
    assert_int_equal(backend_cuda.page_copy(m, d, a, 5, &err), 0);
    assert_int_equal(backend_cuda.page_export(m, d, out, &err), 0);
    for (size_t head = 0; head < 8; head++)
        for (size_t i = 0; i < n / 8; i++) {
            bool taken = i < 32 * 128 ? i < 5 * 128 : i - 32 * 128 < 5 * 4;
            assert_int_equal(out[head * (n / 8) + i], taken ? in[head * (n / 8) + i] : 0);
        }
    free(in), free(out);
    backend_cuda.unload(m);
    checkpoint_close(c);
}

static int top_of(const float *logits, int n) {
    int best = 0;
    for (int i = 1; i < n; i++)
        if (logits[i] > logits[best]) best = i;
    return best;
}

/* Real shapes: PMD_KV_CHECKPOINT names a folder (of random weights, say). A prompt in one pass, then steps; figures, and the ways against each other. */
static void real_shapes(void **state) {
    (void)state;
    enum { PROMPT = 1000, STEPS = 40, TOKENS = PROMPT + STEPS };
    const char *folder = getenv("PMD_KV_CHECKPOINT");
    struct err err = {0};
    if (!folder) skip();
    static int32_t ids[TOKENS], positions[TOKENS * 3], pages[TOKENS / 32 + 1];
    float *logits[3];
    int64_t vocab = 0;
    for (int k = 0; k < 3; k++) { /* bf16 pages, FP8 pages, FP8 pages and all in one pass */
        struct checkpoint *c;
        struct backend_model *m;
        struct backend_options o = {.kv_bytes = 512 * mib, .kv_fp8 = k > 0};
        if (checkpoint_open(folder, &c, &err) || backend_cuda.load(c, &o, &m, &err)) fail_msg("%s", err.message);
        vocab = checkpoint_config(c)->text.vocab;
        logits[k] = malloc(STEPS * (size_t)vocab * sizeof **logits);
        for (int i = 0; i < TOKENS; i++) ids[i] = (int32_t)((i * 7919LL + i * i * 31LL) % (vocab - 1000)), positions[3 * i] = positions[3 * i + 1] = positions[3 * i + 2] = i;
        for (int i = 0; i <= TOKENS / 32; i++) pages[i] = backend_cuda.page_alloc(m);
        int rows[STEPS];
        for (int at = 0; at < TOKENS;) {
            int count = k == 2 ? TOKENS : at < PROMPT ? PROMPT : 1;
            struct span s = {.ids = ids + at, .count = count, .first = at, .positions = positions + 3 * at, .pages = pages, .page_count = TOKENS / 32 + 1, .logits_rows = rows};
            if (k == 2) s.logits_count = STEPS, s.logits = logits[k];
            if (count == 1) s.logits_count = 1, s.logits = logits[k] + (at - PROMPT) * vocab;
            for (int i = 0; i < STEPS; i++) rows[i] = k == 2 ? PROMPT + i : 0;
            if (backend_cuda.forward(m, &s, 1, &err)) fail_msg("%s", err.message);
            at += count;
        }
        backend_cuda.unload(m);
        checkpoint_close(c);
    }
    int same = 0, ways = 0;
    for (int i = 0; i < STEPS; i++) {
        int a = top_of(logits[0] + i * vocab, (int)vocab), b = top_of(logits[1] + i * vocab, (int)vocab), d = top_of(logits[2] + i * vocab, (int)vocab);
        same += a == b, ways += b == d;
    }
    size_t n = STEPS * (size_t)vocab;
    double lost = relative_distance(logits[1], logits[0], n), apart = relative_distance(logits[2], logits[1], n);
    fprintf(stderr, "  %s, steps after %d tokens: logits with FP8 pages %.2e from those with bf16 pages, top-1 equal at %d of %d; steps from one pass, both FP8: %.2e, %d of %d\n", folder, PROMPT,
            lost, same, STEPS, apart, ways, STEPS);
    assert_true(lost < 0.1 && apart < 0.1);
    for (int k = 0; k < 3; k++) free(logits[k]);
}

/* ---- through the engine ---- */

static int scores(struct qvl_model *m, const char *folder, const struct json *entry, struct qvl_token **tokens, size_t *count, size_t *answer) {
    static char system[8000];
    char path[400], text[16000];
    struct err err = {0};
    struct buf file = {0};
    struct qvl_session *s;
    if (!*system) {
        struct buf words = {0};
        if (file_read("configs/prompts/tinywoods.txt", 1 << 20, &words, &err)) fail_msg("%s", err.message);
        buf_str(&words, "");
        const char *from = strstr(words.data, "[system]\n") + 9, *to = strstr(from, "\n[user]");
        while (to > from && to[-1] == '\n') to--;
        snprintf(system, sizeof system, "%.*s", (int)(to - from), from);
        buf_free(&words);
    }
    snprintf(path, sizeof path, "%s/%s", folder, json_as_string(json_get(entry, "frame_path"), ""));
    if (file_read(path, 1 << 20, &file, &err)) fail_msg("%s", err.message);
    const char *action = json_as_string(json_get(entry, "oracle_action"), "");
    int n = snprintf(text, sizeof text, "<|im_start|>system\n%s<|im_end|>\n<|im_start|>user\n<|vision_start|><|image_pad|><|vision_end|>%s<|im_end|>\n<|im_start|>assistant\n{\"action\":\"%s\"}<|im_end|>",
                     system, json_as_string(json_get(entry, "prompt"), ""), action);
    char *tail = strstr(text, "{\"action\":\"");
    while (strstr(tail + 1, "{\"action\":\"")) tail = strstr(tail + 1, "{\"action\":\"");
    int32_t *ids;
    if (qvl_tokenize(m, tail + 11, strlen(tail + 11), true, &ids, answer, &err)) fail_msg("%s", err.message);
    free(ids);
    struct qvl_part picture = {.encoded = file.data, .encoded_bytes = file.len};
    if (qvl_session_new(m, &s, &err) || qvl_session_raw_picture(s, &picture, &err) || qvl_session_raw(s, text, (size_t)n, true, &err)) fail_msg("%s", err.message);
    if (qvl_score(s, 2, tokens, count, &err)) fail_msg("%s", err.message);
    qvl_session_free(s);
    buf_free(&file);
    return 0;
}

/* The trained checkpoint, answers of the oracle forced: top-1 within the answer must be that of bf16 pages, or nearly tie with it. */
static void trained(void **state) {
    (void)state;
    static const char folder[] = "datasets/tinywoods-200";
    struct qvl_options o = {.device = "cuda", .threads = 1, .kv_bytes = 16 * mib};
    struct err err = {0};
    struct qvl_model *m[2];
    struct buf lines = {0};
    struct arena arena = {0};
    int most = emulated() && !slow_tests() ? 3 : 150, prompts = 0, positions = 0, different = 0, answers = 0, answers_different = 0;
    double sum = 0, largest = 0, answer_sum = 0, answer_largest = 0;
    if (!file_exists("models/tinywoods-vl/model.safetensors") || !file_exists("datasets/tinywoods-200/manifest.jsonl")) skip();
    for (int k = 0; k < 2; k++) {
        o.kv = k ? "fp8" : "bf16";
        if (qvl_load("models/tinywoods-vl", &o, &m[k], &err)) fail_msg("%s", err.message);
    }
    if (file_read("datasets/tinywoods-200/manifest.jsonl", 64 << 20, &lines, &err)) fail_msg("%s", err.message);
    buf_str(&lines, "");
    for (char *line = lines.data, *end; *line && prompts < most && (end = strchr(line, '\n')); line = end + 1) {
        const struct json *entry = json_parse(line, (size_t)(end - line), "manifest.jsonl", &arena, &err);
        struct qvl_token *t[2];
        size_t count[2], answer;
        if (!entry) fail_msg("%s", err.message);
        for (int k = 0; k < 2; k++) scores(m[k], folder, entry, &t[k], &count[k], &answer);
        assert_int_equal(count[0], count[1]);
        assert_true(answer > 0 && answer < count[0]);
        size_t start = count[0];
        while (start > 1 && t[0][start - 1].id != m[0]->config->image_token) start--; /* from the first token after the picture on */
        for (size_t i = start; i < count[0]; i++) {
            bool in_answer = i >= count[0] - answer, same = t[0][i].top_id[0] == t[1][i].top_id[0];
            double d = fabs((double)t[0][i].logprob - (double)t[1][i].logprob);
            positions++, different += !same, sum += d, largest = d > largest ? d : largest;
            if (!in_answer) continue;
            answers++, answers_different += !same, answer_sum += d, answer_largest = d > answer_largest ? d : answer_largest;
            if (!same && t[0][i].top_logprob[0] - t[0][i].top_logprob[1] > 0.1f)
                fail_msg("prompt %d, token %zu of %zu: with FP8 pages %d is likeliest, with bf16 %d by %.3g", prompts, i, count[0], t[1][i].top_id[0], t[0][i].top_id[0],
                         (double)(t[0][i].top_logprob[0] - t[0][i].top_logprob[1]));
        }
        for (int k = 0; k < 2; k++) free(t[k]);
        prompts++;
    }
    fprintf(stderr, "  tinywoods-vl, %d prompts: top-1 as with bf16 pages at %d of %d positions, in the answers %d of %d; |difference of log-probability| mean %.2e, largest %.2e, in the answers "
            "%.2e, %.2e\n", prompts, positions - different, positions, answers - answers_different, answers, sum / positions, largest, answer_sum / answers, answer_largest);
    assert_true(prompts == most && answers > prompts && sum > 0);
    arena_free(&arena);
    buf_free(&lines);
    for (int k = 0; k < 2; k++) qvl_unload(m[k]);
}

static void remove_folder(const char *folder) {
    char path[600];
    DIR *d = opendir(folder);
    for (struct dirent *e; d && (e = readdir(d));) {
        if (!strcmp(e->d_name, ".") || !strcmp(e->d_name, "..")) continue;
        snprintf(path, sizeof path, "%s/%s", folder, e->d_name);
        if (unlink(path)) remove_folder(path);
    }
    if (d) closedir(d);
    rmdir(folder);
}

/* Pages on disk of one kind are none of the other's; of its own kind they are read again, with the same answer. */
static void on_disk(void **state) {
    (void)state;
    char folder[] = "/tmp/test-cuda-kv-XXXXXX";
    struct err err = {0};
    struct golden g;
    char *answer[3] = {0};
    int64_t hits[3];
    assert_non_null(mkdtemp(folder));
    golden_open(&g, "tiny-c", "image");
    static const char *const kinds[] = {"bf16", "fp8", "fp8"};
    struct hash128 identity[3];
    for (int k = 0; k < 3; k++) {
        struct qvl_options o = {.device = "cuda", .threads = 1, .kv_bytes = 16 * mib, .cache_dir = folder, .cache_always = true, .kv = kinds[k]};
        struct qvl_model *m = golden_model("tiny-c", &o);
        struct qvl_session *s;
        struct qvl_result r;
        struct qvl_stats stats;
        const struct qvl_generate greedy = {.sampling.greedy = true, .max_tokens = 4, .no_append = true, .ignore_end = true};
        if (qvl_session_new(m, &s, &err)) fail_msg("%s", err.message);
        golden_messages(&g, s);
        if (qvl_generate(s, &greedy, &r, &err)) fail_msg("%s", err.message);
        qvl_model_stats(m, &stats);
        hits[k] = stats.disk_hit_tokens, identity[k] = m->identity;
        answer[k] = strdup(r.text);
        qvl_result_free(&r);
        qvl_session_free(s);
        qvl_unload(m);
    }
    assert_int_equal(hits[0], 0);
    assert_int_equal(hits[1], 0);
    assert_true(hits[2] > 32);
    assert_string_equal(answer[1], answer[2]);
    assert_memory_not_equal(&identity[0], &identity[1], sizeof identity[0]);
    assert_memory_equal(&identity[1], &identity[2], sizeof identity[0]);
    for (int k = 0; k < 3; k++) free(answer[k]);
    golden_close(&g);
    remove_folder(folder);
}

static void planned(void **state) {
    (void)state;
    struct err err = {0};
    struct qvl_plan bf16, fp8;
    struct qvl_options o = {.device = "cuda", .threads = 1, .kv_bytes = 16 * mib, .kv = "bf16"};
    if (qvl_plan_load("tests/golden/tiny-c", &o, &bf16, &err)) fail_msg("%s", err.message);
    o.kv = "fp8";
    if (qvl_plan_load("tests/golden/tiny-c", &o, &fp8, &err)) fail_msg("%s", err.message);
    assert_int_equal(bf16.kv_bytes_per_token, 2 * 2 * 2 * 128 * 2);
    assert_int_equal(fp8.kv_bytes_per_token, 2 * 2 * 2 * (128 + 4));
    assert_true(fp8.work_bytes > bf16.work_bytes); /* prompts are unpacked */
    struct qvl_model *m = golden_model("tiny-c", &o);
    struct qvl_info info;
    qvl_model_info(m, &info);
    assert_non_null(strstr(info.kernels, "FP8 KV pages"));
    assert_null(strstr(info.kernels, "one kernel")); /* the graph, which reads them */
    assert_int_equal(m->backend->page_bytes(m->device), fp8.kv_bytes_per_token * BACKEND_PAGE_TOKENS);
    qvl_unload(m);
    o.kv = "int8";
    assert_int_equal(qvl_plan_load("tests/golden/tiny-c", &o, &fp8, &err), ERR_ARGUMENT);
    assert_non_null(strstr(err.message, "int8"));
    o.kv = "fp8", o.device = "cpu";
    assert_int_equal(qvl_load("tests/golden/tiny-c", &o, &m, &err), ERR_ARGUMENT);
    assert_non_null(strstr(err.message, "cpu"));
}

int main(int argc, char **argv) {
    if (argc > 1) cmocka_set_test_filter(argv[1]);
    struct err err = {0};
    if (!cuda_available(&err)) {
        fprintf(stderr, "%s\n", err.message);
        return 1;
    }
    const struct CMUnitTest tests[] = {cmocka_unit_test(goldens), cmocka_unit_test(pages), cmocka_unit_test(real_shapes), cmocka_unit_test(trained), cmocka_unit_test(on_disk), cmocka_unit_test(planned)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
