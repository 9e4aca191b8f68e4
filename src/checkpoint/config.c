/* Reads the three configuration files of a checkpoint (facts §1.2, §2.3, §5.1, §6.5).
 *
 * The idea: unknown keys are ignored (4B and 8B files have some that nobody has listed), known keys are checked so that
 * no later product of two of them can overflow and no later division meets a zero. Both generations of spellings are
 * accepted: rope_parameters, or rope_scaling beside rope_theta. What would silently compute something else (another
 * architecture, another activation, YaRN, another FP8 block) is refused by name. */
#include "checkpoint/config.h"

#include <limits.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/file.h"
#include "checkpoint/fields.h"

enum { CONFIG_FILE_LIMIT = 16 << 20 };

static int refuse_value(const struct fields *f, const char *key, const char *expected, struct err *err) {
    char found[64];
    return err_set(err, ERR_FORMAT, "%s: %s%s: expected %s, found %s", f->file, f->prefix, key, expected,
                   field_describe(json_get(f->object, key), found, sizeof found));
}

/* A list of 1..cap integers within [low, high]. */
static int read_int_list(const struct fields *f, const char *key, int64_t low, int64_t high, int *out, int cap, int *count,
                         struct err *err) {
    const struct json *v = json_get(f->object, key);
    char expected[96];
    snprintf(expected, sizeof expected, "at most %d integers from %lld to %lld", cap, (long long)low, (long long)high);
    if (!v || v->type != JSON_ARRAY || v->count > (uint32_t)cap) return refuse_value(f, key, expected, err);
    for (uint32_t i = 0; i < v->count; i++) {
        int64_t n = json_as_integer(v->items[i], INT64_MIN);
        if (n < low || n > high) {
            char found[64], path[96];
            snprintf(path, sizeof path, "%s%s[%u]", f->prefix, key, i);
            return err_set(err, ERR_FORMAT, "%s: %s: expected an integer from %lld to %lld, found %s", f->file, path,
                           (long long)low, (long long)high, field_describe(v->items[i], found, sizeof found));
        }
        out[i] = (int)n;
    }
    *count = (int)v->count;
    return 0;
}

static int read_rope(const struct fields *text, struct text_config *t, struct err *err) {
    struct fields rope;
    int code = field_object(text, "rope_parameters", "text_config.rope_parameters.", false, &rope, err);
    if (code == 0 && !rope.object) code = field_object(text, "rope_scaling", "text_config.rope_scaling.", false, &rope, err);
    if (code) return code;
    const struct fields *theta = json_get(rope.object, "rope_theta") ? &rope : text;
    if ((code = field_number(theta, "rope_theta", true, 1.0, 1e12, &t->rope_theta, err))) return code;

    t->mrope_section[0] = 24, t->mrope_section[1] = 20, t->mrope_section[2] = 20; /* the class default */
    if (rope.object) {
        bool interleaved = true;
        if ((code = field_must_be(&rope, "rope_type", "default", err))) return code;
        /* The oldest spelling; "mrope" there means the same thing. */
        const struct json *type = json_get(rope.object, "type");
        if (type && strcmp(json_as_string(type, ""), "default") != 0 && strcmp(json_as_string(type, ""), "mrope") != 0)
            return refuse_value(&rope, "type", "\"default\"", err);
        if ((code = field_bool(&rope, "mrope_interleaved", &interleaved, err))) return code;
        if (!interleaved) return refuse_value(&rope, "mrope_interleaved", "true", err);
        if (json_get(rope.object, "mrope_section")) {
            int count = 0;
            if ((code = read_int_list(&rope, "mrope_section", 0, 512, t->mrope_section, 3, &count, err))) return code;
            if (count != 3) return refuse_value(&rope, "mrope_section", "a list of 3", err);
        }
    }
    int sum = t->mrope_section[0] + t->mrope_section[1] + t->mrope_section[2];
    if (sum != t->head_dim / 2)
        return err_set(err, ERR_FORMAT, "%s: text_config mrope_section: expected a sum of head_dim / 2 = %d, found %d + %d + %d",
                       text->file, t->head_dim / 2, t->mrope_section[0], t->mrope_section[1], t->mrope_section[2]);
    return 0;
}

static int read_text(const struct fields *top, struct text_config *t, struct err *err) {
    struct fields f;
    int code;
    if ((code = field_object(top, "text_config", "text_config.", true, &f, err)) ||
        (code = field_must_be(&f, "model_type", "qwen3_vl_text", err)) ||
        (code = field_int(&f, "num_hidden_layers", true, 1, 512, &t->layers, err)) ||
        (code = field_int(&f, "hidden_size", true, 2, 65536, &t->hidden, err)) ||
        (code = field_int(&f, "num_attention_heads", true, 1, 1024, &t->heads, err)))
        return code;
    t->kv_heads = t->heads;
    if ((code = field_int(&f, "num_key_value_heads", false, 1, t->heads, &t->kv_heads, err))) return code;
    if (t->heads % t->kv_heads != 0)
        return err_set(err, ERR_FORMAT,
                       "%s: text_config.num_key_value_heads: expected a divisor of num_attention_heads %d, found %d", f.file,
                       t->heads, t->kv_heads);
    t->head_dim = t->hidden / t->heads;
    if ((code = field_int(&f, "head_dim", false, 2, 1024, &t->head_dim, err))) return code;
    if (t->head_dim < 2 || t->head_dim % 2 != 0)
        return err_set(err, ERR_FORMAT, "%s: text_config.head_dim: expected an even number from 2 to 1024, found %d", f.file,
                       t->head_dim);
    bool bias = false;
    double eps = 1e-6;
    t->max_positions = 262144;
    t->tied = false;
    if ((code = field_int(&f, "intermediate_size", true, 1, 1 << 20, &t->intermediate, err)) ||
        (code = field_int(&f, "vocab_size", true, 1, 1 << 22, &t->vocab, err)) ||
        (code = field_number(&f, "rms_norm_eps", false, 1e-12, 0.1, &eps, err)) ||
        (code = field_must_be(&f, "hidden_act", "silu", err)) || (code = field_bool(&f, "attention_bias", &bias, err)) ||
        (code = field_int64(&f, "max_position_embeddings", false, 1, 1 << 24, &t->max_positions, err)) ||
        (code = field_bool(top, "tie_word_embeddings", &t->tied, err)))
        return code;
    /* 4.57-era files say it at both levels; the top level is the one that transformers follows. */
    if (!json_get(top->object, "tie_word_embeddings") && (code = field_bool(&f, "tie_word_embeddings", &t->tied, err)))
        return code;
    if (bias) return refuse_value(&f, "attention_bias", "false", err);
    t->rms_eps = (float)eps;
    return read_rope(&f, t, err);
}

static int check_vision(const struct fields *f, const struct vision_config *v, const struct text_config *t, struct err *err) {
    if (v->hidden % v->heads != 0 || v->hidden / v->heads % 4 != 0)
        return err_set(err, ERR_FORMAT, "%s: vision_config.hidden_size: expected num_heads %d times a multiple of 4, found %d",
                       f->file, v->heads, v->hidden);
    int side = (int)lround(sqrt((double)v->positions));
    if (side * side != v->positions)
        return err_set(err, ERR_FORMAT, "%s: vision_config.num_position_embeddings: expected a square number, found %d", f->file,
                       v->positions);
    if (v->out_hidden != t->hidden)
        return err_set(err, ERR_FORMAT, "%s: vision_config.out_hidden_size: expected text_config.hidden_size %d, found %d",
                       f->file, t->hidden, v->out_hidden);
    for (int i = 0; i < v->deepstack_count; i++)
        if (v->deepstack[i] >= v->depth || (i && v->deepstack[i] <= v->deepstack[i - 1]))
            return err_set(err, ERR_FORMAT,
                           "%s: vision_config.deepstack_visual_indexes[%d]: expected ascending block numbers below %d, found %d",
                           f->file, i, v->depth, v->deepstack[i]);
    if (v->deepstack_count > t->layers)
        return err_set(err, ERR_FORMAT, "%s: vision_config.deepstack_visual_indexes: expected at most %d (text layers), found %d",
                       f->file, t->layers, v->deepstack_count);
    return 0;
}

static int read_vision(const struct fields *top, const struct text_config *t, struct vision_config *v, struct err *err) {
    struct fields f;
    int code;
    v->temporal_patch = 2, v->merge = 2, v->channels = 3;
    if ((code = field_object(top, "vision_config", "vision_config.", true, &f, err)) ||
        (code = field_int(&f, "depth", true, 1, 512, &v->depth, err)) ||
        (code = field_int(&f, "hidden_size", true, 4, 65536, &v->hidden, err)) ||
        (code = field_int(&f, "num_heads", true, 1, 1024, &v->heads, err)) ||
        (code = field_int(&f, "intermediate_size", true, 1, 1 << 20, &v->intermediate, err)) ||
        (code = field_int(&f, "patch_size", true, 1, 256, &v->patch, err)) ||
        (code = field_int(&f, "temporal_patch_size", false, 1, 16, &v->temporal_patch, err)) ||
        (code = field_int(&f, "spatial_merge_size", false, 1, 16, &v->merge, err)) ||
        (code = field_int(&f, "in_channels", false, 3, 3, &v->channels, err)) ||
        (code = field_int(&f, "num_position_embeddings", true, 1, 1 << 24, &v->positions, err)) ||
        (code = field_int(&f, "out_hidden_size", true, 1, 65536, &v->out_hidden, err)) ||
        (code = field_must_be(&f, "hidden_act", "gelu_pytorch_tanh", err)) ||
        (code =
             read_int_list(&f, "deepstack_visual_indexes", 0, 511, v->deepstack, CONFIG_MAX_DEEPSTACK, &v->deepstack_count, err)))
        return code;
    return check_vision(&f, v, t, err);
}

static int read_quantisation(const struct fields *top, char *method, size_t size, struct err *err) {
    struct fields f;
    int code = field_object(top, "quantization_config", "quantization_config.", false, &f, err);
    if (code || !f.object) return code;
    const char *name = json_as_string(json_get(f.object, "quant_method"), "");
    if (strcmp(name, "fp8") == 0) {
        int block[2] = {128, 128}, count = 2;
        if (json_get(f.object, "weight_block_size") &&
            (code = read_int_list(&f, "weight_block_size", 1, 1 << 20, block, 2, &count, err)))
            return code;
        if (count != 2 || block[0] != 128 || block[1] != 128) return refuse_value(&f, "weight_block_size", "[128, 128]", err);
        if ((code = field_must_be(&f, "fmt", "e4m3", err))) return code;
    } else if (strcmp(name, "bitsandbytes") == 0) {
        if ((code = field_must_be(&f, "bnb_4bit_quant_type", "nf4", err))) return code;
    } else {
        return refuse_value(&f, "quant_method", "\"fp8\" or \"bitsandbytes\"", err);
    }
    snprintf(method, size, "%s", name);
    return 0;
}

/* preprocessor_config.json and video_preprocessor_config.json share their keys. Newer saves put both into
 * processor_config.json, as members; a file of its own wins. */
static int read_image(const char *folder, const char *name, const char *member, const struct vision_config *v,
                      struct image_config *out, struct err *err) {
    char path[PATH_MAX];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    bool own = file_exists(path);
    if (!own) snprintf(path, sizeof path, "%s/processor_config.json", folder);
    if (!file_exists(path)) return 0;
    struct arena arena = {0};
    struct fields top = {path, "", json_parse_file(path, CONFIG_FILE_LIMIT, &arena, err)}, size = {0};
    int code = top.object ? 0 : ERR_FORMAT;
    if (!code && !own) code = field_object(&top, member, "", false, &top, err);
    int patch = v->patch, temporal = v->temporal_patch, merge = v->merge;
    if (!code) code = field_object(&top, "size", "size.", false, &size, err);
    if (!code) code = field_int64(&size, "shortest_edge", false, 1, (int64_t)1 << 40, &out->min_pixels, err);
    if (!code) code = field_int64(&size, "longest_edge", false, 1, (int64_t)1 << 40, &out->max_pixels, err);
    if (!code) code = field_int64(&top, "min_pixels", false, 1, (int64_t)1 << 40, &out->min_pixels, err);
    if (!code) code = field_int64(&top, "max_pixels", false, 1, (int64_t)1 << 40, &out->max_pixels, err);
    if (!code) code = field_int(&top, "patch_size", false, v->patch, v->patch, &patch, err);
    if (!code) code = field_int(&top, "temporal_patch_size", false, v->temporal_patch, v->temporal_patch, &temporal, err);
    if (!code) code = field_int(&top, "merge_size", false, v->merge, v->merge, &merge, err);
    if (!code && out->min_pixels > out->max_pixels)
        code = err_set(err, ERR_FORMAT, "%s: size: expected shortest_edge <= longest_edge, found %lld > %lld", path,
                       (long long)out->min_pixels, (long long)out->max_pixels);
    for (int which = 0; which < 2 && !code; which++) {
        const char *key = which ? "image_std" : "image_mean";
        float *to = which ? out->std : out->mean;
        const struct json *list = json_get(top.object, key);
        if (!list || list->type == JSON_NULL) continue;
        if (list->type != JSON_ARRAY || list->count != 3) code = refuse_value(&top, key, "a list of 3", err);
        for (int i = 0; i < 3 && !code; i++) {
            double x = json_as_number(list->items[i], NAN);
            if (!(x >= (which ? 1e-6 : -1e6) && x <= 1e6))
                code = refuse_value(&top, key, "3 numbers (above 0 for image_std)", err);
            else to[i] = (float)x;
        }
    }
    arena_free(&arena);
    return code;
}

static int read_eos(const struct fields *f, int vocab, struct sampling_config *s, struct err *err) {
    const struct json *v = json_get(f->object, "eos_token_id");
    if (!v || v->type == JSON_NULL) return 0;
    if (v->type == JSON_ARRAY) return read_int_list(f, "eos_token_id", 0, vocab - 1, s->eos, CONFIG_MAX_EOS, &s->eos_count, err);
    int code = field_int(f, "eos_token_id", true, 0, vocab - 1, &s->eos[0], err);
    if (code == 0) s->eos_count = 1;
    return code;
}

static int read_sampling(const char *path, int vocab, struct sampling_config *s, struct err *err) {
    if (!file_exists(path)) return 0;
    struct arena arena = {0};
    struct fields top = {path, "", json_parse_file(path, CONFIG_FILE_LIMIT, &arena, err)};
    int code = top.object ? 0 : ERR_FORMAT;
    if (!code) code = field_bool(&top, "do_sample", &s->do_sample, err);
    if (!code) code = field_float(&top, "temperature", false, 0, 100, &s->temperature, err);
    if (!code) code = field_float(&top, "top_p", false, 0, 1, &s->top_p, err);
    if (!code) code = field_float(&top, "min_p", false, 0, 1, &s->min_p, err);
    if (!code) code = field_int(&top, "top_k", false, 0, INT_MAX, &s->top_k, err);
    if (!code) code = field_float(&top, "repetition_penalty", false, 1e-3, 1e3, &s->repetition_penalty, err);
    if (!code) code = field_float(&top, "presence_penalty", false, -100, 100, &s->presence_penalty, err);
    if (!code) code = read_eos(&top, vocab, s, err);
    arena_free(&arena);
    return code;
}

static int read_main(const char *path, struct model_config *out, struct err *err) {
    struct arena arena = {0};
    struct fields top = {path, "", json_parse_file(path, CONFIG_FILE_LIMIT, &arena, err)};
    if (!top.object) {
        arena_free(&arena);
        return err && err->code ? err->code : ERR_FORMAT;
    }
    int code = 0;
    if (strcmp(json_as_string(json_get(top.object, "model_type"), ""), "qwen3_vl") != 0)
        code = refuse_value(&top, "model_type", "\"qwen3_vl\"", err);
    if (!code) code = read_text(&top, &out->text, err);
    if (!code) code = read_vision(&top, &out->text, &out->vision, err);
    int64_t last = (int64_t)out->text.vocab - 1;
    if (!code) code = field_int(&top, "image_token_id", true, 0, last, &out->image_token, err);
    if (!code) code = field_int(&top, "video_token_id", true, 0, last, &out->video_token, err);
    if (!code) code = field_int(&top, "vision_start_token_id", true, 0, last, &out->vision_start_token, err);
    if (!code) code = field_int(&top, "vision_end_token_id", true, 0, last, &out->vision_end_token, err);
    if (!code) code = read_quantisation(&top, out->quant_method, sizeof out->quant_method, err);
    if (!code) {
        struct fields text;
        code = field_object(&top, "text_config", "text_config.", true, &text, err);
        if (!code) code = read_eos(&text, out->text.vocab, &out->sampling, err);
        if (!code) code = read_eos(&top, out->text.vocab, &out->sampling, err);
    }
    arena_free(&arena);
    return code;
}

int config_read(const char *folder, struct model_config *out, struct err *err) {
    *out = (struct model_config){
        .image = {65536, 16777216, {0.5f, 0.5f, 0.5f}, {0.5f, 0.5f, 0.5f}},
        .video = {4096, 25165824, {0.5f, 0.5f, 0.5f}, {0.5f, 0.5f, 0.5f}},
        /* What transformers' GenerationConfig assumes where the file is silent. */
        .sampling = {.temperature = 1.0f, .top_p = 1.0f, .top_k = 50, .repetition_penalty = 1.0f},
    };
    char path[PATH_MAX];
    const char *names[] = {"config.json", "preprocessor_config.json", "video_preprocessor_config.json", "generation_config.json"};
    for (int i = 0; i < 4; i++) {
        int n = snprintf(path, sizeof path, "%s/%s", folder, names[i]);
        if (n < 0 || (size_t)n >= sizeof path)
            return err_set(err, ERR_ARGUMENT, "model folder: path longer than %d bytes", PATH_MAX);
        int code = i == 0   ? read_main(path, out, err)
                   : i == 1 ? read_image(folder, names[i], "image_processor", &out->vision, &out->image, err)
                   : i == 2 ? read_image(folder, names[i], "video_processor", &out->vision, &out->video, err)
                            : read_sampling(path, out->text.vocab, &out->sampling, err);
        if (code) return code;
    }
    return 0;
}
