#!/usr/bin/env python3
"""Makes the golden texts: prompts and the greedy continuations that dynd-tiny must give.

    python3 tests/golden/make_texts_golden.py --tiny configs/models/dynd-tiny \
        --out tests/golden/texts/dynd-tiny.json

Made with Python 3.11, torch 2.11.0, transformers 5.17.0, tokenizers 0.23.2; on a CPU, some minutes.

The arithmetic is float32 on the bf16 weights of the model. A prompt is taken only if over its whole
continuation the best token leads the second by at least MARGIN, far more than bf16 can move a logit,
so every backend must give exactly these tokens. The script also runs the model in bf16 and refuses
to write if one token differs.

The file: {"model_sha256": of model.safetensors, "eos": [ids], "prompts": [
  {"kind": "stream" | "recall", "n": tokens in the prompt, "prompt": [ids], "expect": [ids],
   "finish": "stop" | "length", "margin": smallest lead, "text": expect as text}, ...]}
With temperature 0 and max_tokens = len(expect) the server gives `expect`. Where finish is "stop" the
next token would be one of eos (its lead counts too), so any larger max_tokens gives the same.

  stream   the last n tokens of a stream of documents that ends in the middle of a text or before an
           answer; the first token may be any, as a prompt of token ids may begin anywhere
  recall   a chat of n tokens whose first turn holds what its last question asks for
"""
import argparse
import bisect
import hashlib
import json
import os
import random
import sys

import torch
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "models"))
import generate_corpus as corpus  # noqa: E402

EOS = [2, 0]
MARGIN = 1.0
TRIES = 40
LENGTHS = [1, 1, 1, 2, 2, 2, 3, 4, 5, 7, 8, 12, 15, 16, 17, 24, 31, 32, 33, 48, 60, 62, 63, 63, 64, 64,
           65, 65, 80, 96, 120, 126, 127, 128, 128, 129, 130, 160, 191, 192, 193, 255, 256, 257, 320,
           450, 511, 512, 513, 700, 896, 1000, 1023, 1024, 1025, 1500, 2000, 2047, 2048, 2049, 2600,
           3333, 3900, 4000]
RECALL = [100, 200, 400, 800, 1200, 1700, 2400, 3200]


class Greedy:
    def __init__(self, path):
        self.tokenizer = Tokenizer.from_file(os.path.join(path, "tokenizer.json"))
        self.model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).eval()
        self.bf16 = AutoModelForCausalLM.from_pretrained(path, dtype=torch.bfloat16).eval()

    def ids(self, text):
        return self.tokenizer.encode(text, add_special_tokens=False).ids

    @torch.no_grad()
    def run(self, prompt, tokens_max, model=None):
        """Greedy continuation with a KV cache: (tokens, finish, smallest lead)."""
        model = model or self.model
        out = model(torch.tensor([prompt]), use_cache=True, logits_to_keep=1)
        tokens, lead = [], float("inf")
        while True:
            best = torch.topk(out.logits[0, -1].float(), 2)
            lead = min(lead, (best.values[0] - best.values[1]).item())
            token = best.indices[0].item()
            if token in EOS:
                return tokens, "stop", lead
            if len(tokens) == tokens_max:
                return tokens, "length", lead
            if lead < MARGIN and model is self.model:
                return tokens, "unsure", lead
            tokens.append(token)
            out = model(torch.tensor([[token]]), past_key_values=out.past_key_values, use_cache=True)

    @torch.no_grad()
    def check(self, prompt, tokens):
        """The same by one pass without a cache, and in bf16: both must agree with `tokens`."""
        logits = self.model(torch.tensor([prompt + tokens]), use_cache=False).logits[0]
        assert logits[len(prompt) - 1:-1].argmax(-1).tolist() == tokens
        return self.run(prompt, len(tokens), self.bf16)[0] == tokens


def item(greedy, kind, prompt, tokens, finish, lead):
    return {"kind": kind, "n": len(prompt), "prompt": prompt, "expect": tokens, "finish": finish,
            "margin": round(lead, 3), "text": greedy.tokenizer.decode(tokens)}


def stream_of(greedy, seed, docs):
    """Token ids of many documents, and the places where a prompt may end."""
    ids, ends = [], []
    for doc in corpus.documents(seed, docs):
        for text, learn in corpus.pieces(doc):
            part = greedy.ids(text)
            if learn and len(part) > 26:
                # Before an answer, or up to twelve tokens into it.
                ends += [len(ids) + k for k in (0, 3, 12) if len(part) - k > 26]
            ids += part
    return ids, ends


def make_stream(greedy, rng):
    ids, ends = stream_of(greedy, "texts", 6000)
    recitals = [greedy.ids(text) for text in corpus.RECITALS]
    items, seen, shortest = [], set(), 24
    for n in LENGTHS:
        found = None
        for _ in range(TRIES):
            if n < 6:
                prompt = rng.choice(recitals)[:n]
            else:
                end = ends[rng.randrange(bisect.bisect_left(ends, n + 1), len(ends))]
                prompt = ids[end - n:end]
            if tuple(prompt) in seen:
                continue
            tokens, finish, lead = greedy.run(prompt, rng.choice([24, 32, 40, 48]))
            if finish != "unsure" and lead >= MARGIN and len(tokens) >= shortest:
                if greedy.check(prompt, tokens):
                    found = item(greedy, "stream", prompt, tokens, finish, lead)
                    break
                print(f"n = {n}: bf16 differs, lead {lead:.2f}")
        assert found, f"no sure prompt of {n} tokens"
        seen.add(tuple(found["prompt"]))
        items.append(found)
        print(f"stream {n}: {len(found['expect'])} tokens, lead {found['margin']}", flush=True)
    return items


def make_recall(greedy, rng):
    """Chats that begin with a name or a favorite word, go on about other things and ask for it."""
    items = []
    for n in RECALL:
        for _ in range(TRIES):
            name = rng.choice(corpus.HE_NAMES + corpus.SHE_NAMES)
            turns = [("user", f"My name is {name}."), ("assistant", f"Nice to meet you, {name}!")]
            close = greedy.ids("<|im_start|>user\nWhat is my name?<|im_end|>\n"
                               "<|im_start|>assistant\n")
            prompt = greedy.ids(render(turns))
            while len(prompt) + len(close) < n:
                ask, answer, _ = rng.choice([corpus.skill_fact, corpus.skill_sum,
                                             corpus.skill_world])(rng, {})
                prompt += greedy.ids(render([("user", ask), ("assistant", answer)]))
            prompt += close
            tokens, finish, lead = greedy.run(prompt, 16)
            if lead >= MARGIN and finish == "stop" and greedy.tokenizer.decode(tokens) == \
                    f"Your name is {name}." and greedy.check(prompt, tokens):
                items.append(item(greedy, "recall", prompt, tokens, finish, lead))
                print(f"recall {len(prompt)}: {items[-1]['text']} lead {lead:.2f}", flush=True)
                break
        else:
            print(f"recall {n}: none found", flush=True)
    return items


def render(turns):
    return "".join(f"<|im_start|>{role}\n{content}<|im_end|>\n" for role, content in turns)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--tiny", required=True, help="directory of dynd-tiny")
    parser.add_argument("--out", required=True)
    args = parser.parse_args()
    torch.set_num_threads(1)
    greedy, rng = Greedy(args.tiny), random.Random("dynd-tiny golden texts")
    with open(os.path.join(args.tiny, "model.safetensors"), "rb") as file:
        digest = hashlib.sha256(file.read()).hexdigest()
    prompts = make_stream(greedy, rng) + make_recall(greedy, rng)
    os.makedirs(os.path.dirname(os.path.abspath(args.out)), exist_ok=True)
    with open(args.out, "w", encoding="utf-8") as file:
        file.write('{"model_sha256":"%s","eos":%s,"prompts":[\n' % (digest, json.dumps(EOS)))
        file.write(",\n".join(json.dumps(p, separators=(",", ":")) for p in prompts))
        file.write("\n]}\n")
    print(f"{len(prompts)} prompts, smallest lead {min(p['margin'] for p in prompts)}")


if __name__ == "__main__":
    main()
