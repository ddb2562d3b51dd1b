"""What a prediction into one file and one into a folder of shards have in common: images, their scores, settings."""

import functools
import glob
import hashlib
import json
import os
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

import torch
from accelerate import PartialState

from ..console.errors import RunError, user_input
from ..console.files import check_folder
from ..console.hardware import set_cpu_threads
from ..data.files import is_image, is_utf8, printable, walk
from ..data.images import read_image, set_max_pixels
from ..data.readers import FORMATS as DATA_FORMATS
from ..data.schema import DataError, undecoded
from ..data.transforms import input_size
from ..hub.batches import look, named_labels, score
from ..model.boxes_msl import boxes_of
from ..model.views_msl import Views, views_of
from .arguments import MAX_PIXELS_HELP, WORKERS_HELP
from .networks import load_trained
from .reading import ReadingArguments, format_of, read_data
from .splits import find_split

# What an interrupted run must have in common with the one that goes on.
DECISIONS = ("model", "dataset", "split", "threshold", "top_k", "bf16", "views", "boxes")


@dataclass
class PredictArguments(ReadingArguments):
    """Which images, by which model, into which file."""

    model: str | None = field(default=None, metadata={"help": "Model folder or Hub id."})
    images: list[str] = field(
        default_factory=list,
        metadata={"help": "Image files, folders, quoted globs, or @LIST: a text file with a path a line."},
    )
    dataset: str | None = field(default=None, metadata={"help": "Instead: Hub id, or labelled data of any kind."})
    format: str = field(
        default="auto", metadata={"help": "How --dataset is stored; auto finds out.", "choices": list(DATA_FORMATS)}
    )
    max_pixels: int | None = field(default=None, metadata={"help": MAX_PIXELS_HELP})
    split: str = field(default="test", metadata={"help": "Split of --dataset."})
    image_column: str = field(default="image", metadata={"help": "Column of --dataset that holds the images."})
    streaming: bool = field(default=False, metadata={"help": "Read --dataset as it comes instead of downloading it."})
    output: str | None = field(
        default=None,
        metadata={"help": "File for the labels: .jsonl, .csv or .parquet; or FOLDER/ for numbered parquet files."},
    )
    rows_per_shard: int = field(default=100_000, metadata={"help": "Images in a parquet file of --output FOLDER/."})
    threshold: float | None = field(
        default=None, metadata={"help": "Least score of a label; default: the model's own thresholds, else 0.5."}
    )
    top_k: int | None = field(default=None, metadata={"help": "At most so many labels of an image."})
    views: str | None = field(
        default=None,
        metadata={"help": "How an image is looked at, such as whole@224+2x2@160; whole is the plain pass; default: "
                          "what the model's config says."},
    )  # fmt: skip
    boxes: bool = field(
        default=False,
        metadata={"help": "Add boxes around where the evidence of each label lies, from its score map, in pixels."},
    )
    batch_size: int = field(default=32, metadata={"help": "Images in a batch."})
    num_workers: int | None = field(default=None, metadata={"help": WORKERS_HELP})
    bf16: bool = field(default=False, metadata={"help": "bfloat16 autocast."})
    use_cpu: bool = field(default=False, metadata={"help": "Leave an accelerator alone."})
    cpu_threads: int | None = field(default=None, metadata={"help": "Threads of one process; default: usable cores."})
    disable_tqdm: bool = field(default=False, metadata={"help": "No progress bar."})


def start(arguments: PredictArguments, folder: Path):
    """(state of the processes, network on the CPU, image processor), where `folder` can be written to."""
    set_cpu_threads(arguments.cpu_threads)
    set_max_pixels(arguments.max_pixels)
    # A process that is done waits for the others, whose shares may take days longer.
    state = PartialState(cpu=arguments.use_cpu, timeout=timedelta(days=30))
    with user_input():
        check_folder(folder)
        network, processor = load_trained(arguments.model)
        input_size(processor)
        views = views_of(arguments.views, network.config)
        views.check(network, processor)
        arguments.views = str(views)
    return state, network, processor


def named_images(source: str) -> Iterator[str]:
    """The images that one of `--images` names: a file, a folder, a glob, or `@LIST`.

    Folders and lists are read as far as they are asked for, a folder and what lies below in sorted order. What a glob
    matches is sorted first.

    Raises:
        RunError: for an empty name, and a list that cannot be read.
    """
    path = Path(source)
    if not source:
        raise RunError("--images holds an empty name; write . for the folder that you are in")
    if source.startswith("@"):
        yield from _listed(source[1:])
    elif path.is_dir():
        yield from (str(file) for file in walk(path) if is_image(file))
    elif path.is_file():
        yield source
    else:
        yield from sorted(file for file in glob.glob(source, recursive=True) if Path(file).is_file())


def _listed(file: str) -> Iterator[str]:
    """The lines of a list; relative names are relative to its folder."""
    folder = os.path.dirname(file)
    try:
        with open(file, "rb") as lines:
            for number, line in enumerate(lines):
                name = os.fsdecode(line.removeprefix(b"\xef\xbb\xbf" if number == 0 else b"").rstrip(b"\r\n"))
                if name:
                    yield os.path.join(folder, name)
    except OSError as error:
        raise RunError(f"--images @{file}: the list cannot be read ({error.strerror}); @ stands before a text file "
                       f"with the path of an image in each line, and an image of that name is ./@{file}"
                       ) from error  # fmt: skip


def none_in(source: str) -> RunError:
    """The error about one of `--images` that names no image."""
    if source.startswith("@"):
        return RunError(
            f"{source}: the list is empty; it has the path of an image in each line, relative to its folder"
        )
    return RunError(f"{source}: no such image, no folder with images in it, and no glob that matches any")


def image_key(path: str) -> str:
    """The same for every spelling of a path, through links to folders, too."""
    folder, name = os.path.split(path)
    return os.path.join(_real_folder(os.path.join(os.getcwd(), folder)), name)


@functools.lru_cache(maxsize=100_000)
def _real_folder(folder: str) -> str:
    return os.path.realpath(folder)


def open_dataset(arguments: PredictArguments):
    """The split of `--dataset`, images undecoded, a stream where so asked, and whether images may have file names.

    Raises:
        DataError: naming the data set, split or column that cannot be loaded.
    """
    from datasets import Image, load_dataset

    format = format_of(arguments.dataset, arguments.format, arguments)
    if format != "hub":
        datasets = read_data(arguments.dataset, format, arguments)
        dataset = undecoded(datasets[find_split(datasets, arguments.split)])
        return dataset, "crop" not in dataset.features
    try:
        dataset = load_dataset(arguments.dataset, split=arguments.split, streaming=arguments.streaming)
        dataset = dataset.select_columns([arguments.image_column])
        return dataset.cast_column(arguments.image_column, Image(decode=False)), False
    except Exception as error:  # datasets, huggingface_hub and fsspec have no common type
        raise DataError(f"{arguments.dataset}, split {arguments.split!r}, column {arguments.image_column!r}: "
                        f"cannot be loaded ({error})") from error  # fmt: skip


def tables(stream, size: int) -> Iterator:
    """A stream as Arrow tables of at most `size` rows, all of them in every worker of a data loader.

    Iterated over as it is, datasets gives each worker some of the files, of which the worker would then take a share.
    """
    return stream.with_format("arrow").iter(batch_size=size)


# Of an image: what `look` gives, and (width, height).
Pixels = tuple[list[torch.Tensor], tuple[int, int]]


def read_pixels(row: dict, processor, views: Views) -> tuple[str, tuple[str | None, Pixels | str]]:
    """(name, (stamp, what the network is given, or why there is none)) of a row of `name`, `image`, perhaps `crop`."""
    name, noted = row["name"], stamp(row["image"])
    try:
        if not is_utf8(name):
            raise DataError(f"{printable(name)}: its name is not UTF-8, as the output is; rename it")
        if row["image"] is None:
            raise DataError(f"{name}: there is no image in this row")
        image = read_image(row)
        return name, (noted, (look(image, views, processor, name), image.size))
    except DataError as error:
        return printable(name), (noted, str(error))


def stamp(image: dict | None) -> str | None:
    """Eight digits that change with an image: with its content, of a file with size and time; None without file."""
    content = image and image.get("bytes")
    if content is None:
        try:
            status = os.stat(image["path"])
        except (OSError, ValueError, TypeError):
            return None
        content = f"{status.st_size} {status.st_mtime_ns}".encode()
    return f"{zlib.crc32(content):08x}"


def predict_batch(items: Sequence, network, processor, arguments: PredictArguments) -> Iterator[dict]:
    """Of each item of `read_pixels`, in order, a row: `image`, and `labels`, `scores`, `stamp`, or `error`.

    With boxes it also has, under `boxes`, those of each label.
    """
    readable = [(name, read[1]) for name, read in items if not isinstance(read[1], str)]
    if readable:
        views, crops = Views.parse(arguments.views), [crops for _, (crops, _) in readable]
        scores, maps = score(network, processor, crops, arguments.bf16, views, arguments.boxes)
        if scores.isnan().any():
            name = readable[scores.isnan().any(dim=1).nonzero()[0].item()][0]
            raise RunError(f"{name}: its scores are no numbers; the model cannot compute with its pixels"
                           f"{', perhaps without --bf16' if arguments.bf16 else ''}")  # fmt: skip
    of_readable = iter(range(len(readable)))
    for name, (noted, read) in items:
        if isinstance(read, str):
            yield {"image": name, "error": read}
        else:
            number = next(of_readable)
            labels, found = named_labels(scores[number], network.config, arguments.threshold, arguments.top_k)
            result = {"image": name, "labels": labels, "scores": found, "stamp": noted}
            if arguments.boxes:
                positions = [network.config.label2id[label] for label in labels]
                result["boxes"] = [boxes_of(maps[number, position], *read[1]) for position in positions]
            yield result


def boxes_type():
    """The type, in parquet, of the boxes of every label of an image."""
    import pyarrow as pa

    return pa.list_(pa.list_(pa.struct([(name, pa.int32()) for name in ("xmin", "ymin", "xmax", "ymax")])))


def fingerprint(network, processor, arguments: PredictArguments) -> dict[str, str]:
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


def refuse_other(output: Path, earlier: dict, settings: dict, decisions: Sequence[str]) -> None:
    """Refuse an output of other decisions or another model, wherever the model lies now.

    Args:
        output: What is there.
        earlier: The settings that it was written with: the decisions and a `fingerprint`.
        settings: Those of this run.
        decisions: The flags that must not differ.

    Raises:
        RunError: naming what differs.
    """
    earlier_model = earlier.get("fingerprint")
    for part, digest in settings["fingerprint"].items() if isinstance(earlier_model, dict) else ():
        if earlier_model.get(part) != digest:
            model = earlier.get("model")
            other = f"--model {model}, not {settings['model']}" if model != settings["model"] else f"--model {model}"
            raise RunError(f"{output} was written with {other}, which has other {part} now; choose another --output")
    for name in decisions:
        is_moved = name == "model" and earlier_model is not None
        if earlier.get(name, settings[name]) != settings[name] and not is_moved:
            raise RunError(f"{output} was written with --{name} {earlier.get(name)}, not {settings[name]}; "
                           "choose another --output")  # fmt: skip
