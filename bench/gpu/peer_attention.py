"""Times torch's scaled_dot_product_attention, causal, on the shapes of check_attention_prefill.

A peer's figures in the same run; nothing here checks results. Prints a table, skips what a backend
refuses."""

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

BACKENDS = {"cudnn": SDPBackend.CUDNN_ATTENTION, "flash": SDPBackend.FLASH_ATTENTION}


def median_ms(call, n_runs):
    for _ in range(3):
        call(0)
    times = []
    for i in range(n_runs):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        call(i)
        end.record()
        end.synchronize()
        times.append(start.elapsed_time(end))
    return sorted(times)[len(times) // 2]


def main():
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}")
    shapes = [(1, 32, 8, 128, t) for t in (512, 1024, 2048, 4096, 8192, 16384, 32768)]
    shapes += [(16384 // t, 32, 8, 128, t) for t in (512, 1024, 2048, 4096)]
    shapes += [(1, 64, 8, 64, t) for t in (4096, 16384)]
    for batch, heads, kv_heads, dim, tokens in shapes:
        row = f"{batch:2} x {tokens:5} heads {heads}:{kv_heads} dim {dim:3}"
        flop = 4 * dim * heads * batch * tokens * tokens / 2
        sets = []
        for _ in range(3):
            q = torch.randn(batch, heads, tokens, dim, device="cuda", dtype=torch.bfloat16)
            k, v = (
                torch.randn(batch, kv_heads, tokens, dim, device="cuda", dtype=torch.bfloat16)
                for _ in range(2)
            )
            sets.append((q, k, v))
        for name, backend in BACKENDS.items():
            try:
                with sdpa_kernel(backend):
                    ms = median_ms(
                        lambda i: scaled_dot_product_attention(
                            *sets[i % 3], is_causal=True, enable_gqa=True
                        ),
                        int(min(40, max(7, 6e13 / flop))),
                    )
                row += f"   {name} {ms * 1e3:9.1f} us {flop / ms / 1e9:6.1f} TFLOP/s"
            except RuntimeError as error:
                row += f"   {name} refused ({str(error).splitlines()[0][:40]})"
        print(row, flush=True)


if __name__ == "__main__":
    main()
