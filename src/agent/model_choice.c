/* The model's choice, and the parts around it: the ladder out of stuckness, the gatekeeper, the safeguards. What a part decides is
 * labelled as its own and counted; the model's share of a run is what is left. */
#include "agent/room.h"

#include <stdio.h>
#include <string.h>

enum { LOW_HP = 20, LOW_HP_FOE = 35, LOW_BELLY = 6 }; /* percent */

static bool part(const struct agent *a, enum part p) { return a->options.parts & p; }
struct map_memory *agent_map(struct agent *a) { return a->options.policy != POLICY_MODEL || part(a, PART_MAP) ? &a->map : NULL; }

/* ---- the ladder ------------------------------------------------------------------------------------------------------------------ */

static bool escalate(struct agent *a, struct step *s) {
    char why[160] = "";
    bool stronger = a->options.escalate && a->options.escalate(a->options.escalate_user, s, why, sizeof why);
    if (*why) reason_add(a, why);
    return stronger;
}

/* Where to, when it is forced: the stairs when they are known, else on along the map's ends. Out of texts and menus by the keys that end them. */
static void force(struct agent *a, struct step *s, const struct sight *sight) {
    static const char *const ways[] = {"change_floor", "explore"};
    char why[120];
    s->decided_by = BY_STUCK;
    a->result.parts.forced++;
    snprintf(why, sizeof why, "stuck (%s): forced exploration", s->stuck);
    reason_add(a, why);
    if (sight->scene != SCENE_FIELD) {
        a->choice = safe_choice(sight->scene);
        /* The other answer than last time: one of the two leads on. */
        if (sight->scene == SCENE_CHOICE) a->choice = action_choice(a->result.parts.forced % 2 ? ACTION_YES : ACTION_NO);
        if (sight->scene == SCENE_STAIRS) a->choice = action_choice(ACTION_PROCEED);
        return;
    }
    a->choice = safe_choice(sight->scene);
    for (int i = 0; i < 2; i++) {
        int k = skill_find(&a->skills, ways[i]);
        if (k < 0 || skill_first_act(&a->skills.skills[k], sight->seen, sight->map, sight->scene, NULL, NULL) < 0) continue;
        if (!i && (sight->seen->now.stairs.x < 0)) continue;
        a->choice = (struct choice){.action = -1, .skill = k};
        return;
    }
}

bool stuck_ladder(struct agent *a, struct step *s, const struct sight *sight) {
    struct stuck *k = &a->stuck;
    if (!part(a, PART_STUCK)) return false;
    int before = k->level;
    stuck_observe(k, sight->seen, sight->scene, a->hands.turns);
    if (!k->level) {
        if (a->escalated) escalate(a, s); /* level 0: the stronger model may go */
        return a->escalated = false;
    }
    s->stuck = stuck_name[k->kind];
    s->stuck_level = k->level;
    if (!before) a->result.parts.stuck[k->kind]++;
    if (k->level == RUNG_MODEL && !a->escalated) {
        if ((a->escalated = escalate(a, s))) a->result.parts.escalated++;
        else stuck_climb(k);
    }
    if (k->level == RUNG_PROMPT) {
        if (!a->prompt.unstick) stuck_climb(k);
        else if (!k->waited) a->result.parts.prompt_changed++;
    }
    s->stuck_level = k->level;
    if (k->level < RUNG_FORCE) return false;
    force(a, s, sight);
    return true;
}

/* ---- asking ------------------------------------------------------------------------------------------------------------------------ */

/* Each pixel n times n times. */
static const uint8_t *upscaled(struct agent *a, const uint8_t *rgb) {
    int n = a->options.upscale;
    if (!a->large || !rgb) return rgb;
    uint8_t *out = a->large;
    for (int y = 0; y < FRAME_HEIGHT * n; y++) {
        for (int x = 0; x < FRAME_WIDTH * n; x++, out += 3) memcpy(out, rgb + 3 * (y / n * FRAME_WIDTH + x / n), 3);
    }
    return a->large;
}

static const uint8_t *picture_for_model(struct agent *a, enum scene scene) {
    if (a->options.see == SEE_RAM) return NULL;
    switch (a->options.picture) {
    case PICTURE_BLANK: return memset(a->shown, 0, sizeof a->shown);
    case PICTURE_OTHER_SEED: return donor_picture(a, scene == SCENE_FIELD);
    default: return a->picture;
    }
}

/* What was said becomes a part of what the next prompt repeats. */
static void remember_exchange(struct agent *a, const struct question *q) {
    const struct answer *r = &a->answer;
    conversation_add(&a->conversation, &(struct exchange){.text = a->prompt_text, .rgb = (uint8_t *)q->rgb, .width = q->width, .height = q->height, .reply = r->text,
                                                          .reply_tokens = r->answer_tokens, .reply_token_count = r->answer_token_count, .again = q->again});
    *a->instead = 0;
}

/* One question; its answer is in a->answer and, tokens and times of earlier tries added, in *s. */
static void ask(struct agent *a, struct step *s, const struct sight *sight, const struct offer *offer, const uint8_t *picture) {
    struct buf schema = {0};
    struct answer *r = &a->answer;
    answer_free(r);
    offer_schema(offer, sight, &schema);
    int scale = a->large ? a->options.upscale : 1;
    struct question q = {.system = s->system, .prompt = a->prompt_text, .rgb = picture, .width = FRAME_WIDTH * scale, .height = FRAME_HEIGHT * scale, .schema = schema.data, .seed = (uint64_t)a->seed << 32 | s->number,
                         .decision = s->number, .step = s, .again = s->refused != NULL, .past = a->conversation.limit ? &a->conversation : NULL};
    s->history = a->conversation.count;
    if (schema.failed) *r = (struct answer){.action = -1, .reason = "out of memory for a schema"};
    else asker_question(a->asker, &q, r);
    buf_free(&schema);
    if (r->text) remember_exchange(a, &q);
    s->answer = r->text;
    s->pieces = r->pieces;
    s->prompt_tokens = r->prompt_tokens;
    s->prompt_token_count = r->prompt_token_count;
    s->answer_tokens = r->answer_tokens;
    s->answer_token_count = r->answer_token_count;
    s->confidence = r->confidence;
    s->calibrated = r->calibrated;
    s->model = *r->model ? r->model : NULL;
    s->route_reason = *r->route_reason ? r->route_reason : NULL;
    s->votes = r->votes;
    s->vote_count = r->vote_count;
    s->cached_tokens = r->cached_tokens;
    s->ask_ms += r->total_ms;
    s->image_ms += r->image_ms;
    s->prefill_ms += r->prefill_ms;
    s->generate_ms += r->generate_ms;
    a->result.model_seconds += r->total_ms / 1e3;
    a->result.tokens += r->computed_tokens;
    reason_add(a, r->reason);
}

/* A question that fails behind a conversation (it may have outgrown the context, or the memory) is asked once more without it. */
static int ask_on(struct agent *a, struct step *s, const struct sight *sight, const struct offer *offer, const uint8_t *picture, struct err *err) {
    ask(a, s, sight, offer, a->after_refusal ? NULL : picture);
    if (a->answer.text || a->answer.give_up || !a->conversation.count) return 0;
    conversation_forget(&a->conversation);
    int code = prompt_make(a, s, sight, offer, err);
    if (!code) ask(a, s, sight, offer, picture);
    return code;
}

/* NULL: the answer is a possible choice; else why it is none. */
static const char *read_answer(struct agent *a, const struct sight *sight, const struct offer *offer, char *problem, size_t cap) {
    a->choice = action_choice(-1);
    if (!choice_parse(a->answer.text, offer, sight, &a->choice, a->note, problem, cap)) return problem;
    return part(a, PART_GATEKEEPER) ? gatekeeper_refuses(&a->choice, offer, sight) : NULL;
}

static void note_refusal(struct agent *a, struct step *s, const char *why) {
    char what[48] = "the answer";
    if (a->choice.action >= 0 || a->choice.skill >= 0) choice_print(&a->choice, &a->skills, what, sizeof what);
    snprintf(a->refused, sizeof a->refused, "%s: %s", what, why);
    s->refused = a->refused;
    a->result.parts.refused++;
    refusal_free(a);
    a->refused_answer = a->answer.text;
    a->refused_tokens = a->answer.answer_tokens;
    a->refused_token_count = a->answer.answer_token_count;
    a->answer.text = NULL;
    a->answer.answer_tokens = NULL;
    s->refused_answer = a->refused_answer;
    s->refused_tokens = a->refused_tokens;
    s->refused_token_count = a->refused_token_count;
}

/* A rule that keeps the leader alive where the model does not. */
static void safeguard(struct agent *a, struct step *s, const struct sight *sight) {
    const struct world *w = &sight->seen->now;
    const struct monster *l = world_leader(w);
    if (sight->scene != SCENE_FIELD || !l || l->max_hp <= 0) return;
    bool foe = false;
    for (int d = 0; d < 8 && !foe; d++) foe = foe_at(w, l->at.x + direction_dx[d], l->at.y + direction_dy[d]);
    int instead = -1;
    if (l->hp * 100 <= l->max_hp * (foe ? LOW_HP_FOE : LOW_HP) && bag_find(w, ITEM_USE_HEAL) >= 0) instead = ACTION_HEAL;
    else if (l->belly * 100 <= LOW_BELLY * (l->max_belly > 0 ? l->max_belly : 100) && bag_find(w, ITEM_USE_FOOD) >= 0) instead = ACTION_EAT;
    char chosen[48];
    choice_print(&a->choice, &a->skills, chosen, sizeof chosen);
    if (instead < 0 || !strncmp(chosen, "use_item", 8) || !strcmp(chosen, action_name[instead])) return;
    char why[120];
    snprintf(why, sizeof why, "%s instead of %s", instead == ACTION_HEAL ? "hp is low: heal" : "the belly is empty: eat", chosen);
    reason_add(a, why);
    a->choice = action_choice(instead);
    s->decided_by = BY_SAFEGUARD;
    a->result.parts.safeguards++;
}

/* Now and then: what do you see? The answer is scored and recorded; nothing is decided by it. */
static void perceive(struct agent *a, struct step *s, const uint8_t *picture) {
    struct perception *p = &a->perception;
    int every = a->options.perception_every, scale = a->large ? a->options.upscale : 1;
    double seconds = 0;
    if (every <= 0 || s->number % (uint32_t)every || !picture) return;
    perception_of_world(&a->seen.now, p->truth);
    perceiver_ask(&a->perceiver, picture, FRAME_WIDTH * scale, FRAME_HEIGHT * scale, a->seed, p->said, NULL, 0, &seconds, &a->result.tokens);
    perception_add(&a->result.perception, p);
    s->perception = p;
    s->ask_ms += seconds * 1e3;
    a->result.model_seconds += seconds;
}

int model_choose(struct agent *a, struct step *s, const struct sight *sight, const struct offer *offered, struct err *err) {
    const uint8_t *picture = upscaled(a, picture_for_model(a, sight->scene));
    struct offer offer = *offered;
    char problem[200] = "";
    s->decided_by = BY_MODEL;
    *a->note = 0;
    perceive(a, s, picture);
    int code = ask_on(a, s, sight, &offer, picture, err);
    if (code) return code;
    if (a->answer.give_up) return err_set(err, ERR_NETWORK, "%s", a->answer.reason);
    const char *why = a->answer.text ? read_answer(a, sight, &offer, problem, sizeof problem) : NULL;
    if (a->answer.text && why && part(a, PART_GATEKEEPER)) {
        note_refusal(a, s, why);
        reason_add(a, a->refused);
        offer_withdraw(&offer, &a->choice);
        code = prompt_make(a, s, sight, &offer, err);
        if (!code) code = ask_on(a, s, sight, &offer, picture, err);
        if (code) return code;
        if (a->answer.give_up) return err_set(err, ERR_NETWORK, "%s", a->answer.reason);
        why = a->answer.text ? read_answer(a, sight, &offer, problem, sizeof problem) : NULL;
        if (a->answer.text && !why) a->result.parts.corrected++;
    }
    if (!a->answer.text || why) {
        s->decided_by = a->answer.text && part(a, PART_GATEKEEPER) ? BY_GATEKEEPER : BY_FALLBACK;
        if (why) reason_add(a, why);
        a->choice = safe_choice(sight->scene);
    }
    if (*a->note) s->note = a->note;
    if (part(a, PART_SAFEGUARD)) safeguard(a, s, sight);
    return 0;
}
