"""Writes docs/reference/formats.md from what the tests compare: `python tests/formats_page.py`."""

from __future__ import annotations

import re
import sys
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
if __name__ == "__main__":  # as a script the package may not be installed
    sys.path[:0] = [str(ROOT / "src"), str(ROOT / "tests")]

from converters import parity, parity_huggingface, parity_torchvision  # noqa: E402
from models import test_hybrid, test_vit  # noqa: E402
from vitkit.converters.formats import formats  # noqa: E402
from vitkit.converters.targets import HUGGINGFACE  # noqa: E402
from vitkit.zoo.rows import ROWS  # noqa: E402

__all__ = ["PAGE", "page"]

PAGE = ROOT / "docs" / "reference" / "formats.md"
HEAD = """\
# Reference: formats of published weights, and what is proved for each

<!-- Written by tests/formats_page.py from the tables that the tests iterate over. Do not edit. -->

How to use them is in [How to use published weights](../how-to/checkpoints.md).

"""


def page() -> str:
    """The page as Markdown."""
    return HEAD + "\n".join([*_formats(), *_proofs(), *_compared(), *_golden()]) + "\n"


def _table(head: tuple[str, ...], rows: list[tuple[object, ...]]) -> list[str]:
    lines = [head, ("---",) * len(head), *rows]
    return ["| " + " | ".join(str(cell) for cell in line) + " |" for line in lines]


def _formats() -> list[str]:
    count = Counter(row.format for row in ROWS)
    families = {module.NAME for module in HUGGINGFACE}
    targets = {"google", "big_vision", "timm", "torchvision"}
    rows = [
        (
            f"`{module.NAME}`",
            re.sub(r" \(VIT_SPEC [^)]*\)", "", (module.__doc__ or "").split("\n")[0].rstrip(".")).replace("``", "`"),
            f"`{module.FILE}`",
            ", ".join(f"`{name}`" for name in getattr(module, "SIDECARS", ())) or "–",
            "`huggingface`" if module.NAME in families else f"`{module.NAME}`" if module.NAME in targets else "–",
            count[module.NAME] or "–",
        )
        for module in formats()
    ]
    head = (
        "layout",
        "what it is",
        "usual file",
        "JSON files read beside it",
        "`vit convert --to`",
        "rows in `vit models`",
    )
    return [
        "## Layouts",
        "",
        "A file has a layout when its tensor names fit exactly one of these. Containers are `.safetensors` (one file, or",
        "shards with an index), `.npz`, and `.pth`, `.pt`, `.bin` or `.ckpt` files opened weights-only.",
        "",
        *_table(head, rows),
        "",
    ]


def _proofs() -> list[str]:
    return [
        "## What is proved for every layout",
        "",
        "- Reading and writing are inverse to the last bit, for every kind of model that the layout has (`tests/converters`).",
        "- The configuration is read off names and shapes alone, of tensors without memory.",
        "- Exactly one layout takes a set of names; what is missing and what is left over is named.",
        "- The shared DeiT-Tiny, written as every target and read back, gives the same outputs (`tests/jobs/test_convert.py`).",
        "- Every row of the zoo: names and shapes of all its tensors, against the independent library's own model where there",
        "  is one, on tensors without memory (`tests/zoo/test_rows.py`).",
        "",
    ]


def _compared() -> list[str]:
    compared: dict[tuple[str, str], tuple[list[str], list[str]]] = {}
    for row in (*parity.ROWS, *parity_huggingface.ROWS, *parity_torchvision.ROWS):
        models, sizes = compared.setdefault((row.library, row.family), ([], []))
        size = f"{row.image_size[0]}x{row.image_size[1]}"
        models += [row.model] if row.model not in models else []
        sizes += [size] if size not in sizes else []
    rows = [
        (family, library, ", ".join(f"`{model}`" for model in models), ", ".join(sizes))
        for (library, family), (models, sizes) in compared.items()
    ]
    return [
        f"## Compared with independent implementations: {len(rows)} families",
        "",
        "Small models of the library's own code with random weights, so scaled that attention is far from uniform, in float32. Our",
        "outputs from their tensors differ by at most 1e-4 of the outputs' scale (most tests ask for 1e-5), and their own strict",
        "loader takes what we write.",
        "",
        *_table(("family", "library", "its model", "image sizes (H x W)"), rows),
        "",
    ]


def _golden() -> list[str]:
    changes = {name: row[0] for table in (test_vit.GOLDEN, test_hybrid.GOLDEN) for name, row in table.items()}
    rows: list[tuple[object, ...]] = [
        (
            name,
            ", ".join(f"{field} = {value}" for field, value in changed.items())
            or "none: token, patches of 16, 64 pixels",
        )
        for name, changed in changes.items()
    ]
    return [
        "## Golden vectors of the official JAX code",
        "",
        "Outputs of google-research/vision_transformer on weights and images made by a rule; ours differ by at most 1e-4.",
        "",
        *_table(("vector", "changes of the model"), rows),
        "",
        "The big_vision layout is compared with a plain numpy forward written from its description",
        "(`tests/converters/test_big_vision.py`).",
    ]


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
    print(f"wrote {PAGE}")
