"""The shipped model answers the same tokens however the work is spread: in one process or two,
alone or in a batch, with a cached prefix or without, preempted or not; and so it does with another number format of
the KV cache, on all workers."""

import subprocess
from concurrent.futures import ThreadPoolExecutor

import pytest

from conftest import DYND, READY_S, ROOT, Daemon, die_with_parent, running, wait_until

AT_ONCE = 8


def ask(daemon, prompt, **fields):
    return daemon.complete(prompt=prompt["prompt"], max_tokens=len(prompt["expect"]),
                           temperature=0, return_token_ids=True, **fields)


def ask_all(daemon, prompts, **fields):
    """Asks all prompts, several at once; checks each answer. Gives the answers."""
    with ThreadPoolExecutor(AT_ONCE) as pool:
        answers = list(pool.map(lambda p: ask(daemon, p, **fields), prompts))
    wrong = [len(prompt["prompt"]) for prompt, answer in zip(prompts, answers)
             for choice in answer["choices"] if choice["token_ids"] != prompt["expect"]]
    assert wrong == [], f"prompts of these lengths got other tokens: {wrong}"
    return answers


@pytest.fixture(scope="module")
def unified(log_dir):
    with running(log_dir, "unified.yaml", name="unified") as daemon:
        yield daemon


def test_unified_greedy_equals_golden(unified, golden):
    assert len(golden) == 72
    answers = ask_all(unified, golden)
    for prompt, answer in zip(golden, answers):
        assert answer["choices"][0]["text"] == prompt["text"]
        assert answer["usage"]["prompt_tokens"] == len(prompt["prompt"])
        assert answer["usage"]["completion_tokens"] == len(prompt["expect"])
    unified.wait_idle()


def test_disaggregated_greedy_equals_golden(disagg, golden):
    answers = ask_all(disagg, golden)
    for prompt, answer in zip(golden, answers):
        assert answer["choices"][0]["text"] == prompt["text"]
    router = disagg.status()["router"]
    assert router["remote_prefills"] > 0
    assert router["remote_prefills"] + router["local_prefills"] == len(golden)
    assert router["retries"] == 0
    assert disagg.total("transfer_bytes") > 0
    disagg.wait_idle()


def test_local_prefill_limit_of_zero_means_always_remote(disagg, golden):
    """What configs/disagg.yaml promises; without it the number of hand-offs is left to chance."""
    ask_all(disagg, golden[:16])
    assert disagg.status()["router"]["local_prefills"] == 0


def test_second_pass_hits_the_prefix_cache_with_equal_tokens(disagg, golden):
    long_ones = [p for p in golden if len(p["prompt"]) > 64]
    ask_all(disagg, long_ones)
    answers = ask_all(disagg, long_ones)
    cached = [a["usage"]["prompt_tokens_details"]["cached_tokens"] for a in answers]
    assert all(n > 0 for n in cached)
    assert all(n < len(p["prompt"]) for n, p in zip(cached, long_ones))
    disagg.wait_idle()


def test_two_choices_equal_golden(disagg, golden):
    prompts = [p for p in golden if len(p["prompt"]) <= 1100]
    answers = ask_all(disagg, prompts, n=2)
    assert all([c["index"] for c in a["choices"]] == [0, 1] for a in answers)
    disagg.wait_idle()


def test_ends_by_itself_where_the_model_ends(disagg, golden):
    short = [p for p in golden if p["finish"] == "stop" and len(p["prompt"]) <= 64]
    for prompt in short:
        answer = disagg.complete(prompt=prompt["prompt"], max_tokens=200, temperature=0)
        assert answer["choices"][0]["finish_reason"] == "stop"
        assert answer["choices"][0]["text"] == prompt["text"]


@pytest.mark.parametrize("config", ["unified.yaml", "disagg.yaml"])
def test_small_pool_preempts_without_changing_tokens(log_dir, golden, config):
    prompts = [p for p in golden if len(p["prompt"]) <= 64 and len(p["expect"]) >= 20] * 2
    pool = ["kv.pool_blocks=14", "kv.block_tokens=16", "scheduler.reserve_headroom_blocks=0"]
    with running(log_dir, config, *pool, name="small-pool") as daemon:
        ask_all(daemon, prompts, n=2)
        assert daemon.total("preemptions") > 0
        daemon.wait_idle()


def token_ids(daemon, prompts):
    with ThreadPoolExecutor(AT_ONCE) as pool:
        answers = list(pool.map(lambda p: ask(daemon, p), prompts))
    return [answer["choices"][0]["token_ids"] for answer in answers]


def test_fp8_kv_answers_alike_unified_and_disaggregated(log_dir, golden, unified):
    prompts = [p for p in golden if len(p["prompt"]) <= 1100]
    with running(log_dir, "unified.yaml", "kv.dtype=fp8", name="unified-fp8") as daemon:
        wanted = token_ids(daemon, prompts)
        daemon.wait_idle()
    with running(log_dir, "disagg.yaml", "kv.dtype=fp8", name="disagg-fp8") as daemon:
        assert token_ids(daemon, prompts) == wanted
        assert token_ids(daemon, prompts) == wanted  # with cached prefixes
        assert daemon.status()["router"]["local_prefills"] == 0
        assert daemon.total("transfer_bytes") > 0
        daemon.wait_idle()
        for worker in daemon.workers():
            assert worker["kv_dtype"] == "fp8"
            assert worker["block_bytes"] * 2 == unified.workers()[0]["block_bytes"]
        assert "have no scales for it" in daemon.log()
    # All were as with bf16 when this was written; a close call may fall the other way on another CPU.
    same = sum(ids == p["expect"] for ids, p in zip(wanted, prompts))
    assert same >= 0.9 * len(prompts), f"{same} of {len(prompts)} answers are as with bf16"


def test_worker_with_another_kv_dtype_is_refused_by_name(log_dir, golden, tmp_path):
    endpoint = f"unix:{tmp_path}/other"
    daemon = Daemon(log_dir / "mixed.log", ROOT / "configs" / "unified.yaml", [f"cluster.endpoints={endpoint}"])
    other = None
    try:
        wait_until(daemon.is_ready, READY_S, "dynd is ready")
        command = [DYND, "worker", "--role", "decode", "--name", "other", "--listen", endpoint, "--config",
                   ROOT / "configs" / "unified.yaml", "--set", "kv.dtype=fp8"]
        other = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                                 preexec_fn=die_with_parent)
        wait_until(lambda: "another number format" in daemon.log(), READY_S, "the worker is refused")
        line = next(line for line in daemon.log().splitlines() if "another number format" in line)
        assert "worker=other kv_dtype=fp8 kv_dtype_of_others=bf16" in line
        assert sorted(w["health"] for w in daemon.workers()) == ["ok", "refused"]
        ask_all(daemon, golden[:4])
    finally:
        if other is not None:
            other.terminate()
            other.wait()
        daemon.kill()
