#include "base/error_body.h"

#include "base/json.h"

#include <stdint.h>
#include <string.h>

struct error_row {
    int http_code;
    const char *type, *code;
};

static const struct error_row rows[] = {
    {400, "invalid_request_error", "invalid"},
    {401, "authentication_error", "unauthorized"},
    {403, "permission_error", "forbidden"},
    {404, "not_found_error", "not_found"},
    {405, "invalid_request_error", "method_not_allowed"},
    {408, "invalid_request_error", "request_timeout"},
    {409, "invalid_request_error", "exists"},
    {413, "invalid_request_error", "too_large"},
    {414, "invalid_request_error", "uri_too_long"},
    {417, "invalid_request_error", "expectation_failed"},
    {429, "rate_limit_error", "full"},
    {431, "invalid_request_error", "headers_too_large"},
    {499, "invalid_request_error", "cancelled"},
    {500, "server_error", "internal"},
    {501, "server_error", "not_implemented"},
    {503, "service_unavailable", "unavailable"},
    {504, "server_error", "timeout"},
    {505, "server_error", "http_version_not_supported"},
};

static const struct error_row *row_find(int http_code)
{
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++)
        if (rows[i].http_code == http_code)
            return &rows[i];
    return NULL;
}

static const struct error_row *row_of(int http_code)
{
    const struct error_row *row = row_find(http_code);
    return row != NULL ? row : row_find(http_code < 500 ? 400 : 500);
}

const char *error_body_type(int http_code)
{
    return row_of(http_code)->type;
}

const char *error_body_code(int http_code)
{
    return row_of(http_code)->code;
}

static enum status append_text(struct buf *out, const char *text)
{
    return json_append_string(out, text, utf8_valid_prefix((const uint8_t *)text, strlen(text)));
}

enum status error_body_append(struct buf *out, int http_code, const char *code, const char *param,
                              const char *message)
{
    size_t before = out->len;
    enum status st = buf_append_str(out, "{\"error\":{\"message\":");
    if (st == ST_OK)
        st = append_text(out, message);
    if (st == ST_OK)
        st = buf_printf(out, ",\"type\":\"%s\",\"param\":", error_body_type(http_code));
    if (st == ST_OK)
        st = param != NULL && param[0] != '\0' ? append_text(out, param)
                                               : buf_append_str(out, "null");
    if (st == ST_OK)
        st = buf_append_str(out, ",\"code\":");
    if (st == ST_OK)
        st = append_text(out, code != NULL ? code : error_body_code(http_code));
    if (st == ST_OK)
        st = buf_append_str(out, "}}");
    if (st != ST_OK)
        out->len = before;
    return st;
}
