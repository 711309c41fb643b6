"""What every use of the Hugging Face hub shares: its cache, its address, its errors as messages, and checksums of what came."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import re
from collections.abc import Iterator
from pathlib import Path

from vitkit import __version__
from vitkit.config import UserError

__all__ = ["check_file", "download_file", "endpoint", "hub_cache", "told"]


def hub_cache() -> Path:
    """The hub's cache: $HF_HUB_CACHE, else hub/ in $HF_HOME, else in $XDG_CACHE_HOME/huggingface or ~/.cache/huggingface."""
    for name in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"):
        if own := os.environ.get(name):
            return Path(own).expanduser()
    if home := os.environ.get("HF_HOME"):
        return Path(home).expanduser() / "hub"
    shared = os.environ.get("XDG_CACHE_HOME")
    return (Path(shared) if shared else Path("~/.cache").expanduser()) / "huggingface" / "hub"


def endpoint() -> str | None:
    """$HF_ENDPOINT, None where it is not set."""
    return os.environ.get("HF_ENDPOINT") or None


def download_file(
    repo: str, file: str, quiet: bool, *, repo_type: str | None = None, revision: str | None = None
) -> Path:
    """One file into the hub's cache, by the hub's client and with its bar; its errors are for `told`."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.utils.tqdm import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

    hide = quiet and not are_progress_bars_disabled()
    if hide:
        disable_progress_bars()
    try:
        return Path(
            hf_hub_download(
                repo,
                file,
                repo_type=repo_type,
                revision=revision,
                cache_dir=hub_cache(),
                endpoint=endpoint(),
                library_name="vitkit",
                library_version=__version__,
            )
        )
    finally:
        if hide:
            enable_progress_bars()


@contextlib.contextmanager
def told(repo: str, file: str) -> Iterator[None]:
    """The client's many errors as one message each; a repository without the file is no error."""
    from huggingface_hub.errors import (
        EntryNotFoundError,
        GatedRepoError,
        HfHubHTTPError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
    )  # fmt: skip

    address = f"{endpoint() or 'https://huggingface.co'}/{repo}"
    try:
        yield
    except LocalEntryNotFoundError as error:  # the client's word for no answer and nothing cached
        raise UserError(f"{address} does not answer ({_first_line(error.__cause__ or error)}). Tried {file}.") from None
    except EntryNotFoundError:
        pass
    except GatedRepoError:
        raise UserError(
            f"{repo} is given only to those who accept its licence: do so at https://huggingface.co/{repo}, make a token at "
            "https://huggingface.co/settings/tokens, and set HF_TOKEN to it."
        ) from None
    except RepositoryNotFoundError:
        raise UserError(
            f"the hub has no repository {repo}, or it is private (then set HF_TOKEN). Tried {address}."
        ) from None
    except HfHubHTTPError as error:
        raise UserError(f"{address} answers {error.response.status_code}; try again later. Tried {file}.") from None
    except UserError:
        raise
    except Exception as error:
        # What the client's HTTP library cannot do comes through as that library's own: httpx's, requests' in older clients.
        if type(error).__module__.startswith(("httpx", "httpcore", "requests")):
            raise UserError(f"{address} does not answer ({_first_line(error)}). Tried {file}.") from None
        if not isinstance(error, OSError):
            raise
        if error.errno == errno.ENOSPC:
            raise UserError(f"no space is left in {hub_cache()}. Free some, or set HF_HOME to another place.") from None
        raise UserError(f"{address}/{file} did not come: {_first_line(error)}. Try again.") from None


def _first_line(error: BaseException) -> str:
    return str(error).strip().splitlines()[0].rstrip(".") if str(error).strip() else type(error).__name__


def check_file(path: Path) -> str:
    """Compare a file that came with the checksum that the hub names it by: SHA-256 of large files, Git's of small ones.

    Raises:
        UserError: they differ; the file is deleted.
    """
    blob = path.resolve()
    name = blob.name
    if re.fullmatch(r"[0-9a-f]{64}", name):
        kind, sum_ = "SHA-256", hashlib.sha256()
    elif re.fullmatch(r"[0-9a-f]{40}", name):
        kind, sum_ = "Git checksum", hashlib.sha1(f"blob {blob.stat().st_size}\0".encode(), usedforsecurity=False)
    else:
        return "no checksum"
    with blob.open("rb") as file:
        while piece := file.read(1 << 20):
            sum_.update(piece)
    if sum_.hexdigest() != name:
        with contextlib.suppress(OSError):
            path.unlink()
            blob.unlink(missing_ok=True)
        raise UserError(
            f"{path} came damaged: its {kind} is {sum_.hexdigest()}, the hub states {name}. It is deleted; try again."
        )
    return f"{kind} {name}"
