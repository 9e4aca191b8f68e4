#include "agent/perceive.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "agent/home.h"
#include "base/json.h"

/* Fields in the order of enum perception_field. */
static const int most[PERCEPTION_FIELDS] = {99, 999, 16, 32, 1, 1, 1};

static bool shown(struct point leader, struct point p) { /* by pmd-red.md section 7: a third of a tile at least, below the status line */
    int dx = p.x - leader.x, dy = p.y - leader.y;
    return dx >= -5 && dx <= 5 && dy >= -3 && dy <= 3;
}

static bool text_scene(enum scene s) { return s == SCENE_DIALOGUE || s == SCENE_CHOICE; }

static void forget_field(int truth[PERCEPTION_FIELDS]) {
    truth[PERCEIVE_FLOOR] = truth[PERCEIVE_HP] = truth[PERCEIVE_FOES] = truth[PERCEIVE_ITEMS] = truth[PERCEIVE_STAIRS] = PERCEPTION_NONE;
}

void perception_of_world(const struct world *w, int truth[PERCEPTION_FIELDS]) {
    enum scene scene = scene_of(w);
    const struct monster *l = world_leader(w);
    truth[PERCEIVE_TEXT] = text_scene(scene);
    truth[PERCEIVE_MENU] = scene == SCENE_MENU || scene == SCENE_STAIRS;
    forget_field(truth);
    if (!l || scene != SCENE_FIELD) return; /* boxes hide parts of the field: nobody can be asked what is below */
    truth[PERCEIVE_FLOOR] = w->floor;
    truth[PERCEIVE_HP] = l->hp;
    truth[PERCEIVE_FOES] = truth[PERCEIVE_ITEMS] = 0;
    for (int i = 0; i < w->foe_count; i++) truth[PERCEIVE_FOES] += shown(l->at, w->foes[i].at);
    for (int i = 0; i < w->item_count; i++) truth[PERCEIVE_ITEMS] += shown(l->at, w->items[i].at) && !foe_at(w, w->items[i].at.x, w->items[i].at.y);
    truth[PERCEIVE_STAIRS] = w->stairs.x >= 0 && shown(l->at, w->stairs);
}

static struct point place_of(const struct json *thing) {
    return (struct point){(int16_t)json_as_integer(json_get(thing, "x"), -100), (int16_t)json_as_integer(json_get(thing, "y"), -100)};
}

static int count_shown(const struct json *list, struct point leader) {
    int n = 0;
    for (uint32_t i = 0; list && list->type == JSON_ARRAY && i < list->count; i++) n += shown(leader, place_of(list->items[i]));
    return n;
}

void perception_of_entry(const struct json *world, const char *scene, int truth[PERCEPTION_FIELDS]) {
    const struct json *team = json_get(world, "team");
    int64_t leader = json_as_integer(json_get(world, "leader"), -1);
    bool field = !strcmp(scene, "field") && team && team->type == JSON_ARRAY && leader >= 0 && leader < team->count;
    truth[PERCEIVE_TEXT] = !strcmp(scene, "dialogue") || !strcmp(scene, "choice");
    truth[PERCEIVE_MENU] = !strcmp(scene, "menu") || !strcmp(scene, "stairs");
    forget_field(truth);
    if (!field) return;
    const struct json *l = team->items[leader];
    struct point at = place_of(l);
    truth[PERCEIVE_FLOOR] = (int)json_as_integer(json_get(json_get(world, "dungeon"), "floor"), PERCEPTION_NONE);
    truth[PERCEIVE_HP] = (int)json_as_integer(json_get(l, "hp"), PERCEPTION_NONE);
    truth[PERCEIVE_FOES] = count_shown(json_get(world, "foes"), at);
    truth[PERCEIVE_ITEMS] = count_shown(json_get(world, "items"), at);
    truth[PERCEIVE_STAIRS] = shown(at, place_of(json_get(world, "stairs")));
}

/* ---- asking ---------------------------------------------------------------------------------------------------------------------- */

int perceiver_open(struct perceiver *p, const char *prompt_file, struct asker *asker, struct err *err) {
    char path[4096];
    *p = (struct perceiver){.asker = asker};
    return prompt_template_load(prompt_file ? prompt_file : home_file(HOME_PERCEIVE_PROMPT, path, sizeof path), &p->prompt, err);
}

void perceiver_close(struct perceiver *p) { prompt_template_free(&p->prompt); }

static void put_schema(struct buf *out) {
    buf_str(out, "{\"type\":\"object\",\"properties\":{");
    for (int i = 0; i < PERCEPTION_FIELDS; i++) {
        buf_printf(out, "%s\"%s\":", i ? "," : "", perception_name[i]);
        if (most[i] > 1) buf_printf(out, "{\"type\":\"integer\",\"minimum\":0,\"maximum\":%d}", most[i]);
        else buf_str(out, "{\"type\":\"boolean\"}");
    }
    buf_str(out, "},\"required\":[");
    for (int i = 0; i < PERCEPTION_FIELDS; i++) buf_printf(out, "%s\"%s\"", i ? "," : "", perception_name[i]);
    buf_str(out, "],\"additionalProperties\":false}");
}

static void read_answer(const char *text, int said[PERCEPTION_FIELDS]) {
    struct arena arena = {0};
    const struct json *root = json_parse(text, strlen(text), "answer", &arena, NULL);
    for (int i = 0; i < PERCEPTION_FIELDS; i++) {
        const struct json *v = json_get(root, perception_name[i]);
        if (most[i] == 1) said[i] = v && v->type == JSON_BOOL ? v->boolean : PERCEPTION_NONE;
        else said[i] = (int)json_as_integer(v, PERCEPTION_NONE);
    }
    arena_free(&arena);
}

void perceiver_ask(struct perceiver *p, const uint8_t *rgb, int width, int height, uint64_t seed, int said[PERCEPTION_FIELDS], char *text, size_t cap,
                   double *seconds, int64_t *tokens) {
    struct buf schema = {0};
    struct answer r = {.action = -1};
    for (int i = 0; i < PERCEPTION_FIELDS; i++) said[i] = PERCEPTION_NONE;
    put_schema(&schema);
    struct question q = {.system = p->prompt.system[SCENE_FIELD], .prompt = p->prompt.user, .rgb = rgb, .width = width, .height = height,
                         .schema = schema.data, .seed = seed};
    if (!schema.failed) asker_question(p->asker, &q, &r);
    buf_free(&schema);
    if (r.text) read_answer(r.text, said);
    if (text) snprintf(text, cap, "%s", r.text ? r.text : r.reason);
    if (seconds) *seconds += r.total_ms / 1e3;
    if (tokens) *tokens += r.computed_tokens;
    answer_free(&r);
}
