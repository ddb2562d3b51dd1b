"""report.html of a run: what it holds, and what a browser makes of it."""

import re

import pytest
from PIL import Image

from msl_hf.hub.report import ClassRow, WrongImage, write_report

METRICS = {name: 0.5 for name in ("mAP", "CP", "CR", "CF1", "OP", "OR", "OF1")}
REPORT = {
    "model": "best", "dataset": "photos", "base_model": "resnet", "num_labels": 2, "num_train_images": 8,
    "num_test_images": 4, "test_split": "test", "selection_split": "val", "train_seconds": 3.2, "hardware": "2 CPU",
    "command": "msl-hf train --data_dir 'a & b'", "versions": {"torch": "2"},
    "best": {"clean": {**METRICS, "mAP": 0.815}, "masked": METRICS,
             "own_view": {"view": "whole@64", "cost": 4, **METRICS},
             "occluders": [{"covered": 0.0, "AP": 0.7}, {"covered": 0.3, "AP": 0.6}]},
}  # fmt: skip


@pytest.fixture
def page(tmp_path):
    """A report with a figure, two classes and one wrong image of either kind; names as people may write them."""
    Image.new("RGB", (20, 10), "red").save(tmp_path / "curves.png")
    classes = [
        ClassRow("<b>cat", 3, 0.9, [(0.4, 0.5, 1.0), (0.5, 0.6, 0.7), (0.3, 0.2, 0.95)]),
        ClassRow("dog", 0, None, [(0.5, 0.0, 0.0)] * 3),
    ]
    image = Image.new("RGB", (400, 300), "blue")
    wrong = [WrongImage("a&b.jpg", image, image, "<b>cat", 0.123, ["<b>cat", "dog"], [])]
    write_report(tmp_path / "report.html", REPORT, {"seed": 3, "note": None}, "test", classes, wrong, wrong)
    return tmp_path / "report.html"


def test_what_it_holds(page):
    text = page.read_text()
    assert "81.5" in text and "whole@64" in text and "0 % covered: 70.0; 30 % covered: 60.0." in text
    assert text.count("a&amp;b.jpg") == 2 and "<b>cat" not in text and "&lt;b&gt;cat" in text and "a &amp; b" in text
    assert text.count("data:image/jpeg;base64,") == 4 and text.count("data:image/png;base64,") == 1
    assert not re.search(r'(src|href)="(?!data:|#)', text)  # nothing of it lies elsewhere
    cells = re.findall(r"<td>([^<]*)</td>", text.split('id="table"')[1].split("</table>")[0])
    assert cells[:10] == ["&lt;b&gt;cat", "3", "90.0", "0.400", "50.0", "100.0", "60.0", "70.0", "0.300", "20.0"]
    assert cells[10:] == ["dog", "0", "", "0.500", *[""] * 6]


def test_a_run_with_nothing_to_measure_on(tmp_path):
    report = {**REPORT, "test_split": None, "best": {}}
    write_report(tmp_path / "report.html", report, {}, None, [], [], [])
    text = (tmp_path / "report.html").read_text()
    assert "Nothing was held out" in text and "There are none to show" in text


def test_in_a_browser(page, browser):
    """It opens without an error and a network, all pictures are there, and a click sorts the table."""
    tab, faults = browser.new_page(viewport={"width": 400, "height": 800}), []
    tab.on("pageerror", lambda error: faults.append(str(error)))
    tab.on("request", lambda request: faults.append(request.url) if request.url.startswith("http") else None)
    tab.goto(page.as_uri())
    widths = tab.eval_on_selector_all("img", "images => images.map(image => image.naturalWidth)")
    assert len(widths) == 5 and all(widths) and not faults
    assert tab.evaluate("document.documentElement.scrollWidth") <= 400  # a telephone
    tab.get_by_role("button", name="images").click()
    assert tab.inner_text("#table tbody td") == "dog"
    tab.get_by_role("button", name="images").click()
    assert tab.inner_text("#table tbody td") == "<b>cat"
