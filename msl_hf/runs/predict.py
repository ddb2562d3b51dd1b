r"""Labels of your images into a file, on as many processes as were launched, going on where it was interrupted.

    msl-hf predict --model outputs/photos --images holiday/ 'archive/*.jpg' --output labels.csv
    torchrun --nproc_per_node 2 -m msl_hf predict --model outputs/photos \
        --dataset me/photographs --split train --streaming true --output labels.parquet
    msl-hf predict --model outputs/photos --images @list.txt --output labels/ --num_workers 8

Run again after an interruption, or with more images, it does what is missing. Images that cannot be read are listed at
the end. The third command is for more images than fit into memory: it reads the list as it goes, and writes numbered
parquet files into a folder.
"""

import contextlib
import csv
import json
import os
import uuid
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

import torch
from accelerate.utils import gather_object
from torch.utils.data import DataLoader, IterableDataset, get_worker_info
from tqdm.auto import tqdm

from ..console.errors import RunError, user_input
from ..console.files import locked, read_json, write_json
from ..console.flags import parse_flags
from ..console.hardware import choose_workers
from ..data.files import images_below, printable, text_lines
from ..data.schema import column
from ..model.views_msl import Views
from .predict_batches import (
    DECISIONS,
    PredictArguments,
    boxes_type,
    fingerprint,
    image_key,
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
from .predict_shards import predict_shards

FORMATS = (".jsonl", ".csv", ".parquet")
UNKNOWN = "-" * 8  # the stamp of an image of which nothing was noted
FORMULA = ("=", "+", "-", "@")  # what a spreadsheet computes begins so


def run(argv: list[str]) -> None:
    """`msl-hf predict` with these flags."""
    predict(*parse_flags(argv, __doc__, PredictArguments))


def predict(arguments: PredictArguments) -> dict:
    """Write `{"image", "labels", "scores"}` for every image that can be read, in the order of the images.

    What is done goes into files beside the output as it is done: the same command goes on after an interruption, adds
    images that are new, and does again what has changed since. Images that cannot be read are listed at the end, in
    `<output>.unreadable.jsonl`, and tried again the next time. `<output>.run.json` says what made it. An output that
    is a folder is written by `predict_shards`, which returns something else.

    Returns:
        `num_images` (in the output) and `unreadable` (name -> message).

    Raises:
        RunError: where arguments or model cannot be used, the output comes from another model or threshold, another
            process writes it, or scores are no numbers.
    """
    _check(arguments)
    if _is_folder(arguments.output):
        return predict_shards(arguments)
    output = Path(arguments.output)
    state, network, processor = start(arguments, output.parent)
    with user_input():
        rows = _dataset_rows(arguments) if arguments.dataset else _Files(find_images(arguments.images))
    settings = {name: asdict(arguments)[name] for name in DECISIONS}
    settings["fingerprint"] = fingerprint(network, processor, arguments)
    settings["folder"] = os.getcwd()  # which relative names are relative to
    _check_settings(output, settings)
    # The main process alone holds the lock and writes what is beside the output.
    with contextlib.ExitStack() as stack:
        if state.is_main_process:
            stack.enter_context(locked(output.with_name(f".{output.name}.lock")))
        done = {rows.key(name): row for name, row in _done(output).items()}
        views = Views.parse(arguments.views)
        source = _Images(rows, processor, views, done, state.process_index, state.num_processes)
        state.wait_for_everyone()  # all have read what is done before anyone writes
        if state.is_main_process:
            stack.enter_context(_noted(output, settings))
        network.to(state.device, memory_format=torch.channels_last).eval()
        total = None if arguments.dataset and arguments.streaming else len(rows)
        hidden = arguments.disable_tqdm or not state.is_main_process
        workers = choose_workers(arguments.num_workers, state.device, state.is_main_process)
        loader = DataLoader(source, arguments.batch_size, num_workers=workers, collate_fn=list)
        # A name that no other run has had: what is there already may end within a line.
        part = output.with_name(f".{output.name}.part-{uuid.uuid4().hex}-{state.process_index}")
        written = 0
        with part.open("x", encoding="utf-8") as file, tqdm(total=total, initial=len(done), disable=hidden) as bar:
            for items in loader:
                for row in predict_batch(items, network, processor, arguments):
                    file.write(json.dumps(row) + "\n")
                    written += 1
                file.flush()
                bar.update(len(items) * state.num_processes)
        shares = gather_object([(str(part), written)])
        report = _finish(output, rows, done, shares, settings) if state.is_main_process else {}
        state.wait_for_everyone()
    return report


@contextlib.contextmanager
def _noted(output: Path, settings: dict) -> Iterator[None]:
    """Within: `<output>.run.json` holds the settings; where an error leaves no row, there is none afterwards."""
    noted = _beside(output, "run.json")
    write_json(noted, {**(read_json(noted) if noted.is_file() else {}), **settings})
    try:
        yield
    except BaseException:
        for part in _parts(output):
            if part.stat().st_size == 0:
                part.unlink()
        if not output.exists() and not _parts(output):
            noted.unlink()
        raise


def _check(arguments: PredictArguments) -> None:
    if arguments.model is None:
        raise RunError("say which model: --model FOLDER or a Hub id")
    if bool(arguments.images) == bool(arguments.dataset):
        raise RunError("say which images, either --images FILE FOLDER 'GLOB' ... or --dataset ID")
    if arguments.output is None or not (_is_folder(arguments.output) or Path(arguments.output).suffix in FORMATS):
        raise RunError("--output takes a folder, whose name ends in /, or a file that ends in "
                       f"{', '.join(FORMATS)}, got {arguments.output}")  # fmt: skip
    if arguments.threshold is not None and not 0 <= arguments.threshold <= 1:
        raise RunError(f"--threshold is a score in [0, 1], got {arguments.threshold}")
    if min(arguments.batch_size, arguments.rows_per_shard) < 1 or (
        arguments.top_k is not None and arguments.top_k < 1
    ):
        raise RunError("--batch_size, --rows_per_shard and --top_k must be at least 1")
    if arguments.num_workers is not None and arguments.num_workers < 0:
        raise RunError(f"--num_workers must not be negative, got {arguments.num_workers}")
    if len(os.fsencode(Path(arguments.output).name)) > 200:
        raise RunError("--output has a name of more than 200 bytes, too long for the files beside it")


def _is_folder(output: str) -> bool:
    return output.endswith("/") or os.path.isdir(output)


def find_images(sources: Sequence[str]) -> list[str]:
    """Files, the images of lists and in folders (searched also through links), what globs match, each once.

    An image that is found under several spellings of its path keeps the first. What else lies in the folders is
    counted and printed.

    Raises:
        RunError: naming a source that holds no image.
    """
    found: dict[str, str] = {}
    for source in sources:
        if source and Path(source).is_dir():
            images, others = images_below(source)
            files = [str(file) for file in images]
            if others:
                counts = ", ".join(f"{count} {ending}" for ending, count in others.most_common())
                print(f"{source}: {sum(others.values())} files are no images and are left aside: {counts}")
        else:
            files = list(named_images(source))
        if not files:
            raise none_in(source)
        for file in files:
            found.setdefault(image_key(file), file)
    return list(found.values())


class _Files:
    """Image files under their paths."""

    def __init__(self, files: list[str]):
        self.positions = {file: number for number, file in enumerate(files)}
        self.by_key = {image_key(file): number for number, file in enumerate(files)}

    def __len__(self) -> int:
        return len(self.positions)

    def __iter__(self) -> Iterator[dict]:
        return ({"name": file, "image": {"path": file, "bytes": None}} for file in self.positions)

    def key(self, name: str) -> str:
        """By which an image is known again, however its path is spelt."""
        return image_key(name)

    def position(self, key: str) -> int:
        """Where in the output an image belongs; one that is no longer asked for comes last."""
        return self.by_key.get(key, len(self))


class _Rows:
    """Images of a data set, without decoding them, under the name `<split>/<number>`."""

    def __init__(self, dataset, arguments: PredictArguments):
        self.dataset, self.column, self.split = dataset, arguments.image_column, arguments.split
        self.size = arguments.batch_size if not hasattr(dataset, "__len__") else None

    def __len__(self) -> int:
        return len(self.dataset)

    def __iter__(self) -> Iterator[dict]:
        rows = self.dataset
        if self.size is not None:
            rows = (row for table in tables(rows, self.size) for row in table.to_pylist())
        for number, row in enumerate(rows):
            yield {"name": f"{self.split}/{number}", "image": row[self.column], "crop": row.get("crop")}

    def key(self, name: str) -> str:
        return name

    def position(self, key: str) -> int:
        """Where in the output an image belongs."""
        return int(key.rsplit("/", 1)[1])


def _dataset_rows(arguments: PredictArguments) -> _Files | _Rows:
    dataset, may_be_files = open_dataset(arguments)
    if may_be_files:
        images = column(dataset, "image")
        if all(image["bytes"] is None for image in images):
            return _Files([image["path"] for image in images])
    return _Rows(dataset, arguments)


class _Images(IterableDataset):
    """This process's and worker's share of the rows that are not done, or have changed since.

    Items are (name, (stamp, what the network is given, or the message why there is none)).
    """

    def __init__(self, rows: Iterable[dict], processor, views: Views, done: dict, rank: int, num_ranks: int):
        self.rows, self.processor, self.views, self.done = rows, processor, views, done
        self.rank, self.num_ranks = rank, num_ranks

    def __iter__(self) -> Iterator[tuple[str, tuple[str | None, list[torch.Tensor] | str]]]:
        worker = get_worker_info()
        share, shares = self.rank, self.num_ranks
        if worker is not None:
            share, shares = share * worker.num_workers + worker.id, shares * worker.num_workers
        for number, row in enumerate(self.rows):
            if number % shares != share:
                continue
            earlier = self.done.get(self.rows.key(row["name"]))
            if earlier is None or earlier.get("stamp") not in (None, stamp(row["image"])):
                yield read_pixels(row, self.processor, self.views)


def _beside(output: Path, ending: str) -> Path:
    return output.with_name(f"{output.name}.{ending}")


def _check_settings(output: Path, settings: dict) -> None:
    """An output that is there must come from the same model and threshold, wherever the model lies now."""
    noted = _beside(output, "run.json")
    if not noted.is_file():
        if output.exists():
            raise RunError(f"{output} is there already and no output of this command; choose another --output")
        return
    earlier = read_json(noted)
    refuse_other(output, earlier, settings, DECISIONS)
    if not settings["dataset"] and earlier.get("folder", settings["folder"]) != settings["folder"]:
        lost = [name for name in _done(output) if not os.path.isabs(name) and not os.path.exists(name)]
        if lost:
            raise RunError(f"{output} names images from within {earlier['folder']}, such as {lost[0]}, which is none "
                           "here; go on from there, or choose another --output")  # fmt: skip


def _parts(output: Path) -> list[Path]:
    """What this and interrupted runs have written, the latest last."""
    beginning = f".{output.name}.part-"
    files = (file for file in output.parent.iterdir() if file.name.startswith(beginning))
    return sorted(files, key=lambda file: (file.stat().st_mtime_ns, file.name))


def _done(output: Path) -> dict[str, dict]:
    """Finished rows by name: of the output, and of what interrupted runs left."""
    rows = {row["image"]: row for row in _rows_with_stamps(output)} if output.is_file() else {}
    for part in _parts(output) if output.parent.is_dir() else ():
        rows.update((row["image"], row) for row in _read_lines(part) if "error" not in row)
    return rows


def _rows_with_stamps(output: Path) -> list[dict]:
    """The rows of an output, and of each what its image was like, where that was noted."""
    noted = _beside(output, "run.json")
    try:
        rows = read_predictions(output)
        if not all(isinstance(row["image"], str) and isinstance(row["labels"], list) for row in rows):
            raise ValueError("a row without image or labels")
    except Exception as error:  # csv, json and pyarrow each have their own
        raise RunError(f"{output}: cannot be read as an output of this command ({error}); remove it to start anew, or "
                       "choose another --output") from error  # fmt: skip
    stamps = (read_json(noted) if noted.is_file() else {}).get("stamps")
    if isinstance(stamps, str) and len(stamps) == 8 * len(rows):
        for number, row in enumerate(rows):
            stamp = stamps[8 * number : 8 * number + 8]
            row["stamp"] = None if stamp == UNKNOWN else stamp
    return rows


def _read_lines(file: Path) -> Iterator[dict]:
    """The rows of a JSONL file; a line that an interruption cut off costs itself alone."""
    for line in text_lines(file.read_text(encoding="utf-8", errors="replace")):
        with contextlib.suppress(ValueError, RecursionError):
            row = json.loads(line)
            if isinstance(row, dict) and "image" in row:
                yield row


def _finish(
    output: Path, rows: _Files | _Rows, before: Collection[str], shares: Sequence[tuple[str, int]], settings: dict
) -> dict:
    """Gather the parts into the output, in the order of the images; remove them when all images are there.

    Args:
        output: The file.
        rows: All images.
        before: Keys of those that had a row when this run began.
        shares: The part and the number of rows that each process has written.
        settings: What `run.json` holds.
    """
    parts = _parts(output)
    for part, written in shares:
        readable = sum(1 for _ in _read_lines(Path(part)))
        if readable != written:
            raise RunError(f"{part}: holds {readable} of the {written} rows that were written to it; nothing is "
                           "removed, and the same command goes on")  # fmt: skip
    failed = {row["image"]: row["error"] for part in parts for row in _read_lines(part) if "error" in row}
    done = {rows.key(name): row for name, row in _done(output).items()}
    again = [row for part, _ in shares for row in _read_lines(Path(part)) if rows.key(row["image"]) in before]
    for row in again:
        if "error" in row:  # it could be read before it changed
            done.pop(rows.key(row["image"]), None)
    if again:
        print(f"{len(again)} images have changed since they were predicted, and are predicted anew")
    unreadable = {name: message for name, message in failed.items() if rows.key(name) not in done}
    if isinstance(rows, _Files):
        lost = [name for name in rows.positions if rows.key(name) not in done and printable(name) not in unreadable]
        if lost:
            raise RunError(f"{output}: no row for {len(lost)} of {len(rows)} images, such as {lost[0]}; nothing is "
                           "removed, and the same command goes on")  # fmt: skip
    ordered = [row for _, row in sorted(done.items(), key=lambda item: rows.position(item[0]))]
    temporary = output.with_name(f".{output.name}.new")
    write_predictions(ordered, temporary, output.suffix)
    os.replace(temporary, output)
    stamps = "".join(row.get("stamp") or UNKNOWN for row in ordered)
    write_json(_beside(output, "run.json"), {**settings, "stamps": stamps})
    listed = _beside(output, "unreadable.jsonl")
    if unreadable:
        lines = (json.dumps({"image": name, "error": message}) for name, message in unreadable.items())
        listed.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    else:
        listed.unlink(missing_ok=True)
    for part in parts:
        part.unlink()
    print(f"{len(ordered)} images: {output}")
    for message in list(unreadable.values())[:10]:
        print(f"Not read: {message}")
    if unreadable:
        print(f"{len(unreadable)} images could not be read, all listed in {listed}")
    return {"num_images": len(ordered), "unreadable": unreadable}


def write_predictions(rows: Sequence[dict], file: Path, suffix: str) -> None:
    """Rows of `image`, `labels`, `scores`, and `boxes` where they have such, as JSONL, Parquet or CSV.

    In CSV semicolons separate labels and scores. Where a label has a semicolon, or would be a formula to a spreadsheet
    (it begins with =, +, - or @), the cell holds a JSON list of the labels; a path that would be one begins with `./`.
    """
    with_boxes = any("boxes" in row for row in rows)
    columns = ["image", "labels", "scores", *(["boxes"] if with_boxes else [])]
    rows = [{name: row[name] for name in columns} for row in rows]
    if suffix == ".jsonl":
        file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    elif suffix == ".csv":
        with file.open("w", newline="", encoding="utf-8") as stream:
            writer = csv.writer(stream)
            writer.writerow(columns)
            for row in rows:
                image = f"./{row['image']}" if row["image"].startswith(FORMULA) else row["image"]
                boxes = [json.dumps(row["boxes"])] if with_boxes else []
                writer.writerow([image, _cell(row["labels"]), ";".join(map(str, row["scores"])), *boxes])
    else:
        import pyarrow as pa
        from pyarrow import parquet

        kinds = {"image": pa.string(), "labels": pa.list_(pa.string()), "scores": pa.list_(pa.float64()),
                 "boxes": boxes_type()}  # fmt: skip
        schema = pa.schema([(name, kinds[name]) for name in columns])
        parquet.write_table(pa.Table.from_pylist(rows, schema=schema), file)


def _cell(labels: Sequence[str]) -> str:
    is_plain = all(label and ";" not in label and not label.startswith((*FORMULA, "[")) for label in labels)
    return ";".join(labels) if is_plain else json.dumps(list(labels), ensure_ascii=False)


def read_predictions(file: Path) -> list[dict]:
    """What `write_predictions` wrote."""
    if file.suffix == ".jsonl":
        return list(_read_lines(file))
    if file.suffix == ".csv":
        with file.open(newline="", encoding="utf-8") as stream:
            rows = list(csv.DictReader(stream))
        for row in rows:
            labels = row["labels"]
            row["labels"] = json.loads(labels) if labels.startswith("[") else labels.split(";") if labels else []
            row["scores"] = [float(score) for score in row["scores"].split(";")] if row["scores"] else []
            if "boxes" in row:
                row["boxes"] = json.loads(row["boxes"])
        return rows
    from pyarrow import parquet

    return parquet.read_table(file).to_pylist()
