/* The request parser under arbitrary input and arbitrary cuts. Layout of an input:
 *   byte 0          limits: bit 0 tiny, else the defaults' shape
 *   bytes 1..8      piece lengths, used in turn (0: one byte)
 *   rest            what the client sends
 * Properties: nothing reads out of bounds; bounds hold; the verdict does not depend on the cuts. */
#include "base/hash.h"
#include "http/http_parse.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

enum { CUTS = 8, PREFIX = 1 + CUTS };

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const struct http_limits tiny_limits = {
    .uri_bytes_max = 32,
    .head_bytes_max = 128,
    .n_fields_max = 4,
    .n_chunks_max = 4,
    .body_bytes_max = 16,
};

static const struct http_limits wide_limits = {
    .uri_bytes_max = 8192,
    .head_bytes_max = 65536,
    .n_fields_max = 100,
    .n_chunks_max = 1024,
    .body_bytes_max = 1 << 20,
};

struct outcome {
    uint64_t hash; /* of all complete messages */
    uint32_t n_messages;
    int failed;
};

static void check(int condition)
{
    if (!condition)
        abort();
}

static void message_check(const struct http_message *m, const struct http_limits *limits,
                          struct outcome *outcome)
{
    check(m->body_bytes <= limits->body_bytes_max && m->body[m->body_bytes] == '\0');
    check(m->n_fields <= limits->n_fields_max && strlen(m->path) <= limits->uri_bytes_max);
    check(m->path[0] == '/' || strcmp(m->path, "*") == 0);
    uint64_t hash = outcome->hash;
    hash = hash_combine(hash, hash_bytes(m->method, strlen(m->method)));
    hash = hash_combine(hash, hash_bytes(m->path, strlen(m->path)));
    hash = hash_combine(hash, hash_bytes(m->query, strlen(m->query)));
    hash = hash_combine(hash, hash_bytes(m->body, m->body_bytes));
    for (uint32_t i = 0; i < m->n_fields; i++) {
        const char *name = m->head + m->fields[i].name, *value = m->head + m->fields[i].value;
        check(name[0] != '\0' && http_message_header(m, name) != NULL);
        check(strpbrk(value, "\r\n") == NULL);
        hash = hash_combine(hash, hash_bytes(value, strlen(value)));
    }
    outcome->hash = hash_combine(hash, m->keep_alive);
    outcome->n_messages++;
}

/* cuts == NULL: as much as there is. */
static struct outcome run(const char *data, size_t size, const struct http_limits *limits,
                          const uint8_t *cuts)
{
    struct outcome outcome = {0, 0, 0};
    struct http_parse *p = http_parse_create(limits);
    check(p != NULL);
    size_t n_cuts = 0;
    for (size_t at = 0; at < size;) {
        size_t n = size - at, used;
        if (cuts != NULL) {
            size_t cut = cuts[n_cuts++ % CUTS];
            cut = cut > 0 ? cut : 1;
            n = cut < n ? cut : n;
        }
        enum http_phase phase = http_parse_feed(p, data + at, n, &used);
        check(used <= n && phase == http_parse_phase(p));
        at += used;
        check(http_parse_memory_bytes(p) <= limits->head_bytes_max + limits->body_bytes_max + 512);
        if (phase == HTTP_PHASE_ERROR) {
            check(http_parse_message(p)->error_code >= 400);
            outcome.failed = 1;
            break;
        }
        if (phase == HTTP_PHASE_DONE) {
            message_check(http_parse_message(p), limits, &outcome);
            http_parse_next(p);
        } else {
            check(used == n);
        }
    }
    http_parse_destroy(p);
    return outcome;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size < PREFIX)
        return 0;
    const struct http_limits *limits = (data[0] & 1) != 0 ? &tiny_limits : &wide_limits;
    const char *input = (const char *)data + PREFIX;
    struct outcome whole = run(input, size - PREFIX, limits, NULL);
    struct outcome cut = run(input, size - PREFIX, limits, data + 1);
    check(whole.hash == cut.hash && whole.n_messages == cut.n_messages &&
          whole.failed == cut.failed);
    return 0;
}
