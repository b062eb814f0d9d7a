"""Every answer of the hash runner is known beforehand (hash_model.py): many requests at once, with
choices, seeds and sampling fields, some broken off, over two and over four workers."""

import json
import random
import re
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

import hash_model
from conftest import ANSWER_S, HASH, running

N_REQUESTS = 200
AT_ONCE = 32
VOCAB_SIZE = 32000


def make_request(rng, shared, prompt_max=200, answer_max=40):
    """A body, the tokens of each choice, and after how many events to break off, or None."""
    prompt = shared[:rng.choice([0, 0, 64, prompt_max])]
    prompt += [rng.randrange(VOCAB_SIZE) for _ in range(rng.randrange(1, prompt_max))]
    sampling = {"temperature": rng.choice([0, 0.7, 1, 1.5]), "top_p": rng.choice([1, 0.9, 0.3]),
                "min_p": rng.choice([0, 0.05]), "top_k": rng.choice([0, -1, 1, 40]),
                "seed": rng.choice([0, 1, -1, rng.getrandbits(63)])}
    body = {"model": "hash", "prompt": prompt, "max_tokens": rng.randrange(1, answer_max + 1),
            "n": rng.choice([1, 1, 1, 2, 3]), "ignore_eos": True, "return_token_ids": True,
            "stream": rng.random() < 0.7, **sampling}
    if rng.random() < 0.3:
        body["cache_salt"] = rng.choice(["one tenant", "another"])
    for key in ("temperature", "top_p", "min_p", "top_k"):
        if rng.random() < 0.3:  # left out: the default
            sampling.pop(key)
            body.pop(key)
    expect = hash_model.expected(prompt, body["max_tokens"], body["n"],
                                 body.get("cache_salt", ""), vocab_size=VOCAB_SIZE, **sampling)
    cancel_after = rng.randrange(0, 6) if body["stream"] and rng.random() < 0.25 else None
    return body, expect, cancel_after


def read_stream(response, n, cancel_after):
    """Token ids of each choice, and whether the stream came to its end."""
    got = [[] for _ in range(n)]
    n_events = 0
    if cancel_after == 0:
        return got, False
    for line in response.iter_lines():
        if not line.startswith("data: "):
            assert line == ""
            continue
        if line == "data: [DONE]":
            return got, True
        event = json.loads(line[6:])
        assert "error" not in event, event
        for choice in event["choices"]:
            got[choice["index"]] += choice["token_ids"]
        n_events += 1
        if n_events == cancel_after:
            return got, False
    pytest.fail("the stream ended without [DONE]")


def play(client, request):
    """'equal', 'broken off', or what was wrong."""
    body, expect, cancel_after = request
    if not body["stream"]:
        answer = client.post("/v1/completions", json=body)
        if answer.status_code != 200:
            return answer.text
        got, ended = [c["token_ids"] for c in answer.json()["choices"]], True
    else:
        with client.stream("POST", "/v1/completions", json=body) as response:
            if response.status_code != 200:
                return response.read().decode()
            got, ended = read_stream(response, body["n"], cancel_after)
    if ended:
        return "equal" if got == expect else f"n={body['n']}: {got} is not {expect}"
    is_prefix = all(e[:len(g)] == g for g, e in zip(got, expect))
    return "broken off" if is_prefix else f"{got} does not begin {expect}"


def check_oracle(daemon, seed, **lengths):
    rng = random.Random(seed)
    shared = [rng.randrange(VOCAB_SIZE) for _ in range(200)]
    requests = [make_request(rng, shared, **lengths) for _ in range(N_REQUESTS)]
    limits = httpx.Limits(max_connections=AT_ONCE)
    with httpx.Client(base_url=daemon.url, timeout=ANSWER_S, trust_env=False, limits=limits) as client:
        with ThreadPoolExecutor(AT_ONCE) as pool:
            results = list(pool.map(lambda r: play(client, r), requests))
    assert [r for r in results if r not in ("equal", "broken off")] == []
    assert results.count("broken off") >= N_REQUESTS // 20
    assert results.count("equal") >= N_REQUESTS // 2
    daemon.wait_idle()
    assert daemon.total("blocks_quarantined") == 0


def peer_transports(daemon):
    """The transports that the workers took for one another."""
    return set(re.findall(r"connecting to peer peer=\S+ instance=\d+ transport=(\S+)", daemon.log()))


@pytest.mark.parametrize("config", ["disagg.yaml", "2p2d.yaml"])
def test_all_streams_equal_the_oracle(log_dir, config):
    with running(log_dir, config, *HASH, "hash.step_delay_us=500", name=config) as daemon:
        check_oracle(daemon, seed=1)
        router = daemon.status()["router"]
        assert router["remote_prefills"] > 0
        assert router["workers_lost"] == router["retries"] == 0
        assert daemon.total("transfer_failures") == 0
        assert {w["transport"] for w in daemon.workers()} == {"shm+ucx"}
        assert peer_transports(daemon) == {"shm"}


@pytest.mark.parametrize("transport", ["ucx", "shm"])
def test_all_streams_equal_the_oracle_over(log_dir, transport):
    """Each transport alone; by default one host uses shm."""
    with running(log_dir, "disagg.yaml", *HASH, f"kv_transfer.transport={transport}", name=transport) as daemon:
        assert {w["transport"] for w in daemon.workers()} == {transport}
        check_oracle(daemon, seed=3)
        assert daemon.status()["router"]["remote_prefills"] > 0
        assert daemon.total("transfer_failures") == 0
        assert peer_transports(daemon) == {transport}


def test_all_streams_equal_the_oracle_with_preemption(log_dir):
    small = ["kv.pool_blocks=32", "kv.block_tokens=16", "scheduler.reserve_headroom_blocks=0",
             "scheduler.prefill_chunk_tokens=32", "hash.step_delay_us=500"]
    with running(log_dir, "disagg.yaml", *HASH, *small, name="small-pool") as daemon:
        check_oracle(daemon, seed=2, prompt_max=30, answer_max=100)
        assert daemon.total("preemptions") > 0


def test_oracle_tells_one_changed_token():
    """The oracle itself: it sees order, position, salt, seed and choice."""
    base = hash_model.expected([1, 2, 3], 4, n=2, seed=7)
    assert base[0] != base[1]
    others = [hash_model.expected([1, 3, 2], 4, seed=7), hash_model.expected([1, 2, 3], 4, seed=8),
              hash_model.expected([1, 2, 3], 4, seed=7, cache_salt="x"),
              hash_model.expected([1, 2, 3], 4, seed=7, top_p=0.9),
              hash_model.expected([0, 1, 2, 3], 4, seed=7)]
    assert all(other[0] != base[0] for other in others)
    assert hash_model.expected([1, 2, 3], 4, seed=7)[0] == base[0]
