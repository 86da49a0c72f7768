"""The page in a real Chromium, which is skipped where there is none."""

import os
import shutil
import zipfile

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("gradio")
playwright = pytest.importorskip("playwright.sync_api")

CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
if not CHROMIUM:
    pytest.skip("no chromium on this machine", allow_module_level=True)

expect = playwright.expect
WAIT = 60_000  # milliseconds: machines of CI are slow
expect.set_options(timeout=WAIT)
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
def browser():
    with playwright.sync_playwright() as tool:
        one = tool.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield one
        one.close()


@pytest.fixture
def opened(browser, address):
    """`opened(**context)` -> a page that is ready. No script may fail, no other host be asked."""
    contexts, errors, hosts = [], [], set()

    def make(**options):
        context = browser.new_context(**({"viewport": {"width": 1300, "height": 950}} | options))
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(WAIT)
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on("request", lambda asked: hosts.add(asked.url.split("/")[2]))
        page.goto(address)
        expect(handle(page)).to_be_visible()
        return page

    yield make
    for context in contexts:
        context.close()
    assert not errors and {host for host in hosts if host} == {address.split("/")[2]}


def button(page, name):
    return page.get_by_role("button", name=name, exact=True)


def handle(page):
    return page.get_by_role("slider", name="Line between before and after")


def status(page):
    return page.locator("p[role=status]")


def view(page, label):
    return page.locator("#view").get_by_text(label, exact=True)


def choose(page, *paths):
    page.locator("input[type=file]").first.set_input_files(paths)


def upscaled(page, path):
    choose(page, path)
    expect(view(page, f"Before and after: a part of {path.name}")).to_be_visible()
    button(page, "Upscale").click()
    expect(view(page, f"Before and after: {path.name}")).to_be_visible()
    expect(status(page)).to_contain_text("Done in")


def downloaded(page, name, tmp_path):
    with page.expect_download() as download:
        page.get_by_role("button", name=name).click()
    path = tmp_path / download.value.suggested_filename
    download.value.save_as(path)
    return path


def test_from_an_image_to_a_download(opened, image_file, tiny, tmp_path):
    page, file = opened(), image_file("in.png", 40, 64)
    expect(view(page, "Before and after: an example")).to_be_visible()
    expect(button(page, "Upscale")).to_be_disabled()
    choose(page, file)
    # size and time before the start, and a part without being asked
    expect(status(page)).to_contain_text("64 × 40 pixels become 256 × 160, in about")
    expect(view(page, "Before and after: a part of in.png")).to_be_visible()
    page.get_by_label("2 times").check()
    expect(status(page)).to_contain_text("become 128 × 80")
    button(page, "Upscale").click()
    expect(view(page, "Before and after: in.png")).to_be_visible()
    after = page.locator("#view").get_by_alt_text("After")
    assert after.evaluate("image => image.decode().then(() => image.naturalWidth)") == 128
    made = downloaded(page, "Download (", tmp_path)
    detail = float(page.get_by_label("number input for Detail").input_value())
    expected = tiny(Image.open(file), scale=2, fidelity=round(1 - detail, 2))
    assert made.name == "in_128x80.png"
    assert np.abs(np.asarray(Image.open(made)).astype(int) - expected.array).max() <= 1
    # format and quality beside the button
    page.get_by_role("combobox", name="Format").click()
    page.get_by_role("option", name="JPEG").click()
    expect(page.get_by_label("range slider for Quality")).to_be_visible()
    with page.expect_download() as download:
        page.get_by_role("button", name="Download (").click()
    assert download.value.suggested_filename == "in_128x80.jpg"
    # the numbers of the paper
    button(page, "Details ◀").or_(page.get_by_role("button", name="Details")).first.click()
    for group, count in expected.patches_by_group().items():
        expect(page.get_by_role("row", name=group)).to_contain_text(str(count))


def test_what_is_no_image_is_refused_at_once_and_a_new_one_clears_it(opened, image_file, tmp_path):
    page = opened()
    (tmp_path / "bad.png").write_bytes(b"nothing")
    choose(page, tmp_path / "bad.png")
    expect(status(page)).to_contain_text("bad.png: ")
    assert "failed" in status(page).get_attribute("class") and "/" not in status(page).inner_text()
    expect(button(page, "Upscale")).to_be_disabled()
    choose(page, image_file())
    expect(status(page)).to_contain_text("pixels become")
    expect(button(page, "Upscale")).to_be_enabled()


def test_a_part_of_a_new_image_is_tried_at_once(opened, image_file):
    page = opened()
    choose(page, image_file("in.jpg", 300, 500, quality=70))
    expect(view(page, "Before and after: a part of in.jpg")).to_be_visible()


def test_the_brush_protects_what_it_covers(opened, image_file, tiny, tmp_path):
    page, file = opened(), image_file("in.png", 120, 160)
    choose(page, file)
    expect(view(page, "Before and after: a part of in.png")).to_be_visible()
    vivid = page.get_by_label("number input for Detail")
    vivid.fill("1")
    vivid.press("Enter")
    page.get_by_role("button", name="Protect parts").click()
    canvas = page.locator("canvas").first
    expect(canvas).to_be_visible()
    page.wait_for_timeout(1500)  # until the image is drawn on it
    canvas.scroll_into_view_if_needed()
    box = canvas.bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move(x + 30, y + 5, steps=5)
    page.mouse.up()
    button(page, "Upscale").click()
    expect(status(page)).to_contain_text("Done in")
    made = np.asarray(Image.open(downloaded(page, "Download (", tmp_path))).astype(int)
    plain = tiny(Image.open(file), scale=4, fidelity=0.0).array.astype(int)
    change = np.abs(made - plain).max(-1)
    assert change[200:280, 280:360].max() > 2  # the middle
    assert change[:60].max() <= 1 and change[-60:].max() <= 1


def test_several_with_states_and_their_zip(opened, image_file, tmp_path):
    page = opened()
    (tmp_path / "bad.png").write_bytes(b"nothing")
    choose(page, image_file("a.png"), image_file("b.png", 48, 48), tmp_path / "bad.png")
    expect(status(page)).to_contain_text("bad.png: ")
    lines = page.locator("#list").get_by_role("radio")
    expect(lines).to_have_count(2)
    expect(page.get_by_label("a.png: waiting")).to_be_checked()
    button(page, "Upscale").click()
    expect(page.get_by_label("a.png: done in")).to_be_visible()
    expect(page.get_by_label("b.png: done in")).to_be_checked()
    page.get_by_label("a.png: done in").check()
    expect(view(page, "Before and after: a.png")).to_be_visible()
    with zipfile.ZipFile(downloaded(page, "Download all 2 as zip", tmp_path)) as file:
        assert file.namelist() == ["a_256x160.png", "b_192x192.png"]
    button(page, "Clear the list").click()
    expect(view(page, "Before and after: an example")).to_be_visible()
    expect(button(page, "Upscale")).to_be_disabled()


def test_one_bar_with_the_time_left_and_stop_while_it_runs(opened, image_file, monkeypatch):
    import time

    from patchscaler.apps.web import jobs
    from patchscaler.progress import Progress

    ended = []

    def slow(*_, callback, **options):
        try:
            for n in range(600):
                callback(Progress("denoise", n, 600, (600 - n) * 0.1))
                time.sleep(0.1)
        finally:
            ended.append(True)

    page = opened()
    choose(page, image_file())
    expect(view(page, "Before and after: a part of in.png")).to_be_visible()
    monkeypatch.setattr(jobs, "upscale_file", slow)
    expect(button(page, "Stop")).to_be_hidden()
    button(page, "Upscale").click()
    expect(page.get_by_text("in.png, 59 s left")).to_be_visible()
    expect(page.locator(".progress-bar")).to_have_count(1)
    expect(button(page, "Upscale")).to_be_hidden()
    button(page, "Stop").click()
    expect(status(page)).to_contain_text("Stopped.")
    expect(button(page, "Upscale")).to_be_visible()
    expect(button(page, "Stop")).to_be_hidden()
    page.wait_for_timeout(500)
    assert ended and status(page).inner_text() == "Stopped."


def test_two_visitors_at_once(opened, image_file):
    pages = [opened(), opened()]
    for n, page in enumerate(pages):
        choose(page, image_file(f"user{n}.png", 48, 48 + 16 * n))
        expect(view(page, f"Before and after: a part of user{n}.png")).to_be_visible()
    for page in pages:
        button(page, "Upscale").click()
    for n, page in enumerate(pages):
        expect(view(page, f"Before and after: user{n}.png")).to_be_visible()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_on_a_phone_the_result_is_in_view(opened, image_file, scheme):
    page = opened(
        viewport={"width": 360, "height": 740}, has_touch=True, is_mobile=True, color_scheme=scheme
    )
    upscaled(page, image_file())
    assert page.evaluate("document.documentElement.scrollWidth") <= 360  # nothing sticks out
    expect(page.locator("#view")).to_be_in_viewport(ratio=0.9)
    style = "getComputedStyle(document.body)"
    colors = page.evaluate(f"[{style}.backgroundColor, {style}.color]")
    dark = [sum(int(n) for n in color.strip("rgba()").split(",")[:3]) < 384 for color in colors]
    assert dark == ([True, False] if scheme == "dark" else [False, True])


def test_everything_is_reached_by_keyboard_and_has_a_name(opened, image_file):
    page = opened()
    upscaled(page, image_file())
    after = page.locator("#view").get_by_alt_text("After")
    handle(page).focus()
    for key, share in (("Home", 0), ("ArrowRight", 5), ("End", 100)):
        handle(page).press(key)
        assert int(handle(page).get_attribute("aria-valuenow")) == share
        cut = after.evaluate("image => image.style.clipPath")
        assert float(cut.split()[-1].strip("%)")) == pytest.approx(share, abs=1)
    page.evaluate("document.activeElement.blur()")
    names = set()
    for _ in range(50):
        page.keyboard.press("Tab")
        names.add(
            page.evaluate("""() => { const e = document.activeElement;
            const name = e.getAttribute('aria-label') || e.labels?.[0]?.innerText || e.innerText;
            return (name || e.title || '').trim() }""")
        )
    assert "" not in names
    for expected in (
        "Click to upload",
        "Line between before and after",
        "Format",
        "Download (",
        "Try a part",
        "Protect parts",
        "Details",
        "4 times",
        "range slider for Detail",
        "Advanced",
        "Upscale",
    ):
        assert any(name.startswith(expected) for name in names), (expected, names)
