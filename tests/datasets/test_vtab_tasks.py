"""All 19 tasks of VTAB from the publishers' containers to the 800, the 200 and the images to test on."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from published import hashed
from vitkit.config import UserError
from vitkit.data.containers import read_bytes
from vitkit.datasets.book import find_dataset
from vitkit.datasets.vtab import TASKS, Task, open_task
from vtab_standins import WRITERS


@pytest.fixture(scope="module")
def folder_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The stand-in of a data set, written once."""
    root = tmp_path_factory.mktemp("vtab")

    def written(name: str) -> Path:
        if not (root / name).exists():
            (root / name).mkdir()
            WRITERS[name][0](root / name)
        return root / name

    return written


@pytest.fixture(autouse=True)
def _cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VITKIT_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))


@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.name)
def test_a_task_has_its_800_its_200_and_its_test_set(task: Task, folder_of: Callable[[str], Path]) -> None:
    _, whole, tests = WRITERS[task.folder]
    folder = folder_of(task.folder)
    found = open_task(task, folder, partial_set=not whole)
    assert (len(found.train), len(found.val), len(found.test)) == (800, 200, tests)
    assert any("not comparable with published figures" in note for note in found.notes) is not whole
    if not whole:
        with pytest.raises(UserError, match="is not the published one"):
            open_task(task, folder)
    assert len(found.classes) == len(set(found.classes)) == find_dataset(task.row).classes
    for samples in (found.train, found.val, found.test):
        labels = {samples[n].label for n in range(0, len(samples), max(1, len(samples) // 500))}
        assert min(labels) >= 0
        assert max(labels) < len(found.classes)
        assert len(labels) > 1
    assert {sample.label for sample in found.val} <= {sample.label for sample in found.train} or len(found.classes) > 40
    names = [sample.name for sample in (*found.train, *found.val)]
    assert len(set(names)) == 1_000
    assert not set(names) & {found.test[n].name for n in range(min(len(found.test), 2_000))}
    for samples in (found.train, found.val, found.test):
        for place in (0, -1):
            assert read_bytes(samples[place].source)


def test_the_order_of_the_five_that_other_protocols_take_too(folder_of: Callable[[str], Path]) -> None:
    """The 1,000 images by name, from the publishers' lists and the MD5 sums of their keys alone."""
    tasks = {task.name: task for task in TASKS}
    source = find_dataset("dtd").open(folder_of("dtd"))
    lines = {
        split: [sample.name.removeprefix("images/") for sample in samples] for split, samples in source.splits.items()
    }
    found = open_task(tasks["dtd"], folder_of("dtd"))
    assert [s.name for s in found.train] == [f"images/{line}" for line in hashed(lines["train"], "train")[:800]]
    assert [s.name for s in found.val] == [f"images/{line}" for line in hashed(lines["val"], "validation")[:200]]
    for name, cut in (("pets", 2_944), ("caltech101", 2_754)):
        every = [sample.name for sample in find_dataset(name).open(folder_of(name)).splits["train"]]
        order = hashed(every, "train")
        found = open_task(tasks[name], folder_of(name))
        assert [s.name for s in found.train] == order[:800]
        assert [s.name for s in found.val] == order[cut : cut + 200]
    splits = find_dataset("flowers102").open(folder_of("flowers102")).splits
    found = open_task(tasks["flowers102"], folder_of("flowers102"))
    assert [s.name for s in found.train] == hashed([s.name for s in splits["train"]], "train")[:800]
    assert [s.name for s in found.val] == hashed([s.name for s in splits["val"]], "validation")[:200]
    found = open_task(tasks["cifar100"], folder_of("cifar100"), partial_set=True)
    order = hashed(range(2_100), "train")
    assert [int(s.name[-5:]) for s in (*found.train, *found.val)] == [*order[:800], *order[1_890:2_090]]
