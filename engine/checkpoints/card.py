"""Model cards: what to know before using a model, from its file's header and from whoever trained it."""

from collections.abc import Callable, Iterator, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import jinja2
import yaml

from ...pipelines.files import atomic_write, sha256_of
from ...pipelines.structured import read_json
from ..configuration.registry import spec_name
from ..console import plural
from ..evaluation.summary import METRICS
from .half_precision import PHOTOGRAPHS, HalfPrecisionResult
from .model_file import ModelMetadata, model_file, model_name
from .pretrained import is_shipped

FILL_IN = "FILL IN:"  # marks what only a person knows, and has not said

_DATA_NOTE = f"{FILL_IN} where the photographs come from, and under which licences."
_LIMITS = f"{FILL_IN} which photographs it colorizes badly or wrongly, and what it must not be used for."
_MALFORMED = (ValueError, KeyError, IndexError, TypeError, AttributeError, ArithmeticError)
_METRICS = ("rmse_ab", "psnr", "ssim", "auc", "auc_rebalanced", "colorfulness")


def read_scores(reports: Sequence[Path], checkpoint: Path) -> list[dict[str, Any]]:
    """Returns the entries on a model in the summary.json of evaluate's reports.

    Raises ValueError when a report has none, or only of another file of that name, such as one trained further.
    """
    name, digest, scores = model_name(checkpoint), sha256_of(model_file(checkpoint)), list[dict[str, Any]]()
    for report in reports:
        file = report / "summary.json" if report.is_dir() else report
        try:
            results = read_json(file)["results"]
            own = [result for result in results if model_name(Path(result["checkpoint"])) == name]
            if own and own[0].get("sha256") == digest:
                list(_score_rows(own))  # so that a card can show them
        except (OSError, *_MALFORMED) as error:
            raise ValueError(f"--scores {report} is not a report of photochrom evaluate ({error!r})") from None
        if not own:
            others = ", ".join(dict.fromkeys(result["checkpoint"] for result in results))
            raise ValueError(f"--scores {report} does not score {name}; it scores {others}: evaluate {name} first")
        if own[0].get("sha256") != digest:
            raise ValueError(
                f"--scores {report} is of another model than {checkpoint}, with the same name but not the same sha256: "
                "evaluate it again"
            )
        scores += own
    return scores


def write_card(
    out: Path,
    metadata: ModelMetadata,
    half: HalfPrecisionResult,
    *,
    data_note: str | None = None,
    limits: str | None = None,
) -> Path:
    """Writes the card of the model file `out` beside it, in Markdown; returns its path.

    `data_note` is on the origin and licences of the photographs. Without it, or without `limits`, the card says what to
    fill in. Raises ValueError when the header lacks what a card shows.
    """
    try:
        text = _render(out, metadata, half, data_note, limits)
    except _MALFORMED as error:
        raise ValueError(f"the header of {out} lacks what a card shows, or has it as another type: {error!r}") from None
    card = out.with_suffix(".md")
    with atomic_write(card) as file:
        file.write_text(text, errors="backslashreplace")
    return card


def _render(
    out: Path, metadata: ModelMetadata, half: HalfPrecisionResult, data_note: str | None, limits: str | None
) -> str:
    template = files(__package__).joinpath("templates/card.md").read_text()
    return jinja2.Template(template, undefined=jinja2.StrictUndefined, keep_trailing_newline=True).render(
        out=out,
        name=out.stem if is_shipped(out) else out.name,
        metadata=metadata,
        model=metadata.model,
        arguments=", ".join(f"{name} {value}" for name, value in metadata.model.init_args.items()),
        loss=spec_name(metadata.loss),
        half=half,
        limits=limits or _LIMITS,
        data_note=data_note or _DATA_NOTE,
        data=dict(_data(metadata)),
        training=dict(_training(metadata)),
        recipe=yaml.safe_dump(
            {name: value for name, value in metadata.config.items() if name not in ("out", "resume")}, sort_keys=False
        ),
        headings=[METRICS[name].heading for name in _METRICS],
        scores=list(_score_rows(metadata.scores)),
        sha256=sha256_of(out),
        photographs=PHOTOGRAPHS,
    )


def _data(metadata: ModelMetadata) -> Iterator[tuple[str, str]]:
    """Yields the rows on the photographs."""
    sets = metadata.config.get("data", {})
    for title, key in (("training set", "train"), ("validation set", "val")):
        if names := sets.get(key):
            yield title, ", ".join(f"`{name}`" for name in ([names] if isinstance(names, str) else names))
    if "photographs" in metadata.training:
        yield "photographs to train on", f"{metadata.training['photographs']:,}"
    if metadata.data:
        yield "digest of the training set", f"`{metadata.data}`"


def _training(metadata: ModelMetadata) -> Iterator[tuple[str, str]]:
    """Yields the rows on the run."""
    training, provenance = metadata.training, metadata.provenance
    yield "steps", f"{metadata.step:,}"
    ancestors = list(_ancestors(provenance))
    runs = [training, *(ancestor["training"] for ancestor in ancestors)]
    if training:
        yield "images drawn", _with_ancestors(runs, "images", "{:,}".format)
        yield "training time", _with_ancestors(runs, "seconds", _duration)
        yield "machine", training["machine"]
    if ancestors:
        shown = (f"`{init['name']}` (step {init['step']:,}, sha256 `{init['sha256']}`)" for init in ancestors)
        yield "began from", "; that from ".join(shown)
    if provenance.get("commit"):
        changes = ", with uncommitted changes" if provenance["dirty"] else ""
        yield "commit of Photochrom", f"`{provenance['commit']}`{changes}"
    if "time" in provenance:
        yield "last start", provenance["time"]
    yield "versions", ", ".join(f"{name} {version}" for name, version in metadata.versions.items())


def _ancestors(provenance: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yields the models that a run began from, the nearest first."""
    while init := provenance.get("init"):
        yield init
        provenance = init


def _with_ancestors(runs: Sequence[dict[str, Any]], name: str, show: Callable[[float], str]) -> str:
    """Returns the value of the first run, and the sum over all runs if it differs."""
    own, total = runs[0].get(name, 0), sum(run.get(name, 0) for run in runs)
    return show(own) + (f"; {show(total)} with the runs that it began from" if total != own else "")


def _duration(seconds: float) -> str:
    return f"{seconds / 3600:.1f} hours" if seconds >= 3600 else plural(round(seconds / 60), "minute")


def _score_rows(scores: Sequence[dict[str, Any]]) -> Iterator[list[str]]:
    """Yields the cells of each set's rows: the model, the baselines and the truth."""
    for entry in scores:
        of_set = [f"`{Path(entry['data']).name}`" + " (trained on)" * entry["is_training_set"]]
        of_set += [f"{entry['num_samples']:,}", str(entry["size"])]
        rows = {"this model": entry["metrics"], **entry["baselines"], "the truth": entry["truth"]}
        for name, values in rows.items():
            yield [*of_set, name, *(METRICS[metric].format(values.get(metric)) for metric in _METRICS)]
