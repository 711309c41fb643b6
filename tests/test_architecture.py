"""The walls of the house: one-way imports, light imports, a frozen public surface."""

from __future__ import annotations

import ast
import importlib
import json
import pkgutil
import resource
import subprocess
import sys
from pathlib import Path

import pytest

import vitkit
from shared import ROOT

PACKAGE = ROOT / "src" / "vitkit"
# A module imports lower numbers only. Siblings of one number only where ALLOWED says so.
LAYERS = {
    "config": 0, "console": 0, "report": 0, "charts": 0, "json_list": 0,
    "models": 1, "data": 1, "optim": 1, "schedules": 1, "chains": 1, "unknown": 1, "answers": 1, "weights": 1,
    "parallel": 1,
    "bundle": 2, "artefact": 2, "checkpoint": 2, "objectives": 2, "converters": 2,
    "datasets": 2,
    "zoo": 3, "analysis": 3, "exporters": 3, "diagnose": 3, "trackers": 3,
    "runfolder": 1, "train": 4, "engines": 4, "runlog": 5, "planning": 5,
    "evals": 5,
    "recipes": 6, "audits": 6, "finetuning": 6, "pretraining": 6, "protocols": 6, "board": 6, "papers": 6, "server": 6,
    "predicting": 6, "exporting": 6, "jobs": 6,
    "cli": 7, "__main__": 8,
}  # fmt: skip
ALLOWED = {
    ("report", "config"), ("report", "charts"), ("report", "json_list"),
    ("json_list", "config"), ("console", "config"), ("unknown", "weights"), ("answers", "unknown"),
    ("artefact", "bundle"), ("bundle", "artefact"), ("optim", "schedules"), ("optim", "chains"),
    ("finetuning", "recipes"), ("pretraining", "recipes"), ("jobs", "pretraining"), ("jobs", "recipes"),
    ("jobs", "finetuning"), ("jobs", "audits"), ("jobs", "protocols"), ("jobs", "board"), ("finetuning", "audits"),
    ("papers", "recipes"), ("papers", "pretraining"), ("papers", "board"), ("jobs", "papers"),
    ("jobs", "server"), ("jobs", "predicting"), ("jobs", "exporting"),
    ("train", "engines"),  # its blocks in C, and nothing else
    ("protocols", "recipes"), ("protocols", "pretraining"),  # vtab fine-tunes 19 times, by the recipe of the paper
}  # fmt: skip
NEEDS_ORDER = [
    "arguments",
    "default",
    "data",
    "balance",
    "backbone",
    "mirror",
    "probe",
    "validation",
    "training",
    "errors",
    "plan",
    "classes",
    "folds",
    "facts",
    "release",
]
HEAVY = ("torch", "sklearn", "jinja2", "psutil", "numpy", "PIL", "safetensors")


def imports_of(path: Path) -> set[str]:
    """Every vitkit module that a file imports, also inside functions."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "vitkit":
            found.add(node.module)
            if node.module == "vitkit":
                found.update(f"vitkit.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names if alias.name.split(".")[0] == "vitkit")
    return found


def part_of(module: str) -> str | None:
    """The top-level part of vitkit that a module belongs to; None for the package itself."""
    pieces = module.split(".")
    return pieces[1] if len(pieces) > 1 and pieces[1] in LAYERS else None


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda p: p.relative_to(PACKAGE).as_posix())
def test_imports_go_down_only(path: Path) -> None:
    part = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    if part == "__init__":
        return
    assert part in LAYERS, f"{part} has no layer: say where it belongs"
    for module in imports_of(path):
        other = part_of(module)
        if other is None or other == part or (part, other) in ALLOWED:
            continue
        assert LAYERS[other] < LAYERS[part], f"{path.relative_to(PACKAGE)} imports {module}, which is not below it"


def test_models_data_optim_and_parallel_never_import_each_other() -> None:
    parts = {"models", "data", "optim", "schedules", "chains", "parallel"}
    for part in sorted(parts):
        own = {"schedules", "chains"} if part == "optim" else set()
        for path in [*PACKAGE.glob(f"{part}.py"), *PACKAGE.glob(f"{part}/*.py")]:
            others = {part_of(m) for m in imports_of(path)} & parts - {part} - own
            assert not others, f"{path.name} imports {others}"


def test_only_parallel_uses_torch_distributed() -> None:
    users = {
        path.relative_to(PACKAGE).parts[0]
        for path in PACKAGE.rglob("*.py")
        if "torch.distributed" in path.read_text(encoding="utf-8")
    }
    assert users == {"parallel"}


def test_the_loop_knows_no_objective_and_no_evaluator() -> None:
    assert not {part_of(m) for m in imports_of(PACKAGE / "train.py")} & {"objectives", "evals"}


def test_the_parts_of_a_run_import_in_one_direction() -> None:
    folder = PACKAGE / "finetuning"
    assert {p.stem for p in folder.glob("*.py")} == {"__init__", *NEEDS_ORDER}
    for number, name in enumerate(NEEDS_ORDER):
        for module in imports_of(folder / f"{name}.py"):
            if module.startswith("vitkit.finetuning."):
                assert NEEDS_ORDER.index(module.split(".")[2]) < number, f"{name} imports {module}"


def test_every_module_imports_and_every_public_name_is_there_twice() -> None:
    for _ in range(2):  # a function and a submodule of one name would hide each other the second time
        for name in vitkit.__all__:
            assert not isinstance(getattr(vitkit, name), type(sys)), name
        for module in pkgutil.walk_packages([str(PACKAGE)], "vitkit."):
            if module.name != "vitkit.__main__":
                loaded = importlib.import_module(module.name)
                for name in getattr(loaded, "__all__", ()):
                    assert hasattr(loaded, name), f"{module.name}.{name}"


def test_the_public_surface_is_this() -> None:
    assert vitkit.__all__ == [
        "UserError", "ViTConfig", "VisionTransformer", "analyze", "audit", "benchmark", "compare", "convert", "demo", "doctor",
        "evaluate", "explain", "export", "finetune", "list_datasets", "list_models", "list_recipes", "load", "paper", "predict",
        "pretrain", "results", "serve", "verify",
    ]  # fmt: skip
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        vitkit.nothing  # noqa: B018


def loaded_by(code: str) -> tuple[set[str], float]:
    """Heavy modules loaded by a program, and its processor time (the best of three): a busy machine changes it little."""
    program = f"import sys\n{code}\nprint(' '.join(m for m in {HEAVY!r} if m in sys.modules))"
    best, loaded = float("inf"), set()
    for _ in range(3):
        begin = _children_seconds()
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
        best = min(best, _children_seconds() - begin)
        loaded = set(done.stdout.splitlines()[-1].split())
    return loaded, best


def _children_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def test_importing_vitkit_and_help_load_nothing_heavy_and_are_quick() -> None:
    assert loaded_by("import vitkit")[0] == set()
    loaded, seconds = loaded_by("from vitkit.cli.main import main\nassert main(['--help']) == 0")
    assert loaded == set()
    assert seconds < 0.5


def test_reading_the_json_of_a_bundle_loads_no_torch_and_is_quick(tmp_path: Path) -> None:
    config = {
        "format": "vitkit-bundle", "format_version": 1, "vitkit_version": "0.1.0", "model": {}, "preprocess": None,
        "classes": ["a", "b"], "calibration": {"temperature": 1.0}, "weights": {"source": "", "licence": ""},
    }  # fmt: skip
    (tmp_path / "config.json").write_text(json.dumps(config), encoding="utf-8")
    code = (
        "from pathlib import Path\nfrom vitkit.bundle import read_bundle_config\n"
        f"assert read_bundle_config(Path({str(tmp_path)!r}))['classes'] == ['a', 'b']"
    )
    loaded, seconds = loaded_by(code)
    assert "torch" not in loaded
    assert seconds < 0.5


def test_predicting_imports_no_torch_until_a_model_is_loaded_by_it() -> None:
    loaded, seconds = loaded_by(
        "import vitkit.cli.main, vitkit.jobs.predict, vitkit.engines.openvino, vitkit.engines.onnxruntime"
    )
    assert "torch" not in loaded
    assert seconds < 1.0
