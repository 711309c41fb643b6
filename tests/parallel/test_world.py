"""What ranks tell each other, and what they do when one does not answer."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from ranks import on_ranks
from vitkit.config import UserError
from vitkit.parallel.launch import launched_rank
from vitkit.parallel.watchdog import EXIT_CODE, Place, missing_ranks
from vitkit.parallel.world import ALONE, World, session


def test_one_process_is_a_world_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "1")
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    assert launched_rank() is None
    with session(1.0, print) as world:
        assert world is ALONE
        assert world.main
        assert world.sum([1.5, 2.0]) == [1.5, 2.0]
        assert world.share({"a": 1}, "x") == {"a": 1}
        assert torch.equal(world.gather(torch.arange(3), "x")[0], torch.arange(3))
        assert world.part(7) == range(7)
        world.agree({"data": "a"}, "x")
        world.wait("x")


@pytest.mark.parametrize(("size", "count"), [(2, 7), (3, 8), (4, 4), (5, 23)])
def test_parts_cover_a_batch_once_and_differ_by_one_at_most(size: int, count: int) -> None:
    parts = [World(rank, size).part(count) for rank in range(size)]
    assert [place for part in parts for place in part] == list(range(count))
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_a_batch_is_cut_between_microbatches_where_it_can_be() -> None:
    assert [World(rank, 2).part(22, 4) for rank in range(2)] == [range(12), range(12, 22)]
    assert [World(rank, 3).part(8, 4) for rank in range(3)] == [range(2), range(2, 5), range(5, 8)]


def test_a_batch_smaller_than_the_ranks_is_refused() -> None:
    with pytest.raises(UserError, match="a batch of 3 cannot be shared by 4 ranks: raise batch_size or start fewer"):
        World(0, 4).part(3)


def test_ranks_sum_share_gather_and_agree(tmp_path: Path) -> None:
    done = on_ranks(
        3,
        """
        from vitkit.config import UserError
        with session(60, print) as world:
            r = world.rank
            found = {
                "sum": world.sum([r, 0.5]),
                "any": [world.any(r == 2), world.any(False)],
                "share": world.share({"plan": [1, "é"]} if r == 0 else None, "plan"),
                "gather": [t.tolist() for t in world.gather(torch.full((r + 1, 2), float(r)), "rows")],
            }
            world.agree({"data": "same"}, "check")
            try:
                world.agree({"data": "same", "code": "new" if r == 2 else "old"}, "check")
            except UserError as error:
                found["error"] = str(error)
            keep(world, found)
        """,
        tmp_path,
    )
    assert done.returncode == 0, done.stderr
    for rank in range(3):
        found = json.loads((tmp_path / f"rank-{rank}.json").read_text())
        assert found["sum"] == [3, 1.5]
        assert found["any"] == [True, False]
        assert found["share"] == {"plan": [1, "é"]}
        assert found["gather"] == [[[0.0] * 2], [[1.0] * 2] * 2, [[2.0] * 2] * 3]
        assert found["error"] == (
            "the ranks do not have the same code: rank 0 has old, rank 2 has new. Every rank must run the same command with "
            "the same code on the same data."
        )


def test_the_rank_that_sleeps_is_named_within_the_patience(tmp_path: Path) -> None:
    done = on_ranks(
        2,
        """
        import time
        with session(3, lambda text: print("REPORT", text, flush=True)) as world:
            world.arrive("step 1")
            world.sum([1.0])
            if world.rank == 1:
                (OUT / "pid").write_text(str(os.getpid()))
                time.sleep(60)
            world.arrive("step 2")
            world.sum([1.0])
        """,
        tmp_path,
        seconds=50,
    )
    assert done.returncode != 0
    pid = (tmp_path / "pid").read_text()
    (report,) = [line for line in done.stdout.splitlines() if "REPORT" in line]
    assert f"rank 1 (process {pid} on " in report
    assert (
        "did not come to step 2 within 3 s; the last that was heard of it is step 1" in report or "within 4 s" in report
    )
    assert f"exitcode  : {EXIT_CODE}" in done.stderr.replace(" :", "  :").replace("   :", "  :")


def test_the_furthest_ranks_wait_for_the_others() -> None:
    def places(*reached: int, busy: int = -1) -> list[Place]:
        return [Place(count, rank == busy, "host", "1", "here") for rank, count in enumerate(reached)]

    assert missing_ranks(places(4, 4, 3, 4, 2)) == [2, 4]
    assert missing_ranks(places(4, 4)) == []
    assert missing_ranks(places(3, 4, busy=0)) == []  # it works alone, as was agreed


def test_ranks_meet_though_the_store_holds_what_earlier_ones_left(tmp_path: Path) -> None:
    done = on_ranks(
        2,
        """
        from torch.distributed.rendezvous import rendezvous
        store, rank, size = next(rendezvous("env://"))
        store.set("join/1", "of a rank that has ended")
        store.set("table", '["old", "of a rank that has ended"]')
        store.set("old/go", "1")
        os.environ["TORCHELASTIC_RESTART_COUNT"] = str(rank)  # agents of several machines may count differently
        with session(60, print) as world:
            keep(world, world.sum([1.0]))
        """,
        tmp_path,
    )
    assert done.returncode == 0, done.stderr
    assert [json.loads((tmp_path / f"rank-{rank}.json").read_text()) for rank in range(2)] == [[2.0], [2.0]]


def test_a_rank_that_never_comes_is_named(tmp_path: Path) -> None:
    done = on_ranks(
        2,
        """
        import time
        if os.environ["RANK"] == "1":
            time.sleep(30)
        import vitkit.parallel.world
        from vitkit.config import UserError
        vitkit.parallel.world.START = 4
        try:
            with session(4, print):
                pass
        except UserError as error:
            print("REPORT", error, flush=True)
            sys.exit(1)
        """,
        tmp_path,
        seconds=60,
    )
    assert done.returncode != 0
    assert "REPORT rank 1 did not come to the start within 4 s: start every part of the run" in done.stdout


@pytest.mark.parametrize(("busy", "said"), [(False, "rank 0"), (True, "")])
def test_a_first_rank_that_works_alone_by_agreement_is_waited_for(busy: bool, said: str, tmp_path: Path) -> None:
    done = on_ranks(
        2,
        f"""
        import contextlib, time
        with session(2, lambda text: print("REPORT", text, flush=True)) as world:
            world.wait("both")
            with world.first_alone("the plan") if {busy} else contextlib.nullcontext():
                if world.main:
                    time.sleep(4)
            world.wait("after it")
        """,
        tmp_path,
        seconds=60,
    )
    assert (done.returncode == 0) == busy
    assert ("REPORT" in done.stdout) == bool(said)
    assert said in done.stdout
