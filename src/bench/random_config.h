/* The files of a random checkpoint beside its weights: config.json, generation and preprocessor settings, a tokenizer of made-up
 * words with Qwen's control tokens, a chat template. */
#ifndef BENCH_RANDOM_CONFIG_H
#define BENCH_RANDOM_CONFIG_H

#include "bench/shapes.h"

int random_config_write(const char *folder, const struct shape *s, enum shape_format format, struct err *err);
void random_config_remove(const char *folder);

#endif
