"""Plans which files are colorized and where the results go: files, folders, patterns and lists."""

import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from glob import glob, has_magic
from pathlib import Path

from PIL import Image

from ...pipelines.imaging.decode import FORMATS
from ..checkpoints.checkpoint import CHECKPOINTS, MODEL, list_checkpoints
from .write_image import format_of

STDIN = "-"  # the input that is a list of files on stdin

# Videos in these containers keep them; others become Matroska.
_KEPT_CONTAINERS = {".mp4", ".m4v", ".mov", ".mkv", ".webm"}
_VIDEOS = _KEPT_CONTAINERS | {
    *(".avi", ".wmv", ".asf", ".flv", ".mpg", ".mpeg", ".m2v", ".vob", ".ts", ".mts", ".m2ts", ".3gp", ".ogv", ".dv"),
    ".mxf",
}
# Images that Pillow cannot read.
_UNSUPPORTED = {
    *(".heic", ".heif", ".jxl", ".psd", ".dng", ".cr2", ".cr3", ".nef", ".arw", ".raf", ".orf", ".rw2", ".pef", ".srw"),
}


@dataclass(frozen=True, kw_only=True)
class ColorizeTask:
    """An input file and its output file."""

    source: Path
    target: Path
    is_video: bool


@dataclass(frozen=True, kw_only=True)
class ColorizePlan:
    """The tasks of a run; those `kept` because their targets exist; and paths that cannot be read, with the reason."""

    tasks: list[ColorizeTask]
    kept: list[ColorizeTask]
    unreadable: list[tuple[Path, str]]


def make_plan(inputs: list[str], out: Path, *, overwrite: bool = False) -> ColorizePlan:
    """Plans the inputs' files into `out`; the images and videos of folders and patterns keep their folders there.

    JPEG, PNG, WebP and TIFF keep their names, other images become PNG. Targets that exist are kept unless `overwrite`.
    Raises ValueError for an input that does not exist or is a model, two inputs for one target, and a target that is an
    input.
    """
    unreadable: list[tuple[Path, str]] = []
    tasks: dict[Path, ColorizeTask] = {}
    for source, relative in _list_files(inputs, out, unreadable):
        is_video = relative.suffix.lower() in _VIDEOS
        target = out / _target_name(relative, is_video)
        if target in tasks and os.path.realpath(source) == os.path.realpath(tasks[target].source):
            continue  # named twice
        if target in tasks:
            raise ValueError(
                f"{tasks[target].source} and {source} would both become {target}: colorize them into two folders"
            )
        tasks[target] = ColorizeTask(source=source, target=target, is_video=is_video)
    if not tasks and not unreadable:
        raise ValueError(f"there are no images or videos in {', '.join(inputs)}")
    _check_originals(list(tasks.values()))
    kept = [task for task in tasks.values() if task.target.exists() and not overwrite]
    new = [task for task in tasks.values() if overwrite or not task.target.exists()]
    return ColorizePlan(tasks=new, kept=kept, unreadable=unreadable)


def _target_name(relative: Path, is_video: bool) -> Path:
    if is_video:
        keeps_name = relative.suffix.lower() in _KEPT_CONTAINERS
        return relative if keeps_name else relative.with_name(f"{relative.name}.mkv")
    return relative if format_of(relative) else relative.with_name(f"{relative.name}.png")


def _check_originals(tasks: list[ColorizeTask]) -> None:
    """Raises ValueError when a target would overwrite a source."""
    sources = {os.path.realpath(task.source) for task in tasks}
    for task in tasks:
        if os.path.realpath(task.target) in sources:
            raise ValueError(f"{task.target} is an original and would be overwritten: name another folder")


def _list_files(inputs: list[str], out: Path, unreadable: list[tuple[Path, str]]) -> Iterator[tuple[Path, Path]]:
    """Yields every file of the inputs, and its path in the output folder."""
    for name in inputs:
        path = Path(name)
        _check_not_model(path)
        if name == STDIN:
            yield from _list_stdin(out, unreadable)
        elif path.is_dir():
            yield from ((file, file.relative_to(path)) for file in _walk(path, out, unreadable))
        elif path.exists():
            yield path, Path(path.name)
        elif has_magic(name):
            yield from _glob(name)
        else:
            raise ValueError(f"there is no file or folder {path}")


def _check_not_model(path: Path) -> None:
    """Raises ValueError for a model file, and for the folder of a checkpoint or a run, which also holds pictures."""
    if path.suffix == ".safetensors" or (path / MODEL).exists() or list_checkpoints(path / CHECKPOINTS):
        raise ValueError(f"{path} is a model, not photographs: name it with --model {path}")


def _list_stdin(out: Path, unreadable: list[tuple[Path, str]]) -> Iterator[tuple[Path, Path]]:
    """Yields the files listed on stdin, one a line or as `find -print0` lists them, relative to their common folder."""
    data = sys.stdin.buffer.read()
    names = data.split(b"\0") if b"\0" in data else data.splitlines()
    paths = [Path(os.fsdecode(name)) for name in names if name]
    if not paths:
        return
    root = os.path.commonpath([_absolute(path).parent for path in paths])
    for path in paths:
        if path.is_dir():
            yield from ((file, _absolute(file).relative_to(root)) for file in _walk(path, out, unreadable))
        elif path.exists():
            yield path, _absolute(path).relative_to(root)
        else:
            unreadable.append((path, "file not found"))


def _absolute(path: Path) -> Path:
    """Returns an absolute path without .., which would lead out of the output folder."""
    return Path(os.path.abspath(path))


def _glob(pattern: str) -> Iterator[tuple[Path, Path]]:
    """Yields the images and videos that match, relative to the last folder before the first wildcard."""
    parts = Path(pattern).parts
    first = next(index for index, part in enumerate(parts) if has_magic(part))
    root = Path(*parts[:first])
    if ".." in parts[first:]:
        raise ValueError(f"{pattern} has .. after a wildcard: name the folder that it leads to")
    paths = [path for path in map(Path, sorted(glob(pattern, recursive=True))) if _is_known(path) and path.is_file()]
    if not paths:
        raise ValueError(f"no image or video matches {pattern}")
    yield from ((path, _absolute(path).relative_to(_absolute(root))) for path in paths)


def _walk(folder: Path, out: Path, unreadable: list[tuple[Path, str]]) -> Iterator[Path]:
    """Yields the images and videos in a folder and its subfolders, without hidden ones and without `out`."""
    excluded = os.path.realpath(out)

    def on_error(error: OSError) -> None:
        unreadable.append((Path(error.filename), f"unreadable: {error.strerror}"))

    for root, folders, files in os.walk(folder, onerror=on_error):
        visible = sorted(name for name in folders if not name.startswith("."))
        folders[:] = [name for name in visible if os.path.realpath(os.path.join(root, name)) != excluded]
        for path in (Path(root, name) for name in sorted(files) if not name.startswith(".")):
            if path.suffix.lower() in _UNSUPPORTED:
                unreadable.append((path, f"{path.suffix} files cannot be read: save it as TIFF or PNG"))
            elif _is_known(path):
                yield path


def _is_known(path: Path) -> bool:
    """Returns whether the name is that of an image or a video."""
    suffix = path.suffix.lower()
    return suffix in _VIDEOS or Image.registered_extensions().get(suffix) in (*FORMATS, "MPO")
