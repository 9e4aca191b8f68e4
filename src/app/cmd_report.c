/* pmd-agent report RUN: what happened in a run, for somebody who was not there. */
#include <getopt.h>
#include <limits.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "app/commands.h"
#include "app/report.h"
#include "base/file.h"

static int usage(FILE *to, int status) {
    fputs("usage: pmd-agent report RUN [--out FILE.html] [--no-film] [--minutes M] [--episodes N] [--rom FILE]\n"
          "Writes a recorded run as one HTML file (pictures and plots inside, no script, opens anywhere) and a film with captions (needs ffmpeg).\n"
          "Both are made from the record alone: the game is played again in the emulator, no model is asked.\n"
          "  --out FILE.html  default RUN/report.html; the film beside it has the same name with .mp4\n"
          "  --no-film        no film;  --minutes M  of the film at most (default 10; console's speed)\n"
          "  --episodes N     shown in full (default 12; the table has all)\n"
          "  --rom FILE       the ROM, when it is not where the run says; without one: key frames, no maps, no film\n"
          "A run of several games (play --games N): name one of them, RUN/game-001.\n",
          to);
    return status;
}

/* The film's failure leaves the page standing: it is told, and the status says so. */
static int make_film(struct run_player *p, const struct report_options *o, const char *path, bool *made) {
    struct err err = {0};
    bool cut = false;
    *made = report_film(p, o, path, &cut, &err) == 0;
    if (!*made) return fprintf(stderr, "pmd-agent report: no film: %s\n", err.message), 1;
    printf("%s%s\n", path, cut ? " (cut at --minutes)" : "");
    return 0;
}

static int report(const struct report_options *o, const char *page, const char *film, const char *rom) {
    struct run_player *p;
    struct err err = {0};
    struct buf html = {0};
    char why[1000];
    bool made = false;
    int status = 0, code = run_player_open(o->folder, rom, &p, why, sizeof why, &err);
    if (code) return fprintf(stderr, "pmd-agent report: %s\n", err.message), 1;
    if (*why) fprintf(stderr, "pmd-agent report: without the emulator (key frames, no maps%s): %s\n", film ? ", no film" : "", why);
    if (film && !*why) status = make_film(p, o, film, &made);
    const char *name = made ? strrchr(film, '/') : NULL;
    code = report_page(p, o, made ? (name ? name + 1 : film) : NULL, &html, &err);
    if (!code) code = file_replace(page, html.data, html.len, &err);
    if (code) fprintf(stderr, "pmd-agent report: %s\n", err.message);
    else printf("%s\n", page);
    buf_free(&html);
    run_player_close(p);
    return code ? 1 : status;
}

int cmd_report(int argc, char **argv) {
    static const struct option options[] = {{"out", required_argument, NULL, 'o'}, {"no-film", no_argument, NULL, 'n'}, {"minutes", required_argument, NULL, 'm'},
                                            {"episodes", required_argument, NULL, 'e'}, {"rom", required_argument, NULL, 'r'}, {"help", no_argument, NULL, 'h'}, {0}};
    struct report_options o = {.episodes = 12, .film_minutes = 10};
    const char *out = NULL, *rom = NULL;
    bool film = true;
    char page[PATH_MAX], path[PATH_MAX], *end;
    int c;
    optind = 0;
    while ((c = getopt_long(argc, argv, "", options, NULL)) != -1) {
        long n;
        if (c == 'o') out = optarg;
        else if (c == 'n') film = false;
        else if (c == 'r') rom = optarg;
        else if (c == 'h') return usage(stdout, 0);
        else if (c == 'e' && (n = strtol(optarg, &end, 10)) >= 0 && n <= 100000 && *optarg && !*end) o.episodes = (uint32_t)n;
        else if (c == 'm' && (o.film_minutes = strtod(optarg, &end)) > 0 && o.film_minutes <= 1e5 && !*end) continue;
        else if (c == 'e' || c == 'm') return fprintf(stderr, "pmd-agent report: --%s %s: expected a number\n", c == 'e' ? "episodes" : "minutes", optarg), 2;
        else return usage(stderr, 2);
    }
    if (argc - optind != 1) return usage(stderr, 2);
    o.folder = argv[optind];
    size_t n = strlen(out ? out : "");
    if (out && (n < 6 || strcmp(out + n - 5, ".html"))) return fprintf(stderr, "pmd-agent report: --out %s: expected a name that ends with .html\n", out), 2;
    int length = out ? snprintf(page, sizeof page, "%s", out) : snprintf(page, sizeof page, "%s/report.html", o.folder);
    if (length >= (int)sizeof page) return fprintf(stderr, "pmd-agent report: the path is too long\n"), 2;
    snprintf(path, sizeof path, "%.*s.mp4", length - 5, page);
    return report(&o, page, film ? path : NULL, rom);
}
