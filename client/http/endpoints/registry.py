"""The registry of the API's parts."""

from __future__ import annotations

from client.arms.arms import Arms
from client.codecs.json.codec import JsonExplanations
from client.http.endpoints.docs import DocsApi
from client.http.endpoints.feedback import FeedbackApi
from client.http.endpoints.oip import OipApi
from client.http.endpoints.operations import OperationsApi
from client.http.endpoints.predict import JsonApi
from client.http.endpoints.stats import StatsApi
from client.http.endpoints.tfs_rest import RestApi
from client.http.routing import Router
from client.inference.predictor import Predictor
from client.observability.metrics import Metrics
from client.observability.prediction_log import PredictionLog
from client.settings import Settings


def api_router(
    predictor: Predictor,
    arms: Arms,
    metrics: Metrics,
    operations: OperationsApi,
    log: PredictionLog | None,
    settings: Settings,
) -> Router:
    """Return a router that finds each part of the API by the first path segment."""
    explanations = JsonExplanations()
    json_api = JsonApi(settings.model, explanations)
    feedback = None if log is None else log.feedback
    return Router(
        {
            "predict": json_api,
            "explain": json_api,
            "v1": RestApi(predictor, explanations, arms, cors=settings.cors),
            "v2": OipApi(predictor, operations),
            "livez": operations,
            "readyz": operations,
            "metrics": operations,
            "feedback": FeedbackApi(
                predictor, metrics, settings.model, settings.max_body_bytes, feedback
            ),
            "stats": StatsApi(predictor, arms, metrics, settings.model, logs=log is not None),
            "openapi.json": DocsApi(
                predictor,
                settings.model,
                keys=settings.api_keys is not None,
                feedback=feedback is not None,
            ),
        }
    )
