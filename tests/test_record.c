/* The recorder and its reader, with steps made up here and a made-up emulator-free reader path; the end-to-end test with the real
 * game is in test_record_replay.c. */
#include "test.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/file.h"
#include "record/hash.h"
#include "record/lines.h"
#include "record/pack.h"
#include "record/png_file.h"
#include "record/run.h"

static char folder[] = "/tmp/pmd-test-record-XXXXXX";

static int make_temporary(void **state) {
    (void)state;
    return mkdtemp(folder) ? 0 : -1;
}

static int remove_temporary(void **state) {
    (void)state;
    char command[200];
    snprintf(command, sizeof command, "rm -rf '%s'", folder);
    return system(command);
}

static uint8_t picture[FRAME_PIXELS * 3];

static void paint(int colours, unsigned seed) {
    for (int i = 0; i < FRAME_PIXELS; i++) {
        unsigned c = (unsigned)i * 7 / (unsigned)(3 + seed % 5) % (unsigned)colours;
        picture[3 * i] = (uint8_t)(c * 37 + seed);
        picture[3 * i + 1] = (uint8_t)(c >> 8);
        picture[3 * i + 2] = (uint8_t)c;
    }
}

/* ---- lines -------------------------------------------------------------------------------------------------------------------- */

static void lines_leave_out_a_torn_end(void **state) {
    (void)state;
    char path[300], *line;
    size_t n;
    bool torn;
    struct err err;
    snprintf(path, sizeof path, "%s/lines", folder);
    assert_int_equal(file_replace(path, "one\n\nthree\ntor", 14, &err), 0);
    struct line_reader r;
    assert_int_equal(line_reader_open(path, &r, &err), 0);
    assert_int_equal(line_reader_next(&r, &line, &n, &torn, &err), 1);
    assert_string_equal(line, "one");
    assert_int_equal(line_reader_next(&r, &line, &n, &torn, &err), 1);
    assert_int_equal(n, 0);
    assert_int_equal(line_reader_next(&r, &line, &n, &torn, &err), 1);
    assert_string_equal(line, "three");
    assert_int_equal(line_reader_next(&r, &line, &n, &torn, &err), 0);
    assert_true(torn);
    line_reader_close(&r);
    assert_int_equal(line_reader_open("/nonexistent/x", &r, &err), ERR_MISSING);
    assert_int_equal(line_reader_open("/tmp", &r, &err), ERR_IO);
}

static void a_line_without_end_is_refused(void **state) {
    (void)state;
    char path[300], *line;
    size_t n;
    struct err err;
    snprintf(path, sizeof path, "%s/long", folder);
    int fd = open(path, O_WRONLY | O_CREAT, 0666);
    assert_int_equal(ftruncate(fd, 64 << 20), 0);
    close(fd);
    struct line_reader r;
    assert_int_equal(line_reader_open(path, &r, &err), 0);
    assert_int_equal(line_reader_next(&r, &line, &n, NULL, &err), ERR_FORMAT);
    assert_non_null(strstr(err.message, "longer than"));
    line_reader_close(&r);
}

/* A full disk cuts a half-written line off again. In a child: the limit and the signal are per process. */
static void a_full_disk_keeps_whole_lines(void **state) {
    (void)state;
    char path[300];
    snprintf(path, sizeof path, "%s/full", folder);
    pid_t child = fork();
    if (child == 0) {
        signal(SIGXFSZ, SIG_IGN);
        setrlimit(RLIMIT_FSIZE, &(struct rlimit){1000, 1000});
        int fd = open(path, O_WRONLY | O_CREAT | O_APPEND, 0666), written = 0;
        char line[100];
        memset(line, 'x', 99);
        line[99] = '\n';
        struct err err;
        while (line_append(fd, path, line, 97 + 3, "step 1", &err) == 0) written++;
        struct stat st;
        fstat(fd, &st);
        /* and one that begins below the limit and ends above */
        int first = written == 10 && st.st_size == 1000 && strstr(err.message, "cannot write step 1") ? 0 : 1;
        if (ftruncate(fd, 950) != 0) first = 2;
        int code = line_append(fd, path, line, 100, "step 2", &err);
        fstat(fd, &st);
        _exit(first == 0 && code == ERR_IO && st.st_size == 950 ? 0 : 10 + first);
    }
    int status;
    waitpid(child, &status, 0);
    assert_int_equal(status, 0);
}

/* ---- pictures ------------------------------------------------------------------------------------------------------------------- */

static void png_files_come_back_equal(void **state) {
    (void)state;
    static const int colours[] = {1, 2, 3, 4, 15, 16, 17, 256, 257, 5000};
    static uint8_t back[FRAME_PIXELS * 3];
    struct err err;
    for (size_t i = 0; i < sizeof colours / sizeof *colours; i++) {
        struct buf png = {0};
        paint(colours[i], (unsigned)i);
        assert_int_equal(png_encode(picture, FRAME_WIDTH, FRAME_HEIGHT, 6, &png, &err), 0);
        assert_int_equal(png_decode(png.data, png.len, FRAME_WIDTH, FRAME_HEIGHT, back, "test", &err), 0);
        assert_memory_equal(picture, back, sizeof back);
        assert_int_equal(png_decode(png.data, png.len, 100, 100, back, "test", &err), ERR_FORMAT);
        for (size_t cut = 0; cut < png.len; cut += png.len / 17 + 1) { /* truncated anywhere: an error, never a crash */
            assert_int_not_equal(png_decode(png.data, cut, FRAME_WIDTH, FRAME_HEIGHT, back, "test", &err), 0);
        }
        buf_free(&png);
    }
}

static void packs_come_back_equal(void **state) {
    (void)state;
    static const int colours[] = {1, 16, 256, 257, 9000};
    static uint8_t back[FRAME_PIXELS * 3];
    char prefix[300], path[320];
    struct err err;
    struct pack_writer *w;
    snprintf(prefix, sizeof prefix, "%s/p", folder);
    assert_int_equal(pack_create(prefix, &w, &err), 0);
    const char *offered[] = {"walk_north", "wait"};
    for (unsigned i = 0; i < 5; i++) {
        paint(colours[i], i);
        struct pack_entry e = {.seed = 7, .episode_step = i + 1, .scene = "field", .floor = 1, .prompt = "a \"b\"\n", .action = "wait", .decided_by = "model",
                               .oracle_action = i ? "walk_north" : NULL, .actions = i % 2 ? offered : NULL, .action_count = 2};
        assert_int_equal(pack_add(w, picture, &e, &err), 0);
    }
    assert_int_equal(pack_close(w, &err), 0);
    assert_int_equal(pack_create(prefix, &w, &err), ERR_IO); /* never written over */

    snprintf(path, sizeof path, "%s.jsonl", prefix);
    struct line_reader lines;
    assert_int_equal(line_reader_open(path, &lines, &err), 0);
    snprintf(path, sizeof path, "%s.pack", prefix);
    int fd = open(path, O_RDONLY);
    char *line;
    size_t n;
    for (unsigned i = 0; i < 5; i++) {
        struct arena a = {0};
        assert_int_equal(line_reader_next(&lines, &line, &n, NULL, &err), 1);
        const struct json *j = json_parse(line, n, "line", &a, &err);
        assert_non_null(j);
        uint64_t offset = (uint64_t)json_as_integer(json_get(j, "offset"), 0);
        uint32_t length = (uint32_t)json_as_integer(json_get(j, "length"), 0);
        assert_int_equal(pack_read(fd, offset, length, back, "record", &err), 0);
        paint(colours[i], i);
        assert_memory_equal(picture, back, sizeof back);
        assert_string_equal(json_as_string(json_get(j, "prompt"), ""), "a \"b\"\n");
        assert_int_equal(json_get(j, "actions")->type, i % 2 ? JSON_ARRAY : JSON_NULL);
        assert_int_not_equal(pack_read(fd, offset + 1, length, back, "record", &err), 0);
        assert_int_not_equal(pack_read(fd, offset, length - 1, back, "record", &err), 0);
        arena_free(&a);
    }
    assert_int_not_equal(pack_read(fd, 0, 10, back, "record", &err), 0);
    assert_int_not_equal(pack_read(fd, UINT64_MAX, 10, back, "record", &err), 0);
    close(fd);
    line_reader_close(&lines);
}

/* ---- runs that others wrote --------------------------------------------------------------------------------------------------------- */

/* Writes a run by hand, so that the format is tested and not only the writer against the reader. */
static void put(const char *run, const char *name, const char *text) {
    char path[400];
    struct err err;
    snprintf(path, sizeof path, "%s/%s", run, name);
    assert_int_equal(file_replace(path, text, strlen(text), &err), 0);
}

static void chain_line(struct buf *out, char chain[33], const char *fields) {
    char next[33];
    size_t from = out->len;
    buf_str(out, fields);
    hash_hex(chain, 32, out->data + from, out->len - from, next);
    memcpy(chain, next, 33);
    buf_printf(out, ",\"chain\":\"%s\"}\n", chain);
}

#define H "0123456789abcdef0123456789abcdef"
static const char head[] = "{\"format\":1,\"program\":\"pmd-agent\",\"rom\":{\"hash\":\"" H "\"},\"seed\":3}\n";

static void make_run(const char *run, int steps, bool end, struct buf *trajectory) {
    char chain[33], own[33], fields[600];
    struct err err;
    assert_int_equal(file_make_folders(run, &err), 0);
    put(run, "run.json", head);
    put(run, "start.state", "state");
    hash_hex(head, strlen(head), NULL, 0, chain);
    memcpy(own, chain, 33);
    struct buf episodes = {0};
    chain_line(&episodes, own, "{\"episode\":1,\"event\":\"begin\",\"seed\":3,\"start_state\":\"start.state\",\"start_frame\":40,\"state_hash\":\"" H "\"");
    for (int i = 1; i <= steps; i++) {
        snprintf(fields, sizeof fields, "{\"episode\":1,\"step\":%d,\"first_frame\":%d,\"frame_hash\":\"" H "\",\"state_hash\":\"" H
                 "\",\"action\":\"wait\",\"buttons\":[[64,8],[0,12]]", i, 41 + 20 * (i - 1));
        chain_line(trajectory, chain, fields);
    }
    if (end) {
        snprintf(fields, sizeof fields, "{\"episode\":1,\"event\":\"end\",\"steps\":%d,\"last_chain\":\"%s\",\"end_frame\":%d,\"outcome\":\"cleared\",\"cause\":\"\"", steps, chain, 41 + 20 * steps);
        chain_line(&episodes, own, fields);
    }
    put(run, "episodes.jsonl", episodes.data);
    put(run, "trajectory.jsonl", trajectory->data);
    buf_free(&episodes);
}

static int read_all(const char *run, int *steps, struct err *err) {
    struct run_reader *r;
    static struct run_line line;
    bool torn;
    *steps = 0;
    int code = run_open(run, &r, err);
    while (!code && (code = run_next(r, &line, &torn, err)) == 1) ++*steps, code = 0;
    run_close(code == 0 || *steps || r ? r : NULL);
    return code;
}

static void a_run_is_read_back(void **state) {
    (void)state;
    char run[300];
    struct buf t = {0};
    struct err err;
    int steps;
    snprintf(run, sizeof run, "%s/run-a", folder);
    make_run(run, 5, true, &t);
    assert_int_equal(read_all(run, &steps, &err), 0);
    assert_int_equal(steps, 5);

    struct run_reader *r;
    struct run_line *line = malloc(sizeof *line);
    const struct run_episode *episodes;
    assert_int_equal(run_open(run, &r, &err), 0);
    assert_int_equal(run_reader_episodes(r, &episodes), 1);
    assert_true(episodes[0].ended);
    assert_string_equal(episodes[0].outcome, "cleared");
    assert_int_equal(run_next(r, line, NULL, &err), 1);
    assert_int_equal(line->press_count, 2);
    assert_int_equal(line->presses[0].keys, 64);
    assert_int_equal(line->presses[1].frames, 12);
    struct buf start = {0};
    assert_int_equal(run_start_state(r, &episodes[0], &start, &err), 0);
    assert_string_equal(start.data, "state");
    buf_free(&start);
    run_close(r);
    free(line);
    buf_free(&t);
}

static void a_torn_step_is_left_out(void **state) {
    (void)state;
    char run[300];
    struct buf t = {0};
    struct err err;
    int steps;
    snprintf(run, sizeof run, "%s/run-b", folder);
    make_run(run, 5, false, &t);
    t.data[t.len - 30] = 0; /* killed while the last line was written */
    put(run, "trajectory.jsonl", t.data);
    assert_int_equal(read_all(run, &steps, &err), 0);
    assert_int_equal(steps, 4);
    buf_free(&t);
}

/* Every single changed byte, and every removed line, is noticed. */
static void tampering_is_noticed(void **state) {
    (void)state;
    char run[300];
    struct buf t = {0};
    struct err err;
    int steps;
    snprintf(run, sizeof run, "%s/run-c", folder);
    make_run(run, 3, true, &t);
    for (size_t i = 0; i < t.len; i += 5) {
        char kept = t.data[i];
        t.data[i] = kept == '7' ? '8' : '7';
        put(run, "trajectory.jsonl", t.data);
        assert_int_not_equal(read_all(run, &steps, &err), 0);
        t.data[i] = kept;
    }
    char *second = strchr(t.data, '\n') + 1, *third = strchr(second, '\n') + 1;
    put(run, "trajectory.jsonl", second); /* the first step is gone */
    assert_int_not_equal(read_all(run, &steps, &err), 0);
    *third = 0;
    put(run, "trajectory.jsonl", t.data); /* the last one is gone, but the episode has its end */
    assert_int_not_equal(read_all(run, &steps, &err), 0);
    assert_non_null(strstr(err.message, "2 steps"));
    buf_free(&t);

    struct buf again = {0};
    make_run(run, 3, true, &again);
    put(run, "run.json", "{\"format\":1,\"program\":\"pmd-agent\",\"rom\":{\"hash\":\"" H "\"},\"seed\":4}\n");
    assert_int_not_equal(read_all(run, &steps, &err), 0);
    put(run, "run.json", "{\"format\":2,\"rom\":{\"hash\":\"" H "\"}}");
    assert_int_equal(read_all(run, &steps, &err), ERR_FORMAT);
    assert_non_null(strstr(err.message, "expected 1, found 2"));
    put(run, "run.json", "");
    assert_int_equal(read_all(run, &steps, &err), ERR_FORMAT);
    buf_free(&again);
}

static void folders_that_cannot_be(void **state) {
    (void)state;
    struct run *run;
    struct run_reader *r;
    struct err err;
    char path[300];
    assert_int_equal(run_open("/nonexistent", &r, &err), ERR_MISSING);
    assert_non_null(strstr(err.message, "no run"));
    struct run_options o = {.root = "/proc/runs", .rom = "x", .rom_bytes = 1};
    assert_int_equal(run_create(&o, &run, &err), ERR_IO);
    assert_non_null(strstr(err.message, "/proc/runs"));
    snprintf(path, sizeof path, "%s/file", folder);
    assert_int_equal(file_replace(path, "x", 1, &err), 0);
    o.root = path;
    assert_int_equal(run_create(&o, &run, &err), ERR_IO);
    char own[300];
    snprintf(own, sizeof own, "%s/own", folder);
    o = (struct run_options){.folder = own, .rom = "x", .rom_bytes = 1, .settings = "{\"a\":1}", .model = "m\"x"};
    assert_int_equal(run_create(&o, &run, &err), 0);
    assert_int_equal(run_finish(run, &err), 0);
    assert_int_equal(run_create(&o, &run, &err), ERR_STATE); /* holds a run already */
    assert_int_equal(run_open(own, &r, &err), 0);
    assert_string_equal(run_reader_info(r)->model, "m\"x");
    run_close(r);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(lines_leave_out_a_torn_end),
        cmocka_unit_test(a_line_without_end_is_refused),
        cmocka_unit_test(a_full_disk_keeps_whole_lines),
        cmocka_unit_test(png_files_come_back_equal),
        cmocka_unit_test(packs_come_back_equal),
        cmocka_unit_test(a_run_is_read_back),
        cmocka_unit_test(a_torn_step_is_left_out),
        cmocka_unit_test(tampering_is_noticed),
        cmocka_unit_test(folders_that_cannot_be),
    };
    return cmocka_run_group_tests(tests, make_temporary, remove_temporary);
}
