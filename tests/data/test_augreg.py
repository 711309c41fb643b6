"""AugReg's settings by name, and the name that means two things."""

from __future__ import annotations

import pytest

from vitkit.config import UserError
from vitkit.data.augreg import AUGREG, augreg


@pytest.mark.parametrize(
    ("file_name", "paper_name", "setting"),
    [
        ("none", "none", (0, 0, 0)),
        ("light0", "light1", (2, 0, 0)),
        ("light1", "light2", (2, 10, 0.2)),
        ("medium1", "medium1", (2, 15, 0.2)),
        ("medium2", "medium2", (2, 15, 0.5)),
        ("strong1", "strong1", (2, 20, 0.5)),
        ("strong2", "strong2", (2, 20, 0.8)),
    ],
)
def test_settings_by_both_names(file_name: str, paper_name: str, setting: tuple[int, int, float]) -> None:
    row = augreg(file_name)
    assert (row.layers, row.magnitude, row.mixup) == setting
    assert row == augreg(paper_name, names="paper")
    assert (row.file_name, row.paper_name) == (file_name, paper_name)


def test_there_are_seven() -> None:
    assert len(AUGREG) == len({row.file_name for row in AUGREG}) == len({row.paper_name for row in AUGREG}) == 7


def test_a_name_of_the_other_vocabulary_is_explained_and_not_guessed() -> None:
    with pytest.raises(
        UserError, match=r"'light2' is the paper name of the .* whose file name is 'light1', .* write 'light1'"
    ):
        augreg("light2")
    with pytest.raises(UserError, match=r"'light0' is the file name of the .* whose paper name is 'light1'"):
        augreg("light0", names="paper")
    with pytest.raises(UserError, match=r"known: none, light0, .* Did you mean 'strong1'"):
        augreg("stron1")
    with pytest.raises(UserError, match="are 'file' or 'paper', got 'files'"):
        augreg("none", names="files")
