"""Times what PyTorch and transformers do on the shapes that bench/gpu/run measures dynd on.

    python3 tests/gpu/peers.py [attention] [gemm] [sampling] [generate] [compiled]

Figures of a peer in the same run; nothing here checks results. A backend that refuses a shape is left out by name.
Inputs are random, and so many sets of them that none comes from a cache. With DYND_BENCH_ROWS each figure becomes a
line of that file, under the name that dynd's own program gives the same work (bench/report.h)."""

import json
import os
import sys
import time

import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
BACKENDS = {"torch cuDNN": SDPBackend.CUDNN_ATTENTION, "torch flash": SDPBackend.FLASH_ATTENTION}
MODEL = "llama-3.1-8b"
GEMMS = {"qkv": (6144, 4096), "o": (4096, 4096), "gate-up": (28672, 4096), "down": (4096, 14336),
         "head": (128256, 4096)}
GEMM_ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192)
HEAD_ROWS_MAX = 256
COLD_BYTES = 256 << 20  # more than any cache holds
VOCAB = 131072
CONTEXT, TOKENS, WARM_TOKENS = 1024, 48, 8


def row(who, what, value, unit):
    print("%-24s %-64s %10.2f %s" % (who, what, value, unit), flush=True)
    path = os.environ.get("DYND_BENCH_ROWS")
    if path:
        with open(path, "a", encoding="ascii") as file:
            file.write("%s\t%s\t%.6g\t%s\t0\n" % (who, what, value, unit))


def left_out(who, what, error):
    print("%-24s %-64s left out: %s" % (who, what, (str(error).splitlines() or [repr(error)])[0][:80]), flush=True)


def median(values):
    return sorted(values)[len(values) // 2]


def event_us(call, n_runs):
    """Median over calls, each between two events."""
    for i in range(3):
        call(i)
    times = []
    for i in range(n_runs):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        call(i)
        end.record()
        end.synchronize()
        times.append(start.elapsed_time(end) * 1e3)
    return median(times)


def graph_us(call, n_calls, n_runs=9):
    """One call, out of a recorded graph of many: what the device takes, without the launches."""
    side = torch.cuda.Stream()
    with torch.cuda.stream(side):
        for i in range(3):
            call(i)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=side):
        for i in range(n_calls):
            call(i)
    return event_us(lambda _: graph.replay(), n_runs) / n_calls


def normal(*shape):
    return torch.randn(*shape, device="cuda", dtype=torch.bfloat16)


# ---- attention


def prefill_one(batch, tokens, heads, kv_heads, dim, extra=""):
    what = "prefill attention %d x %d%s heads %d:%d dim %d" % (batch, tokens, extra, heads, kv_heads, dim)
    flop = 2 * dim * heads * batch * tokens * tokens
    sets = [[normal(batch, n, tokens, dim) for n in (heads, kv_heads, kv_heads)] for _ in range(3)]
    n_runs = int(min(40, max(7, 2e13 / flop)))

    def call(i):
        return F.scaled_dot_product_attention(*sets[i % 3], is_causal=True, enable_gqa=True)

    for who, backend in BACKENDS.items():
        try:
            with sdpa_kernel(backend):
                row(who + (" without sinks" if extra else ""), what, event_us(call, n_runs), "us")
        except RuntimeError as error:
            left_out(who, what, error)


def decode_one(batch, context, heads=32, kv_heads=8, dim=128):
    what = "decode attention hd%d g%d b%d x %d" % (dim, heads // kv_heads, batch, context)
    n_sets = max(2, min(32, COLD_BYTES // (batch * context * kv_heads * dim * 4) + 1))
    sets = [[normal(batch, heads, 1, dim), normal(batch, kv_heads, context, dim), normal(batch, kv_heads, context, dim)]
            for _ in range(n_sets)]

    def call(i):
        return F.scaled_dot_product_attention(*sets[i % n_sets], enable_gqa=True)

    for who, backend in BACKENDS.items():
        try:
            with sdpa_kernel(backend):
                row(who, what, graph_us(call, max(4, n_sets)), "us")
        except RuntimeError as error:
            left_out(who, what, error)


def attention():
    for tokens in (512, 1024, 2048, 4096, 8192, 16384, 32768):
        prefill_one(1, tokens, 32, 8, 128)
        if tokens < 8192:
            prefill_one(16384 // tokens, tokens, 32, 8, 128)
    prefill_one(1, 4096, 64, 8, 64, " sinks")
    prefill_one(1, 16384, 64, 8, 64, " sinks")
    for batch, context in ((1, 1024), (1, 8192), (1, 32768), (8, 1024), (8, 8192), (8, 32768), (64, 1024), (64, 8192)):
        decode_one(batch, context)


# ---- matrix products


def gemm_one(name, n, k):
    n_sets = max(1, min(32, (1 << 30) // (2 * n * k)))
    weights = [normal(n, k) for _ in range(n_sets)]
    for rows in GEMM_ROWS:
        if name == "head" and rows > HEAD_ROWS_MAX:
            continue
        x = normal(rows, k)
        n_calls = min(n_sets, 4) if rows >= 1024 else n_sets
        who, what = "torch matmul", "gemm %s %s x %d" % (MODEL, name, rows)
        try:
            row(who, what, graph_us(lambda i: torch.matmul(x, weights[i % n_sets].T), n_calls), "us")
        except RuntimeError as error:
            left_out(who, what, error)


def gemm_fp8_one(name, n, k):
    """Scales by row, as weights and activations of a checkpoint in fp8 have them; x is quantised before."""
    n_sets = max(1, min(32, (1 << 30) // (n * k)))
    weights = [normal(n, k).to(torch.float8_e4m3fn) for _ in range(n_sets)]
    scale_w = torch.rand(1, n, device="cuda") * 0.01
    for rows in GEMM_ROWS:
        x = normal(rows, k).to(torch.float8_e4m3fn)
        scale_x = torch.rand(rows, 1, device="cuda") * 0.01

        def call(i):
            return torch._scaled_mm(x, weights[i % n_sets].T, scale_a=scale_x, scale_b=scale_w,
                                    out_dtype=torch.bfloat16, use_fast_accum=True)

        n_calls = min(n_sets, 4) if rows >= 1024 else n_sets
        who, what = "torch, x in fp8 already", "gemm %s fp8 row %s x %d" % (MODEL, name, rows)
        try:
            row(who, what, graph_us(call, n_calls), "us")
        except RuntimeError as error:
            left_out(who, what, error)


def gemm():
    for name, (n, k) in GEMMS.items():
        gemm_one(name, n, k)
        if name != "head":
            gemm_fp8_one(name, n, k)
        torch.cuda.empty_cache()


# ---- sampling


def sample_masks(logits, top_k, top_p):
    """The usual chain of logits processors: the k-th best by topk, the nucleus by a sort, a draw by multinomial."""
    if top_k:
        kth = torch.topk(logits, top_k).values[:, -1:]
        logits = logits.masked_fill(logits < kth, float("-inf"))
    values, order = torch.sort(logits, descending=False)
    tail = values.softmax(dim=-1).cumsum(dim=-1) <= 1 - top_p
    tail[:, -1] = False
    logits = logits.masked_fill(tail.scatter(1, order, tail), float("-inf"))
    return torch.multinomial(logits.softmax(dim=-1), 1)


def sample_sorted(logits, top_k, top_p):
    """One sort serves both limits, and the draw is an arg max over exponential noise: what servers batch."""
    values, order = logits.sort(dim=-1, descending=False)
    if top_k:
        values.masked_fill_(values < values[:, -top_k].unsqueeze(1), float("-inf"))
    tail = values.softmax(dim=-1).cumsum_(dim=-1) <= 1 - top_p
    tail[:, -1] = False
    values.masked_fill_(tail, float("-inf"))
    probs = torch.empty_like(values).scatter_(1, order, values).softmax(dim=-1)
    return probs.div_(torch.empty_like(probs).exponential_()).argmax(dim=-1)


def logits_of(kind, rows):
    """As check_sample draws them."""
    logits = torch.randn(rows, VOCAB, device="cuda") * {"flat": 1.0, "peaked": 2.0, "model": 2.5}[kind]
    if kind == "peaked":
        high = 10 + 2 * torch.rand(rows, 20, device="cuda")
        logits.scatter_(1, torch.randint(VOCAB, (rows, 20), device="cuda"), high)
        logits.scatter_(1, torch.randint(VOCAB, (rows, 1), device="cuda"), 14.0)
    return logits


def sample_us(way, sets, top_k, top_p):
    """Recorded if it can be."""
    def call(i):
        return way(sets[i % len(sets)], top_k, top_p)

    try:
        return graph_us(call, len(sets))
    except RuntimeError:
        torch.cuda.synchronize()
        return event_us(call, 15)


def sampling():
    ways = {"torch topk and sort": sample_masks, "torch one sort": sample_sorted}
    for kind, rows in (("flat", 64), ("peaked", 64), ("model", 1)):
        n_sets = max(2, min(16, COLD_BYTES // (rows * VOCAB * 4) + 1))
        sets = [logits_of(kind, rows) for _ in range(n_sets)]
        for plan, top_k, top_p in (("top-k 50, top-p .9", 50, 0.9), ("top-p .9", 0, 0.9)):
            what = "sample %s %d x %d %s" % (kind, rows, VOCAB, plan)
            for who, way in ways.items():
                try:
                    with torch.no_grad():
                        row(who, what, sample_us(way, sets, top_k, top_p), "us")
                except RuntimeError as error:
                    left_out(who, what, error)


# ---- whole models


class Clock:
    """A stopping criterion that never stops: takes the time of each token, when the device has made it."""

    def __init__(self):
        self.times = []

    def __call__(self, ids, scores, **_):
        if ids.is_cuda:
            torch.cuda.synchronize()
        self.times.append(time.perf_counter())
        return torch.zeros(ids.shape[0], dtype=torch.bool, device=ids.device)


def model_make(name, device="cuda"):
    """The architecture of configs/shapes with random weights, as transformers builds it."""
    from transformers import LlamaConfig, LlamaForCausalLM, Qwen3Config, Qwen3ForCausalLM

    with open(os.path.join(ROOT, "configs", "shapes", name, "config.json"), encoding="utf-8") as file:
        fields = json.load(file)
    classes = {"LlamaForCausalLM": (LlamaConfig, LlamaForCausalLM), "Qwen3ForCausalLM": (Qwen3Config, Qwen3ForCausalLM)}
    make_config, make_model = classes[fields.pop("architectures")[0]]
    for field in ("torch_dtype", "eos_token_id"):
        fields.pop(field, None)
    torch.set_default_dtype(torch.bfloat16)
    try:
        with torch.device(device):
            model = make_model(make_config(eos_token_id=None, pad_token_id=0, **fields)).eval()
    finally:
        torch.set_default_dtype(torch.float32)
    return model.to(device=device, dtype=torch.bfloat16)


def decode_ms(model, batch, is_compiled, context=CONTEXT, tokens=TOKENS):
    """Median time between two tokens of greedy decoding with a static cache."""
    from transformers import StoppingCriteriaList

    ids = torch.randint(model.config.vocab_size, (batch, context), device=model.device)
    clock = Clock()
    with torch.no_grad():
        model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=tokens, do_sample=False,
                       cache_implementation="static", disable_compile=not is_compiled, eos_token_id=None,
                       pad_token_id=0, stopping_criteria=StoppingCriteriaList([clock]))
    steps = [(b - a) * 1e3 for a, b in zip(clock.times, clock.times[1:])]
    return median(steps[WARM_TOKENS:])


def generate_all(is_compiled):
    who = "transformers compiled" if is_compiled else "transformers"
    start = time.perf_counter()
    models = {name: model_make(name) for name in (MODEL, "qwen3-0.6b")}
    torch.cuda.synchronize()
    print("models with random weights made in %.1f s" % (time.perf_counter() - start), flush=True)
    for batch in (1, 8):
        for name, model in models.items():
            what = "%s decode %d context %d" % (name, batch, CONTEXT)
            torch.compiler.reset()  # else the second batch size is compiled for any, which takes longer
            start = time.perf_counter()
            try:
                row(who, what, decode_ms(model, batch, is_compiled), "ms")
            except RuntimeError as error:
                left_out(who, what, error)
            print("that took %.1f s" % (time.perf_counter() - start), flush=True)


def generate():
    generate_all(False)


def compiled():
    generate_all(True)


def main():
    parts = {"attention": attention, "gemm": gemm, "sampling": sampling, "generate": generate, "compiled": compiled}
    chosen = sys.argv[1:] or list(parts)
    unknown = [name for name in chosen if name not in parts]
    if unknown:
        sys.exit("peers.py: no such part: %s; there are %s" % (" ".join(unknown), " ".join(parts)))
    print("%s, torch %s" % (torch.cuda.get_device_name(), torch.__version__), flush=True)
    torch.backends.cuda.matmul.allow_tf32 = False
    for name in chosen:
        parts[name]()


if __name__ == "__main__":
    main()
