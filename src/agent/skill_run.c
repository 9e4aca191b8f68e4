/* Running a skill: act by act, looking at the world after each, until something says stop. Everything that is pressed goes through
 * the hands, so that a skill is one step of the run and plays back bit for bit. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "agent/skill_ways.h"
#include "agent/skills.h"

enum { PRESSES_AT_MOST = MAX_STEP_PRESSES - 64 }; /* room for one more act with menus */

int skills_offer(const struct skill_set *set, const struct world_seen *seen, const struct map_memory *map, enum scene scene, bool offered[]) {
    struct situation s;
    int n = 0;
    situation_begin(&s, seen, map, scene, 0);
    for (int i = set->offered; i < set->count; i++) offered[i] = false;
    for (int i = 0; i < set->offered; i++) {
        const struct skill *k = &set->skills[i];
        if (k->arguments == ARGUMENTS_ITEM) s.argument[0] = 1; /* offered when any argument could do */
        offered[i] = scene != SCENE_NONE && conditions_hold(&k->when, &s);
        n += offered[i];
    }
    return n;
}

static bool there(const struct situation *s, const struct way *way) {
    const struct monster *l = world_leader(&s->seen->now);
    int near = way->beside ? 1 : 0;
    return l && way->goal.x >= 0 && abs(l->at.x - way->goal.x) <= near && abs(l->at.y - way->goal.y) <= near;
}

static const struct rule *rule_now(const struct skill *k, const struct situation *s) {
    for (int i = 0; i < k->rule_count; i++) {
        if (conditions_hold(&k->rules[i].when, s)) return &k->rules[i];
    }
    return NULL;
}

enum { NOTHING_TO_DO = -1 };
/* The act of a rule, NOTHING_TO_DO at the end of a walk or with *why when it can't be done. way: of a walk. */
static int rule_act(const struct rule *rule, const struct situation *s, struct way *way, const char **why) {
    const struct world *w = &s->seen->now;
    int d;
    *way = (struct way){.goal = {-1, -1}};
    *why = NULL;
    switch (rule->act) {
    case -1: {
        const struct monster *l = world_leader(w);
        if (!way_to(rule->target, s, way)) return *why = "there is no way", NOTHING_TO_DO;
        if ((d = way->direction) < 0) return NOTHING_TO_DO;
        /* Ways lead around foes; one that stands where there is no way around is fought. */
        return (foe_at(w, l->at.x + direction_dx[d], l->at.y + direction_dy[d]) ? ACTION_HIT : ACTION_WALK) + d;
    }
    case ACT_HIT: return (d = foe_beside(w)) >= 0 ? ACTION_HIT + d : (*why = "no foe is beside the leader", NOTHING_TO_DO);
    case ACT_TALK: return ally_beside(w) >= 0 ? ACT_TALK : (*why = "no ally is beside the leader", NOTHING_TO_DO);
    default: return rule->act;
    }
}

static const char *do_act(struct hands *h, int act, const struct situation *s) {
    switch (act) {
    case ACT_TALK: return hands_talk(h, ally_beside(&s->seen->now));
    case ACT_USE_ITEM: return hands_use_row(h, s->argument[0] - 1);
    default: return hands_act(h, act);
    }
}

static const struct condition *first_true(const struct conditions *c, const struct situation *s, const bool *before) {
    for (int i = 0; i < c->count; i++) {
        if (!(before && before[i]) && condition_holds(&c->all[i], s)) return &c->all[i];
    }
    return NULL;
}

struct progress {
    struct situation s;
    bool before[MAX_CONDITIONS]; /* interrupts that were true at the start */
    char why[100];
};

/* After an act: does the skill go on? */
static bool goes_on(const struct skill *k, struct progress *p, const struct hands *h, struct skill_result *out) {
    const struct condition *c;
    char words[60];
    if (!out->ready || hands_stopped(h) || hands_outcome(h) != OUTCOME_NONE) return out->end = SKILL_OVER, false;
    if ((c = first_true(&k->until, &p->s, NULL))) {
        condition_print(c, words, sizeof words);
        return snprintf(p->why, sizeof p->why, "%s", words), out->end = SKILL_DONE, false;
    }
    if (p->s.scene != p->s.start_scene && !(k->scenes >> p->s.scene & 1)) {
        return snprintf(p->why, sizeof p->why, "%s", scene_name[p->s.scene]), out->end = SKILL_DONE, false;
    }
    if (p->s.start_floor && p->s.seen->now.floor && p->s.seen->now.floor != p->s.start_floor) return snprintf(p->why, sizeof p->why, "a new floor"), out->end = SKILL_DONE, false;
    if ((c = first_true(&k->interrupt, &p->s, p->before))) {
        condition_print(c, words, sizeof words);
        return snprintf(p->why, sizeof p->why, "%s", words), out->end = SKILL_INTERRUPTED, false;
    }
    if (out->acts >= k->acts || out->turns >= k->turns || h->step->press_count >= PRESSES_AT_MOST) {
        return snprintf(p->why, sizeof p->why, "the skill's limit"), out->end = SKILL_LIMIT, false;
    }
    return true;
}

static void look(const struct skill_room *r, struct situation *s) {
    world_seen_update(r->seen, &r->hands->world);
    if (r->map) map_memory_update(r->map, r->seen);
    s->scene = scene_of(&r->hands->world);
    s->turns = r->hands->turns;
}

static void tell_plan(const struct skill *k, const struct skill_room *r, const struct way *way) {
    struct plan plan = {.goal = {-1, -1}};
    bool made = false;
    for (const struct agent_events *v = r->hands->events; subscriber(v); v++) {
        if (!v->planned) continue;
        if (!made && way) way_plan(&r->seen->now, way, &plan);
        made = true;
        snprintf(plan.skill, sizeof plan.skill, "%s", k->name);
        v->planned(v->user, &plan);
    }
}

int skill_first_act(const struct skill *k, const struct world_seen *seen, const struct map_memory *map, enum scene scene,
                    const int argument[2], struct plan *plan) {
    struct situation s;
    struct way way;
    const char *why;
    situation_begin(&s, seen, map, scene, 0);
    if (argument) memcpy(s.argument, argument, sizeof s.argument);
    if (plan) {
        *plan = (struct plan){.goal = {-1, -1}};
        snprintf(plan->skill, sizeof plan->skill, "%s", k->name);
    }
    const struct rule *rule = rule_now(k, &s);
    int act = rule ? rule_act(rule, &s, &way, &why) : NOTHING_TO_DO;
    if (plan && act >= 0 && way.goal.x >= 0) way_plan(&seen->now, &way, plan);
    return act;
}

static void begin(const struct skill *k, const struct skill_room *r, const int argument[2], struct progress *p) {
    *p = (struct progress){0};
    situation_begin(&p->s, r->seen, r->map, scene_of(&r->hands->world), r->hands->turns);
    if (argument) memcpy(p->s.argument, argument, sizeof p->s.argument);
    for (int i = 0; i < k->interrupt.count; i++) p->before[i] = condition_holds(&k->interrupt.all[i], &p->s);
}

void skill_run(const struct skill *k, const struct skill_room *r, const int argument[2], struct skill_result *out) {
    static const char *const ends[] = {"done", "nothing left to do", "interrupted", "stopped", "failed", "over"};
    struct hands *h = r->hands;
    struct progress p;
    struct point told = {-1, -1};
    *out = (struct skill_result){.end = SKILL_NOTHING, .ready = true};
    begin(k, r, argument, &p);
    for (const struct rule *rule; (rule = rule_now(k, &p.s));) {
        struct way way;
        const char *why;
        int act = rule_act(rule, &p.s, &way, &why);
        if (act < 0) {
            p.s.arrived = !why; /* there already */
            if (why) out->end = SKILL_FAILED, snprintf(p.why, sizeof p.why, "%s", why);
            break;
        }
        if (rule->target == TARGET_UNKNOWN && r->map) r->map->goal = way.goal;
        if (way.goal.x >= 0 && (way.goal.x != told.x || way.goal.y != told.y)) tell_plan(k, r, &way), told = way.goal;
        why = do_act(h, act, &p.s);
        if (r->did) r->did(r->user, act);
        out->ready = hands_ready(h);
        out->acts++;
        out->turns = h->turns - p.s.start_turns;
        if (!out->ready) {
            out->end = SKILL_OVER;
            break;
        }
        look(r, &p.s);
        p.s.arrived = there(&p.s, &way);
        if (!goes_on(k, &p, h, out)) break;
        if (why) {
            snprintf(p.why, sizeof p.why, "%s", why);
            out->end = SKILL_FAILED;
            break;
        }
    }
    if (told.x >= 0) tell_plan(k, r, NULL);
    out->success = k->success.count ? conditions_hold(&k->success, &p.s) : out->end == SKILL_DONE || out->end == SKILL_NOTHING;
    snprintf(out->words, sizeof out->words, "%s%s%s after %d turns%s", ends[out->end], *p.why ? ": " : "", p.why, out->turns,
             out->success ? "" : ", without success");
}
