#!/usr/bin/env python3
"""Checks that dynd-tiny and the golden data made from it belong together.

Standard library only; with python3-jinja2 the chat template is rendered too.

    python3 tests/models/check_model.py             # from the root of the repository
    python3 tests/models/check_model.py --write     # after new training: write the manifest anew
"""
import argparse
import hashlib
import json
import os
import struct
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))
MODEL = "configs/models/dynd-tiny"
LOGITS = "tests/golden/logits"
MODELS = "tests/golden/models"
TEXTS = "tests/golden/texts/dynd-tiny.json"
MANIFEST = os.path.join(HERE, "MANIFEST.sha256")
FILES = ["chat_template.jinja", "config.json", "generation_config.json", "model.safetensors",
         "tokenizer.json", "tokenizer_config.json"]
ITEM_BYTES = {"BF16": 2, "F32": 4}

sys.path.insert(0, HERE)
import generate_corpus  # noqa: E402


def read(path):
    with open(os.path.join(ROOT, path), "rb") as file:
        return file.read()


def files_of_manifest():
    names = [f"{MODEL}/{name}" for name in FILES] + [TEXTS]
    for top in (LOGITS, MODELS):
        for folder, _, files in os.walk(os.path.join(ROOT, top)):
            names += [os.path.relpath(os.path.join(folder, name), ROOT) for name in files]
    return sorted(names)


def manifest():
    return "".join(f"{hashlib.sha256(read(name)).hexdigest()}  {name}\n"
                   for name in files_of_manifest())


def check_safetensors(folder):
    """Offsets without gap or overlap, sizes that fit the shapes, shapes that fit the config."""
    config = json.loads(read(f"{folder}/config.json"))
    tensors = {}
    for name in sorted(os.listdir(os.path.join(ROOT, folder))):
        if not name.endswith(".safetensors"):
            continue
        data = read(f"{folder}/{name}")
        head = struct.unpack("<Q", data[:8])[0]
        header = json.loads(data[8:8 + head])
        header.pop("__metadata__", None)
        end = 0
        for tensor, row in sorted(header.items(), key=lambda item: item[1]["data_offsets"]):
            begin, stop = row["data_offsets"]
            count = 1
            for extent in row["shape"]:
                count *= extent
            assert begin == end and stop - begin == count * ITEM_BYTES[row["dtype"]], tensor
            end = stop
            assert tensor not in tensors, tensor
            tensors[tensor] = row
        assert 8 + head + end == len(data), name
    index = f"{folder}/model.safetensors.index.json"
    if os.path.exists(os.path.join(ROOT, index)):
        assert set(json.loads(read(index))["weight_map"]) == set(tensors), index
    hidden = config["hidden_size"]
    assert tensors["model.embed_tokens.weight"]["shape"] == [config["vocab_size"], hidden]
    assert ("lm_head.weight" in tensors) != config["tie_word_embeddings"]
    dtype = {"bfloat16": "BF16", "float32": "F32"}[config.get("torch_dtype") or config["dtype"]]
    assert all(row["dtype"] == dtype for row in tensors.values())
    layers = {name.split(".")[2] for name in tensors if name.startswith("model.layers.")}
    assert len(layers) == config["num_hidden_layers"]
    return config


def check_tokenizer(config):
    tokenizer = json.loads(read(f"{MODEL}/tokenizer.json"))
    settings = json.loads(read(f"{MODEL}/tokenizer_config.json"))
    added = {row["content"]: row for row in tokenizer["added_tokens"]}
    for i, name in enumerate(["<|endoftext|>", "<|im_start|>", "<|im_end|>"]):
        assert added[name]["id"] == i and added[name]["special"], name
        assert settings["added_tokens_decoder"][str(i)]["content"] == name, name
    assert sorted(tokenizer["model"]["vocab"].values()) == list(range(config["vocab_size"]))
    assert settings["eos_token"] == "<|im_end|>" and config["eos_token_id"] == 2
    assert json.loads(read(f"{MODEL}/generation_config.json"))["eos_token_id"] == [2, 0]
    assert settings["chat_template"] == read(f"{MODEL}/chat_template.jinja").decode()
    return settings["chat_template"]


def check_template(template):
    """The template writes a chat exactly as the training text has it."""
    try:
        import jinja2.sandbox
    except ImportError:
        print("jinja2 is missing: the chat template was not rendered")
        return
    class Refused(Exception):
        pass

    def refuse(message):
        raise Refused(message)
    env = jinja2.sandbox.ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
    env.globals["raise_exception"] = refuse
    compiled, chats = env.from_string(template), 0
    for doc in generate_corpus.documents("check", 300):
        if doc[0] != "chat":
            continue
        messages = [{"role": role, "content": content} for role, content in doc[1]]
        want = "".join(text for text, _ in generate_corpus.pieces(doc))
        assert compiled.render(messages=messages) + "<|endoftext|>" == want
        chats += 1
        ask = compiled.render(messages=messages[:-1], add_generation_prompt=True)
        assert want.startswith(ask) and ask.endswith("<|im_start|>assistant\n")
    for bad in ([("tool", "x")], [("user", "x"), ("system", "y")]):
        try:
            compiled.render(messages=[{"role": role, "content": text} for role, text in bad])
        except Refused:
            continue
        raise AssertionError(f"not refused: {bad}")
    print(f"chat template: {chats} chats as trained, unknown roles refused")


def check_texts(config):
    golden = json.loads(read(TEXTS))
    assert golden["model_sha256"] == hashlib.sha256(read(f"{MODEL}/model.safetensors")).hexdigest()
    rows = golden["prompts"]
    assert sum(row["kind"] == "stream" for row in rows) == 64
    for row in rows:
        assert row["n"] == len(row["prompt"]) and row["margin"] >= 0.25
        assert all(0 <= token < config["vocab_size"] for token in row["prompt"] + row["expect"])
        assert row["n"] + len(row["expect"]) <= config["max_position_embeddings"]
        assert row["kind"] == "recall" or 24 <= len(row["expect"]) <= 48
        assert not set(row["expect"]) & set(golden["eos"])
    sizes = [row["n"] for row in rows]
    print(f"texts: {len(rows)} prompts of {min(sizes)} to {max(sizes)} tokens, "
          f"smallest lead {min(row['margin'] for row in rows)}")


def check_logits(path, config):
    data = read(path)
    assert data[:8] == b"DYNDLGT1", path
    sequences, vocab = struct.unpack_from("<II", data, 8)
    assert vocab == config["vocab_size"], path
    at = 16
    for _ in range(sequences):
        n_tokens, n_positions = struct.unpack_from("<II", data, at)
        tokens = struct.unpack_from(f"<{n_tokens}I", data, at + 8)
        positions = struct.unpack_from(f"<{n_positions}I", data, at + 8 + 4 * n_tokens)
        assert max(tokens) < vocab and list(positions) == sorted(set(positions)), path
        assert positions[-1] == n_tokens - 1, path
        at += 8 + 4 * n_tokens + 4 * n_positions
        values = struct.unpack_from(f"<{n_positions * vocab}f", data, at)
        assert all(abs(value) < 1e3 for value in values), path
        at += 4 * n_positions * vocab
    assert at == len(data), path


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--write", action="store_true", help="write the manifest")
    args = parser.parse_args()
    config = check_safetensors(MODEL)
    check_template(check_tokenizer(config))
    assert sum(len(read(f"{MODEL}/{name}")) for name in FILES) <= 20e6
    check_texts(config)
    check_logits(f"{LOGITS}/dynd-tiny.bin", config)
    names = sorted(os.listdir(os.path.join(ROOT, MODELS)))
    for name in names:
        check_logits(f"{LOGITS}/{name}.bin", check_safetensors(f"{MODELS}/{name}"))
    print(f"logits: dynd-tiny {' '.join(names)}")
    golden_bytes = sum(len(read(name)) for name in files_of_manifest() if "golden" in name)
    assert golden_bytes < 5e6
    if args.write:
        with open(MANIFEST, "w", encoding="utf-8") as file:
            file.write(manifest())
    with open(MANIFEST, encoding="utf-8") as file:
        assert file.read() == manifest(), "a file differs from tests/models/MANIFEST.sha256"
    print(f"manifest: {len(files_of_manifest())} files, golden data {golden_bytes} bytes")


if __name__ == "__main__":
    main()
