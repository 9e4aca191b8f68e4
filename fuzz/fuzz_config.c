/* The configuration files of a checkpoint. The first byte chooses which one the rest is; the others are good. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "checkpoint/config.h"
#include "text/chat.h"

static const char *const names[] = {"config.json",           "generation_config.json", "preprocessor_config.json",
                                    "processor_config.json", "chat_template.json",     "tokenizer_config.json"};
static char folder[] = "/tmp/fuzz_config_XXXXXX";
static struct buf good;

static void put(const char *name, const void *data, size_t n) {
    char path[128];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    FILE *f = fopen(path, "wb");
    if (!f || fwrite(data, 1, n, f) != n || fclose(f)) abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    if (!good.data && (!mkdtemp(folder) || file_read("tests/golden/tiny-a/config.json", 1 << 20, &good, NULL))) abort();
    if (size == 0) return 0;
    const char *name = names[data[0] % 6];
    put("config.json", good.data, good.len);
    put(name, data + 1, size - 1);
    struct model_config config;
    enum chat_format format;
    struct err err;
    config_read(folder, &config, &err);
    chat_detect_format(folder, &format, &err);
    char path[128];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    remove(path);
    return 0;
}
