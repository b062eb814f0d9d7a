/* How the lower layers word an error: a sentence for the person who started the process, naming
 * file, field or tensor and the reason. Any thread. */
#ifndef BASE_TEXT_ERROR_H
#define BASE_TEXT_ERROR_H

#include "base/status.h"

#include <stddef.h>

struct text_error {
    char *text; /* may be NULL when bytes is 0 */
    size_t bytes;
};

/* Writes the sentence, cut to fit. */
void text_error_write(struct text_error err, const char *format, ...)
    __attribute__((format(printf, 2, 3)));
/* Writes the sentence and is `st`, so that a caller can return it. A macro: a checker of one source
 * file must see that it is the status that was put in. */
#define text_error_set(err, st, ...) (text_error_write((err), __VA_ARGS__), (st))

#endif
