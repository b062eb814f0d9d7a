#include "text/detok.h"

#include "text/utf8_scan.h"

void detok_init(struct detok *detok, const struct tokenizer *tokenizer, bool skip_special)
{
    *detok = (struct detok){.tokenizer = tokenizer, .skip_special = skip_special};
}

/* Writers below rely on the room that detok_feed reserved. */
static void write_bytes(struct buf *out, const void *bytes, size_t n)
{
    memcpy(out->data + out->len, bytes, n);
    out->len += n;
}

static void start_char(struct detok *d, uint8_t byte, struct buf *out)
{
    struct utf8_lead lead = utf8_lead_of(byte);
    if (lead.need == 1) {
        write_bytes(out, &byte, 1);
    } else if (lead.need == 0) {
        write_bytes(out, UTF8_REPLACEMENT, UTF8_REPLACEMENT_BYTES);
    } else {
        d->carry[0] = byte;
        d->n_carry = 1;
        d->n_need = lead.need;
        d->low = lead.low;
        d->high = lead.high;
    }
}

static void feed_byte(struct detok *d, uint8_t byte, struct buf *out)
{
    if (d->n_carry == 0) {
        start_char(d, byte, out);
        return;
    }
    if (byte < d->low || byte > d->high) {
        write_bytes(out, UTF8_REPLACEMENT, UTF8_REPLACEMENT_BYTES);
        d->n_carry = 0;
        start_char(d, byte, out);
        return;
    }
    d->carry[d->n_carry++] = byte;
    d->low = 0x80;
    d->high = 0xbf;
    if (d->n_carry == d->n_need) {
        write_bytes(out, d->carry, d->n_carry);
        d->n_carry = 0;
    }
}

enum status detok_feed(struct detok *detok, uint32_t id, struct buf *out)
{
    const uint8_t *bytes;
    size_t n;
    if (detok->skip_special && tokenizer_token_is_special(detok->tokenizer, id))
        return ST_OK;
    tokenizer_token_bytes(detok->tokenizer, id, &bytes, &n);
    /* Each byte ends at most one part, valid or not; a replacement takes 3 bytes. */
    enum status st = buf_reserve(out, UTF8_REPLACEMENT_BYTES * (n + 1));
    if (st != ST_OK)
        return st;
    for (size_t i = 0; i < n; i++)
        feed_byte(detok, bytes[i], out);
    return ST_OK;
}

enum status detok_flush(struct detok *detok, struct buf *out)
{
    if (detok->n_carry == 0)
        return ST_OK;
    enum status st = buf_append(out, UTF8_REPLACEMENT, UTF8_REPLACEMENT_BYTES);
    if (st == ST_OK)
        detok->n_carry = 0;
    return st;
}
