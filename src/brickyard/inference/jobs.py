"""Predictions by the million: rows in numbered files, and a job that goes on where it was stopped."""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Literal, final, get_args

from tqdm import tqdm

if sys.platform != "win32":
    import fcntl

from brickyard.errors import BrickInputError, BrickMismatchError, UnknownNameError
from brickyard.inference.engines import Engine, LocalEngine, Row, ray_engine
from brickyard.inference.shards import Shards, list_shards, load_pyarrow
from brickyard.storage.sources.uri import locate

Kind = Literal["parquet", "jsonl"]
EngineName = Literal["local", "ray"]

JOB = "_job.json"  # readers of a folder as one table pass over names that start so
_HASH = re.compile(r"[0-9a-f]{64}")
_COLUMNS = ("file", "width", "height", "error")


@final
@dataclass(frozen=True)
class Done:
    """What one start of a job did.

    Attributes:
        pictures: How many.
        unread: Those among them that could not be read.
        before: What had been done already.
    """

    pictures: int
    unread: int
    before: int


def predict_rows(
    source: str,
    pictures: str | Sequence[str],
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
    progress: bool = False,
) -> Done:
    """Write what is on many pictures into files of rows; what an earlier start has written is not done again.

    Each shard of the pictures has its file, `part-<number>.<kind>`. A row has `file`, `width` and `height` in pixels
    (upright), `error` (null, or why it could not be read) and for each head its results, best first: in parquet as JSON
    text. `_job.json` says what is being done.

    Args:
        source: A model, as for `Predictor`.
        pictures: A place or several, as for `list_shards`.
        out: The folder.
        engine: "local" for this machine, "ray" for actors of Ray.
        kind: The format of the files.
        shard_size: Pictures a file.
        batch_size: Pictures at a time.
        device: Where the model runs, by default a GPU if there is one.
        workers: Processes that read pictures for a model; 0 if its own does. By default one for two CPU cores; 0 for
            each actor of Ray.
        actors: Actors of Ray, or threads on this machine, that run the model. By default one for each GPU, or else for
            each CPU core.
        address: Of a Ray cluster, or "auto"; None starts Ray on this machine.
        progress: Show a bar.

    Raises:
        BrickMismatchError: The folder has another job.
        UnknownNameError: No such engine or kind.
        BrickInputError: A number that cannot be, a place without pictures, `out` inside of one or in use by another
            process, a head with the name of another column.
        MissingExtraError: Parquet or Ray, without the extra `scale`.
        Else as for `Predictor`.
    """
    for name, value, known in (("engine", engine, get_args(EngineName)), ("kind", kind, get_args(Kind))):
        if value not in known:
            raise UnknownNameError(name, value, known)
    for name, number, least in (("shard_size", shard_size, 1), ("workers", workers, 0), ("actors", actors, 1)):
        if number is not None and number < least:
            raise BrickInputError(name, f"{least} or more", f"{number}")
    prefixes = [pictures] if isinstance(pictures, str) else pictures
    _refuse_inside(Path(out), prefixes)
    if kind == "parquet":
        load_pyarrow()
    shards, source = list_shards(prefixes, shard_size), locate(source)
    opened: AbstractContextManager[Engine]
    if engine == "ray":
        opened = ray_engine(source, device, batch_size, workers or 0, actors, address)
    else:
        readers = -(-(os.cpu_count() or 1) // 2) if workers is None else workers
        opened = nullcontext(LocalEngine(source, device, batch_size, readers, actors))
    with opened as chosen:
        return _run(shards, chosen, Path(out), shard_size, kind, progress)


def _run(pictures: Shards, engine: Engine, out: Path, shard_size: int, kind: Kind, progress: bool) -> Done:
    heads = engine.about["heads"]
    if taken := [head for head in heads if head in _COLUMNS]:
        raise BrickInputError("the model's heads", f"other names than {list(_COLUMNS)}", f"{taken}")
    facts = {"count": len(pictures), "sha256": pictures.sha256, "shard_size": shard_size}
    job = {"format": 1, "rows": kind, "pictures": facts, "model": engine.about}
    unread = 0
    with _claimed(out, job):
        written = [file for file in os.listdir(out) if os.path.getsize(out / file)]  # an empty file is none of ours
        there = {int(match[1]) for file in written if (match := re.fullmatch(rf"part-(\d+)\.{kind}", file))}
        missing = [shard for shard in pictures.shards if shard.number not in there]
        before = len(pictures) - sum(map(len, missing))
        shown = None if progress else True  # None: where there is a terminal
        with tqdm(total=len(pictures), initial=before, unit="visualization", disable=shown, smoothing=0) as bar:
            for number, rows in engine.run(missing, bar.update):
                unread += sum(row["error"] is not None for row in rows)
                with _written_apart(out / f"part-{number:06}.{kind}") as file:
                    _WRITERS[kind](file, rows, heads)
    return Done(len(pictures) - before, unread, before)


def _refuse_inside(out: Path, prefixes: Sequence[str]) -> None:
    for place in prefixes:
        if out.resolve().is_relative_to(Path(place).resolve()):
            hint = "Its rows would be taken for pictures at the next start."
            raise BrickInputError("out", f"a folder outside of {place}", f"{out}", hint)


@contextmanager
def _claimed(out: Path, job: Mapping[str, Any]) -> Iterator[None]:
    """Begin a job in a folder, or go on with the same; no other process writes there until the block ends."""
    file = out / JOB
    if any(out.glob("part-*")) and not file.is_file():
        raise _of_nobody(out, f"there are part files, but no {JOB}")
    out.mkdir(parents=True, exist_ok=True)
    with open(file, "a+b") as claim:
        if sys.platform != "win32":
            try:
                # not flock: the reading processes would inherit it, and outlive this one where it is killed
                fcntl.lockf(claim, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except (BlockingIOError, PermissionError):
                hint = "Wait for that, or take another folder."
                raise BrickInputError("out", "a folder for this job alone", f"{out}, which is in use", hint) from None
        claim.seek(0)
        try:
            before = json.load(claim)
        except (ValueError, RecursionError):  # nothing yet, or what was killed before it was whole
            if any(out.glob("part-*")):
                raise _of_nobody(out, f"{JOB} is no JSON") from None
            claim.truncate(0)
            claim.write((json.dumps(job, indent=2) + "\n").encode())
            claim.flush()
            os.fsync(claim.fileno())
        else:
            if problems := list(_differences(before, job)):
                raise BrickMismatchError(f"{out} has the rows of another job; take another folder", problems)
        yield


def _of_nobody(out: Path, problem: str) -> BrickMismatchError:
    return BrickMismatchError(f"{out} has rows of nobody knows which job; take another folder", [problem])


def _differences(before: Any, now: Mapping[str, Any], location: str = "") -> Iterator[str]:
    """In words, for each value that is not as it was; where a model came from does not matter."""
    before = before if isinstance(before, dict) else {}
    for key in sorted(before.keys() | now.keys()):
        place, old, new = f"{location}{key}", before.get(key), now.get(key)
        if isinstance(new, Mapping):
            yield from _differences(old, new, f"{place}: ")
        elif old != new and place != "model: source":
            yield f"{place} is another" if _HASH.fullmatch(f"{old}") else f"{place} was {old}, is now {new}"


@contextmanager
def _written_apart(path: Path) -> Iterator[BinaryIO]:
    """A file that takes its place once it is whole; what a killed process left is written over."""
    draft = path.with_name(f".{path.name}")
    draft.unlink(missing_ok=True)
    with open(draft, "xb") as file:  # never through a link that somebody left there
        yield file
        file.flush()
        os.fsync(file.fileno())
    os.replace(draft, path)


def _write_jsonl(file: BinaryIO, rows: Sequence[Row], heads: Sequence[str]) -> None:
    for row in rows:
        text = json.dumps(row | {head: row.get(head) for head in heads}, ensure_ascii=False)
        file.write((text + "\n").encode(errors="backslashreplace"))


def _write_parquet(file: BinaryIO, rows: Sequence[Row], heads: Sequence[str]) -> None:
    pyarrow = load_pyarrow()
    kinds = {"file": pyarrow.string(), "width": pyarrow.int32(), "height": pyarrow.int32(), "error": pyarrow.string()}
    columns: dict[str, list[Any]] = {
        **{name: [row[name] for row in rows] for name in ("width", "height")},
        **{name: [_utf8(row[name]) for row in rows] for name in ("file", "error")},
        **{
            head: [json.dumps(row[head], ensure_ascii=False) if head in row else None for row in rows] for head in heads
        },
    }
    schema = pyarrow.schema([*kinds.items(), *((head, pyarrow.string()) for head in heads)])
    pyarrow.parquet.write_table(pyarrow.table(columns, schema=schema), file)


def _utf8(text: str | None) -> str | None:
    """A text without the lone surrogates that stand for bytes in the names of files."""
    return None if text is None else text.encode(errors="backslashreplace").decode()


_WRITERS = {"parquet": _write_parquet, "jsonl": _write_jsonl}
