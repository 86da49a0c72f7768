"""The page in a real Chromium.

Needs gradio, playwright and a chromium: skipped without; CI installs them.
"""

import os
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("gradio")
playwright = pytest.importorskip("playwright.sync_api")
from webserver import served, slow_work  # noqa: E402

CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
if not CHROMIUM:
    pytest.skip("no chromium on this machine", allow_module_level=True)

expect = playwright.expect
SECONDS = 60_000  # milliseconds to wait for a result: machines of CI are slow
# No sandbox, for CI runs as root; and no talk with its maker's hosts.
ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


@pytest.fixture(scope="module")
def address(tiny, tmp_path_factory):
    with served(tiny, tmp_path_factory.mktemp("web")) as (_, where):
        yield where


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as tool:
        one = tool.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield one
        one.close()


@pytest.fixture
def opened(browser, address):
    """`opened(**context)` -> a page that is ready.

    At the end, no script may have failed, no other host been asked.
    """
    contexts, errors, hosts = [], [], set()

    def make(**options):
        context = browser.new_context(**options)
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(SECONDS)
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on(
            "request",
            lambda request: hosts.add(request.url.split("/")[2]) if "//" in request.url else None,
        )
        page.goto(address)
        expect(button(page, "Enlarge")).to_be_enabled(timeout=SECONDS)
        return page

    yield make
    for context in contexts:
        context.close()
    assert not errors and hosts == {address.split("/")[2]}


@pytest.fixture
def file(picture, tmp_path):
    picture(64, 96).save(tmp_path / "in.png")
    return tmp_path / "in.png"


def button(page, name: str):
    return page.get_by_role("button", name=name, exact=True)


def choose(page, path: Path) -> None:
    page.locator("input[type=file]").first.set_input_files(path)
    expect(page.locator(".image-container img, .image-frame img").first).to_be_visible(
        timeout=SECONDS
    )


def enlarged(page, path: Path) -> None:
    choose(page, path)
    button(page, "Enlarge").click()
    expect(page.get_by_text("Done: ").first).to_be_visible(timeout=SECONDS)
    expect(page.locator(".ps-after")).to_be_visible()


def cut_of(page) -> str:
    return page.locator(".ps-after").evaluate("image => image.style.clipPath")


def test_upload_slider_maps_download(opened, file, tiny, tmp_path):
    page = opened()
    expect(page.get_by_text("before and after under one slider")).to_be_visible()
    enlarged(page, file)
    assert page.locator(".ps-before").get_attribute("alt") == "in.png before, 96 by 64 pixels"
    assert (
        page.locator(".ps-after").evaluate("image => image.decode().then(() => image.naturalWidth)")
        == 384
    )
    # The slider, by its handle's keys and by dragging on the picture.
    slider = page.get_by_role("slider", name="before and after")
    middle = cut_of(page)
    slider.focus()
    slider.press("Home")
    assert cut_of(page) == "inset(0px)" != middle
    page.locator(".ps-stage").scroll_into_view_if_needed()
    canvas = page.locator(".ps-canvas").bounding_box()
    x, y = canvas["x"] + canvas["width"] * 0.75, canvas["y"] + canvas["height"] / 2
    page.mouse.move(canvas["x"] + 5, y)
    page.mouse.down()
    page.mouse.move(x, y)
    page.mouse.up()
    assert slider.input_value() == "75"
    # Maps.
    choice = page.get_by_role("combobox", name="Map laid over the result")
    assert choice.locator("option").all_inner_texts() == [
        "none",
        "difficulty",
        "steps",
        "invention, colours",
        "invention, texture",
    ]
    for name in ("difficulty", "invention_high"):
        choice.select_option(name)
        assert (
            page.locator(".ps-map").evaluate(
                "image => image.decode().then(() => image.naturalWidth)"
            )
            == 384
        )
        expect(page.locator(".ps-map")).to_be_visible()
    expect(page.locator(".ps-legend")).to_contain_text("made up")
    # The cost of each group.
    expected = tiny.upscale(Image.open(file))
    for group, count in expected.cost["patches"].items():
        expect(page.get_by_role("row", name=group)).to_contain_text(str(count))
    # The file.
    with page.expect_download() as download:
        page.locator("a[download='in_x4.png']").click()
    download.value.save_as(tmp_path / "out.png")
    assert download.value.suggested_filename == "in_x4.png"
    assert (
        np.abs(np.asarray(Image.open(tmp_path / "out.png")).astype(int) - expected.array).max() <= 1
    )


def test_zoom_by_keys_and_a_drawn_box(opened, file):
    page = opened()
    enlarged(page, file)
    stage, canvas = page.locator(".ps-stage"), page.locator(".ps-canvas")
    width = canvas.bounding_box()["width"]
    stage.focus()
    stage.press("+")
    assert canvas.bounding_box()["width"] == pytest.approx(1.5 * width, rel=0.01)
    button(page, "Zoom in").click()
    assert canvas.bounding_box()["width"] == pytest.approx(2.25 * width, rel=0.01)
    button(page, "1:1").click()
    assert canvas.bounding_box()["width"] >= width  # never less than what fits
    button(page, "Fit").click()
    assert canvas.bounding_box()["width"] == pytest.approx(width, rel=0.01)
    button(page, "Draw a box").click()
    assert button(page, "Draw a box").get_attribute("aria-pressed") == "true"
    place = canvas.bounding_box()
    page.mouse.move(place["x"] + place["width"] * 0.5, place["y"] + place["height"] * 0.5)
    page.mouse.down()
    page.mouse.move(place["x"] + place["width"] * 0.7, place["y"] + place["height"] * 0.75)
    page.mouse.up()
    page.get_by_text("Make a box again").click()
    fields = [
        page.get_by_role("spinbutton", name=name, exact=True)
        for name in ("Left", "Top", "Width", "Height")
    ]
    expect(fields[2]).not_to_have_value("", timeout=SECONDS)
    left, top, wide, high = (int(field.input_value()) for field in fields)
    assert abs(left - 48) <= 1 and abs(top - 32) <= 1 and 18 <= wide <= 21 and 15 <= high <= 18
    before = page.locator(".ps-after").get_attribute("src")
    page.get_by_label("Other seed").fill("9")
    button(page, "Make the box again").click()
    expect(page.locator(".ps-after")).not_to_have_attribute("src", before, timeout=SECONDS)


def test_errors_are_shown_kindly(opened, file, tmp_path):
    page = opened()
    button(page, "Enlarge").click()
    expect(page.locator(".ps-stage-name").first).to_have_text("Not done: choose a picture first")
    (tmp_path / "broken.png").write_bytes(file.read_bytes()[:2000])
    page.locator("input[type=file]").first.set_input_files(tmp_path / "broken.png")
    expect(page.get_by_label("Remove Image")).to_be_visible()
    button(page, "Enlarge").click()
    said = page.locator(".ps-stage-name").first
    expect(said).to_contain_text("Not done: broken.png: damaged or cut off", timeout=SECONDS)
    assert said.get_attribute("role") == "status" and "/" not in said.inner_text().replace("/ ", "")
    # And the page goes on.
    page.get_by_label("Remove Image").click()
    enlarged(page, file)


def test_two_users_at_once(opened, picture, tmp_path):
    pages = [opened(), opened()]
    for n, page in enumerate(pages):
        picture(48, 48 + 16 * n, n).save(tmp_path / f"user{n}.png")
        choose(page, tmp_path / f"user{n}.png")
    for page in pages:
        button(page, "Enlarge").click()
    for n, page in enumerate(pages):
        said = page.get_by_text(f"Done: {48 + 16 * n}×48 became {192 + 64 * n}×192")  # noqa: RUF001
        expect(said).to_be_visible(timeout=SECONDS)
        assert page.locator(".ps-before").get_attribute("alt").startswith(f"user{n}.png")


def test_several_and_their_zip(opened, picture, tmp_path):
    page = opened()
    for n in range(2):
        picture(24, 32, n).save(tmp_path / f"{n}.png")
    (tmp_path / "bad.png").write_bytes(b"nothing")
    page.get_by_role("tab", name="Several").click()
    paths = [tmp_path / name for name in ("0.png", "1.png", "bad.png")]
    page.locator("input[type=file][multiple]").set_input_files(paths)
    # Names are there while files are still sent; then the list grows, and what lies below it moves.
    expect(page.get_by_role("button", name="Remove this file")).to_have_count(3, timeout=SECONDS)
    button(page, "Enlarge all").click()
    expect(page.get_by_text("Done: 2 enlarged, 1 failed")).to_be_visible(timeout=SECONDS)
    expect(page.get_by_text("bad.png: not a picture in a format that can be read")).to_be_visible()
    with page.expect_download() as download:
        page.locator("a[download='patchscaler.zip']").click()
    download.value.save_as(tmp_path / "all.zip")
    assert zipfile.ZipFile(tmp_path / "all.zip").namelist() == [
        "0_x4.png",
        "1_x4.png",
        "failed.txt",
    ]


def test_stop(opened, picture, tmp_path, monkeypatch):
    reached, stopped = slow_work(monkeypatch, 1200)
    page = opened()
    picture(24, 32).save(tmp_path / "in.png")
    choose(page, tmp_path / "in.png")
    button(page, "Enlarge").click()
    expect(page.get_by_text("of 1200 patch-steps, about")).to_be_visible(timeout=SECONDS)
    assert (
        reached.is_set()
        and page.get_by_role("progressbar", name="Progress of this stage").first.is_visible()
    )
    button(page, "Stop").click()
    expect(page.get_by_text("Stopped")).to_be_visible()
    assert stopped.wait(30)


def test_examples(opened):
    page = opened()
    button(page, "A damaged one").click()
    expect(page.locator(".image-container img, .image-frame img").first).to_be_visible(
        timeout=SECONDS
    )


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone(opened, file, scheme):
    page = opened(
        viewport={"width": 360, "height": 740}, has_touch=True, is_mobile=True, color_scheme=scheme
    )
    enlarged(page, file)
    assert page.evaluate("document.documentElement.scrollWidth") <= 360  # nothing sticks out
    colors = page.evaluate(
        "[getComputedStyle(document.body).backgroundColor, getComputedStyle(document.body).color]"
    )
    dark = [sum(int(n) for n in color.strip("rgba()").split(",")[:3]) < 384 for color in colors]
    assert dark == ([True, False] if scheme == "dark" else [False, True])
    for name in ("Zoom in", "Fit", "Draw a box"):
        assert button(page, name).bounding_box()["height"] >= 36  # a finger hits it


def test_everything_is_reached_by_keyboard_and_has_a_name(opened, file):
    page = opened()
    enlarged(page, file)
    page.evaluate("document.activeElement.blur()")
    names = set()
    for _ in range(60):
        page.keyboard.press("Tab")
        names.add(
            page.evaluate("""() => { const e = document.activeElement;
            const name = e.getAttribute('aria-label') || e.labels?.[0]?.innerText
              || e.innerText || e.title;
            return (name || '').trim() }""")
        )
    for wanted in (
        "Enlarge",
        "Stop",
        "Zoom in",
        "Draw a box",
        "Map laid over the result",
        "Slider between before and after",
        "Seed",
    ):
        assert any(name.startswith(wanted) for name in names), (wanted, names)
