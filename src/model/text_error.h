/* How the model layer words an error: a sentence for the person who started the worker, naming
 * file, field or tensor and the reason. Any thread. */
#ifndef MODEL_TEXT_ERROR_H
#define MODEL_TEXT_ERROR_H

#include "base/status.h"

#include <stddef.h>

struct text_error {
    char *text; /* may be NULL when bytes is 0 */
    size_t bytes;
};

/* Writes the sentence, cut to fit, and answers `st`, so that a caller can return it. */
enum status text_error_set(struct text_error err, enum status st, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

#endif
