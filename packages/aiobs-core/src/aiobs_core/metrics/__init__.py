"""Metrics of all traffic, counted by the worker before anything is sampled, and the ways in which they leave."""

from __future__ import annotations

from aiobs_core.metrics.mounted import metrics_asgi_app, metrics_wsgi_app, register

__all__ = ["metrics_asgi_app", "metrics_wsgi_app", "register"]
