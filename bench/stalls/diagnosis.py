"""Finds the bottleneck from the time that a photograph takes at each stage, and what to do about it."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial

from .feed_stages import DECODE, LAB, NETWORK, STORAGE, TRANSFER

_ORDER = (NETWORK, TRANSFER, LAB, DECODE, STORAGE)
_MIN_STALL = 0.1  # share of the time; less is noise

_WORDS = {
    NETWORK: "the network's own arithmetic",
    TRANSFER: "the transfer of batches to the device",
    LAB: "cutting, resizing and converting pictures to Lab",
    DECODE: "decoding",
    STORAGE: "reading from storage",
}


@dataclass(frozen=True, kw_only=True)
class SystemInfo:
    """Facts about the machine and the set that recommendations depend on.

    Args:
        threads: Threads that decode.
        cores: Cores of this process.
        pixels: Mean pixels of a photograph.
        needed_pixels: Mean pixels of a photograph packed for this size of crops.
        fits: The stored set fits into free memory.
        fits_decoded: The decoded set fits into free memory.
        on_gpu: The network runs on a GPU.
        decodes_on_gpu: Photographs are decoded on a GPU.
    """

    threads: int
    cores: int
    pixels: float
    needed_pixels: float
    fits: bool
    fits_decoded: bool
    on_gpu: bool
    decodes_on_gpu: bool


@dataclass(frozen=True)
class Recommendation:
    """A change to make and the images per second to expect from it; None if only a measurement can tell."""

    what: str
    expected: float | None = None


@dataclass(frozen=True, kw_only=True)
class Diagnosis:
    """The bottleneck, and what to do about it.

    Args:
        bottleneck: The resource that training waits for.
        rate: Images per second.
        stall: Share of the time spent waiting for data.
        shares: Share of the time that each resource takes.
        sentence: The diagnosis in words.
        remedies: Recommendations, best first.
    """

    bottleneck: str
    rate: float
    stall: float
    shares: dict[str, float]
    sentence: str
    remedies: list[Recommendation]


def diagnose(
    seconds: Mapping[str, float],
    system: SystemInfo,
    *,
    alone: Mapping[str, float] | None = None,
    cold: float | None = None,
) -> Diagnosis:
    """Returns the diagnosis for the seconds per photograph at each stage; `alone` are those without the network.

    After DS-Analyzer (Mohan et al., VLDB 2021): a stage's extra time over the stage before it is a stall on the
    resource that it adds. A set that fits into memory is read from disk once. For one that does not, `cold` is the
    time to read a photograph from an empty page cache; reading overlaps with everything else.
    """
    times = dict(seconds)
    if cold is not None and not system.fits:
        times[STORAGE] = max(cold, times[STORAGE])
    added, before, last = {}, 0.0, list(times.values())[-1]
    for name, time in times.items():
        time = min(time, last)  # a stage may do work that the run itself does not, such as cutting on the CPU
        added[name] = max(0.0, time - before)
        before = max(before, time)
    shares = {name: time / before for name, time in added.items()}
    stall = 1 - shares[NETWORK]
    # A GPU computes while the CPU decodes, so any stall is idle time. On a CPU the times add up.
    waits_for_data = stall >= (_MIN_STALL if system.on_gpu else 0.5)
    largest = max((name for name in shares if name != NETWORK), key=lambda name: shares[name])
    bottleneck = largest if waits_for_data else NETWORK
    without = partial(_throughput_without, added, alone or {}, system.on_gpu)
    return Diagnosis(
        bottleneck=bottleneck,
        rate=1 / before,
        stall=stall,
        shares=shares,
        sentence=_sentence(bottleneck, stall, shares, system),
        remedies=sorted(
            _recommendations(bottleneck, without, system), key=lambda recommendation: -(recommendation.expected or 0)
        ),
    )


def _sentence(bottleneck: str, stall: float, shares: Mapping[str, float], system: SystemInfo) -> str:
    words = _WORDS[bottleneck]
    if bottleneck == DECODE:
        words += " on the GPU" if system.decodes_on_gpu else " on the CPU"
    alone = "" if bottleneck == NETWORK else f", {100 * shares[bottleneck]:.0f} % for this alone"
    return f"bottleneck: {words} ({100 * stall:.0f} % of the time waiting for data{alone})"


def _throughput_without(
    added: Mapping[str, float], alone: Mapping[str, float], on_gpu: bool, *names: str, left: float = 0.0
) -> float:
    """Returns images per second if the resources `names` took the share `left` of their time.

    Seconds per photograph are `added` by each resource, and `alone` those of each stage without the network.
    """
    stall = sum(added.get(name, 0.0) for name in names)
    saved = (1 - left) * stall
    if on_gpu and left:  # it computes meanwhile, and waits only for what takes longer than computing
        nearer = sum(time for name, time in added.items() if _ORDER.index(name) < _ORDER.index(names[0]))
        saved = min(stall, max(0.0, nearer + stall - left * alone.get(names[-1], nearer + stall)))
    return 1 / (sum(added.values()) - saved)


def _recommendations(bottleneck: str, without: Callable[..., float], system: SystemInfo) -> Iterator[Recommendation]:
    if bottleneck in (STORAGE, DECODE) and system.fits_decoded:
        throughput = without(STORAGE, DECODE)
        yield Recommendation("loader.backend cached: decoded pictures stay in memory", throughput)
    if bottleneck == STORAGE:
        yield Recommendation("a faster disk for the set, or a copy of it on a local one", without(STORAGE))
        yield Recommendation("loader.prefetch_batches 8: more batches are read at a time")
        if not system.fits:
            yield Recommendation("loader.shuffle_block_size 64: longer reads")
    if bottleneck == DECODE:
        if system.on_gpu and not system.decodes_on_gpu:
            yield Recommendation("loader.backend dali: the GPU decodes")
        if system.needed_pixels < 0.8 * system.pixels:
            throughput = without(DECODE, left=system.needed_pixels / system.pixels)
            yield Recommendation(
                "photochrom pack --short-side of 9/8 of data.size: photographs are too large", throughput
            )
        yield Recommendation("photochrom pack --store lab: nothing to decode", without(DECODE))
    if bottleneck == LAB:
        yield Recommendation("data.crop random, of a set packed at 9/8 of data.size: nothing to resize")
    decodes_on_cpu = bottleneck == DECODE and not system.decodes_on_gpu
    if system.threads < system.cores and (decodes_on_cpu or bottleneck == LAB):
        throughput = without(bottleneck, left=system.threads / system.cores)
        yield Recommendation(
            f"loader.threads {system.cores}: one for each core, in place of {system.threads}", throughput
        )
    if bottleneck == TRANSFER:
        yield Recommendation("loader.backend dali on the GPU: JPEGs are copied, a tenth of the bytes")
        yield Recommendation("loader.cache_location device: pictures stay on the GPU", without(TRANSFER))
    if bottleneck == NETWORK:
        yield Recommendation("photochrom bench step: precision, memory format, compilation and larger batches")
