/* No model at all: a script of actions in its place, for tests of the agent. Everything it decides is labelled as such. */
#ifndef APP_MOCK_MODEL_H
#define APP_MOCK_MODEL_H

#include "agent/ask.h"

struct mock_model;
/* One action name, or "skill NAME" with its numbers, a line; # comments and blank lines. Decision n of an episode gets line n; after the last comes the first again. An
 * action that the scene does not offer becomes a fallback like any model's. */
int mock_model_open(const char *path, struct mock_model **out, struct err *err);
void mock_model_close(struct mock_model *m);
struct answerer mock_model_answerer(struct mock_model *m);

#endif
