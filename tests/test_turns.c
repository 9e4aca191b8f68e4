/* Whose turn on the device it is: the rules one by one, then whole evenings of games in pretended time, played with the engine's own queue. */
#include "engine/room.h"
#include "test.h"

/* Threads are numbers here. */
static pthread_t thread(int number) { return (pthread_t)(uintptr_t)(number + 1); }

static struct turn_request *come(struct turns *t, struct turn_request *r, enum turn_kind kind, int number) {
    *r = (struct turn_request){.kind = kind, .who = thread(number)};
    turns_arrive(t, r);
    return r;
}

/* Serves r in a turn of its kind. */
static void serve(struct turns *t, struct turn_request *r, double started, double ended) {
    turns_take(t, r);
    turns_ended(t, r->kind, &r, 1, started, ended);
}

static void who_is_alone_never_waits(void **state) {
    (void)state;
    struct turns t = {.gather = true};
    struct turn_request r;
    double until, now = 5;
    assert_int_equal(turns_next(&t, now, &until), TURN_NOBODY);
    static const enum turn_kind way[] = {TURN_PICTURE, TURN_PROMPT, TURN_STEP, TURN_STEP, TURN_PICTURE, TURN_PROMPT, TURN_STEP};
    for (size_t i = 0; i < sizeof way / sizeof *way; i++, now += 0.004) {
        come(&t, &r, way[i], 0);
        assert_int_equal(turns_next(&t, now, &until), way[i]);
        serve(&t, &r, now, now + 0.003);
    }
    assert_null(t.first);
    for (int k = 0; k < TURN_KINDS; k++) assert_int_equal(t.waiting[k] + t.begun[k], 0);
}

/* Three that have just had a step: the first to be back waits for the others as long as they are worth, half a step at most. */
static void company_is_waited_for(void **state) {
    (void)state;
    struct turns t = {.gather = true};
    struct turn_request r[4], *all[4];
    double until;
    for (int i = 0; i < 4; i++) turns_take(&t, all[i] = come(&t, &r[i], TURN_STEP, i));
    turns_ended(&t, TURN_STEP, all, 4, 1.000, 1.010);
    assert_int_equal(turns_next(&t, 1.010, &until), TURN_NOBODY);
    come(&t, &r[0], TURN_STEP, 0);
    assert_int_equal(turns_next(&t, 1.0149, &until), TURN_WAIT);
    assert_float_equal(until, 1.015, 1e-9); /* 3 for 1 are worth more than half a step */
    assert_int_equal(turns_next(&t, until, &until), TURN_STEP);
    come(&t, &r[1], TURN_STEP, 1);
    come(&t, &r[2], TURN_STEP, 2);
    assert_int_equal(turns_next(&t, 1.013, &until), TURN_WAIT);
    assert_float_equal(until, 1.010 + 0.010 / 3, 1e-9);
    assert_false(turns_leave(&t, thread(7)));  /* a stranger */
    assert_true(turns_leave(&t, thread(3)));   /* the last that was missing: look again */
    assert_int_equal(turns_next(&t, 1.0101, &until), TURN_STEP);
    /* Who stays away for a turn is not waited for any more. */
    for (int i = 0; i < 2; i++) turns_take(&t, all[i] = &r[i]);
    turns_ended(&t, TURN_STEP, all, 2, 1.011, 1.021);
    turns_take(&t, &r[2]);
    turns_ended(&t, TURN_STEP, (struct turn_request *[]){&r[2]}, 1, 1.022, 1.032);
    assert_int_equal(t.returning, 1);
    come(&t, &r[2], TURN_STEP, 2);
    assert_int_equal(turns_next(&t, 1.0321, &until), TURN_STEP);
    /* A processor has better things to do: 15 % of a step, a millisecond at most. */
    for (int slow = 0; slow < 2; slow++) {
        struct turns cpu = {.gather = false};
        double step = slow ? 0.100 : 0.004;
        for (int i = 0; i < 3; i++) turns_take(&cpu, all[i] = come(&cpu, &r[i], TURN_STEP, i));
        turns_ended(&cpu, TURN_STEP, all, 3, 1.0, 1.0 + step);
        come(&cpu, &r[0], TURN_STEP, 0);
        assert_int_equal(turns_next(&cpu, 1.0 + step, &until), TURN_WAIT);
        assert_float_equal(until, 1.0 + step + (slow ? 1e-3 : 0.0006), 1e-9);
    }
}

/* n games decode, one new picture comes: how many steps go first? */
static int steps_before(struct turns *t, int decoding, int fresh, enum turn_kind kind) {
    struct turn_request step[64], new[64], *all[64];
    double now = 1, until;
    int steps = 0;
    for (int i = 0; i < decoding; i++) turns_take(t, all[i] = come(t, &step[i], TURN_STEP, i));
    turns_ended(t, TURN_STEP, all, decoding, now, now + 0.01);
    for (int i = 0; i < fresh; i++) come(t, &new[i], kind, 100 + i);
    for (;; steps++) {
        for (int i = 0; i < decoding; i++) come(t, &step[i], TURN_STEP, i);
        now += 0.01;
        enum turn_kind next = turns_next(t, now, &until);
        if (next == kind) break;
        assert_int_equal(next, TURN_STEP);
        for (int i = 0; i < decoding; i++) turns_take(t, &step[i]);
        turns_ended(t, TURN_STEP, all, decoding, now, now + 0.01);
        assert_true(steps < 100);
    }
    return steps;
}

static void new_ones_are_gathered(void **state) {
    (void)state;
    static const struct {
        int decoding, fresh, steps;
    } cases[] = {{1, 1, 1}, {3, 1, 2}, {7, 1, 4}, {13, 1, 7}, {60, 1, TURNS_PASSED_BY}, {13, 3, 3}, {12, 4, 2}, {8, 8, 1}, {1, 15, 1}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        for (enum turn_kind kind = TURN_PROMPT; kind <= TURN_PICTURE; kind++) {
            struct turns t = {.gather = true}, no = {.gather = false};
            int steps = steps_before(&t, cases[i].decoding, cases[i].fresh, kind);
            if (steps != cases[i].steps) fail_msg("%d beside %d waited for %d steps", cases[i].fresh, cases[i].decoding, steps);
            assert_int_equal(steps_before(&no, cases[i].decoding, cases[i].fresh, kind), 0);
        }
}

/* Behind its picture a prompt goes with the next pass, whoever decodes, and takes those that wait with it; so does a prompt's next chunk. */
static void who_has_begun_goes_on(void **state) {
    (void)state;
    struct turns t = {.gather = true};
    struct turn_request a, b, step;
    double until;
    serve(&t, come(&t, &step, TURN_STEP, 0), 1.00, 1.01);
    serve(&t, come(&t, &a, TURN_PICTURE, 1), 1.01, 1.02);
    come(&t, &step, TURN_STEP, 0);
    assert_int_equal(turns_next(&t, 1.021, &until), TURN_WAIT); /* the picture's owner is on his way */
    come(&t, &a, TURN_PROMPT, 1);
    come(&t, &b, TURN_PICTURE, 2);
    assert_true(a.begun && !b.begun);
    assert_int_equal(turns_next(&t, 1.021, &until), TURN_PROMPT);
    serve(&t, &a, 1.021, 1.04);
    come(&t, &a, TURN_PROMPT, 1);
    assert_int_equal(turns_next(&t, 1.0401, &until), TURN_PROMPT);
    serve(&t, &a, 1.041, 1.05);
    come(&t, &a, TURN_STEP, 1);
    assert_int_equal(turns_next(&t, 1.0501, &until), TURN_STEP); /* now b is gathered */
    turns_take(&t, &step), turns_take(&t, &a);
    assert_int_equal(turns_next(&t, 1.0501, &until), TURN_PICTURE); /* nobody decodes */
}

/* More guests than there are places: the oldest are forgotten, the count stays right. */
static void many_guests(void **state) {
    (void)state;
    static struct turn_request r[TURNS_SERVED + 40];
    struct turns t = {.gather = true};
    struct turn_request *one;
    for (int i = 0; i < TURNS_SERVED + 40; i++) one = come(&t, &r[i], TURN_PICTURE, i), serve(&t, one, i, i + 0.5);
    assert_int_equal(t.served_count, TURNS_SERVED);
    assert_int_equal(t.returning, 1);
    turns_leave(&t, thread(TURNS_SERVED + 39));
    assert_int_equal(t.returning, 0);
}

/* ---- games in pretended time ---- */

struct evening {
    double rate;             /* decisions a second */
    double pictures;         /* of a pass */
    double sequences;        /* of a step */
    int longest_wait;        /* steps that a picture saw go by */
    double own_wait;         /* seconds, the longest between a game's coming and its being served, where it is alone */
};

struct player {
    struct turn_request r;
    bool queued;
    double next, asked;      /* when it comes */
    enum turn_kind kind;     /* ... with this */
    int words, seen;
};

/* n games; costs as bench_company has them (2B FP8 on an H100, seconds); who is served with a step is back after 0.1 ms. */
static struct evening play(int n, bool gather, int words, int spread, int decisions) {
    struct turns t = {.gather = gather};
    struct player p[16];
    struct evening e = {0};
    uint32_t seed = 9;
    double now = 0;
    long done = 0, pictures = 0, picture_turns = 0, steps = 0, sequences = 0;
    for (int i = 0; i < n; i++) p[i] = (struct player){.kind = TURN_PICTURE, .next = 1e-4 * i};
    while (done < (long)n * decisions) {
        double first = 1e9, until = 1e9;
        for (int i = 0; i < n; i++) {
            if (!p[i].queued && p[i].next <= now) {
                p[i].r = (struct turn_request){.kind = p[i].kind, .who = thread(i)};
                p[i].queued = true, p[i].seen = 0, p[i].asked = p[i].next;
                turns_arrive(&t, &p[i].r);
            }
            if (!p[i].queued && p[i].next < first) first = p[i].next;
        }
        enum turn_kind kind = turns_next(&t, now, &until);
        if (kind == TURN_NOBODY || kind == TURN_WAIT) {
            now = kind == TURN_WAIT && until < first ? until : first;
            continue;
        }
        struct turn_request *served[16];
        int who[16], count = 0, prompts = 0;
        for (int i = 0; i < n; i++) {
            bool goes = p[i].queued && (kind == TURN_PICTURE ? p[i].kind == kind : p[i].kind == TURN_STEP || (kind == TURN_PROMPT && p[i].kind == kind && prompts < 5));
            if (p[i].queued && !goes && kind == TURN_STEP) p[i].seen++;
            if (!goes) continue;
            prompts += p[i].kind == TURN_PROMPT;
            if (p[i].kind == TURN_PICTURE && p[i].seen > e.longest_wait) e.longest_wait = p[i].seen;
            if (now - p[i].asked > e.own_wait) e.own_wait = now - p[i].asked;
            turns_take(&t, &p[i].r);
            served[count] = &p[i].r, who[count++] = i;
        }
        double ms = kind == TURN_PICTURE ? 0.8 + count : kind == TURN_PROMPT ? 1.8 + 0.0062 * 175 * prompts + 0.11 * (count - prompts) : 1.27 + 0.073 * count;
        double end = now + ms / 1e3;
        turns_ended(&t, kind, served, count, now, end);
        if (kind == TURN_PICTURE) pictures += count, picture_turns++;
        if (kind == TURN_STEP) sequences += count, steps++;
        now = end;
        for (int k = 0; k < count; k++) {
            struct player *g = &p[who[k]];
            g->queued = false;
            g->next = now + 1e-4 + 1e-5 * k;
            if (g->kind == TURN_PROMPT) g->words = words - spread + (int)((seed = seed * 1664525u + 1013904223u) >> 16) % (2 * spread + 1);
            if (g->kind == TURN_STEP) g->words--;
            g->kind = g->kind == TURN_PICTURE ? TURN_PROMPT : TURN_STEP;
            if (g->kind == TURN_STEP && g->words <= 0) { /* the next decision, after what a game has to do */
                turns_leave(&t, thread(who[k]));
                g->kind = TURN_PICTURE, g->next = now + 2.5e-3, done++;
            }
        }
    }
    e.rate = (double)done / now, e.pictures = (double)pictures / (double)picture_turns, e.sequences = (double)sequences / (double)steps;
    return e;
}

static void evenings(void **state) {
    (void)state;
    static const struct {
        int words, spread, decisions;
        double gain, pictures; /* at least: of gathering, and pictures a pass */
    } cases[] = {{30, 8, 60, 1.05, 2.5}, {15, 12, 60, 1.05, 3.0}, {140, 10, 20, 1.0, 1.5}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct evening one = play(1, true, cases[i].words, cases[i].spread, cases[i].decisions), same = play(1, false, cases[i].words, cases[i].spread, cases[i].decisions);
        struct evening at_once = play(16, false, cases[i].words, cases[i].spread, cases[i].decisions), gathered = play(16, true, cases[i].words, cases[i].spread, cases[i].decisions);
        fprintf(stderr, "%d words: one game %.1f a second; 16 games %.1f without gathering (%.1f pictures a pass, %.1f answers a step), %.1f with (%.1f, %.1f; %d steps at most went first)\n", cases[i].words, one.rate,
                at_once.rate, at_once.pictures, at_once.sequences, gathered.rate, gathered.pictures, gathered.sequences, gathered.longest_wait);
        assert_float_equal(one.rate, same.rate, 1e-9 * one.rate); /* gathering is nothing to who is alone */
        assert_float_equal(one.own_wait, 0, 1e-9);
        assert_true(gathered.rate >= cases[i].gain * at_once.rate);
        assert_true(gathered.pictures >= cases[i].pictures);
        assert_in_range(gathered.longest_wait, 1, TURNS_PASSED_BY);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(who_is_alone_never_waits), cmocka_unit_test(company_is_waited_for), cmocka_unit_test(new_ones_are_gathered),
                                       cmocka_unit_test(who_has_begun_goes_on), cmocka_unit_test(many_guests), cmocka_unit_test(evenings)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
