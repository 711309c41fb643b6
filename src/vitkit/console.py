"""What a person sees while a command runs: plain lines, and one live line where there is a terminal to hold it."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterable, Iterator
from typing import Any, TextIO, TypeVar

__all__ = ["Console", "duration", "percent"]

T = TypeVar("T")


def duration(seconds: float) -> str:
    """``42 s``, ``3m20s`` or ``2h05m``."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    return f"{minutes}m{rest:02d}s" if minutes < 60 else f"{minutes // 60}h{minutes % 60:02d}m"


def percent(fraction: float) -> str:
    """A fraction as percent with one decimal."""
    return f"{100 * fraction:.1f}%"


def _is_shown(character: str) -> bool:
    """Class and file names may hold anything; what would steer the terminal is spelled out. Bytes that are no text pass."""
    return character.isprintable() or character in "\n\t" or "\udc80" <= character <= "\udcff"


def _terminal_size() -> tuple[int, int]:
    """(columns, lines); 80 x 24 where a terminal does not say, since tqdm would then print nothing."""
    size = shutil.get_terminal_size()
    return size.columns, size.lines


class Console:
    """Lines go to ``out``, warnings to ``err``; live lines appear on ``err`` and only if it is a terminal."""

    def __init__(self, out: TextIO | None = None, err: TextIO | None = None) -> None:
        self.out = out or sys.stdout
        self.err = err or sys.stderr
        self._live: Any = None

    @property
    def width(self) -> int | None:
        """Columns of the terminal that lines go to; None where they go to a file or a pipe, which hold any line."""
        return _terminal_size()[0] if self.out.isatty() else None

    def say(self, text: str = "") -> None:
        """Print one line of what was understood, done or written."""
        self._print(text, self.out)

    def warn(self, text: str) -> None:
        """Print a warning."""
        self._print(f"warning: {text}", self.err)

    def _print(self, text: str, stream: TextIO) -> None:
        if self._live is not None:
            self._live.clear()
        text = "".join(c if _is_shown(c) else repr(c)[1:-1] for c in text)
        print(text, file=stream, flush=True)

    def track(self, items: Iterable[T], total: int, label: str, unit: str = "img") -> Iterator[T]:
        """Pass ``items`` on with a progress bar."""
        if not self.err.isatty():
            yield from items
            return
        from tqdm import tqdm

        ncols, nrows = _terminal_size()
        yield from tqdm(items, total=total, desc=label, unit=unit, file=self.err, leave=False, ncols=ncols, nrows=nrows)

    def live(self, total: int, label: str) -> LiveLine:
        """One line that `LiveLine.update` rewrites until it is closed."""
        return LiveLine(self, total, label)


class LiveLine:
    """A progress line with free text and an ETA; silent where there is no terminal."""

    def __init__(self, console: Console, total: int, label: str) -> None:
        self._console = console
        self._bar: Any = None
        if console.err.isatty():
            from tqdm import tqdm

            ncols, nrows = _terminal_size()
            self._bar = tqdm(
                total=total,
                file=console.err,
                leave=False,
                ncols=ncols,
                nrows=nrows,
                bar_format=f"{label} {{n_fmt}}/{{total_fmt}} |{{bar:12}}| {{desc}}  ETA {{remaining}}",
            )
            console._live = self._bar

    def update(self, done: int, text: str) -> None:
        """Show that ``done`` of the total is done."""
        if self._bar is not None:
            self._bar.set_description_str(text, refresh=False)
            self._bar.update(done - self._bar.n)

    def __enter__(self) -> LiveLine:
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.close()
            self._console._live = None
