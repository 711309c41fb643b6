"""How figures look: one style, readable in gray, as SVG and PNG. The only user of matplotlib.

What is drawn comes from functions that are tested in their numbers; nothing is computed here.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vitkit.config import UserError, write_file

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["LINES", "SEQUENTIAL", "Drawing", "drawing", "line_style"]

SEQUENTIAL = (
    "cividis"  # lightness rises evenly: the same picture in gray, and for eyes that tell colours apart otherwise
)
# Lines differ in lightness, dash and marker, so that colour is never the only difference.
LINES = (
    {"color": "#00204d", "linestyle": "-", "marker": "o"},
    {"color": "#b8860b", "linestyle": "--", "marker": "s"},
    {"color": "#5b6fa8", "linestyle": "-.", "marker": "^"},
    {"color": "#8c2d04", "linestyle": ":", "marker": "D"},
    {"color": "#4d8f6f", "linestyle": (0, (6, 1, 1, 1, 1, 1)), "marker": "v"},
    {"color": "#888888", "linestyle": (0, (1, 2)), "marker": "x"},
)
STYLE = {
    "font.family": "DejaVu Sans", "font.size": 9, "axes.titlesize": 10, "axes.labelsize": 9, "legend.fontsize": 8,
    "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True, "grid.color": "#e4e4e4", "grid.linewidth": 0.6,
    "axes.axisbelow": True, "lines.linewidth": 1.6, "lines.markersize": 4.5, "legend.frameon": False,
    "figure.constrained_layout.use": True, "image.interpolation": "nearest", "image.cmap": SEQUENTIAL,
    "svg.hashsalt": "vitkit", "svg.fonttype": "path", "savefig.facecolor": "white", "figure.facecolor": "white",
}  # fmt: skip
DPI = 160  # of PNG


class Drawing:
    """A figure under way: ``axes`` is what matplotlib's ``subplots`` gives, two-dimensional always."""

    def __init__(self, figure: Figure, axes: Any) -> None:
        self.figure, self.axes = figure, axes

    @property
    def one(self) -> Axes:
        """The axes of a figure that has but one."""
        (axes,) = self.axes.flat
        return axes

    def save(self, stem: Path) -> tuple[Path, Path]:
        """Write ``stem.svg`` and ``stem.png``, alike at every run; the suffix is added to the whole name.

        Raises:
            UserError: the files cannot be written.
        """
        import io

        paths = []
        for suffix, metadata in ((".svg", {"Date": None}), (".png", {"Software": None})):
            buffer = io.BytesIO()
            self.figure.savefig(buffer, format=suffix[1:], dpi=DPI, metadata=metadata)
            paths.append(stem.with_name(stem.name + suffix))
            write_file(paths[-1], buffer.getvalue())
        return paths[0], paths[1]


@contextmanager
def drawing(width: float, height: float, rows: int = 1, columns: int = 1, **layout: Any) -> Iterator[Drawing]:
    """A figure of ``width`` by ``height`` inches in our style, without a window and without global state; save it inside.

    Raises:
        UserError: matplotlib is not installed.
    """
    try:
        from matplotlib import rc_context
        from matplotlib.figure import Figure
    except ModuleNotFoundError:
        raise UserError(
            "figures are drawn by matplotlib, which is not installed. Install it: pip install 'vitkit[figures]'."
        ) from None
    with rc_context(STYLE):  # type: ignore[arg-type]
        figure = Figure(figsize=(width, height))
        yield Drawing(figure, figure.subplots(rows, columns, squeeze=False, **layout))


def line_style(index: int) -> dict[str, Any]:
    """Colour, dash and marker of the ``index``-th line of a figure."""
    return dict(LINES[index % len(LINES)])
