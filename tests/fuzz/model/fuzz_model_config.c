/* Any text as config.json and, behind the first NUL, generation_config.json, and behind the second
 * hf_quant_config.json: refused, or a description whose numbers keep their bounds. */
#include "model/desc.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check(const struct model_desc *d)
{
    uint8_t hash[32];
    if (d->n_layers == 0 || d->n_layers > MODEL_LAYERS_MAX || d->hidden == 0 || d->n_heads == 0 ||
        d->n_kv_heads == 0 || d->n_heads % d->n_kv_heads != 0 || d->head_dim == 0 ||
        d->head_dim % 16 != 0 || d->head_dim > OPS_HEAD_DIM_MAX || d->n_vocab < 2 ||
        d->n_vocab > MODEL_VOCAB_MAX || d->n_eos > MODEL_EOS_MAX)
        abort();
    for (uint32_t i = 0; i < d->n_eos; i++)
        if (d->eos[i] >= d->n_vocab)
            abort();
    for (uint32_t i = 0; i < d->n_layers; i++)
        if (d->layer_window[i] != 0 && d->window == 0)
            abort();
    if (d->weight_scaling > MODEL_SCALE_BLOCK)
        abort();
    for (uint32_t i = 0; i < MODEL_LAYERS_MAX; i++)
        if (d->layer_plain[i] >> MODEL_MATRICES != 0 ||
            (d->layer_plain[i] != 0 && (i >= d->n_layers || d->weight_scaling == MODEL_SCALE_NONE)))
            abort();
    for (uint32_t i = 0; i < d->head_dim / 2; i++)
        if (!isfinite(d->inv_freq[i]) || d->inv_freq[i] < 0)
            abort();
    if (!(d->norm_eps > 0) || !isfinite(d->rope_attn_scale) || model_desc_param_count(d) == 0)
        abort();
    model_desc_hash(d, hash);
}

/* The text up to the next NUL; *data moves behind it, and is NULL when there is none. */
static const char *text_take(const uint8_t **data, size_t *size, size_t *out_bytes)
{
    const char *text = (const char *)*data;
    const uint8_t *nul = *size > 0 ? memchr(*data, 0, *size) : NULL;
    *out_bytes = nul != NULL ? (size_t)(nul - *data) : *size;
    *size -= nul != NULL ? *out_bytes + 1 : *size;
    *data = nul != NULL ? nul + 1 : NULL;
    return text;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct model_desc desc;
    char err[256];
    struct text_error why = {err, sizeof(err)};
    size_t config_bytes, generation_bytes = 0, quant_bytes = 0;
    const char *config = text_take(&data, &size, &config_bytes), *generation = NULL, *quant = NULL;
    if (data != NULL)
        generation = text_take(&data, &size, &generation_bytes);
    if (data != NULL)
        quant = text_take(&data, &size, &quant_bytes);
    if (model_desc_parse(config, config_bytes, generation, generation_bytes, &desc, why) != ST_OK)
        return 0;
    check(&desc);
    if (quant != NULL && desc.weight_scaling == MODEL_SCALE_NONE)
        (void)model_desc_add_quant(quant, quant_bytes, &desc, why);
    check(&desc);
    return 0;
}
