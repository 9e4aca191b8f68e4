/* A terminal cell shows two pixels, one above the other: the upper half block (U+2580) in the colour of the upper one on the
 * background of the lower one. The game is scaled down by averaging over the source pixels of each (box filter), never up.
 * A picture is compared with what the terminal shows already; only cells that differ are sent, in one write. */
#include "app/term_view.h"

#include <errno.h>
#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "base/buf.h"
#include "base/clock.h"

struct cell {
    uint8_t top[3], bottom[3];
};

struct term_view {
    struct term_view_options o;
    bool terminal;
    struct buf out;
    /* VIEW_SCREEN */
    int columns, rows;            /* of the terminal */
    int width, height;            /* of the picture in pixels; height even, (width, height / 2) cells */
    struct cell *shown, *next;    /* width * height / 2 */
    bool all_new, picture_newer;  /* picture_newer: than the one observed by the next step event */
    double last_picture;
    char status[512];
    uint8_t rgb[FRAME_PIXELS * 3];
    /* counts */
    int episode, done, cleared;
    uint32_t seed, floor_shown;
    int line_percent;
    double started, episode_started;
};

static const char leave_screen[] = "\033[0m\033[?25h\033[?1049l";
static struct term_view *open_view; /* for the handlers: at most one */
static volatile sig_atomic_t size_changed, screen_fd = -1;

static void put(int fd, const char *s, size_t n) {
    while (n) {
        ssize_t k = write(fd, s, n);
        if (k < 0 && errno == EINTR) continue;
        if (k <= 0) return; /* a closed terminal is no reason to stop the run */
        s += k;
        n -= (size_t)k;
    }
}

/* ---- signals: only async-signal-safe calls -------------------------------------------------------------------------------- */

static void on_resize(int signal_number) {
    (void)signal_number;
    size_changed = 1;
}

static void restore_terminal(void) {
    if (screen_fd >= 0) put((int)screen_fd, leave_screen, sizeof leave_screen - 1);
}

static void on_fatal(int signal_number) {
    restore_terminal();
    signal(signal_number, SIG_DFL);
    raise(signal_number);
}

static void on_stop(int signal_number) {
    (void)signal_number;
    int saved = errno;
    restore_terminal();
    raise(SIGSTOP); /* goes on here after SIGCONT */
    size_changed = 2;
    errno = saved;
}

static void at_exit(void) {
    restore_terminal();
    screen_fd = -1;
}

static const int fatal_signals[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGABRT, SIGHUP, SIGQUIT, SIGINT, SIGTERM};

static void handle(int number, void (*handler)(int)) {
    struct sigaction old, action = {.sa_handler = handler, .sa_flags = SA_RESTART};
    if (sigaction(number, NULL, &old) == 0 && old.sa_handler == SIG_DFL) sigaction(number, &action, NULL);
}

static void unhandle(int number, void (*handler)(int)) {
    struct sigaction old;
    if (sigaction(number, NULL, &old) == 0 && old.sa_handler == handler) signal(number, SIG_DFL);
}

/* ---- the screen ------------------------------------------------------------------------------------------------------------- */

static void enter_screen(struct term_view *v) {
    static const char enter[] = "\033[?1049h\033[?25l\033[2J";
    put(v->o.fd, enter, sizeof enter - 1);
    v->all_new = true;
}

/* Picture size for this terminal: the two last rows are the status line and an empty one. */
static void fit(struct term_view *v) {
    struct winsize size = {0};
    if (ioctl(v->o.fd, TIOCGWINSZ, &size) != 0 || size.ws_col == 0 || size.ws_row == 0) size.ws_col = 80, size.ws_row = 24;
    v->columns = size.ws_col;
    v->rows = size.ws_row;
    double scale = fmin(1.0, fmin((double)v->columns / FRAME_WIDTH, 2.0 * (v->rows - 1) / FRAME_HEIGHT));
    int width = (int)(FRAME_WIDTH * scale + 0.5), height = (int)(FRAME_HEIGHT * scale + 0.5) & ~1;
    if (width > v->columns) width = v->columns;
    if (height > 2 * (v->rows - 1)) height = 2 * (v->rows - 1);
    if (width < 2 || height < 2) width = height = 0;
    size_t cells = (size_t)width * (size_t)(height / 2);
    struct cell *shown = calloc(cells ? cells : 1, sizeof *shown), *next = calloc(cells ? cells : 1, sizeof *next);
    if (!shown || !next) {
        free(shown), free(next);
        v->width = v->height = 0;
        return;
    }
    free(v->shown), free(v->next);
    v->shown = shown, v->next = next;
    v->width = width, v->height = height;
    v->all_new = true;
}

/* Mean of the source pixels that destination pixel (x, y) covers; each source pixel belongs to exactly one when shrinking. */
static void average(const struct term_view *v, int x, int y, uint8_t out[3]) {
    int x0 = x * FRAME_WIDTH / v->width, x1 = (x + 1) * FRAME_WIDTH / v->width;
    int y0 = y * FRAME_HEIGHT / v->height, y1 = (y + 1) * FRAME_HEIGHT / v->height;
    int sum[3] = {0}, n = (x1 - x0) * (y1 - y0);
    for (int sy = y0; sy < y1; sy++) {
        for (int sx = x0; sx < x1; sx++) {
            const uint8_t *p = v->rgb + 3 * (sy * FRAME_WIDTH + sx);
            sum[0] += p[0], sum[1] += p[1], sum[2] += p[2];
        }
    }
    for (int c = 0; c < 3; c++) out[c] = (uint8_t)((sum[c] + n / 2) / n);
}

static void put_colours(struct buf *b, const struct cell *c, const struct cell *pen) {
    bool top = !pen || memcmp(c->top, pen->top, 3) != 0, bottom = !pen || memcmp(c->bottom, pen->bottom, 3) != 0;
    if (!top && !bottom) return;
    buf_str(b, "\033[");
    if (top) buf_printf(b, "38;2;%d;%d;%d", c->top[0], c->top[1], c->top[2]);
    if (bottom) buf_printf(b, "%s48;2;%d;%d;%d", top ? ";" : "", c->bottom[0], c->bottom[1], c->bottom[2]);
    buf_char(b, 'm');
}

static void put_picture(struct term_view *v) {
    int left = (v->columns - v->width) / 2;
    const struct cell *pen = NULL;
    int pen_row = -1, pen_column = -1; /* where the next character would land */
    for (int row = 0; row < v->height / 2; row++) {
        for (int x = 0; x < v->width; x++) {
            struct cell *c = &v->next[row * v->width + x];
            average(v, x, 2 * row, c->top);
            average(v, x, 2 * row + 1, c->bottom);
            if (!v->all_new && memcmp(c, &v->shown[row * v->width + x], sizeof *c) == 0) continue;
            if (row != pen_row || x != pen_column) buf_printf(&v->out, "\033[%d;%dH", row + 1, left + x + 1);
            put_colours(&v->out, c, pen);
            buf_str(&v->out, "\xE2\x96\x80");
            pen = c;
            pen_row = row;
            pen_column = x + 1;
        }
    }
    struct cell *swap = v->shown;
    v->shown = v->next;
    v->next = swap;
}

static void draw(struct term_view *v) {
    if (size_changed) {
        if (size_changed == 2) enter_screen(v);
        size_changed = 0;
        fit(v);
    }
    buf_clear(&v->out);
    if (v->all_new) buf_str(&v->out, "\033[0m\033[2J");
    put_picture(v);
    v->all_new = false;
    /* Status: cut to the width so that it never wraps (its text is ASCII but for names; counting bytes errs on the short side). */
    buf_printf(&v->out, "\033[0m\033[%d;1H\033[2K%.*s", v->height / 2 + 1, v->columns - 1, v->status);
    if (!v->out.failed) put(v->o.fd, v->out.data, v->out.len);
    v->last_picture = clock_seconds();
}

/* ---- events ------------------------------------------------------------------------------------------------------------------ */

struct term_view *term_view_open(const struct term_view_options *o) {
    struct term_view *v = calloc(1, sizeof *v);
    if (!v) return NULL;
    v->o = *o;
    v->terminal = isatty(o->fd) == 1;
    if (v->o.kind == VIEW_AUTO) v->o.kind = v->terminal ? VIEW_SCREEN : VIEW_LINES;
    if (v->o.line_every <= 0) v->o.line_every = 50;
    if (v->o.max_pictures_per_second <= 0) v->o.max_pictures_per_second = 30;
    v->started = clock_seconds();
    if (v->o.kind != VIEW_SCREEN) return v;
    fit(v);
    open_view = v;
    static bool registered;
    if (!registered) registered = atexit(at_exit) == 0;
    screen_fd = o->fd;
    handle(SIGWINCH, on_resize);
    handle(SIGTSTP, on_stop);
    for (size_t i = 0; i < sizeof fatal_signals / sizeof fatal_signals[0]; i++) handle(fatal_signals[i], on_fatal);
    enter_screen(v);
    return v;
}

void term_view_close(struct term_view *v) {
    if (!v) return;
    if (open_view == v) {
        restore_terminal();
        screen_fd = -1;
        open_view = NULL;
        unhandle(SIGWINCH, on_resize);
        unhandle(SIGTSTP, on_stop);
        for (size_t i = 0; i < sizeof fatal_signals / sizeof fatal_signals[0]; i++) unhandle(fatal_signals[i], on_fatal);
    }
    if (v->o.kind == VIEW_BAR && v->terminal && v->done) put(v->o.fd, "\n", 1);
    buf_free(&v->out);
    free(v->shown);
    free(v->next);
    free(v);
}

static void say(struct term_view *v, const char *format, ...) __attribute__((format(printf, 2, 3)));
static void say(struct term_view *v, const char *format, ...) {
    char text[640];
    va_list args;
    va_start(args, format);
    int n = vsnprintf(text, sizeof text, format, args);
    va_end(args);
    if (n > 0) put(v->o.fd, text, (size_t)n < sizeof text ? (size_t)n : sizeof text - 1);
}

static void bar(struct term_view *v) {
    int of = v->o.episodes > v->done ? v->o.episodes : v->done, percent = of ? (int)(100LL * v->done / of) : 0;
    if (!v->terminal && v->done < of && percent / 5 == v->line_percent / 5) return;
    v->line_percent = percent;
    double elapsed = clock_seconds() - v->started;
    char eta[32] = "?", cells[25];
    if (v->done) {
        long left = (long)(elapsed / v->done * (of - v->done) + 0.5);
        snprintf(eta, sizeof eta, "%ld:%02ld", left / 60, left % 60);
    }
    memset(cells, '.', 24);
    memset(cells, '#', (size_t)(24 * percent / 100));
    cells[24] = 0;
    say(v, "%s[%s] %d/%d episodes, %d cleared, ETA %s%s", v->terminal ? "\r\033[K" : "", cells, v->done, of, v->cleared, eta, v->terminal ? "" : "\n");
}

void term_view_episode_begun(struct term_view *v, uint32_t seed, struct emulator *e) {
    v->episode++;
    v->seed = seed;
    v->floor_shown = 0;
    v->episode_started = clock_seconds();
    snprintf(v->status, sizeof v->status, " episode %d/%d  seed %u  %s", v->episode, v->o.episodes > v->episode ? v->o.episodes : v->episode, seed,
             v->o.title ? v->o.title : "");
    if (v->o.kind == VIEW_SCREEN) term_view_acted(v, e);
    if (v->o.kind == VIEW_LINES) say(v, "episode %d: seed %u%s%s\n", v->episode, seed, v->o.title ? ", " : "", v->o.title ? v->o.title : "");
    if (v->o.kind == VIEW_BAR && v->episode == 1 && v->terminal) bar(v);
}

void term_view_acted(struct term_view *v, struct emulator *e) {
    if (v->o.kind != VIEW_SCREEN) return;
    bool repaint = size_changed != 0;
    if (!repaint && clock_seconds() - v->last_picture < 1.0 / v->o.max_pictures_per_second) return;
    if (emulator_frame(e, v->rgb) == 0) return;
    v->picture_newer = true;
    draw(v);
}

/* Tokens the model really computed, in the time it took: reused ones are not counted. 0 when no model was asked. */
static double tokens_per_second(const struct step *s) {
    double ms = s->image_ms + s->prefill_ms + s->generate_ms;
    double tokens = (double)(s->prompt_token_count - s->cached_tokens) + s->answer_token_count;
    return s->answer && ms > 0 && tokens > 0 ? 1000 * tokens / ms : 0;
}

static void status_line(const struct step *s, char *text, size_t cap) {
    const struct world *w = s->seen ? &s->seen->now : s->world;
    int n = 0;
    if (w && w->leader >= 0 && w->leader < w->team_count) {
        const struct monster *m = &w->team[w->leader];
        n = snprintf(text, cap, "floor %d  HP %d/%d  belly %d/%d  ", w->floor, m->hp, m->max_hp, m->belly, m->max_belly);
    }
    if (n < 0 || (size_t)n >= cap) return;
    n += snprintf(text + n, cap - (size_t)n, "step %u  %s", s->number, s->action ? s->action : "");
    if ((size_t)n < cap && s->decided_by != BY_MODEL && (unsigned)s->decided_by < DECIDED_BY_COUNT) {
        n += snprintf(text + n, cap - (size_t)n, " (%s)", decided_by_name[s->decided_by]);
    }
    if ((size_t)n < cap && s->answer) n += snprintf(text + n, cap - (size_t)n, " %.0f%%", 100.0 * s->confidence);
    double rate = tokens_per_second(s);
    if ((size_t)n < cap && rate > 0) n += snprintf(text + n, cap - (size_t)n, "  %.0f tok/s", rate);
    if ((size_t)n < cap) snprintf(text + n, cap - (size_t)n, "  %.1f ms", s->observe_ms + s->decode_ms + s->ask_ms);
}

void term_view_step(struct term_view *v, const struct step *s) {
    const struct world *w = s->seen ? &s->seen->now : s->world;
    char text[400] = "";
    if (v->o.kind == VIEW_BAR) return;
    status_line(s, text, sizeof text);
    if (v->o.kind == VIEW_LINES) {
        bool new_floor = w && w->floor > 0 && (uint32_t)w->floor != v->floor_shown;
        if (new_floor) v->floor_shown = (uint32_t)w->floor;
        if (new_floor || s->number % (uint32_t)v->o.line_every == 0) say(v, "  %s\n", text);
        return;
    }
    if (v->o.episodes > 1) snprintf(v->status, sizeof v->status, " %d/%d  %s", v->episode, v->o.episodes, text);
    else snprintf(v->status, sizeof v->status, " %s", text);
    if (s->frame && clock_seconds() - v->last_picture >= 1.0 / v->o.max_pictures_per_second) {
        if (!v->picture_newer) memcpy(v->rgb, s->frame, sizeof v->rgb);
        draw(v);
    }
    v->picture_newer = false;
}

void term_view_episode_done(struct term_view *v, const struct episode_result *r) {
    v->done += !r->returns; /* the watchdog goes back: the same episode goes on */
    v->cleared += r->outcome == OUTCOME_CLEARED;
    const char *outcome = (unsigned)r->outcome <= OUTCOME_STUCK ? outcome_name[r->outcome] : "?";
    if (v->o.kind == VIEW_BAR) bar(v);
    if (v->o.kind == VIEW_LINES) {
        say(v, "episode %d: %s%s%s, floor %d, %d turns, %d decisions, %.1f s%s\n", v->episode, outcome, r->cause[0] ? ": " : "", r->cause, r->floor_reached,
            r->turns, r->decisions, r->seconds, r->returns ? "; back to an earlier state" : "");
    }
    if (v->o.kind == VIEW_SCREEN) {
        snprintf(v->status, sizeof v->status, " %s%s%s  %d turns, %d decisions", outcome, r->cause[0] ? ": " : "", r->cause, r->turns, r->decisions);
        draw(v);
    }
}
