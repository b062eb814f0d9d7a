"""Workers die under load. Every token that a client got must be right, no stream may hang, and the
daemon must be whole again afterwards. The load generator computes what each answer must be."""

import json
import os
import random
import re
import signal
import time

from conftest import HASH, running, wait_until
from load import STREAM_TIMEOUT_S, kill_one, load_of

DURATION_S = float(os.environ.get("DYND_CHAOS_S", "12"))
KILL_EVERY_S = 2
FAST_RESTART = ["supervisor.restart_backoff_max_ms=200", "supervisor.restart_budget=1000"]
SLOW_STEPS = ["hash.step_delay_us=2000", "hash.prefill_delay_us_per_token=20"]


def is_running(pid):
    """False also for one that nobody has waited for yet."""
    try:
        with open(f"/proc/{pid}/stat", encoding="ascii", errors="replace") as f:
            return f.read().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):  # gone, perhaps while it was read
        return False


def test_killed_workers_change_no_token(log_dir):
    rng = random.Random(1)
    with running(log_dir, "2p2d.yaml", *HASH, *FAST_RESTART, *SLOW_STEPS, name="chaos") as daemon:
        with load_of(daemon, "--concurrency", "16", "--duration", str(DURATION_S), "--isl", "300",
                     "--osl", "100", "--shared-prefix", "0.3", "--cancel", "0.05") as load:
            kills = {"prefill": 0, "decode": 0}
            end = time.monotonic() + DURATION_S - 0.5
            while time.monotonic() + KILL_EVERY_S < end:
                time.sleep(KILL_EVERY_S)
                for role in kills:
                    kills[role] += kill_one(daemon, role, rng)
            totals = load.finish(STREAM_TIMEOUT_S + 15)
        fired = DURATION_S // KILL_EVERY_S - 2
        assert min(kills.values()) >= fired, f"the faults did not fire: {kills}"
        assert totals["done"] >= 50, "there was no load"
        assert totals["cancelled"] > 0
        assert totals["wrong"] == totals["timeout"] == totals["transport"] == 0
        assert totals["short"] == 0, "a stream ended early without an error event"
        router = daemon.status()["router"]
        assert router["workers_lost"] >= sum(kills.values()) - 2
        assert router["retries"] > 0, "no request was hit"
        # A request fails only when its attempts are used up, which takes several kills.
        assert totals["errors"] <= totals["requests"] // 20
        wait_until(lambda: len(daemon.workers()) == 4 and daemon.is_full_strength(), 15,
                   "all workers are back")
        daemon.wait_idle()
        with load_of(daemon, "--requests", "40", "--isl", "200", "--osl", "20") as load:
            after = load.finish(STREAM_TIMEOUT_S)
        assert after["done"] == 40 and after["wrong"] == 0


def test_one_death_fails_no_request(log_dir):
    """With a second worker of its role at hand, a death is not seen by clients."""
    with running(log_dir, "2p2d.yaml", *HASH, *FAST_RESTART, *SLOW_STEPS, name="death") as daemon:
        for role in ("decode", "prefill"):
            with load_of(daemon, "--concurrency", "12", "--requests", "120", "--isl", "300",
                         "--osl", "60") as load:
                wait_until(lambda: daemon.status()["router"]["running"] > 0, 5, "load is under way")
                time.sleep(0.3)
                assert kill_one(daemon, role, random.Random(2))
                totals = load.finish(STREAM_TIMEOUT_S)
            assert (totals["done"], totals["wrong"]) == (120, 0), totals
            wait_until(lambda: len(daemon.workers()) == 4 and daemon.is_full_strength(), 15,
                       "all workers are back")
        assert daemon.status()["router"]["workers_lost"] == 2
        daemon.wait_idle()


def test_sigterm_lets_requests_end(log_dir):
    with running(log_dir, "disagg.yaml", *HASH, *SLOW_STEPS, name="drain") as daemon:
        with load_of(daemon, "--concurrency", "16", "--requests", "16", "--isl", "200",
                     "--osl", "300") as load:
            wait_until(lambda: daemon.status()["router"]["requests"] == 16, 10, "16 requests run")
            daemon.process.send_signal(signal.SIGTERM)
            totals = load.finish(STREAM_TIMEOUT_S)
        assert (totals["done"], totals["errors"], totals["wrong"]) == (16, 0, 0)
        assert daemon.process.wait(15) == 0
    assert "killed" not in daemon.log()


def test_new_requests_are_refused_while_draining(log_dir):
    with running(log_dir, "disagg.yaml", *HASH, *SLOW_STEPS, name="refuse") as daemon:
        body = {"prompt": [1, 2, 3], "max_tokens": 400, "stream": True, "ignore_eos": True}
        with daemon.http.stream("POST", "/v1/completions", json=body) as stream:
            lines = stream.iter_lines()
            next(lines)
            daemon.process.send_signal(signal.SIGTERM)
            wait_until(lambda: "draining" in daemon.log(), 5, "the router drains")
            rest = [line for line in lines if line]
        assert rest[-1] == "data: [DONE]"
        events = [json.loads(line[6:]) for line in rest[:-1]]
        assert events[-1]["choices"][0]["finish_reason"] == "length"
        assert daemon.process.wait(15) == 0


def test_killed_router_comes_back_on_its_port(log_dir):
    with running(log_dir, "disagg.yaml", *HASH, *FAST_RESTART, name="router") as daemon:
        ids = daemon.complete(prompt=[5, 6, 7], max_tokens=5, seed=1, return_token_ids=True)
        pid = int(re.search(r"process=router pid=(\d+)", daemon.log())[1])
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda: daemon.log().count("process started process=router") == 2, 10,
                   "the router is started again")
        daemon.wait_ready()
        again = daemon.complete(prompt=[5, 6, 7], max_tokens=5, seed=1, return_token_ids=True)
        assert again["choices"][0]["token_ids"] == ids["choices"][0]["token_ids"]
        daemon.wait_idle()


def test_killed_supervisor_takes_its_processes_along(log_dir):
    with running(log_dir, "2p2d.yaml", *HASH, name="supervisor") as daemon:
        pids = [int(pid) for pid in re.findall(r"process started .*pid=(\d+)", daemon.log())]
        assert len(pids) == 5
        daemon.process.kill()
        daemon.process.wait(5)
        wait_until(lambda: not any(map(is_running, pids)), 10, "all processes have ended")
