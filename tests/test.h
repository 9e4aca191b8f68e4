/* What every test program includes: cmocka, a skip that says why, and the path of the goldens. */
#ifndef TEST_H
#define TEST_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

/* tests/run.sh shows the reason of a skipped test. */
#define skip_because(...)                                  \
    do {                                                   \
        fprintf(stderr, "SKIPPED %s: ", __func__);         \
        fprintf(stderr, __VA_ARGS__);                      \
        fputc('\n', stderr);                               \
        skip();                                            \
    } while (0)

/* Tests run from the project's root. PMD_SLOW_TESTS is set by `make test-all`. */
static inline int slow_tests(void) { return getenv("PMD_SLOW_TESTS") != NULL; }

#endif
