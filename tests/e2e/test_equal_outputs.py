"""The shipped model answers the same tokens however the work is spread: in one process or two,
alone or in a batch, with a cached prefix or without, preempted or not."""

from concurrent.futures import ThreadPoolExecutor

import pytest

from conftest import running

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
