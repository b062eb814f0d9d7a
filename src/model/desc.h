/* What a model is, read from a Hugging Face config.json: the numbers that drive the one forward
 * pass of the engine. Families are rows of data, not forks of code: LlamaForCausalLM,
 * Qwen2ForCausalLM, Qwen3ForCausalLM, MistralForCausalLM.
 *
 * A field that would change the mathematics in a way that is not computed here is refused by name;
 * a wrong answer is worse than none. Every number is range-checked, so that products of two
 * dimensions fit 64 bits with room. Pure functions but for model_desc_load. Any thread. */
#ifndef MODEL_DESC_H
#define MODEL_DESC_H

#include "base/hash.h"
#include "base/text_error.h"
#include "device/device.h"

#define MODEL_LAYERS_MAX 256u
#define MODEL_EOS_MAX    8u
#define MODEL_VOCAB_MAX  1048576u
#define MODEL_NO_TOKEN   UINT32_MAX

enum model_rope {
    MODEL_ROPE_DEFAULT = 0,
    MODEL_ROPE_LINEAR, /* positions divided by `factor` */
    MODEL_ROPE_LLAMA3, /* low frequencies divided, a ramp between */
    MODEL_ROPE_YARN,   /* arXiv:2309.00071 */
};

/* Number format of the weight files as config.json states it. */
enum model_dtype { MODEL_DTYPE_UNKNOWN = 0, MODEL_DTYPE_F32, MODEL_DTYPE_BF16, MODEL_DTYPE_F16 };

/* Scales of the projections' weights in the files; weights are fp8 (e4m3) with any but NONE. */
enum model_scaling {
    MODEL_SCALE_NONE = 0,
    MODEL_SCALE_TENSOR, /* one */
    MODEL_SCALE_ROW,    /* [n] of w[n, k] */
    MODEL_SCALE_BLOCK,  /* [ceil(n / 128), ceil(k / 128)] */
};

/* The matrices of a layer, as they are multiplied. */
enum model_matrix { MODEL_QKV = 0, MODEL_O, MODEL_GATE_UP, MODEL_DOWN, MODEL_MATRICES };

struct model_desc {
    const char *family; /* "llama", "qwen2", "qwen3", "mistral"; static */
    uint32_t n_layers;
    uint32_t hidden;       /* width of the residual stream */
    uint32_t intermediate; /* width of the gated MLP */
    uint32_t n_heads, n_kv_heads, head_dim;
    uint32_t n_vocab;
    uint32_t max_positions; /* tokens */
    float norm_eps;
    bool qk_norm;  /* RMS norm of each q and k head before rope */
    bool qkv_bias; /* of q, k and v together */
    bool o_bias;
    bool mlp_bias; /* of gate, up and down */
    bool tied_embeddings;
    uint32_t window; /* sliding window in tokens, the own included; 0: none */
    uint8_t layer_window[MODEL_LAYERS_MAX]; /* 1: the layer looks at `window` tokens, 0: at all */
    enum model_rope rope;
    float rope_theta;
    float rope_attn_scale;                /* multiplies cos and sin; 1 but for YaRN */
    float inv_freq[OPS_HEAD_DIM_MAX / 2]; /* [head_dim / 2], scaling applied */
    enum model_dtype dtype;
    enum model_scaling weight_scaling;
    bool kv_fp8; /* the files ask for a KV cache in fp8, whose scales they may bring */
    /* bit 1 << enum model_matrix: config.json names that matrix of the layer, or a part of it, as
     * not quantised. A hint for dummy weights: otherwise the tensors tell. */
    uint8_t layer_plain[MODEL_LAYERS_MAX];
    uint32_t bos; /* MODEL_NO_TOKEN: none */
    uint32_t n_eos;
    uint32_t eos[MODEL_EOS_MAX]; /* of config.json and generation_config.json, each once */
};

/* Reads the texts of config.json and generation_config.json (NULL: there is none).
 * ST_PARSE: not JSON; ST_INVALID: a field is missing or out of range; ST_UNSUPPORTED: a field asks
 * for something that is not computed here. err names file and field. */
enum status model_desc_parse(const char *config, size_t config_bytes, const char *generation,
                             size_t generation_bytes, struct model_desc *out_desc,
                             struct text_error err);
/* Adds what the text of hf_quant_config.json says, to a desc whose config.json did not speak of
 * quantisation; with weights in fp8 or a KV cache in fp8 alone. Errors as model_desc_parse. */
enum status model_desc_add_quant(const char *text, size_t bytes, struct model_desc *desc,
                                 struct text_error err);
/* All from the files in `dir`; generation_config.json and hf_quant_config.json may be missing. Also
 * ST_NOT_FOUND, ST_IO, ST_TOO_LARGE (1 MiB). */
enum status model_desc_load(const char *dir, struct model_desc *out_desc, struct text_error err);

/* Parameters in all layers, embeddings and head (tied ones once). */
uint64_t model_desc_param_count(const struct model_desc *desc);
/* Hash of all that determines the mathematics, without the weights: equal for two files that differ
 * in spelling only. */
void model_desc_hash(const struct model_desc *desc, uint8_t out[32]);

#endif
