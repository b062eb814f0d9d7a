#include "api/error.h"

#include "base/error_body.h"

#include <stdarg.h>
#include <stdio.h>

enum { RETRY_AFTER_S = 1 };

static void error_begin(struct api_error *error, int http_code, const char *code, const char *param)
{
    *error = (struct api_error){.http_code = http_code, .code = code};
    snprintf(error->param, sizeof(error->param), "%s", param != NULL ? param : "");
}

void api_error_from_status(enum status st, struct api_error *out_error)
{
    error_begin(out_error, status_http_code(st), status_name(st), NULL);
    snprintf(out_error->message, sizeof(out_error->message), "%s", status_text(st));
    if (status_is_retryable(st))
        out_error->retry_after_s = RETRY_AFTER_S;
}

void api_error_set(struct api_error *out_error, int http_code, const char *code, const char *param,
                   const char *format, ...)
{
    va_list args;
    error_begin(out_error, http_code, code, param);
    va_start(args, format);
    vsnprintf(out_error->message, sizeof(out_error->message), format, args);
    va_end(args);
}

enum status api_error_write(const struct api_error *error, struct buf *out)
{
    return error_body_append(out, error->http_code, error->code, error->param, error->message);
}
