"""From a name to a model: bare files, what must be assumed, what must be said, and what is refused."""

from __future__ import annotations

import dataclasses
import io
import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor

import vitkit
from peers import peer
from shared import shared_data
from vitkit.bundle import Bundle
from vitkit.config import UserError
from vitkit.converters import big_vision, google, timm
from vitkit.converters.engine import encode
from vitkit.data.loader import to_tensor
from vitkit.data.pixels import Preprocess, open_image, prepare, resized_size
from vitkit.models.positions import resample_positions
from vitkit.models.vit import VisionTransformer, ViTConfig
from vitkit.zoo.load import load_model
from vitkit.zoo.write import write_checkpoint

HALF = {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}


def tiny(**changes: object) -> ViTConfig:
    base = ViTConfig(
        embed_dim=128, depth=1, num_heads=2, mlp_dim=32, patch_size=(8, 8), image_size=(32, 32), num_classes=5,
        position_rule="bicubic_antialias", gelu="erf",
    )  # fmt: skip
    return dataclasses.replace(base, **changes)


def random_model(config: ViTConfig) -> VisionTransformer:
    rng = torch.Generator().manual_seed(0)
    model = VisionTransformer(config).eval()
    model.load_state_dict({k: 0.1 * torch.randn(v.shape, generator=rng) for k, v in model.state_dict().items()})
    return model


def timm_state(config: ViTConfig) -> dict[str, Tensor]:
    return encode(random_model(config).state_dict(), timm.rules(config))


def write_timm(path: Path, config: ViTConfig, **changed: Tensor) -> Path:
    save_file({**timm_state(config), **changed}, path)
    return path


def write_google(path: Path, config: ViTConfig) -> Path:
    state = encode(random_model(config).state_dict(), google.rules(config))
    np.savez(path, **{name: tensor.numpy() for name, tensor in state.items()})
    return path


@pytest.fixture
def bare(tmp_path: Path) -> Path:
    return write_timm(tmp_path / "bare.safetensors", tiny())


def test_a_bare_timm_file_loads_and_the_assumed_heads_are_told(bare: Path) -> None:
    bundle = load_model(bare)
    assert bundle.config == tiny()
    assert bundle.notes == ("assumed 2 heads of width 64: the file does not tell",)
    assert (bundle.source, bundle.licence, bundle.classes) == ("bare.safetensors", "unknown", None)
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        assert torch.equal(bundle.model(images), random_model(tiny())(images))
    assert not bundle.model.training


def test_the_number_of_heads_can_be_said_and_changes_the_result(bare: Path) -> None:
    bundle = load_model(bare, num_heads=4)
    assert bundle.config.num_heads == 4
    assert bundle.notes == ()
    images = torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        assert not torch.allclose(bundle.model(images), load_model(bare).model(images))


def test_a_width_that_64_does_not_divide_needs_the_heads(tmp_path: Path) -> None:
    path = write_timm(tmp_path / "narrow.safetensors", tiny(embed_dim=10))
    with pytest.raises(UserError, match=r"heads of 64 do not fill the width 10: say num_heads="):
        load_model(path)
    assert load_model(path, num_heads=5).config.num_heads == 5
    with pytest.raises(UserError, match="does not divide into 3 heads"):
        load_model(path, num_heads=3)


def test_an_official_file_tells_its_heads(tmp_path: Path) -> None:
    config = tiny(num_heads=8, gelu="tanh", position_rule="bilinear_align_corners")
    bundle = load_model(write_google(tmp_path / "official.npz", config))
    assert bundle.config == config
    assert bundle.notes == ()


@pytest.mark.parametrize("kind", ["timm", "google"])
@pytest.mark.parametrize("size", [48, (24, 56)])
def test_another_image_size_resamples_positions_by_the_files_own_rule(
    tmp_path: Path, kind: str, size: int | tuple[int, int]
) -> None:
    path = tmp_path / ("a.safetensors" if kind == "timm" else "a.npz")
    (write_timm if kind == "timm" else write_google)(path, tiny())
    rule = {"timm": "bicubic_antialias", "google": "bilinear_align_corners"}[kind]
    bundle = load_model(path, image_size=size)
    H, W = bundle.config.image_size
    assert ((48, 48) if size == 48 else size) == (H, W)
    expected = resample_positions(random_model(tiny()).pos_embed.detach(), (4, 4), (H // 8, W // 8), 1, rule)
    assert torch.equal(bundle.model.pos_embed, expected)
    assert bundle.model(torch.zeros(1, 3, H, W)).shape == (1, 5)


def test_the_resampling_rule_can_be_said(bare: Path) -> None:
    by_rule = [
        load_model(bare, image_size=48, position_rule=rule).model.pos_embed
        for rule in ("bilinear", "bicubic_antialias")
    ]
    table = random_model(tiny()).pos_embed.detach()
    assert torch.equal(by_rule[0], resample_positions(table, (4, 4), (6, 6), 1, "bilinear"))
    assert not torch.allclose(by_rule[0], by_rule[1])


def test_the_size_to_run_at_is_also_the_size_images_are_made_in(bare: Path) -> None:
    bundle = load_model(bare, image_size=(24, 40), **HALF)
    assert bundle.preprocess(Image.new("RGB", (90, 70))).shape == (3, 24, 40)


def test_a_grid_that_is_no_square_needs_its_size(tmp_path: Path) -> None:
    path = write_timm(tmp_path / "wide.safetensors", tiny(image_size=(16, 24)))
    for overrides in ({}, {"image_size": 32}):
        with pytest.raises(UserError, match=r"6 patch positions are not a square grid.*source_image_size"):
            load_model(path, **overrides)
    assert load_model(path, source_image_size=(16, 24)).config.image_size == (16, 24)
    table = random_model(tiny(image_size=(16, 24))).pos_embed.detach()
    bundle = load_model(path, source_image_size=(16, 24), image_size=32)
    assert torch.equal(bundle.model.pos_embed, resample_positions(table, (2, 3), (4, 4), 1, "bicubic_antialias"))
    with pytest.raises(UserError, match=r"pos_embed has shape \(1, 7, 128\)"):
        load_model(path, source_image_size=32)


def test_a_size_whose_grid_has_as_many_patches_as_are_stored_is_the_stored_grid(tmp_path: Path) -> None:
    path = write_timm(tmp_path / "wide.safetensors", tiny(image_size=(16, 24)))
    bundle = load_model(path, image_size=(16, 24))
    assert torch.equal(bundle.model.pos_embed, random_model(tiny(image_size=(16, 24))).pos_embed)
    square = write_timm(tmp_path / "square.safetensors", tiny())  # 16 patches are 4 x 4, unless 2 x 8 is said
    bundle = load_model(square, image_size=(16, 64))
    assert bundle.config.grid == (2, 8)
    assert torch.equal(bundle.model.pos_embed, random_model(tiny()).pos_embed)


def test_a_bare_file_gives_no_predictions_until_its_preprocessing_is_said(bare: Path) -> None:
    image = Image.new("RGB", (50, 40), (200, 30, 90))
    bundle = load_model(bare)
    for use in (bundle.preprocess, bundle.predict):
        with pytest.raises(
            UserError, match=r"how images were prepared.*bare\.safetensors.*mean=.*std=.*fit=.*crop_fraction="
        ):
            use(image)
    bundle = load_model(bare, mean=(0.1, 0.2, 0.3), std=(0.5, 0.6, 0.7), fit="squash")
    record = Preprocess((32, 32), fit="squash", mean=(0.1, 0.2, 0.3), std=(0.5, 0.6, 0.7))
    assert bundle.preprocess_record == record
    assert torch.equal(bundle.preprocess(image), to_tensor(prepare(image, record)))
    (prediction,) = bundle.predict(image, top=9)
    assert sum(prediction.probabilities) == pytest.approx(1)
    assert sorted(prediction.classes) == list("01234")


def test_a_head_of_zeros_is_told(tmp_path: Path) -> None:
    path = write_timm(tmp_path / "a.safetensors", tiny(), **{"head.weight": torch.zeros(5, 128)})
    assert "the head is all zeros" in load_model(path, num_heads=2).notes[0]


@pytest.mark.parametrize("suffix", [".safetensors", ".npz"])
def test_truncated_empty_and_foreign_files_are_refused(tmp_path: Path, suffix: str) -> None:
    whole = tmp_path / f"whole{suffix}"
    (write_timm if suffix == ".safetensors" else write_google)(whole, tiny())
    data = whole.read_bytes()
    broken = tmp_path / f"broken{suffix}"
    for content in (b"", data[:7], data[: len(data) // 2], data[:-1], b"not weights at all, only text", bytes(500)):
        broken.write_bytes(content)
        with pytest.raises(UserError, match=f"broken{suffix}"):
            load_model(broken)


def test_files_of_another_model_or_kind_are_refused(tmp_path: Path) -> None:
    save_file({"conv1.weight": torch.zeros(2), "fc.bias": torch.zeros(2)}, tmp_path / "resnet.safetensors")
    with pytest.raises(UserError, match=r"no known layout .*conv1\.weight, fc\.bias.*Known: .*google, .*timm"):
        load_model(tmp_path / "resnet.safetensors")
    (tmp_path / "model.pth").write_bytes(b"x")
    with pytest.raises(UserError, match=r"model\.pth is a text file, not weights; it begins 'x'"):
        load_model(tmp_path / "model.pth")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"neither a vitkit bundle .* nor a folder with weights"):
        load_model(tmp_path / "empty")


@pytest.mark.parametrize("kind", ["timm", "google"])
def test_whatever_tensor_is_missing_or_cut_the_file_is_refused_with_one_message(tmp_path: Path, kind: str) -> None:
    module = {"timm": timm, "google": google}[kind]
    config = tiny(depth=2)  # of one block alone, a missing bias of q, k and v is a model without one
    whole = encode(random_model(config).state_dict(), module.rules(config))
    for name, tensor in whole.items():
        cut = tensor[0] if tensor.ndim == 4 else tensor[..., :-1].contiguous()
        for damaged in ({}, {name: cut}):
            state = {**{k: v for k, v in whole.items() if k != name}, **damaged}
            path = tmp_path / ("a.safetensors" if kind == "timm" else "a.npz")
            if kind == "timm":
                save_file(state, path)
            else:
                np.savez(path, **{k: v.numpy() for k, v in state.items()})
            with pytest.raises(UserError):
                load_model(path)


def test_pickled_objects_are_never_read(tmp_path: Path) -> None:
    ran = tmp_path / "ran"

    class Trap:
        def __reduce__(self) -> tuple[object, tuple[object, ...]]:
            return Path.touch, (ran,)

    np.savez(tmp_path / "a.npz", **{"embedding/kernel": np.array([Trap()], dtype=object)})
    with pytest.raises(UserError, match=r"not a whole .npz file of arrays"):
        load_model(tmp_path / "a.npz")
    assert not ran.exists()


def test_weights_that_are_not_numbers_are_refused(tmp_path: Path) -> None:
    bias = torch.zeros(128)
    for value in (float("nan"), float("inf")):
        bias[3] = value
        path = write_timm(tmp_path / "a.safetensors", tiny(), **{"norm.bias": bias})
        with pytest.raises(UserError, match=r"norm\.bias holds values that are not finite"):
            load_model(path)


def test_half_precision_files_are_read_as_float32(tmp_path: Path) -> None:
    save_file({k: v.bfloat16() for k, v in timm_state(tiny()).items()}, tmp_path / "half.safetensors")
    model = load_model(tmp_path / "half.safetensors").model
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert torch.equal(model.pos_embed, random_model(tiny()).pos_embed.bfloat16().float())


def test_wrong_overrides_are_named(bare: Path) -> None:
    with pytest.raises(UserError, match=r"unknown override 'num_head'. Did you mean 'num_heads'"):
        load_model(bare, num_head=2)
    with pytest.raises(UserError, match="num_heads must be of type int, got '2'"):
        load_model(bare, num_heads="2")
    with pytest.raises(UserError, match="Did you mean 'bilinear'"):
        load_model(bare, position_rule="bilinea")


def test_a_name_that_is_nowhere_says_what_is_near(bare: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match=r"no model .*baer\.safetensors.*Did you mean 'bare\.safetensors'"):
        load_model(tmp_path / "baer.safetensors")
    with pytest.raises(UserError, match=r"not a known name .*deit_tiny_patch16_224|Did you mean"):
        load_model("deit_tny")
    (tmp_path / "deit_tini").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="Did you mean 'deit_tiny_"):
        load_model("deit_tiny")


def test_a_known_name_without_a_file_says_where_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("VITKIT_OFFLINE", "1")
    with pytest.raises(UserError, match=r"deit_tiny_patch16_224.*dl\.fbaipublicfiles\.com/deit"):
        load_model("deit_tiny_patch16_224")


def test_a_run_folder_points_to_its_model(bare: Path, tmp_path: Path) -> None:
    load_model(bare, **HALF).save(tmp_path / "run" / "model")
    with pytest.raises(UserError, match=r"Did you mean .*run/model"):
        load_model(tmp_path / "run")


def test_overrides_apply_to_bundles_too(bare: Path, tmp_path: Path) -> None:
    load_model(bare, **HALF).save(tmp_path / "bundle")
    bundle = load_model(tmp_path / "bundle", image_size=48, fit="pad", norm_eps=1e-5)
    assert bundle.preprocess_record == Preprocess((48, 48), fit="pad")
    assert bundle.config == tiny(image_size=(48, 48), norm_eps=1e-5)
    rule = "bicubic_antialias"
    expected = resample_positions(random_model(tiny()).pos_embed.detach(), (4, 4), (6, 6), 1, rule)
    assert torch.equal(bundle.model.pos_embed, expected)


# The shared DeiT-Tiny, a row of the zoo.


@pytest.fixture(scope="module")
def deit() -> Bundle:
    return vitkit.load(shared_data("deit_tiny", "deit_tiny_patch16_224.safetensors"))


@pytest.fixture(scope="module")
def reference() -> dict[str, np.ndarray]:
    with np.load(shared_data("deit_tiny", "reference_imagenet_sample.npz")) as arrays:
        return dict(arrays)


def sample_images() -> tuple[list[bytes], list[int]]:
    parquet = pytest.importorskip("pyarrow.parquet")
    table = parquet.read_table(shared_data("imagenet_sample", "test-00000-of-00001.parquet"))
    return [row["bytes"] for row in table["image"].to_pylist()], table["label"].to_pylist()


def test_the_shared_checkpoint_is_recognised(deit: Bundle) -> None:
    assert deit.licence == "Apache-2.0"
    assert deit.source.startswith("deit_tiny_patch16_224: facebookresearch/deit")
    assert deit.notes == ()
    assert (deit.config.num_heads, deit.config.gelu, deit.config.norm_eps) == (3, "erf", 1e-6)
    assert deit.require_preprocess().crop_fraction == 0.875


def test_its_logits_on_the_given_input_are_the_references(deit: Bundle, reference: dict[str, np.ndarray]) -> None:
    with torch.no_grad():
        features = deit.model.forward_features(torch.from_numpy(reference["input_first"]))
        logits = deit.model.forward_head(features)
    np.testing.assert_allclose(logits[0].numpy(), reference["logits"][0], atol=1e-3)
    np.testing.assert_allclose(features.prefix[0, 0].numpy(), reference["cls_feature"][0], atol=1e-3)


def test_our_preprocessing_of_the_first_image_is_the_given_input(
    deit: Bundle, reference: dict[str, np.ndarray]
) -> None:
    images, labels = sample_images()
    assert labels[0] == reference["class_index"][0]
    with Image.open(io.BytesIO(images[0])) as image:
        ours = deit.preprocess(image)
    np.testing.assert_allclose(ours.numpy(), reference["input_first"][0], atol=1e-5)


@pytest.mark.slow
def test_all_sample_images_score_as_the_reference(deit: Bundle, reference: dict[str, np.ndarray]) -> None:
    images, labels = sample_images()
    assert labels == reference["class_index"].tolist()
    assert deit.run is not None
    outputs = deit.run(np.stack([deit.preprocess(open_image(image)).numpy() for image in images]))
    logits = torch.from_numpy(outputs.logits)
    truth = torch.tensor(labels)
    ranks = (logits > logits.gather(1, truth[:, None])).sum(1)
    assert abs(int((ranks < 1).sum()) - 129) <= 1
    assert abs(int((ranks < 5).sum()) - 163) <= 1
    assert torch.nn.functional.cross_entropy(logits, truth).item() == pytest.approx(0.8655, abs=0.005)
    np.testing.assert_allclose(logits.numpy(), reference["logits"], atol=1e-3)


# What JSON beside the weights may claim.

ABSURD = [
    None,
    -1,
    0,
    3.5,
    "x",
    [],
    {},
    [1, 2],
    True,
    1e400,
    10**9,
    10**30,
    {"a": 1},
    "224",
    [224, -1],
    [None] * 3,
    [[1]] * 3,
]


@pytest.mark.parametrize("where", ["bundle", "vitkit.json"])
def test_absurd_values_in_json_are_refused_at_once_or_do_no_harm(where: str, bare: Path, tmp_path: Path) -> None:
    bundle = load_model(bare, **HALF)
    if where == "bundle":
        bundle.save(tmp_path / "there")
        file = tmp_path / "there" / "config.json"
    else:
        write_checkpoint(bundle, tmp_path / "there", "timm")
        (tmp_path / "there" / "config.json").unlink()
        file = tmp_path / "there" / "vitkit.json"
    good = json.loads(file.read_text())
    refused = 0
    for part in ("model", "preprocess", "calibration", "task"):
        for name in good[part] if isinstance(good.get(part), dict) else [None]:
            for value in ABSURD:
                changed = json.loads(json.dumps(good))
                if name is None:
                    changed[part] = value
                else:
                    changed[part][name] = value
                file.write_text(json.dumps(changed))
                try:
                    load_model(tmp_path / "there").preprocess(Image.new("RGB", (40, 50)))
                except UserError:
                    refused += 1
    assert refused > 300


def test_what_names_no_model_is_one_message(tmp_path: Path) -> None:
    (tmp_path / "link.npz").symlink_to(tmp_path / "gone.npz")
    for name, found in (
        ("", "named by a path or a name"),
        (None, "named by a path or a name"),
        ("x" * 5_000, "no such file or folder"),
        (tmp_path / "link.npz", "is a link to .*gone"),
    ):
        with pytest.raises(UserError, match=found):
            load_model(name)  # type: ignore[arg-type]


def test_computed_positions_need_only_the_size_to_run_at(tmp_path: Path) -> None:
    config = tiny(position="sincos2d", cls_token=False, pool="mean", gelu="tanh")
    state = encode(random_model(config).state_dict(), big_vision.rules(config))
    np.savez(tmp_path / "s.npz", **{name: tensor.numpy() for name, tensor in state.items()})
    with pytest.raises(UserError, match="source_image_size"):
        load_model(tmp_path / "s.npz")
    assert load_model(tmp_path / "s.npz", image_size=(24, 48)).config.grid == (3, 6)


@pytest.mark.parametrize("name", ["config.json", "vitkit.json", "model.safetensors.index.json"])
def test_json_that_nests_without_end_is_one_message(name: str, tmp_path: Path) -> None:
    write_timm(tmp_path / "model.safetensors", tiny())
    (tmp_path / "config.json").write_text('{"model_type": "vit"}')
    for text in ("[" * 100_000, '{"a":' * 100_000):
        (tmp_path / name).write_text(text)
        with pytest.raises(UserError):
            load_model(tmp_path)


def test_json_that_is_no_file_is_neither_waited_for_nor_read(tmp_path: Path) -> None:
    write_timm(tmp_path / "model.safetensors", tiny())
    for make in (os.mkfifo, lambda path: path.symlink_to("/dev/zero")):
        make(tmp_path / "config.json")
        with pytest.raises(UserError, match=r"config\.json is not a file; a JSON file was expected"):
            load_model(tmp_path)
        (tmp_path / "config.json").unlink()


def test_settings_of_images_are_read_from_a_processor_of_several_kinds_of_input(tmp_path: Path) -> None:
    library = peer("transformers")
    sizes = {"hidden_size": 64, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 96}
    config = library.CLIPVisionConfig(**sizes, image_size=32, patch_size=8)
    library.CLIPVisionModel(config).save_pretrained(tmp_path)
    images = library.CLIPImageProcessor(size={"shortest_edge": 36}, crop_size=32, image_mean=[0.1, 0.2, 0.3])
    (tmp_path / "processor_config.json").write_text(
        json.dumps({"image_processor": json.loads(images.to_json_string()), "processor_class": "CLIPProcessor"})
    )
    record = load_model(tmp_path).preprocess_record
    assert record is not None
    assert (record.image_size, record.mean) == ((32, 32), (0.1, 0.2, 0.3))
    assert resized_size(record.image_size, record.crop_fraction) == (36, 36)
