/* What one cell of a sweep gave, and how it stands in a file: a JSON object a line, or a line of CSV with the same columns under one
 * heading. One table of columns (result.c) says their names, order and meaning for both. A file is valid if and only if every line
 * that ends with a newline is whole; a last line without one was torn by a crash and is left out.
 *
 * Spreads are the largest less the smallest of the repeats, in the unit of the figure beside them; figures are medians. A figure
 * that was not measured is NaN: null in JSON, empty in CSV. */
#ifndef BENCH_RESULT_H
#define BENCH_RESULT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/buf.h"
#include "base/err.h"

struct measure {
    double median, spread;
};

struct result {
    /* the cell: what makes two results comparable */
    char model[128], weights[16]; /* weights: "random" or "file" */
    char task[24];
    double picture_share;         /* of the prompt's tokens, for the mixed task; else 0 */
    int64_t context, batch, best_of;
    /* on what */
    char storage[32], device[16], kernels[32], machine[128];
    char date[24], version[16];
    /* outcome */
    char status[16];              /* "measured", "skipped", "failed" */
    char reason[480];             /* of the last two */
    int64_t repeats, prompt_tokens, answer_tokens;
    struct measure prefill_tok_s, decode_tok_s;
    struct measure ttft_cold_ms, ttft_half_ms, ttft_prefix_ms, ttft_resident_ms, ttft_full_ms;
    double token_p50_ms, token_p95_ms, token_p99_ms; /* between two tokens of one sequence */
    double picture_ms;            /* encoding one */
    double memory_mib, host_mib;  /* most held: by the device that computes; by this process in host memory */
    char energy[24];              /* "NVML", "RAPL", "not available" */
    double prefill_j_token, decode_j_token;
    double read_gb_s;             /* of the device, measured at most 15 s before (a GPU: before the model was loaded) */
    double weight_mb, prefix_mb, suffix_mb; /* what one decode step must read at least */
    double floor_tok_s, floor_share;
    double wall_s;
};

/* Results as a list. */
struct results {
    struct result *items;
    size_t count, capacity;
    bool torn;                    /* a torn last line was left out */
    size_t whole_bytes;           /* of the file, without it */
};
void result_clear(struct result *r); /* every figure NaN, every text empty */
bool result_same_cell(const struct result *a, const struct result *b);
int results_add(struct results *l, const struct result *r, struct err *err);
void results_free(struct results *l);

void result_write_json(const struct result *r, struct buf *out);
void result_write_csv(const struct result *r, struct buf *out);
void result_write_csv_heading(struct buf *out);

/* Reads either form, told by its first byte; errors name file, line and column. */
int results_read(const char *path, struct results *out, struct err *err);
/* Appends one line, on the disk when it returns; a CSV file that is empty gets its heading first. */
int result_append(const char *path, bool csv, const struct result *r, struct err *err);

#endif
