"""Data sets of the Hugging Face hub by name: ``hf:OWNER/NAME[/CONFIG][@REVISION]`` and ``hf://datasets/OWNER/NAME/PATH``.

A name stands for the set's Parquet files (else its tar shards, else the Parquet files that the hub made of it) at one commit,
which is told, so that a run that goes on reads the same.
"""

from __future__ import annotations

import concurrent.futures
import json
import re
import sys
from collections.abc import Callable, Mapping
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple
from urllib.parse import unquote

from vitkit.config import UserError, did_you_mean
from vitkit.console import Console
from vitkit.data.cache import Cache
from vitkit.data.download import is_offline, size_text
from vitkit.data.hub import check_file, download_file, endpoint, hub_cache, told
from vitkit.data.hub_layouts import DEFAULT, Splits, choose_config, find_splits, refuse_other_kinds
from vitkit.data.samples import SPLIT_NAMES, listed
from vitkit.data.shards import expand_braces, has_braces

__all__ = ["HubData", "HubName", "hub_data", "is_hub", "parse_hub_name"]

CONVERTED = "refs/convert/parquet"  # where the hub keeps the Parquet files that it makes of data sets
AT_ONCE = 4  # files
_ADDRESS = re.compile(r"hf://datasets/([^/@]+/[^/@]+)(?:@([^/]+))?(?:/(.*))?")
_NAME = re.compile(r"hf:([^/@]+(?:/[^/@]+)?)(?:/([^@]+))?(?:@(.+))?")


class HubName(NamedTuple):
    """What a user's name for a data set on the hub says."""

    repo: str
    config: str = ""
    revision: str = ""
    path: str | None = None  # of an address: a file or folder inside; None of a name

    def pinned(self, commit: str, repo: str) -> str:
        """The same at one commit, in the form that is read again."""
        if self.path is not None:
            return f"hf://datasets/{repo}@{commit}/{self.path}"
        return f"hf:{repo}{f'/{self.config}' if self.config else ''}@{commit}"


class HubData(NamedTuple):
    """A data set on this machine."""

    name: str
    root: Path  # the repository's files at one commit
    splits: list[tuple[str, Path]]  # role and file; empty where ``path`` is to be read as local data is
    path: Path
    notes: list[str]
    origin: str  # the name at its commit


class _Listing(NamedTuple):
    """Which files are needed, of which commit."""

    repo: str
    commit: str
    splits: list[tuple[str, str]]  # role and file
    files: dict[str, int | None]  # to fetch, with their sizes
    notes: list[str]


def is_hub(data: str) -> bool:
    """Is it a name or an address on the hub?"""
    return data.startswith("hf:")


def parse_hub_name(data: str) -> HubName:
    """Take a name or an address apart.

    Raises:
        UserError: of neither form.
    """
    if data.startswith("hf://"):
        if match := _ADDRESS.fullmatch(data):
            path = (match[3] or "").strip("/")
            if not path:
                return HubName(match[1], revision=unquote(match[2] or ""))
            if ".." in PurePosixPath(path).parts:
                raise UserError(f"{data}: expected a path without ..")
            return HubName(match[1], revision=unquote(match[2] or ""), path=path)
        raise UserError(f"{data} is not understood; expected hf://datasets/OWNER/NAME[@REVISION][/PATH].")
    if match := _NAME.fullmatch(data):
        return HubName(match[1], match[2] or "", match[3] or "")
    raise UserError(f"{data} is not understood; expected hf:OWNER/NAME, perhaps with /CONFIG and @REVISION behind it.")


def hub_data(data: str, is_data: Callable[[str], bool]) -> HubData:
    """Bring a data set's files into the hub's cache, where they are not there.

    Args:
        data: the name or address.
        is_data: of a file's name: can it be read as data?

    Raises:
        UserError: no such data set, split, configuration or file; other data than images; not to be had.
    """
    asked = parse_hub_name(data)
    listing = _list(data, asked, is_data)
    files = _fetch(data, listing)
    first, path = next(iter(files.items()))
    root = path
    for _ in PurePosixPath(first).parts:
        root = root.parent
    origin = asked.pinned(listing.commit, listing.repo)
    name = listing.repo.rpartition("/")[2]
    if asked.path:
        inner = PurePosixPath(asked.path)
        name = (inner.parent.name or name) if has_braces(inner.name) else inner.name
    notes = [*listing.notes, f"revision {listing.commit[:12]} of {listing.repo} on the Hugging Face hub"]
    inside = root / (asked.path or "")
    return HubData(name, root, [(role, files[file]) for role, file in listing.splits], inside, notes, origin)


def _list(data: str, asked: HubName, is_data: Callable[[str], bool]) -> _Listing:
    """Which files of which commit: asked of the hub, or remembered where the commit is named or nothing may be asked."""
    key = f"{endpoint() or ''} {asked}"
    cache = Cache("hub-1")
    try:
        stored = cache.get(key)
        if stored and (is_offline() or re.fullmatch(r"[0-9a-f]{40}", asked.revision)):
            repo, commit, splits, files, notes = json.loads(stored)
            return _Listing(repo, commit, [(role, file) for role, file in splits], files, notes)
        if is_offline():
            raise UserError(f"{data} is not on this machine, and nothing is fetched offline.")
        listing = _ask(data, asked, is_data)
        pinned = asked._replace(repo=listing.repo, revision=listing.commit)
        value = json.dumps(listing).encode()
        cache.put({key: value, f"{endpoint() or ''} {pinned}": value})
        return listing
    finally:
        cache.close()


def _ask(data: str, asked: HubName, is_data: Callable[[str], bool]) -> _Listing:
    about = _about(asked.repo, asked.revision or None)
    if about is None:
        raise UserError(f"{data}: {asked.repo} on the hub has no revision {asked.revision!r}.")
    card = about.card_data.to_dict() if about.card_data else {}
    if asked.path is not None:
        return _inside(data, asked.path, about, is_data)
    refuse_other_kinds(card, about.tags or (), asked.config or DEFAULT, data)
    for suffix in (".parquet", ".tar", ".tar.gz"):
        if found := find_splits(list(_sizes(about)), card, suffix):
            return _choose(data, asked, about, found, card)
    converted = None if asked.revision else _about(asked.repo, CONVERTED)
    if converted is not None and (found := find_splits(list(_sizes(converted)), {}, ".parquet")):
        listing = _choose(data, asked, converted, found, card)
        return listing._replace(notes=[*listing.notes, "read from the Parquet files that the hub made of it"])
    if any(is_data(file) for file in _sizes(about)):
        return _inside(data, "", about, is_data)
    raise UserError(
        f"{data} has neither Parquet files nor tar shards nor images on the hub; it cannot be read by name."
    )


def _about(repo: str, revision: str | None) -> Any:
    """What the hub says of a data set's revision; None where there is no such revision."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HFValidationError, RevisionNotFoundError

    with told(f"datasets/{repo}", f"the list of its files{f' at {revision}' if revision else ''}"):
        api = HfApi(endpoint=endpoint(), library_name="vitkit")
        try:
            return api.dataset_info(repo, revision=revision, files_metadata=True)
        except RevisionNotFoundError:
            pass
        except HFValidationError as error:
            raise UserError(f"{repo!r} is no name of a data set on the hub: {str(error).splitlines()[0]}") from None
    return None


def _sizes(about: Any) -> dict[str, int | None]:
    return {entry.rfilename: entry.size for entry in about.siblings or ()}


def _choose(data: str, asked: HubName, about: Any, found: Mapping[str, Splits], card: Mapping[str, Any]) -> _Listing:
    """The files of one configuration."""
    config = choose_config(found, card, asked.config, data)
    sizes = _sizes(about)
    splits, notes, others = [], [], []
    for split, files in found[config].items():
        role = SPLIT_NAMES.get(split.lower().removeprefix("partial-"))
        if role is None:
            others.append(split)
            continue
        if split.startswith("partial-"):
            notes.append(f"{role}: the hub made only a first part of it into Parquet files")
        splits += [(role, file) for file in files]
    if not splits and len(others) == 1:  # one part of another name
        splits, others = [("all", file) for file in found[config][others[0]]], []
    if not splits:
        raise UserError(f"{data} has the splits {listed(others)}; expected one of {', '.join(SPLIT_NAMES)}.")
    if others:
        notes.append(f"splits left out: {listed(others)}")
    if len(found) > 1:
        notes.append(f"configuration {config!r} of {listed(sorted(found))}")
    return _Listing(about.id, about.sha, splits, {file: sizes[file] for _, file in splits}, notes)


def _inside(data: str, path: str, about: Any, is_data: Callable[[str], bool]) -> _Listing:
    """All data in a folder of the repository, or the files that a path names."""
    sizes = _sizes(about)
    wanted = expand_braces(path) if has_braces(path) else [path]
    files = [file for file in wanted if file in sizes]
    if missing := [file for file in wanted if file not in sizes] if has_braces(path) else []:
        raise UserError(f"{data}: {about.id} on the hub has no {missing[0]}.{did_you_mean(missing[0], sizes)}")
    if not files:
        files = [file for file in sizes if not path or file.startswith(f"{path}/")]
        if not files:
            folders = {str(folder) for file in sizes for folder in PurePosixPath(file).parents if str(folder) != "."}
            raise UserError(f"{data}: {about.id} on the hub has no {path}.{did_you_mean(path, [*sizes, *folders])}")
        hidden = [file for file in files if any(part.startswith(".") for part in PurePosixPath(file).parts)]
        files = [file for file in files if is_data(file) and file not in hidden]
        if not files:
            raise UserError(f"{data} holds no images and no tables.")
    else:
        beside = str(PurePosixPath(files[0]).parent / "classes.txt")
        files += [beside] if beside in sizes else []
    return _Listing(about.id, about.sha, [], {file: sizes[file] for file in files}, [])


def _fetch(data: str, listing: _Listing) -> dict[str, Path]:
    """Place of each file in the hub's cache; what is missing there is fetched, and checked by its checksum."""
    folder = hub_cache() / f"datasets--{listing.repo.replace('/', '--')}" / "snapshots" / listing.commit
    missing = [file for file, size in listing.files.items() if not _is_there(folder / file, size)]
    if missing:
        if is_offline():
            raise UserError(f"{data}: {missing[0]} is not on this machine, and nothing is fetched offline.")
        console = Console(out=sys.stderr)
        total = sum(listing.files[file] or 0 for file in missing)
        console.say(f"fetching {data}: {len(missing)} of {len(listing.files)} files, {size_text(total)}")
        with concurrent.futures.ThreadPoolExecutor(AT_ONCE) as pool:
            jobs = [pool.submit(_one, listing, file, folder / file) for file in missing]
            try:
                for job in concurrent.futures.as_completed(jobs):
                    job.result()
            except BaseException:
                pool.shutdown(wait=True, cancel_futures=True)
                raise
    return {file: folder / file for file in listing.files}


def _one(listing: _Listing, file: str, place: Path) -> None:
    if place.is_file() and listing.files[file] not in (None, place.stat().st_size):
        place.resolve().unlink()  # cut later: the client would take it for whole
        place.unlink(missing_ok=True)
    with told(f"datasets/{listing.repo}", file):
        check_file(download_file(listing.repo, file, quiet=False, repo_type="dataset", revision=listing.commit))
    if not place.is_file():
        raise UserError(f"{listing.repo} on the hub has no {file} at {listing.commit}.")


def _is_there(path: Path, size: int | None) -> bool:
    return path.is_file() and size in (None, path.stat().st_size)
