/* pmd-agent: the table of sub-commands. A build without the game's libraries (`make engine`) keeps every name and says which
 * library is missing. */
#include <malloc.h>
#include <stdio.h>
#include <string.h>

#include "app/commands.h"

struct command {
    const char *name;
    int (*run)(int argc, char **argv);
    const char *help;
    const char *missing; /* of an engine-only build: the Debian packages this command needs */
};

#ifdef ENGINE_ONLY
#define COMMAND_PLAY cmd_play_frames /* its help says what it needs: recorded frames */
#define GAME(name, function, help, packages) {name, NULL, help, packages}
#else
#define COMMAND_PLAY cmd_play
#define GAME(name, function, help, packages) {name, function, help, NULL}
#endif

static const struct command commands[] = {
    {"play", COMMAND_PLAY, "play a dungeon with a model (or an oracle) and watch it", NULL},
    GAME("replay", cmd_replay, "play a recorded run again and check every frame", "libmgba-dev"),
    GAME("view", cmd_view, "the dashboard over a recorded run: scrub, play, look", "libmgba-dev"),
    GAME("report", cmd_report, "a recorded run as one HTML file and a film", "libmgba-dev"),
    GAME("calibrate", cmd_calibrate, "how much a model's confidence is worth, from recorded runs", "libmgba-dev"),
    GAME("dataset", cmd_dataset, "record, check and export frames with what was done", "libmgba-dev"),
    GAME("perceive", cmd_perceive, "score what a model sees against the game's memory", "libmgba-dev"),
    GAME("world", cmd_world, "decode the game's memory out of an mGBA save state", "libmgba-dev"),
    GAME("memory", cmd_memory, "what is remembered of runs: rebuild, search, stats, verify", "libsqlite3-dev"),
    GAME("env", cmd_env, "play for a policy in another process (training)", "libmgba-dev"),
    GAME("eval", cmd_eval, "clear rates of models and settings on fixed seeds, checkable", "libmgba-dev"),
    GAME("profile", cmd_profile, "where the time of a run's decisions went", "libmgba-dev"),
    GAME("models", cmd_models, "list, estimate, download, verify and try Hub checkpoints", "libcurl4-openssl-dev"),
    {"serve", cmd_serve, "an OpenAI-compatible HTTP API over a checkpoint", NULL},
    {"chat", cmd_chat, "talk to a checkpoint, with pictures", NULL},
    {"bench", cmd_bench, "measure checkpoints; compare and draw what was measured", NULL},
    {"score", cmd_score, "log-probability of each token of a text", NULL},
    {"tokenize", cmd_tokenize, "text to token ids and back", NULL},
};
enum { COMMAND_COUNT = sizeof commands / sizeof *commands };

static void usage(FILE *out) {
    fputs("pmd-agent " PMD_VERSION ": real Qwen3-VL checkpoints in C, playing Pokemon Mystery Dungeon\n\n"
          "usage: pmd-agent COMMAND [options]      (pmd-agent COMMAND --help explains one)\n\n",
          out);
    for (int i = 0; i < COMMAND_COUNT; i++) {
        fprintf(out, "  %-10s %s%s\n", commands[i].name, commands[i].help, commands[i].missing ? " (not in this build)" : "");
    }
    fputs("\nStart with: pmd-agent play\n", out);
}

/* Large blocks (pictures, rows of logits) come and go with every question, from many threads. By default each would be fresh memory from the
 * system, whose page faults take longer than what is done in it; so they stay with the allocator, which has few pools to keep them in. */
static void keep_memory(void) {
    mallopt(M_MMAP_THRESHOLD, 32 << 20);
    mallopt(M_TRIM_THRESHOLD, 256 << 20);
    mallopt(M_ARENA_MAX, 4);
}

int main(int argc, char **argv) {
    keep_memory();
    if (argc < 2) return usage(stderr), 2;
    if (!strcmp(argv[1], "--help") || !strcmp(argv[1], "-h") || !strcmp(argv[1], "help")) return usage(stdout), 0;
    if (!strcmp(argv[1], "--version")) return puts("pmd-agent " PMD_VERSION), 0;
    for (int i = 0; i < COMMAND_COUNT; i++) {
        if (strcmp(argv[1], commands[i].name)) continue;
        if (!commands[i].run) {
            fprintf(stderr, "pmd-agent %s: this build has only the engine; install %s and build with `make all` to use it\n",
                    argv[1], commands[i].missing);
            return 1;
        }
        return commands[i].run(argc - 1, argv + 1);
    }
    fprintf(stderr, "pmd-agent: no command named '%s'\n\n", argv[1]);
    usage(stderr);
    return 2;
}
