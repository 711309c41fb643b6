"""Features: computed once, exact whatever computes them, and never read from a damaged file."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import torch

from conftest import write_images
from vitkit.bundle import Bundle
from vitkit.config import UserError
from vitkit.console import Console
from vitkit.data.cache import cache_folder
from vitkit.data.pixels import Preprocess
from vitkit.data.samples import Sample
from vitkit.data.sources import read_source
from vitkit.engines.eager import EagerEngine
from vitkit.engines.kept.places import fingerprint
from vitkit.evals import features as module
from vitkit.evals.features import compute_features, data_fingerprint
from vitkit.models.vit import VisionTransformer, ViTConfig


class Heard(Console):
    """A console that keeps what it is told."""

    def __init__(self) -> None:
        super().__init__(io.StringIO(), io.StringIO())

    @property
    def said(self) -> str:
        return self.out.getvalue() + self.err.getvalue()  # type: ignore[attr-defined]


def bundle(seed: int = 0, classes: int = 3, **preprocess: object) -> Bundle:
    config = ViTConfig(
        embed_dim=32, depth=2, num_heads=2, mlp_dim=48, patch_size=(4, 4), image_size=(16, 16), num_classes=classes
    )
    model = VisionTransformer(config)
    model.init_weights(seed)
    if model.head is not None:
        model.head.weight.data.normal_(generator=torch.Generator().manual_seed(seed))
    made = Bundle(model.eval(), Preprocess((16, 16), **preprocess))  # type: ignore[arg-type]
    made.run = EagerEngine(made.model)
    return made


@pytest.fixture
def samples(photos: Path) -> list[Sample]:
    """12 images."""
    return list(read_source(photos).splits["test"])


def kept_file() -> Path:
    [path] = (cache_folder() / "features").glob("*.safetensors")
    return path


def test_features_are_computed_once_and_read_the_second_time(
    samples: list[Sample], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, console = bundle(), Heard()
    first = compute_features(model, samples, console, "test")
    assert not first.known
    wanted = model.run(torch.stack([model.preprocess(_open(sample)) for sample in samples]))  # type: ignore[misc]
    assert np.array_equal(first.features.numpy(), wanted.features)
    assert np.array_equal(first.logits.numpy(), wanted.logits)
    monkeypatch.setattr(module, "stream", lambda *a, **k: 1 / 0)
    again = compute_features(model, samples, console, "test")
    assert again.known
    assert torch.equal(first.features, again.features)
    assert torch.equal(first.logits, again.logits)
    assert (first.samples, first.digests) == (again.samples, again.digests)
    assert "were computed before" in console.said


def _open(sample: Sample) -> object:
    from vitkit.data.pixels import open_image

    return open_image(sample.source)


def test_only_what_the_features_depend_on_makes_them_new(samples: list[Sample], tmp_path: Path) -> None:
    def known(model: Bundle, chosen: list[Sample], **options: object) -> bool:
        return compute_features(model, chosen, Heard(), "test", **options).known  # type: ignore[arg-type]

    assert not known(bundle(), samples)
    assert known(bundle(), samples, workers=3)  # another object of the same contents
    renamed = []
    for number, sample in enumerate(samples):
        path = tmp_path / f"{number}.bin"
        path.write_bytes(Path(str(sample.source)).read_bytes())
        renamed.append(sample._replace(source=path, name=f"other-{number}", label=0))
    assert known(bundle(), renamed)  # neither names nor labels matter
    assert not known(bundle(), samples[::-1])
    assert not known(bundle(), samples[:-1])
    assert not known(bundle(1), samples)
    assert not known(bundle(mean=(0.4, 0.5, 0.5)), samples)
    assert not known(bundle(), samples, view="fewshot")
    write_images(tmp_path / "new", (1, 2, 3), 1, 0)
    renamed[3] = renamed[3]._replace(source=tmp_path / "new" / "000.png")
    assert not known(bundle(), renamed)


@pytest.mark.parametrize("how", ["cut", "one byte", "empty", "reasons", "foreign"])
def test_a_damaged_file_is_said_and_computed_anew(samples: list[Sample], how: str) -> None:
    model = bundle()
    first = compute_features(model, samples, Heard(), "test")
    path = kept_file()
    data = bytearray(path.read_bytes())
    if how == "cut":
        data = data[: len(data) // 2]
    elif how == "one byte":
        data[-5] ^= 1
    elif how == "reasons":
        data = data.replace(b'"bad":"{}"', b'"bad":"[]"')
    path.write_bytes({"empty": b"", "foreign": b"not tensors at all"}.get(how, bytes(data)))
    console = Heard()
    again = compute_features(model, samples, console, "test")
    assert not again.known
    assert torch.equal(first.features, again.features)
    [line] = console.err.getvalue().splitlines()  # type: ignore[attr-defined]
    assert str(path) in line
    assert "computed anew" in line
    assert compute_features(model, samples, Heard(), "test").known  # mended


def test_a_place_that_cannot_be_written_costs_time_only(
    samples: list[Sample], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("VITKIT_CACHE", str(tmp_path / "file"))
    console = Heard()
    assert len(compute_features(bundle(), samples, console, "test").features) == 12
    assert "features are not kept" in console.said


@pytest.mark.parametrize("workers", [1, 2, 5])
def test_images_that_cannot_be_used_are_listed_and_change_nothing(
    samples: list[Sample], workers: int, tmp_path: Path
) -> None:
    whole = compute_features(bundle(), samples, Heard(), "test").features
    broken, gone = tmp_path / "broken.png", tmp_path / "gone.png"
    broken.write_bytes(Path(str(samples[0].source)).read_bytes()[:60])
    mixed = [*samples]
    mixed.insert(4, Sample("broken.png", broken, 0))
    mixed.append(Sample("gone.png", gone, 1))
    for known in (False, True):
        table = compute_features(bundle(), mixed, Heard(), "test", workers=workers)
        assert table.known == known
        assert table.samples == samples
        assert torch.equal(table.features, whole)
        assert [name for name, _ in table.skipped] == ["broken.png", "gone.png"]
        assert table.skipped[1][1] == "does not exist"
        with pytest.raises(UserError, match=r"broken.png: .* \(--strict\)"):
            compute_features(bundle(), mixed, Heard(), "test", strict=True)
    with pytest.raises(UserError, match=r"none of the 2 images can be used; the first: broken.png"):
        compute_features(bundle(), [mixed[4], mixed[-1]], Heard(), "test")


def test_an_image_that_comes_back_meanwhile_is_not_kept(samples: list[Sample], monkeypatch: pytest.MonkeyPatch) -> None:
    def away(sample: Sample) -> str:
        raise OSError("the network is away")

    with monkeypatch.context() as patch:
        patch.setattr(module, "digest", away)  # and can be read when the model asks for it
        assert len(compute_features(bundle(), samples, Heard(), "test").features) == 12
    assert not list(cache_folder().rglob("*.safetensors*"))


def test_processes_that_keep_the_same_do_not_meet(samples: list[Sample]) -> None:
    """One is in the middle of writing."""
    first = compute_features(bundle(), samples, Heard(), "test")
    path = kept_file()
    path.unlink()
    with path.with_name(path.name + ".partial").open("wb") as other:
        other.write(b"half")
        console = Heard()
        compute_features(bundle(), samples, console, "test")
        other.write(b"of it")
    assert not console.err.getvalue()  # type: ignore[attr-defined]
    again = compute_features(bundle(), samples, Heard(), "test")
    assert again.known
    assert torch.equal(first.features, again.features)


def test_a_model_without_a_head_gives_features(samples: list[Sample]) -> None:
    for known in (False, True):
        table = compute_features(bundle(classes=0), samples, Heard(), "test")
        assert table.known == known
        assert table.features.shape == (12, 32)
        assert table.logits.shape == (12, 0)


def test_bad_arguments(samples: list[Sample]) -> None:
    with pytest.raises(UserError, match="there are no images"):
        compute_features(bundle(), [], Heard(), "test")
    with pytest.raises(UserError, match="--workers must be at least 1"):
        compute_features(bundle(), samples, Heard(), "test", workers=0)
    spoilt = bundle()
    spoilt.model.norm.weight.data[0] = np.nan
    with pytest.raises(UserError, match="not finite"):
        compute_features(spoilt, samples, Heard(), "test")


def test_fingerprints_are_of_contents() -> None:
    assert fingerprint(bundle()) == fingerprint(bundle(mean=(0.1, 0.1, 0.1)))
    changed = bundle()
    changed.model.norm.bias.data[0] += 1
    assert len({fingerprint(one) for one in (bundle(), bundle(1), changed, bundle(classes=4))}) == 4
    assert data_fingerprint(["a", "b"]) != data_fingerprint(["b", "a"])


@pytest.mark.parametrize("group", [1, 4])
def test_an_interrupted_run_goes_on_where_it_was(
    group: int, samples: list[Sample], monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = [samples[0], sample_of(samples[1]), *samples[2:]]
    model, console = bundle(), Heard()
    model.run = EagerEngine(model.model, group=group)
    monkeypatch.setenv("VITKIT_CACHE", str(cache_folder() / "whole"))
    whole = compute_features(model, broken, console, "test")
    monkeypatch.setenv("VITKIT_CACHE", str(cache_folder() / "stopped"))
    asked: list[int] = []
    own = module.stream

    def stopping(engine: EagerEngine, record: Preprocess, sources: list[object], **options: object) -> object:
        asked.append(len(sources))
        for number, result in enumerate(own(engine, record, sources, **options)):  # type: ignore[arg-type]
            if number == 6 and len(asked) == 1:
                raise KeyboardInterrupt
            yield result

    monkeypatch.setattr(module, "stream", stopping)
    with pytest.raises(KeyboardInterrupt):
        compute_features(model, broken, console, "test")
    first = 6 // group * group
    assert f"test: the first {first} images are kept; the same command goes on after them" in console.said
    assert kept_file().stem.endswith(f"-first-{first}")
    again = compute_features(model, broken, console, "test")
    assert asked == [12, 12 - first]
    assert f"the first {first} of 12 images were computed before" in console.said
    assert torch.equal(whole.features, again.features)
    assert torch.equal(whole.logits, again.logits)
    assert (whole.skipped, whole.digests) == (again.skipped, again.digests)
    assert len(whole.skipped) == 1
    assert "-first-" not in kept_file().stem  # a whole file in its place


def test_a_damaged_beginning_is_said_and_computed_anew(samples: list[Sample], monkeypatch: pytest.MonkeyPatch) -> None:
    model, console = bundle(), Heard()
    whole = compute_features(model, samples, console, "test")
    path = kept_file()
    path.rename(path.with_name(f"{path.stem}-first-5{path.suffix}"))  # it holds 12 rows
    again = compute_features(model, samples, console, "test")
    assert "it holds 12 rows of 5 images" in console.said
    assert torch.equal(whole.features, again.features)


def sample_of(sample: Sample) -> Sample:
    """One whose file is no image."""
    path = Path(str(sample.source))
    broken = path.with_name("broken.png")
    broken.write_bytes(b"no image")
    return sample._replace(name="broken.png", source=broken)
