"""Reading images: upright 8-bit RGB out of whatever Pillow opens, the check of all of them, their size."""

import hashlib
import io
import os
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import numpy as np
from PIL import ExifTags, Image, ImageOps

from .files import HEIF_ENDINGS, image_endings
from .schema import DataError, undecoded

MAX_PIXELS = 178_956_970  # what Pillow decodes without being asked: more may be a trap of a few bytes
WIDE_MODES = ("I", "F")  # 32 bits a pixel


def set_max_pixels(count: int | None) -> None:
    """Let images of up to `count` pixels in, from now on and in this process; None keeps the limit (MAX_PIXELS)."""
    if count is None:
        return
    if count < 1:
        raise DataError(f"--max_pixels must be at least 1, got {count}")
    Image.MAX_IMAGE_PIXELS = -(-count // 2)  # Pillow warns from here on, and refuses at twice as many
    warnings.simplefilter("ignore", Image.DecompressionBombWarning)


def upright_rgb(image: Image.Image) -> Image.Image:
    """An image of any mode as its camera held it, in 8-bit RGB.

    16-bit grey levels are scaled by their range, 0 to 65,535 -> 0 to 255; Pillow's conversion cuts them off at 255.
    The pipeline and the ONNX runner do the same as this.

    Raises:
        ValueError: for 32-bit and floating-point images, which have no range of their own.
    """
    is_wide = image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PPM")
    image = ImageOps.exif_transpose(image)
    if is_wide:
        image = Image.fromarray(np.rint(np.asarray(image, dtype=np.float32) / 257).astype(np.uint8))
    elif image.mode in WIDE_MODES:
        kind = "floating-point" if image.mode == "F" else "32-bit"
        raise ValueError(f"its pixels are {kind} numbers without a range; save it with 8 or 16 bits a channel")
    return image.convert("RGB")


def image_name(row: Mapping) -> str:
    """How to call an image in a message: its path, else its id."""
    return str(row["image"].get("path") or row.get("image_id") or "an image")


def read_image(row: Mapping, least_size: tuple[int, int] | None = None) -> Image.Image:
    """Decode the image of a row to upright RGB, and cut out what `crop` says, where the row has one.

    Args:
        row: Of an `undecoded` data set: `image` is a dictionary with `bytes` or `path`.
        least_size: (width, height) in pixels: a JPEG of two, four or eight times this size is decoded at a half, a
            quarter or an eighth of its own, which is several times as fast.

    Raises:
        DataError: naming the file that is missing or cannot be decoded.
    """
    try:
        with _opened(row) as image:
            if least_size is not None and row.get("crop") is None:
                image.draft("RGB", least_size)
            image = upright_rgb(image)
    except FileNotFoundError as error:
        raise DataError(f"{image_name(row)}: no such image file") from error
    except Image.DecompressionBombError as error:
        raise DataError(f"{image_name(row)}: has more pixels than are let in ({error}); if it is what it should be, "
                        "pass --max_pixels with a higher number") from error  # fmt: skip
    except Exception as error:  # Pillow raises half a dozen types for broken files
        hint = ""
        if image_name(row).lower().endswith(HEIF_ENDINGS):
            hint = "; HEIF is read where pillow-heif is installed: pip install pillow-heif"
        reason = re.sub(r" <_io.BytesIO object at \w+>", "", str(error))  # another one in every run
        raise DataError(f"{image_name(row)}: cannot be decoded ({reason}){hint}") from error
    if row.get("crop") is None:
        return image
    try:
        return crop_box(image, row["crop"])
    except (ValueError, OverflowError, Image.DecompressionBombError) as error:
        raise DataError(f"{image_name(row)}: {error}") from error


@contextmanager
def _opened(row: Mapping) -> Iterator[Image.Image]:
    image_endings()  # makes HEIF known, where it can be read
    source = row["image"].get("bytes")
    if source is None and not os.path.isfile(row["image"]["path"]) and os.path.exists(row["image"]["path"]):
        raise OSError("it is no regular file")  # opening a pipe would wait for somebody to write
    with Image.open(io.BytesIO(source) if source is not None else row["image"]["path"]) as image:
        yield image


def image_size(row: Mapping) -> tuple[int, int]:
    """(width, height) of the upright image of an `undecoded` row, from its header alone."""
    with _opened(row) as image:
        turned = image.getexif().get(ExifTags.Base.Orientation, 1) >= 5
        return image.size[::-1] if turned else image.size


def image_files(dataset, read_content: bool = True) -> dict[str, str]:
    """What the images of a `datasets.Dataset` of the schema are, whatever they are called: key -> image id.

    The key of an image is its file, links followed; that of an embedded one, as in parquet files, is its content, or,
    without `read_content`, which takes as long as reading all of them, its id.
    """
    keys: dict[str, str] = {}
    rows = dataset.with_format("arrow").select_columns(["image", "image_id"])
    for batch in rows.iter(batch_size=100):
        for image, image_id in zip(batch["image"].to_pylist(), batch["image_id"].to_pylist(), strict=True):
            content = image["bytes"]
            key = os.path.realpath(image["path"]) if content is None else image_id
            if content is not None and read_content:
                key = hashlib.sha1(content).hexdigest()
            keys[key] = image_id
    return keys


def crop_box(image: Image.Image, bbox: Sequence[float]) -> Image.Image:
    """The part of an image within [x, y, w, h] pixels; what of the box lies outside the image is black.

    Like the reference, which thus keeps the scale and the aspect ratio of a person at the border.

    Raises:
        ValueError: for a box without a part inside the image.
    """
    left, top = round(bbox[0]), round(bbox[1])
    right, bottom = round(bbox[0] + bbox[2]), round(bbox[1] + bbox[3])
    if min(right, image.width) <= max(left, 0) or min(bottom, image.height) <= max(top, 0):
        size = f"{image.width} x {image.height}"
        raise ValueError(f"the box {[round(side) for side in bbox]} has no part inside the {size} image")
    return image.crop((left, top, right, bottom))


def check_images(dataset, drop: bool = False, progress: bool = True):
    """Decode every image once and report all that are missing or broken, before any training starts.

    Args:
        dataset: A `datasets.Dataset` of the schema.
        drop: Return the data set without them instead of raising.
        progress: Show a progress bar.

    Returns:
        The data set (without the broken images, if any), and the list of messages about those left out.

    Raises:
        DataError: listing all of them, unless `drop`.
    """
    from tqdm.auto import tqdm

    used = [name for name in ("image", "image_id", "crop") if name in dataset.features]
    images = undecoded(dataset).select_columns(used)

    def check(index: int) -> str | None:
        try:
            read_image(images[index], least_size=(1, 1))
        except DataError as error:
            return str(error)
        return None

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        results = pool.map(check, range(len(dataset)))
        bar = tqdm(results, total=len(dataset), desc="Checking images", disable=not progress, leave=False)
        messages = dict(enumerate(bar))
    broken = {index: message for index, message in messages.items() if message is not None}
    if not broken:
        return dataset, []
    if not drop:
        lines = "\n  ".join(broken.values())
        raise DataError(f"{len(broken)} of {len(dataset)} images cannot be used:\n  {lines}\n"
                        "Repair or remove them, or pass --drop_bad_images to leave them out")  # fmt: skip
    kept = [index for index in range(len(dataset)) if index not in broken]
    return dataset.select(kept), list(broken.values())
