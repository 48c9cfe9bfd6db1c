"""The manifests, rendered by kubectl and validated without a cluster."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml

from client.settings import Settings
from tests.support.kubernetes import OVERLAYS, find, pods, render, render_folder
from tests.support.processes import ROOT

VERSIONS = ("1.32", "1.37")
CRDS = Path(__file__).parent / "crds"
ALL = ["base", *OVERLAYS]


def make_strict(schema: Any) -> Any:
    """Return a CRD's schema that rejects unknown fields, as a strict API server does."""
    if isinstance(schema, list):
        return [make_strict(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    result = {key: make_strict(value) for key, value in schema.items()}
    if isinstance(schema.get("properties"), dict) and not schema.get(
        "x-kubernetes-preserve-unknown-fields"
    ):
        result["additionalProperties"] = False
    return result


def load_crd(kind: str) -> Any:
    schema = make_strict(json.loads((CRDS / f"{kind}.json").read_text()))
    schema["properties"]["metadata"] = {"type": "object"}
    return schema


@pytest.mark.parametrize("path", ALL)
@pytest.mark.parametrize("version", VERSIONS)
def test_resources_are_valid(path: str, version: str) -> None:
    custom_kinds = {file.stem for file in CRDS.glob("*.json")}
    for resource in render(path):
        if resource["kind"] in custom_kinds:
            jsonschema.validate(resource, load_crd(resource["kind"]))
        else:
            kubernetes_validate.validate(resource, version, strict=True)


def test_overlay_in_the_docs_renders_with_its_components(tmp_path: Path) -> None:
    page = (ROOT / "docs" / "kubernetes.md").read_text()
    overlay, components = re.findall(r"^```yaml\n(.*?)^```$", page, re.M | re.S)
    text = (overlay + components).replace("PATH", os.path.relpath(ROOT, tmp_path))
    (tmp_path / "kustomization.yaml").write_text(text)
    rendered = render_folder(tmp_path)
    assert {resource["metadata"]["namespace"] for resource in rendered} == {"churn"}
    deployments = {
        resource["metadata"]["name"]: resource["spec"]["template"]["spec"]["containers"][0]
        for resource in rendered
        if resource["kind"] == "Deployment"
    }
    assert deployments.keys() == {"serving", "client", "rollout", "monitoring"}
    for part, container in deployments.items():
        assert container["image"] == f"registry.example/{part}:1"
    variables = {variable["name"] for variable in deployments["client"]["env"]}
    assert {"CLIENT_ROLLOUT", "CLIENT_LOG"} <= variables
    claims = [r["spec"] for r in rendered if r["kind"] == "PersistentVolumeClaim"]
    assert [claim["storageClassName"] for claim in claims] == ["shared"] * 3


def test_schemas_reject_unknown_fields() -> None:
    runtime = json.loads(json.dumps(find("kserve", "ServingRuntime", "logreg-serving")))
    runtime["spec"]["containers"][0]["imagePullPolice"] = "Always"
    with pytest.raises(jsonschema.ValidationError, match="imagePullPolice"):
        jsonschema.validate(runtime, load_crd("ServingRuntime"))


@pytest.mark.parametrize("path", ALL)
def test_pods_are_restricted_and_declare_their_resources(path: str) -> None:
    for name, pod in pods(path):
        assert pod["securityContext"]["runAsNonRoot"] is True, name
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}, name
        for container in pod["containers"]:
            context = container["securityContext"]
            assert context["readOnlyRootFilesystem"] is True, name
            assert context["allowPrivilegeEscalation"] is False, name
            assert context["capabilities"] == {"drop": ["ALL"]}, name
            assert {"cpu", "memory"} <= container["resources"]["requests"].keys(), name
            assert "memory" in container["resources"]["limits"], name
            mounts = {mount["name"] for mount in container.get("volumeMounts", [])}
            assert mounts <= {volume["name"] for volume in pod.get("volumes", [])}, name


@pytest.mark.parametrize("path", ALL)
def test_client_variables_are_known_settings(path: str) -> None:
    settings = {f"CLIENT_{name.upper()}" for name in Settings.model_fields}
    for _, pod in pods(path):
        for container in pod["containers"]:
            names = {variable["name"] for variable in container.get("env", [])}
            assert {name for name in names if name.startswith("CLIENT_")} <= settings


@pytest.mark.parametrize("path", [path for path in ALL if path != "kserve"])
def test_services_select_pods_and_name_their_ports(path: str) -> None:
    templates = [r["spec"]["template"] for r in render(path) if "template" in r.get("spec", {})]
    for service in (r for r in render(path) if r["kind"] == "Service"):
        selector = service["spec"]["selector"].items()
        (pod,) = (t for t in templates if selector <= t["metadata"]["labels"].items())
        ports = [p for c in pod["spec"]["containers"] for p in c.get("ports", [])]
        for port in service["spec"]["ports"]:
            if "targetPort" in port:
                assert port["targetPort"] in {p["name"] for p in ports}


def test_gateways_resolve_every_model_server() -> None:
    service = find("base", "Service", "serving")["spec"]
    assert service["clusterIP"] == "None"
    (client,) = find("base", "Deployment", "client")["spec"]["template"]["spec"]["containers"]
    assert {"name": "CLIENT_SERVER", "value": "serving:8500"} in client["env"]


def server_arguments() -> Iterator[tuple[str, list[str]]]:
    """Yield the source and the arguments of each model server that gateways resolve by name."""
    for path in (path for path in ALL if path != "kserve"):
        (server,) = find(path, "Deployment", "serving")["spec"]["template"]["spec"]["containers"]
        yield path, server["args"]
    for file in ("docker-compose.yml", "deploy/compose.rollout.yml"):
        yield file, yaml.safe_load((ROOT / file).read_text())["services"]["serving"]["command"]


def test_servers_limit_the_age_of_connections() -> None:
    for source, arguments in server_arguments():
        (flag,) = (
            argument for argument in arguments if argument.startswith("--grpc_channel_arguments=")
        )
        age = re.search(r"max_connection_age_ms=(\d+)", flag)
        # gRPC waits up to 5 s between two name resolutions, so clients find servers within 45 s.
        assert age is not None, source
        assert int(age[1]) <= 35_000, source


@pytest.mark.parametrize("path", ALL)
def test_replicas_are_set_only_without_an_autoscaler(path: str) -> None:
    def target_name(scaler: Any) -> str:
        return str(scaler["spec"]["scaleTargetRef"]["name"])

    scaler_kinds = ("HorizontalPodAutoscaler", "ScaledObject")
    targets = [target_name(r) for r in render(path) if r["kind"] in scaler_kinds]
    assert len(targets) == len(set(targets))
    for deployment in (r for r in render(path) if r["kind"] == "Deployment"):
        name = deployment["metadata"]["name"]
        assert ("replicas" in deployment["spec"]) == (name not in targets), name


def test_gateways_can_reach_name_servers_on_the_host_network() -> None:
    (dns,) = (
        rule
        for rule in find("base", "NetworkPolicy", "client")["spec"]["egress"]
        if rule["ports"][0]["port"] == 53
    )
    assert "to" not in dns


@pytest.mark.parametrize(
    ("path", "part", "port"),
    [
        ("base", "client", "8080"),
        ("rollout", "rollout", "9102"),
        ("monitoring", "monitoring", "9400"),
    ],
)
def test_prometheus_finds_pods_with_metrics(path: str, part: str, port: str) -> None:
    assert find(path, "Deployment", part)["spec"]["template"]["metadata"]["annotations"] == {
        "prometheus.io/scrape": "true",
        "prometheus.io/port": port,
        "prometheus.io/path": "/metrics",
    }


def test_all_parts_use_the_same_model() -> None:
    env = find("base", "Deployment", "client")["spec"]["template"]["spec"]["containers"][0]["env"]
    (model,) = (variable for variable in env if variable["name"] == "CLIENT_MODEL")
    config_map = model["valueFrom"]["configMapKeyRef"]["name"]
    for kind, part in (("Deployment", "serving"), ("Job", "training")):
        (container,) = find("base", kind, part)["spec"]["template"]["spec"]["containers"]
        assert container["envFrom"] == [{"configMapRef": {"name": config_map}}]
    assert find("base", "ConfigMap", config_map)["data"] == {"MODEL": "breast_cancer"}


def test_tf_config_lists_all_workers_of_the_job() -> None:
    job = find("workers", "Job", "training")["spec"]
    assert job["completionMode"] == "Indexed"
    assert job["completions"] == job["parallelism"] == 2
    pod = job["template"]["spec"]
    assert find("workers", "Service", pod["subdomain"])["spec"]["clusterIP"] == "None"
    env = {v["name"]: v.get("value") for v in pod["containers"][0]["env"]}
    # A variable can refer only to variables that precede it.
    assert list(env).index("JOB_COMPLETION_INDEX") < list(env).index("TF_CONFIG")
    config = json.loads(str(env["TF_CONFIG"]).replace("$(JOB_COMPLETION_INDEX)", "1"))
    assert config == {
        "cluster": {"worker": ["training-0.training:2222", "training-1.training:2222"]},
        "task": {"type": "worker", "index": 1},
    }


def test_kserve_containers_have_the_required_names_and_ports() -> None:
    containers = find("kserve", "ServingRuntime", "logreg-serving")["spec"]["containers"]
    server, gateway = containers
    assert server["name"] == "kserve-container"
    assert "--model_base_path=/mnt/models" in server["args"]
    assert gateway["name"] == "transformer-container"
    assert gateway["ports"] == [{"containerPort": 8080, "protocol": "TCP"}]
    assert {"name": "CLIENT_SERVER", "value": "127.0.0.1:9000"} in gateway["env"]
    assert "--port=9000" in server["args"]
    for container in containers:
        assert container["securityContext"]["runAsNonRoot"] is True
