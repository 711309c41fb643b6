"""The evaluation of a fine-tuning run on its validation part."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor

from vitkit.console import Console, percent
from vitkit.data.sources import Sample
from vitkit.engines.eager import EagerEngine
from vitkit.evals.scoring import outputs_of
from vitkit.evals.tasks import Task
from vitkit.finetuning.arguments import Arguments
from vitkit.models.lora import plain_state
from vitkit.models.vit import VisionTransformer, ViTConfig
from vitkit.recipes.finetune import Plan
from vitkit.runlog import Evaluated
from vitkit.zoo.adapt import resize

__all__ = ["Validation"]


class Validation:
    """Scores weights on the validation part, at the size the released model will run at."""

    def __init__(
        self,
        plan: Plan,
        val: Sequence[Sample],
        task: Task,
        arguments: Arguments,
        config: ViTConfig,
        console: Console,
    ) -> None:
        """``config`` is that of the model in training."""
        self.plan, self.val, self.task, self.config, self.console = plan, val, task, config, console
        self.select_by, self.max_pixels = arguments.select_by, arguments.max_pixels
        self.targets = task.targets(val)
        self.best: float | None = None

    def go_on(self, evaluations: Sequence[Mapping[str, float]]) -> None:
        """Know what earlier evaluations of a resumed run found."""
        self.best = max((found[self.task.headline] for found in evaluations), default=None)

    def __call__(self, weights: dict[str, Tensor], _step: int) -> Evaluated:
        """Score weights of the model in training, low-rank updates merged."""
        model = VisionTransformer(self.config)
        model.load_state_dict(plain_state(weights))
        sized = resize(model, self.plan.preprocess.image_size)
        train = self.plan.train
        engine = EagerEngine(sized, precision=train.precision, fused_attention=train.fused_attention, group=16)
        logits = outputs_of(
            engine, self.plan.preprocess, self.val, self.console, "validating", max_pixels=self.max_pixels
        ).logits
        scores = self.task.score_logits(logits, self.targets)
        values = {k: v for k, v in scores.values.items() if k in self.task.metrics}
        headline = values[self.task.headline]
        self.best = headline if self.best is None else max(self.best, headline)
        shown = f"best {self.task.shown} {percent(self.best)}"
        return Evaluated(values, "val", shown, scores.selection_key(self.select_by)[0], scores.floor(self.select_by))
