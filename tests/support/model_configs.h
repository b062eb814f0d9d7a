/* For tests: a small config.json of each family. */
#ifndef TESTS_MODEL_CONFIGS_H
#define TESTS_MODEL_CONFIGS_H

#define CONFIG_LLAMA                                                                               \
    "{\"architectures\":[\"LlamaForCausalLM\"],\"hidden_size\":64,\"intermediate_size\":96,"       \
    "\"num_hidden_layers\":3,\"num_attention_heads\":4,\"num_key_value_heads\":2,"                 \
    "\"vocab_size\":320,\"max_position_embeddings\":512,\"rms_norm_eps\":1e-05,"                   \
    "\"rope_theta\":10000.0,\"hidden_act\":\"silu\",\"tie_word_embeddings\":false,"                \
    "\"bos_token_id\":0,\"eos_token_id\":[1,2],\"torch_dtype\":\"float32\"}"

#define CONFIG_QWEN2                                                                               \
    "{\"architectures\":[\"Qwen2ForCausalLM\"],\"hidden_size\":64,\"intermediate_size\":112,"      \
    "\"num_hidden_layers\":2,\"num_attention_heads\":4,\"num_key_value_heads\":1,"                 \
    "\"vocab_size\":320,\"max_position_embeddings\":512,\"rms_norm_eps\":1e-06,"                   \
    "\"rope_theta\":1000000.0,\"use_sliding_window\":false,\"sliding_window\":32768,"              \
    "\"max_window_layers\":1,\"tie_word_embeddings\":true,\"eos_token_id\":3,"                     \
    "\"torch_dtype\":\"float32\"}"

#define CONFIG_QWEN3                                                                               \
    "{\"architectures\":[\"Qwen3ForCausalLM\"],\"hidden_size\":64,\"intermediate_size\":96,"       \
    "\"num_hidden_layers\":2,\"num_attention_heads\":4,\"num_key_value_heads\":2,"                 \
    "\"head_dim\":32,\"vocab_size\":320,\"max_position_embeddings\":512,"                          \
    "\"attention_bias\":false,\"tie_word_embeddings\":true,\"eos_token_id\":3,"                    \
    "\"rope_parameters\":{\"rope_type\":\"default\",\"rope_theta\":1000000.0},"                    \
    "\"dtype\":\"float32\"}"

#define CONFIG_MISTRAL                                                                             \
    "{\"architectures\":[\"MistralForCausalLM\"],\"hidden_size\":96,\"intermediate_size\":128,"    \
    "\"num_hidden_layers\":2,\"num_attention_heads\":6,\"num_key_value_heads\":2,"                 \
    "\"vocab_size\":320,\"max_position_embeddings\":512,\"rms_norm_eps\":1e-05,"                   \
    "\"rope_theta\":10000.0,\"sliding_window\":48,\"eos_token_id\":1,"                             \
    "\"torch_dtype\":\"float32\"}"

#endif
