"""Prediction into a folder of numbered parquet files, for more images than fit into memory or one run.

The images are those of one or several inputs: a list, a folder, files that are named beside each other, a data set, or
each file of a stream. A shard holds the rows [c R, (c + 1) R) of one input, with R = `rows_per_shard`, and its name
says which. It is written whole or not at all, and by the one process whose shard it is, so that what is there is done:
an interruption costs the open shards, and any number of processes and workers may go on.
"""

import collections
import contextlib
import itertools
import json
import os
import re
import uuid
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import NamedTuple

import torch
from torch.utils.data import DataLoader, IterableDataset, get_worker_info
from tqdm.auto import tqdm

from ..console.errors import RunError, user_input
from ..console.files import locked, read_json, write_json
from ..console.hardware import choose_workers
from ..data.files import listed, printable
from ..model.views_msl import Views
from .predict_batches import (
    DECISIONS,
    PredictArguments,
    boxes_type,
    fingerprint,
    named_images,
    none_in,
    open_dataset,
    predict_batch,
    read_pixels,
    refuse_other,
    stamp,
    start,
    tables,
)

RUN_FILE = "_run.json"  # what reads a folder of parquet files leaves names with _ and . aside
SHARD_DECISIONS = (*DECISIONS, "image_column", "streaming", "images", "rows_per_shard")
METADATA = b"msl_hf"  # key in a shard
NAME = re.compile(r"part-(\d{5,})-(\d{6,})\.parquet")


class Shard(NamedTuple):
    """What a shard that is done says of itself: number of rows and of unreadable images, its first image."""

    rows: int
    unreadable: int
    first: str


def predict_shards(arguments: PredictArguments) -> dict:
    """Write a row of `image`, `labels`, `scores`, `error` for every image into `part-<input>-<chunk>.parquet`.

    `labels` and `scores` are null where the image cannot be read, else `error` is. The rows have the order of the
    images, within a shard and over the names of the shards. With `--boxes` they have `boxes`, too. `_run.json` says
    what made them.

    Returns:
        `num_images`, `unreadable` and `num_shards`, of all that is in the folder.

    Raises:
        RunError: where arguments or model cannot be used, the folder holds something else or what another model,
            threshold or input gave, another process writes into it, or scores are no numbers.
    """
    folder = Path(arguments.output)
    state, network, processor = start(arguments, folder)
    with user_input():
        inputs = _inputs(arguments)
    settings = {name: asdict(arguments)[name] for name in SHARD_DECISIONS}
    settings["fingerprint"] = fingerprint(network, processor, arguments)
    settings["num_inputs"] = len(inputs)
    is_relative = any(not os.path.isabs(source.removeprefix("@")) for source in arguments.images)
    settings["folder"] = os.getcwd() if is_relative else None
    _check_settings(folder, settings)
    with contextlib.ExitStack() as stack:
        if state.is_main_process:
            stack.enter_context(locked(folder / ".lock"))
            for file in folder.glob(".part-*"):  # of runs that were killed
                file.unlink()
        done = find_shards(folder)
        state.wait_for_everyone()  # all have seen what is done before anyone writes
        if state.is_main_process:
            stack.enter_context(_noted(folder, settings))
            if done:
                print(f"{folder}: {len(done)} shards with {sum(shard.rows for shard in done.values())} images are "
                      "there already")  # fmt: skip
        network.to(state.device, memory_format=torch.channels_last).eval()
        source = Steps(inputs, processor, arguments, done, state.process_index, state.num_processes)
        workers = choose_workers(arguments.num_workers, state.device, state.is_main_process)
        loader = DataLoader(source, batch_size=None, num_workers=workers, collate_fn=tuple)
        hidden = arguments.disable_tqdm or not state.is_main_process
        total = len(inputs[0]) if arguments.dataset and isinstance(inputs, list) else None
        with tqdm(total=total, initial=sum(shard.rows for shard in done.values()), disable=hidden) as bar:
            for rows in _written(loader, folder, done, network, processor, arguments):
                bar.update(rows * state.num_processes)
        state.wait_for_everyone()
        return _report(folder) if state.is_main_process else {}


def _check_settings(folder: Path, settings: dict) -> None:
    """A folder that holds anything must hold shards of the same model, settings and inputs."""
    if not (folder / RUN_FILE).is_file():
        others = sorted(file.name for file in folder.iterdir() if file.name[0] != ".") if folder.is_dir() else []
        if others:
            raise RunError(f"{folder} holds {others[0]} and no {RUN_FILE} of this command; choose an empty folder, or "
                           "another name, as --output")  # fmt: skip
        return
    earlier = read_json(folder / RUN_FILE)
    if "rows_per_shard" not in earlier:
        raise RunError(f"{folder} holds the {RUN_FILE} of another command; choose another --output")
    refuse_other(folder, earlier, settings, SHARD_DECISIONS)
    if earlier.get("folder") != settings["folder"]:
        raise RunError(f"{folder} names images from within {earlier.get('folder')}; go on from there, or choose "
                       "another --output")  # fmt: skip
    if earlier.get("num_inputs") != settings["num_inputs"]:
        raise RunError(f"{folder} was written from {earlier.get('num_inputs')} inputs, such as files of a data set, "
                       f"and there are {settings['num_inputs']} now; choose another --output")  # fmt: skip


@contextlib.contextmanager
def _noted(folder: Path, settings: dict) -> Iterator[None]:
    """Within: `_run.json` holds the settings; where an error leaves no shard, there is none afterwards."""
    write_json(folder / RUN_FILE, settings)
    try:
        yield
    except BaseException:
        if not any(folder.glob("part-*")):
            (folder / RUN_FILE).unlink()
        raise


def shard_path(folder: Path, file: int, chunk: int) -> Path:
    """Where the shard of a chunk of an input is."""
    return folder / f"part-{file:05d}-{chunk:06d}.parquet"


def find_shards(folder: Path) -> dict[tuple[int, int], Shard]:
    """(input, chunk) -> what its shard says, of all shards in a folder, from their footers alone.

    Raises:
        RunError: naming a shard that cannot be read.
    """
    from pyarrow import parquet

    found = {}
    for path in folder.iterdir() if folder.is_dir() else ():
        name = NAME.fullmatch(path.name)
        if name is None:
            continue
        try:
            footer = parquet.read_metadata(path)
            noted = json.loads(footer.metadata[METADATA])
            found[int(name[1]), int(name[2])] = Shard(footer.num_rows, noted["unreadable"], noted["first"])
        except Exception as error:  # pyarrow and json each have their own
            raise RunError(f"{path}: cannot be read as a shard of this command ({error}); remove it, and the same "
                           "command writes it anew") from error  # fmt: skip
    return found


class _Names:
    """Image files under their paths, of `--images` that are read as far as they are asked for."""

    def __init__(self, sources: Iterable[str]):
        self.sources = list(sources)

    def __iter__(self) -> Iterator[str]:
        return itertools.chain.from_iterable(named_images(source) for source in self.sources)

    def row(self, name: str) -> dict:
        return {"name": name, "image": {"path": name, "bytes": None}}


class _Numbered:
    """A data set that is read by index, under `<split>/<number>`, or the paths of its files."""

    def __init__(self, dataset, arguments: PredictArguments, may_be_files: bool):
        self.dataset, self.column, self.split = dataset, arguments.image_column, arguments.split
        self.may_be_files = may_be_files

    def __len__(self) -> int:
        return len(self.dataset)

    def __iter__(self) -> Iterator[int]:
        return iter(range(len(self)))

    def row(self, number: int) -> dict:
        row = self.dataset[number]
        image = row[self.column]
        is_file = self.may_be_files and image["bytes"] is None
        name = image["path"] if is_file else f"{self.split}/{number}"
        return {"name": name, "image": image, "crop": row.get("crop")}


class _Streamed:
    """One file of a stream, under `<split>/<file>/<number>`."""

    def __init__(self, stream, file: int, arguments: PredictArguments):
        self.stream, self.size = stream, arguments.batch_size
        self.column, self.name = arguments.image_column, f"{arguments.split}/{file:05d}"

    def __iter__(self) -> Iterator[tuple]:
        """Rows as a number, a table and a position in it: nothing is taken out of the table until it is read."""
        rows = ((table, at) for table in tables(self.stream, self.size) for at in range(len(table)))
        return ((number, *row) for number, row in enumerate(rows))

    def row(self, handle: tuple) -> dict:
        number, table, at = handle
        return {"name": f"{self.name}/{number}", "image": table[self.column][at].as_py()}


class _Streams(Sequence):
    """The files of a stream, opened when they are asked for."""

    def __init__(self, stream, arguments: PredictArguments):
        self.stream, self.arguments = stream, arguments

    def __len__(self) -> int:
        return self.stream.num_shards

    def __getitem__(self, file: int) -> _Streamed:
        return _Streamed(self.stream.shard(len(self), file), file, self.arguments)


def _inputs(arguments: PredictArguments) -> Sequence:
    """Each list, each folder, and files and globs beside each other; or a data set, or each file of a stream."""
    if arguments.dataset:
        dataset, may_be_files = open_dataset(arguments)
        is_stream = not hasattr(dataset, "__len__")
        return _Streams(dataset, arguments) if is_stream else [_Numbered(dataset, arguments, may_be_files)]
    for source in arguments.images:
        if next(named_images(source), None) is None:
            raise none_in(source)

    def own_input(source: str) -> str | None:
        return source if source.startswith("@") or os.path.isdir(source) else None

    return [_Names(sources) for _, sources in itertools.groupby(arguments.images, own_input)]


class Whole(NamedTuple):
    """The end of a chunk, or one that is done already: its first image, and its number of rows."""

    first: str
    rows: int


class Steps(IterableDataset):
    """This process's and worker's share of the work, as (input, chunk, content) in the order of the images.

    Content is a batch as a list of items of `read_pixels`, or `Whole` behind the last batch of a chunk and in place of
    one that is done already, or None behind the last chunk of an input, with the number of its chunks. Where there are
    as many inputs as processes, each process has inputs of its own and opens no other, else each has some of the
    chunks. The workers of a process share its inputs in the same way, else each has every n-th step; a data loader
    takes the steps of its workers in turn, which is the order of the steps again.

    Args:
        inputs: Of each, iteration gives handles of its images, and `row(handle)` what `read_pixels` takes.
        processor: The model's image processor.
        arguments: `rows_per_shard`, `batch_size` and `views` are used.
        done: The shards that were there when the run began: what is seen later would differ between workers.
        rank: Number of this process.
        num_ranks: How many processes there are.
    """

    def __init__(
        self,
        inputs: Sequence,
        processor,
        arguments: PredictArguments,
        done: dict[tuple[int, int], Shard],
        rank: int,
        num_ranks: int,
    ):
        self.inputs, self.processor, self.done = inputs, processor, done
        self.size, self.batch_size = arguments.rows_per_shard, arguments.batch_size
        self.views = Views.parse(arguments.views or "whole")
        self.rank, self.num_ranks = rank, num_ranks
        # Reading a file of a stream to its end may take long; lists and folders are compared with their shards.
        self.finished = _finished(done, self.size) if isinstance(inputs, _Streams) else set()

    def __iter__(self) -> Iterator[tuple[int, int, list | Whole | None]]:
        worker = get_worker_info()
        number, workers = (0, 1) if worker is None else (worker.id, worker.num_workers)
        share, shares = self.rank, self.num_ranks
        if len(self.inputs) >= shares * workers:
            share, shares, number, workers = share * workers + number, shares * workers, 0, 1
        for file, chunk, content in itertools.islice(self._steps(share, shares), number, None, workers):
            if isinstance(content, map):
                content = [read_pixels(row, self.processor, self.views) for row in content]
            yield file, chunk, content

    def _steps(self, share: int, shares: int) -> Iterator[tuple[int, int, map | Whole | None]]:
        """The steps of one of several shares, without reading the images."""
        by_file = len(self.inputs) >= shares
        for file in range(share if by_file else 0, len(self.inputs), shares if by_file else 1):
            if file in self.finished:
                continue
            source, num_chunks = self.inputs[file], 0
            for chunk, handles in enumerate(_chunks(source, self.size)):
                num_chunks += 1
                if not by_file and (file + chunk) % shares != share:
                    continue
                rows = 0
                while batch := list(itertools.islice(handles, self.batch_size)):
                    if rows == 0:
                        first = _known(source.row(batch[0]))
                    rows += len(batch)
                    if (file, chunk) not in self.done:
                        yield file, chunk, map(source.row, batch)
                yield file, chunk, Whole(first, rows)
            yield file, num_chunks, None


def _chunks(handles: Iterable, size: int) -> Iterator[Iterator]:
    """`size` handles at a time; those of a chunk that nobody takes are passed over."""
    handles = iter(handles)
    for first in handles:
        rest = itertools.islice(handles, size - 1)
        yield itertools.chain([first], rest)
        collections.deque(rest, maxlen=0)


def _known(row: dict) -> str:
    """By which an image is known again: its file, else its name and what its content is like."""
    if row["image"] is not None and row["image"]["bytes"] is None:
        return printable(row["name"])
    return f"{row['name']} (checksum {stamp(row['image'])})"


def _finished(done: dict[tuple[int, int], Shard], size: int) -> set[int]:
    """The inputs whose shards are there up to the last, which is not full."""
    counts = collections.Counter(file for file, _ in done)
    return {file for (file, chunk), shard in done.items() if shard.rows < size and counts[file] == chunk + 1}


def _written(
    steps: Iterable, folder: Path, done: dict[tuple[int, int], Shard], network, processor, arguments: PredictArguments
) -> Iterator[int]:
    """Predict batches and write shards; gives the number of images of each batch when it is predicted."""
    import pyarrow as pa

    strings, numbers = pa.list_(pa.string()), pa.list_(pa.float64())
    columns = [("image", pa.string()), ("labels", strings), ("scores", numbers), ("error", pa.string())]
    schema = pa.schema([*columns, ("boxes", boxes_type())] if arguments.boxes else columns)
    opened, last = collections.defaultdict(list), dict(sorted(done))
    for file, chunk, content in steps:
        path = shard_path(folder, file, chunk)
        if isinstance(content, list):
            rows = list(predict_batch(content, network, processor, arguments))
            opened[file, chunk].append(pa.RecordBatch.from_pylist(rows, schema))
            yield len(rows)
        elif content is None:
            if last.get(file, -1) >= chunk:
                raise RunError(f"{shard_path(folder, file, last[file])} is of images that are no longer there: the "
                               "input has changed; choose another --output")  # fmt: skip
        elif (file, chunk) in done:
            _compare(path, done[file, chunk], content)
        else:
            table = pa.Table.from_batches(opened.pop((file, chunk)))
            if len(table) != content.rows:
                raise RuntimeError(f"{path}: {len(table)} rows for {content.rows} images")
            _write(table, path, content.first)


def _compare(path: Path, shard: Shard, found: Whole) -> None:
    """Refuse an input that is not what a shard was made of."""
    if shard.first != found.first:
        raise RunError(f"{path}: its first image is {shard.first}, where the input now has {found.first}: the input "
                       "has changed, and with it the numbers of its images; choose another --output")  # fmt: skip
    if shard.rows != found.rows:
        raise RunError(f"{path}: holds {shard.rows} images, where the input now has {found.rows}; remove it, and the "
                       "same command writes it anew, or choose another --output")  # fmt: skip


def _write(table, path: Path, first: str) -> None:
    """A shard, whole or not at all."""
    from pyarrow import parquet

    noted = {"first": first, "unreadable": len(table) - table["error"].null_count}
    temporary = path.with_name(f".{path.stem}.{uuid.uuid4().hex}")
    with temporary.open("xb") as file:
        parquet.write_table(table.replace_schema_metadata({METADATA: json.dumps(noted)}), file)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


def _report(folder: Path) -> dict:
    shards = find_shards(folder)
    images, unreadable = (sum(getattr(shard, name) for shard in shards.values()) for name in ("rows", "unreadable"))
    print(f"{images} images in {len(shards)} shards: {folder}")
    if unreadable:
        holding = sorted(unit for unit, shard in shards.items() if shard.unreadable)
        names = listed([shard_path(folder, *unit).name for unit in holding])
        print(f"{unreadable} images could not be read, and have an error instead of labels, in {names}; to try again, "
              "remove these shards and run the same command")  # fmt: skip
    return {"num_images": images, "unreadable": unreadable, "num_shards": len(shards)}
