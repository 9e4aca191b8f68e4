/* Where the project's own files are: the ROM, the bundled model, the prompts. */
#ifndef AGENT_HOME_H
#define AGENT_HOME_H

#include <stddef.h>

/* Path of a file of the project ("configs/prompts/tinywoods.txt"): below $PMD_HOME when that is set, else below the first folder that has
 * it among the working folder and the parents of the program's own folder. Returns out; when nothing is found, the path in the place
 * where it was expected first, so that the error that follows names it. */
const char *home_file(const char *name, char *out, size_t cap);

#define HOME_PROMPT "configs/prompts/tinywoods.txt"
#define HOME_HUB_PROMPT "configs/prompts/hub-2.txt"
#define HOME_PERCEIVE_PROMPT "configs/prompts/perceive.txt"
#define HOME_SKILLS "configs/skills"
#define HOME_ROM "rom/tinywoods/tinywoods.gba"
#define HOME_MODEL "models/tinywoods-vl"

#endif
