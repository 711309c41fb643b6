"""What a result may be about: the board's metrics, tasks and data sets. Numbers change: a row here."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["DATASETS", "METRICS", "TASKS", "Dataset", "Metric", "Task"]

PERCENT = "%"


@dataclass(frozen=True)
class Metric:
    """One figure. On the board rates are in percent; in the rows of commands and runs they are fractions."""

    name: str  # as rows name it: top1
    title: str
    unit: str  # "%" for a rate, else what the number counts
    better: str  # higher or lower
    low: float = 0.0
    high: float | None = 100.0  # in `unit`; None: without end
    aliases: tuple[str, ...] = ()

    @property
    def rate(self) -> bool:
        """Is it a fraction in the rows of commands?"""
        return self.unit == PERCENT


@dataclass(frozen=True)
class Task:
    """One kind of question asked of a model, with the metrics that answer it."""

    name: str
    title: str
    summary: str
    metrics: tuple[str, ...]  # the first heads its tables
    aliases: tuple[str, ...] = ()  # names of protocols among them


@dataclass(frozen=True)
class Dataset:
    """One data set as results are printed for it."""

    name: str
    title: str
    summary: str
    tasks: tuple[str, ...]  # the first is the usual one
    images: int | None = None  # of the split that published figures are of; None where it is not one number
    split: str = "test"  # that split as its publisher calls it
    classes: int | None = None
    metrics: tuple[str, ...] = ()  # where they are not those of its tasks
    aliases: tuple[str, ...] = ()
    source: str = ""  # address of the publisher's page or the paper
    group: str = ""  # VTAB's


def _rate(name: str, title: str, *aliases: str, better: str = "higher") -> Metric:
    return Metric(name, title, PERCENT, better, aliases=aliases)


METRICS = (
    _rate("top1", "top-1 accuracy", "accuracy", "acc", "acc1", "top-1", "percentage correct", "precision@1"),
    _rate("top5", "top-5 accuracy", "acc5", "top-5"),
    _rate("balanced_accuracy", "mean per-class accuracy", "mean_per_class", "mean per class"),
    _rate("macro_f1", "macro F1"),
    _rate("micro_f1", "micro F1"),
    _rate("map", "mean average precision"),
    _rate("exact_match", "exact match"),
    _rate("macro_auroc", "macro AUROC", "auroc"),
    _rate("ece", "calibration error", better="lower"),
    Metric("nll", "negative log-likelihood", "nats", "lower", high=None),
    _rate("mean_top1", "mean of the top-1 accuracies", "mean"),
    *(_rate(f"top1_{k}shot", f"top-1 accuracy, {k} images per class", f"{k}shot", f"{k}-shot") for k in (1, 5, 10, 25)),
    _rate("accuracy_all", "accuracy, all images", "accuracy - all images", "all"),
    _rate("accuracy_clean", "accuracy, clean images", "accuracy - clean images", "clean"),
    _rate("accuracy_corrupted", "accuracy, corrupted images", "accuracy - corrupted images", "corrupted"),
    Metric("mce", "mean corruption error, AlexNet = 100", "relative %", "lower", high=None),
    _rate("i2t_r1", "image to text, recall at 1"),
    _rate("t2i_r1", "text to image, recall at 1"),
)
SCORED = (
    "top1",
    "top5",
    "balanced_accuracy",
    "macro_f1",
    "macro_auroc",
    "nll",
    "ece",
    "map",
    "micro_f1",
    "exact_match",
)

TASKS = (
    Task("image-classification", "Image Classification",
         "One of a fixed set of classes for each image, by a model trained or fine-tuned for these classes.",
         SCORED, ("classify", "classification", "robustness")),
)  # fmt: skip
DATASETS = (
    Dataset("imagenet", "ImageNet", "1,000 classes; figures are of the 50,000 validation images.",
            ("image-classification",), 50_000, "validation", 1000, aliases=("imagenet-1k", "imagenet2012", "ilsvrc2012")),
)  # fmt: skip
