"""Names are sorted as `sorted` does, however few are in memory."""

from __future__ import annotations

import random

from vitkit.predicting.sorting import sort_names


def test_any_run_gives_the_sorted_order() -> None:
    draw = random.Random(0)
    letters = ["a", "b", "-", "é", "\n", "\udcff", "漢"]
    names = ["".join(draw.choices(letters, k=draw.randrange(1, 6))) for _ in range(500)]
    for run in (1, 7, 499, 500, 501):
        assert list(sort_names(iter(names), run)) == sorted(names)
    assert list(sort_names([])) == []
