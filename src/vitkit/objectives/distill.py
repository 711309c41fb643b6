"""Distillation: learn from labels and from a teacher's answers on the same images (arXiv 2012.12877, section 4; 1503.02531)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vitkit.config import UserError
from vitkit.data.loader import Batch
from vitkit.models.vit import VisionTransformer
from vitkit.objectives.classify import cross_entropy

__all__ = ["Distill"]


@dataclass(frozen=True)
class Distill:
    """Part of the loss is that of the labels, part that of the teacher.

    A distilled model's second head learns from the teacher and its first one from the labels; another model's one head
    learns from both.
    """

    teacher: VisionTransformer  # of the same classes and image size; put into eval mode
    kind: str = "hard"  # hard: the teacher's answer is a label | soft: its probabilities are the target
    weight: float = 0.5  # of the teacher's part
    temperature: float = 1.0  # soft: both distributions are flattened so
    smoothing: float = 0.0  # of the labels
    rescale: Tensor | None = None  # (2, C): the teacher's images are the student's times the first row plus the second

    def __post_init__(self) -> None:
        if self.kind not in ("hard", "soft"):
            raise UserError(f"distillation is {self.kind!r}; known: hard, soft.")
        if not 0 <= self.weight <= 1 or self.temperature <= 0:
            raise UserError("distillation: weight must be in [0, 1] and temperature above 0.")
        self.teacher.eval().requires_grad_(False)

    def check(self, student: VisionTransformer) -> None:
        """Raises UserError where student and teacher do not fit."""
        for field in ("num_classes", "image_size", "in_channels"):
            ours, theirs = getattr(student.config, field), getattr(self.teacher.config, field)
            if ours != theirs:
                raise UserError(f"the teacher's {field} is {theirs} and the student's {ours}; they must be equal.")

    def loss(self, module: nn.Module, batch: Batch) -> Tensor:
        """Scalar loss; the logits are taken to float32 first."""
        with torch.no_grad():
            images = batch.images
            if next(self.teacher.parameters()).device != images.device:
                self.teacher.to(images.device)
            if self.rescale is not None:
                scale, shift = self.rescale.to(images)[:, None, :, None, None]
                images = images * scale + shift
            taught = self.teacher(images).float()
        inner = getattr(module, "module", module)  # of a module that torch's data parallelism wrapped
        if isinstance(inner, VisionTransformer) and inner.head_dist is not None:
            own, learner = (logits.float() for logits in inner.both_logits(batch.images))
        else:
            own = learner = module(batch.images).float()
        labelled = cross_entropy(own, batch.labels, self.smoothing)
        return (1 - self.weight) * labelled + self.weight * self._from_teacher(learner, taught)

    def _from_teacher(self, logits: Tensor, taught: Tensor) -> Tensor:
        if self.kind == "hard":
            return F.cross_entropy(logits, taught.argmax(-1))
        T = self.temperature
        target, answer = F.log_softmax(taught / T, -1), F.log_softmax(logits / T, -1)
        # T * T keeps the gradient's size as the distributions flatten (arXiv 1503.02531, section 2)
        return F.kl_div(answer, target, reduction="batchmean", log_target=True) * T * T
