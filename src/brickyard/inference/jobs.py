"""Prediction jobs: rows in numbered files, written by a job that resumes where it was interrupted."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Literal, final, get_args

from tqdm import tqdm

from brickyard.data.parquet import load_pyarrow
from brickyard.errors import BrickInputError, BrickMismatchError, UnknownNameError
from brickyard.inference.engines import Engine, LocalEngine, Row, ray_engine
from brickyard.inference.shards import Shards, list_shards
from brickyard.storage.atomic import write_atomically, write_whole
from brickyard.storage.locks import exclusive_lock, remove_abandoned
from brickyard.storage.sources.uri import locate

Kind = Literal["parquet", "jsonl"]
EngineName = Literal["local", "ray"]

JOB = "_job.json"  # readers of a folder as one table skip names that start with an underscore or a dot
_LOCK = "_job.lock"
_HASH = re.compile(r"[0-9a-f]{64}")
_COLUMNS = ("file", "width", "height", "error")


@final
@dataclass(frozen=True)
class JobResult:
    """What one run of a job has done.

    Attributes:
        images: Number of images processed in this run.
        unreadable: Number of these that could not be read.
        skipped: Number of images that earlier runs had processed.
    """

    images: int
    unreadable: int
    skipped: int


def predict_rows(
    source: str,
    images: str | Sequence[str],
    out: str | os.PathLike[str],
    *,
    engine: EngineName = "local",
    kind: Kind = "parquet",
    shard_size: int = 1000,
    batch_size: int = 16,
    device: str | None = None,
    workers: int | None = None,
    actors: int | None = None,
    address: str | None = None,
    threshold: float | None = None,
    topk: int | None = None,
    classes: Sequence[str] | None = None,
    image_size: int | tuple[int, int] | None = None,
    heads: Sequence[str] | None = None,
    progress: bool = False,
) -> JobResult:
    """Run a model on many images and write the results as rows; resume the job if the folder holds a part of it.

    Each shard of the images has one file, `part-<number>.<kind>`. A row has `file`, `width` and `height` in pixels
    (after EXIF rotation), `error` (null, or why the image could not be read) and for each head its results, best
    first; in parquet as JSON text. Results of segmentation have the pixels of their class, see `with_masks`.
    `_job.json` describes the job.

    Args:
        source: The model, see `Predictor`.
        images: One source of images or several, see `list_shards`.
        out: The folder of the job, created if needed.
        engine: "local" for this machine, "ray" for actors on a Ray cluster.
        kind: File format of the rows.
        shard_size: Number of images per file.
        batch_size: Number of images per batch.
        device: Device of the model, by default a GPU if there is one.
        workers: Number of data loading processes per model; 0 loads in the process of the model. By default one per
            two CPU cores; 0 for the actors of Ray.
        actors: Number of Ray actors, or of threads on this machine, that run the model. By default one per GPU, or one
            per CPU core without a GPU.
        address: Address of a Ray cluster, or "auto"; None starts Ray on this machine.
        threshold: The lowest score of a result, see `Predictor`.
        topk: The largest number of results per head, see `Predictor`.
        classes: The names of the classes to report, see `Predictor`.
        image_size: The size that images are resized to, see `Predictor`.
        heads: The heads of a deployed folder to run, see `Predictor`.
        progress: Whether to show a progress bar.

    Raises:
        BrickMismatchError: The folder holds another job.
        UnknownNameError: The engine or kind is unknown.
        BrickInputError: A number is out of range, a source has no images, `out` is inside a source or in use by another
            process, or a head has the name of another column.
        MissingExtraError: Parquet or Ray without the extra `scale`.
        OSError: The machine failed, e.g. with too many open files; the next run resumes the job.
        The exceptions of `Predictor`.
    """
    for name, value, known in (("engine", engine, get_args(EngineName)), ("kind", kind, get_args(Kind))):
        if value not in known:
            raise UnknownNameError(name, value, known)
    for name, number, least in (("shard_size", shard_size, 1), ("workers", workers, 0), ("actors", actors, 1)):
        if number is not None and number < least:
            raise BrickInputError(name, f"{least} or more", f"{number}")
    sources = [images] if isinstance(images, str) else images
    _refuse_inside(Path(out), sources)
    if kind == "parquet":
        load_pyarrow()
    shards, source = list_shards(sources, shard_size), locate(source)
    settings = {
        "threshold": threshold,
        "topk": topk,
        "classes": classes,
        "image_size": image_size,
        "heads": heads,
    }
    opened: AbstractContextManager[Engine]
    if engine == "ray":
        opened = ray_engine(source, device, batch_size, workers or 0, actors, address, settings)
    else:
        readers = -(-(os.cpu_count() or 1) // 2) if workers is None else workers
        opened = nullcontext(LocalEngine(source, device, batch_size, readers, actors, settings))
    with opened as chosen:
        return _run(shards, chosen, Path(out), shard_size, kind, progress)


def _run(images: Shards, engine: Engine, out: Path, shard_size: int, kind: Kind, progress: bool) -> JobResult:
    heads = engine.info["heads"]
    if taken := [head for head in heads if head in _COLUMNS]:
        raise BrickInputError("the model's heads", f"names other than {list(_COLUMNS)}", f"{taken}")
    source = {"count": len(images), "sha256": images.sha256, "shard_size": shard_size}
    job = {"format": 2, "rows": kind, "images": source, "model": engine.info}
    unreadable = 0
    with _open_job(out, job):
        written = [file for file in os.listdir(out) if os.path.getsize(out / file)]  # an empty file is not a part
        finished = {int(match[1]) for file in written if (match := re.fullmatch(rf"part-(\d+)\.{kind}", file))}
        missing = [shard for shard in images.shards if shard.number not in finished]
        skipped = len(images) - sum(map(len, missing))
        disable = None if progress else True  # None: shown if stderr is a terminal
        with tqdm(total=len(images), initial=skipped, unit="image", disable=disable, smoothing=0) as bar:
            for number, rows in engine.run(missing, bar.update):
                unreadable += sum(row["error"] is not None for row in rows)
                with write_atomically(out / f"part-{number:06}.{kind}") as temp, open(temp, "xb") as file:
                    _WRITERS[kind](file, rows, heads)
    return JobResult(len(images) - skipped, unreadable, skipped)


def _refuse_inside(out: Path, sources: Sequence[str]) -> None:
    for source in sources:
        if out.resolve().is_relative_to(Path(source).resolve()):
            hint = "The next run would read its files as images."
            raise BrickInputError("out", f"a folder outside of {source}", f"{out}", hint)


@contextmanager
def _open_job(out: Path, job: Mapping[str, Any]) -> Iterator[None]:
    """Lock the folder for the block, and start a job in it or check that it holds the same job."""
    file = out / JOB
    _refuse_unknown_parts(out)  # before the folder is changed
    out.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        try:
            stack.enter_context(exclusive_lock(out / _LOCK, timeout=0))
        except TimeoutError:
            hint = "Wait until that job has ended, or use another folder."
            raise BrickInputError("out", "a folder that no job is using", f"{out}, which is in use", hint) from None
        _remove_unfinished(out)
        _refuse_unknown_parts(out)
        stored = _read_job(file)
        if stored is None:
            write_whole(file, json.dumps(job, indent=2) + "\n")
        elif problems := list(_differences(stored, job)):
            raise BrickMismatchError(f"{out} holds the rows of another job; use another folder", problems)
        yield


def _read_job(file: Path) -> Any:
    """Read the description of a job; None if there is none, or a kill left it truncated."""
    try:
        return json.loads(file.read_bytes())
    except (FileNotFoundError, ValueError, RecursionError):
        return None


def _refuse_unknown_parts(out: Path) -> None:
    """Raise if a folder has rows but no description of their job."""
    if any(out.glob("part-*")) and _read_job(out / JOB) is None:
        problem = f"{JOB} is not valid JSON" if (out / JOB).is_file() else f"no {JOB} describes its part files"
        raise BrickMismatchError(f"{out} holds the rows of an unknown job; use another folder", [problem])


def _remove_unfinished(out: Path) -> None:
    """Remove the temporary folders that killed runs left, also those of parts that are whole."""
    for prefix in (".part-", f".{JOB}-"):
        remove_abandoned(prefix, out)
    for folder in [*out.glob(".part-*-*"), *out.glob(f".{JOB}-*")]:
        if folder.is_dir() and not folder.is_symlink():
            shutil.rmtree(folder, ignore_errors=True)


def _differences(stored: Any, job: Mapping[str, Any], location: str = "") -> Iterator[str]:
    """Describe each value that differs between two jobs; the source of the model may differ if its hashes do not."""
    stored = stored if isinstance(stored, dict) else {}
    for key in sorted(stored.keys() | job.keys()):
        path, old, new = f"{location}{key}", stored.get(key), job.get(key)
        if isinstance(new, Mapping):
            yield from _differences(old, new, f"{path}: ")
        elif old != new and path != "model: source":
            yield f"{path} differs" if _HASH.fullmatch(f"{old}") else f"{path}: expected {old}, found {new}"


def _write_jsonl(file: BinaryIO, rows: Sequence[Row], heads: Sequence[str]) -> None:
    for row in rows:
        text = json.dumps(row | {head: row.get(head) for head in heads}, ensure_ascii=False)
        file.write((text + "\n").encode(errors="backslashreplace"))


def _write_parquet(file: BinaryIO, rows: Sequence[Row], heads: Sequence[str]) -> None:
    pyarrow = load_pyarrow()
    types = {"file": pyarrow.string(), "width": pyarrow.int32(), "height": pyarrow.int32(), "error": pyarrow.string()}
    columns: dict[str, list[Any]] = {
        **{name: [row[name] for row in rows] for name in ("width", "height")},
        **{name: [_utf8(row[name]) for row in rows] for name in ("file", "error")},
        **{
            head: [json.dumps(row[head], ensure_ascii=False) if head in row else None for row in rows] for head in heads
        },
    }
    schema = pyarrow.schema([*types.items(), *((head, pyarrow.string()) for head in heads)])
    pyarrow.parquet.write_table(pyarrow.table(columns, schema=schema), file)


def _utf8(text: str | None) -> str | None:
    """Escape the lone surrogates that stand for undecodable bytes in file names."""
    return None if text is None else text.encode(errors="backslashreplace").decode()


_WRITERS = {"parquet": _write_parquet, "jsonl": _write_jsonl}
