"""Labels of many images into a file, on as many processes as were launched, going on where it was interrupted."""

import csv
import glob
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from accelerate import PartialState
from torch.utils.data import DataLoader, IterableDataset, get_worker_info
from tqdm.auto import tqdm
from transformers.utils import logging

from ..data.files import images_below, text_lines
from ..data.images import read_image, set_max_pixels
from ..data.readers import FORMATS as DATA_FORMATS
from ..data.schema import DataError, column, undecoded
from ..model.pipeline_msl import labels_above
from .arguments import MAX_PIXELS_HELP, RunError
from .hardware import set_cpu_threads
from .inputs import find_split, load_trained, user_input
from .output import read_json, write_json
from .reading import ReadingArguments, format_of, read_data

logger = logging.get_logger(__name__)

FORMATS = (".jsonl", ".csv", ".parquet")
DECISIONS = (
    "model",
    "dataset",
    "split",
    "threshold",
    "top_k",
)  # what an interrupted run must have in common with the one that goes on


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
    num_workers: int = field(default=0, metadata={"help": "Processes that read images."})
    bf16: bool = field(default=False, metadata={"help": "bfloat16 autocast."})
    use_cpu: bool = field(default=False, metadata={"help": "Leave an accelerator alone."})
    cpu_threads: int | None = field(default=None, metadata={"help": "Threads of one process; default: all cores."})
    disable_tqdm: bool = field(default=False, metadata={"help": "No progress bar."})


def predict(arguments: PredictArguments) -> dict:
    """Write `{"image", "labels", "scores"}` for every image that can be read, in the order of the images.

    What is done goes into files beside the output as it is done: the same command goes on after an interruption, and
    adds images that are new. Images that cannot be read are listed at the end, in `<output>.unreadable.jsonl`, and
    tried again the next time.

    Returns:
        `num_images` (in the output) and `unreadable` (name -> message).

    Raises:
        RunError: where arguments or model cannot be used, or the output comes from another model or threshold.
    """
    _check(arguments)
    set_cpu_threads(arguments.cpu_threads)
    set_max_pixels(arguments.max_pixels)
    state = PartialState(cpu=arguments.use_cpu)
    output = Path(arguments.output)
    with user_input():
        network, processor = load_trained(arguments.model)
        rows = _dataset_rows(arguments) if arguments.dataset else _Files(find_images(arguments.images))
    _check_settings(output, arguments)
    done = _done(output)
    source = _Images(rows, processor, done, state.process_index, state.num_processes)
    output.parent.mkdir(parents=True, exist_ok=True)
    state.wait_for_everyone()  # all have read what is done before anyone writes
    if state.is_main_process:
        write_json(_beside(output, "run.json"), {name: asdict(arguments)[name] for name in DECISIONS})
    network.to(state.device, memory_format=torch.channels_last).eval()
    total = None if arguments.dataset and arguments.streaming else len(rows)
    hidden = arguments.disable_tqdm or not state.is_main_process
    loader = DataLoader(source, arguments.batch_size, num_workers=arguments.num_workers, collate_fn=list)
    part = output.with_name(f".{output.name}.part-{os.getpid()}-{state.process_index}")
    with part.open("a", encoding="utf-8") as file, tqdm(total=total, initial=len(done), disable=hidden) as bar:
        for items in loader:
            for row in _predict_batch(items, network, state.device, arguments):
                file.write(json.dumps(row) + "\n")
            file.flush()
            bar.update(len(items) * state.num_processes)
    state.wait_for_everyone()
    report = _finish(output, rows) if state.is_main_process else {}
    state.wait_for_everyone()
    return report


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


def find_images(sources: Sequence[str]) -> list[str]:
    """Files, the images in folders (searched recursively, also through links) and what globs match, each once.

    What else lies in the folders is counted and printed.

    Raises:
        RunError: naming a source that holds no image.
    """
    found: dict[str, None] = {}
    for source in sources:
        path = Path(source)
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
        found.update(dict.fromkeys(files))
    return list(found)


class _Files:
    """Image files under their paths."""

    def __init__(self, files: list[str]):
        self.positions = {file: number for number, file in enumerate(files)}

    def __len__(self) -> int:
        return len(self.positions)

    def __iter__(self) -> Iterator[dict]:
        return ({"name": file, "image": {"path": file, "bytes": None}} for file in self.positions)

    def position(self, name: str) -> int:
        """Where in the output an image belongs; one that is no longer asked for comes last."""
        return self.positions.get(name, len(self))


class _Rows:
    """Images of a data set, without decoding them, under the name `<split>/<number>`."""

    def __init__(self, dataset, arguments: PredictArguments):
        self.dataset, self.column, self.split = dataset, arguments.image_column, arguments.split

    def __len__(self) -> int:
        return len(self.dataset)

    def __iter__(self) -> Iterator[dict]:
        for number, row in enumerate(self.dataset):
            yield {"name": f"{self.split}/{number}", "image": row[self.column], "crop": row.get("crop")}

    def position(self, name: str) -> int:
        """Where in the output an image belongs."""
        return int(name.rsplit("/", 1)[1])


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
    """(name, pixel values, or the message why there are none) of this process's and worker's share of the rows."""

    def __init__(self, rows: Iterable[dict], processor, done: dict, rank: int, num_ranks: int):
        self.rows, self.processor, self.done = rows, processor, done
        self.rank, self.num_ranks = rank, num_ranks

    def __iter__(self) -> Iterator[tuple[str, torch.Tensor | str]]:
        worker = get_worker_info()
        share, shares = self.rank, self.num_ranks
        if worker is not None:
            share, shares = share * worker.num_workers + worker.id, shares * worker.num_workers
        todo = (row for row in self.rows if row["name"] not in self.done)
        for number, row in enumerate(todo):
            if number % shares == share:
                try:
                    image = read_image(row)
                    yield row["name"], self.processor(image, return_tensors="pt")["pixel_values"][0]
                except DataError as error:
                    yield row["name"], str(error)


def _predict_batch(items: Sequence, network, device: torch.device, arguments: PredictArguments) -> Iterator[dict]:
    """The lines of a batch."""
    readable = [(name, pixels) for name, pixels in items if not isinstance(pixels, str)]
    yield from ({"image": name, "error": message} for name, message in items if isinstance(message, str))
    if not readable:
        return
    pixel_values = torch.stack([pixels for _, pixels in readable]).to(device, memory_format=torch.channels_last)
    with torch.inference_mode(), torch.autocast(device.type, torch.bfloat16, enabled=arguments.bf16):
        scores = network(pixel_values).logits.float().sigmoid().cpu()
    for (name, _), row in zip(readable, scores, strict=True):
        chosen = labels_above(row, network.config, arguments.threshold, arguments.top_k)
        labels = [network.config.id2label[index] for index in chosen]
        yield {"image": name, "labels": labels, "scores": [round(row[index].item(), 6) for index in chosen]}


def _beside(output: Path, ending: str) -> Path:
    return output.with_name(f"{output.name}.{ending}")


def _check_settings(output: Path, arguments: PredictArguments) -> None:
    """An output that is there must come from the same model and threshold."""
    noted = _beside(output, "run.json")
    if not noted.is_file():
        if output.exists():
            raise RunError(f"{output} is there already and no output of this command; choose another --output")
        return
    earlier = read_json(noted)
    for name in DECISIONS:
        if earlier.get(name) != getattr(arguments, name):
            raise RunError(f"{output} was written with --{name} {earlier.get(name)}, not {getattr(arguments, name)}; "
                           "choose another --output")  # fmt: skip


def _done(output: Path) -> dict[str, dict]:
    """Finished rows by name: of the output, and of what interrupted runs left."""
    rows = {row["image"]: row for row in read_predictions(output)} if output.is_file() else {}
    for part in sorted(output.parent.glob(f".{output.name}.part-*")):
        rows.update((row["image"], row) for row in _read_lines(part) if "error" not in row)
    return rows


def _read_lines(file: Path) -> Iterator[dict]:
    """The rows of a JSONL file; a last line that an interruption cut off is left out."""
    for line in text_lines(file.read_text(encoding="utf-8")):
        try:
            yield json.loads(line)
        except ValueError:
            return


def _finish(output: Path, rows: _Files | _Rows) -> dict:
    """Gather the parts into the output, in the order of the images, and remove them."""
    parts = sorted(output.parent.glob(f".{output.name}.part-*"))
    unreadable = {row["image"]: row["error"] for part in parts for row in _read_lines(part) if "error" in row}
    done = _done(output)
    unreadable = {name: message for name, message in unreadable.items() if name not in done}
    ordered = sorted(done.values(), key=lambda row: rows.position(row["image"]))
    temporary = output.with_name(f".{output.name}.{os.getpid()}")
    write_predictions(ordered, temporary, output.suffix)
    os.replace(temporary, output)
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
    """Rows of `image`, `labels`, `scores` as JSONL, CSV (lists separated by semicolons) or Parquet."""
    if suffix == ".jsonl":
        file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    elif suffix == ".csv":
        with file.open("w", newline="", encoding="utf-8") as stream:
            writer = csv.writer(stream)
            writer.writerow(["image", "labels", "scores"])
            writer.writerows(
                [row["image"], ";".join(row["labels"]), ";".join(map(str, row["scores"]))] for row in rows
            )
    else:
        import pyarrow as pa
        from pyarrow import parquet

        strings = pa.list_(pa.string())
        schema = pa.schema([("image", pa.string()), ("labels", strings), ("scores", pa.list_(pa.float64()))])
        parquet.write_table(pa.Table.from_pylist(list(rows), schema=schema), file)


def read_predictions(file: Path) -> list[dict]:
    """What `write_predictions` wrote."""
    if file.suffix == ".jsonl":
        return list(_read_lines(file))
    if file.suffix == ".csv":
        with file.open(newline="", encoding="utf-8") as stream:
            rows = list(csv.DictReader(stream))
        for row in rows:
            row["labels"] = row["labels"].split(";") if row["labels"] else []
            row["scores"] = [float(score) for score in row["scores"].split(";")] if row["scores"] else []
        return rows
    from pyarrow import parquet

    return parquet.read_table(file).to_pylist()
