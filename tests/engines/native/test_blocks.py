"""Compiled blocks agree with PyTorch's and are kept whole; where they cannot be had, the reason is said and nothing breaks."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from vitkit.bundle import Bundle
from vitkit.engines.native import blocks as native
from vitkit.engines.native import compiler
from vitkit.engines.native.blocks import NativeBlock, NativeProduct, native_missing, panels
from vitkit.engines.tuned import make
from vitkit.models.vit import Block, VisionTransformer, ViTConfig

CONFIG = ViTConfig(
    embed_dim=64, depth=1, num_heads=2, mlp_dim=96, patch_size=(4, 4), image_size=(16, 16), num_classes=3
)


@pytest.fixture
def fresh(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[pytest.MonkeyPatch]:
    """An empty cache, and nothing known of what this machine can do, before and after."""
    known = (native._missing, native._functions, native._library)
    monkeypatch.setenv("VITKIT_CACHE", str(tmp_path))
    monkeypatch.delenv("VITKIT_NATIVE", raising=False)
    for one in known:
        one.cache_clear()
    yield monkeypatch
    for one in known:
        one.cache_clear()


def need(dtype: torch.dtype) -> None:
    if reason := native_missing(CONFIG, dtype):
        pytest.skip(f"no compiled blocks here: {reason}")


@pytest.mark.parametrize("tokens", [1, 5, 64, 197])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_block_is_pytorchs_block(dtype: torch.dtype, tokens: int) -> None:
    need(dtype)
    config = dataclasses.replace(CONFIG, embed_dim=192, num_heads=3, mlp_dim=768, gelu="erf", layer_scale=1.0)
    block, rng = Block(config, 0.0).eval(), torch.Generator().manual_seed(0)
    with torch.inference_mode():
        for parameter in block.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=rng) * 0.1)
        x = torch.randn(2, tokens, 192, generator=rng)
        expected, found = block(x), NativeBlock(block, dtype, tokens)(x.clone())
        near = 2e-6 if dtype == torch.float32 else 1e-2
        assert (found - expected).norm() <= near * expected.norm()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_rows_digits_depend_on_no_other_row(dtype: torch.dtype) -> None:
    need(dtype)
    block = Block(CONFIG, 0.0).eval()
    x = torch.randn(5, 37, 64, generator=torch.Generator().manual_seed(0))
    before = torch.get_num_threads()
    found = []
    with torch.inference_mode():
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            for rows in (37, 30, 2):
                made = NativeBlock(block, dtype, rows)
                found += [made(x.clone())[:, :2], torch.cat([made(image[None].clone()) for image in x])[:, :2]]
        torch.set_num_threads(before)
    assert all(torch.equal(found[0], other) for other in found)


@pytest.mark.parametrize("outputs", [16, 64, 80, 192])
def test_panels_hold_every_weight_once(outputs: int) -> None:
    weight = torch.randn(outputs, 12)
    found = panels(weight, torch.float32)
    whole = outputs - outputs % 64
    assert torch.equal(found[: whole * 12].view(-1, 12, 64).transpose(1, 2).reshape(-1, 12), weight[:whole])
    assert torch.equal(found[whole * 12 :].view(12, -1).T, weight[whole:])
    need(torch.float32)
    x, into = torch.randn(7, 12), torch.ones(7, outputs)
    NativeProduct(weight, None, torch.float32)(x, into)
    torch.testing.assert_close(into, x @ weight.T + 1)


def test_a_compiled_file_is_kept_and_a_damaged_one_is_made_anew(fresh: pytest.MonkeyPatch, tmp_path: Path) -> None:
    need(torch.float32)
    (file,) = (tmp_path / "native").glob("*.so")
    made = file.stat().st_mtime_ns, file.read_bytes()
    native._library.cache_clear()
    native._library()
    assert (file.stat().st_mtime_ns, file.read_bytes()) == made
    damaged = file.with_name("damaged")
    damaged.write_bytes(made[1][:5000])
    os.replace(damaged, file)  # the file itself is in use here
    native._library.cache_clear()
    native._library()
    assert len(file.read_bytes()) == len(made[1])
    assert sorted(path.suffix for path in (tmp_path / "native").iterdir()) == [".sha256", ".so"]


def test_a_place_that_cannot_be_written_costs_time_only(fresh: pytest.MonkeyPatch, tmp_path: Path) -> None:
    need(torch.float32)
    for one in (native._missing, native._functions, native._library):
        one.cache_clear()
    (tmp_path / "file").write_text("no folder")
    fresh.setenv("VITKIT_CACHE", str(tmp_path / "file"))
    assert not native_missing(CONFIG, torch.float32)


def test_without_a_compiler_the_reason_is_said_and_the_engine_computes(fresh: pytest.MonkeyPatch) -> None:
    fresh.setattr(compiler.shutil, "which", lambda command: None)
    fresh.setattr(native.torch.cpu, "get_capabilities", lambda: dict.fromkeys(native.NEEDS[torch.bfloat16], True))
    model = VisionTransformer(CONFIG).eval()
    model.init_weights(0)
    engine = make(Bundle(model, None), "fp32")
    assert "no C compiler is found" in engine.facts.notes[0]
    assert engine(torch.zeros(2, 3, 16, 16).numpy()).logits.shape == (2, 3)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"embed_dim": 40, "num_heads": 5}, "embed_dim is 40, not a multiple of 16"),
        ({"mlp_dim": 72}, "mlp_dim is 72"),
        ({"num_heads": 8}, "the width of heads is 8"),
        ({"position": "relative"}, "relative positions"),
        ({"in_channels": 1, "patch_size": (3, 3), "image_size": (9, 9)}, "patches of an odd number of values"),
    ],
)
def test_shapes_that_it_does_not_take_are_said(changes: dict[str, object], reason: str) -> None:
    config = dataclasses.replace(CONFIG, **changes)  # type: ignore[arg-type]
    assert reason in native_missing(config, torch.float32)


def test_a_processor_without_the_instructions_is_said(fresh: pytest.MonkeyPatch) -> None:
    fresh.setattr(native.torch.cpu, "get_capabilities", lambda: {"avx2": True})
    assert native_missing(CONFIG, torch.float32) == "this processor has no avx512_f instructions"
    assert "avx512_bf16" in native_missing(CONFIG, torch.bfloat16)


def test_it_can_be_done_without(fresh: pytest.MonkeyPatch) -> None:
    fresh.setenv("VITKIT_NATIVE", "0")
    assert native_missing(CONFIG, torch.float32) == "VITKIT_NATIVE=0"


def test_what_does_not_agree_is_not_used(fresh: pytest.MonkeyPatch) -> None:
    need(torch.float32)
    native._missing.cache_clear()
    fresh.setattr(native, "AFTER", native.AFTER[::-1])
    assert native_missing(CONFIG, torch.float32) == "compiled blocks do not agree with PyTorch's"


def test_a_compiler_that_fails_is_said(fresh: pytest.MonkeyPatch, tmp_path: Path) -> None:
    need(torch.float32)
    for one in (native._missing, native._functions, native._library):
        one.cache_clear()
    wrong = tmp_path / "block.c"
    wrong.write_text("int main( {")
    fresh.setattr(native, "SOURCE", wrong)
    assert "no compiled blocks" in native_missing(CONFIG, torch.float32)
