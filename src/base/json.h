/* JSON: a strict validator in front of cJSON, and helpers that name the offending field.
 * The validator refuses what cJSON accepts wrongly: invalid UTF-8, raw control characters, BOM,
 * leading zeros, NUL escapes, trailing bytes, duplicate keys, depth over the bound. Any thread. */
#ifndef BASE_JSON_H
#define BASE_JSON_H

#include "base/buf.h"
#include "base/status.h"

#include <cjson/cJSON.h>
#include <stddef.h>
#include <stdint.h>

struct json_error {
    size_t offset;         /* byte where it went wrong */
    uint32_t line, column; /* from 1 */
    char message[128];
};

/* Checks RFC 8259 strictly. depth_max <= 128. ST_PARSE fills out_error (may be NULL). */
enum status json_validate(const char *text, size_t bytes, uint32_t depth_max,
                          struct json_error *out_error);
/* Validates, then parses; the caller owns *out and frees it with cJSON_Delete. */
enum status json_parse(const char *text, size_t bytes, uint32_t depth_max, cJSON **out,
                       struct json_error *out_error);
/* Case-sensitive lookup; NULL when absent or JSON null. */
const cJSON *json_get(const cJSON *object, const char *name);
/* True and *out when `item` is a number without fraction in [min, max] (2.0 counts as 2). */
bool json_as_i64(const cJSON *item, int64_t min, int64_t max, int64_t *out);
/* Appends a quoted, escaped JSON string. Text must be valid UTF-8. */
enum status json_append_string(struct buf *buf, const char *text, size_t bytes);
/* Length of the valid UTF-8 prefix of data. */
size_t utf8_valid_prefix(const uint8_t *data, size_t bytes);

#endif
