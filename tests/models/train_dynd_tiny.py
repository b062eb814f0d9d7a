#!/usr/bin/env python3
"""Trains dynd-tiny, the model in the box, and writes it as a Hugging Face model directory.

    python3 tests/models/train_dynd_tiny.py --out configs/models/dynd-tiny --compile  # one GPU
    python3 tests/models/train_dynd_tiny.py --out /tmp/x --device cpu --steps 3 --shard-docs 300 \
        --workers 2 --batch-tokens 2048                                           # does it run?

Made with Python 3.12, torch 2.11.0, transformers 5.17.0, tokenizers 0.23.2, safetensors 0.8.0 on one
H100: 9,000 steps of 65,536 tokens, final loss 0.083, six minutes in all.

The tokenizer follows from the seed. The weights follow from it up to the order in which a GPU adds,
so a second run gives a model as good as this one but not the same bytes. After new training run
eval_dynd_tiny.py, then tests/golden/make_logits_golden.py and make_texts_golden.py, and last
check_model.py --write.

Written: config.json generation_config.json model.safetensors (bf16) tokenizer.json
tokenizer_config.json chat_template.jinja
"""
import argparse
import json
import math
import multiprocessing
import os
import sys
import time

os.environ["TOKENIZERS_PARALLELISM"] = "false"

import numpy as np
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from tokenizers import trainers

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import generate_corpus as corpus  # noqa: E402

VOCAB = 4096
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]  # ids 0, 1, 2
# The split pattern of Qwen2: digits stand alone, so sums are sums of digits.
SPLIT = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
         r"|\s*[\r\n]+|\s+(?!\S)|\s+")
CONTEXT = 8192
TEMPLATE = """\
{%- set known_roles = ['system', 'user', 'assistant'] -%}
{%- for message in messages -%}
    {%- if message['role'] not in known_roles -%}
        {{- raise_exception('Unknown role: ' + message['role']) -}}
    {%- endif -%}
    {%- if message['role'] == 'system' and not loop.first -%}
        {{- raise_exception('Only the first message may be a system message') -}}
    {%- endif -%}
    {{- '<|im_start|>' + message['role'] + '\\n' + message['content'] | trim + '<|im_end|>\\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}
    {{- '<|im_start|>assistant\\n' -}}
{%- endif -%}
"""
CONFIG = {
    "architectures": ["Qwen3ForCausalLM"],
    "attention_bias": False,
    "attention_dropout": 0.0,
    "bos_token_id": 0,
    "eos_token_id": 2,
    "pad_token_id": 0,
    "head_dim": 64,
    "hidden_act": "silu",
    "hidden_size": 256,
    "initializer_range": 0.02,
    "intermediate_size": 768,
    "max_position_embeddings": CONTEXT,
    "max_window_layers": 6,
    "model_type": "qwen3",
    "num_attention_heads": 4,
    "num_hidden_layers": 6,
    "num_key_value_heads": 2,
    "rms_norm_eps": 1e-06,
    "rope_scaling": None,
    "rope_theta": 100000.0,
    "sliding_window": None,
    "tie_word_embeddings": True,
    "torch_dtype": "bfloat16",
    "use_cache": True,
    "use_sliding_window": False,
    "vocab_size": VOCAB,
}


# ------------------------------------------------------------------------------------- text to tokens

def train_tokenizer(seed, docs):
    """A byte-level BPE of VOCAB ids over the first `docs` documents of the corpus."""
    def texts():
        for doc in corpus.documents(seed, docs):
            for text, _ in corpus.pieces(doc):
                for name in SPECIAL:
                    text = text.replace(name, "\n")
                yield text
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(SPLIT), behavior="isolated", invert=False),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    tokenizer.train_from_iterator(texts(), trainers.BpeTrainer(
        vocab_size=VOCAB, min_frequency=2, special_tokens=SPECIAL, show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet()))
    return tokenizer


def encode_shard(job):
    """Tokens of one shard: (ids, learn, starts of documents)."""
    seed, docs, tokenizer_json = job
    tokenizer = Tokenizer.from_str(tokenizer_json)
    texts, learn, starts = [], [], []
    for doc in corpus.documents(seed, docs):
        starts.append(len(texts))
        for text, flag in corpus.pieces(doc):
            texts.append(text)
            learn.append(flag)
    ids, mask, offset = [], [], [0]
    for first in range(0, len(texts), 4096):
        for encoding in tokenizer.encode_batch_fast(texts[first:first + 4096]):
            ids.append(np.array(encoding.ids, dtype=np.uint16))
            mask.append(np.full(len(ids[-1]), learn[len(mask)], dtype=bool))
            offset.append(offset[-1] + len(ids[-1]))
    return np.concatenate(ids), np.concatenate(mask), np.array([offset[i] for i in starts])


def encode_corpus(seed, shards, docs, workers, tokenizer_json):
    jobs = [(f"{seed}.{i}", docs, tokenizer_json) for i in range(shards)]
    with multiprocessing.Pool(workers) as pool:
        parts = pool.map(encode_shard, jobs, chunksize=1)
    base = np.cumsum([0] + [len(p[0]) for p in parts[:-1]])
    return (np.concatenate([p[0] for p in parts]), np.concatenate([p[1] for p in parts]),
            np.concatenate([p[2] + b for p, b in zip(parts, base)]))


# --------------------------------------------------------------------------------------------- training

def train(args, ids, mask, starts):
    import torch
    from transformers import Qwen3Config, Qwen3ForCausalLM

    torch.manual_seed(args.seed)
    device = torch.device(args.device)
    model = Qwen3ForCausalLM(Qwen3Config(**{k: v for k, v in CONFIG.items() if k != "torch_dtype"}))
    model.to(device=device, dtype=torch.float32).train()
    print(f"parameters: {sum(p.numel() for p in model.parameters()):,}", flush=True)
    decay = [p for p in model.parameters() if p.ndim == 2]
    other = [p for p in model.parameters() if p.ndim != 2]
    optimizer = torch.optim.AdamW([{"params": decay, "weight_decay": 0.05},
                                   {"params": other, "weight_decay": 0.0}],
                                  lr=args.lr, betas=(0.9, 0.95), fused=device.type == "cuda")
    # One model in memory, but layers compiled once for all six.
    if args.compile:
        for layer in model.model.layers:
            layer.compile(dynamic=False)
    ids = torch.from_numpy(ids.astype(np.int32)).to(device)
    mask = torch.from_numpy(mask).to(device)
    starts = torch.from_numpy(starts).to(device)
    draw = torch.Generator(device=device).manual_seed(args.seed)

    def batch(length):
        """Rows of `length` tokens: two in three begin with a document, the others anywhere."""
        rows = max(1, args.batch_tokens // length)
        limit = len(ids) - length - 1
        at_doc = starts[torch.randint(len(starts), (rows,), generator=draw, device=device)]
        anywhere = torch.randint(limit, (rows,), generator=draw, device=device)
        coin = torch.rand(rows, generator=draw, device=device) < 0.67
        first = torch.where(coin, at_doc, anywhere).clamp(max=limit)
        window = first[:, None] + torch.arange(length + 1, device=device)
        x = ids[window].long()
        return x[:, :-1], torch.where(mask[window[:, 1:]], x[:, 1:], -100)

    def step_at(length):
        x, y = batch(length)
        with torch.autocast(device.type, dtype=torch.bfloat16):
            hidden = model.model(input_ids=x, use_cache=False).last_hidden_state
            logits = model.lm_head(hidden)
        return torch.nn.functional.cross_entropy(logits.flatten(0, 1).float(), y.flatten(),
                                                 ignore_index=-100)

    steps, begun, losses = args.steps, time.time(), []
    step = 0
    while step < steps:
        # Every third step reads long rows, so that all positions up to 4,096 are learned.
        length = args.long if step % 3 == 2 else args.short
        warm = min(1.0, (step + 1) / 200)
        rate = args.lr * warm * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * step / steps)))
        for group in optimizer.param_groups:
            group["lr"] = rate
        loss = step_at(length)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        losses.append(loss.detach())
        step += 1
        if step == 30:
            loss.item()
            timed = time.time()
            print(f"first 30 steps: {timed - begun:.1f} s", flush=True)
        if step == 180:
            loss.item()
            each = (time.time() - timed) / 150
            left = args.max_seconds - (time.time() - begun)
            if step + left / each < steps:
                steps = step + int(left / each)
                print(f"max-seconds allows {steps} steps", flush=True)
            print(f"{each * 1e3:.1f} ms a step, {args.batch_tokens / each / 1e6:.2f} M tokens/s",
                  flush=True)
        if step % 500 == 0 or step == steps:
            mean = torch.stack(losses[-300:]).mean().item()
            print(f"step {step} loss {mean:.4f} at {time.time() - begun:.0f} s", flush=True)
    return model


# ----------------------------------------------------------------------------------------------- export

def write_json(path, value):
    with open(path, "w", encoding="utf-8") as file:
        json.dump(value, file, indent=2)
        file.write("\n")


def export(out, model, tokenizer):
    import torch
    from safetensors.torch import save_file

    os.makedirs(out, exist_ok=True)
    tensors = {name: value.detach().to("cpu", torch.bfloat16).contiguous()
               for name, value in model.state_dict().items() if name != "lm_head.weight"}
    save_file(tensors, os.path.join(out, "model.safetensors"), metadata={"format": "pt"})
    os.chmod(os.path.join(out, "model.safetensors"), 0o644)
    write_json(os.path.join(out, "config.json"), CONFIG)
    write_json(os.path.join(out, "generation_config.json"),
               {"bos_token_id": 0, "do_sample": False, "eos_token_id": [2, 0], "pad_token_id": 0})
    tokenizer.save(os.path.join(out, "tokenizer.json"))
    with open(os.path.join(out, "chat_template.jinja"), "w", encoding="utf-8") as file:
        file.write(TEMPLATE)
    write_json(os.path.join(out, "tokenizer_config.json"), {
        "add_bos_token": False,
        "add_prefix_space": False,
        "added_tokens_decoder": {
            str(i): {"content": name, "lstrip": False, "normalized": False, "rstrip": False,
                     "single_word": False, "special": True} for i, name in enumerate(SPECIAL)},
        "bos_token": None,
        "chat_template": TEMPLATE,
        "clean_up_tokenization_spaces": False,
        "eos_token": "<|im_end|>",
        "model_max_length": CONTEXT,
        "pad_token": "<|endoftext|>",
        "tokenizer_class": "PreTrainedTokenizerFast",
        "unk_token": None,
    })


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", required=True)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--steps", type=int, default=9000)
    parser.add_argument("--max-seconds", type=float, default=1e9, help="fewer steps if need be")
    parser.add_argument("--lr", type=float, default=2e-3)
    parser.add_argument("--batch-tokens", type=int, default=65536)
    parser.add_argument("--short", type=int, default=512, help="tokens of a short row")
    parser.add_argument("--long", type=int, default=4096, help="tokens of a long row")
    parser.add_argument("--shards", type=int, default=64)
    parser.add_argument("--shard-docs", type=int, default=15000)
    parser.add_argument("--workers", type=int, default=os.cpu_count())
    parser.add_argument("--compile", action=argparse.BooleanOptionalAction, default=False)
    args = parser.parse_args()

    begun = time.time()
    tokenizer = train_tokenizer(args.seed, min(60000, args.shard_docs * 4))
    print(f"tokenizer: {tokenizer.get_vocab_size()} ids, {time.time() - begun:.1f} s", flush=True)
    ids, mask, starts = encode_corpus(args.seed, args.shards, args.shard_docs, args.workers,
                                      tokenizer.to_str())
    print(f"corpus: {len(ids):,} tokens, {mask.mean():.2f} learned, {len(starts):,} documents, "
          f"{time.time() - begun:.1f} s", flush=True)
    model = train(args, ids, mask, starts)
    export(args.out, model, tokenizer)
    print(f"written to {args.out}, {time.time() - begun:.1f} s", flush=True)


if __name__ == "__main__":
    main()
