/* The terminal view in a pseudo-terminal, as plain lines and as a bar; the film through the real ffmpeg. */
#include "test.h"

#include <errno.h>
#include <pty.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "app/term_view.h"
#include "base/buf.h"
#include "base/file.h"
#include "record/video.h"

#define ROM "rom/tinywoods/tinywoods.gba"

static uint8_t picture[FRAME_PIXELS * 3];
static struct world_seen seen;

static struct step make_step(uint32_t number, int shade) {
    for (int i = 0; i < FRAME_PIXELS; i++) {
        picture[3 * i] = (uint8_t)(i % FRAME_WIDTH);
        picture[3 * i + 1] = (uint8_t)(i / FRAME_WIDTH);
        picture[3 * i + 2] = i % FRAME_WIDTH < 20 ? (uint8_t)shade : 0;
    }
    memset(&seen, 0, sizeof seen);
    seen.now.floor = 2, seen.now.team_count = 1;
    seen.now.team[0] = (struct monster){.hp = 31, .max_hp = 45, .belly = 47, .max_belly = 100};
    return (struct step){.number = number, .frame = picture, .seen = &seen, .action = "walk_north", .decided_by = BY_MODEL, .answer = "x", .confidence = 0.93f,
                         .prompt_token_count = 90, .cached_tokens = 10, .answer_token_count = 2, .ask_ms = 20, .prefill_ms = 15, .generate_ms = 5};
}

static const struct episode_result result = {.outcome = OUTCOME_CLEARED, .floor_reached = 3, .turns = 90, .decisions = 98, .seconds = 1};

/* Runs `act` with a terminal of that size as file 1; returns the exit status and everything that was written. */
static int in_terminal(int columns, int rows, void (*act)(void), struct buf *out) {
    int master;
    struct winsize size = {.ws_col = (unsigned short)columns, .ws_row = (unsigned short)rows};
    fflush(NULL);
    pid_t child = forkpty(&master, NULL, NULL, &size);
    if (child < 0) skip_because("no pseudo terminal here: %s", strerror(errno));
    if (child == 0) {
        act();
        exit(0); /* runs the atexit handlers, as a real end does */
    }
    char part[4096];
    ssize_t n;
    while ((n = read(master, part, sizeof part)) > 0 || (n < 0 && errno == EINTR)) {
        if (n > 0) buf_append(out, part, (size_t)n);
    }
    close(master);
    int status;
    waitpid(child, &status, 0);
    return status;
}

static void show_two(void) {
    struct term_view *v = term_view_open(&(struct term_view_options){.fd = 1, .episodes = 1, .max_pictures_per_second = 1e9});
    struct step s = make_step(1, 0);
    term_view_step(v, &s);
    if (write(1, "<second>", 8) != 8) exit(1);
    s = make_step(2, 255);
    term_view_step(v, &s);
    if (write(1, "<resize>", 8) != 8) exit(1);
    ioctl(1, TIOCSWINSZ, &(struct winsize){.ws_col = 60, .ws_row = 20});
    raise(SIGWINCH);
    term_view_step(v, &s);
    term_view_close(v);
}

static int count(const char *from, const char *to, const char *what) {
    int n = 0;
    for (const char *p = from; (p = strstr(p, what)) && p < to; p++) n++;
    return n;
}

#define BLOCK "\xE2\x96\x80"

static void shows_the_game_in_half_blocks(void **state) {
    (void)state;
    struct buf out = {0};
    assert_int_equal(in_terminal(120, 41, show_two, &out), 0);
    char *second = strstr(out.data, "<second>"), *resize = strstr(out.data, "<resize>"), *end = out.data + out.len;
    assert_non_null(second);
    assert_non_null(resize);
    assert_int_equal(count(out.data, second, BLOCK), 120 * 40);  /* all cells, */
    assert_int_equal(count(second, resize, BLOCK), 10 * 40);     /* then only the changed tenth of the columns */
    assert_int_equal(count(resize, end, BLOCK), 57 * 19);        /* all again in the new size: 57 * 38 pixels keep the shape */
    assert_non_null(strstr(out.data, "floor 2  HP 31/45  belly 47/100  step 1  walk_north 93%  4100 tok/s  20.0 ms"));
    assert_int_equal(count(out.data, end, "\033[?25l"), 1);
    assert_string_equal(end - strlen("\033[?25h\033[?1049l"), "\033[?25h\033[?1049l");
    /* mean of pixels (0..1, 0..1) and (0..1, 2..3): red 0 and 1, green 0 and 1, then 2 and 3; rounded half up */
    assert_non_null(strstr(out.data, "\033[1;1H\033[38;2;1;1;0;48;2;1;3;0m" BLOCK));
    buf_free(&out);
}

static void die_by_exit(void) {
    term_view_open(&(struct term_view_options){.fd = 1});
    exit(3);
}
static void die_by_abort(void) {
    term_view_open(&(struct term_view_options){.fd = 1});
    abort();
}
static void die_by_interrupt(void) {
    term_view_open(&(struct term_view_options){.fd = 1});
    raise(SIGINT);
    exit(1);
}
static void tiny(void) {
    struct term_view *v = term_view_open(&(struct term_view_options){.fd = 1, .max_pictures_per_second = 1e9});
    struct step s = make_step(1, 0);
    term_view_step(v, &s);
    term_view_close(v);
}

static void the_terminal_is_restored_on_any_exit(void **state) {
    (void)state;
    struct buf out = {0};
    assert_int_equal(WEXITSTATUS(in_terminal(80, 24, die_by_exit, &out)), 3);
    assert_non_null(strstr(out.data, "\033[?25h\033[?1049l"));
    buf_clear(&out);
    int status = in_terminal(80, 24, die_by_abort, &out);
    assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT);
    assert_non_null(strstr(out.data, "\033[?25h\033[?1049l"));
    buf_clear(&out);
    status = in_terminal(80, 24, die_by_interrupt, &out);
    assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGINT);
    assert_non_null(strstr(out.data, "\033[?25h\033[?1049l"));
    buf_clear(&out);
    assert_int_equal(in_terminal(1, 1, tiny, &out), 0);
    buf_free(&out);
}

static char *to_pipe(enum term_view_kind kind, char *text, size_t cap) {
    int p[2];
    assert_int_equal(pipe(p), 0);
    struct term_view *v = term_view_open(&(struct term_view_options){.kind = kind, .fd = p[1], .episodes = 40, .line_every = 10, .title = "oracle"});
    for (int i = 1; i <= 40; i++) {
        term_view_episode_begun(v, (uint32_t)i, NULL);
        for (uint32_t k = 1; k <= (i == 1 ? 25 : 0); k++) {
            struct step s = make_step(k, 0);
            term_view_step(v, &s);
        }
        term_view_episode_done(v, &result);
        if (kind == VIEW_AUTO && i == 2) break;
    }
    term_view_close(v);
    close(p[1]);
    ssize_t n = read(p[0], text, cap - 1);
    text[n > 0 ? n : 0] = 0;
    close(p[0]);
    return text;
}

static void elsewhere_plain_lines(void **state) {
    (void)state;
    char text[8000];
    to_pipe(VIEW_AUTO, text, sizeof text);
    assert_null(strchr(text, 033));
    assert_non_null(strstr(text, "episode 1: seed 1, oracle\n  floor 2  HP 31/45"));
    assert_int_equal(count(text, text + strlen(text), "\n"), 2 + 3 + 2); /* begin and end twice; new floor, step 10, step 20 */
    to_pipe(VIEW_BAR, text, sizeof text);
    assert_null(strchr(text, '\r'));
    assert_int_equal(count(text, text + strlen(text), "\n"), 20); /* every 5 % */
    assert_non_null(strstr(text, "40/40 episodes, 40 cleared, ETA 0:00"));
}

/* ---- film ---------------------------------------------------------------------------------------------------------------------- */

static bool have_ffmpeg(void) { return system("ffmpeg -version >/dev/null 2>&1") == 0; }

static int film(const char *path, bool keep, struct err *err) {
    struct buf rom = {0};
    struct emulator *e;
    struct video *v;
    assert_int_equal(file_read(ROM, 1 << 25, &rom, err), 0);
    assert_int_equal(emulator_open(rom.data, rom.len, NULL, &e, err), 0);
    int code = video_open(path, &v, err);
    for (int i = 0; i < 60 && !code; i++) {
        emulator_run(e, 0, 2, true);
        code = video_add(v, e, err);
    }
    struct err close_err;
    int close_code = code && !v ? 0 : video_close(v, keep && !code, &close_err);
    if (!code && close_code) *err = close_err, code = close_code;
    emulator_close(e);
    buf_free(&rom);
    return code;
}

static void films(void **state) {
    (void)state;
    char folder[] = "/tmp/pmd-test-film-XXXXXX", path[300], command[600];
    struct err err = {0};
    struct stat st;
    if (!file_exists(ROM)) skip_because("%s is missing", ROM);
    if (!have_ffmpeg()) skip_because("ffmpeg is not installed");
    assert_non_null(mkdtemp(folder));
    snprintf(path, sizeof path, "%s/out.mp4", folder);
    if (film(path, false, &err)) fail_msg("%s", err.message);
    assert_false(file_exists(path)); /* thrown away */
    if (film(path, true, &err)) fail_msg("%s", err.message);
    assert_true(stat(path, &st) == 0 && st.st_size > 1000);
    snprintf(command, sizeof command, "test \"$(ffprobe -v error -select_streams v -count_frames -show_entries stream=width,height,pix_fmt,nb_read_frames "
             "-of csv=p=0 %s)\" = 480,320,yuv420p,60", path);
    if (system("ffprobe -version >/dev/null 2>&1") == 0) assert_int_equal(system(command), 0);
    snprintf(path, sizeof path, "%s/out.nonsense", folder); /* ffmpeg itself refuses: its words, no SIGPIPE, nothing left over */
    assert_int_equal(film(path, true, &err), ERR_IO);
    assert_non_null(strstr(err.message, "ffmpeg"));
    assert_int_equal(film("/nonexistent/x.mp4", true, &err), ERR_IO);
    snprintf(command, sizeof command, "test \"$(ls -A %s)\" = out.mp4", folder);
    assert_int_equal(system(command), 0);
    snprintf(command, sizeof command, "rm -rf %s", folder);
    assert_int_equal(system(command), 0);
}

static void a_missing_ffmpeg_is_named(void **state) {
    (void)state;
    struct video *v;
    struct err err;
    char *path = strdup(getenv("PATH"));
    setenv("PATH", "/nonexistent", 1);
    int code = video_open("/tmp/pmd-test-no-film.mp4", &v, &err);
    setenv("PATH", path, 1);
    free(path);
    assert_int_equal(code, ERR_MISSING);
    assert_non_null(strstr(err.message, "apt-get install ffmpeg"));
    assert_false(file_exists("/tmp/pmd-test-no-film.mp4"));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(shows_the_game_in_half_blocks), cmocka_unit_test(the_terminal_is_restored_on_any_exit), cmocka_unit_test(elsewhere_plain_lines),
        cmocka_unit_test(films),                         cmocka_unit_test(a_missing_ffmpeg_is_named),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
