#!/usr/bin/env python3
"""Makes the golden logits: what Hugging Face transformers computes for the same tokens.

    python3 tests/golden/make_logits_golden.py --tiny configs/models/dynd-tiny --out tests/golden

Made with Python 3.11, torch 2.11.0, transformers 5.17.0, safetensors 0.8.0, numpy 2.4; on a CPU.

Written under --out:
  models/<name>/        five small models of random weights: config.json and safetensors
  logits/<name>.bin     tokens and logits for each of them, and for dynd-tiny

A .bin file, all numbers little-endian, no padding:
  char magic[8] = "DYNDLGT1"
  u32  n_sequences
  u32  vocab_size
  then for each sequence
    u32 n_tokens
    u32 n_positions
    u32 tokens[n_tokens]
    u32 positions[n_positions]           ascending; position p has seen tokens 0..p
    f32 logits[n_positions][vocab_size]

The arithmetic is float32 throughout, also where the weights are stored as bf16. Weights are drawn
wider than a fresh model has them, biases are not zero and norm weights are not one, so that a
forgotten bias, a swapped head or a wrong mask moves the logits by far more than any rounding. The
script checks this: it breaks each special feature once and refuses to write if the logits stay near.
"""
import argparse
import json
import os
import shutil
import struct

import numpy as np
import torch
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM

LENGTHS = [5, 64, 300]
POSITIONS = {5: [0, 1, 2, 3, 4], 64: [0, 1, 15, 16, 31, 32, 62, 63],
             300: [0, 31, 32, 63, 64, 127, 255, 299], 2500: [1023, 1024, 2048, 2499]}

# Config files as they are found in the wild: older ones have rope_theta, rope_scaling and torch_dtype,
# newer ones have rope_parameters, dtype and layer_types.
LLAMA = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "attention_bias": False,
    "bos_token_id": 0, "eos_token_id": [1, 2], "hidden_act": "silu", "hidden_size": 64,
    "intermediate_size": 96, "max_position_embeddings": 512, "mlp_bias": False,
    "num_attention_heads": 4, "num_hidden_layers": 2, "num_key_value_heads": 2,
    "rms_norm_eps": 1e-05, "rope_theta": 10000.0,
    "rope_scaling": {"factor": 8.0, "high_freq_factor": 4.0, "low_freq_factor": 1.0,
                     "original_max_position_embeddings": 64, "rope_type": "llama3"},
    "tie_word_embeddings": False, "torch_dtype": "float32", "vocab_size": 320}
QWEN2 = {
    "architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2", "attention_dropout": 0.0,
    "bos_token_id": 0, "eos_token_id": 1, "hidden_act": "silu", "hidden_size": 64,
    "intermediate_size": 112, "max_position_embeddings": 512, "max_window_layers": 2,
    "num_attention_heads": 4, "num_hidden_layers": 2, "num_key_value_heads": 1,
    "rms_norm_eps": 1e-06, "rope_theta": 1000000.0, "sliding_window": 64,
    "use_sliding_window": False, "tie_word_embeddings": False, "torch_dtype": "float32",
    "vocab_size": 352}
QWEN3 = {
    "architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3", "attention_bias": False,
    "dtype": "float32", "bos_token_id": 0, "eos_token_id": 1, "head_dim": 32, "hidden_act": "silu",
    "hidden_size": 64, "intermediate_size": 96, "layer_types": ["full_attention"] * 2,
    "max_position_embeddings": 512, "num_attention_heads": 4, "num_hidden_layers": 2,
    "num_key_value_heads": 2, "rms_norm_eps": 1e-06,
    "rope_parameters": {"rope_theta": 5000000.0, "rope_type": "default"}, "sliding_window": None,
    "use_sliding_window": False, "tie_word_embeddings": True, "vocab_size": 320}
MISTRAL = {
    "architectures": ["MistralForCausalLM"], "model_type": "mistral", "bos_token_id": 0,
    "eos_token_id": 1, "hidden_act": "silu", "hidden_size": 96, "intermediate_size": 128,
    "max_position_embeddings": 512, "num_attention_heads": 6, "num_hidden_layers": 2,
    "num_key_value_heads": 2, "rms_norm_eps": 1e-05, "rope_theta": 10000.0, "sliding_window": 48,
    "tie_word_embeddings": False, "torch_dtype": "float32", "vocab_size": 320}

# name, config, seed, stored type, shards
MODELS = [("llama3-f32", LLAMA, 11, torch.float32, 1),
          ("llama3-bf16", {**LLAMA, "torch_dtype": "bfloat16"}, 11, torch.bfloat16, 1),
          ("qwen2-sharded", QWEN2, 12, torch.float32, 2),
          ("qwen3-f32", QWEN3, 13, torch.float32, 1),
          ("mistral-f32", MISTRAL, 14, torch.float32, 1)]


def weight_shapes(config):
    """Name and shape of every tensor, in the order in which the file holds them."""
    hidden, ffn = config["hidden_size"], config["intermediate_size"]
    heads, kv = config["num_attention_heads"], config["num_key_value_heads"]
    dim = config.get("head_dim", hidden // heads)
    yield "model.embed_tokens.weight", (config["vocab_size"], hidden)
    for i in range(config["num_hidden_layers"]):
        layer = f"model.layers.{i}."
        yield layer + "input_layernorm.weight", (hidden,)
        for name, rows in (("q", heads), ("k", kv), ("v", kv)):
            yield f"{layer}self_attn.{name}_proj.weight", (rows * dim, hidden)
            if config["model_type"] == "qwen2":
                yield f"{layer}self_attn.{name}_proj.bias", (rows * dim,)
        if config["model_type"] == "qwen3":
            yield layer + "self_attn.q_norm.weight", (dim,)
            yield layer + "self_attn.k_norm.weight", (dim,)
        yield layer + "self_attn.o_proj.weight", (hidden, heads * dim)
        yield layer + "post_attention_layernorm.weight", (hidden,)
        yield layer + "mlp.gate_proj.weight", (ffn, hidden)
        yield layer + "mlp.up_proj.weight", (ffn, hidden)
        yield layer + "mlp.down_proj.weight", (hidden, ffn)
    yield "model.norm.weight", (hidden,)
    if not config["tie_word_embeddings"]:
        yield "lm_head.weight", (config["vocab_size"], hidden)


def draw_weights(config, seed):
    rng = np.random.Generator(np.random.PCG64(seed))
    tensors = {}
    for name, shape in weight_shapes(config):
        noise = rng.standard_normal(shape)
        if "norm" in name:
            value = 1.0 + 0.3 * noise
        elif name.endswith("bias"):
            value = 0.5 * noise
        elif "embed" in name:
            value = 0.5 * noise
        else:  # the two that write to the residual stream are weaker, as in a trained model
            gain = 0.5 if "o_proj" in name or "down_proj" in name else 1.1
            value = gain / np.sqrt(shape[1]) * noise
        tensors[name] = torch.from_numpy(value.astype(np.float32))
    return tensors


def write_model(path, config, tensors, dtype, shards):
    shutil.rmtree(path, ignore_errors=True)
    os.makedirs(path)
    with open(os.path.join(path, "config.json"), "w", encoding="utf-8") as file:
        json.dump(config, file, indent=2)
        file.write("\n")
    tensors = {name: value.to(dtype).contiguous() for name, value in tensors.items()}
    if shards == 1:
        save(os.path.join(path, "model.safetensors"), tensors)
        return
    names, index = list(tensors), {}
    for i in range(shards):
        part = names[len(names) * i // shards:len(names) * (i + 1) // shards]
        file_name = f"model-{i + 1:05d}-of-{shards:05d}.safetensors"
        save(os.path.join(path, file_name), {name: tensors[name] for name in part})
        index.update({name: file_name for name in part})
    total = sum(value.numel() * value.element_size() for value in tensors.values())
    with open(os.path.join(path, "model.safetensors.index.json"), "w", encoding="utf-8") as file:
        json.dump({"metadata": {"total_size": total}, "weight_map": index}, file, indent=1)
        file.write("\n")


def save(path, tensors):
    save_file(tensors, path, metadata={"format": "pt"})
    os.chmod(path, 0o644)


def load(path, dtype=torch.float32):
    model, info = AutoModelForCausalLM.from_pretrained(path, dtype=dtype, attn_implementation="eager",
                                                       output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"], info
    return model.eval()


def logits_of(model, tokens, positions):
    with torch.no_grad():
        return model(torch.tensor([tokens]), use_cache=False).logits[0, positions].float().numpy()


def distance(a, b):
    """Largest difference over the largest reference value."""
    return float(np.abs(a - b).max() / np.abs(b).max())


def write_logits(path, sequences, vocab):
    with open(path, "wb") as file:
        file.write(b"DYNDLGT1" + struct.pack("<II", len(sequences), vocab))
        for tokens, positions, logits in sequences:
            file.write(struct.pack("<II", len(tokens), len(positions)))
            file.write(np.asarray(tokens, dtype="<u4").tobytes())
            file.write(np.asarray(positions, dtype="<u4").tobytes())
            file.write(logits.astype("<f4").tobytes())


def break_feature(config, tensors):
    """The same model with its special feature left out, as a check that the feature is seen."""
    config, tensors = dict(config), dict(tensors)
    if config["model_type"] == "llama":
        config["rope_scaling"] = None
    elif config["model_type"] == "qwen2":
        tensors = {n: v * (0.0 if n.endswith("k_proj.bias") else 1.0) for n, v in tensors.items()}
    elif config["model_type"] == "qwen3":
        tensors = {n: torch.ones_like(v) if "q_norm" in n else v for n, v in tensors.items()}
    else:
        config["sliding_window"] = None
    return config, tensors


def random_tokens(seed, length, vocab):
    return np.random.Generator(np.random.PCG64([seed, length])).integers(3, vocab, length).tolist()


def make_random(out, scratch):
    for name, config, seed, dtype, shards in MODELS:
        tensors = draw_weights(config, seed)
        path = os.path.join(out, "models", name)
        write_model(path, config, tensors, dtype, shards)
        model, rounded, exact = load(path), load(path, torch.bfloat16), load(path).double()
        write_model(scratch, *break_feature(config, tensors), dtype, 1)
        broken = load(scratch)
        sequences, worst = [], {"f64": 0.0, "bf16": 0.0, "broken": 0.0}
        for length in LENGTHS:
            tokens, positions = random_tokens(seed, length, config["vocab_size"]), POSITIONS[length]
            logits = logits_of(model, tokens, positions)
            sequences.append((tokens, positions, logits))
            for key, other in (("f64", exact), ("bf16", rounded), ("broken", broken)):
                worst[key] = max(worst[key], distance(logits_of(other, tokens, positions), logits))
        assert worst["f64"] < 1e-5 and worst["broken"] > 0.1, worst
        write_logits(os.path.join(out, "logits", name + ".bin"), sequences, config["vocab_size"])
        print(f"{name}: {sum(v.numel() for v in tensors.values())} parameters, distance of float64 "
              f"{worst['f64']:.1e}, of bf16 arithmetic {worst['bf16']:.1e}, with its feature left out "
              f"{worst['broken']:.2f}, largest logit {max(np.abs(s[2]).max() for s in sequences):.1f}")
    shutil.rmtree(scratch)


def make_tiny(tiny, out):
    """dynd-tiny on text of its own kind: a long chat from another seed."""
    import sys
    sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "models"))
    import generate_corpus
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(os.path.join(tiny, "tokenizer.json"))
    model, exact = load(tiny), load(tiny).double()
    text = "".join(piece for doc in generate_corpus.documents("logits", 200)
                   for piece, _ in generate_corpus.pieces(doc))
    stream = tokenizer.encode(text).ids
    sequences, first, worst = [], 0, 0.0
    for length in LENGTHS + [2500]:
        tokens, positions = stream[first:first + length], POSITIONS[length]
        first += length
        logits = logits_of(model, tokens, positions)
        worst = max(worst, distance(logits_of(exact, tokens, positions), logits))
        sequences.append((tokens, positions, logits))
    write_logits(os.path.join(out, "logits", "dynd-tiny.bin"), sequences, model.config.vocab_size)
    print(f"dynd-tiny: distance of float64 {worst:.1e}, largest logit "
          f"{max(np.abs(s[2]).max() for s in sequences):.1f}")


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--tiny", required=True, help="directory of dynd-tiny")
    parser.add_argument("--out", required=True)
    args = parser.parse_args()
    torch.set_num_threads(1)
    os.makedirs(os.path.join(args.out, "logits"), exist_ok=True)
    make_random(args.out, os.path.join(args.out, "models", ".scratch"))
    make_tiny(args.tiny, args.out)


if __name__ == "__main__":
    main()
