"""The 52,268 files of "How to train your ViT" (arXiv 2106.10270), by their naming rule.

A pre-trained file is ``{M}-{data}-{epochs}ep-lr_0.001-aug_{aug}-wd_{wd}-do_{do}-sd_{sd}``; a fine-tuned one appends
``--{set}-steps_{k}k-lr_{lr}-res_{r}``. Nine models have every setting. Of the tenth, B/8, three files and most of their
fine-tuned ones were published; which three is not on record, so any setting of its is accepted.

Source: index.csv of the bucket, as VIT_SPEC 2.3 counts it: 759 pre-trained = 9 x 3 x 28 + 3, and 51,509 fine-tuned.
"""

from __future__ import annotations

import dataclasses
import difflib
import re
from collections.abc import Iterator
from functools import lru_cache

from vitkit.zoo.google import ALIGNED, STEMS, VIT_MODELS
from vitkit.zoo.record import CLASS_COUNTS, HALF, Checkpoint, preprocessing, sized

__all__ = ["PREFIX", "RECOMMENDED", "ROWS", "auto", "nearest", "resolve", "stems"]

PREFIX = "augreg/"
MODELS = ("Ti_16", "S_32", "S_16", "B_32", "B_16", "L_16", "R_Ti_16", "R26_S_32", "R50_L_32")
FEW = "B_8"  # 3 pre-trained files, on ImageNet-21k for 300 epochs, all at 224
DATA = ("i1k-300ep", "i21k-300ep", "i21k-30ep")
AUGS = ("none", "light0", "light1", "medium1", "medium2", "strong1", "strong2")
DECAYS = ("0.03", "0.1")
DROPS = ("0.0", "0.1")  # dropout and stochastic depth are both on or both off
RATES = ("0.001", "0.003", "0.01", "0.03")
# set -> steps, learning rates. steps_0k are 500, steps_2k are 2500.
TASKS = {
    "imagenet2012": (("20k",), ("0.01", "0.03")),
    "cifar100": (("2k", "10k"), RATES),
    "oxford_iiit_pet": (("0k", "2k"), RATES),
    "resisc45": (("2k", "10k"), RATES),
    "kitti": (("0k", "2k"), RATES),
}
SIZES = ("224", "384")
PATTERN = re.compile(
    r"(?P<model>\w+)-(?P<data>\w+-\d+ep)-lr_(?P<lr>[\d.]+)-aug_(?P<aug>\w+)-wd_(?P<wd>[\d.]+)-do_(?P<do>[\d.]+)-sd_(?P<sd>[\d.]+)"
    r"(?:--(?P<task>\w+?)-steps_(?P<steps>\w+)-lr_(?P<rate>[\d.]+)-res_(?P<res>\d+))?"
)
SOURCE = "google-research/vision_transformer, arXiv 2106.10270"
README = "README of google-research/vision_transformer"
# model -> the pre-trained settings that the README recommends, the learning rate and size of their ImageNet fine-tuning, and
# its top-1 in percent. B/8: big_vision's list of short names, which names no figure.
RECOMMENDED = {
    "L_16": ("aug_strong1-wd_0.1-do_0.0-sd_0.0", "0.01", "384", 85.59),
    "B_16": ("aug_medium1-wd_0.1-do_0.0-sd_0.0", "0.03", "384", 85.49),
    "S_16": ("aug_light1-wd_0.03-do_0.0-sd_0.0", "0.03", "384", 83.73),
    "R50_L_32": ("aug_medium1-wd_0.1-do_0.1-sd_0.1", "0.01", "384", 85.99),
    "R26_S_32": ("aug_light1-wd_0.1-do_0.0-sd_0.0", "0.01", "384", 83.85),
    "Ti_16": ("aug_none-wd_0.03-do_0.0-sd_0.0", "0.03", "384", 78.22),
    "B_32": ("aug_light1-wd_0.1-do_0.0-sd_0.0", "0.01", "384", 83.59),
    "S_32": ("aug_none-wd_0.1-do_0.0-sd_0.0", "0.01", "384", 79.58),
    "R_Ti_16": ("aug_none-wd_0.03-do_0.0-sd_0.0", "0.03", "384", 75.40),
    "B_8": ("aug_medium2-wd_0.1-do_0.0-sd_0.0", "0.03", "224", None),
}


def _choices(model: str, task: str) -> dict[str, tuple[str, ...]]:
    """What each part of a name may be, given the model and the set it was fine-tuned on."""
    steps, rates = TASKS.get(task, ((), ()))
    few = model == FEW
    return {
        "model": (*MODELS, FEW), "data": ("i21k-300ep",) if few else DATA, "lr": ("0.001",), "aug": AUGS, "wd": DECAYS,
        "do": DROPS, "sd": DROPS, "task": tuple(TASKS), "steps": steps, "rate": rates,
        "res": ("224",) if few else SIZES,
    }  # fmt: skip


def stems() -> Iterator[str]:
    """The names of every file of the nine models that have all settings: 756 pre-trained and 51,408 fine-tuned."""
    for model in MODELS:
        for data in DATA:
            for aug in AUGS:
                for wd in DECAYS:
                    for drop in DROPS:
                        stem = f"{model}-{data}-lr_0.001-aug_{aug}-wd_{wd}-do_{drop}-sd_{drop}"
                        yield stem
                        yield from (f"{stem}--{task}" for task in _tasks())


def _tasks() -> list[str]:
    return [
        f"{task}-steps_{k}-lr_{rate}-res_{size}"
        for task, (steps, rates) in TASKS.items()
        for k in steps
        for rate in rates
        for size in SIZES
    ]


def _parse(stem: str) -> dict[str, str] | None:
    """The parts of a name that follows the rule, else None."""
    match = PATTERN.fullmatch(stem)
    if match is None:
        return None
    parts = {key: value for key, value in match.groupdict().items() if value is not None}
    allowed = _choices(parts["model"], parts.get("task", ""))
    valid = parts["do"] == parts["sd"] and all(value in allowed[key] for key, value in parts.items())
    return parts if valid else None


def nearest(stem: str) -> str | None:
    """The name that a mistyped one is likely to mean: each part that does not exist becomes the most alike one that does."""
    match = PATTERN.fullmatch(stem.removeprefix(PREFIX))
    if match is None or _parse(match[0]) is not None:
        return None
    parts = {key: value for key, value in match.groupdict().items() if value is not None}
    for key in parts:  # in the order of the name: what the model and the set allow is known when it is asked
        allowed = _choices(parts["model"], parts.get("task", ""))[key]
        if parts[key] not in allowed:
            spelt = {value.lower(): value for value in allowed}
            alike = difflib.get_close_matches(parts[key].lower(), spelt, n=1, cutoff=0.3)
            if not alike:
                return None
            parts[key] = spelt[alike[0]]
    parts["sd"] = parts["do"]
    name = "{model}-{data}-lr_{lr}-aug_{aug}-wd_{wd}-do_{do}-sd_{sd}".format(**parts)
    return name + ("--{task}-steps_{steps}-lr_{rate}-res_{res}".format(**parts) if "task" in parts else "")


@lru_cache(maxsize=256)
def resolve(name: str) -> Checkpoint | None:
    """The row of a file by its name, with or without ``augreg/``; None where no such file was published."""
    stem = name.removeprefix(PREFIX)
    parts = _parse(stem)
    if parts is None:
        return None
    image = int(parts.get("res", 224))
    pretrained = parts["data"].split("-")[0]
    classes = {"imagenet2012": "imagenet1k"}.get(parts["task"], parts["task"]) if "task" in parts else None
    classes = classes or {"i1k": "imagenet1k", "i21k": "imagenet21k"}[pretrained]
    *resnet, size, patch = parts["model"].split("_")
    changes: dict[str, object] = {**ALIGNED, "num_classes": CLASS_COUNTS[classes]}
    if resnet:
        changes |= {"stem": STEMS[resnet[0]], "patch_size": (8, 8) if resnet[0] == "R" else (1, 1)}
    trained_on = {"i1k": "ImageNet-1k", "i21k": "ImageNet-21k"}[pretrained]
    return Checkpoint(
        name=f"{PREFIX}{stem}",
        format="google",
        model=sized(size, int(patch), image, **changes),
        preprocess=preprocessing(image, HALF, 1.0, "bilinear", squash=True),
        licence="Apache-2.0",
        source=SOURCE,
        trained_on=trained_on + (f", then {parts['task']}" if "task" in parts else ""),
        url=f"{VIT_MODELS}/augreg/{stem}.npz",
        classes=classes,
        note="Some files pre-trained on ImageNet-1k have a hidden layer before the head; the file decides."
        if pretrained == "i1k" and "task" not in parts
        else "",
    )


def auto(model: str) -> Checkpoint:
    """What the official code chooses for a bare model name such as ``B_16``: the best file pre-trained on ImageNet-21k.

    Source: the rule is the highest final_val of index.csv among ``ds == "i21k"``; the README lists the files it finds.

    Raises:
        KeyError: not one of `RECOMMENDED`.
    """
    return next(row for row in ROWS if f"howto-i21k-{_slashed(model)}" in row.aliases)


def _slashed(model: str) -> str:
    *resnet, size, patch = model.split("_")
    return "+".join([*resnet, f"{size}/{patch}"])


def _recommended() -> Iterator[Checkpoint]:
    for model, (settings, rate, size, top1) in RECOMMENDED.items():
        stem = f"{model}-i21k-300ep-lr_0.001-{settings}"
        short = _slashed(model)
        pretrained = resolve(stem)
        tuned = resolve(f"{stem}--imagenet2012-steps_20k-lr_{rate}-res_{size}")
        assert pretrained is not None
        assert tuned is not None
        yield dataclasses.replace(pretrained, aliases=(f"howto-i21k-{short}", f"augreg/{model}"))
        told = {} if top1 is None else {"top1": round(top1 / 100, 4), "top1_source": README}
        yield dataclasses.replace(tuned, aliases=(f"howto-i21k-{short}-{size}", f"augreg/{model}-{size}"), **told)  # type: ignore[arg-type]


ROWS = tuple(_recommended())
