"""The model card: README.md with the front matter that the Hugging Face Hub reads."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from ajepa import files
from ajepa.checkpoints.hub import SCHEME
from ajepa.model import AudioEncoder
from ajepa.objectives.systems import objective_config

from .errors import ExportError
from .weights import Origin

NEEDED = ("model", "task", "metric", "score", "weights")


def read_records(path: Path, fingerprint: str) -> list[dict[str, Any]]:
    """Records of `ajepa evaluate`; those whose `weights` are `fingerprint` get `"this": True`.

    Raises:
        ExportError: the file has no records, or none of these weights.
    """
    try:
        records = json.loads(path.read_text())
        records = [records] if isinstance(records, dict) else records  # one, as --json writes it
        complete = all(name in record for record in records for name in NEEDED)
    except (OSError, ValueError, TypeError) as error:
        raise ExportError(f"{path}: not the records.json of `ajepa evaluate` ({error})") from error
    if not complete:
        raise ExportError(f"{path}: a record lacks one of {', '.join(NEEDED)}")
    records = [record | {"this": fingerprint in _weights(record)} for record in records]
    if not any(record["this"] for record in records):
        raise ExportError(
            f"{path}: no score of these weights ({fingerprint}); score this model with `ajepa evaluate`"
        )
    return records


def _weights(record: dict[str, Any]) -> set[str]:
    """The weights that it is a score of: one model's, or those of the pre-trainings whose mean it is."""
    return {record["weights"], *(run.get("weights") for run in record.get("pretraining", ()))}


def write_card(
    path: Path,
    name: str,
    model: AudioEncoder,
    origin: Origin,
    records: Sequence[dict[str, Any]] = (),
    licence: str | None = None,
    repo: str | None = None,
    programs: Sequence[str] = (),
) -> None:
    """Write README.md.

    Args:
        name: title of the card.
        records: of `read_records`; every model in them becomes a row, baselines included.
        licence: its identifier on the Hub; None for "not stated".
        repo: owner/name on the Hub, if it is uploaded.
        programs: names of the exported graphs in the same folder.
    """
    front = yaml.safe_dump(_front_matter(name, origin, records, licence), sort_keys=False, allow_unicode=True)
    parts = [
        f"---\n{front}---\n\n# {name}\n",
        _about(model, origin),
        _use(SCHEME + repo if repo else path.parent.name, model),
        _programs(programs, model),
        _scores(records),
        _making(origin),
        "## Licence\n\n"
        + (f"{licence}\n" if licence else "Not stated. Ask whoever trained these weights before use.\n"),
    ]
    files.write(path, "\n".join(part for part in parts if part))


def _front_matter(
    name: str, origin: Origin, records: Sequence[dict[str, Any]], licence: str | None
) -> dict[str, Any]:
    front: dict[str, Any] = {
        "library_name": "ajepa",
        "license": licence or "unknown",
        "pipeline_tag": "feature-extraction",
        "tags": ["audio", "audio-embeddings", "self-supervised-learning", _system(origin).lower()],
    }
    results = [
        {
            "task": {"type": "audio-classification"},
            "dataset": {"name": record["task"], "type": record["task"]},
            "metrics": [
                {"type": record["metric"], "name": _reading(record), "value": round(record["score"], 4)}
            ],
        }
        for record in records
        if record["this"]
    ]
    return front | ({"model-index": [{"name": name, "results": results}]} if results else {})


def _system(origin: Origin) -> str:
    if not origin.trained_here:
        return str(origin.recipe["name"]).split(",")[0]
    return objective_config(origin.recipe["objective"].get("system", "a-jepa")).title


def _about(model: AudioEncoder, origin: Origin) -> str:
    width, depth, heads = model.encoder.config.dimensions
    parameters = sum(parameter.numel() for parameter in model.encoder.parameters())
    return (
        f"An audio encoder pre-trained with {_system(origin)}: a Vision Transformer ({depth} blocks, width "
        f"{width}, {heads} heads, {parameters / 1e6:.1f} M parameters) on log-mel spectrograms of "
        f"{model.sample_rate:,} Hz mono audio. An embedding has {model.embedding_size} features every "
        f"{1000 * model.hop_seconds:.0f} ms{_joined(model)}, and {model.clip_size} for a whole clip "
        f"({model.pooling} over time).\n"
    )


def _joined(model: AudioEncoder) -> str:
    layers = model.embedding_layers
    return f" (the outputs of blocks {', '.join(map(str, layers))}, joined)" if layers else ""


def _use(source: str, model: AudioEncoder) -> str:
    return f"""## Use

```python
import ajepa  # pip install ajepa{"[hub]" if source.startswith(SCHEME) else ""}

model = ajepa.load_model("{source}")
embedding = model(waveforms, lengths)  # [B, samples] at {model.sample_rate:,} Hz, of any length
embedding.clip  # [B, {model.clip_size}]
embedding.frames  # [B, T, {model.embedding_size}]
```
"""


def _programs(names: Sequence[str], model: AudioEncoder) -> str:
    if not names:
        return ""
    from .graph import EmbeddingGraph

    longest = EmbeddingGraph(model).most_samples
    return (
        f"{' and '.join(f'`{name}`' for name in names)} hold the encoder with its front end as a graph: "
        f"`waveform` [clips, samples], float32 at {model.sample_rate:,} Hz, up to {longest:,} samples "
        f"({longest / model.sample_rate:.2f} s); `lengths` [clips], int64, samples of each clip without "
        "padding. The outputs are `frames` (zero after a clip's end), `clip` and `steps`, the time steps of "
        "each clip. The caller cuts longer audio; `ajepa` itself takes any length.\n"
    )


def _reading(record: dict[str, Any]) -> str:
    """How a score was made: the protocol, and settings that differ from the default.

    In a comparison the protocols are named, and the name says it.
    """
    parts = [str(record.get("protocol", "protocol not stated"))]
    if record.get("protocol_kind", parts[0]) == parts[0]:
        layer = record.get("layer", "last")
        time = record.get("details", record).get("time", "mean")
        parts += [f"layer {layer}"] * (layer != "last") + [str(time)] * (time != "mean")
    return ", ".join(parts)


def _scores(records: Sequence[dict[str, Any]]) -> str:
    """A table with a column for each task and reading; several scores may share a cell."""
    if not records:
        return ""
    several = len({_reading(record) for record in records}) > 1
    rows: dict[str, dict[str, list[str]]] = {}
    columns: dict[str, None] = {}
    for record in records:
        name = f"**{record['model']}** (these weights)" if record["this"] else record["model"]
        column = f"{record['task']}, {_reading(record)}" if several else record["task"]
        columns[column] = None
        rows.setdefault(name, {}).setdefault(column, []).append(_score(record))
    metrics = sorted({str(record["metric"]) for record in records})
    protocol = "" if several else f"Protocol: {_reading(records[0])}. "
    lines = [
        f"## Scores\n\n{protocol}Metric: {', '.join(metrics)}. In brackets 95 % intervals; ± is the standard "
        "deviation over folds, or over seeds if there are several.\n",
        f"| model | {' | '.join(columns)} |",
        "|---" * (len(columns) + 1) + "|",
    ]
    for name, row in rows.items():
        lines.append(f"| {name} | {' | '.join(', '.join(row.get(column, [])) for column in columns)} |")
    return "\n".join(lines) + "\n"


def _score(record: dict[str, Any]) -> str:
    text = f"{record['score']:.3f}"
    if record.get("interval"):
        return text + " ({:.3f} to {:.3f})".format(*record["interval"])
    return text if record.get("spread") is None else f"{text} ± {record['spread']:.3f}"


def _making(origin: Origin) -> str:
    if not origin.trained_here:
        return (
            f"## Training\n\nConverted from an official {_system(origin)} checkpoint; its authors' paper "
            "says how it was trained.\n"
        )
    data = origin.info.get("data") or {}
    made = {key: origin.info[key] for key in ("ajepa", "commit", "torch", "device") if origin.info.get(key)}
    lines = [f"{origin.step} optimiser steps of recipe `{origin.recipe['name']}`."]
    if data:
        lines.append(f"Data: {data['files']} clips, fingerprint `{data['sha256'][:16]}`.")
    if made:
        lines.append(f"Made with {', '.join(f'{key} {value}' for key, value in made.items())}.")
    recipe = yaml.safe_dump(json.loads(json.dumps(origin.recipe)), sort_keys=False)
    return f"## Training\n\n{' '.join(lines)}\n\n```yaml\n{recipe}```\n"
