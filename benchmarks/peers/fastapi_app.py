"""FastAPI: pydantic models decode and encode JSON; a `def` endpoint runs in the thread pool."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI
from pydantic import BaseModel

from benchmarks.peers.saved_model import SavedModel


class Rows(BaseModel):
    instances: list[list[float]]


class Predictions(BaseModel):
    predictions: list[float]


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    app.state.model = SavedModel()
    yield


app = FastAPI(lifespan=lifespan)


@app.post("/predict")
def predict(rows: Rows) -> Predictions:
    return Predictions(predictions=app.state.model.probabilities(rows.instances).tolist())
