import os

import pytest
from PIL import Image

from msl_hf.data.files import images_below, is_image, path_inside, split_name, text_lines
from msl_hf.data.image_finder import ImageFinder
from msl_hf.data.schema import DataError


def save(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (2, 2)).save(path, "PNG")
    return path


def test_whatever_pillow_opens_is_an_image():
    for ending in ("jpg", "JPG", "jfif", "jpe", "jp2", "ppm", "tga", "webp", "tiff", "heic"):
        assert is_image(f"a.{ending}"), ending
    assert is_image("a.avif") == (".avif" in Image.registered_extensions())  # Pillow has it since 11.3
    for name in ("a.txt", "a.json", "a.pdf", "a.mp4", "a.eps", "a", ".jpg"):
        assert not is_image(name), name


def test_linked_folders_are_followed_without_looping(tmp_path):
    save(tmp_path / "photos" / "a.jfif")
    save(tmp_path / "elsewhere" / "b.tga")
    save(tmp_path / "photos" / ".thumbs" / "hidden.png")
    save(tmp_path / "photos" / "__MACOSX" / "a.png")
    (tmp_path / "photos" / "notes.txt").write_text("")
    (tmp_path / "photos" / "more").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "photos" / "loop").symlink_to(tmp_path / "photos")
    (tmp_path / "elsewhere" / "back").symlink_to(tmp_path / "photos")
    images, others = images_below(tmp_path / "photos")
    assert [os.path.relpath(image, tmp_path / "photos") for image in images] == ["a.jfif", "more/b.tga"]
    assert others == {".txt": 1}


def test_lines_are_divided_at_line_feeds_alone():
    assert text_lines("a\u2028b\x85c\x0cd\r\ne\n") == ["a\u2028b\x85c\x0cd", "e", ""]


def test_what_is_written_stays_in_the_folder(tmp_path):
    save(tmp_path / "train" / "a.png")
    assert path_inside(tmp_path, r"train\a.png", "x") == tmp_path / "train/a.png"
    for name in ("../a.png", r"..\a.png", "b/../../a.png"):
        with pytest.raises(DataError, match="leads out of the folder"):
            path_inside(tmp_path, name, "x")
    for name in ("/etc/a.png", r"C:\photos\a.png"):
        with pytest.raises(DataError, match="is absolute"):
            path_inside(tmp_path, name, "list.csv:3")
    with pytest.raises(DataError, match="names no file"):
        path_inside(tmp_path, ".", "x")
    with pytest.raises(DataError, match="zero byte"):
        path_inside(tmp_path, "a\0.png", "x")


def test_images_are_found_by_what_annotations_write(tmp_path, caplog):
    a, b = save(tmp_path / "images" / "a.png"), save(tmp_path / "images" / "deep" / "b.png")
    finder = ImageFinder(tmp_path, [tmp_path / "images"])
    assert finder.find("a.png", "x") == a and finder.find("deep/b.png", "x") == b
    assert finder.find("b", "x") == b and finder.find("a", "x") == a  # ids without an ending
    assert finder.find("c.png", "x") is None and finder.expect("c.png", "x") == tmp_path / "images/c.png"
    assert ImageFinder(tmp_path / "images").find("images/a.png", "x") == a  # the folder's own name before it
    finder.report()
    assert not caplog.text
    assert finder.find("other/b.png", "x") == b
    finder.report()
    assert "1 images lie in other folders than their annotations write" in caplog.text
    save(tmp_path / "again" / "deep" / "b.png")
    with pytest.raises(DataError, match="may be .*b.png or .*b.png; write the folder, too"):
        ImageFinder(tmp_path).find("b.png", "x")


def test_names_of_splits():
    names = ["train", "Training", "val", "valid", "dev", "EVAL", "Validation", "test", "Testing", "trainval", "photos"]
    assert [split_name(name) for name in names] == ["train"] * 2 + ["validation"] * 5 + ["test"] * 2 + [
        "trainval",
        None,
    ]
