/* pmd-agent dataset record | check | export: frames of the game with what was done and what a teacher would have done. */
#include <getopt.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "agent/home.h"
#include "app/commands.h"
#include "app/dataset_record.h"
#include "base/file.h"
#include "record/dataset.h"
#include "record/pack.h"

enum { ROM_LIMIT = 64 << 20, TEST_SEEDS = 200 };
static volatile bool stop;

static void on_signal(int number) {
    (void)number;
    stop = true;
}

static int usage(FILE *to, int status) {
    fputs("usage: pmd-agent dataset record --out DIR --episodes N --seed S [options]   frames and decisions of N episodes\n"
          "       pmd-agent dataset record --out DIR --cover 200 --seed S [options]    so many frames that cover every scene\n"
          "       pmd-agent dataset check DIR                                          is it complete and without repeats?\n"
          "       pmd-agent dataset export DIR --packed FILE                           FILE.pack and FILE.jsonl for training\n"
          "options of record:\n"
          "  --policy oracle|model|random|omniscient  who plays (default oracle); the fair oracle labels every step\n"
          "  --model DIR        checkpoint of --policy model (default models/tinywoods-vl)\n"
          "  --prompt FILE      prompt template (default configs/prompts/tinywoods.txt)\n"
          "  --epsilon E        probability of a random legal step instead (default 0)\n"
          "  --mix P            probability of the oracle's action instead of the model's (default 0)\n"
          "  --temperature T    of the model (default 0: greedy)\n"
          "  --max-decisions N  per episode (default 2000)\n"
          "  --jobs J           worker processes (default 1); results do not depend on their timing\n"
          "  --packed           DIR is a prefix: worker j writes DIR.<j>.pack and DIR.<j>.jsonl instead of PNG files and a manifest\n"
          "  --rom FILE         (default rom/tinywoods/tinywoods.gba)\n"
          "  --test-seeds       allow the seeds that are kept for testing (1000000 to 1000199)\n",
          to);
    return status;
}

static int fail(const struct err *err) {
    fprintf(stderr, "pmd-agent dataset: %s\n", err->message);
    return err->code == ERR_CANCELLED ? 130 : 1;
}

static bool number(const char *text, double min, double max, double *out) {
    char *end;
    *out = strtod(text, &end);
    return *text && !*end && *out >= min && *out <= max;
}

static int policy_by_name(const char *name) {
    for (int i = 0; i < POLICY_COUNT; i++) {
        if (strcmp(name, policy_name[i]) == 0) return i;
    }
    return -1;
}

static int parse_record(int argc, char **argv, struct record_settings *s, bool *test_seeds) {
    enum { OUT, EPISODES, SEED, POLICY, MODEL, PROMPT, EPSILON, MIX, TEMPERATURE, DECISIONS, JOBS, PACKED, ROM, COVER, TEST_OK, HELP };
    static const struct option options[] = {
        {"out", 1, NULL, OUT},         {"episodes", 1, NULL, EPISODES}, {"seed", 1, NULL, SEED},   {"policy", 1, NULL, POLICY},
        {"model", 1, NULL, MODEL},     {"prompt", 1, NULL, PROMPT},     {"mix", 1, NULL, MIX},     {"epsilon", 1, NULL, EPSILON},
        {"jobs", 1, NULL, JOBS},       {"packed", 0, NULL, PACKED},     {"rom", 1, NULL, ROM},     {"cover", 1, NULL, COVER},
        {"temperature", 1, NULL, TEMPERATURE}, {"max-decisions", 1, NULL, DECISIONS}, {"test-seeds", 0, NULL, TEST_OK}, {"help", 0, NULL, HELP}, {0}};
    int c, policy;
    double v = 0;
    bool seeded = false;
    optind = 0;
    while ((c = getopt_long(argc, argv, "", options, NULL)) != -1) {
        bool ok = true;
        switch (c) {
        case OUT: s->out = optarg; break;
        case MODEL: s->model_folder = optarg; break;
        case PROMPT: s->prompt_file = optarg; break;
        case ROM: s->rom_path = optarg; break;
        case PACKED: s->packed = true; break;
        case TEST_OK: *test_seeds = true; break;
        case HELP: return usage(stdout, 0), 1;
        case EPISODES: if ((ok = number(optarg, 1, 1e7, &v))) s->episodes = (int)v; break;
        case SEED: if ((ok = seeded = number(optarg, 0, UINT32_MAX, &v))) s->seed = (uint32_t)v; break;
        case EPSILON: if ((ok = number(optarg, 0, 1, &v))) s->epsilon = (float)v; break;
        case MIX: if ((ok = number(optarg, 0, 1, &v))) s->mix = (float)v; break;
        case TEMPERATURE: if ((ok = number(optarg, 0, 10, &v))) s->temperature = (float)v; break;
        case DECISIONS: if ((ok = number(optarg, 1, 1e7, &v))) s->max_decisions = (int)v; break;
        case JOBS: if ((ok = number(optarg, 1, 256, &v))) s->jobs = (int)v; break;
        case COVER: if ((ok = number(optarg, 1, 100000, &v))) s->cover = (int)v; break;
        case POLICY:
            policy = policy_by_name(optarg);
            if ((ok = policy >= 0)) s->policy = (enum policy)policy;
            break;
        default: return usage(stderr, 2), 2;
        }
        if (!ok) {
            fprintf(stderr, "pmd-agent dataset record: --%s does not take '%s'\n", options[c].name, optarg);
            return 2;
        }
    }
    if (!s->out || !seeded || (!s->episodes && !s->cover) || optind != argc || (s->cover && s->packed)) return usage(stderr, 2), 2;
    return 0;
}

static int record(int argc, char **argv) {
    char rom[PATH_MAX], model[PATH_MAX], prompt[PATH_MAX];
    struct record_settings s = {.rom_path = home_file(HOME_ROM, rom, sizeof rom), .model_folder = home_file(HOME_MODEL, model, sizeof model),
                                .prompt_file = home_file(HOME_PROMPT, prompt, sizeof prompt), .policy = POLICY_ORACLE, .jobs = 1, .stop = &stop};
    bool test_seeds = false;
    struct err err = {0};
    int parsed = parse_record(argc, argv, &s, &test_seeds);
    if (parsed) return parsed == 1 ? 0 : 2;
    if (s.cover && !s.episodes) s.episodes = 24;
    uint64_t last = (uint64_t)s.seed + (uint64_t)s.episodes - 1;
    if (!test_seeds && last >= AGENT_TEST_SEED_FIRST && s.seed < AGENT_TEST_SEED_FIRST + TEST_SEEDS) {
        fprintf(stderr, "pmd-agent dataset record: seeds %u to %u are kept for testing and never recorded for training (--test-seeds allows it)\n",
                (unsigned)AGENT_TEST_SEED_FIRST, (unsigned)AGENT_TEST_SEED_FIRST + TEST_SEEDS - 1);
        return 2;
    }
    struct sigaction action = {.sa_handler = on_signal};
    sigaction(SIGINT, &action, NULL);
    sigaction(SIGTERM, &action, NULL);
    struct sigaction old;
    if (sigaction(SIGXFSZ, NULL, &old) == 0 && old.sa_handler == SIG_DFL) signal(SIGXFSZ, SIG_IGN); /* a write then fails instead */
    int code = file_read(s.rom_path, ROM_LIMIT, &s.rom, &err);
    if (!code) code = s.cover ? dataset_record_cover(&s, &err) : dataset_record_episodes(&s, &err);
    buf_free(&s.rom);
    return code ? fail(&err) : 0;
}

/* ---- check ------------------------------------------------------------------------------------------------------------------- */

static void print_problem(void *user, const char *text) {
    (void)user;
    printf("%s\n", text);
}

static int check(int argc, char **argv) {
    if (argc != 2 || strcmp(argv[1], "--help") == 0) return usage(argc == 2 ? stdout : stderr, argc == 2 ? 0 : 2);
    struct dataset_check c = {.known_actions = action_name, .known_count = ACTION_COUNT, .problem = print_problem};
    struct err err = {0};
    if (dataset_check(argv[1], &c, &err)) return fail(&err);
    printf("%s: %lld entries, %lld problems\n", argv[1], (long long)c.entries, (long long)c.problems);
    return c.problems ? 1 : 0;
}

/* ---- export ------------------------------------------------------------------------------------------------------------------ */

static int export_entry(void *user, const struct json *entry, const uint8_t *rgb, struct err *err) {
    const char *id = json_as_string(json_get(entry, "frame_id"), ""), *notes = json_as_string(json_get(entry, "notes"), "");
    const struct json *floor = json_get(json_get(json_get(entry, "world"), "dungeon"), "floor");
    unsigned step = 0;
    const char *dash = strchr(id, '-');
    if (dash) step = (unsigned)strtoul(dash + 1, NULL, 10);
    /* Plain data sets keep who decided in the notes ("decided by NAME: reason"). */
    const char *by = NULL;
    for (int i = 0; i < DECIDED_BY_COUNT; i++) {
        size_t n = strlen(decided_by_name[i]);
        if (strncmp(notes, "decided by ", 11) == 0 && strncmp(notes + 11, decided_by_name[i], n) == 0 && (notes[11 + n] == 0 || notes[11 + n] == ':')) by = decided_by_name[i];
    }
    struct pack_entry e = {.seed = (uint32_t)json_as_integer(json_get(entry, "seed"), 0), .episode_step = step, .floor = (int)json_as_integer(floor, 0),
                           .scene = json_as_string(json_get(entry, "scene"), NULL), .prompt = json_as_string(json_get(entry, "prompt"), NULL),
                           .action = json_as_string(json_get(entry, "action"), NULL), .decided_by = by,
                           .oracle_action = json_as_string(json_get(entry, "oracle_action"), NULL)};
    return pack_add(user, rgb, &e, err);
}

static int export(int argc, char **argv) {
    static const struct option options[] = {{"packed", 1, NULL, 'p'}, {"help", 0, NULL, 'h'}, {0}};
    const char *prefix = NULL;
    int c;
    optind = 0;
    while ((c = getopt_long(argc, argv, "", options, NULL)) != -1) {
        if (c == 'p') prefix = optarg;
        else return usage(c == 'h' ? stdout : stderr, c == 'h' ? 0 : 2);
    }
    if (!prefix || argc - optind != 1) return usage(stderr, 2);
    /* FILE and FILE.pack name the same pair. */
    char name[PATH_MAX];
    snprintf(name, sizeof name, "%s", prefix);
    size_t n = strlen(name);
    if (n > 5 && strcmp(name + n - 5, ".pack") == 0) name[n - 5] = 0;
    struct pack_writer *w;
    struct err err = {0}, close_err = {0};
    int code = pack_create(name, &w, &err);
    if (code) return fail(&err);
    code = dataset_each(argv[optind], export_entry, w, &err);
    int close_code = pack_close(w, &close_err);
    if (code) return fail(&err);
    return close_code ? fail(&close_err) : 0;
}

int cmd_dataset(int argc, char **argv) {
    if (argc < 2) return usage(stderr, 2);
    if (strcmp(argv[1], "--help") == 0) return usage(stdout, 0);
    if (strcmp(argv[1], "record") == 0) return record(argc - 1, argv + 1);
    if (strcmp(argv[1], "check") == 0) return check(argc - 1, argv + 1);
    if (strcmp(argv[1], "export") == 0) return export(argc - 1, argv + 1);
    return usage(stderr, 2);
}
