"""MATLAB files up to version 7 (`.mat` v5), as several publishers store labels and splits."""

from __future__ import annotations

import io
import zlib
from pathlib import Path
from typing import Any

from vitkit.config import UserError
from vitkit.data.containers import ImageSource, read_bytes

__all__ = ["read_mat"]


def read_mat(path: ImageSource, *names: str, called: str | Path = "") -> dict[str, Any]:
    """The variables ``names`` of a file, structures as records, single values squeezed.

    ``called`` is what messages call a file that lies in an archive.

    Raises:
        UserError: scipy is not installed, not such a file, or a variable is not in it.
    """
    name = str(called or path)
    try:
        from scipy.io import loadmat, matlab, whosmat
    except ImportError:
        raise UserError(f"reading {Path(name).name} needs scipy: pip install 'vitkit[published]'.") from None
    try:
        content: Any = path if isinstance(path, str | Path) else io.BytesIO(read_bytes(path))
        found = loadmat(content, squeeze_me=True, struct_as_record=False, variable_names=list(names))
    except (
        OSError,
        EOFError,
        zlib.error,
        matlab.MatReadError,
        ValueError,
        TypeError,
        LookupError,
        NotImplementedError,
        MemoryError,
    ) as error:
        raise UserError(f"{name} cannot be read as a MATLAB file of version 5: {error}. Fetch it again.") from None
    if absent := [wanted for wanted in names if wanted not in found]:
        if not isinstance(content, str | Path):
            content.seek(0)
        held = ", ".join(variable for variable, _, _ in whosmat(content))
        raise UserError(f"{name} has no variable {absent[0]!r}; it holds {held or 'none'}.")
    return {wanted: found[wanted] for wanted in names}
