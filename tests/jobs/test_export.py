"""`vit export`: what is written, how it is proved and refused, and that every command takes it like the model."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image

import vitkit
from vitkit.artefact import find_artefact, read_artefact
from vitkit.bundle import Bundle
from vitkit.cli.main import cli
from vitkit.config import UserError
from vitkit.console import Console
from vitkit.data.pixels import Preprocess
from vitkit.exporting.proof import Proof
from vitkit.jobs import export as job
from vitkit.models.vit import VisionTransformer, ViTConfig
from vitkit.unknown import Unknown

CLASSES = ("ash", "birch", "cedar")
TARGETS = ("onnx", "openvino", "torch")


def bundle_of(folder: Path, **changes: Any) -> Path:
    """A model whose answers depend on the image, with a detector and a temperature; not square."""
    config = ViTConfig(
        embed_dim=32, depth=2, num_heads=2, mlp_dim=64, patch_size=(8, 8), image_size=(32, 48), num_classes=3
    )
    model = VisionTransformer(config)
    model.init_weights(0)
    rng = torch.Generator().manual_seed(1)
    for parameter in model.parameters():
        parameter.data += 0.1 * torch.randn(parameter.shape, generator=rng)
    unknown = Unknown(np.zeros(32, np.float32), np.eye(32, dtype=np.float32), 5.0, 40)
    fields = {
        "classes": CLASSES,
        "temperature": 1.6,
        "unknown": unknown,
        "source": "drawn",
        "licence": "Apache-2.0",
    } | changes
    return Bundle(model.eval(), Preprocess((32, 48), mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.25)), **fields).save(folder)


def draw(path: Path, seed: int, size: tuple[int, int] = (60, 50)) -> Path:
    """A picture of its own: blocks of colour."""
    path.parent.mkdir(parents=True, exist_ok=True)
    coarse = np.random.default_rng(seed).integers(0, 256, (4, 5, 3), np.uint8)
    Image.fromarray(coarse).resize(size, Image.Resampling.NEAREST).save(path)
    return path


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("export")
    bundle_of(folder / "model")
    for number in range(48):
        draw(folder / "data" / CLASSES[number % 3] / f"{number}.png", number)
    return folder


def quiet() -> Console:
    return Console(StringIO(), StringIO())


@pytest.fixture(scope="module")
def exported(home: Path) -> dict[str, Path]:
    made = {}
    for target in TARGETS:
        made[target] = vitkit.export(
            home / "model", target, out=home / target, check=home / "data", timed=False, console=quiet()
        ).folder
    return made


@pytest.mark.parametrize("target", TARGETS)
def test_an_artefact_answers_as_the_model_in_every_command(home: Path, exported: dict[str, Path], target: str) -> None:
    photos = sorted((home / "data").rglob("*.png"))[:9]
    rotated = home / f"rotated-{target}.jpg"
    image = Image.open(photos[0]).convert("RGB")
    exif = image.getexif()
    exif[0x0112] = 6
    image.save(rotated, exif=exif)
    grey, cmyk = home / f"grey-{target}.png", home / f"cmyk-{target}.tif"
    image.convert("L").save(grey)
    image.convert("CMYK").save(cmyk)
    paths = [*photos, rotated, grey, cmyk]
    said = [vitkit.predict(m, paths, console=quiet()).predictions for m in (home / "model", exported[target])]
    for (_, plain), (_, other) in zip(*said, strict=True):
        assert plain.answer == other.answer
        assert plain.unknown == other.unknown
        assert plain.probability == pytest.approx(other.probability, abs=1e-5)
    loaded = vitkit.load(exported[target])
    assert loaded.classes == CLASSES
    assert loaded.config.image_size == (32, 48)
    shown = loaded.predict([Image.open(photo) for photo in photos], top=3)
    assert [each.answer for each in shown] == [each.answer for _, each in said[0][:9]]
    values = [
        {row.metric: row.value for row in vitkit.evaluate(m, home / "data", console=quiet())}
        for m in (home / "model", exported[target])
    ]
    assert values[0].keys() == values[1].keys()
    for metric in ("top1", "macro_f1", "unknown_rate"):
        assert values[0][metric] == values[1][metric]
    facts = vitkit.benchmark(exported[target], batch=[1, 2], seconds=0.5, console=quiet()).facts
    assert [(cell["engine"], cell["batch"]) for cell in facts["cells"]] == [
        ({"onnx": "onnxruntime"}.get(target, target), 1),
        ({"onnx": "onnxruntime"}.get(target, target), 2),
    ]
    assert facts["recommended"] is None


def test_the_sidecar_says_all_it_takes_to_do_without_vitkit(home: Path, exported: dict[str, Path]) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    told = json.loads((exported["onnx"] / "vitkit.json").read_text())
    assert told["classes"] == list(CLASSES)
    assert told["interface"]["input"] == {
        "name": "images",
        "type": "uint8",
        "shape": ["B", 32, 48, 3],
        "layout": "BHWC",
    }
    assert told["proof"]["agreement"] == 1.0
    assert told["proof"]["images"] == 48
    assert told["proof"]["metric"] == "top-1"
    session = onnxruntime.InferenceSession(exported["onnx"] / "model.onnx", providers=["CPUExecutionProvider"])
    photos = sorted((home / "data").rglob("*.png"))[:7]
    crops = []
    for photo in photos:  # the README's words: the image just covers the size, its centre is cut out
        image = Image.open(photo).convert("RGB")
        scale = max(32 / image.height, 48 / image.width)
        image = image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.BICUBIC)
        left, top = (image.width - 48) // 2, (image.height - 32) // 2
        crops.append(np.asarray(image)[top : top + 32, left : left + 48])
    (found,) = session.run(["probabilities"], {"images": np.stack(crops)})
    answers = vitkit.predict(home / "model", photos, top=3, console=quiet()).predictions
    for row, (_, answer) in zip(found, answers, strict=True):
        assert told["classes"][row.argmax()] == answer.answer
        assert row.max() == pytest.approx(answer.probability, abs=1e-5)
    assert "bicubic, antialiased" in (exported["onnx"] / "README.md").read_text()


def test_a_folder_or_its_graph_names_it_and_other_commands_refuse_it(home: Path, exported: dict[str, Path]) -> None:
    assert find_artefact(exported["onnx"]) == find_artefact(exported["onnx"] / "model.onnx") == exported["onnx"]
    assert find_artefact(home / "model") is None
    photo = next((home / "data").rglob("*.png"))
    assert vitkit.predict(exported["onnx"] / "model.onnx", photo, console=quiet()).predictions
    loaded = vitkit.load(exported["onnx"])
    for work in (
        lambda: loaded.model(torch.zeros(1, 3, 32, 48)),
        lambda: loaded.save(home / "again"),
        lambda: vitkit.explain(exported["onnx"], [photo], out=home / "maps", console=quiet()),
        lambda: vitkit.analyze(exported["onnx"], console=quiet()),
        lambda: vitkit.convert(exported["onnx"], home / "c", to="timm", console=quiet()),
        lambda: vitkit.export(exported["onnx"], "openvino", out=home / "x", console=quiet()),
    ):
        with pytest.raises(UserError, match="is an exported artefact"):
            work()
    with pytest.raises(UserError, match="image_size cannot be changed any more"):
        vitkit.load(exported["onnx"], image_size=(64, 64))
    with pytest.raises(UserError, match="cannot be computed by --engine tuned"):
        vitkit.load(exported["onnx"], engine="tuned")
    with pytest.raises(UserError, match="no choice to --store"):
        vitkit.benchmark(exported["onnx"], store=True, console=quiet())


@pytest.mark.parametrize("target", ["onnx", "openvino"])
def test_predicting_with_an_artefact_imports_no_torch(home: Path, exported: dict[str, Path], target: str) -> None:
    photo = next((home / "data").rglob("*.png"))
    script = (
        "import sys; from vitkit.jobs.predict import predict\n"
        f"found = predict({str(exported[target])!r}, [{str(photo)!r}])\n"
        "assert found.predictions; print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout.strip() == "False"


@pytest.mark.parametrize("target", ["onnx", "openvino"])
def test_eight_bits_are_calibrated_on_images_that_are_not_compared(home: Path, target: str) -> None:
    said = StringIO()
    made = vitkit.export(
        home / "model", target, precision="int8", out=home / f"{target}-int8", check=home / "data", force=True, timed=False,
        console=Console(said, said),
    )  # fmt: skip
    found = read_artefact(made.folder)
    calibrated = int(next(word for word in said.getvalue().split("calibrating on ")[1].split()))
    assert made.proof.images + calibrated == 48
    assert calibrated >= 8
    assert any(note.startswith(f"calibrated on {calibrated} images") for note in found.notes)
    assert 0 < made.proof.difference < 1
    assert found.precision == "int8"


def test_speed_is_told_in_turn_with_plain_pytorch_and_with_fp32(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vitkit.exporting.speed.SECONDS", 0.2)
    made = vitkit.export(
        home / "model", "onnx", precision="fp16", out=home / "timed", check=home / "data", force=True, console=quiet()
    )
    assert made.proof.speed is not None
    assert made.proof.speed.over_fp32 is not None
    assert made.proof.speed.over_fp32 > 0
    assert not list(made.folder.glob(".*"))


def test_what_does_not_pass_is_not_written_unless_forced_and_says_so_ever_after(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def wrong(answers: object, names: list[str], plain: np.ndarray, other: np.ndarray) -> dict[str, object]:
        return {"images": 48, "agreement": 0.5, "ties": (), "differing": ("a.png",), "difference": 0.1, "largest": 2.0}

    monkeypatch.setattr(job, "compare", wrong)
    arguments = {"out": tmp_path / "bad", "check": home / "data", "timed": False, "console": quiet()}
    with pytest.raises(UserError, match=r"refused: only 50.00 % .*differs at a.png.*Nothing was written.*--force"):
        vitkit.export(home / "model", "onnx", **arguments)
    assert list(tmp_path.iterdir()) == []
    made = vitkit.export(home / "model", "onnx", force=True, **arguments)
    assert len(made.refused) == 2
    notes = vitkit.load(made.folder).notes
    assert any(note.startswith("exported with --force although only 50.00 %") for note in notes)


def test_a_model_without_a_run_is_compared_on_random_pixels_and_says_so(home: Path, tmp_path: Path) -> None:
    said = StringIO()
    made = vitkit.export(home / "model", "onnx", out=tmp_path / "a", timed=False, console=Console(said, said))
    assert not made.proof.real
    assert "random pixels, as the model has no run" in said.getvalue()
    with pytest.raises(UserError, match=r"int8 is calibrated and judged on images.*--check DATA"):
        vitkit.export(home / "model", "onnx", out=tmp_path / "b", precision="int8", console=quiet())


def test_positions_are_made_for_the_size_that_is_asked_for(home: Path, tmp_path: Path) -> None:
    made = vitkit.export(home / "model", "onnx", out=tmp_path / "a", image_size=(64, 40), timed=False, console=quiet())
    record = read_artefact(made.folder)
    assert record.preprocess.image_size == (64, 40)
    photo = next((home / "data").rglob("*.png"))
    plain = vitkit.load(home / "model", image_size=(64, 40)).predict([Image.open(photo)])
    assert vitkit.load(made.folder).predict([Image.open(photo)])[0].probability == pytest.approx(
        plain[0].probability, abs=1e-5
    )


def test_an_artefact_that_is_there_is_replaced_whole_and_nothing_else_is(home: Path, tmp_path: Path) -> None:
    first = vitkit.export(home / "model", "onnx", out=tmp_path / "a", timed=False, console=quiet())
    (first.folder / "left.txt").write_text("of before")
    vitkit.export(home / "model", "openvino", out=tmp_path / "a", timed=False, console=quiet())
    assert read_artefact(tmp_path / "a").target == "openvino"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a"]
    assert not (tmp_path / "a" / "left.txt").exists()
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "precious.txt").write_text("x")
    with pytest.raises(UserError, match="exists and is no exported artefact"):
        vitkit.export(home / "model", "onnx", out=tmp_path / "full", console=quiet())


def test_a_changed_file_is_noticed(exported: dict[str, Path], tmp_path: Path) -> None:
    shutil.copytree(exported["onnx"], tmp_path / "a")
    graph = tmp_path / "a" / "model.onnx"
    data = bytearray(graph.read_bytes())
    data[-5] ^= 1
    graph.write_bytes(data)
    with pytest.raises(UserError, match="is not the file that was exported: it is damaged or was changed"):
        vitkit.predict(tmp_path / "a", __file__, console=quiet())
    graph.unlink()
    with pytest.raises(UserError, match="cannot be read: No such file"):
        vitkit.load(tmp_path / "a")
    record = tmp_path / "a" / "vitkit.json"
    record.write_text(json.dumps({**json.loads(record.read_text()), "format_version": 99}))
    with pytest.raises(UserError, match="format version 99"):
        vitkit.load(tmp_path / "a")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--to", "onx"], "--to 'onx'; known: onnx, openvino, torch. Did you mean 'onnx'?"),
        (["--to", "onnx", "--precision", "int4"], "--precision 'int4'; known: fp32, fp16, bf16, int8."),
        (["--to", "torch", "--precision", "int8"], "choose --to onnx or openvino"),
        (["--to", "onnx", "--check", "/no/such"], "/no/such"),
    ],
)
def test_wrong_words_get_one_message(home: Path, tmp_path: Path, arguments: list[str], message: str) -> None:
    result = CliRunner().invoke(cli, ["export", str(home / "model"), "-o", str(tmp_path / "x"), *arguments])
    assert result.exit_code == 1
    assert message in str(result.exception) + result.output
    assert not (tmp_path / "x").exists()


def test_images_without_labels_and_foreign_classes_are_compared_without_accuracy(home: Path, tmp_path: Path) -> None:
    flat = tmp_path / "flat"
    for number in range(5):
        draw(flat / f"{number}.png", number)
    (flat / "broken.png").write_bytes(b"no")
    made = vitkit.export(home / "model", "onnx", out=tmp_path / "a", check=flat, timed=False, console=quiet())
    assert (made.proof.images, made.proof.skipped, made.proof.accuracy) == (5, 1, None)
    for number in range(4):
        draw(tmp_path / "other" / ("oak", "elm")[number % 2] / f"{number}.png", number)
    said = StringIO()
    made = vitkit.export(
        home / "model", "onnx", out=tmp_path / "b", check=tmp_path / "other", timed=False, console=Console(said, said)
    )
    assert made.proof.accuracy is None
    assert "accuracy is not told" in said.getvalue()


def test_json_holds_the_proof(home: Path, tmp_path: Path) -> None:
    out = ["-o", str(tmp_path / "a"), "--no-timing", "--json"]
    result = CliRunner().invoke(cli, ["export", str(home / "model"), "--to", "onnx", *out])
    assert result.exit_code == 0, result.output
    told = json.loads(result.stdout)
    assert told["proof"]["agreement"] == 1.0
    assert told["bytes"] > 1000
    assert isinstance(Proof(**{**told["proof"], "speed": None}), Proof)
