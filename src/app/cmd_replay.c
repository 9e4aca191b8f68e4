/* pmd-agent replay RUN: plays the recorded presses again from the recorded start state and compares every picture and every
 * state with the record. Nothing but the emulator and the record takes part: no agent, no model. */
#include <getopt.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "app/commands.h"
#include "app/run_game.h"
#include "app/term_view.h"
#include "record/hash.h"
#include "record/run_set.h"
#include "record/video.h"

enum { LONGEST_GAP = 1000 * 1000 /* frames between two steps: 4.6 hours of game time */ };

struct replay {
    struct run_reader *reader;
    struct emulator *emulator;
    struct video *video;
    struct term_view *view;
    uint64_t steps, frames;
    uint64_t position;  /* frames since the start state of this episode */
    bool drawn;         /* a picture of this position exists */
};

static volatile sig_atomic_t stop;
static void on_signal(int number) {
    (void)number;
    stop = 1;
}

static int usage(FILE *to, int status) {
    fputs("usage: pmd-agent replay RUN [--rom FILE] [--episode N] [--watch] [--video FILE.mp4]\n"
          "Plays a recorded run again in a fresh emulator and checks every picture and every state against the record. A run of several\n"
          "games is checked game by game; RUN/game-001 is the first of them alone.\n"
          "  --rom FILE      the ROM, when it is not where the run says\n"
          "  --episode N     this episode only (default: all)\n"
          "  --watch         show it in the terminal\n"
          "  --video FILE    film it (needs ffmpeg)\n"
          "Exit status 0: identical; 1: the first difference is named, or the run is incomplete or was changed.\n",
          to);
    return status;
}

/* Runs frames with these keys; the last one is drawn, so that a step that follows can be compared. */
static int advance(struct replay *p, uint32_t keys, uint64_t frames, struct err *err) {
    while (frames) {
        if (stop) return err_set(err, ERR_CANCELLED, "stopped; the %llu steps up to here are identical", (unsigned long long)p->steps);
        /* Watched, every second frame is drawn; else only the last. */
        int n = p->video || p->view ? 2 : frames > 65536 ? 65536 : (int)frames;
        if ((uint64_t)n > frames) n = (int)frames;
        frames -= (uint64_t)n;
        emulator_run(p->emulator, keys, n, frames == 0 || p->video || p->view);
        p->position += (uint64_t)n;
        p->frames += (uint64_t)n;
        p->drawn = frames == 0;
        if (p->video && video_add(p->video, p->emulator, err)) return err->code;
        if (p->view) term_view_acted(p->view, p->emulator);
    }
    return 0;
}

static int advance_to(struct replay *p, const struct run_episode *e, uint64_t frame, const char *what, struct err *err) {
    uint64_t target = frame - e->start_frame;
    if (frame < e->start_frame || target < p->position) {
        return err_set(err, ERR_FORMAT, "%s begins at frame %llu, but the presses before it reach frame %llu: the record was changed", what,
                       (unsigned long long)frame, (unsigned long long)(e->start_frame + p->position));
    }
    if (target - p->position > LONGEST_GAP) {
        return err_set(err, ERR_FORMAT, "%s begins %llu frames after the presses before it: the record was changed", what,
                       (unsigned long long)(target - p->position));
    }
    return advance(p, 0, target - p->position, err);
}

static int check_step(struct replay *p, const struct run_episode *e, const struct run_line *line, struct err *err) {
    char what[64], hash[33];
    static uint8_t rgb[FRAME_PIXELS * 3];
    snprintf(what, sizeof what, "episode %d, step %u", line->episode, line->step);
    if (advance_to(p, e, line->first_frame, what, err)) return err->code;
    emulator_state_hash(p->emulator, hash);
    if (strcmp(hash, line->state_hash) != 0) {
        return err_set(err, ERR_STATE, "%s (frame %llu): first mismatch: the memory is %s, the record says %s", what,
                       (unsigned long long)line->first_frame, hash, line->state_hash);
    }
    if (p->drawn) { /* a loaded state holds no finished picture: one frame must have run */
        emulator_frame(p->emulator, rgb);
        frame_hash(rgb, hash);
        if (strcmp(hash, line->frame_hash) != 0) {
            return err_set(err, ERR_STATE, "%s (frame %llu): first mismatch: the picture is %s, the record says %s", what,
                           (unsigned long long)line->first_frame, hash, line->frame_hash);
        }
    }
    for (int i = 0; i < line->press_count; i++) {
        if (advance(p, line->presses[i].keys, line->presses[i].frames, err)) return err->code;
    }
    p->steps++;
    return 0;
}

static int begin_episode(struct replay *p, const struct run_episode *e, struct err *err) {
    struct buf state = {0};
    char hash[33];
    int code = run_start_state(p->reader, e, &state, err);
    emulator_reset(p->emulator);
    if (!code) code = emulator_state_load(p->emulator, state.data, state.len, err);
    buf_free(&state);
    if (code) return err_context(err, "episode %d", e->number);
    emulator_state_hash(p->emulator, hash);
    if (strcmp(hash, e->start_hash) != 0) {
        return err_set(err, ERR_STATE, "episode %d: %s holds memory %s, the record says %s: the file was changed", e->number, e->start_state, hash,
                       e->start_hash);
    }
    p->position = 0;
    p->drawn = false;
    if (p->video) video_cut(p->video);
    if (p->view) term_view_episode_begun(p->view, e->seed, p->emulator);
    return 0;
}

static int end_episode(struct replay *p, const struct run_episode *e, struct err *err) {
    char what[64], hash[33];
    if (!e->ended) {
        return err_set(err, ERR_FORMAT, "episode %d has no end: the recording was cut off here; what is there (%llu steps) is identical", e->number,
                       (unsigned long long)p->steps);
    }
    if (!e->end_hash) return 0;
    snprintf(what, sizeof what, "the end of episode %d", e->number);
    if (advance_to(p, e, e->end_frame, what, err)) return err->code;
    emulator_state_hash(p->emulator, hash);
    if (strcmp(hash, e->end_hash) == 0) return 0;
    return err_set(err, ERR_STATE, "%s (frame %llu): first mismatch: the memory is %s, the record says %s", what, (unsigned long long)e->end_frame, hash,
                   e->end_hash);
}

/* Ends the present episode and begins the next ones up to number `target` (episodes may have no steps at all). */
static int move_to_episode(struct replay *p, int *present, int target, int only, struct err *err) {
    const struct run_episode *episodes;
    int count = run_reader_episodes(p->reader, &episodes), code = 0;
    while (!code && *present < target) {
        if (*present > 0 && (only == 0 || only == *present)) code = end_episode(p, &episodes[*present - 1], err);
        ++*present;
        if (!code && *present <= count && (only == 0 || only == *present)) code = begin_episode(p, &episodes[*present - 1], err);
    }
    return code;
}

static int replay_all(struct replay *p, int only, struct err *err) {
    const struct run_episode *episodes;
    int count = run_reader_episodes(p->reader, &episodes), present = 0, code = 0;
    if (count == 0 && !run_reader_info(p->reader)->finished) return err_set(err, ERR_FORMAT, "the run holds no episode: it was cut off before the first");
    if (only > count) return err_set(err, ERR_ARGUMENT, "the run has %d episodes, --episode asks for %d", count, only);
    struct run_line *line = malloc(sizeof *line);
    if (!line) return err_set(err, ERR_MEMORY, "out of memory");
    int got = 1;
    while (!code && got > 0) {
        got = run_next(p->reader, line, NULL, err);
        if (got < 0) code = got;
        if (!code) code = move_to_episode(p, &present, got > 0 ? line->episode : count + 1, only, err);
        if (!code && got > 0 && (only == 0 || only == line->episode)) code = check_step(p, &episodes[line->episode - 1], line, err);
    }
    free(line);
    if (!code && !only && !run_reader_info(p->reader)->finished) {
        code = err_set(err, ERR_FORMAT, "the run was cut off after episode %d (no summary.json); what is there (%llu steps) is identical", count,
                       (unsigned long long)p->steps);
    }
    return code;
}

/* Returns the exit status. */
static int replay_run(const char *folder, bool name, const char *rom, const char *film, int only, bool watch) {
    struct replay p = {0};
    struct err err = {0};
    int code = run_open(folder, &p.reader, &err);
    if (!code) code = run_game_open(run_reader_info(p.reader), rom, &p.emulator, &err);
    if (!code && film) code = video_open(film, &p.video, &err);
    if (!code && watch) p.view = term_view_open(&(struct term_view_options){.kind = VIEW_AUTO, .fd = 1, .title = "replay"});
    if (!code) code = replay_all(&p, only, &err);
    term_view_close(p.view);
    struct err film_err = {0};
    int film_code = video_close(p.video, code == 0, &film_err);
    if (p.emulator) emulator_close(p.emulator);
    run_close(p.reader);
    if (code) fprintf(stderr, "pmd-agent replay: %s%s%s\n", name ? folder : "", name ? ": " : "", err.message);
    if (film_code) fprintf(stderr, "pmd-agent replay: %s\n", film_err.message);
    if (code || film_code) return code == ERR_CANCELLED ? 130 : 1;
    printf("%s%s%llu steps, %llu frames: identical\n", name ? folder : "", name ? ": " : "", (unsigned long long)p.steps, (unsigned long long)p.frames);
    return 0;
}

int cmd_replay(int argc, char **argv) {
    static const struct option options[] = {{"rom", required_argument, NULL, 'r'}, {"episode", required_argument, NULL, 'e'},
                                            {"watch", no_argument, NULL, 'w'},     {"video", required_argument, NULL, 'v'},
                                            {"help", no_argument, NULL, 'h'},      {0}};
    const char *rom = NULL, *film = NULL;
    int only = 0, c;
    bool watch = false;
    optind = 0;
    while ((c = getopt_long(argc, argv, "", options, NULL)) != -1) {
        if (c == 'r') rom = optarg;
        else if (c == 'v') film = optarg;
        else if (c == 'w') watch = true;
        else if (c == 'h') return usage(stdout, 0);
        else if (c == 'e' && (only = atoi(optarg)) > 0) continue;
        else return usage(stderr, 2);
    }
    if (argc - optind != 1) return usage(stderr, 2);

    struct sigaction action = {.sa_handler = on_signal};
    sigaction(SIGINT, &action, NULL);
    sigaction(SIGTERM, &action, NULL);
    struct run_set set;
    struct err err = {0};
    if (run_set_open(argv[optind], &set, &err)) return fprintf(stderr, "pmd-agent replay: %s\n", err.message), 1;
    int status = 0;
    if (set.games && (film || only)) status = usage(stderr, 2); /* of one game: RUN/game-001 */
    for (int i = 0; i < (set.games ? set.games : 1) && !status; i++) {
        char folder[PATH_MAX];
        status = replay_run(run_set_game(&set, i, folder), set.games > 0, rom, film, only, watch);
    }
    run_set_close(&set);
    return status;
}
