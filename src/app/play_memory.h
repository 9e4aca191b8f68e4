/* Memory for `pmd-agent play`: one over all games, and a recall for each. */
#ifndef APP_PLAY_MEMORY_H
#define APP_PLAY_MEMORY_H

#include "app/play.h"

/* After the model and the records are open. Closing is due in every case. */
int play_memory_open(struct play *p, struct err *err);
/* The first error of recalling in any game; closes. */
int play_memory_close(struct play *p, struct err *err);

#endif
