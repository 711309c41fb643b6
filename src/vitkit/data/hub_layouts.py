"""Which files of a data set on the Hugging Face hub are which split of which configuration, by its card or by their names."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any

from vitkit.config import UserError, did_you_mean
from vitkit.data.samples import SPLIT_NAMES, listed

__all__ = ["DEFAULT", "Splits", "choose_config", "find_splits", "refuse_other_kinds"]

DEFAULT = "default"
Splits = dict[str, list[str]]  # split, as the data set calls it, to files
# train-00000-of-00002.parquet, with a part of a checksum behind it in older sets; train.tar; cifar10-train-0001.tar
_FILE = re.compile(r"(?P<split>.*?)(-\d+-of-\d+)?(-[0-9a-f]{16})?([-_.]?\d+)?(\.[a-z]+)+", re.IGNORECASE)


def find_splits(files: Sequence[str], card: Mapping[str, Any], suffix: str) -> dict[str, Splits]:
    """Configurations and their splits: what the card says of them where it does, else what the paths say.

    Understood are ``data/train-00000-of-00002.parquet``, ``CONFIG/train-0000.parquet`` and ``CONFIG/train/0000.parquet``.
    """
    files = sorted(file for file in files if file.lower().endswith(suffix))
    return _by_card(files, card) or _by_path(files)


def _by_card(files: Sequence[str], card: Mapping[str, Any]) -> dict[str, Splits]:
    found: dict[str, Splits] = {}
    configs = card.get("configs")
    for config in configs if isinstance(configs, list) else []:
        entries = config.get("data_files") if isinstance(config, dict) else None
        for entry in entries if isinstance(entries, list) else []:
            if not isinstance(entry, dict) or "split" not in entry:
                continue
            paths = entry.get("path", [])
            patterns = [paths] if isinstance(paths, str) else paths
            taken = [file for file in files if any(fnmatch.fnmatchcase(file, str(p)) for p in patterns)]
            if taken:
                name = str(config.get("config_name", DEFAULT))
                found.setdefault(name, {}).setdefault(str(entry["split"]), []).extend(taken)
    return found


def _by_path(files: Sequence[str]) -> dict[str, Splits]:
    found: dict[str, Splits] = {}
    for file in files:
        *folders, name = PurePosixPath(file).parts
        match = _FILE.fullmatch(name)
        split = match["split"] if match else ""
        if not split and folders:  # CONFIG/train/0000.parquet
            split = folders.pop()
        elif split.lower() not in SPLIT_NAMES:  # cifar10-train
            split = re.split(r"[-_.]", split)[-1] if re.split(r"[-_.]", split)[-1].lower() in SPLIT_NAMES else split
        config = "/".join(folder for folder in folders if folder != "data") or DEFAULT
        found.setdefault(config, {}).setdefault(split, []).append(file)
    return found


def choose_config(found: Mapping[str, Splits], card: Mapping[str, Any], asked: str, data: str) -> str:
    """The configuration that was asked for, the only one, or the one that counts where none is asked for.

    Raises:
        UserError: no such configuration, or several to choose from.
    """
    if asked:
        if asked not in found:
            raise UserError(
                f"{data} has no configuration {asked!r}, only {listed(sorted(found))}.{did_you_mean(asked, found)}"
            )
        return asked
    configs = card.get("configs")
    flagged = [
        c.get("config_name")
        for c in (configs if isinstance(configs, list) else [])
        if isinstance(c, dict) and c.get("default")
    ]
    for name in [*flagged, *(found if len(found) == 1 else ()), DEFAULT]:
        if name in found:
            return str(name)
    raise UserError(
        f"{data} has several configurations: {listed(sorted(found))}. Say which: {data}/{sorted(found)[0]}."
    )


def refuse_other_kinds(card: Mapping[str, Any], tags: Sequence[str], config: str, data: str) -> None:
    """Raises UserError where the card says that the set holds no images."""
    kinds = sorted(tag.removeprefix("modality:") for tag in tags if tag.startswith("modality:"))
    features = _features(card, config)
    images = any(f.get("dtype") in ("image", "binary") or "struct" in f for f in features)
    if features and not images:
        told = ", ".join(f"{f.get('name')} ({_dtype(f)})" for f in features[:6])
        kind = next((k for k in ("audio", "video") if any(f.get("dtype") == k for f in features)), "text or numbers")
        raise UserError(f"{data} is a data set of {kind}, columns {told}; expected images with a label each.")
    if not features and kinds and "image" not in kinds:
        raise UserError(f"{data} is a data set of {' and '.join(kinds)}; expected images with a label each.")


def _features(card: Mapping[str, Any], config: str) -> list[dict[str, Any]]:
    """The columns that the card lists for a configuration; nothing where it does not."""
    infos = card.get("dataset_info")
    infos = infos if isinstance(infos, list) else [infos]
    for info in infos:
        if isinstance(info, dict) and (len(infos) == 1 or info.get("config_name") == config):
            features = info.get("features")
            if isinstance(features, list):
                return [feature for feature in features if isinstance(feature, dict)]
    return []


def _dtype(feature: Mapping[str, Any]) -> str:
    dtype = feature.get("dtype")
    return dtype if isinstance(dtype, str) else "classes" if isinstance(dtype, dict) else "nested"
