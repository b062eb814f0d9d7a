#include "api/error.h"

#include "base/json.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

enum { RETRY_AFTER_S = 1 };

static const char *type_of(int http_code)
{
    switch (http_code) {
    case 401:
        return "authentication_error";
    case 403:
        return "permission_error";
    case 404:
        return "not_found_error";
    case 429:
        return "rate_limit_error";
    case 503:
        return "service_unavailable";
    default:
        return http_code >= 500 ? "server_error" : "invalid_request_error";
    }
}

static void error_begin(struct api_error *error, int http_code, const char *code, const char *param)
{
    *error = (struct api_error){.http_code = http_code, .code = code, .type = type_of(http_code)};
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

/* A text may have been cut inside a character. */
static enum status append_text(struct buf *out, const char *text)
{
    return json_append_string(out, text, utf8_valid_prefix((const uint8_t *)text, strlen(text)));
}

enum status api_error_write(const struct api_error *error, struct buf *out)
{
    size_t before = out->len;
    enum status st = buf_append_str(out, "{\"error\":{\"message\":");
    if (st == ST_OK)
        st = append_text(out, error->message);
    if (st == ST_OK)
        st = buf_printf(out, ",\"type\":\"%s\",\"param\":", error->type);
    if (st == ST_OK)
        st = error->param[0] != '\0' ? append_text(out, error->param) : buf_append_str(out, "null");
    if (st == ST_OK)
        st = buf_printf(out, ",\"code\":\"%s\"}}", error->code);
    if (st != ST_OK)
        out->len = before;
    return st;
}
