#include "bench/random_config.h"

#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/buf.h"
#include "base/file.h"

/* In the order of their ids. */
static const struct {
    const char *text;
    bool special;
} added[] = {{"<|endoftext|>", true}, {"<|im_start|>", true}, {"<|im_end|>", true}, {"<|object_ref_start|>", true},
             {"<|object_ref_end|>", true}, {"<|box_start|>", true}, {"<|box_end|>", true}, {"<|quad_start|>", true},
             {"<|quad_end|>", true}, {"<|vision_start|>", true}, {"<|vision_end|>", true}, {"<|vision_pad|>", true},
             {"<|image_pad|>", true}, {"<|video_pad|>", true}, {"<tool_call>", false}, {"</tool_call>", false},
             {"<|fim_prefix|>", false}, {"<|fim_middle|>", false}, {"<|fim_suffix|>", false}, {"<|fim_pad|>", false},
             {"<|repo_name|>", false}, {"<|file_sep|>", false}, {"<tool_response>", false}, {"</tool_response>", false},
             {"<think>", false}, {"</think>", false}};
enum { ADDED = sizeof added / sizeof *added };
enum { END_OF_TEXT = 0, IM_END = 2, VISION_START = 9, VISION_END = 10, VISION_PAD = 11, IMAGE_PAD = 12, VIDEO_PAD = 13 };

/* Qwen's 151,643 pieces before the control tokens; the tiny shape has fewer. */
static int first_added(const struct shape *s) { return s->vocab >= 151936 ? 151643 : 1000; }

static int save(const char *folder, const char *name, struct buf *b, struct err *err) {
    char path[PATH_MAX];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    int r = b->failed ? err_set(err, ERR_MEMORY, "out of memory for %s", path) : file_replace(path, b->data, b->len, err);
    buf_free(b);
    return r;
}

static void put_code_point(struct buf *b, int c) {
    char text[3] = {(char)(c < 128 ? c : 0xc0 | c >> 6), (char)(c < 128 ? 0 : 0x80 | (c & 0x3f)), 0};
    buf_json_string(b, text, strlen(text));
}

/* Every id below first_added is a piece: the bytes as GPT-2 spells them, then words of made-up syllables, with and without the mark of
 * a leading space. No merges: text becomes bytes. */
static void put_vocabulary(struct buf *b, int count) {
    static const char consonants[] = "bdfghjklmnprstvwyz", vowels[] = "aeiou";
    int id = 0, hidden = 256;
    for (int printable = 1; printable >= 0; printable--)
        for (int byte = 0; byte < 256; byte++) {
            bool shown = (byte >= 33 && byte < 127) || (byte >= 161 && byte < 173) || byte >= 174;
            if (shown != printable) continue;
            if (id) buf_char(b, ',');
            put_code_point(b, shown ? byte : hidden++);
            buf_printf(b, ":%d", id++);
        }
    for (int n = 0; id < count; n++) {
        char word[24];
        int at = 0;
        for (int k = n; k || !at; k /= 90) {
            word[at++] = consonants[k % 90 / 5];
            word[at++] = vowels[k % 5];
        }
        buf_printf(b, ",\"%.*s\":%d", at, word, id);
        if (++id < count) buf_printf(b, ",\"\\u0120%.*s\":%d", at, word, id), id++;
    }
}

static int write_tokenizer(const char *folder, const struct shape *s, struct err *err) {
    static const char level[] = "{\"type\":\"ByteLevel\",\"add_prefix_space\":false,\"trim_offsets\":false,\"use_regex\":false}";
    static const char split[] = "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\\\r\\\\n\\\\p{L}\\\\p{N}]?\\\\p{L}+|\\\\p{N}| ?[^\\\\s\\\\p{L}\\\\p{N}]+"
                                "[\\\\r\\\\n]*|\\\\s*[\\\\r\\\\n]+|\\\\s+(?!\\\\S)|\\\\s+";
    struct buf b = {0};
    buf_str(&b, "{\"version\":\"1.0\",\"truncation\":null,\"padding\":null,\"added_tokens\":[");
    for (int i = 0; i < ADDED; i++)
        buf_printf(&b, "%s{\"id\":%d,\"content\":\"%s\",\"single_word\":false,\"lstrip\":false,\"rstrip\":false,\"normalized\":false,"
                   "\"special\":%s}", i ? "," : "", first_added(s) + i, added[i].text, added[i].special ? "true" : "false");
    buf_printf(&b, "],\"normalizer\":{\"type\":\"NFC\"},\"pre_tokenizer\":{\"type\":\"Sequence\",\"pretokenizers\":[{\"type\":\"Split\","
               "\"pattern\":{\"Regex\":\"%s\"},\"behavior\":\"Isolated\",\"invert\":false},%s]},\"post_processor\":%s,\"decoder\":%s,"
               "\"model\":{\"type\":\"BPE\",\"dropout\":null,\"unk_token\":null,\"continuing_subword_prefix\":\"\","
               "\"end_of_word_suffix\":\"\",\"fuse_unk\":false,\"byte_fallback\":false,\"vocab\":{", split, level, level, level);
    put_vocabulary(&b, first_added(s));
    buf_str(&b, "},\"merges\":[]}}");
    return save(folder, "tokenizer.json", &b, err);
}

static int write_config(const char *folder, const struct shape *s, enum shape_format format, struct err *err) {
    struct buf b = {0};
    int base = first_added(s);
    const char *tied = s->tied ? "true" : "false";
    buf_printf(&b, "{\"architectures\": [\"Qwen3VLForConditionalGeneration\"], \"model_type\": \"qwen3_vl\", \"image_token_id\": %d, "
               "\"video_token_id\": %d, \"vision_start_token_id\": %d, \"vision_end_token_id\": %d, \"tie_word_embeddings\": %s,\n",
               base + IMAGE_PAD, base + VIDEO_PAD, base + VISION_START, base + VISION_END, tied);
    buf_printf(&b, " \"text_config\": {\"attention_bias\": false, \"dtype\": \"bfloat16\", \"head_dim\": %d, \"hidden_act\": \"silu\", "
               "\"hidden_size\": %d, \"intermediate_size\": %d, \"max_position_embeddings\": 262144, \"model_type\": \"qwen3_vl_text\", "
               "\"num_attention_heads\": %d, \"num_hidden_layers\": %d, \"num_key_value_heads\": %d, \"rms_norm_eps\": 1e-06,\n  "
               "\"rope_scaling\": {\"mrope_interleaved\": true, \"mrope_section\": [%d, %d, %d], \"rope_type\": \"default\"}, "
               "\"rope_theta\": 5000000, \"tie_word_embeddings\": %s, \"vocab_size\": %d},\n",
               s->head_dim, s->hidden, s->intermediate, s->heads, s->layers, s->kv_heads, s->sections[0], s->sections[1],
               s->sections[2], tied, s->vocab);
    buf_printf(&b, " \"vision_config\": {\"deepstack_visual_indexes\": [%d, %d, %d], \"depth\": %d, \"hidden_act\": "
               "\"gelu_pytorch_tanh\", \"hidden_size\": %d, \"in_channels\": 3, \"intermediate_size\": %d, \"model_type\": \"qwen3_vl\", "
               "\"num_heads\": %d, \"num_position_embeddings\": %d, \"out_hidden_size\": %d, \"patch_size\": 16, "
               "\"spatial_merge_size\": 2, \"temporal_patch_size\": 2}",
               s->deepstack[0], s->deepstack[1], s->deepstack[2], s->vision_depth, s->vision_hidden, s->vision_intermediate,
               s->vision_heads, s->positions, s->hidden);
    if (format == SHAPE_FP8)
        buf_str(&b, ",\n \"quantization_config\": {\"activation_scheme\": \"dynamic\", \"fmt\": \"e4m3\", \"ignored_layers\": "
                    "[\"lm_head\"], \"quant_method\": \"fp8\", \"weight_block_size\": [128, 128]}");
    if (format == SHAPE_NF4)
        buf_str(&b, ",\n \"quantization_config\": {\"bnb_4bit_compute_dtype\": \"bfloat16\", \"bnb_4bit_quant_storage\": \"uint8\", "
                    "\"bnb_4bit_quant_type\": \"nf4\", \"bnb_4bit_use_double_quant\": true, \"llm_int8_skip_modules\": [\"lm_head\", "
                    "\"visual\", \"model.language_model.layers.0.mlp\", \"model.language_model.layers.11.self_attn\"], "
                    "\"load_in_4bit\": true, \"load_in_8bit\": false, \"quant_method\": \"bitsandbytes\"}");
    buf_str(&b, "}\n");
    return save(folder, "config.json", &b, err);
}

static int write_settings(const char *folder, const struct shape *s, struct err *err) {
    struct buf b = {0};
    int base = first_added(s);
    buf_printf(&b, "{\"do_sample\": true, \"eos_token_id\": [%d, %d], \"pad_token_id\": %d, \"repetition_penalty\": 1.0, "
               "\"temperature\": 0.7, \"top_k\": 20, \"top_p\": 0.8}\n", base + IM_END, base + END_OF_TEXT, base + END_OF_TEXT);
    int r = save(folder, "generation_config.json", &b, err);
    if (r) return r;
    buf_str(&b, "{\"size\": {\"longest_edge\": 16777216, \"shortest_edge\": 65536}, \"patch_size\": 16, \"temporal_patch_size\": 2, "
                "\"merge_size\": 2, \"image_mean\": [0.5, 0.5, 0.5], \"image_std\": [0.5, 0.5, 0.5]}\n");
    if ((r = save(folder, "preprocessor_config.json", &b, err))) return r;
    buf_str(&b, "{% for m in messages %}{{ '<|im_start|>' + m.role + '\\n' + m.content + '<|im_end|>\\n' }}{% endfor %}"
                "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}");
    return save(folder, "chat_template.jinja", &b, err);
}

int random_config_write(const char *folder, const struct shape *s, enum shape_format format, struct err *err) {
    int r = write_config(folder, s, format, err);
    if (!r) r = write_settings(folder, s, err);
    if (!r) r = write_tokenizer(folder, s, err);
    return r;
}

void random_config_remove(const char *folder) {
    static const char *const names[] = {"config.json", "generation_config.json", "preprocessor_config.json", "chat_template.jinja",
                                        "tokenizer.json"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        char path[PATH_MAX];
        snprintf(path, sizeof path, "%s/%s", folder, names[i]);
        unlink(path);
    }
}
