/* Fairness: what a player could not know changes neither prompt nor choice nor way. Memory images by the published layout are changed in
 * everything unseen (walls, rooms, foes, items, traps, the stairs, seeds, what foes hold), and all that the agent makes of them must stay
 * the same, step for step. */
#include "test.h"

#include "agent/choice.h"
#include "agent/prompt.h"
#include "agent/stuck.h"
#include "memory_image.h"

static struct image plain, changed;
static struct world world;
static struct skill_set set;

/* Everything that the agent makes of what it sees. */
struct made {
    char hub[PROMPT_BYTES], talk[PROMPT_BYTES], own[PROMPT_BYTES];
    bool skills[MAX_SKILLS];
    int first[MAX_SKILLS];
    struct plan plans[MAX_SKILLS];
    const char *refusals[8];
    int oracle;
    struct stuck stuck;
};

static struct prompt_template hub, talk, own;

static void make(const struct image *m, struct world_seen *seen, struct map_memory *map, struct stuck *stuck, struct made *out) {
    struct prompt_memory memory;
    struct offer offer, steps;
    struct err err = {0};
    memset(out, 0, sizeof *out);
    image_decode(m, &world);
    world_seen_update(seen, &world);
    map_memory_update(map, seen);
    enum scene scene = scene_of(&seen->now);
    struct sight sight = {seen, map, &set, scene};
    prompt_forget(&memory);
    prompt_observe(&memory, &seen->now, scene);
    offer_make(&sight, ANSWER_SKILLS, &offer);
    offer_make(&sight, ANSWER_ACTIONS, &steps);
    struct prompt_view v = {.seen = seen, .scene = scene, .memory = &memory, .map = map, .offer = &offer, .skills = &set};
    if (prompt_template_fill(&hub, &v, out->hub, &err) < 0 || prompt_template_fill(&talk, &v, out->talk, &err) < 0 || prompt_template_fill(&own, &v, out->own, &err) < 0) fail_msg("%s", err.message);
    memcpy(out->skills, offer.skills, sizeof out->skills);
    int argument[2] = {11, 6};
    for (int i = 0; i < set.count; i++) out->first[i] = skill_first_act(&set.skills[i], seen, map, scene, argument, &out->plans[i]);
    for (int d = 0; d < 8; d++) out->refusals[d] = gatekeeper_refuses(&(struct choice){.action = ACTION_WALK + d, .skill = -1}, &steps, &sight);
    struct oracle *o = oracle_new(false);
    out->oracle = oracle_decide(o, NULL, seen, NULL);
    oracle_free(o);
    stuck_observe(stuck, seen, scene, 3);
    out->stuck = *stuck;
}

static void unseen(struct image *m, int kind) {
    switch (kind) {
    case 0: /* the room that was not shown lies elsewhere, and so do the stairs */
        for (int y = 4; y <= 9; y++) {
            for (int x = 20; x <= 26; x++) image_dig(m, x, y, 0, 255);
        }
        image_room(m, 1, 30, 12, 36, 20, false);
        image_stairs(m, 33, 15);
        break;
    case 1: /* the corridor ends behind what is shown of it */
        for (int x = 12; x < 20; x++) image_dig(m, x, 6, 0, 255);
        break;
    case 2: image_monster(m, POOL_WILD, 3, 16, 9, 40, 40, 24, 8, 3); break;  /* another foe, elsewhere in the dark */
    case 3: image_monster(m, POOL_WILD, 7, 191, 1, 8, 8, 21, 5, 0); break;   /* one more */
    case 4: put8(m, image_data(m, POOL_WILD, 0) + 9, 50), put16(m, image_data(m, POOL_WILD, 0) + 0xE, 3); break; /* level and HP of the foe in sight */
    case 5: image_item(m, 6, 82, 0, 1, 22, 7), put16(m, m->d + 0x3904, 7); break;
    case 6: image_trap(m, 1, 5, false, 8, 6); break;    /* a hidden trap in the room itself */
    case 7: put32(m, m->d + 0x680, 0x123456), put16(m, m->d + 0x666, 12); break; /* seed, turns until the wind */
    case 8: image_dig(m, 12, 7, 1, 255), image_dig(m, 12, 5, 1, 255); break;     /* side ways just outside of what is shown */
    case 9: image_monster(m, POOL_WILD, 5, 191, 1, 8, 8, 6, 2, 0); break;        /* in line with the leader, above the screen's edge */
    default: put8(m, image_data(m, POOL_WILD, 3) + 0x46, 5), put32(m, 0x0202EDCC, 99999); break;
    }
    image_passable(m);
}
enum { UNSEEN_KINDS = 11 };

static void what_is_not_seen_changes_nothing(void **state) {
    (void)state;
    static struct world_seen a, b;
    static struct map_memory map_a, map_b;
    static struct made made_a, made_b;
    struct stuck stuck_a, stuck_b;
    for (int kind = 0; kind < UNSEEN_KINDS; kind++) {
        memset(&a, 0, sizeof a), memset(&b, 0, sizeof b);
        map_memory_reset(&map_a), map_memory_reset(&map_b);
        stuck_reset(&stuck_a), stuck_reset(&stuck_b);
        for (int step = 0; step < 3; step++) { /* the leader walks east */
            image_dungeon(&plain), image_dungeon(&changed);
            unseen(&changed, kind);
            struct image *both[] = {&plain, &changed};
            for (int i = 0; i < 2; i++) {
                put16(both[i], image_entity(both[i], POOL_TEAM, 0) + 4, 6 + step);
                put16(both[i], both[i]->d + 0x181F0, 24 * (6 + step) + 12 - 120);
                if (kind != 10) put32(both[i], 0x0202EDCC, 5000u + (uint32_t)step);
                else put32(both[i], 0x0202EDCC, (i ? 99000u : 5000u) + (uint32_t)step);
            }
            make(&plain, &a, &map_a, &stuck_a, &made_a);
            make(&changed, &b, &map_b, &stuck_b, &made_b);
            assert_string_equal(made_a.hub, made_b.hub);
            assert_string_equal(made_a.talk, made_b.talk);
            assert_string_equal(made_a.own, made_b.own);
            if (memcmp(&made_a, &made_b, sizeof made_a)) fail_msg("kind %d, step %d: choices or ways differ", kind, step);
        }
    }
    assert_non_null(strstr(made_a.hub, "Pidgey")); /* the foe in sight is told, so the prompts are about this floor */
    assert_null(strstr(made_a.hub, "Sunkern"));
}

/* The same changes, where they can be seen, do change what is made: the test above is not blind. */
static void what_is_seen_does_change_it(void **state) {
    (void)state;
    static struct world_seen a, b;
    static struct map_memory map;
    static struct made made_a, made_b;
    struct stuck stuck;
    for (int kind = 0; kind < 3; kind++) {
        memset(&a, 0, sizeof a), memset(&b, 0, sizeof b);
        image_dungeon(&plain), image_dungeon(&changed);
        if (kind == 0) image_monster(&changed, POOL_WILD, 3, 191, 1, 8, 8, 8, 6, 0);
        if (kind == 1) image_reveal(&changed, 12, 5, 26, 9);
        if (kind == 2) image_trap(&changed, 1, 5, true, 7, 6);
        map_memory_reset(&map), stuck_reset(&stuck);
        make(&plain, &a, &map, &stuck, &made_a);
        map_memory_reset(&map), stuck_reset(&stuck);
        make(&changed, &b, &map, &stuck, &made_b);
        assert_string_not_equal(made_a.hub, made_b.hub);
        assert_string_not_equal(made_a.talk, made_b.talk);
    }
}

static int read_files(void **state) {
    (void)state;
    struct err err = {0};
    if (prompt_template_load("configs/prompts/hub.txt", &hub, &err) || prompt_template_load("configs/prompts/hub-2.txt", &talk, &err) ||
         prompt_template_load("configs/prompts/tinywoods.txt", &own, &err) ||
        skill_set_load("configs/skills", NULL, &set, &err)) return fprintf(stderr, "%s\n", err.message), -1;
    return 0;
}
static int free_files(void **state) {
    (void)state;
    prompt_template_free(&hub);
    prompt_template_free(&talk);
    prompt_template_free(&own);
    return 0;
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(what_is_not_seen_changes_nothing), cmocka_unit_test(what_is_seen_does_change_it)};
    return cmocka_run_group_tests(tests, read_files, free_files);
}
