"""The manifests under deploy/: valid, hardened, and their command lines serve requests when they are started as
processes on loopback. Rendered by kubectl when there is one, and by the small renderer below in any case."""

import contextlib
import copy
import os
import pathlib
import re
import shutil
import signal
import subprocess

import httpx
import kubernetes_validate
import pytest
import yaml

from conftest import ANSWER_S, DYND, ROOT, die_with_parent, free_port, run_dynd, wait_until

OVERLAYS = ROOT / "deploy" / "kustomize" / "overlays"
KUBERNETES_VERSION = "1.31"
READY_S = 60


# ---- rendering: resources, configMapGenerator, images, and patches of the form {op: replace} ----

def patch_apply(resource, operations):
    for operation in operations:
        assert operation["op"] == "replace", operation
        *steps, last = operation["path"].strip("/").split("/")
        place = resource
        for step in steps:
            place = place[int(step) if isinstance(place, list) else step]
        assert last in place, operation["path"]
        place[last] = operation["value"]


def images_apply(node, images):
    if isinstance(node, list):
        for item in node:
            images_apply(item, images)
    elif isinstance(node, dict):
        for image in images:
            if node.get("image") == image["name"]:
                node["image"] = f"{image['newName']}:{image['newTag']}"
        for item in node.values():
            images_apply(item, images)


def render(folder):
    """Like `kubectl kustomize`, for what our files use; names of ConfigMaps get no hash."""
    plan = yaml.safe_load((folder / "kustomization.yaml").read_text())
    known = {"apiVersion", "kind", "resources", "configMapGenerator", "patches", "images"}
    assert set(plan) <= known, set(plan) - known
    resources = []
    for name in plan["resources"]:
        path = (folder / name).resolve()
        resources += render(path) if path.is_dir() else list(yaml.safe_load_all(path.read_text()))
    for item in plan.get("configMapGenerator", ()):
        data = {name: (folder / name).read_text() for name in item["files"]}
        resources.append({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": item["name"]}, "data": data})
    for patch in plan.get("patches", ()):
        found = [r for r in resources if r["kind"] == patch["target"]["kind"]
                 and r["metadata"]["name"] == patch["target"]["name"]]
        assert len(found) == 1, patch["target"]
        patch_apply(found[0], yaml.safe_load(patch["patch"]))
    images_apply(resources, plan.get("images", ()))
    return resources


def without_hashes(node):
    """Renames dynd-config-<hash>, as kubectl makes it, back to dynd-config."""
    if isinstance(node, list):
        return [without_hashes(item) for item in node]
    if isinstance(node, dict):
        return {key: without_hashes(value) for key, value in node.items()}
    return re.sub(r"^dynd-config-[a-z0-9]{10}$", "dynd-config", node) if isinstance(node, str) else node


@pytest.fixture(params=["single", "disagg"])
def overlay(request):
    return request.param


@pytest.fixture
def resources(overlay):
    return render(OVERLAYS / overlay)


def pods_of(resources):
    """(name of the workload, its pod's spec) of each workload."""
    return [(r["metadata"]["name"], r["spec"]["template"]["spec"]) for r in resources
            if r["kind"] in ("Deployment", "StatefulSet")]


def configuration_of(resources):
    return next(r for r in resources if r["kind"] == "ConfigMap")["data"]["dynd.yaml"]


# ---- what the files say ----

@pytest.mark.skipif(shutil.which("kubectl") is None, reason="no kubectl")
def test_deploy_kubectl_renders_the_same(overlay, resources):
    run = subprocess.run(["kubectl", "kustomize", OVERLAYS / overlay], capture_output=True, text=True, check=True)
    theirs = [without_hashes(r) for r in yaml.safe_load_all(run.stdout)]

    def key(resource):
        return resource["kind"], resource["metadata"]["name"]

    assert sorted(theirs, key=key) == sorted(resources, key=key)


def test_deploy_resources_are_valid(resources):
    for resource in resources:
        kubernetes_validate.validate(resource, KUBERNETES_VERSION, strict=True)


def test_deploy_invalid_resource_is_refused(resources):
    broken = copy.deepcopy(next(r for r in resources if r["kind"] == "Deployment"))
    broken["spec"]["replica"] = 1
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(broken, KUBERNETES_VERSION, strict=True)


def test_deploy_pods_are_hardened(resources):
    for _, pod in pods_of(resources):
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["runAsUser"] > 0
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert pod["automountServiceAccountToken"] is False
        for container in pod["containers"]:
            context = container["securityContext"]
            assert context["readOnlyRootFilesystem"] is True
            assert context["allowPrivilegeEscalation"] is False
            assert context["capabilities"] == {"drop": ["ALL"]}
            assert {"startupProbe", "livenessProbe", "readinessProbe"} <= set(container)


def test_deploy_grace_is_longer_than_the_drain(resources):
    text = run_dynd("check", "--config", "configs/unified.yaml").stdout
    drain_ms = int(re.search(r"drain_timeout_ms: (\d+)", text).group(1))
    kill_ms = int(re.search(r"kill_timeout_ms: (\d+)", text).group(1))
    for _, pod in pods_of(resources):
        sleep_s = sum(int(c.get("lifecycle", {}).get("preStop", {"exec": {"command": [0, 0]}})["exec"]["command"][1])
                      for c in pod["containers"])
        assert pod["terminationGracePeriodSeconds"] * 1000 > drain_ms + kill_ms + sleep_s * 1000


def test_deploy_options_of_the_environment_stay_ours(resources):
    """For a Service called dynd-http Kubernetes would set DYND_HTTP_PORT, which is the name of an option."""
    for _, pod in pods_of(resources):
        assert pod["enableServiceLinks"] is False


def test_deploy_services_select_pods_and_name_their_ports(resources):
    workloads = [r for r in resources if r["kind"] in ("Deployment", "StatefulSet")]
    for service in (r for r in resources if r["kind"] == "Service"):
        selector = service["spec"]["selector"].items()
        found = [w for w in workloads if selector <= w["spec"]["template"]["metadata"]["labels"].items()]
        assert len(found) == 1, service["metadata"]["name"]
        ports = [p["name"] for c in found[0]["spec"]["template"]["spec"]["containers"] for p in c["ports"]]
        assert all(port["targetPort"] in ports for port in service["spec"]["ports"])


def test_deploy_endpoints_are_the_headless_services():
    resources = render(OVERLAYS / "disagg")
    headless = {f"{r['metadata']['name']}:{r['spec']['ports'][0]['port']}" for r in resources
                if r["kind"] == "Service" and r["spec"].get("clusterIP") == "None"}
    assert set(yaml.safe_load(configuration_of(resources))["cluster"]["endpoints"]) == headless


def test_deploy_image_holds_the_libraries():
    """RUN_PACKAGES of the Dockerfile are the packages whose libraries dynd is linked with (on Debian 12)."""
    if "VERSION_ID=\"12\"" not in pathlib.Path("/etc/os-release").read_text() or shutil.which("readelf") is None:
        pytest.skip("not Debian 12, or no readelf")
    text = (ROOT / "deploy" / "Dockerfile").read_text()
    packages = set(re.search(r'^ARG RUN_PACKAGES="([^"]+)"', text, re.M).group(1).split())
    elf = subprocess.run(["readelf", "-d", DYND], capture_output=True, text=True, check=True).stdout
    needed = set()
    for library in re.findall(r"\(NEEDED\).*\[(lib(?!c\.|m\.|gcc|asan|ubsan|tsan)[^\]]+)\]", elf):
        owner = subprocess.run(["dpkg", "-S", f"*/x86_64-linux-gnu/{library}"], capture_output=True, text=True).stdout
        needed.add(owner.split(":")[0])
    assert needed == packages


# ---- what the command lines do ----

class Pods:
    """Each workload's container as a process: its own loopback address and ports stand for the pod's network, the
    configuration's text for the mounted ConfigMap, and numeric addresses for what the cluster's DNS would say."""

    def __init__(self, resources, folder):
        self.processes, self.logs, self.http_port = {}, {}, free_port()
        self.url = f"http://127.0.0.1:{self.http_port}"
        control = free_port()
        text = configuration_of(resources).replace("0.0.0.0", "127.0.0.1").replace("8000", str(self.http_port))
        addresses = {}
        for number, (name, _) in enumerate(pods_of(resources), 2):
            addresses[name] = f"127.0.0.{number}:{control}"
            text = text.replace(f"{name}-headless:7001", addresses[name])
        run_dir = folder / "run"
        run_dir.mkdir()
        self.config = folder / "dynd.yaml"
        self.config.write_text(text.replace("/run/dynd", str(run_dir)))
        for name, pod in pods_of(resources):
            self.start(name, pod["containers"][0], addresses[name], folder)

    def start(self, name, container, address, folder):
        env = {"PATH": os.environ["PATH"]}
        env.update((k, v) for k, v in os.environ.items() if k.endswith("SAN_OPTIONS") or k.startswith("UCX_"))
        for item in container.get("env", ()):
            assert item["valueFrom"] == {"fieldRef": {"fieldPath": "metadata.name"}}
            env[item["name"]] = f"{name}-0"
        args = [re.sub(r"\$\((\w+)\)", lambda m: env[m.group(1)], arg) for arg in container["args"]]
        args = [{"/etc/dynd/dynd.yaml": str(self.config), "0.0.0.0:7001": address}.get(arg, arg) for arg in args]
        self.logs[name] = folder / f"{name}.log"
        with open(self.logs[name], "wb") as log:
            self.processes[name] = subprocess.Popen([DYND, *args], cwd=ROOT, env=env, stdin=subprocess.DEVNULL,
                                                    stdout=log, stderr=log, start_new_session=True,
                                                    preexec_fn=die_with_parent)

    def is_ready(self):
        for name, process in self.processes.items():
            assert process.poll() is None, f"{name} ended: {self.logs[name].read_text()[-4000:]}"
        with contextlib.suppress(httpx.TransportError):
            return httpx.get(self.url + "/ready", timeout=5, trust_env=False).status_code == 200
        return False

    def status(self):
        return httpx.get(self.url + "/status", timeout=5, trust_env=False).json()

    def stop(self, name):
        self.processes[name].send_signal(signal.SIGTERM)
        return self.processes[name].wait(READY_S)

    def kill(self):
        for process in self.processes.values():
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait(READY_S)


@pytest.fixture
def pods(resources, tmp_path):
    found = Pods(resources, tmp_path)
    yield found
    found.kill()
    for name, log in found.logs.items():  # shown when the test failed
        print(f"---- {name}\n{log.read_text()[-4000:]}")


def test_deploy_command_lines_serve_and_drain(overlay, pods):
    wanted = {"single": ["unified"], "disagg": ["decode", "prefill"]}[overlay]
    wait_until(pods.is_ready, READY_S, "the router is ready")
    wait_until(lambda: sorted(w["role"] for w in pods.status()["workers"] if w["health"] == "ok") == wanted, READY_S,
               f"workers {wanted}")
    for path in ("/live", "/ready"):
        assert httpx.get(pods.url + path, trust_env=False).status_code == 200
    body = {"model": "dynd-tiny", "temperature": 0, "messages": [{"role": "user", "content": "What is dynd?"}]}
    answer = httpx.post(pods.url + "/v1/chat/completions", json=body, timeout=ANSWER_S, trust_env=False)
    assert answer.status_code == 200, answer.text
    assert "daemon" in answer.json()["choices"][0]["message"]["content"]
    if overlay == "disagg":
        assert sorted(w["name"] for w in pods.status()["workers"]) == ["decode-0", "prefill-0"]
    for name in list(pods.processes):
        assert pods.stop(name) == 0, name
