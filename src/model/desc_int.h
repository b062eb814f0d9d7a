/* Inside of the config.json reader: typed fields with sticky errors. */
#ifndef MODEL_DESC_INT_H
#define MODEL_DESC_INT_H

#include "base/json.h"
#include "model/desc.h"

/* After the first error (st != ST_OK) every reader does nothing and answers the default. */
struct desc_reader {
    const char *file; /* for messages */
    struct text_error err;
    enum status st;
};

void desc_fail(struct desc_reader *r, enum status st, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

/* A field that is absent or null answers the default; DESC_REQUIRED makes that an error. */
#define DESC_REQUIRED UINT32_MAX
uint32_t desc_read_u32(struct desc_reader *r, const cJSON *object, const char *name, uint32_t min,
                       uint32_t max, uint32_t fallback);
/* fallback NAN: required. */
double desc_read_number(struct desc_reader *r, const cJSON *object, const char *name, double min,
                        double max, double fallback);
bool desc_read_bool(struct desc_reader *r, const cJSON *object, const char *name, bool fallback);
/* NULL when absent or null. */
const char *desc_read_string(struct desc_reader *r, const cJSON *object, const char *name);

/* Fills rope, rope_theta, rope_attn_scale, inv_freq and, for YaRN, a longer max_positions. */
void desc_read_rope(struct desc_reader *r, const cJSON *config, struct model_desc *desc);
/* Fills weight_scaling, layer_plain and kv_fp8 from config.json; needs n_layers. */
void desc_read_quantization(struct desc_reader *r, const cJSON *config, struct model_desc *desc);
/* The same from hf_quant_config.json. */
void desc_read_hf_quant(struct desc_reader *r, const cJSON *root, struct model_desc *desc);

#endif
