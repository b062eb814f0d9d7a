#!/usr/bin/env python3
"""Asks dynd-tiny held-out questions and checks that its greedy answers make sense.

    python3 tests/models/eval_dynd_tiny.py --model configs/models/dynd-tiny

Needs torch 2.11.0 and transformers 5.17.0; a CPU will do. None of the last questions here is a frame of
generate_corpus.py. Exit status 1 when fewer than nine in ten answers hold the expected words.
"""
import argparse
import sys

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

# (the user's messages, words that the last answer must hold)
HELD_OUT = [
    (["Hello! Great to see you."], "Hello!"),
    (["hello, how are you doing today"], "fine"),
    (["who are you exactly?"], "dynd-tiny"),
    (["What kinds of things can you do for me?"], "short story"),
    (["prefill - what does that mean again"], "first phase"),
    (["In simple words, what is decode?"], "one token at a time"),
    (["so what is this KV cache thing"], "keys and values"),
    (["What job does the router have?"], "HTTP requests"),
    (["How can I get dynd started?"], "./quickstart"),
    (["Which licence is dynd under?"], "Apache"),
    (["Is it necessary to install Python for dynd?"], "no Python"),
    (["Which port does it listen on by default?"], "8000"),
    (["Will it work without a GPU?"], "CPU"),
    (["What is the purpose of the supervisor?"], "starts the router"),
    (["what happens if a worker gets killed?"], "starts it again"),
    (["What is meant by disaggregated serving?"], "different workers"),
    (["Which models does dynd support?"], "Qwen3"),
    (["How do I send a request with curl?"], "/v1/chat/completions"),
    (["How large is a block?"], "64 tokens"),
    (["In plain words, what is TTFT?"], "first token"),
    (["Where do I find the metrics of dynd?"], "/metrics"),
    (["How do I turn on streaming?"], "stream to true"),
    (["What's the reason for having a prefix cache?"], "same tokens"),
    (["Could you compute 8 + 9 for me?"], "8 + 9 = 17"),
    (["what do you get for 15 - 6"], "15 - 6 = 9"),
    (["13+ 7 is?"], "20"),
    (["If I add 4 and 11, what do I get?"], "15"),
    (["Nora has 9 plums and gets 5 more. How many plums has Nora now?"], "14"),
    (["What is the capital city of Italy?"], "Rome"),
    (["Tell me, what does a cow say?"], "moo"),
    (["Name all days of the week, please."], "Wednesday"),
    (["Could you count from 4 to 9 for me?"], "4, 5, 6, 7, 8, 9."),
    (["I'd love a story about an owl."], "owl"),
    (["Please write me a tiny story about a robot named Kate"], "robot named Kate"),
    (["Who will win the election next year?"], "very small model"),
    (["What is quantum chromodynamics?"], "very small model"),
    (["Write a sonnet about the sea."], "very small model"),
    (["My name is Viktor.", "What is 2 + 2?", "And what is my name?"], "Viktor"),
    (["My favorite color is green.", "Hi", "Which color is my favorite color?"], "green"),
    (["Tell me a story about a bear.", "Who was the friend in it?"], "friend"),
    (["What is a worker?", "Thanks a lot", "And what is a block?"], "64 tokens"),
    (["Thank you so much!"], "welcome"),
    (["Is dynd quicker than vLLM?"], "dynd-bench"),
    (["What makes prefill and decode different?"], "one token at a time"),
    (["What is 250 plus 13?"], "numbers from 0 to 20"),
    (["goodbye for today"], "Goodbye"),
]


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", required=True)
    args = parser.parse_args()
    tokenizer = AutoTokenizer.from_pretrained(args.model)
    model = AutoModelForCausalLM.from_pretrained(args.model, dtype=torch.float32).eval()
    good = 0
    for asks, words in HELD_OUT:
        messages = []
        for ask in asks:
            messages.append({"role": "user", "content": ask})
            text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
            ids = torch.tensor([tokenizer.encode(text)])
            with torch.no_grad():
                out = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=200,
                                     do_sample=False)
            answer = tokenizer.decode(out[0, ids.shape[1]:], skip_special_tokens=True)
            messages.append({"role": "assistant", "content": answer})
        ok = words in answer
        good += ok
        print(f"{'ok ' if ok else 'BAD'} {' / '.join(asks)}\n      {answer}")
    print(f"{good} of {len(HELD_OUT)} answers hold the expected words")
    return 0 if good * 10 >= len(HELD_OUT) * 9 else 1


if __name__ == "__main__":
    sys.exit(main())
