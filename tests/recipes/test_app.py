"""The page: its parts by themselves, and the whole of it in a browser, where one is installed."""

import importlib
import os
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from msl_hf.data import build_processor

gr = pytest.importorskip("gradio")
APP = Path(__file__).parents[2] / "recipes" / "app" / "app.py"


@pytest.fixture(scope="session")
def app():
    return importlib.import_module("msl_hf.runs.app")


@pytest.fixture
def folders(tiny_model, tmp_path):
    """Two models, a photograph, and a text that calls itself one."""
    for name in ("msl", "plain"):
        model = tiny_model("timm_vit" if name == "msl" else "timm_resnet")
        model.config.thresholds = [0.01, 0.01, 0.01]
        model.save_pretrained(tmp_path / name)
        build_processor(None, 32, [0.5] * 3, [0.5] * 3).save_pretrained(tmp_path / name)
    pixels = np.random.default_rng(0).integers(60, 255, (300, 400, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "photo.png")
    example = tmp_path / "outputs" / "scenes" / "VOC2007" / "JPEGImages" / "1.jpg"
    example.parent.mkdir(parents=True)
    Image.fromarray(pixels // 2).save(example)
    (tmp_path / "text.jpg").write_text("<html>not found</html>")
    return tmp_path


def test_prediction_of_a_masked_photograph(app, folders):
    """The scores are those of the network on the masked pixels; where nothing is hidden, those of the image."""
    model, image = app.Model("MSL", str(folders / "msl")), Image.open(folders / "photo.png").convert("RGB")
    keep = np.ones((image.height, image.width), dtype=bool)
    whole = model.predict(image, keep)[0]
    with torch.no_grad():
        expected = model.network(**model.processor(image, return_tensors="pt")).logits.sigmoid()[0]
    assert list(whole.values()) == pytest.approx(expected.sort(descending=True).values.tolist(), abs=1e-5)
    keep[:, :200] = False
    scores, found = model.predict(image, keep)
    pixel_values = model.processor(image, return_tensors="pt")["pixel_values"]
    pixel_values[..., :16] = -1.0  # black
    with torch.no_grad():
        expected = model.network(pixel_values).logits.sigmoid()[0]
    assert scores == pytest.approx(dict(zip(model.labels, expected.tolist(), strict=True)), abs=1e-5)
    assert set(found) == {"cat", "dog", "fish"} and scores != whole
    overlay = np.asarray(model.overlay(image, keep, "cat"))
    assert overlay.shape == (300, 400, 3) and overlay[:, :150].mean() < overlay[:, 250:].mean()


def test_the_page_looks_at_a_photograph_as_its_model_does(app, folders):
    model, image = app.Model("MSL", str(folders / "msl")), Image.open(folders / "photo.png").convert("RGB")
    model.network.config.views = "whole@64+2x2"
    model.network.save_pretrained(folders / "msl")
    model, keep = app.Model("MSL", str(folders / "msl")), np.ones((image.height, image.width), dtype=bool)
    expected = model.network.view_logits([image], model.processor).sigmoid()[0]
    scores = model.predict(image, keep)[0]
    assert [scores[label] for label in model.labels] == pytest.approx(expected.tolist(), abs=1e-5)
    keep[:150, :200] = False
    hidden = model.network.view_logits([app.hide(image, keep)], model.processor).sigmoid()[0]
    scores = model.predict(image, keep)[0]
    assert [scores[label] for label in model.labels] == pytest.approx(hidden.tolist(), abs=0.05)
    assert model.overlay(image, keep, "cat").size == image.size


def test_view_and_thresholds_may_be_others(app, folders):
    model, image = app.Model("MSL", str(folders / "msl")), Image.open(folders / "photo.png").convert("RGB")
    keep = np.ones((image.height, image.width), dtype=bool)
    scores, found = model.predict(image, keep, "whole@64", {"cat": 0.0, "dog": 1.0, "fish": 1.0})
    expected = model.network.view_logits([image], model.processor, "whole@64").sigmoid()[0].tolist()
    assert scores == pytest.approx(dict(zip(model.labels, expected, strict=True)), abs=1e-5)
    assert found == ["cat"] and list(scores.values()) == sorted(scores.values(), reverse=True)
    with pytest.raises(gr.Error, match="MSL: the view whole@36"):
        model.predict(image, keep, "whole@36")


def test_a_table_of_photographs(app, folders):
    model = app.Model("MSL", str(folders / "msl"))
    files = [str(folders / name) for name in ("photo.png", "text.jpg")]
    thresholds = {"cat": 0.0, "dog": 1.0, "fish": 1.0}
    shown, table = app.label_photographs(model, files, app.OWN, thresholds)
    assert shown[0][:2] == ["photo.png", "cat"] and shown[1][:2] == ["text.jpg", "not read"]
    image = app.open_photograph(files[0])
    score = model.predict(image, np.ones((image.height, image.width), dtype=bool))[0]["cat"]
    assert shown[0][2] == f"{score:.2f}"
    assert Path(table).read_text().splitlines() == ["image,labels,scores", f"photo.png,cat,{round(score, 6)}"]
    for wrong, message in (([], "Choose photographs first"), (files * 51, "At most 100 photographs at a time")):
        with pytest.raises(gr.Error, match=message):
            app.label_photographs(model, wrong, app.OWN, thresholds)


def test_what_is_painted_is_hidden(app, folders):
    image = app.open_photograph(str(folders / "photo.png"))
    keep = np.random.default_rng(1).random((image.height, image.width)) > 0.3
    found, again = app.painted(app.with_mask(image, keep))
    assert np.array_equal(again, keep) and found.size == image.size


@pytest.mark.parametrize("name", ["text.jpg", "missing.jpg", None])
def test_a_wrong_file_is_a_message(name, app, folders):
    with pytest.raises(gr.Error, match="not a photograph that can be read|Choose a photograph first"):
        app.open_photograph(name and str(folders / name))


def test_a_huge_photograph_is_refused_before_it_is_decoded(app, folders):
    Image.new("1", (20_000, 5_000)).save(folders / "huge.png")
    with pytest.raises(gr.Error, match="20000 x 5000 pixels; at most 50 megapixels"):
        app.open_photograph(str(folders / "huge.png"))


@pytest.fixture
def page(folders):
    """The address of the running page."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    command = [sys.executable, str(APP), "--models", f"MSL={folders / 'msl'}", f"plain={folders / 'plain'}",
               "--port", str(port)]  # fmt: skip
    log = (folders / "log.txt").open("w")
    process = subprocess.Popen(
        command, stdout=log, stderr=log, cwd=folders, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    try:
        for _ in range(240):
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=5)
                break
            except OSError:
                assert process.poll() is None, (folders / "log.txt").read_text()
                time.sleep(0.5)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(20)


def hidden_share(tab, other_than: int = -1) -> int:
    """The percentage that the page says is hidden, once it has settled on another one than before."""
    expression = """before => {
        const found = document.querySelector("#status").innerText.match(/^(\\d+)% of the photograph is hidden/);
        return found && Number(found[1]) !== before ? {share: Number(found[1])} : null;
    }"""
    return tab.wait_for_function(expression, arg=other_than, timeout=60_000).json_value()["share"]


@pytest.mark.slow
def test_in_a_browser(page, browser, folders):
    """Upload, predict, paint, hide at random, another class, a wrong file, the keyboard, a phone."""
    tab = browser.new_page(viewport={"width": 1280, "height": 1000})
    tab.goto(page)
    tab.locator("#upload input[type=file]").set_input_files(str(folders / "photo.png"), timeout=60_000)
    tab.get_by_text("MSL sees:").wait_for(timeout=60_000)
    assert hidden_share(tab) == 0 and "fish" in tab.locator("#found0").inner_text()
    assert "plain sees:" in tab.locator("#found1").inner_text()
    whole = tab.locator("#scores0").inner_text()

    canvas = tab.locator("#editor canvas").first
    canvas.scroll_into_view_if_needed()
    box = canvas.bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    tab.mouse.move(x - 60, y)
    tab.mouse.down()
    tab.mouse.move(x + 60, y, steps=10)
    tab.mouse.up()
    painted = hidden_share(tab, other_than=0)
    assert 0 < painted < 60

    tab.locator("#random").focus()
    tab.keyboard.press("Enter")  # without the mouse
    random = hidden_share(tab, other_than=painted)
    assert 40 <= random <= 70 and tab.locator("#scores0").inner_text() != whole
    tab.screenshot(path=str(folders / "page.png"), full_page=True)
    assert Image.open(folders / "page.png").size[0] == 1280

    tab.locator("#examples button img").first.click()
    assert hidden_share(tab, other_than=random) == 0

    tab.locator("#upload input[type=file]").set_input_files(str(folders / "text.jpg"))
    tab.get_by_text("is not a photograph that can be read").first.wait_for(timeout=30_000)
    assert "Traceback" not in tab.content()
    tab.locator("#upload input[type=file]").set_input_files(str(folders / "photo.png"), timeout=60_000)  # still works

    tab.get_by_role("button", name="Thresholds of the model").click()
    for number in range(3):
        tab.locator(f"#threshold{number} input[type=number]").fill("1")  # which no score reaches
    tab.get_by_text("MSL sees: nothing").wait_for(timeout=60_000)
    assert "fish" in tab.locator("#found1").inner_text()  # of the other model its own thresholds count

    tab.get_by_role("tab", name="Several photographs").click()
    tab.locator("#files input[type=file]").set_input_files([str(folders / "photo.png")], timeout=60_000)
    tab.locator("#start").click()
    tab.wait_for_function("document.querySelector('#table').innerText.includes('photo.png')", timeout=60_000)
    with tab.expect_download(timeout=60_000) as download:
        tab.locator("#download").click()
    assert Path(download.value.path()).read_text().splitlines() == [
        "image,labels,scores",
        "photo.png,,",
    ]  # all below 1
    tab.screenshot(path=str(folders / "several.png"), full_page=True)

    phone = browser.new_page(viewport={"width": 390, "height": 800})
    phone.goto(page)
    phone.locator("#random").wait_for(timeout=60_000)
    assert phone.evaluate("document.documentElement.scrollWidth") <= 391


@pytest.mark.slow
def test_serves_no_file_outside_its_folder(page, folders):
    for path in (
        "/gradio_api/file=/etc/passwd",
        f"/gradio_api/file={folders / 'msl' / 'config.json'}",
        "/file=/etc/passwd",
    ):
        with pytest.raises(urllib.error.HTTPError) as error:
            urllib.request.urlopen(page + path, timeout=20)
        assert error.value.code in (403, 404)


@pytest.mark.slow
def test_missing_models_are_a_message(tmp_path):
    done = subprocess.run([sys.executable, str(APP), "--models", "a=nowhere/at-all"], capture_output=True, text=True,
                          cwd=tmp_path, env={**os.environ, "HF_HUB_OFFLINE": "1"}, timeout=120)  # fmt: skip
    assert done.returncode == 1 and "nowhere/at-all" in done.stderr and "msl-hf train" in done.stderr
    assert "Traceback" not in done.stderr
