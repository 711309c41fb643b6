"""MATLAB files up to version 7 (`.mat` v5), as several publishers store labels and splits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from vitkit.config import UserError

__all__ = ["read_mat"]


def read_mat(path: Path, *names: str) -> dict[str, Any]:
    """The variables ``names`` of a file, structures as records, single values squeezed.

    Raises:
        UserError: scipy is not installed, not such a file, or a variable is not in it.
    """
    try:
        from scipy.io import loadmat, matlab
    except ImportError:
        raise UserError(f"reading {path.name} needs scipy: pip install 'vitkit[published]'.") from None
    try:
        found = loadmat(path, squeeze_me=True, struct_as_record=False, variable_names=list(names))
    except (OSError, ValueError, NotImplementedError, matlab.MatReadError, TypeError, EOFError) as error:
        raise UserError(f"{path} cannot be read as a MATLAB file of version 5: {error}. Fetch it again.") from None
    if absent := [name for name in names if name not in found]:
        raise UserError(f"{path} has no variable {absent[0]!r}; it holds {', '.join(k for k in found if k[0] != '_')}.")
    return {name: found[name] for name in names}
