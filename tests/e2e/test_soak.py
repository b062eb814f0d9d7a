"""Long runs with the hash runner: every stream is checked token by token, nothing may be left behind."""

import random
import re
import time

from conftest import HASH, running, wait_until
from load import STREAM_TIMEOUT_S, kill_one, load_of

N_REQUESTS = 10000
LOAD = ["--concurrency", "256", "--isl", "400", "--osl", "60", "--shared-prefix", "0.2",
        "--cancel", "0.2"]
CHAOS_S = 120
KILL_EVERY_S = 2
RESTART = ["supervisor.restart_backoff_max_ms=200", "supervisor.restart_budget=10000"]


def requests_done(daemon):
    counts = re.findall(r"^dynd_requests_total\{.*\} (\d+)", daemon.http.get("/metrics").text, re.M)
    return sum(map(int, counts))


def rss_by_process(daemon):
    """Resident kB of each process; its role and number for a name."""
    rss = {}
    for name, pid in re.findall(r"process started process=(\S+) pid=(\d+)", daemon.log()):
        with open(f"/proc/{pid}/status", encoding="ascii") as f:
            rss[name] = int(re.search(r"VmRSS:\s+(\d+) kB", f.read())[1])
    return rss


def test_ten_thousand_requests_leave_nothing_behind(log_dir):
    with running(log_dir, "2p2d.yaml", *HASH, name="soak") as daemon:
        with load_of(daemon, "--requests", str(N_REQUESTS), *LOAD) as load:
            wait_until(lambda: requests_done(daemon) >= N_REQUESTS // 2, 120, "half of the requests")
            half = rss_by_process(daemon)
            totals = load.finish(120)
        daemon.wait_idle()
        end = rss_by_process(daemon)
        print(totals, {name: (half[name], end[name]) for name in half})
        assert totals["wrong"] == totals["errors"] == 0
        assert totals["done"] + totals["cancelled"] == N_REQUESTS
        assert 0.18 <= totals["cancelled"] / N_REQUESTS <= 0.22, "void: not enough was broken off"
        assert daemon.total("blocks_quarantined") == 0
        assert len(half) == 5
        for name, kb in half.items():
            assert end[name] <= 1.02 * kb, f"{name} grows: {kb} to {end[name]} kB"


def test_two_minutes_of_kills_change_no_token(log_dir):
    rng = random.Random(7)
    kills = {"prefill": 0, "decode": 0}
    with running(log_dir, "2p2d.yaml", *HASH, *RESTART, name="kills") as daemon:
        with load_of(daemon, "--duration", str(CHAOS_S), *LOAD) as load:
            start = time.monotonic()
            for i in range(1, CHAOS_S // KILL_EVERY_S):
                time.sleep(max(0, start + i * KILL_EVERY_S - time.monotonic()))
                for role in kills:
                    kills[role] += kill_one(daemon, role, rng)
            totals = load.finish(STREAM_TIMEOUT_S + 15)
        print(totals, kills)
        assert min(kills.values()) >= CHAOS_S // KILL_EVERY_S - 4, "void: the faults did not fire"
        assert totals["wrong"] == totals["timeout"] == totals["transport"] == totals["short"] == 0
        assert totals["errors"] == totals["http"] + totals["stream"]  # each told why
        assert totals["done"] >= 1000 and totals["cancelled"] >= 100, "void: there was no load"
        wait_until(lambda: len(daemon.workers()) == 4 and daemon.is_full_strength(), 15,
                   "all workers are back")
        daemon.wait_idle()
