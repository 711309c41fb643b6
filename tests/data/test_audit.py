"""Opening every file once: what is usable, what is not and why, and which content it was."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from vitkit.config import UserError
from vitkit.console import Console
from vitkit.data import audit
from vitkit.data.sources import Sample


def scan(samples: list[Sample], **options: object) -> audit.Scan:
    return audit.scan(samples, console=Console(), **options)  # type: ignore[arg-type]


@pytest.fixture
def samples(tmp_path: Path) -> list[Sample]:
    """Three images, of 4x6, 8x2 and 5x5 pixels (height x width)."""
    made = []
    for number, (height, width) in enumerate(((4, 6), (8, 2), (5, 5))):
        path = tmp_path / f"{number}.png"
        Image.new("RGB", (width, height), (number, 20, 30)).save(path)
        made.append(Sample(path.name, path, number % 2))
    return made


def test_usable_images_come_in_order_with_their_sizes(samples: list[Sample]) -> None:
    found = scan(samples)
    assert list(found.usable) == samples
    assert list(found.sizes) == [(4, 6), (8, 2), (5, 5)]
    assert not found.skipped


def test_sizes_are_of_the_upright_image(samples: list[Sample]) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (6, 4)).save(samples[0].source, exif=exif)
    assert scan(samples).sizes[0] == (6, 4)


def test_bad_files_are_listed_with_their_reason_and_not_replaced(samples: list[Sample], tmp_path: Path) -> None:
    (tmp_path / "0.png").write_bytes(b"text")
    (tmp_path / "2.png").unlink()
    found = scan(samples)
    assert list(found.usable) == [samples[1]]
    assert list(found.sizes) == [(8, 2)]
    assert [name for name, _ in found.skipped] == ["0.png", "2.png"]
    reasons = [reason for _, reason in found.skipped]
    assert "not an image" in reasons[0]
    assert "No such file" in reasons[1]
    assert scan(samples).skipped == found.skipped  # equal runs tell equal reasons


def test_strict_stops_at_a_bad_file_and_no_usable_file_always_does(samples: list[Sample], tmp_path: Path) -> None:
    (tmp_path / "1.png").write_bytes(b"")
    with pytest.raises(UserError, match=r"1 of 3 files cannot be used, the first: 1\.png: is empty"):
        scan(samples, strict=True)
    with pytest.raises(UserError, match="1 of 1 files cannot be used"):
        scan(samples[1:2])


def test_the_fingerprint_is_of_names_labels_and_contents(samples: list[Sample], tmp_path: Path) -> None:
    first = scan(samples).fingerprint
    assert scan(samples, workers=1).fingerprint == first
    moved = [s._replace(source=Path(s.source).read_bytes()) for s in samples]
    assert scan(moved).fingerprint == first  # not of where the files lie
    relabelled = [samples[0]._replace(label=1), *samples[1:]]
    renamed = [samples[0]._replace(name="x.png"), *samples[1:]]
    others = {scan(relabelled).fingerprint, scan(renamed).fingerprint, scan(samples[:2]).fingerprint}
    Image.new("RGB", (6, 4), (0, 20, 31)).save(tmp_path / "0.png")
    others.add(scan(samples).fingerprint)
    assert len(others - {first}) == 4


def test_the_fingerprint_of_multi_label_data_depends_on_every_class(samples: list[Sample]) -> None:

    def fingerprint(*labels: int) -> str:
        return scan([samples[0]._replace(label=-1, labels=labels)]).fingerprint

    assert len({fingerprint(), fingerprint(0), fingerprint(0, 1), fingerprint(1)}) == 4
