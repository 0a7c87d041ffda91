"""What is colorized and where it goes: files, folders, patterns and lists; trees are mirrored, nothing is lost."""

import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from glob import glob, has_magic
from pathlib import Path

from PIL import Image

from ...pipelines.imaging.decode import FORMATS
from .write_image import kind_of

LIST = "-"  # the input that is a list of files on stdin

# Videos keep these containers; those of the others hold too little, and become Matroska.
_CONTAINERS = {".mp4", ".m4v", ".mov", ".mkv", ".webm"}
_VIDEOS = _CONTAINERS | {
    *(".avi", ".wmv", ".asf", ".flv", ".mpg", ".mpeg", ".m2v", ".vob", ".ts", ".mts", ".m2ts", ".3gp", ".ogv", ".dv"),
    ".mxf",
}
# Pictures all the same, which Pillow cannot read.
_UNREADABLE = {
    *(".heic", ".heif", ".jxl", ".psd", ".dng", ".cr2", ".cr3", ".nef", ".arw", ".raf", ".orf", ".rw2", ".pef", ".srw"),
}


@dataclass(frozen=True, kw_only=True)
class ColorizeTask:
    """One file, and the one that is made of it."""

    source: Path
    target: Path
    is_video: bool


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What there is to do: `jobs`, without the `kept`, whose targets exist; `unread` are paths that are not there."""

    jobs: list[ColorizeTask]
    kept: list[ColorizeTask]
    unread: list[tuple[Path, str]]


def plan(inputs: list[str], out: Path, *, overwrite: bool = False) -> Plan:
    """What is read and written. Files go to `out`; of folders and patterns, pictures and videos, in a mirrored tree.

    JPEG, PNG, WebP and TIFF keep their names, all other pictures become PNG; targets that exist are kept, unless
    `overwrite`. Raises ValueError for an input that does not exist, two for one output, or an output that is an input.
    """
    unread: list[tuple[Path, str]] = []
    jobs: dict[Path, ColorizeTask] = {}
    for source, relative in _files(inputs, out, unread):
        is_video = relative.suffix.lower() in _VIDEOS
        target = out / _renamed(relative, is_video)
        if target in jobs and os.path.realpath(source) == os.path.realpath(jobs[target].source):
            continue  # named twice
        if target in jobs:
            raise ValueError(
                f"{jobs[target].source} and {source} would both become {target}: colorize them into two folders"
            )
        jobs[target] = ColorizeTask(source=source, target=target, is_video=is_video)
    if not jobs and not unread:
        raise ValueError(f"{', '.join(inputs)} holds no photographs")
    _check_originals(list(jobs.values()))
    kept = [] if overwrite else [job for job in jobs.values() if job.target.exists()]
    there = {job.target for job in kept}
    return Plan(jobs=[job for job in jobs.values() if job.target not in there], kept=kept, unread=unread)


def _renamed(relative: Path, is_video: bool) -> Path:
    if is_video:
        keeps = relative.suffix.lower() in _CONTAINERS
        return relative if keeps else relative.with_name(f"{relative.name}.mkv")
    return relative if kind_of(relative) else relative.with_name(f"{relative.name}.png")


def _check_originals(jobs: list[ColorizeTask]) -> None:
    sources = {os.path.realpath(job.source) for job in jobs}
    for job in jobs:
        if os.path.realpath(job.target) in sources:
            raise ValueError(f"{job.target} is an original, and would be written over: name another folder")


def _files(inputs: list[str], out: Path, unread: list[tuple[Path, str]]) -> Iterator[tuple[Path, Path]]:
    """Every file that is meant, and its place in the output."""
    for text in inputs:
        path = Path(text)
        if text == LIST:
            yield from _listed(out, unread)
        elif path.is_dir():
            yield from ((file, file.relative_to(path)) for file in _within(path, out, unread))
        elif path.exists():
            yield path, Path(path.name)
        elif has_magic(text):
            yield from _matching(text)
        else:
            raise ValueError(f"there is no photograph or folder {path}")


def _listed(out: Path, unread: list[tuple[Path, str]]) -> Iterator[tuple[Path, Path]]:
    """The files in a list on stdin, one a line, or as `find -print0` lists them; mirrored from their common folder."""
    data = sys.stdin.buffer.read()
    names = data.split(b"\0") if b"\0" in data else data.splitlines()
    paths = [Path(os.fsdecode(name)) for name in names if name]
    if not paths:
        return
    root = os.path.commonpath([_absolute(path).parent for path in paths])
    for path in paths:
        if path.is_dir():
            yield from ((file, _absolute(file).relative_to(root)) for file in _within(path, out, unread))
        elif path.exists():
            yield path, _absolute(path).relative_to(root)
        else:
            unread.append((path, "there is no such file"))


def _absolute(path: Path) -> Path:
    """The path from the root on, without .., which would lead out of the output's folder."""
    return Path(os.path.abspath(path))


def _matching(pattern: str) -> Iterator[tuple[Path, Path]]:
    """The pictures and videos that match, mirrored from the last folder whose name is no pattern."""
    parts = Path(pattern).parts
    fixed = next(place for place, part in enumerate(parts) if has_magic(part))
    root = Path(*parts[:fixed])
    if ".." in parts[fixed:]:
        raise ValueError(f"{pattern} goes up again behind its first *: name the folder from there")
    found = [path for path in map(Path, sorted(glob(pattern, recursive=True))) if _is_known(path) and path.is_file()]
    if not found:
        raise ValueError(f"no photograph matches {pattern}")
    yield from ((path, _absolute(path).relative_to(_absolute(root))) for path in found)


def _within(folder: Path, out: Path, unread: list[tuple[Path, str]]) -> Iterator[Path]:
    """The pictures and videos in a folder and those in it, but not in `out`; what is hidden is not meant."""
    made = os.path.realpath(out)

    def fail(error: OSError) -> None:
        unread.append((Path(error.filename), f"unreadable: {error.strerror}"))

    for root, folders, files in os.walk(folder, onerror=fail):
        shown = sorted(name for name in folders if not name.startswith("."))
        folders[:] = [name for name in shown if os.path.realpath(os.path.join(root, name)) != made]
        for path in (Path(root, name) for name in sorted(files) if not name.startswith(".")):
            if path.suffix.lower() in _UNREADABLE:
                unread.append((path, f"{path.suffix} files cannot be read: save it as TIFF or PNG"))
            elif _is_known(path):
                yield path


def _is_known(path: Path) -> bool:
    """Whether the name is that of a picture or a video."""
    suffix = path.suffix.lower()
    return suffix in _VIDEOS or Image.registered_extensions().get(suffix) in (*FORMATS, "MPO")
