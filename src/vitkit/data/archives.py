"""Reads tar files of images where they lie: the members are listed, nothing is unpacked but gzip, once, into the cache."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import json
import tarfile
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, NamedTuple

from vitkit.config import UserError
from vitkit.data.containers import ImageSource
from vitkit.data.pixels import IMAGE_SUFFIXES
from vitkit.data.samples import SPLIT_NAMES, listed
from vitkit.data.tables import ClassList, Table, name_labels, read_class_list
from vitkit.data.unpack import CutError, unpacked

__all__ = ["TarMember", "list_tar", "read_tar", "read_tar_images"]

GZIP = b"\x1f\x8b"
COMPRESSED = {b"BZh": "bzip2", b"\xfd7zXZ": "xz", b"\x28\xb5\x2f\xfd": "zstd", b"PK": "zip"}
BLOCK = 512  # a tar file is made of these. Source: POSIX.1-2017, pax, "ustar Interchange Format"
LABEL_SUFFIXES = ("cls", "json", "txt")  # of WebDataset label files, the first that is there counting
JSON_KEYS = ("label", "labels", "class")
MAX_LABEL_BYTES = 2**20


class TarMember(NamedTuple):
    """A file inside an uncompressed tar file."""

    path: str
    offset: int
    size: int

    def read(self) -> bytes:
        """Its content.

        Raises:
            OSError: the tar file is gone or shorter than when it was listed.
        """
        with open(self.path, "rb") as file:
            file.seek(self.offset)
            content = file.read(self.size)
        if len(content) < self.size:
            raise OSError(errno.EIO, "the tar file is shorter than when it was listed", self.path)
        return content


class _Listing(NamedTuple):
    """The plain files of an archive, by normalised name, in order."""

    path: Path
    images: dict[str, TarMember]
    others: dict[str, TarMember]
    notes: list[str]
    ended: bool = True  # with the mark that says so


def read_tar(path: Path, root: Path, *, prefix: str = "") -> Table:
    """List the images of a tar file, plain or gzip, with their labels.

    Inside are class folders, split folders of class folders, or files of one key each in the WebDataset way:
    ``key.jpg`` with ``key.cls``, ``key.json`` or ``key.txt``. ``classes.txt`` beside it or in ``root`` names numbered labels.

    Args:
        path: the tar file.
        root: the folder of the data.
        prefix: put before the names of its images, which are otherwise the members' names.

    Raises:
        UserError: compressed otherwise, cut off, damaged, hostile names or links, or labels that cannot be understood.
    """
    listing = _list(path)
    if not listing.images:
        raise UserError(f"{path} holds no images ({len(listing.others)} other files).")
    keyed = _labels_by_key(listing)
    folders = {name.rpartition("/")[0] for name in listing.images}
    captions = len(folders) > 1 and "" not in folders and all(set(found) == {"txt"} for found in keyed.values())
    if keyed and captions:  # class folders whose images have a text each
        note = f"{path.name}: {len(keyed)} .txt files beside images were not read: the folders were taken for classes"
        table = _read_folders(listing)
        table = dataclasses.replace(table, notes=(*table.notes, note))
    else:
        table = _read_keyed(listing, keyed, root) if keyed else _read_folders(listing)
    return dataclasses.replace(table, names=[f"{prefix}{name}" for name in table.names]) if prefix else table


def read_tar_images(path: Path) -> list[tuple[str, ImageSource]]:
    """Name and place of each image of a tar file that needs no labels."""
    listing = _list(path)
    if not listing.images:
        raise UserError(f"{path} holds no images ({len(listing.others)} other files).")
    return [(f"{path}/{name}", member) for name, member in listing.images.items()]


def list_tar(path: Path, inner: TarMember | None = None) -> dict[str, TarMember]:
    """Every plain file of a tar file, plain or gzip, by its name, in its order; hidden files are left out.

    Args:
        path: the tar file.
        inner: a member of ``path`` that is an uncompressed tar file itself, to list instead.

    Raises:
        UserError: as `read_tar`.
    """
    if inner is None:
        listing = _list(path)
    else:
        listing = _Listing(path, {}, {}, [])
        _fill(listing, Path(inner.path), inner.offset, inner.offset + inner.size)
    members = [*listing.images.items(), *listing.others.items()]
    return dict(sorted(members, key=lambda member: member[1].offset))


def _list(path: Path) -> _Listing:
    try:
        with open(path, "rb") as file:
            start = file.read(6)
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}.") from None
    for magic, kind in COMPRESSED.items():
        if start.startswith(magic):
            raise UserError(
                f"{path} is {kind}; images are read at any place, which needs a plain tar file: unpack it, or compress with gzip."
            )
    if not start.startswith(GZIP):
        return _list_plain(path, path)
    try:
        return _list_plain(path, unpacked(path))
    except CutError as error:
        held = _Listing(path, {}, {}, [])
        with contextlib.suppress(UserError):
            _fill(held, error.part)
        error.part.unlink(missing_ok=True)
        raise UserError(f"{error} {_held(held)} Copy or download it again.") from None


def _list_plain(path: Path, file: Path) -> _Listing:
    """List ``file``, which messages call ``path``."""
    listing = _Listing(path, {}, {}, [])
    hidden, end = _fill(listing, file)
    if hidden:
        listing.notes.append(f"{path.name}: left out: {hidden} hidden files")
    if ended := _has_end(path, file, end):
        return listing
    listing.notes.append(f"{path.name} has no end mark: if it was cut off between two images, the rest is missing")
    return listing._replace(ended=ended)


def _fill(listing: _Listing, file: Path, start: int = 0, stop: int | None = None) -> tuple[int, int]:
    """Put the members of the tar file between two places of ``file`` into the listing.

    Returns the number of hidden ones, and where the last one ends.
    """
    path, images, others = listing.path, listing.images, listing.others
    hidden, end, length, place = 0, start, stop or file.stat().st_size, str(file)
    try:
        with open(file, "rb") as content, tarfile.open(fileobj=_at(content, start), mode="r:") as archive:
            while (member := archive.next()) is not None:
                archive.members = []  # type: ignore[attr-defined]  # or the archive would keep them all
                if archive.offset <= end or member.size < 0:
                    raise UserError(f"{path} is damaged at its member {member.name!r}. {_held(listing)} Make it anew.")
                end = archive.offset
                if member.isdir():
                    _check_name(path, member)
                    continue
                name = _check(path, member)
                if member.offset_data + member.size > length:
                    raise UserError(
                        f"{path} is cut off inside its member {member.name!r}: it ends at byte {length:,}, the member at byte "
                        f"{member.offset_data + member.size:,}. {_held(listing)} Copy or download it again."
                    )
                if name in images or name in others:
                    raise UserError(f"{path} has the member {name!r} twice. Keep one.")
                if any(part.startswith(".") for part in name.split("/")):
                    hidden += 1
                    continue
                kept = images if PurePosixPath(name).suffix.lower() in IMAGE_SUFFIXES else others
                kept[name] = TarMember(place, member.offset_data, member.size)
    except (tarfile.TarError, EOFError, UnicodeError, OverflowError, ValueError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(
            f"{path} is not a whole tar file: {error}. {_held(listing)} Copy or download it again."
        ) from None
    return hidden, end


def _at(content: BinaryIO, start: int) -> BinaryIO:
    content.seek(start)
    return content


def _held(listing: _Listing) -> str:
    """How many whole samples came before what is wrong: images, with their label files where there are some."""
    keyed = _labels_by_key(listing)
    whole = sum(_key(name)[0] in keyed for name in listing.images) if keyed else len(listing.images)
    return f"Before that it holds {whole} whole sample{'s' * (whole != 1)}."


def _check(path: Path, member: tarfile.TarInfo) -> str:
    """The normalised name of a plain file; links, devices and sparse files are refused."""
    name = _check_name(path, member)
    if member.issym() or member.islnk():
        kind = "a link"
    elif not member.isreg():
        kind = "a device or another special file"
    elif member.issparse():
        kind = "a sparse file"
    else:
        return name
    raise UserError(f"{path} has the member {member.name!r}, {kind}; expected plain files and folders. Leave it out.")


def _check_name(path: Path, member: tarfile.TarInfo) -> str:
    parts = PurePosixPath(member.name).parts
    if member.name.startswith("/") or ".." in parts or (not parts and not member.isdir()):
        raise UserError(
            f"{path} has the member {member.name!r}; expected names inside the archive, without .. or a leading /."
        )
    return "/".join(parts)


def _has_end(path: Path, file: Path, end: int) -> bool:
    """What follows the last member must be empty blocks: a reader of tar files stops silently at a damaged one."""
    with open(file, "rb") as content:
        if end >= content.seek(0, 2):
            return False
        content.seek(end)
        while block := content.read(BLOCK * 2048):
            if block.strip(b"\0"):
                raise UserError(
                    f"{path} is damaged, or two tar files joined: there is data behind its last readable member (byte "
                    f"{end}). Make it anew."
                )
    return True


def _key(name: str) -> tuple[str, str]:
    """The part of a name that WebDataset shards share, and the rest after its first dot."""
    folder, _, base = name.rpartition("/")
    stem, _, suffix = base.partition(".")
    return (f"{folder}/{stem}" if folder else stem), suffix.lower()


def _labels_by_key(listing: _Listing) -> dict[str, dict[str, str]]:
    """Key -> suffix -> member of the label files that lie beside an image of their key."""
    keys = {_key(name)[0] for name in listing.images}
    found: dict[str, dict[str, str]] = {}
    for name in listing.others:
        key, suffix = _key(name)
        if key in keys and suffix in LABEL_SUFFIXES:
            found.setdefault(key, {})[suffix] = name
    return found


def _read_keyed(listing: _Listing, keyed: Mapping[str, Mapping[str, str]], root: Path) -> Table:
    """WebDataset: one image and one label file of each key."""
    names, values, many = list(listing.images), [], []
    before: dict[str, str] = {}
    for name in names:
        key, _ = _key(name)
        if key in before:
            raise UserError(f"{listing.path} has two images of the key {key!r}: {before[key]} and {name}. Keep one.")
        before[key] = name
        if key not in keyed:
            cut = "" if listing.ended else f" The file has no end mark: it was cut off. {_held(listing)}"
            raise UserError(
                f"{listing.path} has no label for {name}: expected {key}.cls, {key}.json or {key}.txt, as others have.{cut}"
            )
        value, several = _label_of(listing, keyed[key])
        values.append(value)
        many.append(several)
    if len(set(many)) > 1:
        one, other = names[many.index(False)], names[many.index(True)]
        raise UserError(f"{listing.path} has one label for {one} and a list for {other}. Make them alike.")
    classes = read_class_list(listing.path.parent, root)
    labels = name_labels(values, classes, lambda row: f"{listing.path}, {names[row]}")
    unread = len(listing.others) - sum(map(len, keyed.values()))
    notes = [*listing.notes, f"{listing.path.name}: left out: {unread} files that are not images"]
    return _table(listing, names, labels, many[0], classes, None, notes if unread else listing.notes)


def _label_of(listing: _Listing, files: Mapping[str, str]) -> tuple[tuple[str | int, ...], bool]:
    """The label of a key from the first kind of its label files; numbers in two kinds must be the same."""
    suffix = next(s for s in LABEL_SUFFIXES if s in files)
    label = _read_label(listing, files[suffix], suffix)
    if suffix == "cls" and "json" in files:
        try:
            other = _read_label(listing, files["json"], "json")
        except UserError:
            return label  # facts of another kind
        numbers = [[int(v) for v in found[0] if str(v).isdecimal()] for found in (label, other)]
        if all(numbers) and numbers[0] != numbers[1]:
            raise UserError(
                f"{listing.path}, {files['cls']} says {numbers[0][0]} and {files['json']} {numbers[1][0]}: which is the label?"
            )
    return label


def _read_label(listing: _Listing, name: str, suffix: str) -> tuple[tuple[str | int, ...], bool]:
    """The labels in a label file, and whether they are a list."""
    member = listing.others[name]
    at = f"{listing.path}, {name}"
    if member.size > MAX_LABEL_BYTES:
        raise UserError(f"{at} is of {member.size:,} bytes; expected a label.")
    try:
        text = member.read().decode("utf-8-sig").strip()
        if suffix != "json":
            return (text,), False
        stored = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{at} cannot be read as {suffix}: {error}.") from None
    key = next((key for key in JSON_KEYS if isinstance(stored, dict) and key in stored), None)
    if key is None:
        found = listed(list(stored)) if isinstance(stored, dict) else "no object"
        raise UserError(f"{at}: expected one of the keys {', '.join(JSON_KEYS)}, found {found}.")
    value = stored[key]
    values: Sequence[Any] = value if isinstance(value, list) else [value]
    for entry in values:
        if not isinstance(entry, str | int) or isinstance(entry, bool):
            raise UserError(f"{at}: {key} holds {entry!r}; expected a class name or number, or a list of them.")
    return tuple(entry.strip() if isinstance(entry, str) else entry for entry in values), isinstance(value, list)


def _read_folders(listing: _Listing) -> Table:
    """Class folders, perhaps inside train/, val/ and test/, perhaps all inside one more folder."""
    parts = {name: tuple(name.split("/")) for name in listing.images}
    notes = list(listing.notes)
    while len({p[0] for p in parts.values()}) == 1 and all(len(p) > 2 for p in parts.values()):
        if next(iter(parts.values()))[0].lower() in SPLIT_NAMES:
            break
        parts = {name: p[1:] for name, p in parts.items()}
    tops = {p[0] for p in parts.values() if len(p) > 1}
    splits = {top for top in tops if top.lower() in SPLIT_NAMES}
    in_classes = any(len(p) > 2 for p in parts.values() if p[0] in splits)
    by_split = in_classes and (any(SPLIT_NAMES[top.lower()] == "train" for top in splits) or splits == tops)
    depth = 1 if by_split else 0
    kept = [name for name, p in parts.items() if len(p) > depth + 1 and (not by_split or p[0] in splits)]
    left_out = Counter(
        f"images in {p[0]}/, which is no split" if by_split and p[0] not in splits else "images in no class folder"
        for p in (parts[name] for name in parts.keys() - set(kept))
    )
    if listing.others:
        left_out["files that are not images"] = len(listing.others)
    if not kept:
        raise UserError(
            f"{listing.path} holds {len(parts)} images in no class folder and without label files. Expected class/a.jpg, "
            "train/class/a.jpg, or a.jpg with a.cls, a.json or a.txt."
        )
    if left_out:
        counted = ", ".join(f"{count} {what}" for what, count in left_out.items())
        notes.append(f"{listing.path.name}: left out: {counted}")
    kept.sort(key=lambda name: (parts[name][depth], name))  # as class folders on a disk are read
    labels: list[tuple[str, ...]] = [(parts[name][depth],) for name in kept]
    roles = [SPLIT_NAMES[parts[name][0].lower()] for name in kept] if by_split else None
    return _table(listing, kept, labels, False, None, roles, notes)


def _table(
    listing: _Listing,
    names: list[str],
    labels: list[tuple[str, ...]],
    multilabel: bool,
    classes: ClassList | None,
    roles: list[str] | None,
    notes: Sequence[str],
) -> Table:
    sources: list[ImageSource] = [listing.images[name] for name in names]
    return Table(listing.path, "member", names, names, sources, labels, multilabel, classes, roles, tuple(notes))
