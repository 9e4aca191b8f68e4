#include "app/play_options.h"

#include <errno.h>
#include <getopt.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "agent/conversation.h"
#include "agent/router.h"

const char *const backend_name[] = {"hf", "local", "openai", "mock"};

static const char help[] =
    "usage: pmd-agent play [options]\n"
    "\n"
    "A model looks at the screen of a Game Boy Advance and plays a dungeon: three floors, the stairs to be found on each. Without options\n"
    "that is the bundled dungeon Tiny Woods, played once by the bundled checkpoint; no download, no GPU. In a terminal you watch\n"
    "the game; elsewhere there are plain lines. Every step is recorded in runs/ and can be checked with `pmd-agent replay`.\n"
    "\n"
    "who plays\n"
    "  --policy P          model (default), or for comparison: oracle (rules on what a player can know; the model's teacher),\n"
    "                      omniscient (sees the whole floor: a yardstick), random (any offered action)\n"
    "  --model DIR|ID      a Qwen3-VL checkpoint: a folder, or a Hub id (from the Hub's cache, else it is downloaded)\n"
    "                      (default: the bundled models/tinywoods-vl)\n"
    "  --backend B         where the model is; the environment's MODEL_BACKEND says the same\n"
    "                        hf      in this process (default)\n"
    "                        local   like hf, but folders and the names of configs/qwen_vl_models.txt only; nothing is fetched\n"
    "                        openai  behind any OpenAI-compatible server (vLLM, llama-server, ...); --model is its name there\n"
    "                        mock    a script of actions instead of a model, for tests of the agent; every output says so\n"
    "  --server URL        openai: the base URL (default OPENAI_BASE_URL, else http://127.0.0.1:8080/v1); a key goes into\n"
    "                      OPENAI_API_KEY.  --no-stream  the answer in one piece;  --server-timeout S  of one answer (default 120)\n"
    "  --mock-script FILE  mock: one action a line (walk_north, hit_ne, eat ...; with --act skills: skill explore, skill go_to 12 7 ...),\n"
    "                      from the top again after the last\n"
    "  --prompt FILE       words that go with the picture (default: configs/prompts/tinywoods.txt for the bundled model and others with so\n"
    "                      small a vocabulary, else configs/prompts/hub-2.txt; how to write one: src/agent/prompt.h)\n"
    "  --history N         the prompt is a conversation: up to N earlier turns (pictures, words, answers) stay in it, then all but the newest\n"
    "                      quarter of them go at once. What stood there at the last question is not computed again, and lines that would repeat\n"
    "                      it are left out. 0 (default for the bundled model): every question stands alone; 16: default for others\n"
    "  --see WHAT          both (default), picture (no words read from the game's memory), ram (no picture)\n"
    "  --upscale N         the picture N times as large, 1 to 4 (default 1): more tokens, pixels that a model can tell apart\n"
    "  --ladder A,B,C      several checkpoints, the quickest first; which one is asked is decided anew for every decision, by confidence, scene,\n"
    "                      stuckness and time (settings: configs/router.yaml, or --router FILE). --fixed-model K: always the K-th.\n"
    "                      --max-loaded-models N: a longer ladder is refused\n"
    "  --decision-ms T     time for one decision: a thought that takes longer is closed and the answer follows\n"
    "  --best-of N         N answers to every question, which share the prompt's computation; the one given most often is taken, among equals\n"
    "                      the likelier one. --vote sum: the largest sum of probabilities. All votes are recorded\n"
    "  --think-tokens N    a Thinking model's thought is closed after N tokens and the answer follows (default 256)\n"
    "  --act HOW           what one decision is: steps (one step or turn; what the bundled model was trained for), skills (many turns:\n"
    "                      explore, change_floor, fight ...; configs/skills). Default: steps for the bundled model, else skills\n"
    "  --skills DIR        folder of skills (default configs/skills; how to write one: src/agent/skills.h)\n"
    "  --without LIST      leaves out parts around the model, to see what each brings: memory,map,stuckness,gatekeeper,safeguards or all\n"
    "                      (all: the model alone). What a part decides is labelled and counted as its own, never as the model's\n"
    "  --perception-every N  at every N-th decision the model is also asked what it sees; agreement with the game's memory is recorded\n"
    "                      (pmd-agent perceive does the same for a data set)\n"
    "  --watchdog          out of a soft-lock the agent may go back to an earlier state, at most 3 times an episode; each is counted\n"
    "  --temperature T     0 (default): always the likeliest action; above: sampled, the same for the same seed\n"
    "  --no-picture HOW    a control: `blank` shows the model a black picture, `other` that of another dungeon. If it still plays as\n"
    "                      well, it does not look\n"
    "  --device D          auto (default), cpu, cuda       --threads N   for the model (default: one per core)\n"
    "  --kv-cache DIR      keep computed prompts on disk (docs/prefix-cache.md; up to 8 GB, 32 GB a day); default: none, since what a\n"
    "                      game shows seldom comes back\n"
    "what is remembered (docs/memory.md)\n"
    "  --memory DIR|off    memory over runs in DIR (default off): every step is kept, at keyframes the picture is embedded and what was like it\n"
    "                      is recalled, for a prompt file with {memory}\n"
    "  --embed KIND        hidden state that is the embedding: image (default), last, thought (Thinking models)\n"
    "  --scratchpad        show the model the notes that it wrote in this dungeon\n"
    "what is played\n"
    "  --rom FILE          default rom/tinywoods/tinywoods.gba; the real game: Pokemon Mystery Dungeon Red Rescue Team (USA), your own copy\n"
    "  --remote HOST:PORT  the game runs in an mGBA of its own (0.10, with configs/mgba/remote.lua loaded; docs/remote-emulator.md); --rom is the\n"
    "                      same ROM here\n"
    "  --frames DIR        no game at all: the questions of recorded pictures, for speed (play --frames DIR --help)\n"
    "  --seed S            of the first dungeon (default 1000000, the first of the 200 test seeds); the next episodes take S+1, S+2 ...\n"
    "  --episodes N        default 1\n"
    "  --max-decisions N   per episode, default 2000\n"
    "  --games N           so many games at the same time, each with its own emulator and all with the same model, whose engine computes\n"
    "                      for all that wait at once; results do not depend on it (--jobs is the same)\n"
    "what you get\n"
    "  --json              one JSON object on standard output, a progress bar with the remaining time on standard error\n"
    "  --record DIR        record the run in DIR instead of runs/<time>;  --no-record  record nothing. Several games: a run for each in it\n"
    "  --resume RUN        go on with a run that was stopped or killed, with the arguments it was begun with; at most the step it was in is\n"
    "                      lost. With it: --json, --speed, --dashboard, --device, --kv-cache, --threads, --rom, --server and its options\n"
    "  --ask-oracle        note also what the fair oracle would do (for pmd-agent calibrate)\n"
    "  --video FILE.mp4    a film of the game (needs ffmpeg)\n"
    "  --dashboard         a page for the browser, printed at the start: http://127.0.0.1:8717/ or the next free port. In a terminal it\n"
    "                      is there by itself; asked for elsewhere, the games are played at --speed.  --no-dashboard  none;  --dashboard-port N  on this\n"
    "                      port (docs/dashboard.md)\n"
    "  --serve             on the page's address also the API of `pmd-agent serve` (/v1/...), with the model that plays: one engine, one cache\n"
    "  --speed X           watching: X times the console's speed (default 2; 0 = as fast as it goes)\n"
    "\n"
    "examples\n"
    "  pmd-agent play --policy oracle --seed 7 --speed 4          watch the teacher\n"
    "  pmd-agent play --episodes 200 --json --no-record           the clear rate over the test seeds\n"
    "  pmd-agent play --episodes 200 --json --no-record --without all      the same for the model alone\n"
    "  pmd-agent play --policy random --act skills --seed 7       a dice player with skills\n"
    "  pmd-agent play --episodes 200 --json --no-picture blank    does it look? (the rate must fall)\n"
    "  pmd-agent play --games 16 --episodes 16                    sixteen games, one model\n"
    "  pmd-agent play --resume runs/20260101-120000-4711          go on after a power cut\n"
    "  pmd-agent play --model Qwen/Qwen3-VL-2B-Instruct           a checkpoint from the Hub\n"
    "  pmd-agent play --server http://127.0.0.1:8000/v1           the model that a server offers\n"
    "\n"
    "Files of the project are looked for in the working folder, then in the program's folder and above; PMD_HOME overrides.\n"
    "exit status: 0 played to the end (cleared or not), 1 failure, 2 wrong usage, 130 stopped (the record is finished first)\n";

static int wrong(const char *option, const char *value, const char *expected) {
    fprintf(stderr, "pmd-agent play: %s %s: expected %s (--help explains)\n", option, value, expected);
    return 2;
}

static bool whole(const char *text, long long min, long long max, long long *out) {
    char *end;
    errno = 0;
    *out = strtoll(text, &end, 10);
    return *text && !*end && !errno && *out >= min && *out <= max;
}

static bool decimal(const char *text, double min, double max, double *out) {
    char *end;
    errno = 0;
    *out = strtod(text, &end);
    return *text && !*end && !errno && isfinite(*out) && *out >= min && *out <= max;
}

/* Flags beat the environment. */
static int choose_backend(struct play_options *o, const char *flag) {
    const char *from = getenv("MODEL_BACKEND"), *name = from && *from ? from : "hf";
    if (o->mock_script) name = "mock";
    if (o->server) name = "openai";
    if (flag) name = flag;
    for (o->backend = 0; o->backend < BACKEND_COUNT && strcmp(name, backend_name[o->backend]);) o->backend++;
    if (o->backend == BACKEND_COUNT) return wrong(flag ? "--backend" : "MODEL_BACKEND", name, "hf, local, openai or mock");
    bool server = o->backend == BACKEND_OPENAI, mock = o->backend == BACKEND_MOCK;
    if (!server && (o->server || o->no_stream || o->server_timeout_s > 0)) return wrong("--server", "and its options", "the backend openai");
    if (mock && !o->mock_script) return wrong("the backend", "mock", "--mock-script FILE with it");
    if (!mock && o->mock_script) return wrong("--mock-script", o->mock_script, "the backend mock");
    if (mock && o->model) return wrong("--model", o->model, "no model with the backend mock");
    setenv("MODEL_BACKEND", backend_name[o->backend], 1); /* model_resolve reads it */
    return 0;
}

enum { MEMORY = 1000, EMBED, SCRATCHPAD };
enum { POLICY = 1, MODEL, PROMPT, TEMPERATURE, NO_PICTURE, DEVICE, KV_CACHE, THREADS, ROM, SEED, EPISODES, DECISIONS, JOBS, BEST_OF, VOTE, LADDER, REMOTE, ROUTER,
       MAX_LOADED, DECISION_MS, FIXED, ASK_ORACLE, THINK_TOKENS, RESUME, JSON, RECORD, NO_RECORD, VIDEO, SPEED, BACKEND, SERVER, NO_STREAM,
       SERVER_TIMEOUT, MOCK_SCRIPT, DASHBOARD, NO_DASHBOARD, DASHBOARD_AT, SERVE, ACT, SKILLS, WITHOUT,
       SEE, UPSCALE, PERCEPTION, WATCHDOG, HISTORY, HELP };
static const struct option options[] = {
    {"memory", 1, NULL, MEMORY}, {"embed", 1, NULL, EMBED}, {"scratchpad", 0, NULL, SCRATCHPAD},
    {"policy", 1, NULL, POLICY}, {"model", 1, NULL, MODEL}, {"prompt", 1, NULL, PROMPT}, {"temperature", 1, NULL, TEMPERATURE},
    {"no-picture", 1, NULL, NO_PICTURE}, {"device", 1, NULL, DEVICE}, {"kv-cache", 1, NULL, KV_CACHE}, {"threads", 1, NULL, THREADS}, {"rom", 1, NULL, ROM},
    {"seed", 1, NULL, SEED}, {"episodes", 1, NULL, EPISODES}, {"max-decisions", 1, NULL, DECISIONS}, {"jobs", 1, NULL, JOBS}, {"games", 1, NULL, JOBS},
    {"remote", 1, NULL, REMOTE}, {"ladder", 1, NULL, LADDER}, {"router", 1, NULL, ROUTER}, {"max-loaded-models", 1, NULL, MAX_LOADED}, {"decision-ms", 1, NULL, DECISION_MS},
    {"fixed-model", 1, NULL, FIXED}, {"ask-oracle", 0, NULL, ASK_ORACLE}, {"best-of", 1, NULL, BEST_OF}, {"vote", 1, NULL, VOTE}, {"think-tokens", 1, NULL, THINK_TOKENS}, {"resume", 1, NULL, RESUME},
   
    {"json", 0, NULL, JSON}, {"record", 1, NULL, RECORD}, {"no-record", 0, NULL, NO_RECORD}, {"video", 1, NULL, VIDEO},
    {"speed", 1, NULL, SPEED}, {"backend", 1, NULL, BACKEND}, {"server", 1, NULL, SERVER},
    {"no-stream", 0, NULL, NO_STREAM}, {"server-timeout", 1, NULL, SERVER_TIMEOUT}, {"mock-script", 1, NULL, MOCK_SCRIPT},
    {"dashboard", 0, NULL, DASHBOARD}, {"no-dashboard", 0, NULL, NO_DASHBOARD}, {"dashboard-port", 1, NULL, DASHBOARD_AT}, {"serve", 0, NULL, SERVE},
    {"act", 1, NULL, ACT}, {"skills", 1, NULL, SKILLS}, {"without", 1, NULL, WITHOUT}, {"see", 1, NULL, SEE}, {"upscale", 1, NULL, UPSCALE},
    {"perception-every", 1, NULL, PERCEPTION}, {"watchdog", 0, NULL, WATCHDOG}, {"history", 1, NULL, HISTORY}, {"help", 0, NULL, HELP}, {0}};

/* What may be different when a run goes on: how it is shown and where it is computed. */
static bool may_change(int c) {
    static const int those[] = {REMOTE, JSON, SPEED, DEVICE, KV_CACHE, THREADS, ROM, SERVER, SERVER_TIMEOUT, NO_STREAM, DASHBOARD, NO_DASHBOARD, DASHBOARD_AT, SERVE, RESUME, HELP, 'h', '?'};
    for (size_t i = 0; i < sizeof those / sizeof *those; i++) {
        if (those[i] == c) return true;
    }
    return false;
}

/* "map,stuckness" out of all parts; false: an unknown word. */
static bool leave_out(const char *list, unsigned *parts) {
    while (*list) {
        size_t n = strcspn(list, ",");
        unsigned out = n == 3 && !memcmp(list, "all", 3) ? PART_ALL : 0;
        for (int i = 0; i < PART_COUNT; i++) {
            if (strlen(part_name[i]) == n && !memcmp(list, part_name[i], n)) out = 1u << i;
        }
        if (!out) return false;
        *parts &= ~out;
        list += n + (list[n] == ',');
    }
    return true;
}

/* changes_only: to go on with a run. */
static int parse(int argc, char **argv, bool changes_only, struct play_options *o) {
    *o = (struct play_options){.policy = POLICY_MODEL, .parts = PART_ALL, .episodes = 1, .jobs = 1, .seed = AGENT_TEST_SEED_FIRST, .speed = 2, .history = -1};
    long long n = 0;
    double x = 0;
    const char *backend = NULL;
    int c, which = 0;
    optind = 0;
    while ((c = getopt_long(argc, argv, "h", options, &which)) != -1) {
        if (changes_only && !may_change(c)) {
            fprintf(stderr, "pmd-agent play: --%s: a run goes on as it was begun; with --resume it cannot be changed (--help explains)\n", options[which].name);
            return 2;
        }
        switch (c) {
        case POLICY:
            for (o->policy = 0; o->policy < POLICY_COUNT && strcmp(optarg, policy_name[o->policy]);) o->policy++;
            if (o->policy == POLICY_COUNT) return wrong("--policy", optarg, "model, oracle, random or omniscient");
            break;
        case NO_PICTURE:
            if (strcmp(optarg, "blank") && strcmp(optarg, "other")) return wrong("--no-picture", optarg, "blank or other");
            o->picture = *optarg == 'b' ? PICTURE_BLANK : PICTURE_OTHER_SEED;
            break;
        case TEMPERATURE:
            if (!decimal(optarg, 0, 100, &x)) return wrong("--temperature", optarg, "a number from 0 to 100");
            o->temperature = (float)x;
            break;
        case SPEED:
            if (!decimal(optarg, 0, 1000, &o->speed)) return wrong("--speed", optarg, "a number from 0 to 1000");
            break;
        case SEED:
            if (!whole(optarg, 0, UINT32_MAX, &n)) return wrong("--seed", optarg, "a number from 0 to 4294967295");
            o->seed = (uint32_t)n;
            break;
        case EPISODES:
            if (!whole(optarg, 1, 1000000, &n)) return wrong("--episodes", optarg, "a number from 1 to 1000000");
            o->episodes = (int)n;
            break;
        case DECISIONS:
            if (!whole(optarg, 1, 1000000, &n)) return wrong("--max-decisions", optarg, "a number from 1 to 1000000");
            o->max_decisions = (int)n;
            break;
        case JOBS:
            if (!whole(optarg, 1, RUN_GAMES, &n)) return wrong("--games", optarg, "a number from 1 to 256");
            o->jobs = (int)n;
            break;
        case REMOTE: o->remote = optarg; break;
        case LADDER: o->ladder = optarg; break;
        case ROUTER: o->router = optarg; break;
        case ASK_ORACLE: o->ask_oracle = true; break;
        case MAX_LOADED:
            if (!whole(optarg, 1, ROUTER_RUNGS, &n)) return wrong("--max-loaded-models", optarg, "a number from 1 to 6");
            o->max_loaded = (int)n;
            break;
        case FIXED:
            if (!whole(optarg, 1, ROUTER_RUNGS, &n)) return wrong("--fixed-model", optarg, "the number of a rung, from 1");
            o->fixed_rung = (int)n;
            break;
        case DECISION_MS:
            if (!decimal(optarg, 1, 86400e3, &o->decision_ms)) return wrong("--decision-ms", optarg, "milliseconds from 1 to 86400000");
            break;
        case BEST_OF:
            if (!whole(optarg, 1, VOTE_MAX, &n)) return wrong("--best-of", optarg, "a number from 1 to 32");
            o->best_of = (int)n;
            break;
        case VOTE:
            if (strcmp(optarg, "count") && strcmp(optarg, "sum")) return wrong("--vote", optarg, "count or sum");
            o->vote_sum = *optarg == 's';
            break;
        case THINK_TOKENS:
            if (!whole(optarg, 1, 1000000, &n)) return wrong("--think-tokens", optarg, "a number from 1 to 1000000");
            o->think_tokens = (int)n;
            break;
        case RESUME: o->resume = optarg; break;
        case MEMORY: o->memory = strcmp(optarg, "off") ? optarg : NULL; break;
        case SCRATCHPAD: o->scratchpad = true; break;
        case EMBED:
            for (o->embed = 0; o->embed < EMBED_KINDS && strcmp(optarg, embed_kind_name[o->embed]);) o->embed++;
            if (o->embed == EMBED_KINDS) return wrong("--embed", optarg, "image, last or thought");
            break;
        case THREADS:
            if (!whole(optarg, 1, 1024, &n)) return wrong("--threads", optarg, "a number from 1 to 1024");
            o->threads = (int)n;
            break;
        case SERVER_TIMEOUT:
            if (!decimal(optarg, 0.1, 86400, &o->server_timeout_s)) return wrong("--server-timeout", optarg, "seconds from 0.1 to 86400");
            break;
        case DASHBOARD: o->dashboard = DASHBOARD_ON; break;
        case NO_DASHBOARD: o->dashboard = DASHBOARD_OFF; break;
        case SERVE: o->serve = true; break;
        case DASHBOARD_AT:
            if (!whole(optarg, 1, 65535, &n)) return wrong("--dashboard-port", optarg, "a number from 1 to 65535");
            o->dashboard = DASHBOARD_ON;
            o->dashboard_port = (int)n;
            break;
        case ACT:
            if (strcmp(optarg, "steps") && strcmp(optarg, "skills")) return wrong("--act", optarg, "steps or skills");
            o->acting = optarg[1] == 't' ? ACT_BY_STEPS : ACT_BY_SKILLS;
            o->act_given = true;
            break;
        case WITHOUT:
            if (!leave_out(optarg, &o->parts)) return wrong("--without", optarg, "memory, map, stuckness, gatekeeper, safeguards (with commas), or all");
            break;
        case SEE:
            for (o->see = 0; o->see < SEE_COUNT && strcmp(optarg, see_name[o->see]);) o->see++;
            if (o->see == SEE_COUNT) return wrong("--see", optarg, "both, ram or picture");
            break;
        case WATCHDOG: o->watchdog = true; break;
        case HISTORY:
            if (!whole(optarg, 0, HISTORY_MAX, &n)) return wrong("--history", optarg, "a number from 0 to 64");
            o->history = (int)n;
            break;
        case PERCEPTION:
            if (!whole(optarg, 1, 1000000, &n)) return wrong("--perception-every", optarg, "a number from 1 to 1000000");
            o->perception_every = (int)n;
            break;
        case UPSCALE:
            if (!whole(optarg, 1, UPSCALE_MAX, &n)) return wrong("--upscale", optarg, "a number from 1 to 4");
            o->upscale = (int)n;
            break;
        case SKILLS: o->skills = optarg; break;
        case NO_STREAM: o->no_stream = true; break;
        case BACKEND: backend = optarg; break;
        case SERVER: o->server = optarg; break;
        case MOCK_SCRIPT: o->mock_script = optarg; break;
        case MODEL: o->model = optarg; break;
        case PROMPT: o->prompt = optarg; break;
        case DEVICE: o->device = optarg; break;
        case KV_CACHE: o->kv_cache = optarg; break;
        case ROM: o->rom = optarg; break;
        case JSON: o->json = true; break;
        case RECORD: o->record = optarg; break;
        case NO_RECORD: o->no_record = true; break;
        case VIDEO: o->video = optarg; break;
        case 'h':
        case HELP: return fputs(help, stdout), 1;
        default: return fputs("pmd-agent play --help explains the options\n", stderr), 2;
        }
    }
    if (optind < argc) return wrong("argument", argv[optind], "options only");
    if (o->serve && o->dashboard == DASHBOARD_OFF) return wrong("--serve", "with --no-dashboard", "the page's address for it");
    if (o->record && o->no_record) return wrong("--record", o->record, "either --record or --no-record");
    if (changes_only) return 0;
    if (o->jobs > 1 && o->video) return wrong("--games", "with --video", "one game at a time for a film");
    if (o->remote && (!strchr(o->remote, ':') || atoi(strrchr(o->remote, ':') + 1) < 1 || o->remote[0] == ':')) return wrong("--remote", o->remote, "HOST:PORT");
    if (o->remote && o->jobs > 1) return wrong("--remote", "with --games", "one game at a time in a remote mGBA");
    if (o->ladder && o->model) return wrong("--ladder", "with --model", "one of them");
    if ((o->ladder || o->router || o->decision_ms > 0) && (o->server || o->mock_script)) return wrong("--ladder", "and the router's options", "checkpoints in this process");
    if (o->picture != PICTURE_REAL && o->policy != POLICY_MODEL) return wrong("--no-picture", "without a model", "--policy model");
    if (o->policy == POLICY_MODEL && choose_backend(o, backend)) return 2;
    if (o->acting == ACT_BY_SKILLS && o->policy != POLICY_MODEL && o->policy != POLICY_RANDOM) {
        return wrong("--act", "skills", "--policy model or random with it: the oracles play step by step");
    }
    if ((uint64_t)o->seed + (uint64_t)o->episodes > UINT32_MAX) return wrong("--seed", "with --episodes", "seeds up to 4294967295");
    if (o->jobs > o->episodes) o->jobs = o->episodes;
    o->backend_given = backend != NULL;
    return 0;
}

static void write_arguments(int argc, char **argv, struct play_options *o) {
    buf_char(&o->arguments, '[');
    for (int i = 1; i < argc; i++) {
        if (i > 1) buf_char(&o->arguments, ',');
        buf_json_string(&o->arguments, argv[i], strlen(argv[i]));
    }
    /* What came from the environment must not change when the run goes on. */
    if (o->policy == POLICY_MODEL && !o->backend_given) buf_printf(&o->arguments, "%s\"--backend\",\"%s\"", argc > 1 ? "," : "", backend_name[o->backend]);
    buf_char(&o->arguments, ']');
}

/* The arguments of the run, then those given now: the later ones count. */
static int parse_resumed(int argc, char **argv, struct play_options *o) {
    struct err err = {0};
    struct run_set past = {0};
    const char *folder = o->resume;
    if (run_set_open(folder, &past, &err)) return fprintf(stderr, "pmd-agent play: %s\n", err.message), 2;
    uint32_t count = past.arguments ? past.arguments->count : 0;
    const char **all = calloc((size_t)argc + count + 1, sizeof *all);
    int status = 2, n = 0;
    if (!past.arguments) fprintf(stderr, "pmd-agent play: %s: the run does not say how it was begun (it is of an older program): it cannot go on\n", folder);
    else if (!all) fprintf(stderr, "pmd-agent play: out of memory\n");
    if (past.arguments && all) {
        all[n++] = argv[0];
        for (uint32_t i = 0; i < count; i++) all[n++] = past.arguments->items[i]->string;
        for (int i = 1; i < argc; i++) all[n++] = argv[i];
        status = parse(n, (char **)all, false, o);
    }
    free(all);
    o->past = past;
    o->resume = folder;
    o->record = NULL;
    return status;
}

int play_options_parse(int argc, char **argv, struct play_options *o) {
    bool resume = false;
    for (int i = 1; i < argc; i++) resume |= !strcmp(argv[i], "--resume") || !strncmp(argv[i], "--resume=", 9);
    int status = parse(argc, argv, resume, o);
    if (status) return status;
    if (resume) return parse_resumed(argc, argv, o);
    write_arguments(argc, argv, o);
    return 0;
}

void play_options_free(struct play_options *o) {
    buf_free(&o->arguments);
    run_set_close(&o->past);
}
