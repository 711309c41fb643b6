"""A listing gives back what was put in, any part of it, and tells what is not as it was."""

from __future__ import annotations

import io
import os
from collections import Counter
from pathlib import Path

import pytest

from tiny_tables import png, touch_images, write_csv, write_parquet, write_tar
from vitkit.config import UserError
from vitkit.data.containers import read_bytes
from vitkit.predicting.finding import Found, find
from vitkit.predicting.listing import Listing, first_difference


def listed(*given: Path) -> Listing:
    listing = Listing()
    for each in find(given, Counter()):
        listing.add(each)
    return listing


@pytest.fixture
def many(tmp_path: Path) -> list[Path]:
    """150 images in files, a table of files, two Parquet files and a tar file."""
    pytest.importorskip("pyarrow")
    touch_images(tmp_path / "in", *(f"{number:03d}.png" for number in range(70)))
    cells = [{"bytes": png(number), "path": None} for number in range(35)]
    return [
        write_parquet(tmp_path / "a.parquet", {"image": cells[:30]}, row_group_size=7),
        tmp_path / "in",
        write_parquet(tmp_path / "b.parquet", {"image": cells[30:]}),
        write_tar(tmp_path / "c.tar", {f"{number}.png": png(number) for number in range(40)}),
        write_csv(tmp_path / "t.csv", "path", *(f"csv-{number}.png" for number in range(5))),
    ]


@pytest.mark.parametrize("memory", [True, False])
def test_any_span_is_what_was_found(many: list[Path], memory: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not memory:
        monkeypatch.setattr("vitkit.predicting.listing.IN_MEMORY", 1000)
    wanted = [(each.name, each.source) for each in find(many, Counter()) if isinstance(each, Found)]
    with listed(*many) as listing:
        assert listing.count == len(wanted) == 150
        assert listing.containers == 3
        for start, stop in ((0, 150), (0, 0), (3, 4), (29, 31), (63, 65), (64, 128), (100, 150), (149, 150)):
            found = list(listing.read(start, stop))
            assert found == wanted[start:stop]
            assert [read_bytes(source) for _, source in found] == [
                read_bytes(source) for _, source in wanted[start:stop]
            ]


def test_what_was_changed_cannot_be_read_and_what_is_gone_is_left_to_its_reader(tmp_path: Path) -> None:
    touch_images(tmp_path / "in", "a.png", "b.png", "c.png")
    archive = write_tar(tmp_path / "in.tar", {"x.png": png(1), "y.png": png(2)})
    with listed(tmp_path / "in", archive) as listing:
        os.utime(tmp_path / "in/a.png", ns=(0, 1))
        (tmp_path / "in/b.png").unlink()
        write_tar(archive, {"x.png": png(3), "y.png": png(2), "z.png": png(2)})
        os.utime(archive, ns=(0, 1))
        found = dict(listing.read(0, 5))
    for name in (tmp_path / "in/a.png", archive / "x.png", archive / "y.png"):
        with pytest.raises(OSError, match="it was changed after it was listed"):
            read_bytes(found[str(name)])
    assert found[str(tmp_path / "in/b.png")] == tmp_path / "in/b.png"
    assert read_bytes(found[str(tmp_path / "in/c.png")])


def test_digest_and_difference_tell_what_changed(tmp_path: Path) -> None:
    touch_images(tmp_path / "in", "a.png", "b.png")
    saved = tmp_path / "listing.jsonl"
    with listed(tmp_path / "in") as first, listed(tmp_path / "in") as again:
        first.save(saved)
        assert first.digest == again.digest
        assert again.compare(saved) == ""
    for change, told in (
        (lambda: os.utime(tmp_path / "in/b.png", ns=(0, 1)), "b.png was changed"),
        (lambda: touch_images(tmp_path / "in", "c.png"), "b.png was changed"),
        (lambda: (tmp_path / "in/a.png").unlink(), "b.png in place of"),
    ):
        change()
        with listed(tmp_path / "in") as now:
            assert now.digest != first.digest
            assert told in now.compare(saved)
    assert first_difference([b'[0, "a"]\n'], []) == "a is not there any more"
    assert first_difference([], [b'[0, "a"]\n']) == "a is new"
    with pytest.raises(UserError, match="is damaged"):
        first_difference(io.BytesIO(b"x\n"), [b'[0, "a"]\n'])
