"""What a server did, for Prometheus. Each application has a registry of its own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

__all__ = ["Metrics", "ModelMetrics"]

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
SIZES = (1, 2, 4, 8, 16, 32, 64, 128)


class Metrics:
    """Counters of all requests; see `ModelMetrics` for those of a model."""

    def __init__(self) -> None:
        from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

        self.registry = registry = CollectorRegistry(auto_describe=True)
        self.requests = Counter("vitkit_requests", "Requests answered.", ["route", "status"], registry=registry)
        self.seconds = Histogram(
            "vitkit_request_seconds",
            "From the first byte of a request to its answer.",
            ["route"],
            buckets=SECONDS,
            registry=registry,
        )
        self.received = Counter("vitkit_received_bytes", "Bytes of bodies.", registry=registry)
        self.images = Counter("vitkit_images", "Images, by what came of them.", ["model", "outcome"], registry=registry)
        self.groups = Histogram(
            "vitkit_group_images", "Images computed at once.", ["model"], buckets=SIZES, registry=registry
        )
        self.compute = Counter("vitkit_compute_seconds", "Time of an engine's threads.", ["model"], registry=registry)
        self.loads = Counter(
            "vitkit_model_loads", "Models opened, or refused.", ["model", "outcome"], registry=registry
        )
        self.waiting = Gauge("vitkit_waiting_images", "Images not answered yet.", ["model"], registry=registry)
        self._children: dict[tuple[str, int], tuple[Any, Any]] = {}

    def answered(self, route: str, status: int, seconds: float) -> None:
        """Count a request."""
        found = self._children.get((route, status))
        if found is None:
            found = self.requests.labels(route, str(status)), self.seconds.labels(route)
            self._children[route, status] = found
        found[0].inc()
        found[1].observe(seconds)

    def follow(self, model: str, waiting: Callable[[], float]) -> None:
        """Ask ``waiting`` for the length of a model's queue whenever the metrics are read."""
        self.waiting.labels(model).set_function(waiting)

    def text(self) -> bytes:
        """All of them, in Prometheus' text format."""
        from prometheus_client import generate_latest

        return generate_latest(self.registry)


class ModelMetrics:
    """Counters of one model, see `batching.Observer`."""

    def __init__(self, metrics: Metrics, model: str) -> None:
        self._groups, self._compute = metrics.groups.labels(model), metrics.compute.labels(model)

    def computed(self, images: int, seconds: float) -> None:
        """Count a group."""
        self._groups.observe(images)
        self._compute.inc(seconds)
