/* The sub-commands of pmd-agent: one file each, src/app/cmd_NAME.c. argv[0] is the sub-command's name; the result is the exit
 * status: 0 success, 1 failure, 2 wrong usage, 130 stopped by Ctrl-C. */
#ifndef APP_COMMANDS_H
#define APP_COMMANDS_H

#define PMD_VERSION "0.1.0"

int cmd_calibrate(int argc, char **argv);
/* play --frames: without the game's libraries. */
int cmd_play_frames(int argc, char **argv);
int cmd_play(int argc, char **argv);
int cmd_profile(int argc, char **argv);
int cmd_replay(int argc, char **argv);
int cmd_view(int argc, char **argv);
int cmd_report(int argc, char **argv);
int cmd_dataset(int argc, char **argv);
int cmd_world(int argc, char **argv);
int cmd_env(int argc, char **argv);
int cmd_models(int argc, char **argv);
int cmd_eval(int argc, char **argv);
int cmd_memory(int argc, char **argv);
int cmd_serve(int argc, char **argv);
int cmd_chat(int argc, char **argv);
int cmd_bench(int argc, char **argv);
int cmd_perceive(int argc, char **argv);
int cmd_score(int argc, char **argv);
int cmd_tokenize(int argc, char **argv);

#endif
