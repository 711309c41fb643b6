"""What the routes of one application share."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

from vitkit.engines.kept.ready import Ready
from vitkit.server.batching import Batcher
from vitkit.server.bodies import Held
from vitkit.server.errors import Refused
from vitkit.server.explain import Explainer
from vitkit.server.keys import Keys
from vitkit.server.limits import Limits
from vitkit.server.logs import Log
from vitkit.server.metrics import Metrics, ModelMetrics
from vitkit.server.models import Model, Opening, Registry, name_models

__all__ = ["State"]

PREDICT = "/v1/models/{name}:predict"
MOST_EXPLAINED = 8  # that wait; each takes about as long as ten predictions


class State:
    """The models with their queues, the limits, and what is counted.

    Args:
        models: paths or ``NAME=PATH``, opened here.
        opening: how they are opened.
        limits, keys, log: of all requests.
        workers: threads that decode.

    Raises:
        UserError: a model that cannot be used.
    """

    def __init__(
        self, models: Sequence[str], opening: Opening, limits: Limits, keys: Keys, log: Log, workers: int
    ) -> None:
        self.limits, self.keys, self.log, self.workers = limits, keys, log, workers
        self.metrics, self.held = Metrics(), Held(limits.held_bytes)
        self.readers = ThreadPoolExecutor(workers, "vitkit-decode")
        self.closing = False
        self.under_way = 0  # requests with images
        self._explaining = ThreadPoolExecutor(1, "vitkit-explain")
        self._explained = 0
        self._explainers: dict[str, tuple[str, Explainer]] = {}
        self.registry = Registry(name_models(models), opening, self._queue, self._say)
        self.registry.open_all()
        for name in self.registry.paths:
            self.metrics.follow(name, partial(self._pending, name))

    def _queue(self, name: str, ready: Ready) -> Batcher:
        return Batcher(ready, self.readers, self.workers, self.limits, ModelMetrics(self.metrics, name))

    def _pending(self, name: str) -> float:
        return self.registry.get(name).batcher.pending

    def _say(self, event: str, facts: Mapping[str, Any]) -> None:
        self.metrics.loads.labels(facts["model"], event.removeprefix("model_")).inc()
        self.log.write(event, facts)

    def require_open(self) -> None:
        """Refuse new work while the server says goodbye.

        Raises:
            Refused: 503.
        """
        if self.closing:
            headers = {"Retry-After": "2", "Connection": "close"}
            raise Refused(503, "shutting_down", "the server is shutting down; try again elsewhere or later.", headers)

    def full(self, name: str) -> Refused | None:
        """How a request for a model's predictions is refused before it is parsed; None where it has to be looked at."""
        model = self.registry.find(name)
        if model is None or self.closing:
            return None
        try:
            model.batcher.require_room()
        except Refused as refused:
            self.metrics.answered(PREDICT, refused.status, 0.0)
            self.log.write("request", {"method": "POST", "route": PREDICT, "status": refused.status, "ms": 0.0})
            return refused
        return None

    async def explain(self, model: Model, content: bytes, method: str, target: str | None) -> dict[str, Any]:
        """Explain one image in a thread of its own, see `Explainer.explain`; others wait for their turn.

        Raises:
            Refused: 429 or 504 beside its own.
        """
        if self._explained >= MOST_EXPLAINED:
            raise Refused(429, "too_busy", f"{self._explained} explanations are waiting; try again later.", RETRY)
        found = self._explainers.get(model.name)
        if found is None or found[0] != model.version:
            found = model.version, Explainer(model.path, self.registry.opening.overrides)
            self._explainers[model.name] = found
        self._explained += 1
        work = self._explaining.submit(
            found[1].explain, content, method, target, self.limits.pixels, model.ready.engine
        )
        try:
            return await asyncio.wait_for(asyncio.wrap_future(work), self.limits.seconds)
        except TimeoutError:
            raise deadline(self.limits) from None
        finally:
            self._explained -= 1

    def close(self) -> None:
        """Let the threads go."""
        for pool in (self.readers, self._explaining):
            pool.shutdown(wait=False, cancel_futures=True)


RETRY = {"Retry-After": "2"}


def deadline(limits: Limits) -> Refused:
    """What is said where an answer takes too long."""
    return Refused(504, "deadline", f"no answer in {limits.seconds:g} s; send fewer images or try again later.")
