"""Files of the Hugging Face hub, into and out of its own cache, by its own client."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from vitkit import __version__
from vitkit.config import UserError
from vitkit.data.download import size_text
from vitkit.data.hub import check_file, download_file, endpoint, hub_cache, told

__all__ = ["SIDECARS", "from_cache", "from_hub"]

SIDECARS = (
    "config.json",
    "preprocessor_config.json",
    "processor_config.json",
    "open_clip_config.json",
)  # what the weights' library keeps beside them


def from_cache(repo: str, files: Sequence[str]) -> Path | None:
    """The first of ``files`` that the cache has of the repository's main branch. Opens no socket and imports nothing."""
    folder = hub_cache() / f"models--{repo.replace('/', '--')}"
    try:
        commit = (folder / "refs" / "main").read_text(encoding="utf-8").strip()
    except OSError:
        return None
    found = (folder / "snapshots" / commit / file for file in files)
    return next((path for path in found if path.is_file()), None)


def from_hub(repo: str, files: Sequence[str], say: Callable[[str], None], terms: str, quiet: bool) -> Path:
    """Fetch the first of ``files`` that the repository has, and its `SIDECARS`, into the hub's cache. Returns the weights.

    Raises:
        UserError: no network, no such repository or file, a licence to accept first, no space, or a damaged file.
    """
    from huggingface_hub import get_hf_file_metadata, hf_hub_url

    for file in files:
        with told(repo, file):  # asked first: it fails at once where the download would try again for long
            about = get_hf_file_metadata(
                hf_hub_url(repo, file, endpoint=endpoint()), library_name="vitkit", library_version=__version__
            )
            say(f"fetching {repo}/{file}: {size_text(about.size)}, {terms}")
            path = download_file(repo, file, quiet)
            digest = check_file(path)
            for sidecar in SIDECARS:
                with told(repo, sidecar):
                    download_file(repo, sidecar, quiet=True)
            say(f"kept in {path}, {digest}")
            return path
    raise UserError(
        f"{repo} on the hub has none of the files {', '.join(files)} any more. See https://huggingface.co/{repo}."
    )
