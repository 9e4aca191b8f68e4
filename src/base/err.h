/* The one error type of the project: a code and a sentence for a person.
 *
 * A function that can fail returns 0 or a negative code (or a pointer, NULL on failure) and fills `err`, saying what
 * went wrong, where (file, field, offset, URL), what was expected and what was found. `err` may be NULL. */
#ifndef BASE_ERR_H
#define BASE_ERR_H

#include <stdarg.h>

#ifndef PMD_STRUCT_ERR /* include/qwen3vl.h, which compiles alone, declares the same struct */
#define PMD_STRUCT_ERR
struct err {
    int code; /* one of enum err_code, 0 when nothing failed */
    char message[1000];
};
#endif

enum err_code {
    ERR_NONE = 0,
    ERR_ARGUMENT = -1,  /* the caller asked for something impossible */
    ERR_IO = -2,        /* a file, socket or device failed */
    ERR_FORMAT = -3,    /* input from outside breaks its format */
    ERR_MEMORY = -4,    /* an allocation failed */
    ERR_MISSING = -5,   /* a file, library, tensor or field is absent */
    ERR_STATE = -6,     /* the call does not fit the present state */
    ERR_NETWORK = -7,   /* a remote side failed or refused */
    ERR_CANCELLED = -8, /* stopped on request */
    ERR_LIMIT = -9,     /* a stated limit would be exceeded */
};

/* Fills err (unless NULL) and returns code, so that `return err_set(err, ERR_IO, ...)` reads well. */
int err_set(struct err *err, int code, const char *format, ...) __attribute__((format(printf, 3, 4)));

/* Puts "context: " before the message that err already holds; returns err's code (ERR_STATE when err is NULL). */
int err_context(struct err *err, const char *format, ...) __attribute__((format(printf, 2, 3)));

#endif
