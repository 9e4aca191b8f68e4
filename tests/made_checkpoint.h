/* A small checkpoint with the real ones' proportions (heads of 128, kv heads shared by two, matrices that the fast kernels take), random
 * weights, in any storage kind; written to a folder of its own. */
#ifndef MADE_CHECKPOINT_H
#define MADE_CHECKPOINT_H

#include "ops_data.h"
#include "test.h"
#include "checkpoint_files.h"

enum made_format { MADE_BF16, MADE_FP8, MADE_NF4, MADE_MIXED };
static const char *const made_name[] = {"bf16", "fp8", "nf4", "mixed"};
enum { MADE_D = 256, MADE_Q = 512, MADE_K = 256, MADE_I = 512, MADE_VOCAB = 512, MADE_LAYERS = 3, MADE_V = 128, MADE_J = 256 };

struct made_writer {
    struct buf header, data;
};

static inline void made_tensor(struct made_writer *w, const char *name, const char *dtype, const char *shape, const void *data, size_t bytes) {
    char text[400];
    snprintf(text, sizeof text, "%s\"%s\":{\"dtype\":\"%s\",\"shape\":[%s],\"data_offsets\":[%zu,%zu]}", w->header.len > 1 ? "," : "", name, dtype, shape, w->data.len,
             w->data.len + bytes);
    buf_str(&w->header, text);
    buf_append(&w->data, data, bytes);
}

static inline void made_matrix(struct made_writer *w, const char *name, int out, int in, enum storage storage, float gain) {
    struct matrix m;
    char full[200], shape[64];
    matrix_new(&m, storage, out, in, 0, 1);
    size_t n = (size_t)out * (size_t)in;
    snprintf(shape, sizeof shape, "%d,%d", out, in);
    snprintf(full, sizeof full, "%s.weight", name);
    if (storage == STORAGE_BF16) {
        uint16_t *d = m.data;
        for (size_t i = 0; i < n; i++) d[i] = f32_to_bf16(bf16_to_f32(d[i]) * gain);
        made_tensor(w, full, "BF16", shape, m.data, n * 2);
    } else if (storage == STORAGE_FP8_BLOCK) {
        size_t blocks = (size_t)((out + 127) / 128 * ((in + 127) / 128));
        for (size_t i = 0; i < blocks; i++) m.scale[i] *= gain;
        made_tensor(w, full, "F8_E4M3", shape, m.data, n);
        snprintf(full, sizeof full, "%s.weight_scale_inv", name);
        snprintf(shape, sizeof shape, "%d,%d", (out + 127) / 128, (in + 127) / 128);
        made_tensor(w, full, "F32", shape, m.scale, blocks * 4);
    } else {
        size_t blocks = n / 64, groups = (blocks + 255) / 256;
        char state[300];
        for (size_t i = 0; i < groups; i++) m.nested[i] *= gain;
        snprintf(shape, sizeof shape, "%zu,1", n / 2);
        made_tensor(w, full, "U8", shape, m.data, n / 2);
        snprintf(full, sizeof full, "%s.weight.absmax", name);
        snprintf(shape, sizeof shape, "%zu", blocks);
        made_tensor(w, full, "U8", shape, m.codes, blocks);
        snprintf(full, sizeof full, "%s.weight.quant_map", name);
        made_tensor(w, full, "F32", "16", nf4_map, 64);
        snprintf(full, sizeof full, "%s.weight.nested_absmax", name);
        snprintf(shape, sizeof shape, "%zu", groups);
        made_tensor(w, full, "F32", shape, m.nested, groups * 4);
        snprintf(full, sizeof full, "%s.weight.nested_quant_map", name);
        made_tensor(w, full, "F32", "256", m.map2, 1024);
        snprintf(state, sizeof state,
                 "{\"quant_type\": \"nf4\", \"blocksize\": 64, \"dtype\": \"bfloat16\", \"shape\": [%d, %d], \"nested_blocksize\": 256, \"nested_dtype\": \"float32\", "
                 "\"nested_offset\": %.9g}",
                 out, in, (double)(m.w.nested_offset * gain));
        snprintf(full, sizeof full, "%s.weight.quant_state.bitsandbytes__nf4", name);
        snprintf(shape, sizeof shape, "%zu", strlen(state));
        made_tensor(w, full, "U8", shape, state, strlen(state));
    }
    matrix_free(&m);
}

static inline void made_vector(struct made_writer *w, const char *name, int n, float middle, float spread) {
    char shape[32];
    float *v = malloc((size_t)n * 4);
    for (int i = 0; i < n; i++) v[i] = middle + random_float() * spread;
    snprintf(shape, sizeof shape, "%d", n);
    made_tensor(w, name, "F32", shape, v, (size_t)n * 4);
    free(v);
}

static inline void made_vision_linear(struct made_writer *w, const char *name, int out, int in) {
    char full[200];
    made_matrix(w, name, out, in, STORAGE_BF16, 1);
    snprintf(full, sizeof full, "%s.bias", name);
    made_vector(w, full, out, 0, 0.1f);
}
static inline void made_norm(struct made_writer *w, const char *name, int n) {
    char full[200];
    snprintf(full, sizeof full, "%s.weight", name);
    made_vector(w, full, n, 1, 0.2f);
    snprintf(full, sizeof full, "%s.bias", name);
    made_vector(w, full, n, 0, 0.1f);
}

static inline void made_layers(struct made_writer *w, enum made_format f) {
    static const struct { const char *name; int out, in; float gain; } linears[] = {
        {"self_attn.q_proj", MADE_Q, MADE_D, 1.5f}, {"self_attn.k_proj", MADE_K, MADE_D, 1.5f}, {"self_attn.v_proj", MADE_K, MADE_D, 1.5f}, {"self_attn.o_proj", MADE_D, MADE_Q, 1},
        {"mlp.gate_proj", MADE_I, MADE_D, 1.5f}, {"mlp.up_proj", MADE_I, MADE_D, 1.5f}, {"mlp.down_proj", MADE_D, MADE_I, 1}};
    char name[200];
    for (int l = 0; l < MADE_LAYERS; l++) {
        for (int i = 0; i < 7; i++) {
            enum storage s = f == MADE_BF16 ? STORAGE_BF16 : f == MADE_FP8 ? STORAGE_FP8_BLOCK : STORAGE_NF4;
            /* Mixed as dynamic 4-bit checkpoints are: a layer's attention or MLP dense, here also one of three. */
            if (f == MADE_MIXED && ((l == 0 && i >= 4) || (l == 1 && i < 4) || (l == 2 && i == 1))) s = STORAGE_BF16;
            snprintf(name, sizeof name, "model.language_model.layers.%d.%s", l, linears[i].name);
            made_matrix(w, name, linears[i].out, linears[i].in, s, linears[i].gain);
        }
        static const struct { const char *name; int n; } norms[] = {{"input_layernorm", MADE_D}, {"post_attention_layernorm", MADE_D}, {"self_attn.q_norm", 128}, {"self_attn.k_norm", 128}};
        for (int i = 0; i < 4; i++) {
            snprintf(name, sizeof name, "model.language_model.layers.%d.%s.weight", l, norms[i].name);
            made_vector(w, name, norms[i].n, 1, 0.3f);
        }
    }
}

static inline void made_vision(struct made_writer *w) {
    char name[200];
    made_vision_linear(w, "model.visual.patch_embed.proj", MADE_V, 3 * 2 * 16 * 16);
    made_matrix(w, "model.visual.pos_embed", 64, MADE_V, STORAGE_BF16, 1);
    static const struct { const char *name; int out, in; } linears[] = {{"attn.qkv", 3 * MADE_V, MADE_V}, {"attn.proj", MADE_V, MADE_V}, {"mlp.linear_fc1", MADE_J, MADE_V}, {"mlp.linear_fc2", MADE_V, MADE_J}};
    for (int b = 0; b < 2; b++) {
        for (int i = 0; i < 4; i++) {
            snprintf(name, sizeof name, "model.visual.blocks.%d.%s", b, linears[i].name);
            made_vision_linear(w, name, linears[i].out, linears[i].in);
        }
        for (int i = 1; i < 3; i++) {
            snprintf(name, sizeof name, "model.visual.blocks.%d.norm%d", b, i);
            made_norm(w, name, MADE_V);
        }
    }
    made_norm(w, "model.visual.merger.norm", MADE_V);
    made_vision_linear(w, "model.visual.merger.linear_fc1", 4 * MADE_V, 4 * MADE_V);
    made_vision_linear(w, "model.visual.merger.linear_fc2", MADE_D, 4 * MADE_V);
    made_norm(w, "model.visual.deepstack_merger_list.0.norm", 4 * MADE_V);
    made_vision_linear(w, "model.visual.deepstack_merger_list.0.linear_fc1", 4 * MADE_V, 4 * MADE_V);
    made_vision_linear(w, "model.visual.deepstack_merger_list.0.linear_fc2", MADE_D, 4 * MADE_V);
}

/* folder: 64 bytes; remove it with made_remove. */
static inline void made_checkpoint(enum made_format f, char *folder) {
    static const char config[] =
        "{\"architectures\":[\"Qwen3VLForConditionalGeneration\"],\"model_type\":\"qwen3_vl\",\"image_token_id\":500,\"video_token_id\":501,\"vision_start_token_id\":498,"
        "\"vision_end_token_id\":499,\"tie_word_embeddings\":true,\"text_config\":{\"model_type\":\"qwen3_vl_text\",\"hidden_size\":256,\"num_hidden_layers\":3,"
        "\"num_attention_heads\":4,\"num_key_value_heads\":2,\"head_dim\":128,\"intermediate_size\":512,\"vocab_size\":512,\"rms_norm_eps\":1e-06,\"hidden_act\":\"silu\","
        "\"max_position_embeddings\":4096,\"tie_word_embeddings\":true,\"rope_parameters\":{\"rope_type\":\"default\",\"rope_theta\":5000000.0,\"mrope_interleaved\":true,"
        "\"mrope_section\":[24,20,20]}},\"vision_config\":{\"model_type\":\"qwen3_vl_vision\",\"depth\":2,\"hidden_size\":128,\"num_heads\":2,\"intermediate_size\":256,"
        "\"patch_size\":16,\"temporal_patch_size\":2,\"spatial_merge_size\":2,\"in_channels\":3,\"num_position_embeddings\":64,\"out_hidden_size\":256,"
        "\"hidden_act\":\"gelu_pytorch_tanh\",\"deepstack_visual_indexes\":[0]}}";
    struct scratch s = scratch_new();
    struct made_writer w = {0};
    random_state = 88172645463325252ull;
    buf_str(&w.header, "{");
    made_matrix(&w, "model.language_model.embed_tokens", MADE_VOCAB, MADE_D, STORAGE_BF16, 1);
    made_layers(&w, f);
    made_vector(&w, "model.language_model.norm.weight", MADE_D, 1, 0.3f);
    made_vision(&w);
    buf_str(&w.header, "}");
    struct buf file = safetensors_text(w.header.data, w.header.len, -1, 0);
    buf_append(&file, w.data.data, w.data.len);
    scratch_write(&s, "config.json", config, strlen(config));
    scratch_write(&s, "model.safetensors", file.data, file.len);
    snprintf(folder, 64, "%s", s.folder);
    buf_free(&file), buf_free(&w.header), buf_free(&w.data);
}

static inline void made_remove(const char *folder) {
    struct scratch s;
    snprintf(s.folder, sizeof s.folder, "%s", folder);
    scratch_remove(&s);
}

#endif
