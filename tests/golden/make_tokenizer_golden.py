#!/usr/bin/env python3
"""Makes tests/golden/tokenizer/<name>/{tokenizer.json,cases.bin}.

Needs Python 3.11 (Unicode 14 tables, which bound the test alphabet) and
    pip install tokenizers==0.23.3
The result is committed; the C test test_tokenizer_golden.c reads nothing else.

Trains four small byte-level BPE tokenizers on text that this script writes, each in the shape of one family,
and records what the reference gives for many strings:

    llama3  Llama-3 split pattern, ignore_merges, BOS template, pair merges
    qwen2   Qwen2 split pattern, NFC, "a b" merges, added tokens of every kind
    o200k   o200k split pattern, split by inverted removal, normalized added tokens
    gpt2    ByteLevel's own pattern, prefix space, special tokens inside the vocabulary

cases.bin, numbers as LEB128 varints:
    "DYNDTOK1" count
    count * { flags  n_text text[n_text]  n_ids ids[n_ids]  hash64 (little endian) }
flags 1: added special tokens are recognised; 2: add_special_tokens. text may hold invalid UTF-8: the
reference saw text.decode("utf-8", "replace"). hash64 is FNV-1a of the decoded ids, special tokens kept; 0 where
the ids hold an added token that NFC changes, which the reference decodes through its byte alphabet to garbage.
"""

import json
import os
import random
import sys
import unicodedata

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers
from tokenizers import pre_tokenizers, processors, trainers

HERE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "tokenizer")

CONTRACTIONS = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
TAIL = r"\s*[\r\n]+|\s+(?!\S)|\s+"
LLAMA3 = (CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|" + TAIL)
QWEN2 = (CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|" + TAIL)
UPPER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]"
LOWER = r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
O200K = (r"[^\r\n\p{L}\p{N}]?" + UPPER + "*" + LOWER + "+" + CONTRACTIONS + "?|" +
         r"[^\r\n\p{L}\p{N}]?" + UPPER + "+" + LOWER + "*" + CONTRACTIONS + "?|" +
         r"\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|" + TAIL)

WORDS = {
    "latin": "the of and to in a is that for it you was with be on by not he this are or his from at which "
             "but have an had they were their one all we can her has there been if more when will would who "
             "so no out up into do any only other new some could time these two may then first my now such "
             "like our over man me even most made after also did many before must through years where much "
             "your way well down should because each just those people too little state good very make "
             "world still own see men work long get here between both life being under never day same "
             "another know while last might us great old year off come since against go came right used "
             "take three don't won't it's we're I'm they've she'll he'd running quickly question answer "
             "token model prefill decode worker router stream memory",
    "french": "être déjà où français élève garçon naïve œuvre château forêt août l'eau qu'il aujourd'hui",
    "german": "über größe straße schön müde fußball jäger äpfel mädchen können zwölf",
    "spanish": "niño señor mañana corazón ¿cómo ¡hola! está también más años",
    "polish": "źdźbło łódź żółć gęś mąż ćma ósmy święto",
    "turkish": "İstanbul ışık çiçek güneş şeker ağaç",
    "vietnamese": "tiếng Việt người được những không một của và có thể",
    "russian": "и в не на я быть он с что а по это она этот к но они мы весь который мочь ёлка йод объект",
    "ukrainian": "її є ґанок зв'язок п'ять об'їзд",
    "greek": "και το να είναι για με που από στην ήταν Ελλάδα ψυχή Ωμέγα",
    "arabic": "في من على إلى أن هذا التي الذي كان مع مُحَمَّد لا إله",
    "hebrew": "של את על הוא לא זה שָׁלוֹם עִבְרִית",
    "hindi": "है के में की और से को हिन्दी नमस्ते क्षत्रिय",
    "bengali": "আমি তুমি বাংলা করে কো",
    "thai": "ที่ และ เป็น ใน ของ ภาษาไทย น้ำ",
    "chinese": "的 一是 不了 人我 在有 他这 中国 模型 推理 你好 世界 分词 器 學習 機器 龍龜",
    "japanese": "これは テスト です カタカナ ひらがな 東京 がぎぐげご ﾊﾝｶｸ プログラム",
    "korean": "안녕하세요 한국어 모델 입니다 서울 값 닭",
    "georgian": "საქართველო ენა თბილისი",
    "armenian": "Հայաստան լեզու և",
    "amharic": "አማርኛ ሰላም",
    "tamil": "தமிழ் வணக்கம் கோ",
}
CODE = [
    "int main(void)\n{\n\treturn 0;\n}\n", "for (size_t i = 0; i < n; i++) {\n    sum += x[i];\n}\n",
    "def f(x):\n    return x ** 2  # square\n\n", "#include <stdio.h>\r\n#define MAX_LEN 4096\r\n",
    "SELECT id, name FROM users WHERE age >= 21;", "<div class=\"row\">&nbsp;</div>\n",
    "let s = `a${b}`; // comment\n", "git commit -m 'fix: off-by-one'\n", "{\"key\": [1, 2.5e-3, null]}",
    "https://example.org/path?q=a%20b&x=1#frag", "C:\\dir\\file.txt", "a->b != c && !d || e / f // g\n",
    "HTTPServer parseXMLDocument camelCaseWord SCREAMING_SNAKE iPhone15Pro", "/* comment */\n\n\n",
]
EMOJI = ["😀", "👍🏽", "👨‍👩‍👧‍👦", "🏳️‍🌈", "🇩🇪", "🇯🇵🇺🇸", "❤️", "1️⃣", "🧑🏿‍🚀", "🫠", "🥹", "☃", "✅", "🤷‍♀️", "👁️‍🗨️"]
SPACES = [" ", "  ", "   ", "\t", "\n", "\r\n", "\r", "\x0b", "\x0c", "\x85", "\xa0", "\u1680", "\u180e", "\u2000",
          "\u2003", "\u2007", "\u200a", "\u200b", "\u2028", "\u2029", "\u202f", "\u205f", "\u2060", "\u3000", "\ufeff",
          "\x1c", "\x1f"]
MARKS = ["\u0301", "\u0308", "\u0323", "\u0327", "\u0345", "\u031b", "\u0591", "\u05b0", "\u064b", "\u0651", "\u093c",
         "\u094d", "\u09be", "\u0e49", "\u0f71", "\u0f72", "\u3099", "\u309a", "\u20dd", "\ufe0f", "\u200d", "\u0338"]
NFC_TRAPS = ["e\u0301", "\u00e9", "\u1e9b\u0323", "\u212b", "\u2126", "\u0958", "\u0b47\u0b3e", "\u1100\u1161\u11a8",
             "\uac00\u11a8", "\u1112\u1161\u11ab\u1100\u1173\u11af", "\u0344", "\u0f73", "\uf900", "\ufb1d", "\u2adc",
             "a\u0315\u0300\u05ae\u0062", "q\u0323\u0307", "\u0041\u030a\u0301", "\u30ab\u3099", "\u0344\u0301",
             "s\u0323\u0307", "\u1e69", "\u0130", "i\u0307", "\ufb01", "\u00bd", "\uff21", "\u01d5\u0304",
             "\u0061\u0301\u0302\u0303\u0304\u0305\u0306\u0307\u0308\u0309\u030a\u030b\u030c\u0323\u0324\u0325\u0326\u0327"]
INVALID = [b"\xff", b"\xc3", b"\xe2\x82", b"\xf0\x9f\x98", b"\xed\xa0\x80", b"\xc0\xaf", b"\xf5\x80\x80\x80", b"\x80\xbf",
           b"\xe0\x80\x80", b"\xf4\x90\x80\x80", b"\xf0\x80\x80\x80", b"\xe2\x28\xa1", b"\xf0\x9f\x28", b"\xfe\xfe"]

# Assigned in Unicode 14 and not private: what every engine involved agrees to know.
ASSIGNED = [c for c in range(0x110000) if unicodedata.category(chr(c)) not in ("Cn", "Cs", "Co")]


def word(rng):
    return rng.choice(WORDS[rng.choice(list(WORDS))].split())


# Frequent enough in training to earn merges, so that a wrong cut inside them changes the ids.
CUTS = ["\u180e.", " \u180e\u180e", "!\u180e", "x'\u017ft", "we'\u017f", "\u3000\u3000", "\u2028\n", "\xa0\xa0", "12345678",
        "\u0663\u0664\u0665\u0666", "e\u0301\u0323x", "//\n/", "..\r\n", "\u01c5ab", "\u02b0A", "a\u0345B", "\u2160\u2161\u2162\u2163"]


def corpus(rng):
    for i in range(6000):
        if i % 10 == 0:
            yield rng.choice(CUTS) * 2 + rng.choice(CUTS)
        kind = rng.random()
        if kind < 0.6:
            words = WORDS["latin" if rng.random() < 0.5 else rng.choice(list(WORDS))].split()
            line = " ".join(rng.choice(words) for _ in range(rng.randint(3, 12)))
            yield line[0].upper() + line[1:] + rng.choice([".", "!", "?", "\n", ",", ":"])
        elif kind < 0.8:
            yield rng.choice(CODE) + rng.choice(CODE)
        elif kind < 0.9:
            yield " ".join(str(rng.randint(0, 10 ** rng.randint(1, 6))) for _ in range(6))
        else:
            yield rng.choice(EMOJI) + " " + word(rng) + rng.choice(SPACES) + word(rng)


def random_chars(rng, n):
    return "".join(chr(rng.choice(ASSIGNED)) for _ in range(n))


def noise(rng, specials):
    """One string of a random kind, as bytes."""
    def sentence(n=6):
        return " ".join(word(rng) for _ in range(rng.randint(1, n)))

    def casing(s):
        return rng.choice([str.upper, str.title, str.lower, str.swapcase])(s)

    kind = rng.randrange(16)
    if kind == 0:
        return sentence(9).encode()
    if kind == 1:
        return casing(sentence()).encode()
    if kind == 2:
        return (rng.choice(CODE) + rng.choice(["", " ", "\n\n"]) + rng.choice(CODE)[:20]).encode()
    if kind == 3:
        return "".join(rng.choice(EMOJI) + rng.choice(["", " ", "a", "!"]) for _ in range(rng.randint(1, 4))).encode()
    if kind == 4:
        return "".join(rng.choice(SPACES) * rng.randint(1, 3) + rng.choice(["", "x", "7", "é", ".", word(rng)])
                       for _ in range(rng.randint(1, 6))).encode()
    if kind == 5:
        digits = "".join(rng.choice("0123456789") for _ in range(rng.randint(1, 40)))
        return (rng.choice(["", "-", "$", "v", " "]) + digits + rng.choice(["", ".5", "%", "th", "٣٤٥", "①②", "Ⅷ½"])).encode()
    if kind == 6:
        return "".join(rng.choice(["a", "e", "Z", "ा", "가", "s", word(rng)]) + "".join(rng.choices(MARKS, k=rng.randint(0, 4)))
                       for _ in range(rng.randint(1, 5))).encode()
    if kind == 7:
        return "".join(rng.choice(NFC_TRAPS) + rng.choice(["", " ", "x"]) for _ in range(rng.randint(1, 3))).encode()
    if kind == 8:
        unit = rng.choice(["a", "ab", "Aa", "的", "!", "=", "-", "é", "x1", "...", "ß", " \n", "\t", "A", "中文字", "'s", "\u0301"])
        return (unit * rng.randint(2, 60)).encode()
    if kind == 9:
        parts = []
        for _ in range(rng.randint(1, 4)):
            special = rng.choice(specials)
            if rng.random() < 0.2:
                special = special[:rng.randint(1, len(special))]
            parts.append(rng.choice(["", " ", "  ", "\u3000", "x", "_", "é", sentence(2), "\n"]) + special)
        return ("".join(parts) + rng.choice(["", " ", "\u2003\n", "y", "1", sentence(2)])).encode()
    if kind == 10:
        return sentence(3).encode() + rng.choice(INVALID) + rng.choice(["", "a", " ", "é"]).encode() + rng.choice(INVALID)
    if kind == 11:
        return bytes(rng.randrange(256) for _ in range(rng.randint(1, 24)))
    if kind == 12:
        return random_chars(rng, rng.randint(1, 12)).encode()
    if kind == 13:
        first = rng.choice(ASSIGNED)
        block = [c for c in range(first, first + 64) if unicodedata.category(chr(c)) not in ("Cn", "Cs", "Co")]
        return "".join(chr(rng.choice(block)) for _ in range(rng.randint(2, 10))).encode()
    if kind == 14:
        return "".join(rng.choice(CUTS) + rng.choice(["", "", " ", "a"]) for _ in range(rng.randint(1, 5))).encode()
    return (word(rng) + rng.choice(["'s", "'S", "'ſ", "'T", "'re", "'VE", "'Ll", "'d", "’s", "'", "''s"]) +
            rng.choice(["", " ", word(rng)])).encode()


def fixed(specials):
    """Strings that every tokenizer must get: edges, long words, each special token in every surrounding."""
    yield b""
    for s in SPACES + EMOJI + MARKS + NFC_TRAPS + CODE:
        yield s.encode()
    for s in INVALID:
        yield s
        yield b"a" + s + b"b"
    for s in specials:
        for left, right in (("", ""), ("a", "b"), (" ", " "), ("  \n", "\t "), ("é", "_"), (s, s), ("x ", " y")):
            yield (left + s + right).encode()
    for n in (95, 96, 97, 98, 300):  # around the limit between the two merge methods
        yield ("abcdefghijklmnopqrstuvwxyz" * 12)[:n].encode()
        yield ("thereandthenwhichwould" * 14)[:n].encode()
    yield b"a" * 700
    yield "的".encode() * 200
    yield ("e" + "\u0301\u0323" * 40 + "\u0327\u0308" * 30).encode()
    yield b"1234567890" * 12
    yield b" " * 150 + b"x"


def varint(n):
    out = bytearray()
    while n >= 0x80:
        out.append(n & 0x7f | 0x80)
        n >>= 7
    out.append(n)
    return bytes(out)


def fnv1a(data):
    h = 0xcbf29ce484222325
    for b in data:
        h = (h ^ b) * 0x100000001b3 & 0xffffffffffffffff
    return h


def write_cases(tok, path, specials, count, seed):
    rng = random.Random(seed)
    texts = list(dict.fromkeys(fixed(specials)))
    seen = set(texts)
    while len(texts) < count:
        text = noise(rng, specials)
        if text not in seen:
            seen.add(text)
            texts.append(text)
    out = bytearray(b"DYNDTOK1" + varint(len(texts)))
    for i, text in enumerate(texts):
        flags = (1, 0, 1, 3)[i % 4]
        tok.encode_special_tokens = not flags & 1
        ids = tok.encode(text.decode("utf-8", "replace"), add_special_tokens=bool(flags & 2)).ids
        decoded = tok.decode(ids, skip_special_tokens=False).encode()
        out += varint(flags) + varint(len(text)) + text + varint(len(ids))
        comparable = not any(unicodedata.normalize("NFC", s) != s and tok.token_to_id(s) in ids for s in specials)
        out += b"".join(varint(id) for id in ids) + (fnv1a(decoded) * comparable).to_bytes(8, "little")
    with open(path, "wb") as f:
        f.write(out)
    return len(texts)


def train(pre_tokenizer, normalizer, vocab_size, special, ignore_merges):
    tok = Tokenizer(models.BPE(ignore_merges=ignore_merges))
    tok.pre_tokenizer = pre_tokenizer
    if normalizer is not None:
        tok.normalizer = normalizer
    trainer = trainers.BpeTrainer(vocab_size=vocab_size, special_tokens=special, show_progress=False,
                                  initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()))
    tok.train_from_iterator(corpus(random.Random(1)), trainer)
    tok.decoder = decoders.ByteLevel()
    return tok


def split(pattern, behavior="isolated", invert=False):
    return pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(pattern), behavior, invert),
        pre_tokenizers.ByteLevel(add_prefix_space=False, trim_offsets=True, use_regex=False),
    ])


def make_llama3():
    tok = train(split(LLAMA3), None, 2300, [], True)
    specials = ["<|begin_of_text|>", "<|end_of_text|>", "<|eot_id|>", "<|start_header_id|>", "<|end_header_id|>",
                "<|reserved_special_token_0|>", "<|reserved_special_token_1|>"]
    tok.add_special_tokens([AddedToken(s, special=True, normalized=False) for s in specials])
    bos = tok.token_to_id(specials[0])
    tok.post_processor = processors.Sequence([
        processors.ByteLevel(trim_offsets=True),
        processors.TemplateProcessing(single=specials[0] + " $A", pair=specials[0] + " $A $B",
                                      special_tokens=[(specials[0], bos)]),
    ])
    return tok, specials, None


def make_qwen2():
    tok = train(split(QWEN2), normalizers.NFC(), 2000, [], False)
    tokens = [
        AddedToken("<|endoftext|>", special=True, normalized=False),
        AddedToken("<|im_start|>", special=True, normalized=False),
        AddedToken("<|im_end|>", special=True, normalized=False),
        AddedToken("<tool_call>", special=False, normalized=False),
        AddedToken("</tool_call>", special=False, normalized=False),
        AddedToken("<mask>", special=True, lstrip=True, normalized=False),
        AddedToken("[SEP]", special=True, rstrip=True, normalized=False),
        AddedToken("<both>", special=False, lstrip=True, rstrip=True, normalized=False),
        AddedToken("NAME", special=False, single_word=True, normalized=False),
        AddedToken("cafe\u0301", special=False, normalized=True),
        AddedToken("<|im_start|>user", special=True, normalized=False),
        AddedToken("<norm>", special=True, single_word=True, normalized=True),
    ]
    tok.add_tokens(tokens)

    def legacy_merges(data):
        data["model"]["merges"] = [" ".join(pair) for pair in data["model"]["merges"]]

    return tok, [t.content for t in tokens] + ["caf\u00e9"], legacy_merges


def make_o200k():
    tok = train(split(O200K, "removed", True), None, 2300, [], False)
    tokens = [AddedToken(s, special=True, normalized=False) for s in
              ["<|start|>", "<|end|>", "<|message|>", "<|channel|>", "<|return|>", "<|call|>", "<|constrain|>"]]
    tokens += [AddedToken("    ", normalized=True), AddedToken("\t\t", normalized=True),
               AddedToken("数学", normalized=True), AddedToken("数学家", normalized=True, rstrip=True)]
    tok.add_tokens(tokens)
    start, end = tok.token_to_id("<|start|>"), tok.token_to_id("<|end|>")
    tok.post_processor = processors.TemplateProcessing(
        single="<|start|> $A <|end|>", special_tokens=[("<|start|>", start), ("<|end|>", end)])
    return tok, [t.content for t in tokens], None


def make_gpt2():
    special = ["<|endoftext|>", "<pad>"]
    tok = train(pre_tokenizers.ByteLevel(add_prefix_space=True), None, 1200, special, False)
    tok.post_processor = processors.ByteLevel(trim_offsets=False)
    return tok, special, None


def main():
    assert unicodedata.unidata_version.startswith("14."), "run with Python 3.11"
    total = 0
    for name, make, count, seed in (("llama3", make_llama3, 1800, 11), ("qwen2", make_qwen2, 1800, 12),
                                    ("o200k", make_o200k, 1800, 13), ("gpt2", make_gpt2, 700, 14)):
        tok, specials, edit = make()
        folder = os.path.join(HERE, name)
        os.makedirs(folder, exist_ok=True)
        data = json.loads(tok.to_str())
        if edit is not None:
            edit(data)
        text = json.dumps(data, ensure_ascii=False, separators=(",", ":"))
        with open(os.path.join(folder, "tokenizer.json"), "w", encoding="utf-8") as f:
            f.write(text)
        reread = Tokenizer.from_str(text)
        n = write_cases(reread, os.path.join(folder, "cases.bin"), specials, count, seed)
        print(f"{name}: {reread.get_vocab_size()} tokens, {n} cases")
        total += n
    print(f"{total} cases")


if __name__ == "__main__":
    sys.exit(main())
