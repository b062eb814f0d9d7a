#include "text/stop.h"

#include <stdlib.h>
#include <string.h>

/* One string and how many of its bytes the text now ends with. The longest of these ends is what
 * has to be held back, and it need not be stored: it is a prefix of its stop string. */
struct pattern {
    uint16_t bytes;
    uint16_t matched;
    uint16_t border[STOP_BYTES_MAX]; /* border[i]: longest proper prefix that ends text[0..i] */
    uint8_t text[STOP_BYTES_MAX];
};

struct stop {
    uint32_t n_patterns;
    bool is_done; /* a match was reported */
    struct pattern patterns[];
};

static void pattern_init(struct pattern *p, const struct stop_string *string)
{
    p->bytes = (uint16_t)string->bytes;
    memcpy(p->text, string->text, string->bytes);
    uint16_t k = 0;
    for (uint16_t i = 1; i < p->bytes; i++) {
        while (k > 0 && p->text[i] != p->text[k])
            k = p->border[k - 1];
        if (p->text[i] == p->text[k])
            k++;
        p->border[i] = k;
    }
}

enum status stop_create(const struct stop_string *strings, uint32_t n_strings,
                        struct stop **out_stop)
{
    if (n_strings > STOP_STRINGS_MAX)
        return ST_TOO_LARGE;
    for (uint32_t i = 0; i < n_strings; i++) {
        if (strings[i].bytes == 0 || ((uint8_t)strings[i].text[0] & 0xc0) == 0x80)
            return ST_INVALID;
        if (strings[i].bytes > STOP_BYTES_MAX)
            return ST_TOO_LARGE;
    }
    struct stop *stop = calloc(1, sizeof(*stop) + n_strings * sizeof(stop->patterns[0]));
    if (stop == NULL)
        return ST_NO_MEMORY;
    stop->n_patterns = n_strings;
    for (uint32_t i = 0; i < n_strings; i++)
        pattern_init(&stop->patterns[i], &strings[i]);
    *out_stop = stop;
    return ST_OK;
}

void stop_destroy(struct stop *stop)
{
    free(stop);
}

static const struct pattern *longest_held(const struct stop *stop)
{
    const struct pattern *best = NULL;
    for (uint32_t i = 0; i < stop->n_patterns; i++)
        if (best == NULL || stop->patterns[i].matched > best->matched)
            best = &stop->patterns[i];
    return best;
}

size_t stop_held_bytes(const struct stop *stop)
{
    const struct pattern *held = longest_held(stop);
    return held != NULL ? held->matched : 0;
}

static void pattern_step(struct pattern *p, uint8_t byte)
{
    while (p->matched > 0 && p->text[p->matched] != byte)
        p->matched = p->border[p->matched - 1];
    if (p->text[p->matched] == byte)
        p->matched++;
}

/* Steps all patterns; the longest that is complete, or -1. */
static int32_t step_all(struct stop *stop, uint8_t byte)
{
    int32_t found = -1;
    for (uint32_t i = 0; i < stop->n_patterns; i++) {
        struct pattern *p = &stop->patterns[i];
        pattern_step(p, byte);
        if (p->matched == p->bytes && (found < 0 || p->bytes > stop->patterns[found].bytes))
            found = (int32_t)i;
    }
    return found;
}

enum status stop_feed(struct stop *stop, const char *text, size_t bytes, struct buf *out,
                      int32_t *out_match)
{
    *out_match = -1;
    if (stop->is_done)
        return ST_OK;
    const struct pattern *held = longest_held(stop);
    size_t n_held = held != NULL ? held->matched : 0;
    enum status st = buf_reserve(out, n_held + bytes);
    if (st != ST_OK)
        return st;
    int32_t found = -1;
    size_t seen = 0;
    while (seen < bytes && found < 0)
        found = step_all(stop, (uint8_t)text[seen++]);
    /* Text so far is held[0..n_held) then text[0..seen); its end is kept back or is the match. */
    size_t kept = found >= 0 ? stop->patterns[found].bytes : stop_held_bytes(stop);
    size_t n_out = n_held + seen - kept;
    size_t from_held = n_out < n_held ? n_out : n_held;
    if (from_held > 0)
        memcpy(out->data + out->len, held->text, from_held);
    if (n_out > from_held)
        memcpy(out->data + out->len + from_held, text, n_out - from_held);
    out->len += n_out;
    if (found >= 0) {
        stop_reset(stop);
        stop->is_done = true;
    }
    *out_match = found;
    return ST_OK;
}

enum status stop_flush(struct stop *stop, struct buf *out)
{
    const struct pattern *held = longest_held(stop);
    if (held == NULL || held->matched == 0)
        return ST_OK;
    enum status st = buf_append(out, held->text, held->matched);
    if (st == ST_OK)
        stop_reset(stop);
    return st;
}

void stop_reset(struct stop *stop)
{
    stop->is_done = false;
    for (uint32_t i = 0; i < stop->n_patterns; i++)
        stop->patterns[i].matched = 0;
}
