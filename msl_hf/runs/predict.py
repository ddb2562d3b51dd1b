r"""Labels of your images into a file, on as many processes as were launched, going on where it was interrupted.

    msl-hf predict --model outputs/photos --images holiday/ 'archive/*.jpg' --output labels.csv
    torchrun --nproc_per_node 2 -m msl_hf predict --model outputs/photos \
        --dataset me/photographs --split train --streaming true --output labels.parquet

Run again after an interruption, or with more images, it does what is missing. Images that cannot be read are listed at
the end.
"""

import contextlib
import csv
import functools
import glob
import hashlib
import json
import os
import uuid
import zlib
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from accelerate import PartialState
from accelerate.utils import gather_object
from torch.utils.data import DataLoader, IterableDataset, get_worker_info
from tqdm.auto import tqdm
from transformers.utils import logging

from ..data.files import images_below, is_utf8, printable, text_lines
from ..data.images import read_image, set_max_pixels
from ..data.readers import FORMATS as DATA_FORMATS
from ..data.schema import DataError, column, undecoded
from ..data.transforms import input_size, normalized, resized
from ..model.pipeline_msl import labels_above
from .arguments import MAX_PIXELS_HELP, WORKERS_HELP, parse_flags
from .errors import RunError
from .hardware import choose_workers, set_cpu_threads
from .inputs import find_split, load_trained, user_input
from .output import check_folder, locked, read_json, write_json
from .reading import ReadingArguments, format_of, read_data

logger = logging.get_logger(__name__)

FORMATS = (".jsonl", ".csv", ".parquet")
# What an interrupted run must have in common with the one that goes on.
DECISIONS = ("model", "dataset", "split", "threshold", "top_k", "bf16")
UNKNOWN = "-" * 8  # the stamp of an image of which nothing was noted
FORMULA = ("=", "+", "-", "@")  # what a spreadsheet computes begins so


@dataclass
class PredictArguments(ReadingArguments):
    """Which images, by which model, into which file."""

    model: str | None = field(default=None, metadata={"help": "Model folder or Hub id."})
    images: list[str] = field(default_factory=list, metadata={"help": "Image files, folders, or quoted globs."})
    dataset: str | None = field(default=None, metadata={"help": "Instead: Hub id, or labelled data of any kind."})
    format: str = field(
        default="auto", metadata={"help": "How --dataset is stored; auto finds out.", "choices": list(DATA_FORMATS)}
    )
    max_pixels: int | None = field(default=None, metadata={"help": MAX_PIXELS_HELP})
    split: str = field(default="test", metadata={"help": "Split of --dataset."})
    image_column: str = field(default="image", metadata={"help": "Column of --dataset that holds the images."})
    streaming: bool = field(default=False, metadata={"help": "Read --dataset as it comes instead of downloading it."})
    output: str | None = field(default=None, metadata={"help": "File for the labels: .jsonl, .csv or .parquet."})
    threshold: float | None = field(
        default=None, metadata={"help": "Least score of a label; default: the model's own thresholds, else 0.5."}
    )
    top_k: int | None = field(default=None, metadata={"help": "At most so many labels of an image."})
    batch_size: int = field(default=32, metadata={"help": "Images in a batch."})
    num_workers: int | None = field(default=None, metadata={"help": WORKERS_HELP})
    bf16: bool = field(default=False, metadata={"help": "bfloat16 autocast."})
    use_cpu: bool = field(default=False, metadata={"help": "Leave an accelerator alone."})
    cpu_threads: int | None = field(default=None, metadata={"help": "Threads of one process; default: usable cores."})
    disable_tqdm: bool = field(default=False, metadata={"help": "No progress bar."})


def run(argv: list[str]) -> None:
    """`msl-hf predict` with these flags."""
    predict(*parse_flags(argv, __doc__, PredictArguments))


def predict(arguments: PredictArguments) -> dict:
    """Write `{"image", "labels", "scores"}` for every image that can be read, in the order of the images.

    What is done goes into files beside the output as it is done: the same command goes on after an interruption, adds
    images that are new, and does again what has changed since. Images that cannot be read are listed at the end, in
    `<output>.unreadable.jsonl`, and tried again the next time. `<output>.run.json` says what made it.

    Returns:
        `num_images` (in the output) and `unreadable` (name -> message).

    Raises:
        RunError: where arguments or model cannot be used, the output comes from another model or threshold, another
            process writes it, or scores are no numbers.
    """
    _check(arguments)
    set_cpu_threads(arguments.cpu_threads)
    set_max_pixels(arguments.max_pixels)
    state = PartialState(cpu=arguments.use_cpu)
    output = Path(arguments.output)
    with user_input():
        check_folder(output.parent)
        network, processor = load_trained(arguments.model)
        input_size(processor)
        rows = _dataset_rows(arguments) if arguments.dataset else _Files(find_images(arguments.images))
    settings = {name: asdict(arguments)[name] for name in DECISIONS}
    settings["fingerprint"] = _fingerprint(network, processor, arguments)
    settings["folder"] = os.getcwd()  # which relative names are relative to
    _check_settings(output, settings)
    # The main process alone holds the lock and writes what is beside the output.
    with contextlib.ExitStack() as stack:
        if state.is_main_process:
            stack.enter_context(locked(output.with_name(f".{output.name}.lock")))
        done = {rows.key(name): row for name, row in _done(output).items()}
        source = _Images(rows, processor, done, state.process_index, state.num_processes)
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
                for row in _predict_batch(items, network, processor, state.device, arguments):
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
    if arguments.output is None or Path(arguments.output).suffix not in FORMATS:
        raise RunError(f"--output takes a file that ends in {', '.join(FORMATS)}, got {arguments.output}")
    if arguments.threshold is not None and not 0 <= arguments.threshold <= 1:
        raise RunError(f"--threshold is a score in [0, 1], got {arguments.threshold}")
    if arguments.batch_size < 1 or (arguments.top_k is not None and arguments.top_k < 1):
        raise RunError("--batch_size and --top_k must be at least 1")
    if arguments.num_workers is not None and arguments.num_workers < 0:
        raise RunError(f"--num_workers must not be negative, got {arguments.num_workers}")
    if len(os.fsencode(Path(arguments.output).name)) > 200:
        raise RunError("--output has a name of more than 200 bytes, too long for the files beside it")


def find_images(sources: Sequence[str]) -> list[str]:
    """Files, the images in folders (searched recursively, also through links) and what globs match, each once.

    An image that is found under several spellings of its path keeps the first. What else lies in the folders is
    counted and printed.

    Raises:
        RunError: naming a source that holds no image.
    """
    found: dict[str, str] = {}
    for source in sources:
        path = Path(source)
        if not source:
            raise RunError("--images holds an empty name; write . for the folder that you are in")
        if path.is_dir():
            images, others = images_below(path)
            files = [str(file) for file in images]
            if others:
                counts = ", ".join(f"{count} {ending}" for ending, count in others.most_common())
                print(f"{source}: {sum(others.values())} files are no images and are left aside: {counts}")
        elif path.is_file():
            files = [source]
        else:
            files = sorted(file for file in glob.glob(source, recursive=True) if Path(file).is_file())
        if not files:
            raise RunError(f"{source}: no such image, no folder with images in it, and no glob that matches any")
        for file in files:
            found.setdefault(image_key(file), file)
    return list(found.values())


def image_key(path: str) -> str:
    """The same for every spelling of a path, through links to folders, too."""
    folder, name = os.path.split(path)
    return os.path.join(_real_folder(os.path.join(os.getcwd(), folder)), name)


@functools.lru_cache(maxsize=100_000)
def _real_folder(folder: str) -> str:
    return os.path.realpath(folder)


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

    def __len__(self) -> int:
        return len(self.dataset)

    def __iter__(self) -> Iterator[dict]:
        for number, row in enumerate(self.dataset):
            yield {"name": f"{self.split}/{number}", "image": row[self.column], "crop": row.get("crop")}

    def key(self, name: str) -> str:
        return name

    def position(self, key: str) -> int:
        """Where in the output an image belongs."""
        return int(key.rsplit("/", 1)[1])


def _dataset_rows(arguments: PredictArguments) -> _Files | _Rows:
    from datasets import Image, load_dataset

    format = format_of(arguments.dataset, arguments.format, arguments)
    if format != "hub":
        datasets = read_data(arguments.dataset, format, arguments)
        dataset = undecoded(datasets[find_split(datasets, arguments.split)])
        images = column(dataset, "image")
        if "crop" not in dataset.features and all(image["bytes"] is None for image in images):
            return _Files([image["path"] for image in images])
        return _Rows(dataset, arguments)
    try:
        dataset = load_dataset(arguments.dataset, split=arguments.split, streaming=arguments.streaming)
        dataset = dataset.select_columns([arguments.image_column])
        dataset = dataset.cast_column(arguments.image_column, Image(decode=False))
    except Exception as error:  # datasets, huggingface_hub and fsspec have no common type
        raise DataError(f"{arguments.dataset}, split {arguments.split!r}, column {arguments.image_column!r}: "
                        f"cannot be loaded ({error})") from error  # fmt: skip
    return _Rows(dataset, arguments)


class _Images(IterableDataset):
    """This process's and worker's share of the rows that are not done, or have changed since.

    Items are (name, (stamp, pixel values, or the message why there are none)).
    """

    def __init__(self, rows: Iterable[dict], processor, done: dict, rank: int, num_ranks: int):
        self.rows, self.processor, self.done = rows, processor, done
        self.rank, self.num_ranks = rank, num_ranks

    def __iter__(self) -> Iterator[tuple[str, tuple[str | None, torch.Tensor | str]]]:
        worker = get_worker_info()
        share, shares = self.rank, self.num_ranks
        if worker is not None:
            share, shares = share * worker.num_workers + worker.id, shares * worker.num_workers
        for number, row in enumerate(self.rows):
            if number % shares != share:
                continue
            name, stamp = row["name"], _stamp(row["image"])
            earlier = self.done.get(self.rows.key(name))
            if earlier is not None and earlier.get("stamp") in (None, stamp):
                continue
            try:
                if not is_utf8(name):
                    raise DataError(f"{printable(name)}: its name is not UTF-8, as the output is; rename it")
                image = read_image(row)
                yield name, (stamp, resized(image, self.processor))
            except DataError as error:
                yield printable(name), (stamp, str(error))


def _stamp(image: dict) -> str | None:
    """Eight digits that change with an image: with its content, of a file with size and time; None without file."""
    content = image.get("bytes")
    if content is None:
        try:
            status = os.stat(image["path"])
        except (OSError, ValueError, TypeError):
            return None
        content = f"{status.st_size} {status.st_mtime_ns}".encode()
    return f"{zlib.crc32(content):08x}"


def _predict_batch(
    items: Sequence, network, processor, device: torch.device, arguments: PredictArguments
) -> Iterator[dict]:
    """The lines of a batch."""
    readable = [(name, *read) for name, read in items if not isinstance(read[1], str)]
    if readable:
        pixel_values = torch.stack([pixels for *_, pixels in readable])
        pixel_values = pixel_values.to(device, memory_format=torch.channels_last)
        pixel_values = normalized(pixel_values, processor.image_mean, processor.image_std)
        with torch.inference_mode(), torch.autocast(device.type, torch.bfloat16, enabled=arguments.bf16):
            scores = network(pixel_values).logits.float().sigmoid().cpu()
        if scores.isnan().any():
            name = readable[scores.isnan().any(dim=1).nonzero()[0].item()][0]
            raise RunError(f"{name}: its scores are no numbers; the model cannot compute with its pixels"
                           f"{', perhaps without --bf16' if arguments.bf16 else ''}")  # fmt: skip
    yield from ({"image": name, "error": read[1]} for name, read in items if isinstance(read[1], str))
    for (name, stamp, _), row in zip(readable, scores if readable else (), strict=True):
        chosen = labels_above(row, network.config, arguments.threshold, arguments.top_k)
        labels = [network.config.id2label[index] for index in chosen]
        found = [round(row[index].item(), 6) for index in chosen]
        yield {"image": name, "labels": labels, "scores": found, "stamp": stamp}


def _beside(output: Path, ending: str) -> Path:
    return output.with_name(f"{output.name}.{ending}")


def _fingerprint(network, processor, arguments: PredictArguments) -> dict[str, str]:
    """What decides the scores and is no argument: digests of weights, of classes and thresholds, of preprocessing."""
    config, weights = network.config, hashlib.sha256()
    weights.update(repr((config.head, config.num_heads, config.csra_lambda)).encode())
    for name, values in network.state_dict().items():
        weights.update(name.encode())
        weights.update(values.detach().cpu().reshape(-1).view(torch.uint8).numpy())
    thresholds = config.thresholds if arguments.threshold is None else None
    classes = [config.id2label[index] for index in range(config.num_labels)]
    return {
        "weights": weights.hexdigest(),
        "classes or thresholds": hashlib.sha256(json.dumps([classes, thresholds]).encode()).hexdigest(),
        "preprocessing": hashlib.sha256(processor.to_json_string().encode()).hexdigest(),
    }


def _check_settings(output: Path, settings: dict) -> None:
    """An output that is there must come from the same model and threshold, wherever the model lies now."""
    noted = _beside(output, "run.json")
    if not noted.is_file():
        if output.exists():
            raise RunError(f"{output} is there already and no output of this command; choose another --output")
        return
    earlier = read_json(noted)
    fingerprint = earlier.get("fingerprint")
    for part, digest in settings["fingerprint"].items() if isinstance(fingerprint, dict) else ():
        if fingerprint.get(part) != digest:
            model = earlier.get("model")
            other = f"--model {model}, not {settings['model']}" if model != settings["model"] else f"--model {model}"
            raise RunError(f"{output} was written with {other}, which has other {part} now; choose another --output")
    for name in DECISIONS:
        is_moved = name == "model" and fingerprint is not None
        if earlier.get(name, settings[name]) != settings[name] and not is_moved:
            raise RunError(f"{output} was written with --{name} {earlier.get(name)}, not {settings[name]}; "
                           "choose another --output")  # fmt: skip
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
    """Rows of `image`, `labels`, `scores` as JSONL, Parquet or CSV.

    In CSV semicolons separate labels and scores. Where a label has a semicolon, or would be a formula to a spreadsheet
    (it begins with =, +, - or @), the cell holds a JSON list of the labels; a path that would be one begins with `./`.
    """
    rows = [{name: row[name] for name in ("image", "labels", "scores")} for row in rows]
    if suffix == ".jsonl":
        file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    elif suffix == ".csv":
        with file.open("w", newline="", encoding="utf-8") as stream:
            writer = csv.writer(stream)
            writer.writerow(["image", "labels", "scores"])
            for row in rows:
                image = f"./{row['image']}" if row["image"].startswith(FORMULA) else row["image"]
                writer.writerow([image, _cell(row["labels"]), ";".join(map(str, row["scores"]))])
    else:
        import pyarrow as pa
        from pyarrow import parquet

        strings = pa.list_(pa.string())
        schema = pa.schema([("image", pa.string()), ("labels", strings), ("scores", pa.list_(pa.float64()))])
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
        return rows
    from pyarrow import parquet

    return parquet.read_table(file).to_pylist()
