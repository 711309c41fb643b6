"""What a file is by its first bytes; its name is not asked."""

from __future__ import annotations

from vitkit.config import UserError
from vitkit.weights.opened import shown

__all__ = ["HEAD", "recognise"]

HEAD = 1024  # bytes that `recognise` wants to see
PICKLE, SAFETENSORS, ZIP, JSON = "pickle", "safetensors", "zip", "json"
UNPACK = "Unpack it and name the file of weights inside"
# offset, bytes, what it is, what to do
SIGNATURES = (
    (0, b"\x1f\x8b", "compressed by gzip", UNPACK),
    (0, b"BZh", "compressed by bzip2", UNPACK),
    (0, b"\xfd7zXZ", "compressed by xz", UNPACK),
    (0, b"\x28\xb5\x2f\xfd", "compressed by zstd", UNPACK),
    (0, b"7z\xbc\xaf\x27\x1c", "a 7-zip archive", UNPACK),
    (0, b"Rar!", "a RAR archive", UNPACK),
    (257, b"ustar", "a tar archive", UNPACK),
    (0, b"\x89HDF\r\n", "an HDF5 file (Keras?)", "Get the weights as .safetensors, .npz or .pth"),
    (0, b"GGUF", "a GGUF file", "Get the weights as .safetensors"),
    (0, b"\x93NUMPY", "a single NumPy array (.npy)", "Weights are several arrays by name: a .npz file"),
    (0, b"\x89PNG", "a PNG image", ""),
    (0, b"\xff\xd8\xff", "a JPEG image", ""),
    (0, b"%PDF", "a PDF document", ""),
    (0, b"PAR1", "a Parquet table", ""),
)


def recognise(head: bytes, size: int, where: str) -> str:
    """``"safetensors"``, ``"zip"``, ``"pickle"`` or ``"json"``, of the first `HEAD` bytes of a file of ``size``.

    Raises:
        UserError: anything else, saying what it is.
    """
    if not size:
        raise UserError(f"{where} is empty: no bytes were written or fetched. Fetch it again.")
    if (
        head[8:9] == b"{" and 8 + int.from_bytes(head[:8], "little") <= size
    ):  # before all else: the length may look like anything
        return SAFETENSORS
    if head.startswith((b"PK\x03\x04", b"PK\x05\x06")):
        return ZIP
    if len(head) > 1 and head[0] == 0x80 and 2 <= head[1] <= 5:
        return PICKLE
    for offset, signature, kind, advice in SIGNATURES:
        if head[offset:].startswith(signature):
            raise UserError(f"{where} is {kind}, not weights. {advice}{'.' if advice else ''}".rstrip())
    text = _text(head)
    if text is None:
        if head[8:9] == b"{":
            return SAFETENSORS
        if head.startswith(b"{"):
            return JSON
        raise UserError(
            f"{where} is not weights: it begins with the bytes {head[:8].hex(' ')}, which no .safetensors, .npz or torch "
            "file does. It may be truncated or damaged; fetch it again."
        )
    if text.startswith("version https://git-lfs.github.com/spec"):
        raise UserError(
            f"{where} is a Git LFS pointer, {size} bytes that stand for the real file. Fetch that: run 'git lfs pull' in "
            "its repository, or download the file itself."
        )
    if text[:200].lower().startswith(("<!doctype", "<html", "<head", "<?xml", "<error")):
        raise UserError(
            f"{where} is a web page or a server's message, not weights: you downloaded the page about the file, or the "
            "address was wrong. Fetch the file itself."
        )
    if text.startswith("{"):
        return JSON
    raise UserError(f"{where} is a text file, not weights; it begins {shown(text, 40)}.")


def _text(head: bytes) -> str | None:
    """The first bytes as text, without leading space; None where they are not."""
    for cut in range(4):  # a character may be cut at the end
        try:
            text = head[: len(head) - cut].decode("utf-8")
        except UnicodeDecodeError:
            continue
        return text.lstrip("\ufeff \t\r\n") if all(c.isprintable() or c in "\t\r\n\f\ufeff" for c in text) else None
    return None
