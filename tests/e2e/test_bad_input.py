"""Broken requests, broken configurations, broken model files: a clear message, the right exit code,
and a daemon that goes on."""

import json
import os
import shutil
import socket

import pytest

from conftest import MODEL_DIR, ROOT, free_port, run_dynd

HEAD = "POST /v1/completions HTTP/1.1\r\nHost: a\r\n"
DISAGG = ROOT / "configs" / "disagg.yaml"
UNIFIED = ROOT / "configs" / "unified.yaml"


@pytest.fixture(autouse=True)
def goes_on(request):
    """After each test with the daemon: same processes, still an answer, nothing left behind."""
    if "disagg" not in request.fixturenames:
        yield
        return
    daemon = request.getfixturevalue("disagg")
    pids = sorted(w["pid"] for w in daemon.workers())
    yield
    answer = daemon.complete(prompt=[2789], max_tokens=3, temperature=0, return_token_ids=True)
    assert answer["choices"][0]["token_ids"] == [14, 1567, 14]
    assert sorted(w["pid"] for w in daemon.workers()) == pids
    assert daemon.log().count("process started process=router") == 1
    daemon.wait_idle()


def talk(port, raw):
    """Sends raw bytes; gives all that comes back until the server closes."""
    with socket.create_connection(("127.0.0.1", port), timeout=10) as s:
        s.sendall(raw.encode("latin-1"))
        received = b""
        while data := s.recv(65536):
            received += data
        return received.decode("latin-1")


# --- HTTP ---

BAD_HTTP = {
    "no http": ("NONSENSE\r\n\r\n", 400),
    "unknown version": ("GET /ready HTTP/3.0\r\nHost: a\r\n\r\n", 505),
    "unknown method": ("BREW /ready HTTP/1.1\r\nHost: a\r\n\r\n", 501),
    "no host": ("GET /ready HTTP/1.1\r\n\r\n", 400),
    "folded line": (HEAD + "X: a\r\n b\r\n\r\n", 400),
    "bare line feed": ("GET /ready HTTP/1.1\nHost: a\n\n", 400),
    "length and coding": (HEAD + "Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n{}", 400),
    "two lengths": (HEAD + "Content-Length: 2\r\nContent-Length: 3\r\n\r\n{} ", 400),
    "length that is none": (HEAD + "Content-Length: two\r\n\r\n{}", 400),
    "huge length": (HEAD + "Content-Length: 99999999999\r\n\r\n", 413),
    "bad chunk": (HEAD + "Transfer-Encoding: chunked\r\n\r\nxyz\r\n{}\r\n0\r\n\r\n", 400),
    "huge header": (HEAD + "X: " + "a" * 70000 + "\r\n\r\n", 431),
    "space before colon": (HEAD + "Content-Length : 2\r\n\r\n{}", 400),
}


@pytest.mark.parametrize("name", BAD_HTTP)
def test_malformed_http_is_refused_and_closed(disagg, name):
    raw, code = BAD_HTTP[name]
    answer = talk(disagg.port, raw)
    assert answer.startswith(f"HTTP/1.1 {code} "), answer[:200]
    assert answer.count("HTTP/1.1 ") == 1
    assert json.loads(answer.partition("\r\n\r\n")[2])["error"]["message"]


def test_client_that_leaves_in_its_request_does_no_harm(disagg):
    for raw in (b"", b"POST /v1/comp", HEAD.encode() + b"Content-Length: 100\r\n\r\n{\"prompt\":"):
        with socket.create_connection(("127.0.0.1", disagg.port)) as s:
            s.sendall(raw)


@pytest.mark.parametrize("method,path,http_code,kind,code", [
    ("GET", "/nowhere", 404, "not_found_error", "not_found"),
    ("GET", "/", 404, "not_found_error", "not_found"),
    ("GET", "/v1/completions", 405, "invalid_request_error", "method_not_allowed"),
    ("DELETE", "/v1/models", 405, "invalid_request_error", "method_not_allowed")])
def test_wrong_path_or_method(disagg, method, path, http_code, kind, code):
    answer = disagg.http.request(method, path)
    assert answer.status_code == http_code
    error = answer.json()["error"]
    assert (error["type"], error["code"]) == (kind, code)


# --- JSON ---

BAD_JSON = {
    "empty": b"",
    "cut": b'{"prompt":"a',
    "a list": b"[]",
    "text behind": b'{"prompt":"a"} x',
    "duplicate key": b'{"prompt":"a","prompt":"b"}',
    "not UTF-8": b'{"prompt":"\xff"}',
    "lone surrogate": b'{"prompt":"\\ud800"}',
    "NaN": b'{"prompt":"a","temperature":NaN}',
    "number out of range": b'{"prompt":"a","max_tokens":1e400}',
    "nested too deeply": b'{"prompt":' + b"[" * 50000 + b"]" * 50000 + b"}",
    "no prompt": b"{}",
    "NUL": b'{"prompt":"a\x00b"}',
}


@pytest.mark.parametrize("path", ["/v1/completions", "/v1/chat/completions"])
@pytest.mark.parametrize("name", BAD_JSON)
def test_bad_json_is_refused(disagg, path, name):
    answer = disagg.http.post(path, content=BAD_JSON[name])
    assert answer.status_code == 400
    assert answer.json()["error"]["type"] == "invalid_request_error"


def test_json_error_names_its_place(disagg):
    error = disagg.http.post("/v1/completions", content=b'{\n "prompt": x}').json()["error"]
    assert error["code"] == "invalid_json"
    assert "line 2 column" in error["message"]


@pytest.mark.parametrize("extra", [0, 1, 200000])
def test_prompt_longer_than_the_context_is_refused(disagg, extra):
    context = disagg.http.get("/v1/models").json()["data"][0]["max_model_len"]
    answer = disagg.http.post("/v1/completions", json={"prompt": [7] * (context + extra)})
    assert answer.status_code == 400
    assert answer.json()["error"]["code"] == "context_length_exceeded"
    assert str(context - 1) in answer.json()["error"]["message"]


def test_text_longer_than_the_context_is_refused(disagg):
    words = "the sun is hot " * 20000
    for path, body in (("/v1/completions", {"prompt": words}),
                       ("/v1/chat/completions",
                        {"messages": [{"role": "user", "content": words}]})):
        answer = disagg.http.post(path, json=body)
        assert answer.status_code == 400
        assert answer.json()["error"]["code"] == "context_length_exceeded"


# --- command line ---


def test_unknown_command_and_arguments_are_usage_errors():
    for args, word in ((["serve"], "serve: unknown command"), (["--nope"], "--nope: unknown"),
                       (["--set"], "--set needs a value"), (["--config"], "needs a value")):
        done = run_dynd(*args)
        assert done.returncode == 2
        assert word in done.stderr and done.stdout == ""


def test_help_and_version():
    done = run_dynd("--help")
    assert done.returncode == 0 and "usage: dynd" in done.stdout
    done = run_dynd("--version")
    assert done.returncode == 0 and done.stdout.startswith("dynd ")
    done = run_dynd("--schema")
    assert done.returncode == 0 and json.loads(done.stdout)["properties"]["http"]


def test_check_prints_what_would_run():
    done = run_dynd("check", "--config", DISAGG, "--set", "http.port=8123")
    assert (done.returncode, done.stderr) == (0, "")
    for text in ("router        http://127.0.0.1:8123", "prefill-0", "decode-0", "port: 8123"):
        assert text in done.stdout


def test_check_output_is_a_configuration(tmp_path):
    first = run_dynd("check", "--config", DISAGG).stdout
    (tmp_path / "printed.yaml").write_text(first)
    again = run_dynd("check", "--config", tmp_path / "printed.yaml")
    assert (again.returncode, again.stdout) == (0, first)


def test_status_of_a_running_daemon_lists_its_workers(disagg):
    done = run_dynd("status", "--set", f"http.port={disagg.port}")
    assert done.returncode == 0
    for word in ("dynd-tiny", "prefill-0", "decode-0", "ok"):
        assert word in done.stdout


def test_status_without_daemon_fails_with_its_address():
    port = free_port()
    done = run_dynd("status", "--set", f"http.port={port}")
    assert done.returncode == 1 and done.stdout == ""
    assert f"http://127.0.0.1:{port}/status" in done.stderr


# --- configuration ---

BAD_CONFIGS = {
    "not YAML": ("http:\n  port: [1\n", ":3:1: not valid YAML"),
    "tab": ("http:\n\tport: 1\n", ":2:1: "),
    "no number": ("http:\n  port: seventy\n", ":2:9: http.port: expected an integer"),
    "out of range": ("http:\n  port: 70000\n", ":2:9: http.port: "),
    "unknown section": ("model:\n  path: x\nhtpp:\n  port: 1\n", ":3:1: htpp: unknown key"),
    "unknown key": ("http:\n  prot: 1\n", ":2:3: http.prot: unknown key"),
    "unknown role": ("workers:\n  - role: helper\n", ":2:11: workers.0.role: "),
    "prefill alone": ("model:\n  path: x\nworkers:\n  - role: prefill\n", "role: decode"),
    "no workers": ("model:\n  path: x\n", "workers: "),
}


@pytest.mark.parametrize("name", BAD_CONFIGS)
@pytest.mark.parametrize("command", [[], ["check"]], ids=["run", "check"])
def test_corrupt_config_is_refused_with_its_place(tmp_path, name, command):
    text, message = BAD_CONFIGS[name]
    path = tmp_path / "config.yaml"
    path.write_text(text)
    done = run_dynd(*command, "--config", path)
    assert done.returncode == 1 and done.stdout == ""
    assert str(path) in done.stderr and message in done.stderr
    assert done.stderr.count("\n") == 1


def test_config_that_is_not_text_is_refused(tmp_path):
    path = tmp_path / "config.yaml"
    path.write_bytes(bytes(range(256)) * 16)
    done = run_dynd("--config", path)
    assert done.returncode == 1 and str(path) in done.stderr


def test_missing_config_and_bad_set():
    for args, word in ((["--config", "/nowhere.yaml"], "/nowhere.yaml: cannot be read"),
                       (["--set", "http.port=99999"], "--set: http.port: 99999"),
                       (["--set", "nonsense"], "expected key=value"),
                       (["--set", "a.b=c"], "unknown key")):
        done = run_dynd(*args)
        assert done.returncode == 1
        assert word in done.stderr


def test_busy_port_is_told_and_leaves_the_owner_alone(disagg):
    done = run_dynd("--config", UNIFIED, "--set", f"http.port={disagg.port}")
    assert done.returncode == 1
    assert "http.port is in use" in done.stderr and str(disagg.port) in done.stderr
    assert "process started" not in done.stderr


# --- model files ---


@pytest.fixture
def model(tmp_path):
    """A copy of the shipped model to break."""
    return shutil.copytree(MODEL_DIR, tmp_path / "model")


def cut(path, n_bytes):
    with open(path, "r+b") as f:
        f.truncate(n_bytes)


def start_fails(model, *words, config=UNIFIED):
    """dynd gives up at once, without restarts, and says why in one line with these words."""
    done = run_dynd("--config", config, "--set", f"http.port={free_port()}", "--set",
                    f"model.path={model}")
    assert done.returncode == 1
    assert "restarting" not in done.stderr
    errors = [line for line in done.stderr.splitlines() if " ERROR " in line]
    assert any(all(word in line for word in words) for line in errors), done.stderr


@pytest.mark.skipif(os.path.exists("/dev/nvidiactl"), reason="there is a GPU")
def test_gpu_worker_without_a_gpu():
    start_fails("configs/shapes/qwen3-0.6b", "the CUDA device cannot be opened",
                config=ROOT / "configs" / "h200-unified.yaml")


@pytest.mark.parametrize("config", [UNIFIED, DISAGG], ids=["unified", "disagg"])
def test_missing_model_directory(tmp_path, config):
    start_fails(tmp_path / "nowhere", "nowhere", "No such file", config=config)


@pytest.mark.parametrize("n_bytes", [0, 4, 1000, 100000, -1])
def test_truncated_weights(model, n_bytes):
    path = model / "model.safetensors"
    cut(path, n_bytes if n_bytes >= 0 else path.stat().st_size - 1)
    start_fails(model, "model cannot be loaded", "model.safetensors")


def test_weights_with_a_huge_header_length(model):
    with open(model / "model.safetensors", "r+b") as f:
        f.write(b"\xff" * 8)
    start_fails(model, "model cannot be loaded", "model.safetensors")


def test_missing_weights(model):
    (model / "model.safetensors").unlink()
    start_fails(model, "model cannot be loaded", "safetensors")


def test_cut_tokenizer(model):
    path = model / "tokenizer.json"
    cut(path, path.stat().st_size // 2)
    start_fails(model, "tokenizer cannot be loaded", "tokenizer.json")


def test_missing_tokenizer(model):
    (model / "tokenizer.json").unlink()
    start_fails(model, "tokenizer cannot be loaded", "tokenizer.json")


def test_cut_model_config(model):
    cut(model / "config.json", 40)
    start_fails(model, "model cannot be loaded", "config.json", "line ")


def test_model_config_that_does_not_fit_the_weights(model):
    config = json.loads((model / "config.json").read_text())
    config["hidden_size"] *= 2
    (model / "config.json").write_text(json.dumps(config))
    start_fails(model, "model cannot be loaded")


def test_broken_chat_template(model):
    (model / "chat_template.jinja").write_text("{% if %}")
    start_fails(model, "template")


# --- model files, as `dynd check` sees them ---


def check(model, *sets):
    args = ["check", "--config", UNIFIED, "--set", f"model.path={model}"]
    for item in sets:
        args += ["--set", item]
    return run_dynd(*args)


def check_fails(model, *words, sets=()):
    """One line with these words, nothing printed as fine."""
    done = check(model, *sets)
    assert done.returncode == 1 and done.stdout == ""
    assert done.stderr.startswith("dynd: ") and done.stderr.count("\n") == 1, done.stderr
    for word in words:
        assert word in done.stderr, done.stderr


def damage_config(model, **fields):
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps(config | fields))


@pytest.mark.parametrize("kv_dtype, kv_bytes", [("bf16", 2), ("f32", 4), ("fp8", 1)])
def test_check_says_what_the_model_takes(kv_dtype, kv_bytes):
    done = run_dynd("check", "--config", UNIFIED, "--set", "kv.pool_blocks=300", "--set", f"kv.dtype={kv_dtype}")
    assert (done.returncode, done.stderr) == (0, "")
    head = [line for line in done.stdout.splitlines() if line.startswith("#")]
    config = json.loads((MODEL_DIR / "config.json").read_text())
    head_bytes = 2 * config["num_key_value_heads"] * 64 * config["head_dim"] * kv_bytes
    block_bytes = config["num_hidden_layers"] * head_bytes
    assert head[0] == "# model dynd-tiny"
    assert "5771264 parameters" in head[2] and "bytes a worker" in head[2]
    assert f"300 blocks of 64 tokens in {kv_dtype}, {block_bytes} bytes a block" in head[3]


def test_check_of_a_whole_copy_is_fine(model):
    done = check(model)
    assert (done.returncode, done.stderr) == (0, "")


def test_check_names_the_missing_model_directory(tmp_path):
    check_fails(tmp_path / "nowhere", "nowhere", "No such file")


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.json"])
def test_check_names_the_missing_file(model, name):
    (model / name).unlink()
    check_fails(model, str(model), name)


@pytest.mark.parametrize("n_bytes", [0, 4, 1000, 100000, -1])
def test_check_of_truncated_weights(model, n_bytes):
    path = model / "model.safetensors"
    cut(path, n_bytes if n_bytes >= 0 else path.stat().st_size - 1)
    check_fails(model, "model.safetensors")


def test_check_of_weights_that_config_does_not_fit(model):
    damage_config(model, hidden_size=2048)
    check_fails(model, str(model), "config.json")


def test_check_of_a_model_that_is_not_supported(model):
    damage_config(model, architectures=["OtherForCausalLM"])
    check_fails(model, "config.json", "OtherForCausalLM")


def test_check_of_cut_text_files(model):
    cut(model / "config.json", 40)
    check_fails(model, "config.json", "line ")
    shutil.copy(MODEL_DIR / "config.json", model)
    cut(model / "tokenizer.json", 1000)
    check_fails(model, "tokenizer cannot be loaded", "tokenizer.json")
    shutil.copy(MODEL_DIR / "tokenizer.json", model)
    (model / "chat_template.jinja").write_text("{% if %}")
    check_fails(model, "chat template cannot be used", "chat_template.jinja", "line 1")


def test_check_of_an_unreadable_template_does_not_pass_for_none(model):
    (model / "chat_template.jinja").unlink()
    (model / "chat_template.jinja").mkdir()
    check_fails(model, "chat_template.jinja", "Is a directory")


def test_check_says_that_there_is_no_template(model):
    (model / "chat_template.jinja").unlink()
    config = json.loads((model / "tokenizer_config.json").read_text())
    config.pop("chat_template", None)
    (model / "tokenizer_config.json").write_text(json.dumps(config))
    done = check(model)
    assert done.returncode == 0 and "no chat template" in done.stdout


def test_check_of_settings_that_the_model_cannot_take(model):
    check_fails(model, "max_context_tokens", sets=["model.max_context_tokens=1000000"])
    check_fails(model, "kv.pool_bytes", sets=["kv.pool_blocks=1"])


def test_check_of_dummy_weights_needs_no_weights(model):
    (model / "model.safetensors").unlink()
    done = check(model, "model.load_format=dummy")
    assert (done.returncode, done.stderr) == (0, "")
    assert "5771264 parameters" in done.stdout


def test_check_of_the_hash_runner_needs_no_model():
    done = check("", "model.runner=hash")
    assert (done.returncode, done.stderr) == (0, "")
    assert "blocks of 64 tokens" in done.stdout and "parameters" not in done.stdout
