/* `pmd-agent models` as a user calls it, against a Hub on loopback: exit status, what goes to which output, and that the token never
 * shows. Each call runs in a process of its own with an environment of its own. */
#include "test.h"

#include <fcntl.h>
#include <limits.h>

#include "base/file.h"
#define ERR_STATE OPENSSL_ERR_STATE
#include "hub_server.h"
#undef ERR_STATE
#include "app/commands.h"
#include "app/model_plan.h"
#include "checkpoint/checkpoint.h"

static struct hub_server server;
static char home[] = "/tmp/pmd-models-XXXXXX", endpoint[64];
static struct buf out, complaints;

enum { MOST_WORDS = 12 };
#define SECRET "hf_good_and_very_secret"

/* words: after `models`, NULL-terminated. environment: NAME=VALUE, NULL-terminated, on top of the test server's. */
static int run(const char *const *words, const char *const *environment) {
    char out_path[64], err_path[64];
    struct err err = {0};
    snprintf(out_path, sizeof out_path, "%s/out", home);
    snprintf(err_path, sizeof err_path, "%s/err", home);
    fflush(stdout), fflush(stderr);
    pid_t child = fork();
    if (child == 0) {
        static const char *const unset[] = {"HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HUGGING_FACE_HUB_TOKEN", "HUGGINGFACE_HUB_TOKEN", "HF_TOKEN_PATH",
                                            "HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_HUB_DISABLE_IMPLICIT_TOKEN", "http_proxy", "HTTP_PROXY",
                                            "ALL_PROXY", "all_proxy", "XDG_CACHE_HOME", "HF_MODELS_FILE", "REAL_MODELS_DRYRUN", "MODEL_BACKEND"};
        for (size_t i = 0; i < sizeof unset / sizeof *unset; i++) unsetenv(unset[i]);
        setenv("HF_ENDPOINT", endpoint, 1);
        setenv("HF_HOME", home, 1);
        setenv("HF_TOKEN", SECRET, 1);
        for (int i = 0; environment && environment[i]; i++) putenv((char *)environment[i]);
        int o = open(out_path, O_WRONLY | O_CREAT | O_TRUNC, 0600), e = open(err_path, O_WRONLY | O_CREAT | O_TRUNC, 0600);
        if (o < 0 || e < 0 || dup2(o, 1) < 0 || dup2(e, 2) < 0) _exit(120);
        char *argv[MOST_WORDS + 2] = {"models"};
        int argc = 1;
        for (int i = 0; words[i]; i++) argv[argc++] = (char *)words[i];
        int status = cmd_models(argc, argv);
        fflush(stdout), fflush(stderr);
        _exit(status);
    }
    int status = -1;
    assert_int_equal(waitpid(child, &status, 0), child);
    buf_clear(&out), buf_clear(&complaints);
    buf_str(&out, ""), buf_str(&complaints, "");
    assert_int_equal(file_read(out_path, 1 << 20, &out, &err), 0);
    assert_int_equal(file_read(err_path, 1 << 20, &complaints, &err), 0);
    assert_null(strstr(out.data, "secret"));
    assert_null(strstr(complaints.data, "secret"));
    if (!WIFEXITED(status)) fail_msg("models %s ended with signal %d: %s", words[0], WTERMSIG(status), complaints.data);
    return WEXITSTATUS(status);
}

static void expect(int status, int expected) {
    if (status != expected) fail_msg("status %d, expected %d\n%s\n%s", status, expected, out.data, complaints.data);
}

static void expect_text(const struct buf *b, const char *text) {
    if (!strstr(b->data, text)) fail_msg("expected '%s' in:\n%s\n(outputs: %s / %s)", text, b->data, out.data, complaints.data);
}

#define MODELS(...) run((const char *const[]){__VA_ARGS__, NULL}, NULL)
#define MODELS_WITH(environment, ...) run((const char *const[]){__VA_ARGS__, NULL}, (const char *const[]){environment, NULL})
#define UNREACHABLE "HF_ENDPOINT=http://127.0.0.1:1"

static void write_list(const char *text, char variable[128]) {
    char path[64];
    struct err err = {0};
    snprintf(path, sizeof path, "%s/list.txt", home);
    assert_int_equal(file_replace(path, text, strlen(text), &err), 0);
    snprintf(variable, 128, "HF_MODELS_FILE=%s", path);
}

static void test_usage(void **state) {
    (void)state;
    static const char *const cases[][5] = {
        {"frobnicate"}, {"estimate"}, {"download"}, {"verify"}, {"smoke"}, {"list", "extra/word"}, {"check-token", "extra/word"},
        {"list", "--context"}, {"list", "--context", "many"}, {"list", "--context", "0"}, {"list", "--context", "99999999999999999999"},
        {"estimate", "a/b", "--batch", "4294967297"}, {"estimate", "a/b", "c/d"}, {"estimate", "a/b", "--repair"}, {"verify", "a/b", "--context", "5"}, {"estimate", "a/b", "--weights", "disk"}, {"smoke", "a/b", "--weights", "memory"},
        {"download", "a/b", "--revision"}, {"list", ""},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        expect(run(cases[i], NULL), 2);
        assert_int_equal(out.len, 0);
        expect_text(&complaints, "models list");
    }
    expect(run((const char *const[]){NULL}, NULL), 2);
    expect(MODELS("--help"), 0);
    expect_text(&out, "models verify");
}

static void test_list(void **state) {
    (void)state;
    char variable[128];
    write_list("# ours\r\n\n  Qwen/Qwen3-VL-2B-Thinking-FP8  # the small one\nsome/unknown-model\n", variable);
    /* Nothing can be asked: the sizes are those of the published shapes, and it says so. The published file has 3,468,553,776 bytes. */
    expect(run((const char *const[]){"--list", "--context", "4096", NULL}, (const char *const[]){variable, UNREACHABLE, NULL}), 0);
    expect_text(&out, "Qwen/Qwen3-VL-2B-Thinking-FP8");
    expect_text(&out, "3.46");
    expect_text(&out, "fp8");
    expect_text(&out, "Not checked for 2 of 2");
    expect_text(&out, "no answer from");
    expect_text(&out, "context 4096");
    write_list("ok/model\n\nnot a model # three words\n", variable);
    expect(MODELS_WITH(variable, "list"), 1);
    expect_text(&complaints, "list.txt:3: 'not a model'");
    expect(MODELS_WITH("HF_MODELS_FILE=/no/such/list", "list"), 1);
    expect_text(&complaints, "/no/such/list");
    /* The list that ships: all six ids. */
    expect(MODELS_WITH("HF_HUB_OFFLINE=1", "list"), 0);
    static const char *const ids[] = {"Qwen/Qwen3-VL-2B-Thinking-FP8", "unsloth/Qwen3-VL-2B-Instruct-unsloth-bnb-4bit", "unsloth/Qwen3-VL-4B-Thinking-unsloth-bnb-4bit",
                                      "unsloth/Qwen3-VL-4B-Instruct-unsloth-bnb-4bit", "unsloth/Qwen3-VL-8B-Thinking-unsloth-bnb-4bit",
                                      "unsloth/Qwen3-VL-8B-Instruct-unsloth-bnb-4bit"};
    for (int i = 0; i < 6; i++) expect_text(&out, ids[i]);
    expect_text(&out, "offline");
}

static void test_estimate(void **state) {
    (void)state;
    static const struct { const char *folder, *format; } goldens[] = {
        {"tests/golden/tiny-a", "bf16"}, {"tests/golden/tiny-b", "f32"}, {"tests/golden/tiny-c", "f16"}, {"tests/golden/tiny-fp8", "fp8"}, {"tests/golden/tiny-nf4", "nf4"},
    };
    for (size_t i = 0; i < sizeof goldens / sizeof *goldens; i++) {
        char line[64];
        expect(MODELS("estimate", goldens[i].folder), 0);
        snprintf(line, sizeof line, "format            %s (from: files)", goldens[i].format);
        expect_text(&out, line);
        expect_text(&out, "KV at 4096 x 1");
        assert_null(strstr(out.data, "not checked"));
    }
    expect(MODELS("estimate", "tests/golden/tiny-a", "--context", "100000", "--batch", "3"), 0);
    expect_text(&out, "KV at 100000 x 3     0.230 GB"); /* 768 bytes a token */
    expect_text(&out, "above the model's own limit of 4096");
    assert_null(strstr(out.data, "weights in memory"));
    expect(MODELS("estimate", "tests/golden/tiny-a", "--weights", "memory"), 0);
    expect_text(&out, "weights in memory");
    expect(MODELS("estimate", "tests/golden/text"), 1); /* a folder that is no model */
    expect_text(&complaints, "tests/golden/text/config.json");
    expect(MODELS("estimate", "no such thing"), 1);
    expect_text(&complaints, "no such folder");
    expect(MODELS("estimate", "good/never-seen"), 1); /* the Hub's config.json is read, and is no whole config */
    expect_text(&complaints, "good/never-seen");
    expect_text(&complaints, "text_config");
    expect(MODELS("estimate", "gated/Qwen3-VL-2B-Instruct"), 0); /* a known size: the published shape, and why not more */
    expect_text(&out, "published shape");
    expect_text(&out, "accept its licence");
    expect(MODELS("estimate", "absent/m"), 1);
    expect_text(&complaints, "check the spelling");
}

/* The counting formula against real files: every byte of a bf16 checkpoint, and the published file's size within 1 in 1,000. */
static void test_plan(void **state) {
    (void)state;
    static const char *const folders[] = {"tests/golden/tiny-a", "models/tinywoods-vl"};
    for (size_t i = 0; i < sizeof folders / sizeof *folders; i++) {
        struct checkpoint *c;
        struct model_plan p;
        struct err err = {0};
        int64_t bytes = 0;
        if (checkpoint_open(folders[i], &c, &err)) fail_msg("%s", err.message);
        for (size_t k = 0; k < checkpoint_tensor_count(c); k++) bytes += (int64_t)checkpoint_tensor_at(c, k)->bytes;
        model_plan_from_config(checkpoint_config(c), &p);
        assert_int_equal(p.weight_bytes, bytes);
        checkpoint_close(c);
    }
    struct model_plan p;
    model_plan_from_id("Qwen/Qwen3-VL-2B-Thinking-FP8", &p);
    assert_true(p.weight_bytes > 3468553776 * 0.999 && p.weight_bytes < 3468553776 * 1.001);
    assert_int_equal(p.kv_bytes_per_token, 114688); /* 2 x 28 layers x 8 heads x 128 x 2 bytes */
    assert_int_equal(p.fp8_kv_bytes_per_token, 59136); /* 2 x 28 x 8 x (128 + 4) */
    model_plan_from_id("some/other-2B-model", &p);
    assert_int_equal(p.source, PLAN_UNKNOWN);
}

static void test_token(void **state) {
    (void)state;
    expect(MODELS("check-token"), 0);
    expect_text(&out, "token: HF_TOKEN;");
    expect_text(&out, "account fen");
    expect(MODELS_WITH("HF_TOKEN=hf_bad_but_secret", "--check-token"), 1);
    expect_text(&complaints, "make a new one");
    expect(MODELS_WITH("HF_TOKEN=", "check-token"), 1);
    expect_text(&complaints, "no token");
    expect(MODELS_WITH("HF_TOKEN=two words secret", "check-token"), 1);
    expect_text(&complaints, "white space");
    /* A dry run forgives what cannot be asked, not what is refused. */
    expect(run((const char *const[]){"check-token", NULL}, (const char *const[]){"REAL_MODELS_DRYRUN=1", "HF_TOKEN=hf_bad_but_secret", NULL}), 1);
    expect(run((const char *const[]){"check-token", NULL}, (const char *const[]){"REAL_MODELS_DRYRUN=1", UNREACHABLE, NULL}), 0);
    expect_text(&out, "not checked: no answer from");
}

static void test_download_and_verify(void **state) {
    (void)state;
    char path[PATH_MAX];
    struct err err = {0};
    expect(MODELS_WITH("REAL_MODELS_DRYRUN=1", "download", "good/m"), 0);
    expect_text(&out, "1000000  missing model.safetensors");
    expect_text(&out, "1.000 MB to fetch");
    expect_text(&out, "free on disk");
    assert_int_equal(server.seen->storage_gets, 0);
    expect(MODELS("verify", "good/m"), 1);
    expect_text(&complaints, "not in the cache");
    expect(MODELS("download", "good/m"), 0);
    snprintf(path, sizeof path, "%s/hub/models--good--m/snapshots/%s\n", home, HUB_COMMIT);
    assert_string_equal(out.data, path); /* standard output is the folder and nothing else */
    expect_text(&complaints, "100.0 %  3/3 files");
    expect_text(&complaints, "good/m is complete");
    assert_null(strchr(complaints.data, '\r')); /* no terminal: plain lines */
    assert_null(strchr(complaints.data, '\033'));
    expect(MODELS_WITH("REAL_MODELS_DRYRUN=1", "download", "good/m"), 0);
    assert_null(strstr(out.data, "missing"));
    expect(MODELS("verify", "good/m"), 0);
    expect_text(&out, "3 files, all as published");
    expect(MODELS_WITH("HF_HUB_OFFLINE=1", "download", "good/m"), 0);

    /* Damage: named; --repair removes it; the next download fetches that file alone. */
    snprintf(path, sizeof path, "%s/hub/models--good--m/blobs/%s", home, server.weights_sha256);
    FILE *f = fopen(path, "r+b");
    assert_non_null(f);
    fseek(f, 4711, SEEK_SET);
    fputc(server.weights[4711] ^ 8, f);
    fclose(f);
    for (int repair = 0; repair < 2; repair++) {
        expect(repair ? MODELS("verify", "good/m", "--repair") : MODELS("verify", "good/m"), 1);
        expect_text(&complaints, "model.safetensors");
        expect_text(&complaints, "does not match its hash");
        expect_text(&complaints, "1 of 3 files is damaged");
        assert_int_equal(file_exists(path), !repair);
    }
    expect(MODELS("verify", "good/m"), 1);
    expect_text(&complaints, "lacks model.safetensors");
    expect(MODELS("download", "good/m"), 0);
    expect(MODELS("verify", "good/m"), 0);
    /* A blob that vanished under its link, and a plain file that nobody hashed. */
    assert_int_equal(unlink(path), 0);
    expect(MODELS("verify", "good/m"), 1);
    expect_text(&complaints, "its content is gone");
    expect(MODELS("download", "good/m"), 0);
    snprintf(path, sizeof path, "%s/hub/models--good--m/snapshots/%s/note.txt", home, HUB_COMMIT);
    assert_int_equal(file_replace(path, "x", 1, &err), 0);
    expect(MODELS("verify", "good/m"), 0);
    expect_text(&complaints, "1 files carry no hash");
    assert_int_equal(server.seen->token_at_storage, 0);
}

static void test_refusals(void **state) {
    (void)state;
    expect(MODELS("download", "absent/m"), 1);
    expect_text(&complaints, "check the spelling");
    expect(MODELS_WITH("REAL_MODELS_DRYRUN=1", "download", "gated/m"), 1); /* asked, and refused */
    expect_text(&complaints, "accept its licence");
    expect(MODELS("download", "good/m", "--revision", "nope"), 1);
    expect_text(&complaints, "no such revision");
    expect(MODELS("download", "tests/golden/tiny-a"), 1);
    expect_text(&complaints, "no Hub model id");
    expect(MODELS_WITH("HF_HUB_OFFLINE=1", "download", "good/unseen"), 1);
    expect_text(&complaints, "not in the cache");
}

static void test_dry_run_without_network(void **state) {
    (void)state;
    static const char *const environment[] = {"REAL_MODELS_DRYRUN=1", UNREACHABLE, NULL};
    expect(run((const char *const[]){"download", "good/unseen", NULL}, environment), 0);
    expect_text(&out, "files not checked: no answer from");
    expect(run((const char *const[]){"smoke", "good/unseen", NULL}, environment), 0);
    expect_text(&out, "not checked");
    expect(run((const char *const[]){"smoke", "Qwen/Qwen3-VL-2B-Thinking-FP8", NULL}, environment), 0);
    expect_text(&out, "published shape");
    expect_text(&out, "not checked");
    expect(run((const char *const[]){"smoke", "tests/golden/tiny-a", NULL}, environment), 0); /* a plan; nothing is loaded */
    expect_text(&out, "memory in all");
}

static void test_smoke(void **state) {
    (void)state;
    expect(MODELS("smoke", "tests/golden/tiny-fp8"), 0);
    expect_text(&out, "fp8");
    expect_text(&out, "picture 480x320 encoded");
    expect_text(&out, "all log-probabilities finite: ok");
    expect(MODELS("--smoke", "tests/golden/none"), 1);
    expect_text(&complaints, "no such folder");
    expect(MODELS("smoke", "tests/golden/tiny-a", "--context", "999999"), 1);
    expect_text(&complaints, "4096");
    expect(MODELS_WITH("MODEL_BACKEND=local", "smoke", "good/m"), 1);
    expect_text(&complaints, "takes folders");
}

int main(void) {
    if (!mkdtemp(home) || hub_server_start(&server)) return 1;
    snprintf(endpoint, sizeof endpoint, "http://127.0.0.1:%d", server.port);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_usage), cmocka_unit_test(test_list), cmocka_unit_test(test_estimate), cmocka_unit_test(test_plan), cmocka_unit_test(test_token),
        cmocka_unit_test(test_download_and_verify), cmocka_unit_test(test_refusals), cmocka_unit_test(test_dry_run_without_network),
        cmocka_unit_test(test_smoke),
    };
    int failed = cmocka_run_group_tests_name("models", tests, NULL, NULL);
    hub_server_stop(&server);
    buf_free(&out), buf_free(&complaints);
    char command[64];
    snprintf(command, sizeof command, "rm -rf %s", home);
    if (system(command)) return 1;
    return failed;
}
