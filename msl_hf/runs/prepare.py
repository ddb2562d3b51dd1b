r"""Labelled images of any format that is read -> parquet files that stream, for disk or for the Hub.

    msl-hf prepare --data_dir data/coco --output_dir data/coco-parquet
    msl-hf train --data_dir data/coco-parquet --streaming true --max_steps 50000 ...

--hub_dataset_id me/coco uploads them. The image files are copied as they are; no label, box or ignored entry is lost.
"""

import hashlib
import itertools
import json
import os
from dataclasses import dataclass, field
from pathlib import Path

from ..console.errors import RunError, user_input
from ..console.files import check_results_folder, read_json, write_json
from ..console.flags import parse_flags
from ..data.images import check_images, image_files
from ..data.readers import FORMATS
from ..data.schema import DataError, class_names_of, column, undecoded
from .arguments import MAX_PIXELS_HELP
from .models import load_data
from .reading import ReadingArguments, data_source


@dataclass
class PrepareArguments(ReadingArguments):
    """Which data, and where the shards go."""

    data_dir: str | None = field(default=None, metadata={"help": "Where the data lie."})
    dataset: str = field(
        default="auto", metadata={"help": "How they are stored; auto finds out.", "choices": [*FORMATS, "folder"]}
    )
    max_pixels: int | None = field(default=None, metadata={"help": MAX_PIXELS_HELP})
    splits: list[str] | None = field(
        default=None, metadata={"help": "Which splits; default: all, but trainval where train and val are there."}
    )
    shard_images: int = field(default=2000, metadata={"help": "Images in a file."})
    drop_bad_images: bool = field(default=False, metadata={"help": "Leave out missing and broken images."})
    output_dir: str | None = field(default=None, metadata={"help": "Folder for the shards."})
    hub_dataset_id: str | None = field(default=None, metadata={"help": "Upload them as this data set of the Hub."})


def run(argv: list[str]) -> None:
    """`msl-hf prepare` with these flags."""
    prepare(*parse_flags(argv, __doc__, PrepareArguments))


def prepare(arguments: PrepareArguments) -> dict:
    """Write `data/<split>-00000-of-0000N.parquet` with the image files as they are, and all columns of the schema.

    Complete shards are not written again. `load_image_folder(output_dir)`, with or without streaming, reads them.

    Returns:
        What `metrics.json` holds: `num_images` of each split, `num_shards`, `classes`.
    """
    if data_source(arguments.data_dir, arguments) is None or arguments.output_dir is None:
        raise RunError("say where the data lie and where the shards go: --data_dir FOLDER --output_dir FOLDER")
    check_results_folder(arguments.output_dir, "num_shards")
    if arguments.shard_images < 1:
        raise RunError(f"--shard_images must be at least 1, got {arguments.shard_images}")
    with user_input():
        datasets = load_data(arguments)
    missing = sorted(set(arguments.splits or ()) - set(datasets))
    if missing:
        raise RunError(f"there is no split {missing[0]!r}; the data have {', '.join(datasets)}")
    has_parts = {"train", "val"} <= set(datasets)
    chosen = arguments.splits or [split for split in datasets if split != "trainval" or not has_parts]
    _warn_of_shared_images(datasets, chosen)
    folder, noted = Path(arguments.output_dir) / "data", Path(arguments.output_dir) / "metrics.json"
    fingerprint = _fingerprint(datasets, chosen, arguments)
    if noted.is_file() and read_json(noted).get("fingerprint") != fingerprint:
        raise RunError(f"{folder} holds shards of other data, or cut otherwise; choose another --output_dir")
    folder.mkdir(parents=True, exist_ok=True)
    report: dict = {"num_images": {}, "num_shards": 0, "classes": class_names_of(datasets[chosen[0]])}
    report["fingerprint"] = fingerprint
    write_json(noted, report)
    for split in chosen:
        dataset, dropped = check_images(datasets[split], drop=arguments.drop_bad_images)
        for message in dropped:
            print(f"Left out: {message}")
        report["num_images"][split] = len(dataset)
        report["num_shards"] += _write_shards(dataset, split, folder, arguments.shard_images)
    write_json(noted, report)
    counts = ", ".join(f"{count} of {split}" for split, count in report["num_images"].items())
    print(f"Images: {counts}; {report['num_shards']} files: {folder}")
    if arguments.hub_dataset_id is not None:
        from huggingface_hub import HfApi

        repo_id = HfApi().create_repo(arguments.hub_dataset_id, repo_type="dataset", exist_ok=True).repo_id
        HfApi().upload_folder(repo_id=repo_id, repo_type="dataset", folder_path=arguments.output_dir)
        print(f"Uploaded: {repo_id}")
    return report


def _fingerprint(datasets, splits: list[str], arguments: PrepareArguments) -> str:
    """A digest of the images, by their names, and labels of all splits, and of how they are cut into shards."""
    digest = hashlib.sha256(json.dumps([arguments.shard_images, arguments.drop_bad_images]).encode())
    for split in splits:
        used = [name for name in ("image_id", "labels", "ignored") if name in datasets[split].features]
        columns = {name: column(datasets[split], name) for name in used}
        digest.update(json.dumps([split, class_names_of(datasets[split]), columns]).encode())
    return digest.hexdigest()


def _warn_of_shared_images(datasets, splits: list[str]) -> None:
    files = {split: image_files(datasets[split]) for split in splits}
    for one, two in itertools.combinations(splits, 2):
        shared = files[one].keys() & files[two]
        if shared:
            print(f"Warning: {len(shared)} images are in split {one!r} and in split {two!r}, such as "
                  f"{files[one][min(shared)]}; never train on one and measure on the other")  # fmt: skip


def _write_shards(dataset, split: str, folder: Path, shard_images: int) -> int:
    from datasets import Dataset

    images, count = undecoded(dataset), -(-len(dataset) // shard_images)
    for number in range(count):
        file = folder / f"{split}-{number:05d}-of-{count:05d}.parquet"
        if file.is_file():
            continue
        rows = images.select(range(number * shard_images, min((number + 1) * shard_images, len(images))))
        embedded = [{**row, "image": _embedded(row["image"])} for row in rows]
        temporary = file.with_name(f".{file.name}.{os.getpid()}")
        Dataset.from_list(embedded, features=images.features).cast_column(
            "image", dataset.features["image"]
        ).to_parquet(temporary)
        os.replace(temporary, file)
    return count


def _embedded(image: dict) -> dict:
    """With the bytes of the file, and its name alone."""
    if image["bytes"] is not None:
        return image
    try:
        return {"bytes": Path(image["path"]).read_bytes(), "path": os.path.basename(image["path"])}
    except OSError as error:
        raise DataError(f"{image['path']}: cannot be read ({error.strerror})") from error
