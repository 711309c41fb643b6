"""The model bundle: a folder that says everything a command needs to use a model.

    model.safetensors   tensors only
    config.json         task, model, preprocessing, classes, calibration, source and licence of the weights, format version
    unknown.safetensors what tells images unlike the training images (where there was enough held-out data)
    training.json       recipe, data fingerprint and metrics of the run that made it (where there was one)

Reading the JSON imports no torch.
"""

from __future__ import annotations

import dataclasses
import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from vitkit import __version__
from vitkit.answers import MULTI, SINGLE, Answers, Outputs, Prediction, calibrated
from vitkit.config import UserError, from_dict, read_json, write_file, write_json
from vitkit.data.pixels import Preprocess, prepare, to_planes
from vitkit.unknown import Unknown, read_unknown, write_unknown
from vitkit.weights.fill import fill
from vitkit.weights.safetensors_file import read_tensors

if TYPE_CHECKING:
    import numpy as np
    from PIL import Image
    from torch import Tensor

    from vitkit.artefact import Artefact
    from vitkit.models.vit import VisionTransformer, ViTConfig

__all__ = [
    "FORMAT_VERSION",
    "Bundle",
    "check_facts",
    "is_bundle",
    "read_bundle_config",
    "read_facts",
    "unprepared",
    "write_facts",
]

Array: TypeAlias = "np.ndarray[Any, Any]"
FORMAT = "vitkit-bundle"
FORMAT_VERSION = 2  # the newest read; each bundle is written in the oldest that can say all of it
OLDEST = {SINGLE: 1, MULTI: 2}  # a reader of format 1 knows no task and would take a multi-label model's softmax


Run: TypeAlias = "Callable[[Array], Outputs]"
Maker: TypeAlias = "Callable[[Bundle], Run]"


@dataclass(repr=False)
class Bundle:
    """A model with all it takes to use it. ``run`` maps preprocessed images (B, C, H, W) to logits and features."""

    model: VisionTransformer
    preprocess_record: Preprocess | None
    classes: tuple[str, ...] | None = None
    temperature: float = 1.0  # logits are divided by it before the softmax or sigmoid
    source: str = ""  # where the weights came from, one line
    licence: str = "unknown"
    training: Mapping[str, Any] = field(default_factory=dict)  # recipe, data, metrics: written beside the config
    notes: tuple[str, ...] = ()  # what loading assumed or found, for the user to read
    unknown: Unknown | None = None
    run: Run | None = None
    task: str = SINGLE
    thresholds: tuple[float, ...] | None = None  # multi-label: of each class; None until they were chosen
    place: Path | None = None  # the folder or file that it was read from
    artefact: Artefact | None = None  # an exported graph computes, and ``model`` has a configuration and no weights
    _made: tuple[Maker, Any] | None = None  # what made `run`, and a sign of the weights then

    def __repr__(self) -> str:
        c = self.config
        return (
            f"Bundle({self.source!r}, {c.embed_dim} wide, {c.depth} deep, image {c.image_size[0]}x{c.image_size[1]}, "
            f"{c.num_classes} outputs{'' if self.classes else ' without names'})"
        )

    @property
    def config(self) -> ViTConfig:
        """The model's configuration."""
        return self.model.config

    def run_by(self, make: Maker) -> None:
        """Let ``make`` make `run`, now and again wherever the weights were changed since: engines hold forms of their own."""
        self.run, self._made = make(self), (make, _sign(self.model))

    def current_run(self) -> Run | None:
        """`run`, of the weights as they are now. What is written through ``parameter.data`` is not noticed."""
        if self._made is not None and self._made[1] != _sign(self.model):
            self.run_by(self._made[0])
        return self.run

    def require_preprocess(self) -> Preprocess:
        """The preprocessing record.

        Raises:
            UserError: a bare checkpoint that nothing says the preprocessing of, or one of another number of channels.
        """
        if self.preprocess_record is None:
            raise unprepared(self.source)
        if self.preprocess_record.channels != self.config.in_channels:
            raise UserError(
                f"the preprocessing has mean and std of {self.preprocess_record.channels} channels, the model takes "
                f"{self.config.in_channels}. Load it with mean=... and std=... of {self.config.in_channels} values."
            )
        return self.preprocess_record

    def require_modules(self) -> None:
        """Check that the model itself is there, not a graph that was exported from it.

        Raises:
            UserError: the bundle is an exported artefact's.
        """
        if self.artefact is not None:
            from vitkit.artefact import refusal

            raise refusal(self.artefact.folder)

    def require_classes(self) -> None:
        """Check that the model gives one answer per image.

        Raises:
            UserError: it has no head, or one that does not give classes.
        """
        if self.config.num_classes == 0:
            raise UserError(
                "this model has no head: it gives features, not classes. Fine-tune it on labelled images first."
            )
        if not self.config.head_bias:
            raise UserError(
                "this model's head is a projection into an embedding shared with text, not classes. Fine-tune it on labelled "
                "images first."
            )
        if self.config.pool == "none":
            raise UserError("this model classifies every token (pool='none'); predicting needs one answer per image.")

    def preprocess(self, image: Image.Image | np.ndarray) -> Tensor:
        """A PIL image of any mode, or an array (H, W, C) as in a `.npy` file, to the model's input, float32 (C, H, W)."""
        from vitkit.data.loader import to_tensor

        return to_tensor(prepare(image, self.require_preprocess()))

    @property
    def answers(self) -> Answers:
        """What turns this model's outputs into answers."""
        return Answers(
            self.config.num_classes, self.classes, self.temperature, self.task, self.thresholds, self.unknown
        )

    def probabilities(self, logits: Array | Tensor) -> Array:
        """Calibrated probabilities (B, O) of logits (B, O), in float64 so that they print alike everywhere."""
        return calibrated(logits, self.temperature, self.task)

    def class_name(self, index: int) -> str:
        """The name of a class, its index where classes have no names."""
        return self.answers.class_name(index)

    def top(self, probabilities: Array | Tensor, top: int) -> Prediction:
        """The ``top`` most probable classes of one image, probabilities (O,), see `Answers.top`."""
        return self.answers.top(probabilities, top)

    def answer(self, outputs: Outputs, top: int) -> Prediction:
        """The prediction for one image, from its logits (O,) and features (D,)."""
        return self.answers.answer(outputs, top)

    def predict(
        self, images: Image.Image | np.ndarray | Sequence[Image.Image | np.ndarray], top: int = 5
    ) -> list[Prediction]:
        """Classify PIL images, or arrays (H, W, C); each result is independent of the other images.

        Raises:
            UserError: the model has no head or no preprocessing record.
        """
        import numpy as np

        self.require_classes()
        many: list[Any] = list(images) if isinstance(images, list | tuple) else [images]
        for image in many:
            if not hasattr(image, "getexif") and type(image).__name__ != "ndarray":
                raise UserError(
                    f"predict takes PIL images or arrays (height, width, channels), got {type(image).__name__}; "
                    "open files with PIL.Image.open or numpy.load."
                )
        if not many:
            return []
        record, answers = self.require_preprocess(), self.answers
        outputs = (self.current_run() or self._run_model)(
            np.stack([to_planes(prepare(image, record)) for image in many])
        )
        return [answers.answer(Outputs(*row), top) for row in zip(*outputs, strict=True)]

    def _run_model(self, images: Array) -> Outputs:
        import torch

        model = self.model.eval()
        with torch.inference_mode():
            outputs = model.outputs(model.forward_features(torch.from_numpy(images)))
        return Outputs(*(rows.numpy() for rows in outputs))

    def save(self, path: str | Path, *, half: bool = False) -> Path:
        """Write the bundle to the folder ``path``: a new folder appears when it is whole, an existing bundle is replaced
        file by file.

        Args:
            half: round the weights to bfloat16, which halves the file; what is read back computes in float32 as ever.

        Raises:
            UserError: the folder cannot be written, or holds something that is not a bundle.
        """
        import torch
        from safetensors.torch import save

        self.require_modules()
        folder = Path(path)
        if folder.exists() and (not folder.is_dir() or (any(folder.iterdir()) and not is_bundle(folder))):
            raise UserError(f"{folder} exists and is not a bundle. Choose another place.")
        dtype = torch.bfloat16 if half else None
        tensors = {
            name: tensor.detach().to("cpu", dtype).contiguous() for name, tensor in self.model.state_dict().items()
        }
        data = save(tensors)
        config = {
            "format": FORMAT,
            "format_version": OLDEST[self.task],
            "vitkit_version": __version__,
            **self.facts(hashlib.sha256(data).hexdigest()),
        }
        target = folder if folder.exists() else folder.with_name(folder.name + ".partial")
        write_file(target / "model.safetensors", data)
        write_facts(self, target)
        write_json(target / "config.json", config)
        if target != folder:
            _appear(target, folder)
        return folder

    def facts(self, sha256: str) -> dict[str, Any]:
        """All that is said of the model beside its tensors, which have this digest: the JSON of a bundle, and of an artefact."""
        return {
            "task": self.task,
            "model": dataclasses.asdict(self.config),
            "preprocess": dataclasses.asdict(self.preprocess_record) if self.preprocess_record else None,
            "classes": list(self.classes) if self.classes else None,
            "calibration": {
                "temperature": self.temperature,
                **({"thresholds": list(self.answers.cuts)} if self.task == MULTI else {}),
            },
            "unknown": self.unknown and self.unknown.to_dict(),
            "weights": {"sha256": sha256, "source": self.source, "licence": self.licence},
        }

    @classmethod
    def read(cls, path: str | Path) -> Bundle:
        """Read a bundle folder.

        Raises:
            UserError: not a bundle, of a newer format, truncated, or with tensors that do not fit its configuration.
        """
        import torch

        from vitkit.models.vit import VisionTransformer, ViTConfig

        folder = Path(path)
        config = read_bundle_config(folder)
        state = read_tensors(folder / "model.safetensors", config["weights"].get("sha256"))
        with torch.device("meta"):  # no memory until the tensors come
            model = VisionTransformer(from_dict(ViTConfig, config["model"], f"{folder}/config.json: model"))
        fill(model, state, f"{folder}/model.safetensors")
        c = model.config
        unknown = read_unknown(folder, config.get("unknown"), c.feature_dim)
        return cls(model=model.eval(), unknown=unknown, **read_facts(folder, config, c.num_classes, c.image_size))


def write_facts(bundle: Bundle, folder: Path) -> None:
    """Write what `Bundle.facts` cannot hold, or remove it where the bundle has none: the detector of unknown images, the run."""
    if bundle.unknown:
        write_unknown(folder, bundle.unknown)
    if bundle.training:
        write_json(folder / "training.json", bundle.training)
    else:
        (folder / "training.json").unlink(missing_ok=True)  # of a bundle that was here before


def read_facts(
    folder: Path, config: Mapping[str, Any], num_classes: int, image_size: tuple[int, int]
) -> dict[str, Any]:
    """Fields of a `Bundle` beside its model and its detector, from what `Bundle.facts` and `write_facts` wrote and `check_facts`
    checked. Imports no torch.

    Raises:
        UserError: they do not fit a model of so many classes and such images.
    """
    classes = config["classes"]
    if classes is not None and len(classes) != num_classes:
        raise UserError(f"{folder}: {len(classes)} class names for a head of {num_classes} classes.")
    thresholds = config["calibration"].get("thresholds")
    if thresholds is not None and len(thresholds) != num_classes:
        raise UserError(f"{folder}: {len(thresholds)} thresholds for a head of {num_classes} classes.")
    record = config["preprocess"] and from_dict(Preprocess, config["preprocess"], f"{folder}/config.json: preprocess")
    if record and record.image_size != image_size:
        raise UserError(f"{folder}: images of {record.image_size} for a model of {image_size}.")
    training = folder / "training.json"
    return {
        "preprocess_record": record or None,
        "classes": tuple(classes) if classes else None,
        "temperature": float(config["calibration"]["temperature"]),
        "source": config["weights"]["source"],
        "licence": config["weights"]["licence"],
        "training": read_json(training) if training.exists() else {},
        "task": config.get("task", SINGLE),
        "thresholds": tuple(map(float, thresholds)) if thresholds else None,
    }


def _sign(model: VisionTransformer) -> list[tuple[int, int]]:
    """Changes with every in-place operation on a weight, and with every weight that is replaced."""
    found = []
    for tensor in (*model.parameters(), *model.buffers()):
        found.append((tensor.data_ptr(), -1 if tensor.is_inference() else tensor._version))
    return found


def unprepared(source: str) -> UserError:
    """What to say where nothing tells how images were prepared."""
    return UserError(
        f"nothing says how images were prepared for these weights ({source}). Say it as their publisher does: "
        "--override mean=0.485,0.456,0.406 --override std=0.229,0.224,0.225 are ImageNet's, 0.5,0.5,0.5 for both Google's; also "
        "fit=crop, crop_fraction=0.875, interpolation=bicubic or what it was. In Python: load(..., mean=(...), std=(...))."
    )


def _appear(partial: Path, folder: Path) -> None:
    try:
        partial.replace(folder)
    except OSError as error:
        raise UserError(f"cannot write {folder}: {error.strerror or error}. Choose another place.") from None


def is_bundle(folder: Path) -> bool:
    """Does the folder look like a bundle of any version?"""
    if not (folder / "config.json").is_file():
        return False
    try:
        return bool(read_json(folder / "config.json").get("format") == FORMAT)
    except (UserError, AttributeError):
        return False


def read_bundle_config(folder: Path) -> dict[str, Any]:
    """Read and check ``config.json`` of a bundle, without torch.

    Raises:
        UserError: not a bundle, of a newer format, or incomplete.
    """
    if not folder.is_dir():
        raise UserError(f"{folder} is not a folder; a bundle is a folder with config.json and model.safetensors.")
    config = read_json(folder / "config.json")
    if not isinstance(config, dict) or config.get("format") != FORMAT:
        raise UserError(f"{folder} is not a vitkit bundle: its config.json has no format {FORMAT!r}.")
    version = config.get("format_version")
    if type(version) is not int or not 1 <= version <= FORMAT_VERSION:
        raise UserError(
            f"{folder} has bundle format {version}; this vitkit {__version__} reads up to {FORMAT_VERSION}. "
            f"It was made by vitkit {config.get('vitkit_version', '?')}: pip install -U vitkit."
        )
    check_facts(folder / "config.json", config, version)
    return config


def check_facts(path: Path, config: Mapping[str, Any], version: int) -> None:
    """Check the facts of a bundle's JSON of a format version, or of an artefact's, before `read_facts`.

    Raises:
        UserError: something is missing or not what it should be.
    """
    missing = sorted({"model", "preprocess", "classes", "calibration", "weights"} - set(config))
    for part, fields in (("model", ()), ("calibration", ("temperature",)), ("weights", ("source", "licence"))):
        if part not in missing and not isinstance(config[part], dict):
            raise UserError(f"{path}: {part} must hold named values, got {config[part]!r}.")
        missing += [f"{part}.{name}" for name in fields if part not in missing and name not in config[part]]
    if missing:
        raise UserError(f"{path} lacks {', '.join(missing)}; the bundle is incomplete, make it again.")
    _check_task(path, config, version)
    temperature, classes = config["calibration"]["temperature"], config["classes"]
    if type(temperature) not in (int, float) or not 0 < temperature < math.inf:
        raise UserError(f"{path}: temperature must be a number above 0, got {temperature!r}.")
    names = classes if isinstance(classes, list) else [classes]
    if classes is not None and (
        not all(isinstance(c, str) for c in names) or len(set(names)) < len(names) or names is not classes
    ):
        raise UserError(f"{path}: classes must be a list of different names, got {classes!r:.80}.")
    if config["preprocess"] is not None and not isinstance(config["preprocess"], dict):
        raise UserError(f"{path}: preprocess must hold named values, got {config['preprocess']!r:.80}.")


def _check_task(path: Path, config: Mapping[str, Any], version: int) -> None:
    """Format 1 may name no task: its bundles are single-label."""
    task = config.get("task", SINGLE if version == 1 else None)
    if not isinstance(task, str) or task not in OLDEST or OLDEST[task] > version:
        known = ", ".join(name for name, oldest in OLDEST.items() if oldest <= version)
        raise UserError(f"{path}: the task is {task!r}; in bundle format {version}: {known}.")
    thresholds = config["calibration"].get("thresholds")
    if (thresholds is not None) != (task == MULTI):
        raise UserError(
            f"{path}: calibration.thresholds belongs to {MULTI} models and to no others; this is a {task} one. "
            "The bundle is incomplete, make it again."
        )
    if task == MULTI and not (
        isinstance(thresholds, list) and all(type(t) in (int, float) and 0 <= t <= 1 for t in thresholds)
    ):
        raise UserError(f"{path}: thresholds must be a list of numbers between 0 and 1, got {thresholds!r:.80}.")
