/* HTTP/1.x request parser: bytes in, one complete request out. No I/O, no clock, no thread: the
 * connection (conn.c) feeds it and a fuzzer can too. One thread at a time.
 *
 * The head is scanned raw before llhttp sees it, and handed over line by line, so that verdicts do
 * not depend on how the bytes were split. What llhttp 8 accepts wrongly is refused here: folded
 * header lines, bare CR, other control bytes, no or two Host fields, two framing fields, an empty
 * field name, Transfer-Encoding on 1.0, HTTP/0.9. Every size is bounded by struct http_limits.
 * Source: RFC 9112; CVE-2024-27982, CVE-2023-30589. */
#ifndef HTTP_HTTP_PARSE_H
#define HTTP_HTTP_PARSE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct http_limits {
    uint32_t uri_bytes_max;  /* request target */
    uint32_t head_bytes_max; /* request line and header fields together */
    uint32_t n_fields_max;
    uint32_t n_chunks_max;   /* of a chunked body */
    uint64_t body_bytes_max; /* decoded */
};

enum http_phase {
    HTTP_PHASE_IDLE, /* no byte of the next request was seen (empty lines before it do not count) */
    HTTP_PHASE_HEAD,
    HTTP_PHASE_BODY,
    HTTP_PHASE_DONE,  /* the message is complete; nothing is consumed until http_parse_next */
    HTTP_PHASE_ERROR, /* for good; the message says what to answer */
};

/* Header field: offsets of two NUL-terminated strings in `head`. */
struct http_field {
    uint32_t name, value;
};

/* Strings are NUL-terminated and live until http_parse_next or http_parse_destroy. Method, target
 * and fields are there from HTTP_PHASE_BODY on, the body in HTTP_PHASE_DONE. */
struct http_message {
    const char *method; /* one of GET HEAD POST PUT DELETE OPTIONS PATCH */
    const char *path;   /* raw, not percent-decoded; starts with '/', or is "*" */
    const char *query;  /* behind the '?', else "" */
    uint32_t version_minor;
    bool keep_alive;      /* what the client asks for, by version and Connection */
    bool expect_continue; /* Expect: 100-continue on 1.1 */
    const char *head;
    const struct http_field *fields; /* [n_fields] */
    uint32_t n_fields;
    const char *body; /* [body_bytes], a NUL behind it */
    size_t body_bytes;
    int error_code;         /* HTTP status to answer in HTTP_PHASE_ERROR */
    const char *error_text; /* fixed sentence */
};

struct http_parse;

/* NULL: out of memory. `limits` is borrowed. */
struct http_parse *http_parse_create(const struct http_limits *limits);
void http_parse_destroy(struct http_parse *parse); /* NULL is fine */
/* Consumes up to `bytes` of `data`; *out_used says how many. Stops early when a message is complete
 * or refused. Returns the phase after it. */
enum http_phase http_parse_feed(struct http_parse *parse, const char *data, size_t bytes,
                                size_t *out_used);
/* Forgets a complete message and expects the next one; large buffers go back. */
void http_parse_next(struct http_parse *parse);
enum http_phase http_parse_phase(const struct http_parse *parse);
const struct http_message *http_parse_message(const struct http_parse *parse);
/* Value of the first field of that name (ASCII case does not matter), or NULL. */
const char *http_message_header(const struct http_message *message, const char *name);
uint64_t http_parse_body_bytes(const struct http_parse *parse); /* decoded so far */
size_t http_parse_memory_bytes(const struct http_parse *parse); /* held in buffers */

#endif
