"""`/stats`: the service's numbers as JSON, for people and pages without Prometheus."""

from __future__ import annotations

from datetime import datetime, timezone
from typing import Any

from client.arms.arms import Arms
from client.errors import ClientError
from client.http import paths
from client.http.messages import HttpRequest, HttpResponse
from client.http.responses import json_response
from client.http.routing import Route
from client.inference.predictor import Predictor
from client.inference.server_states import ServerState, ServerStates
from client.observability.drift_summary import drift_summary
from client.observability.metrics import Metrics
from client.observability.samples import Labels, Samples, summarize
from client.serving.client import Target
from client.serving.deadlines import Deadline

# Routes of models, their probes excepted.
MODEL_ROUTES = (paths.PREDICT, paths.EXPLAIN, f"{paths.V1}/", f"{paths.V2}/models/")
PREDICTING_RPCS = frozenset({"Predict", "Classify", "Regress"})


class StatsApi:
    """Summarizes the metrics of all workers."""

    def __init__(
        self,
        predictor: Predictor,
        arms: Arms,
        metrics: Metrics,
        model: str,
        *,
        logs: bool = False,
    ) -> None:
        """Create the route.

        Args:
            predictor: provides the model and its servers.
            arms: provides the rollout.
            metrics: provides the samples of all workers.
            model: the default model.
            logs: whether the prediction log and feedback are on.
        """
        self._predictor = predictor
        self._arms = arms
        self._logs = logs
        self._metrics = metrics
        self._model = model
        self._servers = ServerStates(predictor.client, model)
        self._route = Route(paths.STATS, ("GET",), handle=self._stats, limited=False)

    def route(self, request: HttpRequest) -> Route | None:
        """Return the route of a request."""
        return self._route if request.path == paths.STATS else None

    async def _stats(self, request: HttpRequest, deadline: Deadline) -> HttpResponse:
        servers = await self._servers.load()
        samples = self._metrics.samples()
        rollout = self._arms.rollout(self._model)
        return json_response(
            {
                "model": self._model,
                "time": datetime.now(timezone.utc).isoformat(timespec="milliseconds"),
                "requests": _requests(samples),
                "calls": _calls(samples),
                "queue": {"waiting": int(samples.total("client_batch_waiting_requests"))},
                "servers": [self._server(server) for server in servers],
                "arms": _arms(samples, self._model) if rollout is not None else [],
                "rollout": rollout.document if rollout is not None else None,
                "drift": await self._drift(samples, deadline),
                "log": _log(samples) if self._logs else None,
                "feedback": self._logs,
            },
            200,
            ("Cache-Control", "no-store"),
        )

    def _server(self, server: ServerState) -> dict[str, Any]:
        golden = self._predictor.servers.result_at
        return {
            "address": server.address,
            "state": server.state,
            "versions": [
                {
                    "version": version,
                    "state": state,
                    "golden": golden(server.address, self._model, version),
                }
                for version, state in server.versions
            ],
        }

    async def _drift(self, samples: Samples, deadline: Deadline) -> dict[str, Any] | None:
        try:
            schema = await self._predictor.schema(Target(self._model), deadline)
        except ClientError:
            return None  # `servers` gives the reason
        return drift_summary(schema, samples)


def _log(samples: Samples) -> dict[str, Any]:
    return {
        "rows": int(samples.total("client_log_rows_total")),
        "dropped": samples.count_by("client_log_dropped_rows_total", "reason"),
        "bytes": int(samples.total("client_log_bytes_total")),
        "feedback": samples.count_by("client_feedback_total", "result"),
    }


def _requests(samples: Samples) -> dict[str, Any]:
    statuses = samples.count_by("client_http_requests_total", "status", _is_model_route)
    return {
        "total": sum(statuses.values()),
        "errors": sum(count for status, count in statuses.items() if status >= "500"),
        "statuses": statuses,
        "in_flight": int(samples.total("client_http_requests_in_flight")),
        "seconds": summarize(samples.buckets("client_http_request_seconds", _is_model_route)),
    }


def _calls(samples: Samples) -> dict[str, Any]:
    codes = samples.count_by("client_grpc_call_seconds_count", "code", _is_prediction)
    return {
        "total": sum(codes.values()),
        "errors": sum(count for code, count in codes.items() if code != "OK"),
        "rows": int(samples.total("client_batch_rows_sum")),
        "seconds": summarize(samples.buckets("client_grpc_call_seconds", _is_prediction)),
    }


def _arms(samples: Samples, model: str) -> list[dict[str, Any]]:
    """Return requests and call times by arm; `failed` includes those answered by stable instead."""
    arms = []
    for version, arm in samples.groups("client_arm_requests_total", "version", "arm"):

        def is_arm(labels: Labels, version: str = version, arm: str = arm) -> bool:
            return (labels["model"], labels["version"], labels["arm"]) == (model, version, arm)

        outcomes = samples.count_by("client_arm_requests_total", "outcome", is_arm)
        times = samples.buckets("client_arm_call_seconds", is_arm)
        if outcomes:
            arms.append(
                {
                    "version": int(version),
                    "arm": arm,
                    "requests": sum(outcomes.values()),
                    "failed": outcomes.get("failed", 0) + outcomes.get("repeated", 0),
                    "p50": times.quantile(0.5),
                    "p99": times.quantile(0.99),
                }
            )
    return arms


def _is_model_route(labels: Labels) -> bool:
    route = labels["route"]
    return route.startswith(MODEL_ROUTES) and not route.endswith("/ready")


def _is_prediction(labels: Labels) -> bool:
    return labels["rpc"] in PREDICTING_RPCS
