/* Rope tables: the frequencies of each dimension pair with the scaling of long-context models
 * applied. Sources: rope arXiv:2104.09864; position interpolation arXiv:2306.15595 ("linear"); YaRN
 * arXiv:2309.00071; the "llama3" ramp as published with the Llama 3.1 weights. Float where the
 * reference implementation is float, so that tables agree to the last bit or two. */
#include "model/desc_int.h"

#include <math.h>
#include <string.h>

#define TWO_PI 6.283185307179586

static const char *const rope_names[] = {
    [MODEL_ROPE_DEFAULT] = "default",
    [MODEL_ROPE_LINEAR] = "linear",
    [MODEL_ROPE_LLAMA3] = "llama3",
    [MODEL_ROPE_YARN] = "yarn",
};

static void table_default(struct model_desc *desc)
{
    uint32_t n = desc->head_dim / 2;
    for (uint32_t i = 0; i < n; i++) {
        float exponent = (float)(2 * i) / (float)desc->head_dim;
        desc->inv_freq[i] = 1.0f / (float)pow((double)desc->rope_theta, (double)exponent);
    }
}

static void scale_linear(struct desc_reader *r, const cJSON *scaling, struct model_desc *desc)
{
    double factor = desc_read_number(r, scaling, "factor", 1.0, 1e6, NAN);
    for (uint32_t i = 0; i < desc->head_dim / 2; i++)
        desc->inv_freq[i] /= (float)factor;
}

static void scale_llama3(struct desc_reader *r, const cJSON *scaling, struct model_desc *desc)
{
    double factor = desc_read_number(r, scaling, "factor", 1.0, 1e6, NAN);
    double low = desc_read_number(r, scaling, "low_freq_factor", 1e-3, 1e6, NAN);
    double high = desc_read_number(r, scaling, "high_freq_factor", 1e-3, 1e6, NAN);
    double original =
        desc_read_u32(r, scaling, "original_max_position_embeddings", 1, 1u << 24, DESC_REQUIRED);
    if (r->st != ST_OK)
        return;
    if (high <= low) {
        desc_fail(r, ST_INVALID, "rope scaling: high_freq_factor must be above low_freq_factor");
        return;
    }
    for (uint32_t i = 0; i < desc->head_dim / 2; i++) {
        double freq = (double)desc->inv_freq[i];
        double wavelength = TWO_PI / freq;
        if (wavelength > original / low) {
            desc->inv_freq[i] = (float)(freq / factor);
        } else if (wavelength >= original / high) {
            double smooth = (original / wavelength - low) / (high - low);
            desc->inv_freq[i] = (float)((1.0 - smooth) * freq / factor + smooth * freq);
        }
    }
}

/* Dimension pair that turns `rotations` times over the original context. */
static double yarn_dimension(const struct model_desc *desc, double original, double rotations)
{
    return (double)desc->head_dim * log(original / (rotations * TWO_PI)) /
           (2.0 * log((double)desc->rope_theta));
}

static double yarn_mscale(double factor, double mscale)
{
    return factor <= 1.0 ? 1.0 : 0.1 * mscale * log(factor) + 1.0;
}

static void scale_yarn(struct desc_reader *r, const cJSON *scaling, struct model_desc *desc)
{
    double factor = desc_read_number(r, scaling, "factor", 1.0, 1e6, NAN);
    double original = desc_read_u32(r, scaling, "original_max_position_embeddings", 1, 1u << 24,
                                    desc->max_positions);
    double beta_fast = desc_read_number(r, scaling, "beta_fast", 1e-3, 1e6, 32.0);
    double beta_slow = desc_read_number(r, scaling, "beta_slow", 1e-3, 1e6, 1.0);
    double mscale = desc_read_number(r, scaling, "mscale", 0.0, 1e3, 0.0);
    double mscale_all = desc_read_number(r, scaling, "mscale_all_dim", 0.0, 1e3, 0.0);
    bool truncate = desc_read_bool(r, scaling, "truncate", true);
    double natural = mscale > 0.0 && mscale_all > 0.0
                         ? yarn_mscale(factor, mscale) / yarn_mscale(factor, mscale_all)
                         : yarn_mscale(factor, 1.0);
    double attention = desc_read_number(r, scaling, "attention_factor", 1e-3, 1e3, natural);
    if (r->st != ST_OK)
        return;
    double first = yarn_dimension(desc, original, beta_fast);
    double last = yarn_dimension(desc, original, beta_slow);
    if (truncate) {
        first = floor(first);
        last = ceil(last);
    }
    first = fmax(first, 0.0);
    last = fmin(last, (double)desc->head_dim - 1.0);
    if (first == last)
        last += 0.001; /* the ramp must have a width */
    for (uint32_t i = 0; i < desc->head_dim / 2; i++) {
        double ramp = fmin(fmax(((double)i - first) / (last - first), 0.0), 1.0);
        double freq = (double)desc->inv_freq[i];
        desc->inv_freq[i] = (float)(freq / factor * ramp + freq * (1.0 - ramp));
    }
    desc->rope_attn_scale = (float)attention;
    double reach = floor(original * factor);
    if (reach > (double)desc->max_positions)
        desc->max_positions = (uint32_t)fmin(reach, (double)(1u << 24));
}

/* NULL: absent or null. */
static const cJSON *find_object(struct desc_reader *r, const cJSON *config, const char *name)
{
    const cJSON *found = json_get(config, name);
    if (found != NULL && !cJSON_IsObject(found)) {
        desc_fail(r, ST_INVALID, "field \"%s\" must be an object", name);
        return NULL;
    }
    return found;
}

static enum model_rope read_kind(struct desc_reader *r, const cJSON *scaling)
{
    const char *name = desc_read_string(r, scaling, "rope_type");
    if (name == NULL)
        name = desc_read_string(r, scaling, "type");
    if (r->st != ST_OK)
        return MODEL_ROPE_DEFAULT;
    if (name == NULL) {
        desc_fail(r, ST_INVALID, "rope scaling has no \"rope_type\"");
        return MODEL_ROPE_DEFAULT;
    }
    for (uint32_t i = 0; i < sizeof rope_names / sizeof rope_names[0]; i++) {
        if (strcmp(name, rope_names[i]) == 0)
            return (enum model_rope)i;
    }
    desc_fail(r, ST_UNSUPPORTED, "rope type \"%.40s\" is not supported", name);
    return MODEL_ROPE_DEFAULT;
}

/* Fills the rope fields from one scaling object; NULL: none. */
static void read_table(struct desc_reader *r, const cJSON *scaling, double theta,
                       struct model_desc *desc)
{
    if (scaling != NULL) {
        theta = desc_read_number(r, scaling, "rope_theta", 1.0001, 1e15, theta);
        double partial = desc_read_number(r, scaling, "partial_rotary_factor", 0.0, 1.0, 1.0);
        if (r->st == ST_OK && partial != 1.0)
            desc_fail(r, ST_UNSUPPORTED, "field \"partial_rotary_factor\" is not supported");
        desc->rope = read_kind(r, scaling);
    }
    desc->rope_theta = (float)theta;
    desc->rope_attn_scale = 1.0f;
    if (r->st != ST_OK)
        return;
    table_default(desc);
    if (desc->rope == MODEL_ROPE_LINEAR)
        scale_linear(r, scaling, desc);
    else if (desc->rope == MODEL_ROPE_LLAMA3)
        scale_llama3(r, scaling, desc);
    else if (desc->rope == MODEL_ROPE_YARN)
        scale_yarn(r, scaling, desc);
}

static bool is_same_table(const struct model_desc *a, const struct model_desc *b)
{
    bool is_same = a->rope_attn_scale == b->rope_attn_scale;
    for (uint32_t i = 0; i < a->head_dim / 2; i++)
        is_same &= a->inv_freq[i] == b->inv_freq[i];
    return is_same;
}

/* Older files say rope_theta and rope_scaling {type or rope_type}, newer ones rope_parameters
 * {rope_type, rope_theta}. A file may say both, if both give the same table. */
void desc_read_rope(struct desc_reader *r, const cJSON *config, struct model_desc *desc)
{
    const double theta = desc_read_number(r, config, "rope_theta", 1.0001, 1e15, 10000.0);
    const cJSON *parameters = find_object(r, config, "rope_parameters");
    const cJSON *scaling = find_object(r, config, "rope_scaling");
    struct model_desc other = *desc;
    read_table(r, parameters != NULL ? parameters : scaling, theta, desc);
    if (parameters == NULL || scaling == NULL)
        return;
    read_table(r, scaling, (double)desc->rope_theta, &other);
    if (r->st == ST_OK && !is_same_table(&other, desc))
        desc_fail(r, ST_INVALID, "fields \"rope_parameters\" and \"rope_scaling\" disagree");
}
