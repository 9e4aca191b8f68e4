/* `pmd-agent report`: the page holds everything and nothing that could run, the film is one, and what is missing is said. */
#include "test.h"

#include <sys/stat.h>
#include <unistd.h>

#include "app/commands.h"
#include "app/subscribers.h"
#include "base/file.h"
#include "record/caption.h"

#define ROM "rom/tinywoods/tinywoods.gba"
#define HOSTILE "<script>alert(1)</script> & \"x\" '\xff"

static char folder[] = "/tmp/pmd-test-report-XXXXXX", run[64];

static int record(void **state) {
    (void)state;
    struct err err = {0};
    struct buf rom = {0};
    struct emulator *e;
    struct agent *a;
    struct run_subscriber rec = {0};
    if (!mkdtemp(folder) || file_read(ROM, 1 << 25, &rom, &err) || emulator_open(rom.data, rom.len, NULL, &e, &err)) return -1;
    snprintf(run, sizeof run, "%s/run", folder);
    struct run_options o = {.folder = run, .policy = "oracle", .model = HOSTILE, .settings = "{\"note\":\"</style><b>\"}", .rom_path = ROM, .rom = rom.data,
                            .rom_bytes = rom.len, .seed = 7, .episodes = 1};
    if (run_create(&o, &rec.run, &err)) return -1;
    struct agent_events events[] = {run_events(&rec), {0}};
    struct agent_options options = {.policy = POLICY_ORACLE, .events = events, .max_decisions = 30};
    struct episode_result result;
    if (agent_new(e, &options, &a, &err) || agent_play_episode(a, 7, &result, &err)) return -1;
    agent_free(a);
    emulator_close(e);
    buf_free(&rom);
    return run_finish(rec.run, &err);
}

static int clean(void **state) {
    (void)state;
    char command[100];
    snprintf(command, sizeof command, "rm -rf '%s'", folder);
    return system(command);
}

static int report(const char *option, const char *value) {
    char *argv[] = {"report", run, (char *)option, (char *)value, NULL};
    return cmd_report(!option ? 2 : !value ? 3 : 4, argv);
}

static void read_page(const char *name, struct buf *page) {
    char path[100];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    assert_int_equal(file_read(path, 1 << 24, page, NULL), 0);
    buf_char(page, 0);
}

static void the_page_holds_all_and_runs_nothing(void **state) {
    (void)state;
    struct buf page = {0};
    assert_int_equal(report("--no-film", NULL), 0);
    read_page("run/report.html", &page);
    const char *p = page.data;
    assert_non_null(strstr(p, "&lt;script&gt;alert(1)&lt;/script&gt; &amp; &quot;x&quot; &#39;\xEF\xBF\xBD"));
    assert_non_null(strstr(p, "&lt;/style&gt;&lt;b&gt;"));
    static const char *const there[] = {"data:image/png;base64,iVBOR", "<svg", "Key frames", "First sight of B1F", "30 decisions", "budget", "default-src 'none'", "</html>"};
    for (size_t i = 0; i < sizeof there / sizeof *there; i++) {
        if (!strstr(p, there[i])) fail_msg("the page lacks %s", there[i]);
    }
    static const char *const absent[] = {"<script", "http://", "https://", "<link", "onerror=", "javascript:", ".mp4"};
    for (size_t i = 0; i < sizeof absent / sizeof *absent; i++) {
        if (strstr(p, absent[i])) fail_msg("the page holds %s", absent[i]);
    }
    buf_free(&page);
}

static void a_film_with_captions(void **state) {
    (void)state;
    char path[100];
    struct buf film = {0}, page = {0};
    if (system("ffmpeg -version > /dev/null 2>&1")) skip_because("ffmpeg is not installed");
    snprintf(path, sizeof path, "%s/a.html", folder);
    assert_int_equal(report("--out", path), 0);
    read_page("a.mp4", &film);
    assert_true(film.len > 20000);
    assert_memory_equal(film.data + 4, "ftyp", 4);
    read_page("a.html", &page);
    assert_non_null(strstr(page.data, "href=\"a.mp4\""));
    buf_free(&film);
    buf_free(&page);
}

static void without_ffmpeg_the_page_is_made_and_the_status_says_so(void **state) {
    (void)state;
    char path[100], *before = strdup(getenv("PATH"));
    snprintf(path, sizeof path, "%s/b.html", folder);
    setenv("PATH", "/nonexistent", 1);
    int status = report("--out", path);
    setenv("PATH", before, 1);
    free(before);
    assert_int_equal(status, 1);
    assert_true(file_exists(path));
    snprintf(path, sizeof path, "%s/b.mp4", folder);
    assert_false(file_exists(path));
}

static void wrong_usage_is_refused(void **state) {
    (void)state;
    assert_int_equal(report("--minutes", "-1"), 2);
    assert_int_equal(report("--episodes", "x"), 2);
    assert_int_equal(report("--out", "report.txt"), 2);
    char *nothing[] = {"report", NULL}, *missing[] = {"report", "/nonexistent", NULL};
    assert_int_equal(cmd_report(1, nothing), 2);
    assert_int_equal(cmd_report(2, missing), 1);
}

static void letters_are_those_of_the_game(void **state) {
    (void)state;
    static uint8_t rgb[40 * 9 * 3];
    struct canvas c = {rgb, 40, 9};
    assert_int_equal(caption_width("A", 1), 6);
    assert_int_equal(caption_width("A", 2), 12);
    assert_int_equal(caption_draw(&c, 0, 0, 1, 0xFF8040, "A"), 6);
    static const char *const a[7] = {".###.", "#...#", "#...#", "#####", "#...#", "#...#", "#...#"};
    for (int y = 0; y < 7; y++) {
        for (int x = 0; x < 5; x++) assert_int_equal(rgb[3 * (40 * y + x)], a[y][x] == '#' ? 0xFF : 0);
    }
    assert_int_equal(caption_width("\xc3\xa9", 1), caption_width("\x01", 1)); /* a diamond, once a character */
    assert_true(caption_draw(&c, 0, 0, 1, 0xFFFFFF, "far too long for so few columns") <= 40 + 1);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_page_holds_all_and_runs_nothing), cmocka_unit_test(a_film_with_captions),
        cmocka_unit_test(without_ffmpeg_the_page_is_made_and_the_status_says_so), cmocka_unit_test(wrong_usage_is_refused),
        cmocka_unit_test(letters_are_those_of_the_game),
    };
    return cmocka_run_group_tests(tests, record, clean);
}
