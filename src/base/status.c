#include "base/status.h"

struct status_row {
    const char *name;
    const char *text;
    int http;
    bool retryable;
};

static const struct status_row rows[ST_COUNT] = {
#define ST(name, text, http, retryable, label) [ST_##name] = {label, text, http, retryable},
#include "dynd/status.def"
#undef ST
};

static const struct status_row *row_of(enum status st)
{
    return &rows[(unsigned)st < ST_COUNT ? st : ST_INTERNAL];
}

const char *status_name(enum status st)
{
    return row_of(st)->name;
}

const char *status_text(enum status st)
{
    return row_of(st)->text;
}

int status_http_code(enum status st)
{
    return row_of(st)->http;
}

bool status_is_retryable(enum status st)
{
    return row_of(st)->retryable;
}
