/* Skill files: YAML (libyaml), checked word by word. What a file may say is at the head of skills.h. A file is input from outside: sizes
 * are bounded, aliases are read like what they stand for, and every complaint names file and line. */
#include <dirent.h>
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <yaml.h>

#include "agent/skills.h"
#include "base/file.h"

enum { FILE_LIMIT = 65536, FOLDER_LIMIT = 256 };

struct reader {
    yaml_document_t doc;
    const char *file;
    struct err *err;
};

static int complain(struct reader *r, const yaml_node_t *n, const char *what) {
    return err_set(r->err, ERR_FORMAT, "%s line %zu: %s", r->file, n ? n->start_mark.line + 1 : 1, what);
}

static const char *text_of(const yaml_node_t *n) { /* NULL: no plain text, or it holds a NUL */
    if (!n || n->type != YAML_SCALAR_NODE) return NULL;
    const char *text = (const char *)n->data.scalar.value;
    return strlen(text) == n->data.scalar.length ? text : NULL;
}

static int read_text(struct reader *r, const yaml_node_t *n, const char *key, char *out, size_t cap) {
    const char *text = text_of(n);
    char what[120];
    if (!text || !*text || strlen(text) >= cap) {
        snprintf(what, sizeof what, "%s: expected a text of 1 to %zu bytes", key, cap - 1);
        return complain(r, n, what);
    }
    memcpy(out, text, strlen(text) + 1);
    return 0;
}

static int read_number(struct reader *r, const yaml_node_t *n, const char *key, int max, int *out) {
    const char *text = text_of(n);
    char *end, what[120];
    errno = 0;
    long v = text ? strtol(text, &end, 10) : 0;
    if (!text || !*text || *end || errno || v < 1 || v > max) {
        snprintf(what, sizeof what, "%s: expected a whole number from 1 to %d", key, max);
        return complain(r, n, what);
    }
    *out = (int)v;
    return 0;
}

/* The items of a list; NULL with a complaint. */
static const yaml_node_t *list_of(struct reader *r, const yaml_node_t *n, const char *key, int max) {
    char what[120];
    if (n && n->type == YAML_SEQUENCE_NODE && n->data.sequence.items.top - n->data.sequence.items.start <= max) return n;
    snprintf(what, sizeof what, "%s: expected a list of at most %d", key, max);
    return complain(r, n, what), NULL;
}
static int list_count(const yaml_node_t *n) { return (int)(n->data.sequence.items.top - n->data.sequence.items.start); }
static yaml_node_t *list_item(struct reader *r, const yaml_node_t *n, int i) {
    return yaml_document_get_node(&r->doc, n->data.sequence.items.start[i]);
}

static int read_conditions(struct reader *r, const yaml_node_t *n, const char *key, struct conditions *out) {
    char problem[160];
    const yaml_node_t *list = list_of(r, n, key, MAX_CONDITIONS);
    if (!list) return ERR_FORMAT;
    for (int i = 0; i < list_count(list); i++) {
        const yaml_node_t *item = list_item(r, list, i);
        const char *text = text_of(item);
        if (!text) return complain(r, item, "expected a condition as text");
        if (!condition_parse(text, &out->all[out->count++], problem, sizeof problem)) return complain(r, item, problem);
    }
    return 0;
}

static int read_scenes(struct reader *r, const yaml_node_t *n, uint32_t *out) {
    const yaml_node_t *list = list_of(r, n, "scenes", SCENE_COUNT);
    if (!list) return ERR_FORMAT;
    for (int i = 0; i < list_count(list); i++) {
        const char *text = text_of(list_item(r, list, i));
        int scene = text ? scene_by_word(text) : -1;
        if (scene < 0) return complain(r, list_item(r, list, i), "expected title, field, dialogue, choice, stairs_prompt or menu");
        *out |= 1u << scene;
    }
    return 0;
}

static int read_arguments(struct reader *r, const yaml_node_t *n, enum skill_arguments *out) {
    const yaml_node_t *list = list_of(r, n, "arguments", 2);
    if (!list) return ERR_FORMAT;
    const char *a = list_count(list) > 0 ? text_of(list_item(r, list, 0)) : NULL, *b = list_count(list) > 1 ? text_of(list_item(r, list, 1)) : NULL;
    if (!list_count(list)) *out = ARGUMENTS_NONE;
    else if (a && b && !strcmp(a, "x") && !strcmp(b, "y")) *out = ARGUMENTS_TILE;
    else if (a && list_count(list) == 1 && !strcmp(a, "item")) *out = ARGUMENTS_ITEM;
    else return complain(r, n, "arguments: expected [x, y], [item] or none");
    return 0;
}

static int read_limits(struct reader *r, const yaml_node_t *n, struct skill *k) {
    if (!n || n->type != YAML_MAPPING_NODE) return complain(r, n, "limits: expected {turns: N, acts: N}");
    for (const yaml_node_pair_t *p = n->data.mapping.pairs.start; p < n->data.mapping.pairs.top; p++) {
        const yaml_node_t *key = yaml_document_get_node(&r->doc, p->key), *value = yaml_document_get_node(&r->doc, p->value);
        const char *name = text_of(key);
        int code;
        if (name && !strcmp(name, "turns")) code = read_number(r, value, name, 1000, &k->turns);
        else if (name && !strcmp(name, "acts")) code = read_number(r, value, name, 1000, &k->acts);
        else return complain(r, key, "limits: expected turns or acts");
        if (code) return code;
    }
    return 0;
}

static int read_rule(struct reader *r, const yaml_node_t *n, struct rule *out) {
    bool what = false;
    char problem[120];
    *out = (struct rule){.act = -1};
    if (!n || n->type != YAML_MAPPING_NODE) return complain(r, n, "steps: expected {if: [...], do: ACT} or {if: [...], walk: TARGET}");
    for (const yaml_node_pair_t *p = n->data.mapping.pairs.start; p < n->data.mapping.pairs.top; p++) {
        const yaml_node_t *key = yaml_document_get_node(&r->doc, p->key), *value = yaml_document_get_node(&r->doc, p->value);
        const char *name = text_of(key), *word = text_of(value);
        if (name && !strcmp(name, "if")) {
            if (read_conditions(r, value, "if", &out->when)) return ERR_FORMAT;
        } else if (name && (!strcmp(name, "do") || !strcmp(name, "walk")) && !what) {
            what = true;
            if (*name == 'd') out->act = word ? act_by_name(word) : -1;
            else out->target = word ? target_by_name(word) : TARGET_NONE;
            if (*name == 'd' ? out->act < 0 : out->target == TARGET_NONE) {
                snprintf(problem, sizeof problem, "'%.40s' is no %s (the words are in src/agent/skill_words.c)", word ? word : "", *name == 'd' ? "act" : "target");
                return complain(r, value, problem);
            }
        } else {
            return complain(r, key, "steps: expected if, and one of do and walk");
        }
    }
    return what ? 0 : complain(r, n, "steps: a step has neither do nor walk");
}

static int read_rules(struct reader *r, const yaml_node_t *n, struct skill *k) {
    const yaml_node_t *list = list_of(r, n, "steps", MAX_RULES);
    if (!list) return ERR_FORMAT;
    for (int i = 0; i < list_count(list); i++) {
        if (read_rule(r, list_item(r, list, i), &k->rules[k->rule_count++])) return ERR_FORMAT;
    }
    return 0;
}

static int read_field(struct reader *r, const yaml_node_t *key, const yaml_node_t *value, struct skill *k) {
    const char *name = text_of(key);
    if (!name) return complain(r, key, "expected a key as text");
    if (!strcmp(name, "name")) return read_text(r, value, name, k->name, sizeof k->name);
    if (!strcmp(name, "description")) return read_text(r, value, name, k->description, sizeof k->description);
    if (!strcmp(name, "arguments")) return read_arguments(r, value, &k->arguments);
    if (!strcmp(name, "when")) return read_conditions(r, value, name, &k->when);
    if (!strcmp(name, "scenes")) return read_scenes(r, value, &k->scenes);
    if (!strcmp(name, "steps")) return read_rules(r, value, k);
    if (!strcmp(name, "until")) return read_conditions(r, value, name, &k->until);
    if (!strcmp(name, "interrupt")) return read_conditions(r, value, name, &k->interrupt);
    if (!strcmp(name, "success")) return read_conditions(r, value, name, &k->success);
    if (!strcmp(name, "limits")) return read_limits(r, value, k);
    char what[120];
    snprintf(what, sizeof what, "unknown key '%.40s' (known: name, description, arguments, when, scenes, steps, until, interrupt, success, limits)", name);
    return complain(r, key, what);
}

static int read_skill(struct reader *r, struct skill *k) {
    const yaml_node_t *root = yaml_document_get_root_node(&r->doc);
    bool seen[16] = {false};
    static const char *const keys[] = {"name", "description", "arguments", "when", "scenes", "steps", "until", "interrupt", "success", "limits"};
    if (!root || root->type != YAML_MAPPING_NODE) return complain(r, root, "expected keys and values (name: ..., steps: ...)");
    for (const yaml_node_pair_t *p = root->data.mapping.pairs.start; p < root->data.mapping.pairs.top; p++) {
        const yaml_node_t *key = yaml_document_get_node(&r->doc, p->key);
        const char *name = text_of(key);
        for (size_t i = 0; name && i < sizeof keys / sizeof *keys; i++) {
            if (strcmp(name, keys[i])) continue;
            if (seen[i]) return complain(r, key, "a key stands twice");
            seen[i] = true;
        }
        if (read_field(r, key, yaml_document_get_node(&r->doc, p->value), k)) return ERR_FORMAT;
    }
    if (!*k->name || !*k->description || !k->when.count || !k->rule_count) return complain(r, root, "name, description, when and steps are needed");
    for (const char *c = k->name; *c; c++) {
        if (!(*c >= 'a' && *c <= 'z') && !(*c >= '0' && *c <= '9') && *c != '_') return complain(r, root, "name: small letters, digits and _ only");
    }
    return 0;
}

int skill_parse(const char *text, size_t n, const char *file, struct skill *out, struct err *err) {
    yaml_parser_t parser;
    struct err local;
    struct reader r = {.file = file, .err = err ? err : &local};
    *out = (struct skill){.turns = SKILL_TURNS, .acts = SKILL_ACTS};
    if (n > FILE_LIMIT) return err_set(r.err, ERR_LIMIT, "%s: larger than %d bytes", file, FILE_LIMIT);
    if (!yaml_parser_initialize(&parser)) return err_set(r.err, ERR_MEMORY, "%s: out of memory", file);
    yaml_parser_set_input_string(&parser, (const unsigned char *)text, n);
    int code;
    if (!yaml_parser_load(&parser, &r.doc)) {
        code = err_set(r.err, ERR_FORMAT, "%s line %zu: %s", file, parser.problem_mark.line + 1, parser.problem ? parser.problem : "no YAML");
    } else {
        code = read_skill(&r, out) ? ERR_FORMAT : 0;
        yaml_document_delete(&r.doc);
    }
    yaml_parser_delete(&parser);
    return code;
}

int skill_find(const struct skill_set *s, const char *name) {
    for (int i = 0; i < s->count; i++) {
        if (!strcmp(s->skills[i].name, name)) return i;
    }
    return -1;
}

static int load_one(const char *folder, const char *name, struct skill_set *s, struct err *err) {
    char path[PATH_MAX];
    struct buf text = {0};
    if (s->count == MAX_SKILLS) return err_set(err, ERR_LIMIT, "%s: more than %d skills", folder, MAX_SKILLS);
    snprintf(path, sizeof path, "%s/%.64s.yaml", folder, name);
    struct skill *k = &s->skills[s->count];
    int code = file_read(path, FILE_LIMIT, &text, err);
    if (!code) code = skill_parse(text.data ? text.data : "", text.len, path, k, err);
    buf_free(&text);
    if (code) return code;
    if (strcmp(k->name, name)) return err_set(err, ERR_FORMAT, "%s: the skill's name is '%s'; a file has the name of its skill", path, k->name);
    if (skill_find(s, name) >= 0) return err_set(err, ERR_FORMAT, "%s: the skill '%s' is asked for twice", folder, name);
    s->names[s->count++] = k->name;
    return 0;
}

static int by_name(const void *a, const void *b) { return strcmp(*(char *const *)a, *(char *const *)b); }

/* All of the folder that are not there yet, by name. */
static int load_others(const char *folder, struct skill_set *s, struct err *err) {
    char *names[FOLDER_LIMIT];
    int n = 0, code = 0;
    DIR *d = opendir(folder);
    if (!d) return err_set(err, ERR_IO, "%s: cannot read the folder of skills: %s", folder, strerror(errno));
    for (struct dirent *e; (e = readdir(d)) && n < FOLDER_LIMIT;) {
        size_t length = strlen(e->d_name);
        if (length < 6 || strcmp(e->d_name + length - 5, ".yaml") || *e->d_name == '.') continue;
        if ((names[n] = strndup(e->d_name, length - 5))) n++;
    }
    closedir(d);
    qsort(names, (size_t)n, sizeof *names, by_name);
    for (int i = 0; i < n; i++) {
        if (!code && skill_find(s, names[i]) < 0) code = load_one(folder, names[i], s, err);
        free(names[i]);
    }
    if (!code && !s->count) code = err_set(err, ERR_FORMAT, "%s: no skill (NAME.yaml) in it", folder);
    return code;
}

int skill_set_load(const char *folder, const char *names, struct skill_set *out, struct err *err) {
    *out = (struct skill_set){0};
    while (names && *names) {
        char name[SKILL_NAME + 1];
        size_t n = strcspn(names, " \t");
        if (n > SKILL_NAME) return err_set(err, ERR_FORMAT, "'%.*s' is no name of a skill", 40, names);
        memcpy(name, names, n);
        name[n] = 0;
        if (n && strchr(name, '/')) return err_set(err, ERR_FORMAT, "'%s' is no name of a skill", name);
        int code = n ? load_one(folder, name, out, err) : 0;
        if (code) return code;
        names += n + (names[n] != 0);
    }
    int named = out->count, code = load_others(folder, out, err);
    out->offered = named ? named : out->count;
    return code;
}
