"""Inference: batching, calls to model servers, and checks of inputs and servers."""
