#include "agent/choice.h"

#include <stdio.h>
#include <string.h>

#include "base/json.h"

void offer_make(const struct sight *s, enum answers answers, struct offer *out) {
    *out = (struct offer){.answers = answers};
    if (answers == ANSWER_ACTIONS) {
        out->count = scene_offers(&s->seen->now, s->scene, out->actions);
        return;
    }
    out->count = skills_offer(s->skills, s->seen, s->map, s->scene, out->skills);
    if (answers == ANSWER_SKILLS) return;
    out->count = 0;
    for (int i = 0; i < s->skills->count; i++) {
        const struct skill *k = &s->skills->skills[i];
        bool plain = out->skills[i] && k->arguments == ARGUMENTS_NONE;
        int act = plain ? skill_first_act(k, s->seen, s->map, s->scene, NULL, NULL) : -1;
        if (act == ACT_TALK && plain) act = -1; /* no single step is called so */
        if (act < 0 || act >= ACTION_COUNT || out->actions[act]) {
            out->skills[i] = false;
            continue;
        }
        out->actions[act] = true;
        out->begins_with[act] = i;
        out->count++;
    }
}

/* ---- the schema -------------------------------------------------------------------------------------------------------------- */

static void put_object(const struct offer *o, const char *first, const char *more, const char *required, struct buf *out) {
    buf_printf(out, "{\"type\":\"object\",\"properties\":{%s%s", first, more);
    if (o->note) buf_printf(out, ",\"note\":{\"type\":\"string\",\"maxLength\":%d}", NOTE_CHARACTERS);
    buf_printf(out, "},\"required\":[%s],\"additionalProperties\":false}", required);
}

static void put_skills(const struct offer *o, const struct sight *s, struct buf *out) {
    struct buf plain = {0}, one = {0};
    int branches = 0;
    for (int i = 0; i < s->skills->count; i++) {
        const struct skill *k = &s->skills->skills[i];
        if (o->skills[i] && k->arguments == ARGUMENTS_NONE) buf_printf(&plain, "%s\"%s\"", plain.len ? "," : "\"skill\":{\"type\":\"string\",\"enum\":[", k->name), branches |= 1;
        else if (o->skills[i]) branches += 2;
    }
    if (plain.len) buf_str(&plain, "]}");
    if (branches != 1 && branches != 2) buf_str(out, "{\"anyOf\":[");
    size_t start = out->len;
    if (plain.len) put_object(o, plain.data, "", "\"skill\"", out);
    for (int i = 0; i < s->skills->count; i++) {
        const struct skill *k = &s->skills->skills[i];
        if (!o->skills[i] || k->arguments == ARGUMENTS_NONE) continue;
        char tile[120], item[80];
        int rows = s->seen->now.bag_count < MENU_SLOTS ? s->seen->now.bag_count : MENU_SLOTS;
        snprintf(tile, sizeof tile, ",\"x\":{\"type\":\"integer\",\"minimum\":0,\"maximum\":%d},\"y\":{\"type\":\"integer\",\"minimum\":0,\"maximum\":%d}",
                 MAP_WIDTH - 1, MAP_HEIGHT - 1);
        snprintf(item, sizeof item, ",\"item\":{\"type\":\"integer\",\"minimum\":1,\"maximum\":%d}", rows > 0 ? rows : 1);
        buf_clear(&one);
        buf_printf(&one, "\"skill\":{\"type\":\"string\",\"enum\":[\"%s\"]}", k->name);
        if (out->len > start) buf_char(out, ',');
        bool is_tile = k->arguments == ARGUMENTS_TILE;
        put_object(o, one.data ? one.data : "", is_tile ? tile : item, is_tile ? "\"skill\",\"x\",\"y\"" : "\"skill\",\"item\"", out);
    }
    if (branches != 1 && branches != 2) buf_str(out, "]}");
    out->failed |= plain.failed | one.failed;
    buf_free(&plain);
    buf_free(&one);
}

void offer_schema(const struct offer *o, const struct sight *s, struct buf *out) {
    if (o->answers == ANSWER_SKILLS) put_skills(o, s, out);
    else action_note_schema(o->actions, o->note ? NOTE_CHARACTERS : 0, out);
}

bool offer_withdraw(struct offer *o, const struct choice *c) {
    bool *one = o->answers == ANSWER_SKILLS ? (c->skill >= 0 ? &o->skills[c->skill] : NULL) : NULL;
    if (o->answers == ANSWER_STEPS) {
        for (int i = 0; i < ACTION_COUNT && !one; i++) {
            if (o->actions[i] && o->begins_with[i] == c->skill) one = &o->actions[i];
        }
    }
    if (o->answers == ANSWER_ACTIONS && c->action >= 0) one = &o->actions[c->action];
    if (!one || !*one || o->count < 2) return false;
    *one = false;
    o->count--;
    return true;
}

/* ---- answers ----------------------------------------------------------------------------------------------------------------- */

static bool parse_skill(const struct json *root, const struct sight *s, struct choice *out, char *reason, size_t cap) {
    const char *name = json_as_string(json_get(root, "skill"), NULL);
    int skill = name ? skill_find(s->skills, name) : -1;
    if (!name) return snprintf(reason, cap, "the answer has no text \"skill\""), false;
    if (skill < 0) return snprintf(reason, cap, "the answer names no skill: %.60s", name), false;
    *out = (struct choice){.action = -1, .skill = skill};
    static const char *const keys[][2] = {{NULL, NULL}, {"x", "y"}, {"item", NULL}};
    for (int i = 0; i < 2; i++) {
        const char *key = keys[s->skills->skills[skill].arguments][i];
        int64_t v = key ? json_as_integer(json_get(root, key), -1) : 0;
        if (v < 0 || v > 1000) return snprintf(reason, cap, "%.40s needs a whole number \"%s\"", name, key), false;
        out->argument[i] = (int)v;
    }
    return true;
}

static void read_note(const char *text, char *note) {
    struct arena arena = {0};
    snprintf(note, NOTE_BYTES + 1, "%s", json_as_string(json_get(json_parse(text, strlen(text), "answer", &arena, NULL), "note"), ""));
    arena_free(&arena);
}

bool choice_parse(const char *text, const struct offer *o, const struct sight *s, struct choice *out, char *note, char *reason, size_t cap) {
    *note = 0;
    if (o->answers != ANSWER_SKILLS) {
        int action = action_of_answer(text, o->actions, reason, cap);
        *out = (struct choice){.action = action, .skill = -1};
        if (o->note && action >= 0) read_note(text, note);
        if (action >= 0 && o->answers == ANSWER_STEPS) *out = (struct choice){.action = -1, .skill = o->begins_with[action]};
        return action >= 0;
    }
    struct arena arena = {0};
    struct err err = {0};
    const struct json *root = json_parse(text, strlen(text), "answer", &arena, &err);
    bool ok = root && parse_skill(root, s, out, reason, cap);
    if (!root) snprintf(reason, cap, "the answer is no JSON: %.120s", err.message);
    if (ok) snprintf(note, NOTE_BYTES + 1, "%s", json_as_string(json_get(root, "note"), ""));
    arena_free(&arena);
    return ok;
}

void choice_print(const struct choice *c, const struct skill_set *skills, char *out, size_t cap) {
    if (c->action >= 0) {
        snprintf(out, cap, "%s", action_name[c->action]);
        return;
    }
    const struct skill *k = &skills->skills[c->skill];
    if (k->arguments == ARGUMENTS_TILE) snprintf(out, cap, "%s %d %d", k->name, c->argument[0], c->argument[1]);
    else if (k->arguments == ARGUMENTS_ITEM) snprintf(out, cap, "%s %d", k->name, c->argument[0]);
    else snprintf(out, cap, "%s", k->name);
}

/* ---- the gatekeeper ------------------------------------------------------------------------------------------------------------ */

static const char *refuse_walk(const struct world *w, int d) {
    const struct monster *l = world_leader(w);
    if (!l) return "there is no leader";
    int x = l->at.x + direction_dx[d], y = l->at.y + direction_dy[d];
    if (x < 0 || y < 0 || x >= MAP_WIDTH || y >= MAP_HEIGHT) return "the map ends there";
    if (foe_at(w, x, y)) return "a foe stands there";
    if (!(w->tiles[y][x].visibility & 1)) return NULL; /* unknown: it may be open */
    if (tile_step_allowed(w, l->at, d)) return NULL;
    if ((w->tiles[y][x].flags & TILE_KIND) == TILE_WALL) return "a wall is there";
    if ((w->tiles[y][x].flags & TILE_KIND) == TILE_LIQUID) return "water is there";
    bool corners = d % 2 && (!(w->tiles[l->at.y][x].visibility & 1) || !(w->tiles[y][l->at.x].visibility & 1));
    return corners ? NULL : "a wall's corner is in the way";
}

static const char *refuse_action(int action, const struct world *w, enum scene scene) {
    bool offered[ACTION_COUNT];
    scene_offers(w, scene, offered);
    if (action < ACTION_HIT && scene == SCENE_FIELD) return refuse_walk(w, action - ACTION_WALK);
    if (offered[action]) return NULL;
    switch (action) {
    case ACTION_USE_MOVE: return "no move is set, or it has no PP left";
    case ACTION_EAT: return "there is no food in the bag";
    case ACTION_HEAL: return "there is nothing in the bag that heals";
    case ACTION_THROW: return "there is nothing in the bag to throw";
    default: return "that is not possible here";
    }
}

const char *gatekeeper_refuses(const struct choice *c, const struct offer *o, const struct sight *s) {
    if (c->action >= 0) return refuse_action(c->action, &s->seen->now, s->scene);
    const struct skill *k = &s->skills->skills[c->skill];
    if (!o->skills[c->skill]) return "that skill is not offered here";
    int argument[2] = {c->argument[0], c->argument[1]};
    const struct world *w = &s->seen->now;
    if (k->arguments == ARGUMENTS_ITEM && (argument[0] < 1 || argument[0] > w->bag_count)) return "the bag has no such row";
    if (k->arguments == ARGUMENTS_TILE) {
        if (argument[0] >= MAP_WIDTH || argument[1] >= MAP_HEIGHT) return "the map has no such tile";
        if (!(w->tiles[argument[1]][argument[0]].visibility & 1)) return "that tile is not known yet";
    }
    int first = skill_first_act(k, s->seen, s->map, s->scene, argument, NULL);
    return first < 0 ? "there is nothing to do for it here, or no way" : NULL;
}
