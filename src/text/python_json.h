/* JSON as Python's json.dumps(value, ensure_ascii=False) writes it: what chat templates put into prompts. Private to this room. */
#ifndef TEXT_PYTHON_JSON_H
#define TEXT_PYTHON_JSON_H

#include "base/buf.h"
#include "base/json.h"

void python_json(struct buf *out, const struct json *v);

#endif
