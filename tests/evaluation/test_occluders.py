"""What lies over objects, and how well they are recognised then."""

import numpy as np
import pytest
from PIL import Image
from sklearn.metrics import average_precision_score

from msl_hf.data import build_processor, load_voc
from msl_hf.data.schema import column, make_targets, undecoded
from msl_hf.evaluation.occluders import (
    CoveredObjects,
    Picture,
    cover,
    covered_average_precision,
    covered_pixels,
    find_pictures,
)


def objects(*items) -> dict:
    """Of an image: (label, bbox[, crowd])."""
    return {
        "label": [item[0] for item in items], "bbox": [item[1] for item in items], "difficult": [None] * len(items),
        "crowd": [item[2] if len(item) > 2 else None for item in items],
    }  # fmt: skip


ROWS = [
    objects((0, [0, 0, 4, 4]), (1, [10, 0, 6, 8]), (0, [5, 5, 10, 10], True)),
    objects((1, [2, 2, 5, 5])),
    objects((2, [2, 2, 5, 5], True)),
    objects(),
]
TARGETS = np.array([[1, 1, 0], [0, 1, -100], [0, 0, 1], [1, 0, 0]])


def test_a_picture_for_every_class_of_an_image_that_has_boxes():
    """All boxes of the class are covered, crowds, too; a class with crowds alone has none that is an object."""
    pictures = find_pictures(ROWS, TARGETS)
    assert [(picture.index, picture.label, picture.boxes) for picture in pictures] == [
        (0, 0, ((0, 0, 4, 4), (5, 5, 15, 15))), (0, 1, ((10, 0, 16, 8),)), (1, 1, ((2, 2, 7, 7),))
    ]  # fmt: skip
    for seed in range(20):  # what lies over them does not have the class
        for picture in find_pictures(ROWS, TARGETS, seed):
            assert picture.other != picture.index and TARGETS[picture.other, picture.label] == 0
    assert len({tuple(p.other for p in find_pictures(ROWS, TARGETS, seed)) for seed in range(20)}) > 2
    assert find_pictures(ROWS, TARGETS, 3) == find_pictures(ROWS, TARGETS, 3)
    some = find_pictures(ROWS, TARGETS, most=2)
    assert len(some) == 2 and set(some) < set(pictures)


@pytest.mark.parametrize(("height", "width"), [(1, 1), (3, 50), (40, 30), (57, 113)])
def test_a_cover_has_exactly_its_share_and_grows(height, width):
    before = np.zeros((height, width), dtype=bool)
    for share in (0.0, 0.1, 0.3, 0.5, 0.7, 0.9, 1.0):
        covered = cover(height, width, share, np.random.default_rng(5))
        assert covered.sum() == round(share * height * width) and (covered | ~before).all()
        before = covered
    other = cover(height, width, 0.5, np.random.default_rng(6))
    assert height * width < 10 or (other != cover(height, width, 0.5, np.random.default_rng(5))).any()


def test_each_box_is_covered_to_the_share_and_nothing_else():
    picture = Picture(7, 0, ((2.0, 3.0, 12.0, 13.0), (20.0, 0.0, 60.0, 8.0), (-5.0, 30.0, 1.0, 90.0)), 1)
    covered = covered_pixels(picture, 40, 50, 0.5)
    assert covered[3:13, 2:12].sum() == 50
    assert covered[0:8, 20:50].sum() == 120  # cut off at the border of the image
    assert covered[30:40, 0:1].sum() == 5
    assert covered.sum() == 50 + 120 + 5
    outside = Picture(7, 0, ((90.0, 90.0, 95.0, 95.0),), 1)  # of an annotation that is wrong
    assert covered_pixels(outside, 40, 50, 1.0).sum() == 1


def test_pictures_depend_on_the_seed_alone(scenes):
    dataset = load_voc(scenes)["test"]
    targets = make_targets(list(dataset), 10, ignored_as="ignore").numpy()
    pictures, rows = find_pictures(column(dataset, "objects"), targets), undecoded(dataset)

    def image(kind, share, seed=0, number=4):
        return np.asarray(CoveredObjects(rows, None, pictures, kind, share, seed).image(number)).astype(int)

    plain, picture = image("black", 0.0), pictures[4]
    np.testing.assert_array_equal(plain, np.asarray(dataset[picture.index]["image"].convert("RGB")))
    height, width = plain.shape[:2]
    covered = covered_pixels(picture, height, width, 0.5)
    other = dataset[picture.other]["image"].convert("RGB").resize((width, height), Image.Resampling.BILINEAR)
    for kind, expected in (("black", np.zeros_like(plain)), ("image", np.asarray(other)), ("noise", None)):
        found = image(kind, 0.5)
        np.testing.assert_array_equal(found[~covered], plain[~covered])
        np.testing.assert_array_equal(found, image(kind, 0.5))
        assert (found != image(kind, 0.5, seed=1)).any()
        if expected is not None:
            np.testing.assert_array_equal(found[covered], expected[covered])
        else:
            assert found[covered].std() > 50 and abs(found[covered].mean() - 127.5) < 25
    item = CoveredObjects(rows, build_processor(None, 32), pictures, "image", 0.9)[3]
    assert item["pixel_values"].shape == (3, 32, 32)


def test_noise_is_of_one_coarseness_whatever_the_size():
    """160 cells along the longer side: shrunk to the input of a network it stays noise."""
    rows = [{"image": Image.new("RGB", (640, 320))}]
    dataset = CoveredObjects(None, None, [Picture(0, 0, ((0, 0, 640, 320),), 0)], "noise", 1.0)
    cells = dataset._occluder(dataset.pictures[0], 320, 640)
    np.testing.assert_array_equal(cells[::4, ::4].repeat(4, 0).repeat(4, 1), cells)
    assert len(rows) == 1 and len(np.unique(cells[::4, ::4, 0])) > 200


def test_average_precision_by_hand():
    """One positive a picture; negatives are what its image lacks, and not what the photograph over it shows."""
    pictures = [Picture(0, 0, (), 1), Picture(0, 1, (), 3), Picture(1, 1, (), 3)]
    scores = np.array([[0.9, 0.8, 0.5], [0.3, 0.4, 0.6], [0.7, 0.1, 0.95]])
    found = covered_average_precision(scores, pictures, TARGETS, "black", 50)
    # Picture 0: class 0 against class 2. Picture 1: class 1 against 2. Picture 2: class 1 against 0; class 2 unknown.
    truth, ranked = [1, 0, 1, 0, 1, 0], [0.9, 0.5, 0.4, 0.6, 0.1, 0.7]
    assert found["AP"] == pytest.approx(average_precision_score(truth, ranked)) and found["positives"] == 3
    assert len(found["samples"]) == 50 and found["interval"][0] <= found["interval"][1]
    # Image 3, which lies over the last picture, has class 0: it may be seen there.
    found = covered_average_precision(scores, pictures, TARGETS, "image", 50)
    assert found["AP"] == pytest.approx(average_precision_score([1, 0, 1, 0, 1], [0.9, 0.5, 0.4, 0.6, 0.1]))


def test_what_cannot_be():
    with pytest.raises(ValueError, match="an occluder is one of black, noise, image, got 'white'"):
        CoveredObjects(None, None, [], "white", 0.5)
    with pytest.raises(ValueError, match=r"the covered share must lie in \[0, 1\], got 1.5"):
        CoveredObjects(None, None, [], "black", 1.5)
