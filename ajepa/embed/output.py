"""Where a job's results go: a folder of Parquet parts, one Parquet file, or an NPZ file of a small job."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from filelock import FileLock

from ajepa import files

from .job import JOB, Job
from .options import EmbedError
from .read import parts_of, read_embeddings
from .table import schema_of

ONE_FILE = (".parquet", ".npz")
BLOCKS = b"ajepa.blocks"  # in the metadata of one Parquet file: how many blocks of the job it holds


def job_folder(out: Path) -> Path:
    """Where a job works whose results go to `out`: there, or for one file in a hidden folder next to it.

    Raises:
        EmbedError: the ending says neither a folder nor a kind of file that is written.
    """
    if out.suffix.lower() not in ONE_FILE:
        if out.suffix and not out.is_dir():
            raise EmbedError(f"--out {out}: name a folder, or a file that ends in {' or '.join(ONE_FILE)}")
        if out.is_dir() and any(out.iterdir()) and not (out / JOB).exists():
            raise EmbedError(f"--out {out}: a folder with other files in it; name a new one")
        return out
    folder = out.with_name(f".{out.name}.job")
    if out.suffix.lower() == ".parquet" and out.exists() and not (folder / JOB).exists():
        raise EmbedError(f"--out {out}: exists, and there is no {folder} to add to it; choose another name")
    return folder


def merged_blocks(out: Path) -> int:
    """How many blocks of its job are in a Parquet file already; 0 if it is not there.

    Raises:
        EmbedError: it is not a result of `ajepa embed`.
    """
    if out.suffix.lower() != ".parquet" or not out.is_file():
        return 0
    try:
        return int((pq.read_schema(out).metadata or {})[BLOCKS])
    except (pa.ArrowInvalid, KeyError) as error:
        raise EmbedError(
            f"--out {out}: exists and was not written by `ajepa embed`; choose another name"
        ) from error


def finish(job: Job, out: Path) -> bool:
    """Write the one file once all parts are there; False while other processes are at work on some.

    The parts of a Parquet file are removed, and its plan is kept, so that new clips can be added later.
    """
    if out.suffix.lower() not in ONE_FILE:
        return not job.left()
    if not (job.folder / JOB).exists():  # another process has written the file
        return True
    with FileLock(job.folder / ".lock"):
        if not (job.folder / JOB).exists():
            shutil.rmtree(job.folder, ignore_errors=True)  # the lock has made the folder anew
            return True
        job.merged = merged_blocks(out)
        if job.left():
            return False
        job.list_broken(broken_list(out))
        if out.suffix.lower() == ".npz":
            _write_npz(job.folder, out)
            shutil.rmtree(job.folder)
            return True
        if merged_blocks(out) < job.blocks:
            _merge(job, out)
        for part in parts_of(job.folder):
            part.unlink()
    return True


def broken_list(out: Path) -> Path:
    """Where the clips are listed that could not be used, next to the one file."""
    return out.with_name(f"{out.name}.broken.csv")


def _merge(job: Job, out: Path) -> None:
    """The file's rows, then those of the parts that are not in it."""
    first = merged_blocks(out)
    sources = [*([out] if first else []), *(job.part(block) for block in range(first, job.blocks))]
    schema = schema_of(job.about)
    schema = schema.with_metadata({**schema.metadata, BLOCKS: str(job.blocks)})
    with (
        files.in_place_of(out) as partial,
        pq.ParquetWriter(partial, schema, compression="zstd") as writer,
    ):
        for source in sources:
            for rows in _groups(source):
                writer.write_table(rows.replace_schema_metadata(schema.metadata))


def _groups(source: Path) -> Iterator[pa.Table]:
    """The rows of a file, some at a time. Raises EmbedError for a damaged one, which is set aside."""
    try:
        with pq.ParquetFile(source) as file:
            for group in range(file.num_row_groups):
                yield file.read_row_group(group)
    except pa.ArrowException as error:
        files.set_aside(source, error, "the same command embeds its clips again")
        raise EmbedError(f"{source}: was damaged and is set aside; give the same command again") from error


def _write_npz(folder: Path, out: Path) -> None:
    found = read_embeddings(folder)
    values = found.values
    arrays: dict[str, np.ndarray] = {"files": np.array(found.paths), "start": found.start, "end": found.end}
    if isinstance(values, list):
        # One after the other; `steps` says how many belong to each row.
        arrays["steps"] = np.array([len(one) for one in values])
        values = np.concatenate(values) if values else np.empty((0, found.about["features"]), np.float32)
    arrays[found.about["what"]] = values
    with files.in_place_of(out, "npz") as partial:
        np.savez(partial, **arrays)  # type: ignore[arg-type]  # its stub has no names of arrays
