/* pmd-agent play: wires ROM, emulator, model, agent and the subscribers together, and prints what came of it. */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "agent/home.h"
#include "app/commands.h"
#include "app/play.h"
#include "app/play_memory.h"
#include "base/file.h"

enum { ROM_LIMIT = 64 << 20 };

static volatile bool stop;

static void on_signal(int number) {
    stop = true;
    signal(number, SIG_DFL); /* a second one ends the program at once */
}

/* ---- what is needed before the first frame ------------------------------------------------------------------------------------- */

static int check_game(const struct play *p, struct err *err) {
    struct rom_header header;
    int code = rom_header_read(p->rom.data, p->rom.len, &header, err);
    if (code) return err_context(err, "%s", p->rom_path);
    if (p->o.remote) return 0; /* looked at where it runs; libmgba need not be here */
    struct emulator *e;
    if ((code = emulator_open(p->rom.data, p->rom.len, NULL, &e, err))) return err_context(err, "%s", p->rom_path);
    struct memory_view memory;
    static struct world world;
    emulator_memory(e, &memory);
    world_decode(&memory, header.title, header.code, &world);
    bool supported = world.layout;
    emulator_close(e);
    if (supported) return 0;
    if (!strncmp(header.code, "B24", 3)) {
        return err_set(err, ERR_FORMAT, "%s: this is Red Rescue Team for another region (code %s); only the USA version (B24E) is supported",
                       p->rom_path, header.code);
    }
    return err_set(err, ERR_FORMAT, "%s: the game \"%s\" (code %s) is not supported; playable are Tiny Woods (TWDE, bundled) and "
                   "Pokemon Mystery Dungeon: Red Rescue Team, USA (B24E)", p->rom_path, header.title, header.code);
}

static int load_rom(struct play *p, struct err *err) {
    if (p->o.rom) snprintf(p->rom_path, sizeof p->rom_path, "%s", p->o.rom);
    else home_file(HOME_ROM, p->rom_path, sizeof p->rom_path);
    int code = file_read(p->rom_path, ROM_LIMIT, &p->rom, err);
    if (code) return err_context(err, "the ROM%s", p->o.rom ? "" : " of the bundled dungeon (PMD_HOME can name the project's folder)");
    return check_game(p, err);
}

/* A dashboard that was not asked for is worth no error: the game is played all the same. */
static int start_board(struct play *p, struct err *err) {
    bool terminal = isatty(1) && !p->o.json;
    if (p->o.dashboard == DASHBOARD_OFF || (p->o.dashboard == DASHBOARD_AUTO && !terminal && !p->o.serve)) return 0;
    struct buf about = {0};
    struct control *controls[DASH_GAMES];
    const char *policy = policy_name[p->o.policy], *label = play_model_name(p) ? play_model_name(p) : policy;
    buf_printf(&about, "{\"policy\":\"%s\",\"seed\":%u,\"episodes\":%d,\"rom\":", policy, p->o.seed, p->o.episodes);
    buf_json_string(&about, p->rom_path, strlen(p->rom_path));
    buf_str(&about, ",\"run\":");
    buf_json_string(&about, p->folder, strlen(p->folder));
    buf_str(&about, ",\"model\":");
    size_t before = about.len;
    play_model_detail(&p->model, &about);
    if (about.len == before) buf_str(&about, "null");
    buf_char(&about, '}');
    for (int i = 0; i < p->o.jobs && i < DASH_GAMES; i++) controls[i] = p->games[i].control;
    struct dashboard_options o = {.port = p->o.dashboard_port, .games = p->o.jobs, .title = label, .about = about.data, .controls = controls, .notes = p->o.policy == POLICY_MODEL, .serves = p->o.serve,
                                  .model = p->model.engine};
    int code = about.failed ? err_set(err, ERR_MEMORY, "out of memory for the dashboard") : dashboard_open(&o, &p->board, err);
    buf_free(&about);
    if (p->board) fprintf(stderr, "dashboard: %s\n", dashboard_url(p->board));
    if (p->board && p->o.serve && !(code = dashboard_serve(p->board, label, err)))
        fprintf(stderr, "API: %sv1  (model '%s')\n", dashboard_url(p->board), label);
    else if (p->o.dashboard == DASHBOARD_AUTO && !p->o.serve && !p->board) fprintf(stderr, "no dashboard: %s\n", err->message), code = 0, *err = (struct err){0};
    return code;
}

static int start_view(struct play *p, struct err *err) {
    bool bar = p->o.json || p->o.jobs > 1;
    snprintf(p->title, sizeof p->title, "%s%s%s", play_model_name(p) ? play_model_name(p) : policy_name[p->o.policy], p->board ? "  " : "",
             p->board ? dashboard_url(p->board) : "");
    struct term_view_options o = {.kind = bar ? VIEW_BAR : VIEW_AUTO, .fd = bar ? 2 : 1, .episodes = p->o.episodes, .title = p->title};
    if (!(p->view = term_view_open(&o))) return err_set(err, ERR_MEMORY, "out of memory for the view");
    p->watched = p->games[0].film.video || (!bar && isatty(1));
    p->paced = (!bar && isatty(1)) || p->o.dashboard == DASHBOARD_ON; /* who asks for a page wants to see it */
    return 0;
}

static int play_all(struct play *p, struct err *err) {
    int code;
    if ((code = load_rom(p, err))) return code;
    if (p->o.policy == POLICY_MODEL && (code = play_model_open(&p->o, &stop, &p->model, err))) return code;
    bool ours = p->o.policy != POLICY_MODEL || play_model_is_ours(&p->model);
    if (!p->o.act_given) p->o.acting = ours ? ACT_BY_STEPS : ACT_BY_SKILLS;
    if (p->o.history < 0) p->o.history = ours ? 0 : HISTORY_HUB;
    if (p->o.prompt) snprintf(p->prompt_path, sizeof p->prompt_path, "%s", p->o.prompt);
    else home_file(ours ? HOME_PROMPT : HOME_HUB_PROMPT, p->prompt_path, sizeof p->prompt_path);
    if (!(p->games = calloc((size_t)p->o.jobs, sizeof *p->games))) return err_set(err, ERR_MEMORY, "out of memory for %d games", p->o.jobs);
    for (int i = 0; i < p->o.jobs; i++) {
        p->games[i].play = p;
        p->games[i].run.stop = p->games[i].film.stop = &stop;
        if (!(p->games[i].control = control_new(p->o.speed))) return err_set(err, ERR_MEMORY, "out of memory for %d games", p->o.jobs);
    }
    if (p->o.video && (code = video_open(p->o.video, &p->games[0].film.video, err))) return code;
    if ((code = play_record_open(p, err))) return code;
    if (p->totals.episodes == p->o.episodes) return 0; /* a resumed run with nothing left to play */
    if ((code = start_board(p, err))) return code;
    if ((code = play_memory_open(p, err))) return code;
    if ((code = start_view(p, err))) return code;
    signal(SIGINT, on_signal);
    signal(SIGTERM, on_signal);
    return play_games(p, err);
}

static int print_report(struct play *p, const char *run_folder) {
    static const char *const pictures[] = {NULL, "a blank", "another dungeon's"};
    struct report_header h = {.policy = policy_name[p->o.policy], .seed = p->o.seed, .asked = p->o.episodes, .run_folder = run_folder, .watched = p->watched,
                              .model = play_model_name(p), .games = p->o.jobs, .seconds = p->seconds, .decisions_here = p->decisions_here, .picture = pictures[p->o.picture]};
    struct buf out = {0};
    if (p->o.json) report_json(&p->totals, &h, &out);
    else report_text(&p->totals, &h, &out);
    if (!p->o.json && p->model.ladder) play_ladder_report(p->model.ladder, &out);
    int bad = out.failed || fwrite(out.data, 1, out.len, stdout) != out.len || fflush(stdout);
    buf_free(&out);
    if (bad) fputs("pmd-agent play: the result could not be written\n", stderr);
    return bad;
}

int cmd_play(int argc, char **argv) {
    for (int i = 1; i < argc; i++) {
        if (!strcmp(argv[i], "--frames") || !strncmp(argv[i], "--frames=", 9)) return cmd_play_frames(argc, argv);
    }
    static struct play play;
    struct play *p = &play;
    struct err err = {0}, later = {0};
    *p = (struct play){.stop = &stop};
    stop = false;
    int status = play_options_parse(argc, argv, &p->o);
    if (status) return play_options_free(&p->o), status == 1 ? 0 : status;
    pthread_mutex_init(&p->lock, NULL);
    int code = play_all(p, &err);
    bool stopped = stop && !p->err.code;
    if (!code && p->err.code) code = p->err.code, err = p->err;

    term_view_close(p->view);
    dashboard_close(p->board);
    if (play_memory_close(p, &later) && !code) code = later.code, err = later, stopped = false;
    if (play_record_close(p, &later) && !code) code = later.code, err = later, stopped = false;
    struct video_subscriber *film = p->games ? &p->games[0].film : &(struct video_subscriber){0};
    if (!code && film->code) code = film->code, err = film->err, stopped = false;
    if (video_close(film->video, !code, &later) && !code) code = later.code, err = later;
    if (p->totals.episodes && print_report(p, *p->folder ? p->folder : NULL) && !code) code = ERR_IO;
    if (code && *err.message) fprintf(stderr, "pmd-agent play: %s\n", err.message);
    if (!code && stopped && *p->folder) fprintf(stderr, "pmd-agent play: stopped; pmd-agent play --resume %s goes on\n", p->folder);
    else if (!code && stopped) fprintf(stderr, "pmd-agent play: stopped\n");
    play_model_close(&p->model);
    totals_free(&p->totals);
    buf_free(&p->rom);
    for (int i = 0; p->games && i < p->o.jobs; i++) control_free(p->games[i].control);
    free(p->games);
    free(p->begun);
    play_options_free(&p->o);
    pthread_mutex_destroy(&p->lock);
    signal(SIGINT, SIG_DFL);
    signal(SIGTERM, SIG_DFL);
    return code ? 1 : stopped ? 130 : 0;
}
