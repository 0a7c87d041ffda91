"""What the verb is told."""

from dataclasses import dataclass, field
from pathlib import Path

from ...engine.configuration.config import Device, check_image_size
from ...engine.configuration.parser import nearest
from .entries import CONTESTANTS, Entry

_STEP = "step"  # what --only calls the training step


@dataclass(frozen=True, kw_only=True)
class RivalsConfig:
    """Measures the loaders that people use today beside ours, from the same photographs to the same L and ab, each in a
    process of its own, round after round on the same cores; and the original's training step beside the engine's.

    Args:
        data: Folder or archive of photographs, as pack takes it.
        samples: How many of them to take, at most.
        size: Side of what is made of them in pixels.
        batch_size: Photographs in a batch.
        step_batch_size: Photographs in a training step; by default batch_size on a GPU, 2 on a CPU.
        step_width: Of the network that takes it.
        threads: Cores for each, and the threads or workers that it is told to use; by default all of this process.
        seconds: How long to measure in all, divided over entries and rounds. What they read is made before, and
            each turn begins with a start and a pass over the photographs, which come on top.
        rounds: How often all take their turn.
        only: Contestants, separated by commas; each can be narrowed, as in DaliLoader:originals:squash; 'step' is the
            training step. By default all.
        device: Where batches are to be, auto, cuda or cpu; those of others are copied there.
        python: Interpreters of other environments, for rivals that cannot be installed beside us.
        work: Folder for what they read, which stays there and serves again; by default a temporary one.
        out: File for the figures as JSON; a picture of them goes beside it.
    """

    data: Path
    samples: int = 512
    size: int = 256
    batch_size: int = 32
    step_batch_size: int | None = None
    step_width: float = 1.0
    threads: int | None = None
    seconds: float = 180.0
    rounds: int = 3
    only: str = ""
    device: Device = "cpu"
    python: list[Path] = field(default_factory=list)
    work: Path | None = None
    out: Path | None = None

    def __post_init__(self) -> None:
        for name in ("samples", "batch_size", "step_batch_size", "threads", "rounds"):
            if (value := getattr(self, name)) is not None and value < 1:
                raise ValueError(f"--{name.replace('_', '-')} {value} is not a positive number")
        if not self.seconds > 0:
            raise ValueError(f"--seconds {self.seconds} is not positive")
        if self.samples < self.batch_size:
            raise ValueError(f"--samples {self.samples} is fewer than a batch of {self.batch_size}: change one of them")
        check_image_size(self.size, "--size ")
        known = {_STEP, *(name for each in CONTESTANTS for name in each.names)}
        if unknown := sorted(self._only - known):
            names = dict.fromkeys(each.loader for each in CONTESTANTS)
            raise ValueError(
                f"no entry is called {unknown[0]}{nearest(unknown[0], known)}; known are {', '.join(names)} and {_STEP}"
            )

    @property
    def entries(self) -> list[Entry]:
        """Those of the loaders that are to run."""
        return [each for each in CONTESTANTS if not self.only or not self._only.isdisjoint(each.names)]

    @property
    def steps(self) -> bool:
        """Whether the training step is to be measured."""
        return not self.only or _STEP in self._only

    @property
    def _only(self) -> set[str]:
        return set(filter(None, self.only.split(",")))
