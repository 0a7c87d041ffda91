"""Plans which files are colorized and where the results go: files, folders, patterns and lists."""

import io
import os
import sys
from collections import Counter, deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from glob import escape, glob, has_magic
from pathlib import Path

from PIL import Image

from ...pipelines.imaging.decode import FORMATS
from ...pipelines.text_file import decode_text
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
_WITH_MAGIC = sorted({*FORMATS} - {"TGA", "DIB"})  # files that begin as no others do


@dataclass(frozen=True, kw_only=True)
class ColorizeTask:
    """An input file and its output file."""

    source: Path
    target: Path
    is_video: bool


@dataclass(frozen=True, kw_only=True)
class ColorizePlan:
    """The files of a run, each in one of four lists.

    `tasks` are to be done, and `kept` have a target already. `unreadable` cannot be read. `not_taken` have names of
    other files, are hidden, or are folders that were reached before. The last two lists hold the reasons.
    """

    tasks: list[ColorizeTask]
    kept: list[ColorizeTask]
    unreadable: list[tuple[Path, str]]
    not_taken: list[tuple[Path, str]]


def make_plan(inputs: list[str], out: Path, *, overwrite: bool = False) -> ColorizePlan:
    """Plans the inputs' files into `out`; the images and videos of folders and patterns keep their folders there.

    JPEG, PNG, WebP and TIFF keep their names, other images become PNG. Targets that exist are kept unless `overwrite`.
    Raises ValueError for an input that does not exist or is a model, two inputs for one target, and a target that is an
    input.
    """
    lister = _Lister(out)
    tasks: dict[Path, ColorizeTask] = {}
    for source, relative in (file for name in inputs for file in lister.files(name)):
        is_video = relative.suffix.lower() in _VIDEOS
        target = out / _target_name(relative, is_video)
        if target in tasks and os.path.realpath(source) == os.path.realpath(tasks[target].source):
            continue  # named twice
        if target in tasks:
            raise ValueError(
                f"{tasks[target].source} and {source} would both become {target}: colorize them into two folders"
            )
        tasks[target] = ColorizeTask(source=source, target=target, is_video=is_video)
    if not tasks and not lister.unreadable:
        reasons = describe_reasons(reason for _, reason in lister.not_taken)
        others = f" (not taken: {reasons})" if reasons else ""
        raise ValueError(f"there are no images or videos in {', '.join(inputs)}{others}")
    _check_originals(list(tasks.values()))
    kept = [task for task in tasks.values() if os.path.exists(task.target) and not overwrite]
    new = [task for task in tasks.values() if overwrite or not os.path.exists(task.target)]
    return ColorizePlan(
        tasks=new,
        kept=kept,
        unreadable=list(dict.fromkeys(lister.unreadable)),
        not_taken=list(dict.fromkeys(lister.not_taken)),
    )


def describe_reasons(reasons: Iterable[str]) -> str:
    """Returns the count of each reason: '3 hidden, 1 unknown ending .txt'."""
    counts = Counter(reason.partition(":")[0] for reason in reasons)
    return ", ".join(f"{number:,} {reason}" for reason, number in counts.most_common())


def may_be_result(path: Path) -> bool:
    """Returns whether a file has the name of a colorized image or video."""
    return path.is_file() and (format_of(path) is not None or path.suffix.lower() in _KEPT_CONTAINERS)


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


class _Lister:
    """Lists the files of inputs for the output folder `out`, and remembers those that are left out, with the reason."""

    def __init__(self, out: Path) -> None:
        self._out = os.path.realpath(out)
        self.unreadable: list[tuple[Path, str]] = []
        self.not_taken: list[tuple[Path, str]] = []

    def files(self, name: str) -> Iterator[tuple[Path, Path]]:
        """Yields every file of an input, and its path in the output folder."""
        path = _to_path(name)
        if not name:
            raise ValueError("one of the inputs is empty: name a file, a folder or a pattern")
        if name == STDIN:
            yield from self._stdin()
        elif os.path.exists(path):
            yield from self._existing(path, path if path.is_dir() else path.parent)
        elif has_magic(name):
            yield from self._glob(path)
        else:
            raise ValueError(f"there is no file or folder {path}")

    def _existing(self, path: Path, root: Path) -> Iterator[tuple[Path, Path]]:
        """Yields a file, or those of a folder, with their paths relative to `root`, a folder above them."""
        _check_not_model(path)
        for file in self._walk(path) if path.is_dir() else [path]:
            yield file, _absolute(file).relative_to(_absolute(root))

    def _stdin(self) -> Iterator[tuple[Path, Path]]:
        """Yields the files listed on stdin, one a line or as `find -print0` lists them, relative to their folder."""
        paths = [_to_path(name) for name in _split_list(sys.stdin.buffer.read())]
        root = Path(os.path.commonpath([_absolute(path).parent for path in paths])) if paths else Path()
        for path in paths:
            if self._is_result(path, root):
                continue
            if os.path.exists(path):
                yield from self._existing(path, root)
            else:
                self.unreadable.append((path, "file not found"))

    def _glob(self, pattern: Path) -> Iterator[tuple[Path, Path]]:
        """Yields the images and videos that match, relative to the last folder before the first wildcard.

        A folder that exists is not a wildcard, even if its name looks like one.
        """
        parts = pattern.parts
        first = next(i for i, part in enumerate(parts) if has_magic(part) and not os.path.exists(Path(*parts[: i + 1])))
        root, wildcards = Path(*parts[:first]), Path(*parts[first:])
        if ".." in wildcards.parts:
            raise ValueError(f"{pattern} has .. after a wildcard: name the folder that it leads to")
        matches = map(Path, glob(str(Path(escape(str(root)), wildcards)), recursive=True))
        paths = [path for path in matches if path.is_file() and not self._is_result(path, root)]
        paths.sort(key=lambda path: (_is_linked(path.parent), len(path.parts), path))
        num_unreadable, reached = len(self.unreadable), dict[str, Path]()
        files = [path for path in paths if self._is_new(path.parent, reached) and self._takes(path)]
        if not files and len(self.unreadable) == num_unreadable:
            raise ValueError(f"no image or video matches {pattern}")
        yield from ((path, _absolute(path).relative_to(_absolute(root))) for path in files)

    def _walk(self, top: Path) -> Iterator[Path]:
        """Yields the images and videos below a folder, without hidden ones and without the output folder.

        Links to folders are followed at the end, so that a folder that is reached twice has its own name.
        """

        def on_error(error: OSError) -> None:
            self.unreadable.append((Path(error.filename), f"unreadable: {error.strerror}"))

        reached, tops = dict[str, Path](), deque([top])
        while tops:
            for name, subfolders, files in os.walk(tops.popleft(), onerror=on_error):
                folder = Path(name)
                if self._is_result(folder, top) or not self._is_new(folder, reached):
                    subfolders.clear()
                    continue
                self.not_taken.extend((folder / sub, "hidden") for sub in subfolders if sub.startswith("."))
                visible = sorted(sub for sub in subfolders if not sub.startswith("."))
                tops.extend(folder / sub for sub in visible if (folder / sub).is_symlink())
                subfolders[:] = [sub for sub in visible if not (folder / sub).is_symlink()]
                yield from (path for path in map(folder.joinpath, sorted(files)) if self._takes(path))

    def _is_new(self, folder: Path, reached: dict[str, Path]) -> bool:
        """Returns whether a folder is reached for the first time, or by the same name; if not, notes why."""
        first = reached.setdefault(os.path.realpath(folder), folder)
        if first != folder:
            self.not_taken.append((folder, f"folder reached before: as {first}"))
        return first == folder

    def _is_result(self, path: Path, root: Path) -> bool:
        """Returns whether a path is in the output folder, which is below `root`."""
        real, real_root = Path(os.path.realpath(path)), Path(os.path.realpath(root))
        return real.is_relative_to(self._out) and not real_root.is_relative_to(self._out)

    def _takes(self, path: Path) -> bool:
        """Returns whether a file of a folder or pattern is colorized; if not, notes why."""
        suffix = path.suffix.lower()
        if path.name.startswith("."):
            self.not_taken.append((path, "hidden"))
        elif suffix in _UNSUPPORTED:
            self.unreadable.append((path, f"{path.suffix} files cannot be read: save it as TIFF or PNG"))
        elif suffix in _VIDEOS or Image.registered_extensions().get(suffix) in (*FORMATS, "MPO"):
            return True
        elif suffix:
            self.not_taken.append((path, f"unknown ending {suffix}"))
        elif path.is_file() and _looks_like_image(path):
            return True
        else:
            self.not_taken.append((path, "no ending, and no image by its content"))
        return False


def _check_not_model(path: Path) -> None:
    """Raises ValueError for a model file, and for the folder of a checkpoint or a run, which also holds pictures."""
    if path.suffix == ".safetensors" or (path / MODEL).exists() or list_checkpoints(path / CHECKPOINTS):
        raise ValueError(f"{path} is a model, not photographs: name it with --model {path}")


def _split_list(data: bytes) -> list[str]:
    """Returns the names in a list, one a line or as `find -print0` lists them.

    Raises ValueError for other text with NULs, whose parts could be taken for folders.
    """
    name = "the list on stdin"
    text = decode_text(data, name, errors="surrogateescape")
    if "\0" not in text:
        return [line for line in io.StringIO(text, newline=None).read().split("\n") if line]
    names = text.removesuffix("\0").split("\0")
    below = {".": "./", "/": "/"}  # how what find lists begins, after the folder itself
    for short in (entry for entry in names if len(entry) < 2):
        if short not in below or not all(other == short or other.startswith(below[short]) for other in names):
            raise ValueError(
                f"{name} holds NUL characters, but is not one of `find -print0`: save it as UTF-8, one name a line, "
                "and name a file of one character as ./x"
            )
    return names


def _looks_like_image(path: Path) -> bool:
    """Returns whether a file is an image by its first bytes."""
    try:
        with Image.open(path, formats=_WITH_MAGIC):
            return True
    except Exception:  # Pillow's plugins raise many
        return False


def _to_path(name: str) -> Path:
    """Returns the path of a name; expands ~, which a shell leaves in a quoted name."""
    return Path(name) if os.path.lexists(name) else Path(os.path.expanduser(name))


def _is_linked(folder: Path) -> bool:
    return os.path.realpath(folder) != os.path.abspath(folder)


def _absolute(path: Path) -> Path:
    """Returns an absolute path without .., which would lead out of the output folder."""
    return Path(os.path.abspath(path))
