"""Attention distance of a model over images, as figures 7 (right) and 11 show it."""

from __future__ import annotations

from typing import Any

from vitkit.analysis.survey import Survey, Surveyed
from vitkit.bundle import Bundle
from vitkit.console import Console
from vitkit.papers.item import Request
from vitkit.papers.opened import chosen, views

__all__ = ["IMAGES", "distance_facts", "surveyed"]

IMAGES = 128  # of the paper: arXiv 2010.11929, appendix D.7


def surveyed(bundle: Bundle, request: Request, console: Console, label: str) -> Surveyed:
    """One pass over at most 128 images (or --max-images).

    Raises:
        UserError: as `views` and `Survey.add`.
    """
    survey, images = Survey(bundle.model), chosen(request, IMAGES)
    for view in views(bundle, images, request, console, label):
        survey.add(view.images)
    return survey.result()


def distance_facts(found: Surveyed) -> dict[str, Any]:
    """JSON values: pixels by layer and head, as the paper's figure and with weights of patches made to sum to 1."""
    return {
        "images": found.images,
        "distance": [[round(float(v), 4) for v in row] for row in found.distance],
        "distance_renormalised": [[round(float(v), 4) for v in row] for row in found.renormalised],
        "uniform": found.uniform_distance,
    }
