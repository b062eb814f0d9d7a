#include "base/text_error.h"

#include <stdarg.h>
#include <stdio.h>

void text_error_write(struct text_error err, const char *format, ...)
{
    if (err.bytes == 0)
        return;
    va_list args;
    va_start(args, format);
    vsnprintf(err.text, err.bytes, format, args);
    va_end(args);
}
