"""From the time that a photograph takes at each level to what bottleneck, and what would help by how much."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from .feed_stages import DECODE, LAB, NETWORK, STORAGE, TRANSFER

_ORDER = (NETWORK, TRANSFER, LAB, DECODE, STORAGE)
_NOTHING = 0.1  # of the time: less of it is noise, and no stall worth a word

_WORDS = {
    NETWORK: "the network's own arithmetic",
    TRANSFER: "the transfer of batches to the device",
    LAB: "cutting, resizing and converting pictures to Lab",
    DECODE: "decoding",
    STORAGE: "reading from storage",
}


@dataclass(frozen=True, kw_only=True)
class SystemInfo:
    """What the remedies depend on: threads that decode and cores there are, and the set's mean pixels of a photograph.

    `needed_pixels` are those of a photograph that was packed for this size of crops. `fits` says whether the set fits
    into the memory that is free as it is stored, `fits_decoded` whether it does decoded.
    """

    threads: int
    cores: int
    pixels: float
    needed_pixels: float
    fits: bool
    fits_decoded: bool
    on_gpu: bool
    decodes_on_gpu: bool


@dataclass(frozen=True, kw_only=True)
class Recommendation:
    """What to do, and the images per second to expect then, None where a measurement of its own must tell."""

    what: str
    expected: float | None


@dataclass(frozen=True, kw_only=True)
class Diagnosis:
    """What bottleneck, the share of the time spent waiting for data, each resource's share, and what helps, best first.

    `rate` are the images per second to which all of it comes.
    """

    bottleneck: str
    rate: float
    stall: float
    shares: dict[str, float]
    sentence: str
    remedies: list[Recommendation]


def diagnose(
    seconds: Mapping[str, float],
    here: SystemInfo,
    *,
    alone: Mapping[str, float] | None = None,
    cold: float | None = None,
) -> Diagnosis:
    """What the seconds per photograph at each level mean; `alone` are those without the network.

    After DS-Analyzer (Mohan et al., VLDB 2021): what a level takes longer than the one before is a stall, by what it
    adds. A set that fits into memory stays there once it is read; of one that does not, `cold` are the seconds that
    reading alone takes, while all else is done.
    """
    steps = dict(seconds)
    if cold is not None and not here.fits:
        steps[STORAGE] = max(cold, steps[STORAGE])
    added, before, last = {}, 0.0, list(steps.values())[-1]
    for name, time in steps.items():
        time = min(time, last)  # the run need not do as the feed_stages before do, such as to cut pictures on the CPU
        added[name] = max(0.0, time - before)
        before = max(before, time)
    shares = {name: time / before for name, time in added.items()}
    stall = 1 - shares[NETWORK]
    # A GPU computes while others decode, so that it waits for whoever is slower; on a CPU, their times add up.
    data_binds = stall >= (_NOTHING if here.on_gpu else 0.5)
    waits_for = max((name for name in shares if name != NETWORK), key=lambda name: shares[name])
    bottleneck = waits_for if data_binds else NETWORK
    gains = _Gains(added=added, alone=alone or {}, total=before, on_gpu=here.on_gpu)
    return Diagnosis(
        bottleneck=bottleneck,
        rate=1 / before,
        stall=stall,
        shares=shares,
        sentence=_sentence(bottleneck, stall, shares, here),
        remedies=sorted(_remedies(bottleneck, gains, here), key=lambda remedy: -(remedy.expected or 0)),
    )


def _sentence(bottleneck: str, stall: float, shares: Mapping[str, float], here: SystemInfo) -> str:
    if bottleneck == NETWORK:
        return f"{_WORDS[NETWORK]} bottleneck: waiting for data takes {100 * stall:.0f} % of the time"
    where = {DECODE: " on the GPU" if here.decodes_on_gpu else " on the CPU"}.get(bottleneck, "")
    return (
        f"{_WORDS[bottleneck]}{where} bottleneck: waiting for data takes {100 * stall:.0f} % of the time, "
        f"{100 * shares[bottleneck]:.0f} % for this alone"
    )


@dataclass(frozen=True, kw_only=True)
class _Gains:
    """Images per second to expect where resources take less: `added` seconds of each, `alone` without the network."""

    added: Mapping[str, float]
    alone: Mapping[str, float]
    total: float
    on_gpu: bool

    def without(self, *names: str, left: float = 0.0) -> float:
        """When these take `left` of what they took."""
        stall = sum(self.added.get(name, 0.0) for name in names)
        spared = (1 - left) * stall
        if self.on_gpu and left:  # it computes meanwhile, and waits only for what takes longer than computing
            nearer = sum(time for name, time in self.added.items() if _ORDER.index(name) < _ORDER.index(names[0]))
            spared = min(stall, max(0.0, nearer + stall - left * self.alone.get(names[-1], nearer + stall)))
        return 1 / (self.total - spared)


def _remedies(bottleneck: str, gains: _Gains, here: SystemInfo) -> Iterator[Recommendation]:
    if bottleneck in (STORAGE, DECODE) and here.fits_decoded:
        what = "loader.backend cached: pictures stay in memory once decoded"
        yield Recommendation(what=what, expected=gains.without(STORAGE, DECODE))
    yield from _OF[bottleneck](gains, here)


def _of_storage(gains: _Gains, here: SystemInfo) -> Iterator[Recommendation]:
    what = "a faster disk for the set, or a copy of it on a local one"
    yield Recommendation(what=what, expected=gains.without(STORAGE))
    yield Recommendation(what="loader.prefetch_batches 8: more batches are on their way at a time", expected=None)
    if not here.fits:
        yield Recommendation(what="loader.shuffle_block_size 64: longer reads", expected=None)


def _of_decoding(gains: _Gains, here: SystemInfo) -> Iterator[Recommendation]:
    if here.on_gpu and not here.decodes_on_gpu:
        yield Recommendation(what="loader.backend dali: the GPU decodes", expected=None)
    if not here.decodes_on_gpu:
        yield from _more_threads(DECODE, gains, here)
    if here.needed_pixels < 0.8 * here.pixels:
        what = "photochrom pack --short-side of 9/8 of data.size: photographs are larger than needed"
        yield Recommendation(what=what, expected=gains.without(DECODE, left=here.needed_pixels / here.pixels))
    yield Recommendation(what="photochrom pack --store lab: nothing is left to decode", expected=gains.without(DECODE))


def _of_lab(gains: _Gains, here: SystemInfo) -> Iterator[Recommendation]:
    yield Recommendation(what="data.crop random, of a set packed at 9/8 of data.size: nothing to resize", expected=None)
    yield from _more_threads(LAB, gains, here)


def _more_threads(name: str, gains: _Gains, here: SystemInfo) -> Iterator[Recommendation]:
    if here.threads < here.cores:
        what = f"loader.threads {here.cores}: as many as there are cores, in place of {here.threads}"
        yield Recommendation(what=what, expected=gains.without(name, left=here.threads / here.cores))


def _of_transfer(gains: _Gains, here: SystemInfo) -> Iterator[Recommendation]:
    yield Recommendation(what="loader.backend dali on the GPU: JPEGs travel, a tenth of the bytes", expected=None)
    yield Recommendation(
        what="loader.cache_location device: pictures stay on the GPU", expected=gains.without(TRANSFER)
    )


def _of_network(gains: _Gains, here: SystemInfo) -> Iterator[Recommendation]:
    yield Recommendation(what="photochrom bench step: precision, layout, compilation and larger batches", expected=None)


_OF: dict[str, Callable[[_Gains, SystemInfo], Iterator[Recommendation]]] = {
    NETWORK: _of_network,
    TRANSFER: _of_transfer,
    LAB: _of_lab,
    DECODE: _of_decoding,
    STORAGE: _of_storage,
}
