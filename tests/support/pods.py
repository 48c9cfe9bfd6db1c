"""Starts the containers of rendered pods with Docker, as a kubelet would."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import requests

from tests.support.containers import docker
from tests.support.kubernetes import Resource, find, render
from tests.support.processes import free_port, is_serving, wait_for

# On a busy machine TensorFlow takes a minute to start.
START_SECONDS = 180
COMPLETION_INDEX = "metadata.annotations['batch.kubernetes.io/job-completion-index']"


@dataclass(frozen=True)
class Pod:
    """A started pod.

    Attributes:
        containers: the containers as the manifest describes them.
        ids: their ids; the first container has the network of the pod.
    """

    containers: Sequence[Resource]
    ids: Sequence[str]

    def address(self, port: int) -> str:
        """Return the address at which a port of the pod is published.

        Raises:
            ConnectionError: the container is being restarted.
        """
        ports = docker("inspect", "--format={{json .NetworkSettings.Ports}}", self.ids[0])
        published = json.loads(ports).get(f"{port}/tcp")
        if not published:
            raise ConnectionError(f"port {port} is not published now")
        return f"127.0.0.1:{published[0]['HostPort']}"

    def run(self, *command: str) -> str:
        """Run a command in the first container and return its output."""
        return docker("exec", self.ids[0], *command)

    def wait_until_ready(self) -> None:
        for container in self.containers:
            probe = container["readinessProbe"]
            wait_for(
                lambda p=probe, c=container: self.passes(p, c),  # type: ignore[misc]
                f"{container['name']} is ready",
                START_SECONDS,
            )

    def passes(self, probe: Resource, container: Resource) -> bool:
        """Return whether a probe passes, called from outside as the kubelet does."""
        try:
            if "grpc" in probe:
                return is_serving(self.address(probe["grpc"]["port"]))
            ports_by_name = {port.get("name"): port["containerPort"] for port in container["ports"]}
            port = probe["httpGet"]["port"]
            url = f"http://{self.address(ports_by_name.get(port, port))}{probe['httpGet']['path']}"
            return requests.get(url, timeout=5).ok
        except (ConnectionError, requests.RequestException, grpc.RpcError):
            return False


@contextmanager
def cluster(overlay: str, **claims: Path) -> Iterator[Cluster]:
    """Yield a cluster for the pods of an overlay; remove everything at the end.

    Args:
        overlay: name of the overlay.
        claims: directories to mount for claims; other claims are empty volumes.
    """
    with ExitStack() as stack:
        name = f"pods-{free_port()}"
        docker("network", "create", name)
        stack.callback(docker, "network", "rm", name)
        sources = {claim: f"type=bind,source={path}" for claim, path in claims.items()}
        yield Cluster(overlay, name, sources, stack)


@dataclass(frozen=True)
class Cluster:
    """The network and the claims of an overlay's pods.

    Attributes:
        overlay: name of the overlay.
        name: name of the network.
        claims: the source of each claim for `docker run --mount`.
        stack: removes everything.
    """

    overlay: str
    name: str
    claims: dict[str, str]
    stack: ExitStack

    def start(
        self, kind: str, name: str, *options: str, index: int | None = None, model: str = ""
    ) -> Pod:
        """Start one pod.

        Args:
            kind: Deployment, Job or ServingRuntime.
            name: name of the resource.
            options: additional options of `docker run` for the first container.
            index: completion index of an indexed Job.
            model: name of an InferenceService.
        """
        resource = find(self.overlay, kind, name)
        template = resource["spec"].get("template", resource)
        pod = template["spec"]
        self._change_group(pod)
        first_options = [f"--network={self.name}", *self._publish_options(pod), *options]
        hostname = f"{name}-{index}" if index is not None else ""
        first_options += [f"--hostname={hostname}"] * bool(hostname)
        first_options += [f"--network-alias={alias}" for alias in self._aliases(template, hostname)]
        ids: list[str] = []
        for container in pod["containers"]:
            network = first_options if not ids else [f"--network=container:{ids[0]}"]
            variables = environment(self.overlay, container, index, model)
            command = ["run", "--detach", *network, *run_options(pod, container)]
            command += [f"--env={key}={value}" for key, value in variables.items()]
            command += self._mount_options(pod, container)
            if "command" in container:
                command.append(f"--entrypoint={container['command'][0]}")
            arguments = [expand(text, variables, model) for text in container.get("args", [])]
            ids.append(docker(*command, container["image"], *arguments))
            self.stack.callback(docker, "rm", "--force", ids[-1])
        return Pod(pod["containers"], ids)

    def _aliases(self, template: Resource, hostname: str) -> Iterator[str]:
        """Yield the names that headless Services give a pod; only a Job's pods have a hostname."""
        labels = template["metadata"].get("labels", {}).items()
        for service in (r for r in render(self.overlay) if r["kind"] == "Service"):
            spec, name = service["spec"], service["metadata"]["name"]
            if spec.get("clusterIP") == "None" and spec["selector"].items() <= labels:
                yield name
                if hostname and template["spec"].get("subdomain") == name:
                    yield f"{hostname}.{name}"

    def _publish_options(self, pod: Resource) -> list[str]:
        ports = {p["containerPort"] for c in pod["containers"] for p in c.get("ports", [])}
        probes = [c["readinessProbe"] for c in pod["containers"] if "readinessProbe" in c]
        ports |= {probe["grpc"]["port"] for probe in probes if "grpc" in probe}
        return [f"--publish=127.0.0.1::{port}" for port in sorted(ports)]

    def _mount_options(self, pod: Resource, container: Resource) -> Iterator[str]:
        for mount in container.get("volumeMounts", []):
            (volume,) = (v for v in pod["volumes"] if v["name"] == mount["name"])
            target = mount["mountPath"]
            if "emptyDir" in volume:
                yield f"--tmpfs={target}:mode=1777"
            else:
                claim = volume["persistentVolumeClaim"]
                read_only = claim.get("readOnly", False) or mount.get("readOnly", False)
                source = self._source(claim["claimName"])
                yield f"--mount={source},target={target}{',readonly' * read_only}"

    def _source(self, claim: str) -> str:
        if claim not in self.claims:
            find(self.overlay, "PersistentVolumeClaim", claim)
            volume = f"{self.name}-{claim}"
            docker("volume", "create", volume)
            self.stack.callback(docker, "volume", "rm", volume)
            # Docker would give a new volume the owner of the image's directory.
            self.claims[claim] = f"type=volume,source={volume},volume-nocopy"
        return self.claims[claim]

    def _change_group(self, pod: Resource) -> None:
        """Make a pod's `fsGroup` the group of the claims that it writes to."""
        group = pod.get("securityContext", {}).get("fsGroup")
        claims = [volume.get("persistentVolumeClaim") for volume in pod.get("volumes", [])]
        for claim in (c for c in claims if group and c and not c.get("readOnly", False)):
            mount = f"--mount={self._source(claim['claimName'])},target=/claim"
            change = f"chgrp -R {group} /claim && chmod -R g+rwX /claim && chmod g+s /claim"
            image = pod["containers"][0]["image"]
            docker("run", "--rm", "--user=0", mount, "--entrypoint=sh", image, "-c", change)


def environment(overlay: str, container: Resource, index: int | None, model: str) -> dict[str, str]:
    """Return a container's environment, including values of config maps and its index."""
    variables: dict[str, str] = {}
    for source in container.get("envFrom", []):
        variables |= find(overlay, "ConfigMap", source["configMapRef"]["name"])["data"]
    for variable in container.get("env", []):
        variables[variable["name"]] = (
            expand(variable["value"], variables, model)
            if "value" in variable
            else _value_from(overlay, variable["valueFrom"], index)
        )
    return variables


def _value_from(overlay: str, source: Resource, index: int | None) -> str:
    if "fieldRef" in source:
        assert source["fieldRef"] == {"fieldPath": COMPLETION_INDEX}
        assert index is not None
        return str(index)
    key = source["configMapKeyRef"]
    value: str = find(overlay, "ConfigMap", key["name"])["data"][key["key"]]
    return value


def expand(text: str, variables: Mapping[str, str], model: str) -> str:
    """Replace references to earlier variables and, as KServe does, the model's name."""
    text = text.replace("{{.Name}}", model)
    return re.sub(r"\$\((\w+)\)", lambda match: variables.get(match[1], match[0]), text)


def run_options(pod: Resource, container: Resource) -> list[str]:
    """Return the `docker run` options for a container's user, privileges, limits and restarts."""
    context: dict[str, Any] = {**pod.get("securityContext", {}), **container["securityContext"]}
    assert context["runAsNonRoot"] is True
    options = [f"--user={context['runAsUser']}"]
    options += [f"--group-add={context.get('fsGroup')}"] * ("fsGroup" in context)
    options += [f"--cap-drop={name}" for name in context["capabilities"]["drop"]]
    options += ["--security-opt=no-new-privileges"] * (not context["allowPrivilegeEscalation"])
    options += ["--read-only"] * context.get("readOnlyRootFilesystem", False)
    options += ["--restart=always"] * (pod.get("restartPolicy", "Always") == "Always")
    limit = container["resources"]["limits"]["memory"]
    return [*options, f"--memory={limit.removesuffix('i').lower()}"]
