"""Answers of X-ARES's trained heads on its test splits. Runs in its own process, in X-ARES's folder.

    python -m ajepa.eval.toolkits.xares.answers ENCODER_CLASS TASK_FILE OUT.json

X-ARES keeps its heads and embeddings, but of their answers only the score. Here its own code reads both
again, so that a score can have an interval over clips. `protocols/xares.py` checks that the answers give the
score that X-ARES reported.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from ajepa.files import write_json


def answers(encoder: str, task_file: str) -> dict[str, Any]:
    """The columns of `ajepa.eval.results.answers.scored` for one seed, the number of items in each split
    ("items"), and the seconds to which X-ARES cuts clips ("crop_seconds"), or None.

    Args:
        encoder: the class's name, under which X-ARES keeps results.
        task_file: path of the task's file, relative to the working folder.
    """
    from xares.audiowebdataset import create_embedding_webdataset
    from xares.models.simple import Mlp
    from xares.trainer import masked_mean
    from xares.utils import attr_from_py_path

    config: Any = attr_from_py_path(task_file, endswith="_config")(None)
    folder = Path(config.env_root) / config.name
    embeddings = folder / config.embedding_dir_name / encoder
    rows: dict[str, list[str]] = {"clips": [], "splits": [], "groups": [], "truth": [], "answers": []}
    items = {}
    for split, tars, head_name in _splits(config):
        head = None
        if head_name:
            state = torch.load(folder / config.ckpt_dir_name / encoder / head_name, weights_only=True)
            head = Mlp(state["fc.weight"].shape[1], state["fc.weight"].shape[0]).eval()
            head.load_state_dict(state)
        items[split] = 0
        for (frames_BXT, lengths_B), about, names in create_embedding_webdataset(
            [str(embeddings / tars)], batch_size=32
        ):
            items[split] += len(names)
            if head is None:
                continue
            with torch.inference_mode():
                logits_BC, _ = head(masked_mean(frames_BXT, x_length=lengths_B))
            rows["clips"] += names
            rows["splits"] += [split] * len(names)
            rows["groups"] += [str(one.get("group", "")) for one in about]
            rows["truth"] += [str(config.label_processor(one)) for one in about]
            rows["answers"] += [str(label) for label in logits_BC.argmax(1).tolist()]
    return {**rows, "items": items, "crop_seconds": config.crop_length}


def _splits(config: Any) -> Iterator[tuple[str, str, str]]:
    """Our name of each split, its tars of embeddings, and the file of the head that is tested on it, or "".

    With folds, X-ARES names the heads after them and leaves `ckpt_name` unchanged.
    """
    tars = config.encoded_tar_name_of_split
    if config.k_fold_splits:
        yield from ((str(fold), tars[fold], f"fold_{fold}_best_model.pt") for fold in config.k_fold_splits)
        return
    yield "train", tars[config.train_split], ""
    yield "valid", tars[config.valid_split], ""
    yield "test", tars[config.test_split], config.ckpt_name


if __name__ == "__main__":
    write_json(Path(sys.argv[3]), answers(sys.argv[1], sys.argv[2]))
