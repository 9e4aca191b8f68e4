#include "record/counts.h"

#include <stddef.h>
#include <stdio.h>
#include <string.h>

/* The numbers of struct part_counts by name; "stuck" is a list of its own. */
static const struct { const char *name; size_t at; } part_fields[] = {
    {"refused", offsetof(struct part_counts, refused)},   {"corrected", offsetof(struct part_counts, corrected)},
    {"escalated", offsetof(struct part_counts, escalated)}, {"prompt_changed", offsetof(struct part_counts, prompt_changed)},
    {"forced", offsetof(struct part_counts, forced)},     {"safeguards", offsetof(struct part_counts, safeguards)},
    {"restored", offsetof(struct part_counts, restored)},
};
enum { PART_FIELDS = sizeof part_fields / sizeof *part_fields, STUCK_KINDS = 5 };
static const char *const stuck_kinds[STUCK_KINDS] = {NULL, "same_state", "to_and_fro", "nothing_new", "text"};

static int *field(struct part_counts *p, int i) { return (int *)((char *)p + part_fields[i].at); }

void count_skill(struct skill_count *skills, int *count, const char *name, int used, int succeeded) {
    int i = 0;
    while (i < *count && strcmp(skills[i].name, name)) i++;
    if (i == SKILL_COUNTS) return;
    if (i == *count) {
        skills[i] = (struct skill_count){0};
        snprintf(skills[(*count)++].name, sizeof skills->name, "%s", name);
    }
    skills[i].used += used;
    skills[i].succeeded += succeeded;
}

void parts_join(struct part_counts *to, const struct part_counts *more) {
    struct part_counts parts = *more;
    for (int i = 0; i < PART_FIELDS; i++) *field(to, i) += *field(&parts, i);
    for (int i = 0; i < STUCK_KINDS; i++) to->stuck[i] += parts.stuck[i];
}

void episode_result_join(struct episode_result *to, const struct episode_result *before) {
    to->turns += before->turns;
    to->decisions += before->decisions;
    to->tokens += before->tokens;
    to->model_seconds += before->model_seconds;
    for (int i = 0; i < DECIDED_BY_COUNT; i++) to->decided[i] += before->decided[i], to->turns_by[i] += before->turns_by[i];
    for (int i = 0; i < before->skill_count; i++) {
        count_skill(to->skills, &to->skill_count, before->skills[i].name, before->skills[i].used, before->skills[i].succeeded);
    }
    parts_join(&to->parts, &before->parts);
}

void counts_add(struct run_counts *c, const struct episode_result *r) {
    parts_join(&c->parts, &r->parts);
    for (int i = 0; i < DECIDED_BY_COUNT; i++) c->turns_by[i] += r->turns_by[i];
    for (int i = 0; i < PERCEPTION_FIELDS; i++) {
        c->perception.asked[i] += r->perception.asked[i];
        c->perception.agreed[i] += r->perception.agreed[i];
    }
    for (int i = 0; i < r->skill_count; i++) count_skill(c->skills, &c->skill_count, r->skills[i].name, r->skills[i].used, r->skills[i].succeeded);
}

/* Only when it was asked for. */
static void perception_json(const struct perception_score *s, struct buf *out) {
    if (!s->asked[PERCEIVE_TEXT]) return;
    buf_str(out, ",\"perception\":{");
    for (int i = 0; i < PERCEPTION_FIELDS; i++) {
        buf_printf(out, "%s\"%s\":{\"asked\":%d,\"agreed\":%d}", i ? "," : "", perception_name[i], s->asked[i], s->agreed[i]);
    }
    buf_char(out, '}');
}

void counts_json(const struct run_counts *c, struct buf *out) {
    struct part_counts parts = c->parts;
    buf_str(out, ",\"turns_by\":{");
    for (int i = 0; i < DECIDED_BY_COUNT; i++) buf_printf(out, "%s\"%s\":%lld", i ? "," : "", decided_by_name[i], c->turns_by[i]);
    buf_str(out, "},\"parts\":{");
    for (int i = 0; i < PART_FIELDS; i++) buf_printf(out, "%s\"%s\":%d", i ? "," : "", part_fields[i].name, *field(&parts, i));
    buf_str(out, ",\"stuck\":{");
    for (int i = 1; i < STUCK_KINDS; i++) buf_printf(out, "%s\"%s\":%d", i > 1 ? "," : "", stuck_kinds[i], parts.stuck[i]);
    buf_str(out, "}},\"skills\":{");
    for (int i = 0; i < c->skill_count; i++) {
        if (i) buf_char(out, ',');
        buf_json_string(out, c->skills[i].name, strlen(c->skills[i].name));
        buf_printf(out, ":{\"used\":%d,\"succeeded\":%d}", c->skills[i].used, c->skills[i].succeeded);
    }
    buf_char(out, '}');
    perception_json(&c->perception, out);
}

void counts_read(const struct json *object, struct episode_result *out) {
    const struct json *turns = json_get(object, "turns_by"), *parts = json_get(object, "parts"), *stuck = json_get(parts, "stuck"), *skills = json_get(object, "skills");
    for (int i = 0; i < DECIDED_BY_COUNT; i++) out->turns_by[i] = (int)json_as_integer(json_get(turns, decided_by_name[i]), 0);
    for (int i = 0; i < PART_FIELDS; i++) *field(&out->parts, i) = (int)json_as_integer(json_get(parts, part_fields[i].name), 0);
    for (int i = 1; i < STUCK_KINDS; i++) out->parts.stuck[i] = (int)json_as_integer(json_get(stuck, stuck_kinds[i]), 0);
    for (uint32_t i = 0; skills && skills->type == JSON_OBJECT && i < skills->count; i++) {
        const struct json *v = skills->members[i].value;
        count_skill(out->skills, &out->skill_count, skills->members[i].key, (int)json_as_integer(json_get(v, "used"), 0),
                    (int)json_as_integer(json_get(v, "succeeded"), 0));
    }
    const struct json *perception = json_get(object, "perception");
    for (int i = 0; i < PERCEPTION_FIELDS; i++) {
        const struct json *v = json_get(perception, perception_name[i]);
        out->perception.asked[i] = (int)json_as_integer(json_get(v, "asked"), 0);
        out->perception.agreed[i] = (int)json_as_integer(json_get(v, "agreed"), 0);
    }
}
