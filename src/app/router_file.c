#include "app/router_file.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <yaml.h>

#include "base/file.h"

enum { FILE_LIMIT = 65536 };

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

static int read_number(struct reader *r, const yaml_node_t *n, const char *key, double max, bool whole, double *out) {
    const char *text = text_of(n);
    char *end, what[120];
    errno = 0;
    *out = text ? strtod(text, &end) : 0;
    if (text && *text && !*end && !errno && isfinite(*out) && *out >= 0 && *out <= max && (!whole || *out == floor(*out))) return 0;
    snprintf(what, sizeof what, "%s: expected a %snumber from 0 to %g", key, whole ? "whole " : "", max);
    return complain(r, n, what);
}

static int read_count(struct reader *r, const yaml_node_t *n, const char *key, double max, int *out) {
    double x;
    int code = read_number(r, n, key, max, true, &x);
    if (!code) *out = (int)x;
    return code;
}

static int read_part(struct reader *r, const yaml_node_t *n, const char *key, float *out) {
    double x;
    int code = read_number(r, n, key, 1, false, &x);
    if (!code) *out = (float)x;
    return code;
}

static int read_models(struct reader *r, const yaml_node_t *n, struct router_file *f) {
    if (!n || n->type != YAML_SEQUENCE_NODE) return complain(r, n, "models: expected a list");
    for (const yaml_node_item_t *i = n->data.sequence.items.start; i < n->data.sequence.items.top; i++) {
        const yaml_node_t *item = yaml_document_get_node(&r->doc, *i);
        const char *text = text_of(item);
        if (f->model_count == ROUTER_RUNGS) return complain(r, item, "models: more than 6");
        if (!text || !*text || strlen(text) >= ROUTER_MODEL_NAME) return complain(r, item, "models: expected the name or the folder of a model");
        strcpy(f->models[f->model_count++], text);
    }
    return 0;
}

static int read_scenes(struct reader *r, const yaml_node_t *n, struct router_settings *s) {
    if (!n || n->type != YAML_MAPPING_NODE) return complain(r, n, "scenes: expected scene: rung");
    for (const yaml_node_pair_t *p = n->data.mapping.pairs.start; p < n->data.mapping.pairs.top; p++) {
        const yaml_node_t *key = yaml_document_get_node(&r->doc, p->key);
        const char *name = text_of(key);
        int scene = SCENE_TITLE, rung;
        while (name && scene < SCENE_COUNT && strcmp(name, scene_name[scene])) scene++;
        if (!name || scene == SCENE_COUNT) return complain(r, key, "scenes: expected title, field, dialogue, choice, stairs or menu");
        if (read_count(r, yaml_document_get_node(&r->doc, p->value), "scenes", ROUTER_RUNGS, &rung)) return ERR_FORMAT;
        s->scene_rung[scene] = rung - 1;
    }
    return 0;
}

static int read_calibration(struct reader *r, const yaml_node_t *n, struct router_file *f) {
    if (!n || n->type != YAML_MAPPING_NODE) return complain(r, n, "calibration: expected model: file");
    for (const yaml_node_pair_t *p = n->data.mapping.pairs.start; p < n->data.mapping.pairs.top; p++) {
        const yaml_node_t *key = yaml_document_get_node(&r->doc, p->key);
        const char *model = text_of(key), *path = text_of(yaml_document_get_node(&r->doc, p->value));
        if (f->calibration_count == ROUTER_RUNGS) return complain(r, key, "calibration: more than 6");
        if (!model || !path || strlen(model) >= ROUTER_MODEL_NAME || strlen(path) >= PATH_MAX) return complain(r, key, "calibration: expected model: file");
        strcpy(f->calibration[f->calibration_count].model, model);
        strcpy(f->calibration[f->calibration_count++].path, path);
    }
    return 0;
}

static int read_field(struct reader *r, const yaml_node_t *key, const yaml_node_t *value, struct router_file *f) {
    const char *name = text_of(key);
    struct router_settings *s = &f->settings;
    if (!name) return complain(r, key, "expected a key as text");
    if (!strcmp(name, "models")) return read_models(r, value, f);
    if (!strcmp(name, "max_loaded_models")) return read_count(r, value, name, ROUTER_RUNGS, &f->max_loaded);
    if (!strcmp(name, "fixed")) {
        int rung, code = read_count(r, value, name, ROUTER_RUNGS, &rung);
        if (!code) s->fixed = rung - 1;
        return code;
    }
    if (!strcmp(name, "decision_ms")) return read_number(r, value, name, 86400e3, false, &s->decision_ms);
    if (!strcmp(name, "ask_again_below")) return read_part(r, value, name, &s->ask_again_below);
    if (!strcmp(name, "up_below")) return read_part(r, value, name, &s->up_below);
    if (!strcmp(name, "down_above")) return read_part(r, value, name, &s->down_above);
    if (!strcmp(name, "hold")) return read_count(r, value, name, 1e6, &s->hold);
    if (!strcmp(name, "scenes")) return read_scenes(r, value, s);
    if (!strcmp(name, "calibration")) return read_calibration(r, value, f);
    char what[200];
    snprintf(what, sizeof what, "unknown key '%.40s' (known: models, max_loaded_models, fixed, decision_ms, ask_again_below, up_below, down_above, hold, "
             "scenes, calibration)", name);
    return complain(r, key, what);
}

static int read_document(struct reader *r, struct router_file *f) {
    const yaml_node_t *root = yaml_document_get_root_node(&r->doc);
    if (!root) return 0; /* nothing in it: all defaults */
    if (root->type != YAML_MAPPING_NODE) return complain(r, root, "expected keys and values (models: ..., hold: ...)");
    for (const yaml_node_pair_t *p = root->data.mapping.pairs.start; p < root->data.mapping.pairs.top; p++) {
        int code = read_field(r, yaml_document_get_node(&r->doc, p->key), yaml_document_get_node(&r->doc, p->value), f);
        if (code) return code;
    }
    if (f->settings.up_below >= f->settings.down_above) return complain(r, root, "up_below: expected less than down_above");
    return 0;
}

int router_file_parse(const char *text, size_t n, const char *name, struct router_file *out, struct err *err) {
    yaml_parser_t parser;
    struct reader r = {.file = name, .err = err};
    *out = (struct router_file){.settings = router_defaults, .max_loaded = 3};
    if (!yaml_parser_initialize(&parser)) return err_set(err, ERR_MEMORY, "%s: out of memory", name);
    yaml_parser_set_input_string(&parser, (const unsigned char *)text, n);
    int code;
    if (yaml_parser_load(&parser, &r.doc)) {
        code = read_document(&r, out);
        yaml_document_delete(&r.doc);
    } else {
        code = err_set(err, ERR_FORMAT, "%s line %zu: no YAML: %s", name, parser.problem_mark.line + 1, parser.problem ? parser.problem : "broken");
    }
    yaml_parser_delete(&parser);
    return code;
}

int router_file_read(const char *path, struct router_file *out, struct err *err) {
    struct buf text = {0};
    int code = file_read(path, FILE_LIMIT, &text, err);
    if (!code) code = router_file_parse(text.data ? text.data : "", text.len, path, out, err);
    buf_free(&text);
    return code;
}
