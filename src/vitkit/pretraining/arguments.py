"""What a run from a recipe was asked: stored with it, and read again to resume."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vitkit.config import UserError, from_dict, read_json
from vitkit.data.download import without_secrets
from vitkit.runfolder import not_begun

__all__ = ["PretrainArguments", "read_pretrain_arguments"]


@dataclass(frozen=True)
class PretrainArguments:
    """A recipe's name, what was changed of it, and the data."""

    recipe: str
    data: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    workers: int = 1  # never changes the result
    budget: float | None = None  # seconds that the whole command may take
    plan: str | None = None  # a run whose plan is repeated
    resized_cache: float = 0.0  # GB of decoded training images that may be kept on disk; never changes the result

    def as_python(self) -> str:
        """The call that asks for the same run."""
        settings = f", settings={dict(self.settings)!r}" if self.settings else ""
        more = "".join(
            f", {name}={value!r}" for name in ("budget", "plan") if (value := getattr(self, name)) is not None
        )
        return without_secrets(f"vitkit.pretrain({self.recipe!r}, data={self.data!r}{settings}{more})")

    def to_dict(self) -> dict[str, Any]:
        """JSON form; tells the run's kind."""
        return {"kind": "pretrain", **dataclasses.asdict(self)}


def read_pretrain_arguments(run: Path) -> tuple[PretrainArguments, str]:
    """The arguments and the command line of a run.

    Raises:
        UserError: not a run from a recipe.
    """
    path = run / "arguments.json"
    stored = read_json(path) if path.exists() else {}
    if not isinstance(stored, dict) or stored.get("kind") != "pretrain":
        hint = f" It is a fine-tuning run: vit finetune --resume {run}." if stored else ""
        raise UserError(f"{run} is not a run from a recipe: it has no arguments.json of one.{hint or not_begun(run)}")
    stored = {key: value for key, value in stored.items() if key != "kind"}
    arguments = from_dict(PretrainArguments, stored, str(path))
    settings = {key: tuple(v) if isinstance(v, list) else v for key, v in arguments.settings.items()}
    command = (run / "command.txt").read_text(encoding="utf-8", errors="surrogateescape").strip()
    return dataclasses.replace(arguments, settings=settings), command
