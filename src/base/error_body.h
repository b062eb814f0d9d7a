/* Error bodies of the HTTP API, in the form that OpenAI clients read:
 *   {"error":{"message":"...","type":"invalid_request_error","param":"top_p","code":"..."}}
 * One table from HTTP status to type and code, for the errors of the API and for those of the HTTP
 * server below it. Any thread. */
#ifndef BASE_ERROR_BODY_H
#define BASE_ERROR_BODY_H

#include "base/buf.h"
#include "base/status.h"

/* "rate_limit_error" for 429, ...; a status that is not in the table has the type of its class. */
const char *error_body_type(int http_code);
/* Code of an error about which nothing more is known than its HTTP status, "full" for 429. For a
 * status that status.def answers with, the label of one of its rows. */
const char *error_body_code(int http_code);
/* Appends the body.
 * code     NULL: error_body_code(http_code)
 * param    field at fault, NULL or "": none
 * message  need not be UTF-8 at its end: it may have been cut inside a character
 * Errors   ST_TOO_LARGE, ST_NO_MEMORY: `out` is as before */
enum status error_body_append(struct buf *out, int http_code, const char *code, const char *param,
                              const char *message);

#endif
