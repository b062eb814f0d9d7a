/* Request parser. Two stages:
 *   head   head_scan() appends to one buffer and checks each byte; head_line() checks each complete
 *          line and then lets llhttp see it. llhttp owns the framing decision; ours must agree.
 *   body   payload and chunk framing go to llhttp apart from each other, so that framing bytes pass
 *          the raw scan before llhttp interprets them.
 * A parser that reported an error stays in HTTP_PHASE_ERROR. llhttp is set up anew per message. */
#include "http/http_parse.h"

#include "base/buf.h"

#include <llhttp.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

enum {
    /* An old client may send an empty line behind a body; more than a few is noise. */
    EMPTY_LINE_BYTES_MAX = 16,
    /* "OPTIONS" and " HTTP/1.1" around the target, with room to see that the method is wrong. */
    LINE_EXTRA_BYTES = 48,
    TRAILER_NAME_BYTES = 20, /* over the longest name that is refused in a trailer */
    CHUNK_FRAME_BYTES = 24,  /* framing bytes of a chunk that cost nothing of the allowance */
    HEAD_KEEP_BYTES = 16384,
    BODY_KEEP_BYTES = 65536,
};

struct http_parse {
    llhttp_t llhttp;
    const struct http_limits *limits;
    struct http_message message;
    enum http_phase phase;
    struct buf head; /* request line and fields; NULs are written over delimiters */
    struct buf body;
    struct http_field *fields; /* [n_fields_max] */
    uint32_t line_start;       /* offset in head of the line being collected */
    uint32_t n_lines;          /* complete lines in head */
    uint32_t n_empty_bytes;    /* line ends seen before the request line */
    uint32_t target_at, target_bytes;
    /* field of the current line, as llhttp reported it */
    const char *name_at, *value_at;
    size_t name_bytes, value_bytes;
    /* framing fields seen */
    uint32_t n_hosts, n_lengths, n_encodings;
    bool is_chunked, last_was_cr, line_is_empty, headers_done, message_done;
    uint64_t payload_left;  /* chunked: bytes of the current chunk still to come */
    uint64_t body_expected; /* not chunked */
    uint64_t n_frame_bytes, n_chunks;
    bool in_trailer;
    uint32_t n_line_bytes; /* of the trailer line being scanned */
    char trailer_name[TRAILER_NAME_BYTES];
};

static int parse_fail(struct http_parse *p, int code, const char *text)
{
    if (p->phase != HTTP_PHASE_ERROR) {
        p->phase = HTTP_PHASE_ERROR;
        p->message.error_code = code;
        p->message.error_text = text;
    }
    return -1;
}

static int parse_bad(struct http_parse *p, const char *text)
{
    return parse_fail(p, 400, text);
}

static int fail_fields_too_large(struct http_parse *p)
{
    return parse_fail(p, 431, "The request header fields are too large.");
}

static int fail_body_too_large(struct http_parse *p)
{
    return parse_fail(p, 413, "The request body is too large.");
}

static int fail_no_memory(struct http_parse *p)
{
    return parse_fail(p, 503, "The server is out of memory.");
}

/* ---- llhttp callbacks; -1 stops the parser ---- */

static int on_header_field(llhttp_t *llhttp, const char *at, size_t bytes)
{
    struct http_parse *p = llhttp->data;
    if (p->phase != HTTP_PHASE_HEAD)
        return 0; /* trailer fields are dropped */
    if (p->name_at != NULL && p->name_at + p->name_bytes != at)
        return parse_bad(p, "A header line could not be understood.");
    if (p->name_at == NULL)
        p->name_at = at;
    p->name_bytes += bytes;
    return 0;
}

static int on_header_value(llhttp_t *llhttp, const char *at, size_t bytes)
{
    struct http_parse *p = llhttp->data;
    if (p->phase != HTTP_PHASE_HEAD || bytes == 0)
        return 0; /* an empty value is reported only when the next line has begun */
    if (p->value_at != NULL && p->value_at + p->value_bytes != at)
        return parse_bad(p, "A header line could not be understood.");
    if (p->value_at == NULL)
        p->value_at = at;
    p->value_bytes += bytes;
    return 0;
}

/* Transfer-Encoding: exactly "chunked" is spoken. What is chunked in a wrong way is an attack or a
 * mistake (400); any other coding is one that this server does not have (501). */
static int check_encoding(struct http_parse *p, const char *value)
{
    if (p->message.version_minor == 0)
        return parse_bad(p, "Transfer-Encoding needs HTTP/1.1.");
    if (strcasecmp(value, "chunked") == 0)
        return 0;
    size_t len = strlen(value), word = strlen("chunked");
    bool starts = strncasecmp(value, "chunked", word) == 0;
    bool ends = len > word && strcasecmp(value + len - word, "chunked") == 0;
    if (len == 0 || (starts && (value[word] == ',' || value[word] == ' ' || value[word] == '\t')) ||
        (ends && !(value[len - word - 1] == ',' || value[len - word - 1] == ' ')))
        return parse_bad(p, "The Transfer-Encoding is not valid.");
    return parse_fail(p, 501, "This transfer coding is not supported.");
}

static bool length_is_valid(const char *value)
{
    size_t len = strspn(value, "0123456789");
    return len > 0 && value[len] == '\0';
}

/* uri-host [":" port]: what a proxy and we could read differently is refused. */
static bool host_is_valid(const char *value)
{
    for (; *value != '\0'; value++)
        if ((unsigned char)*value <= ' ' || (unsigned char)*value >= 0x7f ||
            strchr("\"/\\@?#<>,{}|^`", *value) != NULL)
            return false;
    return true;
}

/* Rules that need all fields: Host, body framing, Expect. */
static int check_head(struct http_parse *p)
{
    struct http_message *m = &p->message;
    if (p->n_hosts > 1 || (p->n_hosts == 0 && m->version_minor == 1))
        return parse_bad(p, "The request must have exactly one Host field.");
    if (p->n_hosts == 1 && !host_is_valid(http_message_header(m, "host")))
        return parse_bad(p, "The Host field is not valid.");
    if (p->n_lengths + p->n_encodings > 1)
        return parse_bad(p, "The request has more than one body length.");
    if (p->n_encodings == 1) {
        if (check_encoding(p, http_message_header(m, "transfer-encoding")) != 0)
            return -1;
        if ((p->llhttp.flags & F_CHUNKED) == 0)
            return parse_bad(p, "The Transfer-Encoding is not valid.");
    }
    if (p->n_lengths == 1 && !length_is_valid(http_message_header(m, "content-length")))
        return parse_bad(p, "The Content-Length is not valid.");
    if (p->n_lengths == 1 && p->llhttp.content_length > p->limits->body_bytes_max)
        return fail_body_too_large(p);
    const char *expect = http_message_header(m, "expect");
    if (expect != NULL && m->version_minor == 1) {
        if (strcasecmp(expect, "100-continue") != 0)
            return parse_fail(p, 417, "This expectation cannot be met.");
        m->expect_continue = true;
    }
    return 0;
}

/* Splits the target into path and query. A proxy's absolute form loses scheme and authority. */
static int split_target(struct http_parse *p)
{
    static char root[] = "/";
    struct http_message *m = &p->message;
    char *target = (char *)p->head.data + p->target_at;
    target[p->target_bytes] = '\0';
    if (strcmp(target, "*") == 0 && strcmp(m->method, "OPTIONS") == 0) {
        m->path = target;
        return 0;
    }
    if (strchr(target, '#') != NULL)
        return parse_bad(p, "The request target is not valid.");
    bool is_http = strncasecmp(target, "http://", 7) == 0;
    if (is_http || strncasecmp(target, "https://", 8) == 0) {
        target += is_http ? 7 : 8;
        size_t authority_bytes = strcspn(target, "/?");
        if (authority_bytes == 0)
            return parse_bad(p, "The request target is not valid.");
        target += authority_bytes;
    } else if (target[0] != '/') {
        return parse_bad(p, "The request target is not valid.");
    }
    char *query = strchr(target, '?');
    if (query != NULL) {
        *query = '\0';
        m->query = query + 1;
    }
    m->path = target[0] == '\0' ? root : target;
    return 0;
}

static int on_headers_complete(llhttp_t *llhttp)
{
    struct http_parse *p = llhttp->data;
    struct http_message *m = &p->message;
    if (!p->line_is_empty)
        return parse_bad(p, "The request head could not be understood.");
    p->headers_done = true;
    m->head = (const char *)p->head.data;
    m->fields = p->fields;
    if (llhttp->http_major != 1 || llhttp->http_minor != m->version_minor)
        return parse_bad(p, "The request line is not valid.");
    if (check_head(p) != 0 || split_target(p) != 0)
        return -1;
    m->keep_alive =
        llhttp_should_keep_alive(llhttp) != 0 && (llhttp->flags & F_CONNECTION_CLOSE) == 0;
    p->is_chunked = p->n_encodings == 1;
    p->body_expected = p->n_lengths == 1 ? llhttp->content_length : 0;
    llhttp->upgrade = 0; /* an Upgrade offer may be ignored: the request is answered as HTTP/1.1 */
    return 0;
}

static int on_body(llhttp_t *llhttp, const char *at, size_t bytes)
{
    struct http_parse *p = llhttp->data;
    if (bytes > p->limits->body_bytes_max - p->body.len)
        return fail_body_too_large(p);
    if (p->is_chunked && bytes > p->payload_left)
        return parse_bad(p, "The chunked body could not be understood.");
    if (buf_append(&p->body, at, bytes) != ST_OK)
        return fail_no_memory(p);
    if (p->is_chunked)
        p->payload_left -= bytes;
    return 0;
}

/* llhttp has the size of the chunk in content_length; 0 is the last chunk. */
static int on_chunk_header(llhttp_t *llhttp)
{
    struct http_parse *p = llhttp->data;
    p->n_chunks++;
    if (p->n_chunks > p->limits->n_chunks_max ||
        llhttp->content_length > p->limits->body_bytes_max - p->body.len)
        return fail_body_too_large(p);
    p->payload_left = llhttp->content_length;
    p->in_trailer = llhttp->content_length == 0;
    p->n_line_bytes = 0;
    return 0;
}

static int on_message_complete(llhttp_t *llhttp)
{
    struct http_parse *p = llhttp->data;
    p->message_done = true;
    return HPE_PAUSED;
}

/* Never written to after the first use: llhttp only reads it. */
static const llhttp_settings_t parse_settings = {
    .on_header_field = on_header_field,
    .on_header_value = on_header_value,
    .on_headers_complete = on_headers_complete,
    .on_body = on_body,
    .on_chunk_header = on_chunk_header,
    .on_message_complete = on_message_complete,
};

/* Runs llhttp over data; *out_used is less than bytes only when the message ended. */
static int llhttp_run(struct http_parse *p, const char *data, size_t bytes, size_t *out_used)
{
    *out_used = bytes;
    llhttp_errno_t err = llhttp_execute(&p->llhttp, data, bytes);
    if (p->phase == HTTP_PHASE_ERROR)
        return -1;
    if (err == HPE_OK && !p->message_done)
        return 0;
    if (err == HPE_PAUSED && p->message_done) {
        const char *end = llhttp_get_error_pos(&p->llhttp);
        if (end < data || end > data + bytes)
            return parse_bad(p, "The request could not be understood.");
        *out_used = (size_t)(end - data);
        return 0;
    }
    return parse_bad(p, p->headers_done ? "The request body is not valid HTTP."
                                        : "The request head is not valid HTTP.");
}

/* ---- head ---- */

static bool is_token_byte(unsigned char c)
{
    if ((c >= '0' && c <= '9') || (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z'))
        return true;
    return c != '\0' && strchr("!#$%&'*+-.^_`|~", c) != NULL;
}

static int check_method(struct http_parse *p, const char *line, size_t bytes)
{
    static const char *const methods[] = {"GET",    "HEAD",    "POST", "PUT",
                                          "DELETE", "OPTIONS", "PATCH"};
    for (size_t i = 0; i < sizeof(methods) / sizeof(methods[0]); i++)
        if (strlen(methods[i]) == bytes && memcmp(methods[i], line, bytes) == 0) {
            p->message.method = methods[i];
            return 0;
        }
    for (size_t i = 0; i < bytes; i++)
        if (!is_token_byte((unsigned char)line[i]))
            return parse_bad(p, "The request line is not valid.");
    if (bytes == 0)
        return parse_bad(p, "The request line is not valid.");
    return parse_fail(p, 501, "This method is not supported.");
}

/* method SP target SP "HTTP/" DIGIT "." DIGIT, and nothing else. */
static int check_request_line(struct http_parse *p, const char *line, size_t bytes)
{
    const char *space = memchr(line, ' ', bytes);
    const char *last = memrchr(line, ' ', bytes);
    if (space == NULL || last == space)
        return parse_bad(p, "The request line is not valid.");
    const char *target = space + 1;
    size_t target_bytes = (size_t)(last - target);
    if (target_bytes == 0 || memchr(target, ' ', target_bytes) != NULL)
        return parse_bad(p, "The request line is not valid.");
    for (size_t i = 0; i < bytes; i++)
        if ((unsigned char)line[i] >= 0x7f || line[i] == '\t')
            return parse_bad(p, "The request line is not valid.");
    const char *version = last + 1;
    if (line + bytes - version != 8 || memcmp(version, "HTTP/", 5) != 0 || version[6] != '.' ||
        version[5] < '0' || version[5] > '9' || version[7] < '0' || version[7] > '9')
        return parse_bad(p, "The request line is not valid.");
    if (version[5] != '1' || version[7] > '1')
        return parse_fail(p, 505, "This server speaks HTTP 1.0 and 1.1.");
    if (target_bytes > p->limits->uri_bytes_max)
        return parse_fail(p, 414, "The request target is too long.");
    if (check_method(p, line, (size_t)(space - line)) != 0)
        return -1;
    p->message.version_minor = (uint32_t)(version[7] - '0');
    p->target_at = (uint32_t)((const uint8_t *)target - p->head.data);
    p->target_bytes = (uint32_t)target_bytes;
    return 0;
}

/* Keeps the field that llhttp found in the current line, NUL-terminated in place. */
static int field_add(struct http_parse *p, char *line, size_t bytes)
{
    if (p->name_at != line || p->name_bytes == 0 || p->name_bytes >= bytes ||
        line[p->name_bytes] != ':')
        return parse_bad(p, "A header line could not be understood.");
    if (p->message.n_fields == p->limits->n_fields_max)
        return fail_fields_too_large(p);
    char *value = line + p->name_bytes + 1, *end = line + bytes;
    while (value < end && (*value == ' ' || *value == '\t'))
        value++;
    while (end > value && (end[-1] == ' ' || end[-1] == '\t'))
        end--;
    if (p->value_bytes > 0 && (p->value_at != value || p->value_at + p->value_bytes < end))
        return parse_bad(p, "A header line could not be understood.");
    line[p->name_bytes] = '\0';
    *end = '\0';
    struct http_field *field = &p->fields[p->message.n_fields++];
    field->name = p->line_start;
    field->value = (uint32_t)((uint8_t *)value - p->head.data);
    p->n_hosts += strcasecmp(line, "host") == 0;
    p->n_lengths += strcasecmp(line, "content-length") == 0;
    p->n_encodings += strcasecmp(line, "transfer-encoding") == 0;
    return 0;
}

/* The line head[line_start..len) is complete, CRLF included. */
static int head_line(struct http_parse *p)
{
    char *line = (char *)p->head.data + p->line_start;
    size_t bytes = p->head.len - p->line_start - 2, used;
    if (p->n_lines == 0) {
        if (check_request_line(p, line, bytes) != 0)
            return -1;
    } else if (line[0] == ' ' || line[0] == '\t') {
        /* llhttp 8 reads a folded Content-Length as framing, others as text: smuggling */
        return parse_bad(p, "Folded header lines are not allowed.");
    } else if (line[0] == ':') {
        return parse_bad(p, "A header field has no name.");
    }
    p->name_at = p->value_at = NULL;
    p->name_bytes = p->value_bytes = 0;
    p->line_is_empty = bytes == 0;
    if (llhttp_run(p, line, bytes + 2, &used) != 0)
        return -1;
    if (p->headers_done != p->line_is_empty || used != bytes + 2)
        return parse_bad(p, "The request head could not be understood.");
    if (p->headers_done) {
        bool has_body = p->is_chunked || p->body_expected > 0;
        if (has_body == p->message_done)
            return parse_bad(p, "The request head could not be understood.");
        p->phase = has_body ? HTTP_PHASE_BODY : HTTP_PHASE_DONE;
        return 0;
    }
    if (p->n_lines > 0 && field_add(p, line, bytes) != 0)
        return -1;
    p->n_lines++;
    p->line_start = (uint32_t)p->head.len;
    return 0;
}

/* Refuses what no head may hold: control bytes, CR and LF apart from each other. */
static int scan_byte(struct http_parse *p, unsigned char c)
{
    if (c >= ' ' && c != 0x7f && !p->last_was_cr)
        return 0;
    if (p->last_was_cr != (c == '\n'))
        return parse_bad(p, "A line of the request does not end in CR LF.");
    p->last_was_cr = c == '\r';
    if (c != '\r' && c != '\n' && c != '\t')
        return parse_bad(p, "The request holds a control byte.");
    return 0;
}

/* Bytes up to and including the next LF, at most `bytes`. */
static size_t line_bytes(const char *data, size_t bytes)
{
    const char *lf = memchr(data, '\n', bytes);
    return lf != NULL ? (size_t)(lf - data) + 1 : bytes;
}

static size_t head_feed(struct http_parse *p, const char *data, size_t bytes)
{
    size_t n = line_bytes(data, bytes);
    for (size_t i = 0; i < n; i++)
        if (scan_byte(p, (unsigned char)data[i]) != 0)
            return i;
    if (p->n_lines == 0 && p->head.len + n > (size_t)p->limits->uri_bytes_max + LINE_EXTRA_BYTES) {
        parse_fail(p, 414, "The request target is too long.");
        return n;
    }
    enum status st = buf_append(&p->head, data, n);
    if (st == ST_TOO_LARGE)
        fail_fields_too_large(p);
    else if (st != ST_OK)
        fail_no_memory(p);
    else if (data[n - 1] == '\n')
        head_line(p);
    return n;
}

/* Before the request line: a few empty lines are skipped. */
static size_t idle_feed(struct http_parse *p, const char *data, size_t bytes)
{
    size_t n = 0;
    while (n < bytes && (data[n] == '\r' || data[n] == '\n')) {
        if (scan_byte(p, (unsigned char)data[n]) != 0)
            return n;
        if (++p->n_empty_bytes > EMPTY_LINE_BYTES_MAX) {
            parse_bad(p, "The request starts with empty lines.");
            return n;
        }
        n++;
    }
    if (n < bytes)
        p->phase = HTTP_PHASE_HEAD;
    return n;
}

/* ---- body ---- */

/* Trailer fields are dropped, but one that claims to frame the message is refused: llhttp 8 and 9
 * disagree on it, so others may as well. */
static int trailer_byte(struct http_parse *p, char c)
{
    static const char *const refused[] = {"content-length", "transfer-encoding", "host"};
    if (c == '\n') {
        p->n_line_bytes = 0;
        return 0;
    }
    if (p->n_line_bytes >= TRAILER_NAME_BYTES)
        return 0;
    for (size_t i = 0; c == ':' && i < sizeof(refused) / sizeof(refused[0]); i++)
        if (strlen(refused[i]) == p->n_line_bytes &&
            strncasecmp(refused[i], p->trailer_name, p->n_line_bytes) == 0)
            return parse_bad(p, "A trailer field frames the message.");
    p->trailer_name[p->n_line_bytes++] = c;
    return 0;
}

/* Chunk sizes, extensions and trailers: at most one line a call. */
static size_t frame_feed(struct http_parse *p, const char *data, size_t bytes)
{
    size_t n = line_bytes(data, bytes), used;
    for (size_t i = 0; i < n; i++) {
        unsigned char c = (unsigned char)data[i];
        if (scan_byte(p, c) != 0)
            return i;
        if (p->line_is_empty && (c == ' ' || c == '\t')) {
            parse_bad(p, "The chunked body is not valid HTTP.");
            return i;
        }
        p->line_is_empty = c == '\n';
        if (p->in_trailer && trailer_byte(p, (char)c) != 0)
            return i;
    }
    p->n_frame_bytes += n;
    if (p->n_frame_bytes > p->limits->head_bytes_max + p->n_chunks * CHUNK_FRAME_BYTES) {
        fail_body_too_large(p);
        return n;
    }
    return llhttp_run(p, data, n, &used) == 0 ? used : n;
}

static size_t body_feed(struct http_parse *p, const char *data, size_t bytes)
{
    size_t used;
    if (p->is_chunked && p->payload_left == 0)
        return frame_feed(p, data, bytes);
    if (p->is_chunked && bytes > p->payload_left)
        bytes = (size_t)p->payload_left;
    if (p->is_chunked)
        p->line_is_empty = false; /* the CR LF behind the payload comes next */
    return llhttp_run(p, data, bytes, &used) == 0 ? used : bytes;
}

static void body_finish(struct http_parse *p)
{
    if (!p->message_done || p->phase != HTTP_PHASE_BODY)
        return;
    if (!p->is_chunked && p->body.len != p->body_expected) {
        parse_bad(p, "The request body is not valid HTTP.");
        return;
    }
    if (buf_reserve(&p->body, 1) != ST_OK) {
        fail_no_memory(p);
        return;
    }
    p->body.data[p->body.len] = '\0';
    p->message.body = (const char *)p->body.data;
    p->message.body_bytes = p->body.len;
    p->phase = HTTP_PHASE_DONE;
}

/* ---- life ---- */

static void parse_reset(struct http_parse *p)
{
    p->phase = HTTP_PHASE_IDLE;
    p->message = (struct http_message){.query = "", .body = ""};
    p->line_start = p->n_lines = p->n_empty_bytes = 0;
    p->n_hosts = p->n_lengths = p->n_encodings = 0;
    p->is_chunked = p->last_was_cr = p->headers_done = p->message_done = false;
    p->line_is_empty = p->in_trailer = false;
    p->payload_left = p->body_expected = p->n_frame_bytes = p->n_chunks = 0;
    llhttp_init(&p->llhttp, HTTP_REQUEST, &parse_settings);
    p->llhttp.data = p;
}

struct http_parse *http_parse_create(const struct http_limits *limits)
{
    struct http_parse *p = calloc(1, sizeof(*p));
    if (p == NULL)
        return NULL;
    p->fields = calloc((size_t)limits->n_fields_max + 1, sizeof(*p->fields));
    if (p->fields == NULL) {
        free(p);
        return NULL;
    }
    p->limits = limits;
    buf_init(&p->head, limits->head_bytes_max);
    buf_init(&p->body, (size_t)limits->body_bytes_max + 1); /* and the NUL */
    parse_reset(p);
    return p;
}

void http_parse_destroy(struct http_parse *p)
{
    if (p == NULL)
        return;
    buf_deinit(&p->head);
    buf_deinit(&p->body);
    free(p->fields);
    free(p);
}

enum http_phase http_parse_feed(struct http_parse *p, const char *data, size_t bytes,
                                size_t *out_used)
{
    size_t used = 0;
    while (used < bytes && p->phase != HTTP_PHASE_DONE && p->phase != HTTP_PHASE_ERROR) {
        const char *at = data + used;
        size_t left = bytes - used;
        if (p->phase == HTTP_PHASE_IDLE) {
            used += idle_feed(p, at, left);
        } else if (p->phase == HTTP_PHASE_HEAD) {
            used += head_feed(p, at, left);
        } else {
            used += body_feed(p, at, left);
            body_finish(p);
        }
    }
    *out_used = used;
    return p->phase;
}

void http_parse_next(struct http_parse *p)
{
    if (p->head.cap > HEAD_KEEP_BYTES)
        buf_deinit(&p->head);
    if (p->body.cap > BODY_KEEP_BYTES)
        buf_deinit(&p->body);
    p->head.len = p->body.len = 0;
    parse_reset(p);
}

enum http_phase http_parse_phase(const struct http_parse *p)
{
    return p->phase;
}

const struct http_message *http_parse_message(const struct http_parse *p)
{
    return &p->message;
}

const char *http_message_header(const struct http_message *m, const char *name)
{
    for (uint32_t i = 0; i < m->n_fields; i++)
        if (strcasecmp(m->head + m->fields[i].name, name) == 0)
            return m->head + m->fields[i].value;
    return NULL;
}

uint64_t http_parse_body_bytes(const struct http_parse *p)
{
    return p->body.len;
}

size_t http_parse_memory_bytes(const struct http_parse *p)
{
    return p->head.cap + p->body.cap;
}
