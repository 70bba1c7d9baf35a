"""Search over many embeddings: the time of `ajepa similar`, in parts, against numpy and faiss.

    python benchmarks/similar.py [--rows N] [--features D] [--numbers float16] [--repeats N] [--threads N]

The embeddings are random, with variances that fall as those of the bundled encoder do; a search compares a
query with every row, so that their values do not matter. "whitened space" is made once for a collection,
"search" is a query's. The references answer a query by plain cosines: numpy on normalised rows, which have to
be kept in memory, and faiss (`pip install faiss-cpu`), where it is installed: its exact index, and an
inverted one that looks at a part of the rows, with the share of the true nearest ten that it finds. Each time
is a median, in turns. "read" is a Parquet file of the same rows as `ajepa embed` writes it.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from common import medians, parser, write

from ajepa.embed import read_embeddings
from ajepa.embed.table import ABOUT
from ajepa.search.cosine import PLAIN, Space, nearest
from ajepa.training.provenance import cpu_name

TOP = 10
LISTS, PROBES = 1024, 16  # of faiss's inverted index, and how many of them a query looks at


def collection(rows: int, features: int, numbers: str) -> torch.Tensor:
    """Rows with falling variances, made in parts."""
    generator = torch.Generator().manual_seed(0)
    spread_D = (1 / torch.arange(1, features + 1)).sqrt()
    values_ND = torch.empty(rows, features, dtype=getattr(torch, numbers))
    for part_ND in values_ND.split(65_536):
        part_ND.copy_(torch.randn(part_ND.shape, generator=generator) * spread_D)
    return values_ND


def reading(values_ND: torch.Tensor) -> float:
    """Seconds to read the rows from Parquet, the better of two."""
    rows, features = values_ND.shape
    kind = pa.float16() if values_ND.dtype == torch.float16 else pa.float32()
    flat = pa.array(values_ND.numpy().reshape(-1), kind)
    columns = {
        "path": pa.array([f"recordings/{row:09d}.wav" for row in range(rows)]),
        "start": pa.array(np.zeros(rows)),
        "end": pa.array(np.ones(rows)),
        "sha256": pa.array([f"{row:064x}" for row in range(rows)]),
        "clip": pa.FixedSizeListArray.from_arrays(flat, features),
    }
    about = f'{{"what": "clip", "features": {features}}}'
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "embeddings.parquet"
        table = pa.table(columns).replace_schema_metadata({ABOUT: about})
        pq.write_table(table, path, compression="zstd", row_group_size=1024 * 16)
        times = []
        for _ in range(2):
            began = time.perf_counter()
            read_embeddings(path)
            times.append(time.perf_counter() - began)
    return min(times)


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--rows", type=int, default=1_000_000)
    options.add_argument("--features", type=int, default=384)
    options.add_argument("--numbers", choices=["float32", "float16"], default="float32")
    options.add_argument("--repeats", type=int, default=5)
    given = options.parse_args()
    torch.set_num_threads(given.threads)
    values_ND = collection(given.rows, given.features, given.numbers)
    query_1D = values_ND[:1].float() + 0.1 * torch.randn(1, given.features)
    space = Space.of(values_ND)
    unit_ND = torch.nn.functional.normalize(values_ND.float()).numpy()
    unit_1D = torch.nn.functional.normalize(query_1D).numpy()
    calls: dict[str, Callable[[], Any]] = {
        "whitened space": lambda: Space.of(values_ND),
        "search, whitened": lambda: nearest(values_ND, query_1D, TOP, space),
        "search, plain": lambda: nearest(values_ND, query_1D, TOP, PLAIN),
        "numpy, rows normalised before": lambda: np.argpartition(-(unit_ND @ unit_1D[0]), TOP)[:TOP],
    }
    notes = []
    try:
        import faiss
    except ImportError:
        notes.append("faiss is not installed")
    else:
        faiss.omp_set_num_threads(given.threads)
        flat = faiss.IndexFlatIP(given.features)
        flat.add(unit_ND)
        began = time.perf_counter()
        inverted = faiss.IndexIVFFlat(
            faiss.IndexFlatIP(given.features), given.features, LISTS, faiss.METRIC_INNER_PRODUCT
        )
        inverted.train(unit_ND[: 64 * LISTS])
        inverted.add(unit_ND)
        inverted.nprobe = PROBES
        built = time.perf_counter() - began
        queries = unit_ND[:: max(1, given.rows // 100)]
        true, found = flat.search(queries, TOP)[1], inverted.search(queries, TOP)[1]
        share = statistics.fmean(len(set(a) & set(b)) / TOP for a, b in zip(true, found, strict=True))
        notes.append(
            f"faiss's inverted index: built in {built:.1f} s, finds {share:.0%} of the nearest {TOP}"
        )
        calls["faiss, exact index"] = lambda: flat.search(unit_1D, TOP)
        calls["faiss, inverted index"] = lambda: inverted.search(unit_1D, TOP)
    times = medians(calls, given.repeats, warm_up=1)
    times["read"] = reading(values_ND)
    print(
        f"{given.rows:,} rows of {given.features} {given.numbers}, {given.threads} threads, {cpu_name()}, "
        f"torch {torch.__version__}\n"
    )
    print("| | seconds |\n|---|---|")
    for name, seconds in times.items():
        print(f"| {name} | {seconds:.3f} |")
    print("\n" + "\n".join(notes))
    write({"rows": given.rows, "features": given.features, "seconds": times, "notes": notes}, given.json)


if __name__ == "__main__":
    main()
