/* pmd-agent env: the game for a policy in another process, one that trains, say. One process plays one game; many run side by side and
 * share a file of frames.
 *
 * Protocol, lines of JSON on standard output, answered by lines on standard input:
 *   decision  the frame is written to FRAMES at SLOT * 115200 (240x160 RGB), then one line
 *             {"seed":N,"step":N,"scene":"field","floor":1,"offered":["walk_south",...],"oracle":"walk_ne","prompt":"..."}
 *             and the answer is one action's name
 *   end       {"seed":N,"outcome":"cleared","cause":"","turns":N,"decisions":N}, no answer; the next episode begins
 * Episodes have the seeds S, S + D, S + 2D, ...; end of input ends the process. */
#include <fcntl.h>
#include <getopt.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "agent/agent.h"
#include "agent/home.h"
#include "app/commands.h"
#include "base/buf.h"
#include "base/file.h"

static const char help[] =
    "pmd-agent env: play for a policy in another process (see the head of src/app/cmd_env.c for the protocol)\n\n"
    "  --frames FILE    file that the frames are written to (240x160 RGB, slot after slot)\n"
    "  --slot K         this game's place in it (default 0)\n"
    "  --seed S         seed of the first episode\n"
    "  --stride D       from one episode's seed to the next (default 1)\n"
    "  --episodes N     how many (default: until the input ends)\n"
    "  --max-decisions N  per episode (default 2000)\n"
    "  --rom FILE       (default " HOME_ROM ")\n"
    "  --prompt FILE    (default " HOME_PROMPT ")\n"
    "  --test-seeds     allow the seeds that are kept for testing\n";

enum { FRAME_BYTES = FRAME_PIXELS * 3, ROM_LIMIT = 32 << 20 };

struct door {
    int frames;
    long slot;
    uint32_t seed;
    struct buf line;
    bool closed;
};

static int ask(void *user, const struct step *s, const bool offered[]) {
    struct door *d = user;
    for (size_t done = 0; done < FRAME_BYTES;) {
        ssize_t n = pwrite(d->frames, s->frame + done, FRAME_BYTES - done, (off_t)d->slot * FRAME_BYTES + (off_t)done);
        if (n <= 0) return d->closed = true, -1;
        done += (size_t)n;
    }
    buf_clear(&d->line);
    buf_printf(&d->line, "{\"seed\":%u,\"step\":%u,\"scene\":\"%s\",\"floor\":%d,\"offered\":[", d->seed, s->number, s->scene, s->seen->now.floor);
    for (int a = 0, n = 0; a < ACTION_COUNT; a++) {
        if (offered[a]) buf_printf(&d->line, "%s\"%s\"", n++ ? "," : "", action_name[a]);
    }
    buf_printf(&d->line, "],\"oracle\":\"%s\",\"prompt\":", s->oracle_action);
    buf_json_string(&d->line, s->prompt, strlen(s->prompt));
    buf_str(&d->line, "}\n");
    char answer[64];
    if (d->line.failed || fwrite(d->line.data, 1, d->line.len, stdout) != d->line.len || fflush(stdout)) return d->closed = true, -1;
    if (!fgets(answer, sizeof answer, stdin)) return d->closed = true, -1;
    answer[strcspn(answer, "\r\n")] = 0;
    int action = action_by_name(answer);
    return action < 0 ? ACTION_COUNT : action; /* an unknown word is an action that is never offered */
}

static int play(struct door *d, struct emulator *e, struct agent_options *options, uint32_t seed, uint32_t stride, long episodes, struct err *err) {
    struct agent *a;
    if (agent_new(e, options, &a, err)) return err->code;
    int result = 0;
    for (long i = 0; !result && i < episodes; i++) {
        struct episode_result r;
        d->seed = seed + (uint32_t)i * stride;
        result = agent_play_episode(a, d->seed, &r, err);
        if (result) break;
        printf("{\"seed\":%u,\"outcome\":\"%s\",\"cause\":\"%s\",\"turns\":%d,\"decisions\":%d}\n", d->seed, outcome_name[r.outcome], r.cause, r.turns,
               r.decisions);
        if (fflush(stdout)) break;
    }
    agent_free(a);
    return d->closed ? 0 : result;
}

int cmd_env(int argc, char **argv) {
    enum { FRAMES, SLOT, SEED, STRIDE, EPISODES, DECISIONS, ROM, PROMPT, TEST_OK, HELP };
    static const struct option flags[] = {{"frames", 1, NULL, FRAMES}, {"slot", 1, NULL, SLOT}, {"seed", 1, NULL, SEED}, {"stride", 1, NULL, STRIDE},
                                          {"episodes", 1, NULL, EPISODES}, {"max-decisions", 1, NULL, DECISIONS}, {"rom", 1, NULL, ROM},
                                          {"prompt", 1, NULL, PROMPT}, {"test-seeds", 0, NULL, TEST_OK}, {"help", 0, NULL, HELP}, {0}};
    struct door door = {.frames = -1};
    struct agent_options options = {.policy = POLICY_EXTERNAL, .external = ask, .external_user = &door, .ask_oracle = true};
    char rom_path[PATH_MAX], prompt_path[PATH_MAX];
    const char *rom_name = home_file(HOME_ROM, rom_path, sizeof rom_path), *frames = NULL;
    options.prompt_file = home_file(HOME_PROMPT, prompt_path, sizeof prompt_path);
    long seed = 1, stride = 1, episodes = LONG_MAX;
    bool test_seeds = false;
    optind = 0;
    for (int c; (c = getopt_long(argc, argv, "", flags, NULL)) != -1;) {
        char *end = "";
        if (c == FRAMES) frames = optarg;
        else if (c == SLOT) door.slot = strtol(optarg, &end, 10);
        else if (c == SEED) seed = strtol(optarg, &end, 10);
        else if (c == STRIDE) stride = strtol(optarg, &end, 10);
        else if (c == EPISODES) episodes = strtol(optarg, &end, 10);
        else if (c == DECISIONS) options.max_decisions = (int)strtol(optarg, &end, 10);
        else if (c == ROM) rom_name = optarg;
        else if (c == PROMPT) options.prompt_file = optarg;
        else if (c == TEST_OK) test_seeds = true;
        else return fputs(help, c == HELP ? stdout : stderr), c == HELP ? 0 : 2;
        if (*end || door.slot < 0 || door.slot > 1 << 20 || seed < 0 || seed > UINT32_MAX || stride < 1 || stride > 1 << 30 || episodes < 1) {
            return fprintf(stderr, "pmd-agent env: '%s' is no number in range\n", optarg), 2;
        }
    }
    if (!frames || optind != argc) return fputs(help, stderr), 2;
    if (!test_seeds && seed >= AGENT_TEST_SEED_FIRST && seed < AGENT_TEST_SEED_FIRST + AGENT_TEST_SEEDS) {
        return fprintf(stderr, "pmd-agent env: seed %ld is kept for testing (--test-seeds allows it)\n", seed), 2;
    }
    struct err err = {0};
    struct buf rom = {0};
    struct emulator *e = NULL;
    int result = file_read(rom_name, ROM_LIMIT, &rom, &err);
    if (!result) result = emulator_open(rom.data, rom.len, NULL, &e, &err);
    door.frames = result ? -1 : open(frames, O_RDWR | O_CREAT | O_CLOEXEC, 0666);
    if (!result && door.frames < 0) result = err_set(&err, ERR_IO, "%s: cannot open", frames);
    if (!result) result = play(&door, e, &options, (uint32_t)seed, (uint32_t)stride, episodes, &err);
    if (result) fprintf(stderr, "pmd-agent env: %s\n", err.message);
    if (door.frames >= 0) close(door.frames);
    if (e) emulator_close(e);
    buf_free(&rom), buf_free(&door.line);
    return result ? 1 : 0;
}
