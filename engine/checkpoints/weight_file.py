"""Opens weight files of other projects, and describes files without weights; nothing in them is executed."""

import argparse
import re
import warnings
import zipfile
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from ...pipelines.files import check_regular, utf8_path

_AGAIN = "download it again"
_UNPACK = "unpack it, and name the file of weights in it"
_ELSEWHERE = "look for weights that torch.save or safetensors wrote"
_KINDS = {  # by a file's first bytes, in lower case and without spaces
    b"<": ("a web page or a server's error message", "download the file itself, not the page that links to it"),
    b"{": ("JSON text", "name the file of weights that belongs to it"),
    b"version https://git-lfs": ("a pointer of Git LFS", "run 'git lfs pull', or download the file itself"),
    b"gguf": ("a GGUF file of llama.cpp", _ELSEWHERE),
    b"\x89hdf": ("an HDF5 file, such as Keras writes", _ELSEWHERE),
    **dict.fromkeys(
        (b"\x1f\x8b", b"bzh", b"\xfd7zxz", b"\x28\xb5\x2f\xfd", b"7z\xbc\xaf", b"rar!"), ("packed", _UNPACK)
    ),
}


def describe_other_kind(path: Path) -> str:
    """Returns what a file without weights is, and what to do, as the end of a sentence; empty for any other file."""
    if not path.is_file():
        return ""
    with open(path, "rb") as file:
        head = file.read(4096)
    start = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if not head:
        return f"is empty: {_AGAIN}"
    if path.suffix == ".caffemodel":
        return "is a file of Caffe: dump its tensors by caffemodel2pytorch first"
    if head[257:262] == b"ustar":
        return f"is packed, not weights: {_UNPACK}"
    for magic, (kind, way_out) in _KINDS.items():
        if start.startswith(magic) and not is_safetensors(head):
            return f"is {kind}, not weights: {way_out}"
    return _describe_zip(path) if head.startswith(b"PK\x03\x04") else ""


def is_safetensors(head: bytes) -> bool:
    """True for the first bytes of a safetensors file, whatever its name: the length of a header, and its JSON."""
    return head[8:9] == b"{" and int.from_bytes(head[:8], "little") < 1 << 32


def load_weight_file(path: Path) -> Any:
    """Returns the content of a torch.save or safetensors file, on the CPU. Raises ValueError for any other file."""
    check_regular(path)
    if kind := describe_other_kind(path):
        raise ValueError(f"{path} {kind}")
    with open(path, "rb") as file:
        head = file.read(9)
    try:
        with utf8_path(path) as opened:
            if is_safetensors(head):
                return load_file(opened)
            # A Namespace, in which many scripts keep their options, only holds values.
            with warnings.catch_warnings(action="ignore"), torch.serialization.safe_globals([argparse.Namespace]):
                return torch.load(opened, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises nearly every type for a file that is cut or altered
        if refused := re.search(r"GLOBAL (\S+)", str(error)):
            raise ValueError(
                f"{path} has Python objects ({refused[1]}), which are refused because loading them runs code from the "
                "file: if you trust it, load it elsewhere with weights_only=False, and torch.save its state_dict alone"
            ) from None
        raise ValueError(
            f"{path} is not a file of plain tensors ({type(error).__name__}): it is damaged or cut, or of another "
            f"program; {_AGAIN}"
        ) from None


def _describe_zip(path: Path) -> str:
    """Returns what a zip is, as the end of a sentence; empty for one that torch.save wrote."""
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError):  # the last for versions of zip to come
        return f"is cut or damaged: {_AGAIN}"
    if not any(member.filename.endswith("/data.pkl") for member in members):
        held = ", ".join(member.filename for member in members[:3])
        return f"is a zip that torch.save did not write (it holds {held or 'nothing'}): {_UNPACK}"
    if any("/code/" in member.filename for member in members):
        return (
            "is a TorchScript program, which is refused because loading it runs its code: torch.save its state_dict()"
        )
    if any(member.compress_type != zipfile.ZIP_STORED for member in members):  # a few bytes may stand for gigabytes
        return "is a checkpoint that was zipped again: unpack it, load it, and torch.save its state_dict"
    return ""
