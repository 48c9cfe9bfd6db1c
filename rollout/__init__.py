"""Rollout: canary, shadow, promotion and rollback of model versions.

The controller writes the rollout file that gateways read and the model config file that model
servers poll, and decides from the gateways' metrics.
"""
