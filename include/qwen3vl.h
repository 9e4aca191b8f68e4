/* libqwen3vl: Qwen3-VL checkpoints of the Hugging Face Hub, as they are stored, from C.
 *
 * Three ideas:
 *   model    a checkpoint folder opened for one device; shared by any number of sessions; loaded once, read-only.
 *   session  one conversation: a list of messages turned into tokens with the checkpoint's own template. What was computed for a
 *            prefix is kept in pages and reused by every session of the model (prompt reuse); fork copies nothing.
 *   generate continues a session: sampled or greedy, optionally held to a JSON schema, streaming through a callback.
 *
 * Functions return 0 or a negative code and fill `struct err` with a sentence. A model may be used from several threads; a
 * session from one at a time. Text is UTF-8. User text can never become control tokens. */
#ifndef QWEN3VL_H
#define QWEN3VL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifndef PMD_STRUCT_ERR
#define PMD_STRUCT_ERR
struct err {
    int code;
    char message[1000];
};
#endif

#ifdef __cplusplus
extern "C" {
#endif

struct qvl_model;
struct qvl_session;

/* ---- model ---------------------------------------------------------------------------------------------------------- */

struct qvl_options {
    const char *device;      /* "auto" (default), "cpu", "cuda" */
    int threads;             /* 0: one per core */
    int64_t context;         /* most tokens of one session; 0: what the checkpoint declares, as far as memory goes */
    size_t kv_bytes;         /* budget for KV pages of all sessions and of the prefix cache; 0: a quarter of free memory */
    const char *kv;          /* keys and values in pages: "bf16" (default) or "fp8", GPU only: e4m3 with a factor for each token and kv head, half the
                                memory, at a loss (docs/cuda.md) */
    const char *weights;     /* CPU: "mapped" (default): read where the files are mapped, so a start is quick and the memory is the page cache's; or "memory":
                                what decoding reads is read into memory of the process first, in pages of 2 MiB, each matrix on a cache line: faster by some
                                percent, for the same memory once more and a second or more at the start. Results are the same */
    bool f32;                /* exact fp32 products, for proof; default bf16 */
    const char *cpu_limit;   /* "c", "avx2", "avx512", "avx512bf16", "amx": cap of the instruction set; NULL: best */
    const char *fp8_activations; /* of FP8 layers: "bf16" or "e4m3"; default bf16, on cuda e4m3, there for passes of more than 64 rows */
    bool pillow_resize;      /* Pillow's resampler instead of torchvision's */

    int64_t prefill_rows;    /* GPU: most tokens of one pass of a prompt that has the device to itself; 0: 8192, less where memory is
                                short. While other answers are made it is 1024 at most. The CPU cuts at multiples of 512 always. */

    int card;                /* CUDA device, from 0 */
    int replicas;            /* copies of the model on so many CUDA devices, from `card` on; each has its own pages and prompt cache. A
                                session lives on one of them: that with the fewest sessions when it is made. 0, 1: one */
    const char *device_map;  /* "auto": layers on several CUDA devices, from `card` on, as few as hold the weights and one whole
                                context; NULL: one device */

    /* The prefix cache below the device (docs/prefix-cache.md). Host memory is a level of its own only where the device has
     * memory of its own. */
    size_t host_bytes;       /* pages kept in (pinned) host memory; 0: none; without effect on the CPU */
    const char *cache_dir;   /* folder for pages on disk, made if need be, may be shared by processes and models; NULL: none */
    uint64_t disk_bytes;       /* most bytes of that folder; 0: 8 GB (10^9) */
    uint64_t disk_daily_bytes; /* most bytes written to it on one day (UTC); 0: 32 GB */
    bool cache_always;       /* keep and restore even where computing seems faster: for tests and measurements */
    /* Told in a sentence when the cache drops something for a reason that it has not told before, and when weights are read into memory; from
     * any thread. */
    void (*on_notice)(void *user, const char *text);
    void *notice_user;
};

/* What loading would take, told from config and file sizes alone; filled as far as known even when it is refused. */
struct qvl_plan {
    size_t weight_bytes;       /* mapped files */
    size_t held_bytes;         /* of them read into memory of the process too (options.weights) */
    size_t kv_bytes_per_token, kv_bytes, work_bytes, total_bytes;
    size_t available_bytes;    /* what this process may still take */
    int64_t context;           /* most tokens of one session */
};
int qvl_plan_load(const char *folder, const struct qvl_options *options, struct qvl_plan *out, struct err *err);

/* Opens the folder and loads it. Zeroed options are the defaults. */
int qvl_load(const char *folder, const struct qvl_options *options, struct qvl_model **out, struct err *err);
void qvl_unload(struct qvl_model *model); /* all its sessions must be closed */

struct qvl_info {
    const char *folder, *device, *kernels; /* kernels: e.g. "avx512bf16" */
    const char *storage;                   /* "bf16", "fp8", "nf4", "mixed nf4/bf16", ... */
    int64_t parameters, context;
    size_t weight_bytes;        /* of the checkpoint */
    size_t decode_bytes;        /* weight bytes read for one decoded token */
    size_t memory_bytes;        /* held now beyond the mapped files */
    int vocab, hidden, layers;
    bool thinking;              /* the chat format opens a think block */
    double load_seconds;
    char checkpoint[33];        /* hash of config and weights: tells checkpoints apart wherever they lie */
};
void qvl_model_info(const struct qvl_model *model, struct qvl_info *out);

/* Ids of text; returns a malloc'ed array. special: parse control tokens in the text. */
int qvl_tokenize(struct qvl_model *model, const char *text, size_t n, bool special, int32_t **ids, size_t *count,
                 struct err *err);
/* malloc'ed NUL-terminated text. */
int qvl_detokenize(struct qvl_model *model, const int32_t *ids, size_t count, char **text, struct err *err);

/* The bytes of one token (control tokens: their text), NULL for ids without one; valid as long as the model. Bytes of a token may
 * be a part of a UTF-8 sequence. */
const char *qvl_token_bytes(const struct qvl_model *model, int32_t id, size_t *bytes);
/* Is this a JSON schema that json_schema of qvl_generate takes? Else err names the keyword. */
int qvl_check_schema(struct qvl_model *model, const char *schema, struct err *err);

/* Why a spill file, or pages meant for one, were dropped. */
enum qvl_spill_drop {
    QVL_SPILL_DAMAGED,    /* a checksum or a field is wrong */
    QVL_SPILL_TRUNCATED,
    QVL_SPILL_FOREIGN,    /* no spill file at all, under the name of one */
    QVL_SPILL_NEWER,      /* written by a newer version */
    QVL_SPILL_READ,       /* the disk failed to read */
    QVL_SPILL_WRITE,      /* the disk failed to write (full, read-only, ...) */
    QVL_SPILL_FSYNC,
    QVL_SPILL_GONE,       /* evicted by another process between look-up and reading */
    QVL_SPILL_MEMORY,
    QVL_SPILL_QUEUE,      /* the writer was behind: its queue was full, or the pages had left the memory */
    QVL_SPILL_DAILY,      /* today's write budget is used up */
    QVL_SPILL_SIZE,       /* larger than the whole budget */
    QVL_SPILL_SLOW,       /* not written: computing is faster than reading it back */
    QVL_SPILL_DROPS
};
const char *qvl_spill_drop_name(enum qvl_spill_drop reason); /* "damaged", "truncated", ... */

/* What the model has done and holds; counters since loading. */
struct qvl_stats {
    int page_tokens, pages_total, pages_used;  /* KV pages; pages_used: by sessions at work and by the prefix cache */
    int64_t prefix_hit_tokens, prefix_miss_tokens, prefix_evictions;
    int64_t images_encoded, images_reused;     /* reused: features taken from the cache */
    int64_t image_passes, passes;              /* of the vision tower (several pictures may share one) and of the decoder */
    int64_t pass_rows, pass_sequences;         /* tokens, and sequences, of all passes of the decoder */
    double image_seconds, pass_seconds;        /* that the device took for them */
    size_t image_cache_bytes;
    int sessions;
    /* Of prefix_hit_tokens, those that came from host memory and from disk. */
    int64_t host_hit_tokens, disk_hit_tokens;
    int64_t host_pages, host_evictions;
    size_t host_bytes;
    int64_t disk_files, disk_evictions;        /* files */
    uint64_t disk_bytes, disk_read_bytes, disk_written_bytes;
    int64_t disk_recomputed;                   /* lookups that found pages on disk, but computing was faster */
    double compute_tokens_per_second, disk_read_bytes_per_second; /* measured, remembered in the folder; 0: not yet known */
    int64_t disk_drops[QVL_SPILL_DROPS];       /* by enum qvl_spill_drop */
};
void qvl_model_stats(struct qvl_model *model, struct qvl_stats *out);

/* Drops the prompt cache and the pictures' features (those in use stay): the next prompt is a cold one, unless cache_dir has it. */
void qvl_model_forget(struct qvl_model *model);

/* What the device that qvl_load would use can do at best, measured now (about a second, nothing else should run). */
struct qvl_ceilings {
    const char *device;
    double read_bytes;       /* a second, from the memory that holds the weights */
    double product_flops;    /* a second, bf16 products; 0: not measured */
};
int qvl_device_ceilings(const struct qvl_options *options, struct qvl_ceilings *out, struct err *err);

/* ---- session -------------------------------------------------------------------------------------------------------- */

enum qvl_role { QVL_SYSTEM, QVL_USER, QVL_ASSISTANT, QVL_TOOL };

/* One part of a message: text, or an image (8-bit RGB rows, copied), or an encoded PNG/JPEG file in memory, or a video: frames
 * of width x height, already sampled, `fps` of them a second (0: unknown, taken as 24 like transformers does). */
struct qvl_part {
    const char *text;
    const uint8_t *rgb;
    int width, height;
    const void *encoded;
    size_t encoded_bytes;
    const uint8_t *const *frames;
    int frame_count;
    double fps;
};

int qvl_session_new(struct qvl_model *model, struct qvl_session **out, struct err *err);
void qvl_session_free(struct qvl_session *s);
/* A copy that shares every page of what was computed. */
int qvl_session_fork(const struct qvl_session *s, struct qvl_session **out, struct err *err);
/* Appends a message. Images are encoded when they are first needed. */
int qvl_session_message(struct qvl_session *s, enum qvl_role role, const struct qvl_part *parts, int count, struct err *err);
/* Appends an assistant message that a model with this tokenizer generated before: text, and its tokens as they were generated (think
 * block and end token included), which are repeated as they are; ids NULL: the text is tokenised. What qvl_generate appends by itself. */
int qvl_session_reply(struct qvl_session *s, const char *text, const int32_t *ids, size_t count, struct err *err);
/* Appends raw text outside any template (special: parse control tokens); for scoring and completion. */
int qvl_session_raw(struct qvl_session *s, const char *text, size_t n, bool special, struct err *err);
int qvl_session_raw_ids(struct qvl_session *s, const int32_t *ids, size_t count, struct err *err);
/* An image for the next single image token in raw text. */
int qvl_session_raw_picture(struct qvl_session *s, const struct qvl_part *part, struct err *err);
/* Drops all messages. The prefix cache keeps what it has. */
void qvl_session_clear(struct qvl_session *s);
/* The token ids of the session as they would be sent to the model now (with the generation prompt); malloc'ed. */
int qvl_session_ids(struct qvl_session *s, int32_t **ids, size_t *count, struct err *err);

/* ---- generate ------------------------------------------------------------------------------------------------------- */

struct qvl_sampling {
    bool greedy;
    float temperature, top_p, min_p; /* 0 = the checkpoint's default (min_p: off) */
    int top_k;                       /* 0 = the checkpoint's default */
    float repetition_penalty, presence_penalty;
    uint64_t seed;                   /* 0 is a seed like any other */
    float frequency_penalty;         /* taken off once for each time that a token stands in the answer already */
};

struct qvl_token;
/* Added to a token's logit before everything else; the log-probabilities reported are those after it. */
struct qvl_bias {
    int32_t id;
    float bias;
};

struct qvl_generate {
    struct qvl_sampling sampling;
    int max_tokens;              /* 0: until the end token or the context is full */
    int think_tokens;            /* thinking models: the think block is closed after so many tokens; 0 = no limit */
    const char *json_schema;     /* holds the answer (after </think>) to this schema; NULL = free text */
    const char *const *stop;     /* stop strings */
    int stop_count;
    int top_logprobs;            /* alternatives recorded per token, up to 20 */
    bool no_append;              /* do not add the answer to the session as an assistant message */
    /* Called with each piece of valid UTF-8 as it appears; return non-zero to stop. */
    int (*on_text)(void *user, const char *text, size_t n, bool thinking);
    void *user;
    /* Called for each token of the answer (end tokens aside) before the text that it completes is handed out; may be NULL. */
    void (*on_token)(void *user, const struct qvl_token *token, bool thinking);
    const struct qvl_bias *bias;
    int bias_count;
    bool ignore_end;             /* end tokens do not end the answer (for measuring) */
    const int *cancel;           /* looked at before every forward pass, from any thread's store: non-zero stops; NULL: never */
};

struct qvl_token {
    int32_t id;
    float logprob;   /* of the token among the allowed ones, before temperature */
    bool forced;     /* the constraint left no choice */
    int top_count;
    int32_t top_id[20];
    float top_logprob[20];
};

enum qvl_finish { QVL_FINISH_STOP, QVL_FINISH_LENGTH, QVL_FINISH_CANCELLED };

struct qvl_result {
    char *text;      /* the answer without the think block; malloc'ed */
    char *thinking;  /* the think block, or NULL; malloc'ed */
    struct qvl_token *tokens; /* all generated tokens; malloc'ed */
    size_t token_count;
    enum qvl_finish finish;
    int64_t prompt_tokens, cached_tokens; /* cached: taken from the prefix cache */
    double image_seconds, prefill_seconds, decode_seconds, first_token_seconds;
};
int qvl_generate(struct qvl_session *s, const struct qvl_generate *g, struct qvl_result *out, struct err *err);
void qvl_result_free(struct qvl_result *r);

/* n answers at once, of n different sessions of one model, by the calling thread: one forward pass a step for all of them. Forks
 * and other sessions with a common beginning compute it once. Each answer is what qvl_generate would have given alone.
 * errors (n): code 0, or why that answer failed (its result is then empty); one that fails leaves the others alone. Returns 0 when
 * all succeeded, else the code of one that failed. Callbacks come from the calling thread, in no order across sessions; with replicas
 * those of answers on different devices come from different threads, at the same time. */
int qvl_generate_many(struct qvl_session *const *sessions, const struct qvl_generate *generates, struct qvl_result *results,
                      struct err *errors, int n);

/* Log-probability of each token of the session given those before it (the first has none), with the top k alternatives. */
int qvl_score(struct qvl_session *s, int top_k, struct qvl_token **tokens, size_t *count, struct err *err);

/* Last hidden state as an embedding (hidden floats, malloc'ed): of the last token; the mean over the image tokens; of the last
 * end token (the generation prompt left out); of the token before the last </think>. */
enum qvl_embedding { QVL_EMBED_LAST, QVL_EMBED_IMAGE, QVL_EMBED_EOS, QVL_EMBED_THOUGHT };
int qvl_embed(struct qvl_session *s, enum qvl_embedding kind, float **out, int *size, struct err *err);

#ifdef __cplusplus
}
#endif
#endif
