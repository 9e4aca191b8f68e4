/* Data sets: written, checked, damaged in every way that `check` promises to notice, joined from workers, exported. */
#include "test.h"

#include <fcntl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "agent/agent.h"
#include "app/commands.h"
#include "base/file.h"
#include "record/dataset.h"
#include "record/lines.h"
#include "record/pack.h"

#define ROM "rom/tinywoods/tinywoods.gba"

static char folder[] = "/tmp/pmd-test-dataset-XXXXXX";
static uint8_t picture[FRAME_PIXELS * 3];
static struct world world;

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

static struct dataset_entry entry(uint32_t seed, uint32_t step, int variant) {
    static struct key_press presses[] = {{KEY_B | KEY_RIGHT, 8}, {KEY_B | KEY_RIGHT, 2}, {0, 12}, {KEY_A, 3}};
    for (int i = 0; i < FRAME_PIXELS; i++) picture[3 * i] = (uint8_t)(i % 20 + variant), picture[3 * i + 1] = 0, picture[3 * i + 2] = (uint8_t)variant;
    memset(&world, 0, sizeof world);
    world.leader = -1;
    world.stairs = (struct point){-1, -1};
    world.money = variant;
    return (struct dataset_entry){.seed = seed, .step = step, .rgb = picture, .world = &world, .action = "wait", .presses = presses, .press_count = 4,
                                  .scene = "field", .notes = "decided by oracle: \"because\"", .oracle_action = "eat"};
}

static void path_of(char out[400], const char *set, const char *name) { snprintf(out, 400, "%s/%s%s%s", folder, set, name ? "/" : "", name ? name : ""); }

static void make_set(const char *set, int entries) {
    char path[400];
    struct dataset_writer *w;
    struct err err;
    path_of(path, set, NULL);
    assert_int_equal(dataset_create(path, -1, &w, &err), 0);
    for (int i = 0; i < entries; i++) {
        struct dataset_entry e = entry(1, (uint32_t)i + 1, i);
        assert_int_equal(dataset_add(w, &e, NULL, &err), 0);
    }
    assert_int_equal(dataset_close(w, &err), 0);
}

static char problems[8000];
static void collect(void *user, const char *text) {
    (void)user;
    snprintf(problems + strlen(problems), sizeof problems - strlen(problems), "%s\n", text);
}

static int check(const char *set) {
    char path[400];
    struct err err;
    struct dataset_check c = {.known_actions = action_name, .known_count = ACTION_COUNT, .problem = collect};
    problems[0] = 0;
    path_of(path, set, NULL);
    if (dataset_check(path, &c, &err)) fail_msg("%s", err.message);
    return (int)c.problems;
}

static void a_good_set_has_no_problem(void **state) {
    (void)state;
    char path[400];
    struct buf text = {0};
    struct arena a = {0};
    struct err err;
    make_set("good", 5);
    if (check("good")) fail_msg("%s", problems);
    path_of(path, "good", "manifest.jsonl");
    assert_int_equal(file_read(path, 1 << 20, &text, &err), 0);
    const struct json *j = json_parse(text.data, strcspn(text.data, "\n"), "line", &a, &err);
    assert_non_null(j);
    assert_string_equal(json_as_string(json_get(j, "frame_id"), ""), "s00000001-00001");
    const struct json *buttons = json_get(j, "buttons");
    assert_int_equal(buttons->count, 2);
    assert_string_equal(buttons->items[0]->string, "B+RIGHT");
    assert_string_equal(buttons->items[1]->string, "A");
    assert_true(json_as_number(json_get(j, "hold_ms"), 0) > 217 && json_as_number(json_get(j, "hold_ms"), 0) < 218);
    assert_true(json_as_number(json_get(j, "wait_ms"), 0) > 200 && json_as_number(json_get(j, "wait_ms"), 0) < 201);
    arena_free(&a);
    buf_free(&text);
    struct dataset_writer *w;
    path_of(path, "good", NULL);
    assert_int_equal(dataset_create(path, -1, &w, &err), ERR_STATE); /* never written over */
}

/* The recorder leaves repeats out; picture or world alone may repeat. */
static void repeats_are_left_out(void **state) {
    (void)state;
    char path[400];
    struct dataset_writer *w;
    struct err err;
    bool kept;
    path_of(path, "repeat", NULL);
    assert_int_equal(dataset_create(path, -1, &w, &err), 0);
    struct dataset_entry e = entry(1, 1, 1);
    assert_int_equal(dataset_add(w, &e, &kept, &err), 0);
    assert_true(kept);
    e.step = 2;
    assert_int_equal(dataset_add(w, &e, &kept, &err), 0);
    assert_false(kept);
    e.step = 3;
    world.money = 77;
    assert_int_equal(dataset_add(w, &e, &kept, &err), 0);
    assert_true(kept);
    assert_int_equal(dataset_close(w, &err), 0);
    assert_int_equal(check("repeat"), 0);
}

static void workers_are_joined(void **state) {
    (void)state;
    char path[400];
    struct dataset_writer *w;
    struct err err;
    int64_t entries, repeats;
    path_of(path, "joined", NULL);
    for (int worker = 0; worker < 3; worker++) {
        assert_int_equal(dataset_create(path, worker, &w, &err), 0);
        for (int i = 0; i < 4; i++) {
            struct dataset_entry e = entry((uint32_t)worker, (uint32_t)i + 1, i ? 10 * worker + i : 0); /* the first is the same everywhere */
            assert_int_equal(dataset_add(w, &e, NULL, &err), 0);
        }
        assert_int_equal(dataset_close(w, &err), 0);
    }
    assert_int_equal(dataset_merge(path, 3, &entries, &repeats, &err), 0);
    assert_int_equal(entries, 10);
    assert_int_equal(repeats, 2);
    if (check("joined")) fail_msg("%s", problems);
    path_of(path, "joined", "frames/s00000002-00001.png");
    assert_false(file_exists(path));
    path_of(path, "joined", "manifest.0.part");
    assert_false(file_exists(path));
}

/* Replaces `from` by `to` once in a set's manifest and expects this problem. */
static void damage(const char *set, const char *from, const char *to, const char *expected) {
    char path[400];
    struct buf text = {0}, out = {0};
    struct err err;
    path_of(path, set, "manifest.jsonl");
    assert_int_equal(file_read(path, 1 << 20, &text, &err), 0);
    char *at = strstr(text.data, from);
    assert_non_null(at);
    buf_append(&out, text.data, (size_t)(at - text.data));
    buf_str(&out, to);
    buf_str(&out, at + strlen(from));
    assert_int_equal(file_replace(path, out.data, out.len, &err), 0);
    int found = check(set);
    if (!found || !strstr(problems, expected)) fail_msg("%d problems, expected '%s': %s", found, expected, problems);
    assert_int_equal(file_replace(path, text.data, text.len, &err), 0);
    buf_free(&text);
    buf_free(&out);
}

static void every_damage_is_listed(void **state) {
    (void)state;
    make_set("bad", 4);
    damage("bad", "\"action\":\"wait\"", "\"action\":\"fly\"", "unknown action 'fly'");
    damage("bad", "\"oracle_action\":\"eat\"", "\"oracle_action\":\"fly\"", "oracle_action: unknown action");
    damage("bad", "\"seed\":1,", "", "field seed is missing");
    damage("bad", "\"seed\":1,", "\"seed\":\"1\",", "field seed has the wrong type");
    damage("bad", "\"seed\":1,", "\"seed\":1,\"extra\":1,", "unknown field extra");
    damage("bad", "s00000001-00002\"", "s00000001-00001\"", "frame_id occurs twice");
    damage("bad", "frames/s00000001-00002.png", "../../etc/passwd", "inside the folder");
    damage("bad", "frames/s00000001-00002.png", "/etc/passwd", "inside the folder");
    damage("bad", "frames/s00000001-00002.png", "frames/none.png", "cannot open");
    damage("bad", "{\"frame_id\":\"s00000001-00003\"", "[", "line 3");
}

static void pictures_that_are_none(void **state) {
    (void)state;
    char path[400];
    struct err err;
    struct buf png = {0};
    struct dataset_writer *w;
    make_set("pictures", 3);
    path_of(path, "pictures", "frames/s00000001-00002.png");
    assert_int_equal(file_read(path, 1 << 20, &png, &err), 0);
    assert_int_equal(file_replace(path, png.data, png.len / 2, &err), 0);
    assert_int_equal(check("pictures"), 1);
    assert_non_null(strstr(problems, "s00000001-00002"));
    assert_int_equal(file_replace(path, "", 0, &err), 0);
    assert_int_equal(check("pictures"), 1);
    assert_non_null(strstr(problems, "empty"));
    unlink(path);
    assert_int_equal(check("pictures"), 1);
    buf_free(&png);

    path_of(path, "blank", NULL);
    assert_int_equal(dataset_create(path, -1, &w, &err), 0);
    struct dataset_entry e = entry(1, 1, 1);
    memset(picture, 9, sizeof picture);
    assert_int_equal(dataset_add(w, &e, NULL, &err), 0);
    assert_int_equal(dataset_close(w, &err), 0);
    assert_int_equal(check("blank"), 1);
    assert_non_null(strstr(problems, "one colour, #090909"));
}

static void repeats_are_found(void **state) {
    (void)state;
    char path[400], line_path[400];
    struct buf text = {0};
    struct err err;
    make_set("twice", 1);
    path_of(path, "twice", "manifest.jsonl");
    assert_int_equal(file_read(path, 1 << 20, &text, &err), 0);
    size_t n = text.len;
    buf_append(&text, text.data, n);
    memcpy(strstr(text.data + n, "00001\""), "00002\"", 6);
    assert_int_equal(file_replace(path, text.data, text.len, &err), 0);
    assert_int_equal(check("twice"), 1);
    assert_non_null(strstr(problems, "repeat"));
    assert_int_equal(file_replace(path, text.data, n - 1, &err), 0); /* a torn line */
    assert_int_equal(check("twice"), 2);
    assert_non_null(strstr(problems, "torn"));
    buf_free(&text);
    path_of(line_path, "none", NULL);
    struct dataset_check c = {.problem = collect};
    assert_int_equal(dataset_check(line_path, &c, &err), ERR_MISSING);
}

static int run(char **argv, int argc) {
    fflush(NULL);
    pid_t child = fork();
    if (child == 0) {
        int null = open("/dev/null", O_WRONLY);
        dup2(null, 1);
        dup2(null, 2);
        _exit(cmd_dataset(argc, argv));
    }
    int status;
    waitpid(child, &status, 0);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}
#define RUN(...) run((char *[]){"dataset", __VA_ARGS__, NULL}, (int)(sizeof((char *[]){"dataset", __VA_ARGS__}) / sizeof(char *)))

static int lines_of(const char *path) {
    struct line_reader r;
    char *line;
    size_t n;
    int count = 0;
    if (line_reader_open(path, &r, NULL)) return -1;
    while (line_reader_next(&r, &line, &n, NULL, NULL) == 1) count++;
    line_reader_close(&r);
    return count;
}

static void the_command_records_checks_and_exports(void **state) {
    (void)state;
    char set[400], prefix[400], path[420], path2[420];
    if (!file_exists(ROM)) skip_because("%s is missing", ROM);
    path_of(set, "real", NULL);
    path_of(prefix, "packed", NULL);
    assert_int_equal(RUN("record", "--out", set, "--episodes", "3", "--seed", "11", "--jobs", "2"), 0);
    assert_int_equal(RUN("check", set), 0);
    path_of(path, "real", "manifest.jsonl");
    int entries = lines_of(path);
    assert_true(entries > 60);
    assert_int_equal(RUN("record", "--out", set, "--episodes", "1", "--seed", "11"), 1); /* not over it */
    assert_int_equal(RUN("export", set, "--packed", prefix), 0);
    snprintf(path, sizeof path, "%s.jsonl", prefix);
    assert_int_equal(lines_of(path), entries);

    /* Packed: the same whatever the number of workers and however often. */
    path_of(prefix, "p", NULL);
    assert_int_equal(RUN("record", "--out", prefix, "--episodes", "2", "--seed", "11", "--jobs", "2", "--packed"), 0);
    snprintf(path, sizeof path, "%s.1.pack", prefix);
    path_of(prefix, "q", NULL);
    assert_int_equal(RUN("record", "--out", prefix, "--episodes", "1", "--seed", "12", "--packed"), 0);
    snprintf(path2, sizeof path2, "%s.0.pack", prefix);
    struct buf a = {0}, b = {0};
    assert_int_equal(file_read(path, 1 << 28, &a, NULL), 0);
    assert_int_equal(file_read(path2, 1 << 28, &b, NULL), 0);
    assert_int_equal(a.len, b.len);
    assert_memory_equal(a.data, b.data, a.len);
    buf_free(&a);
    buf_free(&b);

    assert_int_equal(RUN("record", "--out", prefix, "--episodes", "5", "--seed", "999998", "--packed"), 2); /* test seeds */
    assert_int_equal(RUN("record", "--out", prefix, "--episodes", "many", "--seed", "1"), 2);
    assert_int_equal(RUN("record", "--out", "/proc/none/x", "--episodes", "1", "--seed", "1"), 1);
    assert_int_equal(RUN("check", "/nonexistent"), 1);
    assert_int_equal(RUN("nonsense"), 2);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_good_set_has_no_problem),
        cmocka_unit_test(repeats_are_left_out),
        cmocka_unit_test(workers_are_joined),
        cmocka_unit_test(every_damage_is_listed),
        cmocka_unit_test(pictures_that_are_none),
        cmocka_unit_test(repeats_are_found),
        cmocka_unit_test(the_command_records_checks_and_exports),
    };
    return cmocka_run_group_tests(tests, make_temporary, remove_temporary);
}
