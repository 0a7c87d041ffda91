"""A folder of results that an interrupted command can go on with."""

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

from ...pipelines.files import exclusive_lock
from ..configuration.config import differences
from ..output_dir import new_folder, write_json

_STATE = ".unfinished"
_BEGUN = "begun.json"


@contextmanager
def resumable_folder(out: Path, settings: dict[str, Any], *, resume: bool) -> Iterator[Path]:
    """A new folder, or one that such a command was interrupted in; yields a place in it for what is half done.

    That place goes when all is done, or when a failure leaves nothing in it; a failure before any result takes the
    whole folder with it. `settings` are plain JSON, and must be those of the beginning. Raises ValueError when the
    folder is no such one.
    """
    state = out / _STATE
    going_on = (state / _BEGUN).exists()
    if going_on and not resume:
        raise ValueError(f"{out} holds an unfinished run of this command: --resume goes on with it")
    if resume and not going_on and out.is_dir() and any(out.iterdir()):
        raise ValueError(f"{out} holds nothing unfinished to resume: name a new folder")
    if going_on and (changes := differences(json.loads((state / _BEGUN).read_text()), settings)):
        raise ValueError(
            f"{out} was begun with other settings or files ({'; '.join(changes)}): set them as they were, or name a "
            "new folder"
        )
    with nullcontext() if going_on else new_folder(out), exclusive_lock(out):
        state.mkdir(exist_ok=True)
        write_json(state / _BEGUN, settings)
        try:
            yield state
        except BaseException as error:
            if not any(file.stat().st_size for file in state.iterdir() if file.name != _BEGUN):
                shutil.rmtree(state)
            elif isinstance(error, KeyboardInterrupt):
                raise KeyboardInterrupt("--resume goes on from here") from None
            raise
        shutil.rmtree(state)
