/* What a client is told when a request is refused: HTTP code and error body (base/error_body.h).
 * Messages come from fixed texts, names of fields and numbers; never from prompts. Any thread. */
#ifndef API_ERROR_H
#define API_ERROR_H

#include "base/buf.h"
#include "base/status.h"

#include <stdint.h>

struct api_error {
    int http_code;
    const char *code;       /* "invalid_value", "model_not_found", a status label, ...; static */
    uint32_t retry_after_s; /* 0: no Retry-After */
    char param[64];         /* field at fault, "messages[3].role"; "" when there is none */
    char message[256];      /* valid UTF-8 */
};

/* Fills out_error for a status the daemon decided: the sentence, HTTP code and label of status.def,
 * and Retry-After where a retry makes sense. */
void api_error_from_status(enum status st, struct api_error *out_error);
/* Fills out_error. `code` must be static; param NULL or "": none. Too long a text is cut. */
void api_error_set(struct api_error *out_error, int http_code, const char *code, const char *param,
                   const char *format, ...) __attribute__((format(printf, 5, 6)));
/* Appends the body. ST_TOO_LARGE, ST_NO_MEMORY from `out`. */
enum status api_error_write(const struct api_error *error, struct buf *out);

#endif
