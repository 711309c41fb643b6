"""The odd files of other people through every command: used by a stated rule or listed with a reason, never replaced."""

from __future__ import annotations

import csv
import io
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import vitkit
from conftest import write_images
from pictures import STORED, encoded
from shared import shared_data
from vitkit.config import UserError
from vitkit.console import Console
from vitkit.data.audit import scan
from vitkit.data.decode import ImageError, open_rgb
from vitkit.data.sources import Sample
from vitkit.jobs.predict import predict

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:PIL", "ignore::PIL.Image.DecompressionBombWarning")
REFUSED = {
    "bmp_b_badwidth.bmp", "broken.png", "broken_data_stream.png", "decompression_bomb.gif", "made_12000x12000_1bit.png",
    "made_30000x30000_1bit.png", "made_empty.jpg", "made_half.jpg", "made_text_named.jpg", "png_decompression_dos.png",
    "truncated_end_chunk.png", "truncated_image.png", "truncated_jpeg.jpg",
}  # fmt: skip


@pytest.fixture
def mixed(tmp_path: Path) -> Path:
    """Training images of two colours, and a test split of the odd files beside some of these."""
    odd = shared_data("odd_images") / "files"
    for seed, (name, colour) in enumerate({"blue": (40, 60, 200), "red": (200, 50, 40)}.items()):
        write_images(tmp_path / "mixed/train" / name, colour, 8, seed)
        write_images(tmp_path / "mixed/test" / name, colour, 4, seed + 9)
    for path in odd.iterdir():
        shutil.copyfile(path, tmp_path / "mixed/test/red" / path.name)
    for name in ("broken.png", "made_half.jpg", "iss634.gif"):
        shutil.copyfile(odd / name, tmp_path / "mixed/train/red" / name)
    return tmp_path / "mixed"


def test_scanning_lists_exactly_the_unusable_ones() -> None:
    files = sorted((shared_data("odd_images") / "files").iterdir())
    found = scan([Sample(path.name, path, 0) for path in files], console=Console(io.StringIO(), io.StringIO()))
    assert {name for name, _ in found.skipped} == REFUSED
    assert len(found.usable) == len(files) - len(REFUSED)
    assert all(reason for _, reason in found.skipped)


def test_every_command_uses_or_lists_each_file(mixed: Path, tmp_path: Path) -> None:
    """In a program of its own, so that its memory is its own and what Pillow says would be on stderr."""
    code = """
import resource, sys
import vitkit.jobs.finetune, vitkit.jobs.predict, vitkit.jobs.evaluate, vitkit.train, vitkit.engines.eager
import torch, psutil
from vitkit.cli.main import main
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
data, run = sys.argv[1], sys.argv[2]
common = ["--model", "scratch", "--set", "batch_size=8", "--epochs", "1", "--workers", "1"]
assert main(["finetune", data, "--out", run, *common]) == 0
model = run + "/model"
assert main(["evaluate", model, data]) == 0
assert main(["predict", model, data + "/test", "-o", run + "/out.csv"]) == 0
assert main(["evaluate", model, data, "--strict"]) == 1
assert main(["finetune", data, "--out", run + "2", "--strict"]) == 1
assert main(["predict", model, data + "/test/red/made_12000x12000_1bit.png", "--max-pixels", "200MP"]) == 0
print("ADDED", (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""
    run = tmp_path / "run"
    done = subprocess.run(
        [sys.executable, "-W", "always::UserWarning", "-c", code, str(mixed), str(run)],
        capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    for word in ("Traceback", "PIL", "Warning:", "JPEGLib", "site-packages"):
        assert word not in done.stderr, done.stderr[-2000:]
    used = 62 - len(REFUSED) + 8
    assert f"{used} scored, {len(REFUSED)} skipped" in done.stdout
    with open(run / "out.csv.skipped.csv", encoding="utf-8", newline="") as file:
        assert {Path(row["path"]).name for row in csv.DictReader(file)} == REFUSED
    with open(run / "out.csv", encoding="utf-8", newline="") as file:
        assert len(list(csv.DictReader(file))) == used
    report = json.loads((run / "report.json").read_text(encoding="utf-8"))
    listed = [Path(name).name for name, _ in report["data"]["skipped"]]
    assert sorted(listed) == sorted([*REFUSED, "broken.png", "made_half.jpg"])
    assert report["headline"]["n"] == used
    assert "--strict" in done.stderr
    assert int(done.stdout.split("ADDED")[1]) < 600


def test_the_orientation_series_is_one_picture() -> None:
    folder = shared_data("odd_images") / "files"
    upright = np.asarray(open_rgb(folder / "hopper.jpg")).astype(int)
    for name in [f"hopper_orientation_{n}.jpg" for n in range(2, 9)] + ["hopper_orientation_6.webp"]:
        far = np.abs(np.asarray(open_rgb(folder / name)) - upright).mean()
        assert far < 7, name  # separate lossy encodes of one picture
        with Image.open(folder / name) as image:  # as it lies in the file it is another
            assert np.abs(np.asarray(image).astype(int) - upright).mean() > 4 * far


def test_a_photo_on_its_side_is_classified_as_its_upright_twin(tmp_path: Path) -> None:
    import pyarrow.parquet as pq

    bundle = vitkit.load(shared_data("deit_tiny", "deit_tiny_patch16_224.safetensors"))
    table = pq.read_table(shared_data("imagenet_sample", "test-00000-of-00001.parquet")).slice(0, 2)
    paths = []
    for number, entry in enumerate(table["image"].to_pylist()):
        pixels = np.asarray(open_rgb(entry["bytes"]))
        for orientation in (1, 3, 6, 8):
            exif = Image.Exif()
            exif[0x0112] = orientation
            path = tmp_path / f"{number}_{orientation}.png"
            stored = Image.fromarray(np.ascontiguousarray(STORED[orientation](pixels)))
            path.write_bytes(encoded(stored, exif=exif, compress_level=1))
            paths.append(path)
    found = [answer for _, answer in predict(bundle, paths, console=Console(io.StringIO(), io.StringIO())).predictions]
    for twins in (found[:4], found[4:]):
        assert len({(twin.classes, twin.probabilities) for twin in twins}) == 1
    assert found[0].classes != found[4].classes
    sideways = tmp_path / "lies.png"
    Image.open(paths[2]).save(sideways, exif=b"")  # the same pixels without the tag are another picture
    [(_, lying)] = predict(bundle, [sideways], console=Console(io.StringIO(), io.StringIO())).predictions
    assert lying.probabilities != found[0].probabilities


def test_predict_evaluate_preprocess_and_python_see_equal_pixels() -> None:
    folder = shared_data("odd_images") / "files"
    bundle = vitkit.load(shared_data("deit_tiny", "deit_tiny_patch16_224.safetensors"))
    names = [
        "pil_sample_cmyk.jpg",
        "i_trns.png",
        "hopper_orientation_6.webp",
        "iss634.gif",
        "made_1x400.png",
        "made_LA.png",
    ]
    answers = predict(
        bundle, [folder / name for name in names], console=Console(io.StringIO(), io.StringIO())
    ).predictions
    for name, (_, answer) in zip(names, answers, strict=True):
        with Image.open(folder / name) as image, torch.inference_mode():
            [again] = bundle.predict(image, top=1)
        assert again == answer, name


def test_strict_fails_on_the_first(tmp_path: Path) -> None:
    folder = shared_data("odd_images") / "files"
    samples = [Sample(path.name, path, 0) for path in sorted(folder.iterdir())]
    with pytest.raises(UserError, match="13 of 62 files cannot be used"):
        scan(samples, console=Console(io.StringIO(), io.StringIO()), strict=True)
    with pytest.raises(ImageError):
        open_rgb(folder / "made_half.jpg")
