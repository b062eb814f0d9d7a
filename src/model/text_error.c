#include "model/text_error.h"

#include <stdarg.h>
#include <stdio.h>

enum status text_error_set(struct text_error err, enum status st, const char *format, ...)
{
    if (err.bytes == 0)
        return st;
    va_list args;
    va_start(args, format);
    vsnprintf(err.text, err.bytes, format, args);
    va_end(args);
    return st;
}
