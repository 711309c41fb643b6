"""Lines for people: durations, silence without a terminal, a live line with one."""

from __future__ import annotations

import io

import pytest

from vitkit.console import Console, duration, percent


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(("seconds", "text"), [(0.4, "0 s"), (59.4, "59 s"), (200, "3m20s"), (7500, "2h05m")])
def test_durations_are_short(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_percent_has_one_decimal() -> None:
    assert percent(0.9749) == "97.5%"


def test_a_terminal_gets_one_live_line_with_an_eta() -> None:
    terminal = Terminal()
    console = Console(io.StringIO(), terminal)
    with console.live(3, "training") as line:
        for step in range(1, 4):
            line.update(step, f"loss 0.{step}  best top-1 90.0%  30 img/s  data wait 1%  1.2 GB ")
            line._bar.refresh()
        console.say("a line between")
    assert "\n" not in terminal.getvalue()
    assert "training 3/3" in terminal.getvalue()
    assert "data wait 1%" in terminal.getvalue()
    assert "ETA" in terminal.getvalue()


def test_a_terminal_without_a_size_still_shows_progress(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    monkeypatch.delenv("LINES", raising=False)
    monkeypatch.setattr("os.get_terminal_size", lambda *_: __import__("os").terminal_size((0, 0)))
    terminal = Terminal()
    assert list(Console(io.StringIO(), terminal).track(range(3), 3, "opening")) == [0, 1, 2]
    assert "opening" in terminal.getvalue()


def test_without_a_terminal_nothing_is_live() -> None:
    out, err = io.StringIO(), io.StringIO()
    console = Console(out, err)
    assert list(console.track(range(3), 3, "opening")) == [0, 1, 2]
    with console.live(3, "training") as line:
        line.update(1, "loss 1")
    console.say("said")
    console.warn("careful")
    assert out.getvalue() == "said\n"
    assert err.getvalue() == "warning: careful\n"
