/* cli/ -- the anykvm command. It only prepares the client's environment; all else happens in the library. */
#ifndef ANYKVM_CLI_H
#define ANYKVM_CLI_H

#include <limits.h>
#include "base/base.h"

#define ANYKVM_VERSION "0.1.0"

/* Exit statuses; 126 and 127 as shells and env have them. */
enum { EXIT_USAGE = 2, EXIT_CANNOT_RUN = 126, EXIT_NOT_FOUND = 127 };

int command_run(int argc, char **argv);
int command_params(int argc, char **argv);
int command_doctor(int argc, char **argv);
int command_stat(int argc, char **argv);
int command_report(int argc, char **argv);

/* One line on stderr, "anykvm: text". Returns status. */
int complain(int status, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/* Where libanykvm.so is: beside the executable or in its PREFIX. */
bool find_library(char path[PATH_MAX]);
/* As execvp() would find it. */
bool find_program(const char *name, char path[PATH_MAX]);
/* NULL if the program can be preloaded into, else why not and what to do. */
const char *why_not_preloadable(const char *path);
/* NULL if this processor can run translated code, else why not and what to do. */
const char *why_not_host(void);

#endif
