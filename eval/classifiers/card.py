"""The card of a classifier: README.md, with the front matter that the Hugging Face Hub reads."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from ajepa import files
from ajepa.model.classifier import AudioClassifier

SHOWN = 60  # labels in the card; the file has all


def write_card(path: Path, name: str, classifier: AudioClassifier, encoder: str) -> None:
    """Write README.md.

    Args:
        name: title of the card.
        encoder: source of the encoder of somebody else; empty for ours, which is in the folder.
    """
    record, training = classifier.about["record"], classifier.about["training"]
    front = yaml.safe_dump(_front_matter(name, record), sort_keys=False, allow_unicode=True)
    parts = [
        f"---\n{front}---\n\n# {name}\n",
        _about(classifier, record, encoder),
        _use(name, classifier),
        _labels(classifier.labels),
        _scores(classifier, record, training),
        _training(record, training),
        "## Limits\n\n"
        "It has an answer for every audio, also for sounds that none of its labels fits. The score holds for "
        "audio like the task's: from the same sources, of the same length and loudness. Score it on clips of "
        "your own before you rely on it.\n",
        "## Licence\n\nNot stated. It depends on the training clips and on the encoder's weights.\n",
    ]
    files.write(path, "\n".join(parts))


def _front_matter(name: str, record: dict[str, Any]) -> dict[str, Any]:
    metric = {"type": record["metric"], "name": record["protocol"], "value": round(record["score"], 4)}
    result = {
        "task": {"type": "audio-classification"},
        "dataset": {"name": record["task"], "type": record["task"]},
        "metrics": [metric],
    }
    return {
        "library_name": "ajepa",
        "license": "unknown",
        "pipeline_tag": "audio-classification",
        "tags": ["audio", "audio-classification"],
        "model-index": [{"name": name, "results": [result]}],
    }


def _about(classifier: AudioClassifier, record: dict[str, Any], encoder: str) -> str:
    kind = "A fine-tuned network" if record["protocol_kind"] == "finetune" else "A linear probe on embeddings"
    answer = "any number of its" if classifier.label_set.several else "one of its"
    source = classifier.encoder.source if not encoder else None
    recipe = f"`{source.recipe}` (weights {record['weights']})" if source else f"`{encoder}`"
    there = "in this folder" if not encoder else "not in this folder: it is needed where this is used"
    return (
        f"{kind} that gives a clip {answer} {len(classifier.labels)} labels. It takes mono audio of "
        f"{classifier.sample_rate:,} Hz and any length. Its encoder was {recipe}; it is {there}.\n"
    )


def _use(name: str, classifier: AudioClassifier) -> str:
    return f"""## Use

```sh
ajepa predict recordings/ --model {name} --out labels.csv
ajepa predict recordings/ --model {name} --window 10 --hop 5    # a row for each window of long recordings
```

```python
import ajepa

classifier = ajepa.load_classifier("{name}")
found = classifier.predict(waveforms, lengths)  # [B, samples] at {classifier.sample_rate:,} Hz
found.labels, found.probabilities  # of each clip; [B, {len(classifier.labels)}] in the order of .labels
```
"""


def _labels(names: Sequence[str]) -> str:
    more = f", and {len(names) - SHOWN:,} more in `classifier.json`" if len(names) > SHOWN else ""
    return f"## Labels\n\n{', '.join(names[:SHOWN])}{more}.\n"


def _scores(classifier: AudioClassifier, record: dict[str, Any], training: dict[str, Any]) -> str:
    found = classifier.about["measured"]
    interval = " ({:.3f} to {:.3f})".format(*record["interval"]) if record.get("interval") else ""
    lines = [f"{record['metric']} on {record['task']}: **{record['score']:.3f}**{interval}."]
    if record.get("interval_method"):
        lines.append(f"In brackets: {record['interval_method']}.")
    lines += _which(record, training)
    if classifier.label_set.several:
        lines.append(
            f"At the thresholds below, the mean F1 of the labels is {found['f1']:.3f} on test clips."
        )
        chosen = {
            "valid": "chosen on the validation split, for the highest F1 of each label",
            "folds": "chosen on the folds, each scored by a classifier that was not trained on it, for the "
            "highest F1 of each label; the F1 is on the same clips, and so a little too high",
            "none": "0.5, because no clips were left to choose them on",
        }[training["thresholds"]]
        lines.append(f"The thresholds are {chosen}.")
    else:
        lines.append(
            f"The answers on test clips have a mean probability of {found['confidence']:.3f}, and "
            f"{found['right']:.3f} of them are right."
        )
    return f"## Score\n\n{' '.join(lines)}\n"


def _which(record: dict[str, Any], training: dict[str, Any]) -> list[str]:
    """What the score has to do with the classifier that is kept."""
    if training["folds"]:
        how = "".join(f", {text}" for text in training["how"])
        return [
            f"That is the mean of {training['folds']} classifiers, each tested on a fold that it was not "
            f"trained on. This one is trained on all folds{how}, and was not tested itself."
        ]
    if len(record["seeds"]) > 1:
        return [
            f"That is the mean of {len(record['seeds'])} seeds; this network is that {training['how'][0]}."
        ]
    return ["This is the classifier that was scored."]


def _training(record: dict[str, Any], training: dict[str, Any]) -> str:
    splits = ", ".join(training["splits"])
    lines = [
        f"Trained on {training['clips']:,} clips ({splits}) of {record['task']}; the task's fingerprint is "
        f"`{record['task_hash']}`.",
        *(f"{note}." for note in record["notes"]),
    ]
    made = {name: value for name, value in record["versions"].items() if value}
    lines.append(f"Made with {', '.join(f'{name} {value}' for name, value in made.items())}.")
    settings = {
        name: record[name] for name in ("protocol", "layer", "seeds", "chosen", "details") if record.get(name)
    }
    text = yaml.safe_dump(json.loads(json.dumps(settings)), sort_keys=False, allow_unicode=True)
    return f"## Training\n\n{' '.join(lines)}\n\n```yaml\n{text}```\n"
