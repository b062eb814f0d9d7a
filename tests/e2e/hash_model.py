"""What the hash runner answers, computed from the request alone (src/engine/hash_expect.h).

Nothing here is shared with the daemon: equal tokens mean that every KV block it read was the right
one. All arithmetic is on 64-bit words."""

import hashlib
import struct

MASK = (1 << 64) - 1


def mix(x):
    x = (x + 0x9E3779B97F4A7C15) & MASK
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & MASK
    return x ^ (x >> 31)


def bits(value):
    """The IEEE-754 pattern of a 32-bit float."""
    return struct.unpack("<I", struct.pack("<f", value))[0]


class HashModel:
    """The state after the tokens pushed so far."""

    def __init__(self, layer_count=4, vocab_size=32000, cache_salt=""):
        salt = hashlib.sha256(cache_salt.encode()).digest()[:16]
        salt0, salt1 = struct.unpack("<QQ", salt)
        self.vocab_size = vocab_size
        self.n_tokens = 0
        self.fold = 0
        self.entry = [mix(salt0 ^ mix((salt1 + layer) & MASK)) for layer in range(layer_count)]

    def push(self, token):
        p = self.n_tokens
        self.n_tokens += 1
        for layer, entry in enumerate(self.entry):
            entry = mix(entry ^ mix((token + 0x100000001 * layer) & MASK))
            self.entry[layer] = entry
            weight = 2 * (p * 1031 + layer) + 1
            self.fold = (self.fold + (entry ^ mix((entry + p) & MASK)) * weight) & MASK

    def next(self, state, choice, output_position):
        return mix(self.fold ^ mix(state ^ (choice | output_position << 32))) % self.vocab_size

    def copy(self):
        other = object.__new__(HashModel)
        other.__dict__.update(self.__dict__, entry=list(self.entry))
        return other


def sampling_state(temperature=1.0, top_p=1.0, min_p=0.0, top_k=0, seed=0):
    """Fields as a request has them; top_k -1 means off, as 0 does."""
    state = mix(bits(temperature) | bits(top_p) << 32)
    state = mix(state ^ (bits(min_p) | max(top_k, 0) << 32))
    return mix(state ^ (seed & MASK))


def expected(prompt, n_tokens, n=1, cache_salt="", layer_count=4, vocab_size=32000, **sampling):
    """Token ids of each of the n choices."""
    start = HashModel(layer_count, vocab_size, cache_salt)
    for token in prompt:
        start.push(token)
    state = sampling_state(**sampling)
    answers = []
    for choice in range(n):
        model = start.copy()
        answer = []
        for position in range(n_tokens):
            answer.append(model.next(state, choice, position))
            model.push(answer[-1])
        answers.append(answer)
    return answers
