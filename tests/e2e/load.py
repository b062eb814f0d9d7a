"""dynd-bench load against a daemon with the hash runner: it computes what each answer must be."""

import contextlib
import os
import re
import signal
import subprocess

import pytest

from conftest import BENCH, SLOWDOWN

STREAM_TIMEOUT_S = 30 * SLOWDOWN
TOTALS = re.compile(
    r"requests (\d+) +done (\d+) +cancelled (\d+) +errors (\d+) \(http (\d+), stream (\d+), "
    r"short (\d+), transport (\d+), timeout (\d+)\) +wrong (\d+)")


class Load:
    """dynd-bench load in the background."""

    def __init__(self, daemon, *args):
        command = [BENCH, "load", "--url", f"{daemon.url}/v1/completions", "--model", "hash",
                   "--check-hash", "1", "--hash-layers", "4", "--vocab-size", "32000",
                   "--timeout", str(STREAM_TIMEOUT_S), "--uniform", "1", "--quiet", "1", *args]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                                        text=True)

    def finish(self, timeout_s):
        """Counts by name; fails the test when the load does not end in time."""
        try:
            output, _ = self.process.communicate(timeout=timeout_s)
        except subprocess.TimeoutExpired:
            pytest.fail("the load did not end: a stream hangs")
        print(output)
        found = TOTALS.search(output)
        assert found, output
        names = ("requests", "done", "cancelled", "errors", "http", "stream", "short", "transport",
                 "timeout", "wrong")
        return dict(zip(names, map(int, found.groups())))

    def kill(self):
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()


@contextlib.contextmanager
def load_of(daemon, *args):
    load = Load(daemon, *args)
    try:
        yield load
    finally:
        load.kill()


def kill_one(daemon, role, rng):
    """SIGKILLs a running worker of that role. False when none is up."""
    pids = [w["pid"] for w in daemon.workers() if w["role"] == role]
    if not pids:
        return False
    with contextlib.suppress(ProcessLookupError):
        os.kill(rng.choice(pids), signal.SIGKILL)
    return True
