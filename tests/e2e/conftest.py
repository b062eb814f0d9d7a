"""Starts the real daemon for a test and ends it, whatever happens.

DYND_BINARY_DIR names the folder with dynd and dynd-bench; without it, build/dev."""

import contextlib
import ctypes
import json
import os
import pathlib
import re
import signal
import socket
import subprocess
import time

import httpx
import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
BINARY_DIR = pathlib.Path(os.environ.get("DYND_BINARY_DIR", ROOT / "build" / "dev"))
DYND = BINARY_DIR / "dynd"
BENCH = BINARY_DIR / "dynd-bench"
MODEL_DIR = ROOT / "configs" / "models" / "dynd-tiny"
HASH = ["model.runner=hash", "model.path=", "model.name=hash"]

SLOWDOWN = float(os.environ.get("DYND_TEST_SLOWDOWN", "1"))  # of a sanitizer build
ANSWER_S = 60 * SLOWDOWN
READY_S = 30 * SLOWDOWN  # an ordinary start takes well under a second
STOP_S = 30
LOG_TAIL_BYTES = 20000


PR_SET_PDEATHSIG = 1
LIBC = ctypes.CDLL(None)


def die_with_parent():
    """Runs in the child: a test runner that is killed leaves no daemon behind."""
    LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def wait_until(condition, timeout_s, what):
    """The first true value of condition(); fails the test when there is none in time."""
    deadline = time.monotonic() + timeout_s
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            pytest.fail(f"not within {timeout_s} s: {what}")
        time.sleep(0.02)


def run_dynd(*args, timeout_s=30, **kwargs):
    """Runs dynd to its end; gives exit code, stdout and stderr."""
    return subprocess.run([DYND, *args], cwd=ROOT, capture_output=True, text=True,
                          timeout=timeout_s, **kwargs)


class Daemon:
    """dynd with its children, in a process group of their own."""

    def __init__(self, log_path, config, sets=()):
        self.log_path = log_path
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.http = httpx.Client(base_url=self.url, timeout=ANSWER_S, trust_env=False)
        command = [DYND, "--config", str(config)]
        for item in [f"http.port={self.port}", *sets]:
            command += ["--set", item]
        with open(log_path, "wb") as log:
            self.process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.DEVNULL,
                                            stdout=log, stderr=log, start_new_session=True,
                                            preexec_fn=die_with_parent)

    def log(self):
        return self.log_path.read_bytes().decode(errors="replace")

    def is_ready(self):
        if self.process.poll() is not None:
            pytest.fail(f"dynd ended with {self.process.returncode} before it was ready")
        try:
            return self.http.get("/ready", timeout=5).status_code == 200
        except httpx.TransportError:
            return False

    def status(self):
        answer = self.http.get("/status")
        assert answer.status_code == 200
        return answer.json()

    def workers(self):
        return self.status()["workers"]

    def is_full_strength(self):
        """Every worker of the configuration is up."""
        workers = self.workers()
        return bool(workers) and all(w["health"] == "ok" for w in workers)

    def wait_ready(self):
        wait_until(self.is_ready, READY_S, "dynd is ready")
        wait_until(self.is_full_strength, READY_S, "all workers are up")

    def total(self, key):
        return sum(w[key] for w in self.workers())

    def wait_idle(self, timeout_s=15):
        """No request, and every block back in its pool; those kept for their prefix count."""

        def is_idle():
            status = self.status()
            router = status["router"]
            busy = ("running", "waiting", "reserved", "inflight", "blocks_quarantined")
            return (router["requests"] == router["cancels_pending"] == 0
                    and all(w["health"] == "ok" and w["blocks_free"] == w["blocks_total"]
                            and not any(w[key] for key in busy) for w in status["workers"]))

        wait_until(is_idle, timeout_s, "dynd is idle with all blocks free")

    def complete(self, **body):
        answer = self.http.post("/v1/completions", json=body)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def stop(self):
        """SIGTERM; every process must end by itself and without complaint."""
        self.process.send_signal(signal.SIGTERM)
        assert self.process.wait(STOP_S) == 0
        ends = re.findall(r"process ended process=(\S+) exit_code=(-?\d+)", self.log())
        assert ends and all(code == "0" for _, code in ends), ends

    def kill(self):
        self.http.close()
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(STOP_S)


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    outcome = yield
    report = outcome.get_result()
    if not report.failed:
        return
    for name, value in item.funcargs.items():
        if isinstance(value, Daemon):
            report.sections.append((f"log of {name}", value.log()[-LOG_TAIL_BYTES:]))


@contextlib.contextmanager
def running(log_dir, config, *sets, name="dynd"):
    daemon = Daemon(log_dir / f"{name}.log", ROOT / "configs" / config, sets)
    try:
        daemon.wait_ready()
        yield daemon
        if daemon.process.poll() is None:
            daemon.stop()
    except BaseException:
        print(daemon.log()[-LOG_TAIL_BYTES:])
        raise
    finally:
        daemon.kill()


@pytest.fixture(scope="module")
def log_dir(tmp_path_factory):
    return tmp_path_factory.mktemp("log")


@pytest.fixture(scope="module")
def disagg(log_dir):
    """A prefill and a decode worker with the shipped model."""
    with running(log_dir, "disagg.yaml", name="disagg") as daemon:
        yield daemon


@pytest.fixture(scope="session")
def golden():
    """Prompts as token ids and the greedy answers to them."""
    path = ROOT / "tests" / "golden" / "texts" / "dynd-tiny.json"
    return json.loads(path.read_text())["prompts"]
