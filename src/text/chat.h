/* Messages to tokens: the Instruct and Thinking templates of Qwen3-VL (facts §6), written out in C. */
#ifndef TEXT_CHAT_H
#define TEXT_CHAT_H

#include "text/tokenizer.h"

enum chat_role { CHAT_SYSTEM, CHAT_USER, CHAT_ASSISTANT, CHAT_TOOL };
enum chat_format { CHAT_INSTRUCT, CHAT_THINKING };

enum chat_part_kind { CHAT_TEXT, CHAT_IMAGE, CHAT_VIDEO };
struct chat_part {
    enum chat_part_kind kind;
    const char *text; /* CHAT_TEXT: n bytes */
    size_t text_len;
    int64_t tokens;              /* CHAT_IMAGE: merged tokens; CHAT_VIDEO: tokens per group */
    int groups;                  /* CHAT_VIDEO: temporal groups */
    const double *group_seconds; /* CHAT_VIDEO: timestamp of each group */
};
struct chat_message {
    enum chat_role role;
    const struct chat_part *parts;
    int part_count;
    const char *reasoning; /* assistant only, may be NULL */
    /* Assistant only: the tokens that the model itself wrote behind the generation prompt. They stand for reasoning and parts, so
     * that what was computed for them stays known; NULL: by their text. reply_content: first token of the answer behind the think
     * block and its newlines, SIZE_MAX when that is inside a token. */
    const int32_t *reply;
    size_t reply_count, reply_content;
};
struct chat_options {
    enum chat_format format;
    bool add_generation_prompt;
    const char *tools_json; /* array of function signatures, or NULL */
    bool add_vision_id;
};

/* Which template the folder carries (chat_template.jinja / chat_template.json / tokenizer_config.json): Thinking iff its
 * generation prompt opens a think block. A folder without template is an error that says so. */
int chat_detect_format(const char *folder, enum chat_format *out, struct err *err);

/* Appends the ids of the conversation. Content is tokenised as ordinary text (control tokens cannot be forged); image and
 * video placeholders are expanded to their pad tokens. Sets *images_in_order semantics: pads appear in part order. */
int chat_encode(const struct tokenizer *t, const struct chat_options *options, const struct chat_message *messages, int count,
                struct token_list *out, struct err *err);

#endif
