"""Who works in a run's folder, and what a run leaves that was stopped before any work."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from vitkit.config import UserError, write_file
from vitkit.runfolder import check_free, claimed, left_nothing, not_begun, write_arguments

HOLD = """
import sys, time
from pathlib import Path
from vitkit.runfolder import claimed
with claimed(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_folder_with_nothing_but_what_was_asked_is_free(tmp_path: Path) -> None:
    run = tmp_path / "run"
    assert left_nothing(run)
    write_arguments(run, {"data": "x"}, "vit pretrain x")
    (run / "arguments.json.partial").write_text("{")
    assert left_nothing(run)
    check_free(run, "pretrain")
    assert "give its first command again" in not_begun(run)
    write_file(run / "plan.json", b"{}")
    assert not left_nothing(run)
    assert not_begun(run) == ""
    with pytest.raises(
        UserError, match=r"already exists\. Choose another --out, or go on with it: vit pretrain --resume"
    ):
        check_free(run, "pretrain")


@pytest.mark.parametrize("name", ["photo.jpg", "model"])
def test_a_folder_of_something_else_is_taken(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text("x")
    with pytest.raises(UserError, match=r"already exists\. Choose another --out\.$"):
        check_free(tmp_path, "finetune")
    with pytest.raises(UserError, match="already exists"):
        check_free(tmp_path / name, "finetune")


def fails_after(run: Path, *names: str) -> None:
    with claimed(run):
        write_arguments(run, {}, "vit")
        for name in names:
            write_file(run / name, b"{}")
        raise UserError("no such data")


def test_an_error_before_any_work_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such data"):
        fails_after(tmp_path / "run")
    assert not (tmp_path / "run").exists()
    with pytest.raises(UserError, match="no such data"):
        fails_after(tmp_path / "run", "split.json")
    assert {path.name for path in (tmp_path / "run").iterdir()} == {"arguments.json", "command.txt", "split.json"}


def test_two_processes_in_one_folder_are_refused_until_the_first_is_killed(tmp_path: Path) -> None:
    pytest.importorskip("fcntl")
    first = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path / "run")], stdout=subprocess.PIPE)
    assert first.stdout is not None
    assert first.stdout.readline() == b"held\n"
    with pytest.raises(UserError, match=r"another process is at work in .*run"), claimed(tmp_path / "run"):
        pass
    first.kill()
    first.wait()
    first.stdout.close()
    with claimed(tmp_path / "run"):
        assert (tmp_path / "run").is_dir()


def test_a_place_that_cannot_be_written_is_one_message(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(UserError, match=r"cannot write .*Choose another place"), claimed(tmp_path / "file" / "run"):
        pass
