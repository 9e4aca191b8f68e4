/* The Hub client against a real server process on loopback. */
#include "test.h"

#include "base/file.h"
#define ERR_STATE OPENSSL_ERR_STATE
#include "hub_server.h"
#undef ERR_STATE
#include "hub/hub_internal.h"

static struct hub_server server;
static char home[] = "/tmp/pmd-hub-XXXXXX";

static const char *const variables[] = {"HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HUGGINGFACE_HUB_TOKEN",
                                        "HF_TOKEN_PATH", "HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_HUB_DISABLE_IMPLICIT_TOKEN",
                                        "HF_HUB_DOWNLOAD_TIMEOUT", "http_proxy", "HTTP_PROXY", "ALL_PROXY", "all_proxy", "XDG_CACHE_HOME"};

/* Every test has a cache of its own and counters at zero. */
static struct hub_settings fresh(void) {
    static int serial;
    char text[128];
    for (size_t i = 0; i < sizeof variables / sizeof *variables; i++) unsetenv(variables[i]);
    snprintf(text, sizeof text, "http://127.0.0.1:%d/", server.port);
    setenv("HF_ENDPOINT", text, 1);
    snprintf(text, sizeof text, "%s/%d", home, serial++);
    setenv("HF_HOME", text, 1);
    setenv("HF_TOKEN", "hf_good", 1);
    memset(server.seen, 0, sizeof *server.seen);
    struct hub_settings s;
    struct err err = {0};
    assert_int_equal(hub_settings_read(&s, &err), 0);
    s.retry_pause_s = 0.02;
    return s;
}

static int download(const struct hub_settings *s, const char *id, char folder[PATH_MAX], struct err *err) {
    *err = (struct err){0};
    return hub_download(s, &(struct hub_download){.id = id}, folder, err);
}

static void assert_whole(const char *folder) {
    char path[PATH_MAX + 64];
    struct buf b = {0};
    struct err err = {0};
    snprintf(path, sizeof path, "%s/model.safetensors", folder);
    assert_int_equal(file_read(path, 1 << 24, &b, &err), 0);
    assert_int_equal(b.len, WEIGHT_BYTES);
    assert_memory_equal(b.data, server.weights, WEIGHT_BYTES);
    buf_clear(&b);
    snprintf(path, sizeof path, "%s/config.json", folder);
    assert_int_equal(file_read(path, 1 << 20, &b, &err), 0);
    assert_string_equal(b.data, CONFIG_TEXT);
    buf_free(&b);
}

static void test_settings(void **state) {
    (void)state;
    fresh();
    struct hub_settings s;
    struct err err = {0};
    setenv("HF_HOME", " '~/some folder/' ", 1);
    setenv("HF_TOKEN", " \"hf_abc\"\n", 1);
    assert_int_equal(hub_settings_read(&s, &err), 0);
    char expected[PATH_MAX];
    snprintf(expected, sizeof expected, "%s/some folder/hub", getenv("HOME"));
    assert_string_equal(s.cache, expected);
    assert_string_equal(s.token, "hf_abc");
    assert_string_equal(s.token_source, "HF_TOKEN");
    setenv("HF_TOKEN", "", 1);
    setenv("HUGGINGFACE_HUB_TOKEN", "hf_c", 1);
    assert_int_equal(hub_settings_read(&s, &err), 0);
    assert_string_equal(s.token, "hf_c");
    setenv("HUGGING_FACE_HUB_TOKEN", "hf_b", 1);
    assert_int_equal(hub_settings_read(&s, &err), 0);
    assert_string_equal(s.token, "hf_b");
    setenv("HF_HUB_DISABLE_IMPLICIT_TOKEN", "YES", 1);
    assert_int_equal(hub_settings_read(&s, &err), 0);
    assert_string_equal(s.token, "");
    setenv("HF_ENDPOINT", "ftp://x", 1);
    assert_int_not_equal(hub_settings_read(&s, &err), 0);
}

static void test_names(void **state) {
    (void)state;
    assert_true(hub_id_valid("Qwen/Qwen3-VL-2B-Thinking-FP8"));
    static const char *const bad[] = {"", "a", "a/b/c", "../b", "a/..", "a/.b", "a/b--c", "a/b c", "/a", "a/", "a/b\n", "a--b/c"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) assert_false(hub_id_valid(bad[i]));
    assert_true(hub_path_safe("a/b.json"));
    static const char *const unsafe[] = {"", "/a", "a/../b", "..", "a//b", "./a", "a/", "a\\b", "a\nb"};
    for (size_t i = 0; i < sizeof unsafe / sizeof *unsafe; i++) assert_false(hub_path_safe(unsafe[i]));
    assert_false(hub_file_wanted("README.md"));
    assert_false(hub_file_wanted("onnx/model.safetensors"));
    assert_true(hub_file_wanted("model-00001-of-00002.safetensors"));
}

static void test_download(void **state) {
    (void)state;
    struct hub_settings s = fresh();
    char folder[PATH_MAX], link[PATH_MAX], path[PATH_MAX + 64];
    struct err err;
    if (download(&s, "good/model", folder, &err)) fail_msg("%s", err.message);
    assert_whole(folder);
    /* The token goes to the Hub and never to the storage host. */
    assert_true(server.seen->token_at_hub > 0);
    assert_int_equal(server.seen->token_at_storage, 0);
    /* The Hub's own layout. */
    snprintf(path, sizeof path, "%s/models--good--model/refs/main", s.cache);
    struct buf b = {0};
    assert_int_equal(file_read(path, 100, &b, &err), 0);
    assert_string_equal(b.data, HUB_COMMIT);
    buf_free(&b);
    snprintf(path, sizeof path, "%s/model.safetensors", folder);
    ssize_t n = readlink(path, link, sizeof link - 1);
    assert_true(n > 0);
    link[n] = 0;
    assert_int_equal(strncmp(link, "../../blobs/", 12), 0);
    assert_string_equal(link + 12, server.weights_sha256);
    snprintf(path, sizeof path, "%s/README.md", folder);
    assert_false(file_exists(path));
    /* A second time nothing is transferred again. */
    int gets = server.seen->storage_gets;
    assert_int_equal(download(&s, "good/model", folder, &err), 0);
    assert_int_equal(server.seen->storage_gets, gets);
    /* Offline: no request at all. */
    int requests = server.seen->requests;
    s.offline = true;
    assert_int_equal(download(&s, "good/model", folder, &err), 0);
    assert_int_equal(server.seen->requests, requests);
    assert_int_equal(download(&s, "good/other", folder, &err), ERR_MISSING);
    assert_int_equal(server.seen->requests, requests);
}

static void test_misbehaviour(void **state) {
    (void)state;
    static const char *const ids[] = {"cut/m", "corrupt/m", "expire/m", "norange/m", "moved/m", "limited/m"};
    for (size_t i = 0; i < sizeof ids / sizeof *ids; i++) {
        struct hub_settings s = fresh();
        char folder[PATH_MAX];
        struct err err;
        if (download(&s, ids[i], folder, &err)) fail_msg("%s: %s", ids[i], err.message);
        assert_whole(folder);
        assert_int_equal(server.seen->token_at_storage, 0);
        if (!strncmp(ids[i], "cut", 3)) assert_int_equal(server.seen->ranges, 3);
        if (!strncmp(ids[i], "expire", 6)) assert_true(server.seen->expired > 0);
    }
}

static void test_stall(void **state) {
    (void)state;
    struct hub_settings s = fresh();
    s.read_timeout_s = 1;
    char folder[PATH_MAX];
    struct err err;
    if (download(&s, "drip/m", folder, &err)) fail_msg("%s", err.message);
    assert_whole(folder);
}

static void test_refusals(void **state) {
    (void)state;
    static const struct { const char *id, *word; } cases[] = {
        {"gated/m", "accept its licence"}, {"absent/m", "check the spelling"}, {"denied/m", "lacks permission"}, {"down/m", "try again later"},
        {"always/m", "does not match its hash"}, {"no slash", "no Hub model id"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct hub_settings s = fresh();
        char folder[PATH_MAX];
        struct err err;
        assert_int_not_equal(download(&s, cases[i].id, folder, &err), 0);
        if (!strstr(err.message, cases[i].word)) fail_msg("%s: %s", cases[i].id, err.message);
        assert_null(strstr(err.message, "hf_good"));
    }
    struct hub_settings s = fresh();
    struct hub_listing l;
    struct err err = {0};
    assert_int_not_equal(hub_list(&s, "good/m", "nope", &l, &err), 0);
    assert_non_null(strstr(err.message, "no such revision"));
}

/* A part that an earlier run left is resumed; a part with wrong content is found out by its hash and fetched again. */
static void test_resume(void **state) {
    (void)state;
    for (int wrong = 0; wrong < 2; wrong++) {
        struct hub_settings s = fresh();
        char folder[PATH_MAX], path[PATH_MAX + 200];
        struct err err = {0};
        snprintf(path, sizeof path, "%s/models--good--m/blobs", s.cache);
        assert_int_equal(file_make_folders(path, &err), 0);
        snprintf(path, sizeof path, "%s/models--good--m/blobs/%s.pmd-part", s.cache, server.weights_sha256);
        unsigned char *part = malloc(600000);
        memcpy(part, server.weights, 600000);
        if (wrong) part[5] ^= 1;
        assert_int_equal(file_replace(path, part, 600000, &err), 0);
        free(part);
        if (download(&s, "good/m", folder, &err)) fail_msg("%s", err.message);
        assert_whole(folder);
        assert_int_equal(server.seen->ranges, 1);
        assert_int_equal(server.seen->storage_gets, 1 + wrong);
        assert_false(file_exists(path));
    }
}

static void test_two_processes(void **state) {
    (void)state;
    struct hub_settings s = fresh();
    pid_t child = fork();
    char folder[PATH_MAX];
    struct err err;
    int result = download(&s, "cut/m", folder, &err);
    if (child == 0) _exit(result ? 1 : 0);
    int status = -1;
    waitpid(child, &status, 0);
    assert_int_equal(result, 0);
    assert_int_equal(status, 0);
    assert_whole(folder);
    assert_int_equal(server.seen->storage_gets, 4); /* one of them fetched, the other waited */
}

static void test_verify(void **state) {
    (void)state;
    struct hub_settings s = fresh();
    char folder[PATH_MAX], path[PATH_MAX + 200];
    struct err err;
    struct hub_verified v;
    assert_int_equal(download(&s, "good/m", folder, &err), 0);
    assert_int_equal(hub_verify(&s, "good/m", NULL, false, &v, &err), 0);
    assert_int_equal(v.files, 3);
    snprintf(path, sizeof path, "%s/models--good--m/blobs/%s", s.cache, server.weights_sha256);
    FILE *f = fopen(path, "r+b");
    fseek(f, 1000, SEEK_SET);
    fputc(server.weights[1000] ^ 1, f);
    fclose(f);
    assert_int_not_equal(hub_verify(&s, "good/m", NULL, true, &v, &err), 0);
    assert_int_equal(v.damaged, 1);
    assert_non_null(strstr(err.message, "model.safetensors"));
    assert_int_equal(download(&s, "good/m", folder, &err), 0);
    assert_whole(folder);
}

static void test_unreachable(void **state) {
    (void)state;
    struct hub_settings s = fresh();
    char folder[PATH_MAX];
    struct err err;
    assert_int_equal(download(&s, "good/m", folder, &err), 0);
    snprintf(s.endpoint, sizeof s.endpoint, "http://127.0.0.1:1");
    assert_int_equal(download(&s, "good/m", folder, &err), 0); /* the cache serves */
    assert_whole(folder);
    assert_int_equal(download(&s, "good/uncached", folder, &err), ERR_NETWORK);
}

static void test_whoami(void **state) {
    (void)state;
    struct hub_settings s = fresh();
    char name[128];
    struct err err = {0};
    assert_int_equal(hub_whoami(&s, name, &err), 0);
    assert_string_equal(name, "fen");
    snprintf(s.token, sizeof s.token, "hf_bad");
    assert_int_not_equal(hub_whoami(&s, name, &err), 0);
    assert_non_null(strstr(err.message, "make a new one"));
    assert_null(strstr(err.message, "hf_bad"));
    s.token[0] = 0;
    assert_int_equal(hub_whoami(&s, name, &err), ERR_MISSING);
}

int main(void) {
    if (!mkdtemp(home) || hub_server_start(&server)) return 1;
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_settings), cmocka_unit_test(test_names), cmocka_unit_test(test_download), cmocka_unit_test(test_misbehaviour),
        cmocka_unit_test(test_stall), cmocka_unit_test(test_refusals), cmocka_unit_test(test_resume), cmocka_unit_test(test_two_processes),
        cmocka_unit_test(test_verify), cmocka_unit_test(test_unreachable), cmocka_unit_test(test_whoami),
    };
    int failed = cmocka_run_group_tests_name("hub", tests, NULL, NULL);
    hub_server_stop(&server);
    char command[64];
    snprintf(command, sizeof command, "rm -rf %s", home);
    if (system(command)) return 1;
    return failed;
}
