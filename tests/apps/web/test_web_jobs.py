"""Images of the page's visitors: checked, estimated, tried in part, upscaled, handed out."""

import time
import zipfile
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from patchscaler.apps.web.jobs import (
    STRANGERS,
    VIEW,
    Dials,
    Limits,
    StoppedError,
    Studio,
    Visit,
    save_pair,
)
from patchscaler.apps.web.results import converted, forget, pack
from patchscaler.apps.web.words import dials_of, duration, mask_of, painted, say
from patchscaler.errors import PatchScalerError
from patchscaler.progress import Progress


def pixels(path):
    return np.asarray(Image.open(path)).astype(int)


# --- when a file is chosen ------------------------------------------------------------------------


def test_what_is_no_image_is_refused_when_it_is_chosen(studio, image_file, tmp_path):
    (tmp_path / "text.png").write_bytes(b"nothing")
    whole = image_file("whole.jpg", 64, 96).read_bytes()
    (tmp_path / "half.jpg").write_bytes(whole[: len(whole) // 2])
    frames = [Image.new("L", (8, 8), value) for value in (0, 99, 200)]
    frames[0].save(tmp_path / "moves.gif", save_all=True, append_images=frames[1:])
    for name in ("text.png", "half.jpg", "moves.gif"):
        with pytest.raises(PatchScalerError) as error:
            studio.add(tmp_path / name)
        # named as its owner names it
        assert str(error.value).startswith(f"{name}: ") and str(tmp_path) not in str(error.value)


def test_the_content_decides_the_format_and_the_size_is_upright(studio, image_file):
    exif = Image.Exif()
    exif[274] = 6
    path = image_file("photo.jpg", 40, 64, exif=exif)
    item = studio.add(path.rename(path.with_suffix(".png")))
    assert item.size == (40, 64) == Image.open(item.sketch).size
    studio.upscale(item, Dials())
    assert Image.open(item.result).size == (160, 256)


def test_limits_for_strangers_do_not_hold_on_ones_own_machine(studio, tmp_path):
    # a phone's photo, 12 megapixels in few bytes
    Image.new("RGB", (4000, 3000), "gray").save(tmp_path / "phone.jpg")
    item = studio.add(tmp_path / "phone.jpg")
    assert studio.target(item, Dials(4)) == (16_000, 12_000)
    studio.limits = STRANGERS
    with pytest.raises(PatchScalerError, match=r"^phone.jpg: has 12\.0 megapixels\. Hint: up to 4"):
        studio.add(tmp_path / "phone.jpg")
    with pytest.raises(PatchScalerError, match="would become 16000 × 12000 pixels"):
        studio.target(item, Dials(4))


# --- dials ----------------------------------------------------------------------------------------


def test_detail_goes_from_faithful_to_vivid():
    assert dials_of(4, 0, 7, "") == Dials(4, "", 1, 7)
    assert dials_of(4, 1, None, " 12mp ") == Dials(4, "12mp", 0, 0)
    assert Dials(2).target.size(100, 50) == (200, 100)
    assert Dials(2, "300x").target.size(100, 50) == (300, 150)
    with pytest.raises(PatchScalerError):
        Dials(2, "large").target.size(100, 50)


def test_estimates_count_every_pass(studio):
    studio.spent = np.array([1.0, 1e6])
    assert studio.estimate((1000, 1000), Dials(4)) == pytest.approx(1)
    assert studio.estimate((1000, 1000), Dials(8)) == pytest.approx(1 + 4)  # 2000² pixels again
    assert [duration(s) for s in (0.2, 59, 600, 9000)] == ["1 s", "59 s", "10 min", "2.5 h"]


def test_the_speed_is_learned_from_jobs(studio, image_file):
    item = studio.add(image_file())
    assert studio.estimate(item.size, Dials()) > 0  # by the example
    for _ in range(30):
        studio._learn(item.size, Dials(), 0.5)
    assert studio.estimate(item.size, Dials()) == pytest.approx(0.5, rel=0.01)


# --- the work -------------------------------------------------------------------------------------


def test_the_result_is_the_pipelines(studio, image_file):
    item = studio.add(image_file())
    seen = []
    studio.upscale(item, Dials(3, "", 0.25, 7), studio.watch("me", seen.append))
    expected = studio.pipeline(Image.open(item.source), scale=3, fidelity=0.25, seed=7)
    assert item.result.name == "in_192x120.png"
    assert np.abs(pixels(item.result) - expected.array).max() <= 1
    assert item.output.nfe == expected.nfe
    shares = [p.done / p.total for p in seen]
    assert shares == sorted(shares) and shares[0] < 0.5 and shares[-1] == 1
    before, after = item.view()
    assert Image.open(before).size == Image.open(after).size == (192, 120)


def test_a_painted_mask_keeps_what_it_covers(studio, image_file):
    item = studio.add(image_file())
    studio.upscale(item, Dials(4, "", 1.0))
    faithful = pixels(item.result)
    studio.upscale(item, Dials(4, "", 0.0))
    vivid = pixels(item.result)
    item.mask = np.zeros((40, 64), np.uint8)
    item.mask[:, :32] = 255
    studio.upscale(item, Dials(4, "", 0.0))
    mixed = pixels(item.result)
    left, right = np.s_[:, :96], np.s_[:, -96:]
    assert np.abs(mixed[left] - faithful[left]).mean() < np.abs(mixed[left] - vivid[left]).mean()
    assert np.abs(mixed[right] - vivid[right]).max() <= 2  # colors are matched around there


def test_a_part_is_upscaled_like_the_whole(studio, image_file, monkeypatch):
    item = studio.add(image_file("in.png", 300, 500))
    item.mask = np.zeros((150, 250), np.uint8)
    item.mask[:, 125:] = 255
    calls = []
    pipeline = studio.pipeline

    def record(image, **options):
        calls.append((image, options))
        return pipeline(image, **options)

    record.model = pipeline.model
    monkeypatch.setattr(studio, "pipeline", record)
    studio.spent = np.ones(2)  # a slow machine takes the smallest part
    before, after = studio.part(item, Dials(4, "1000x", 0.5, 3), (0.5, 1.0))
    image, options = calls[0]
    row, column = options["origin"]
    assert image.size == (32, 32) and (row, column) == (268, 234)
    assert np.array_equal(
        np.asarray(image), pixels(item.source)[row : row + 32, column : column + 32]
    )
    assert (options["scale"], options["fidelity"], options["seed"]) == (2, 0.5, 3)
    assert options["fidelity_mask"].shape == (32, 32)
    assert options["fidelity_mask"][:, 0].max() == 0 and options["fidelity_mask"][:, -1].min() > 0
    assert Image.open(before).size == Image.open(after).size == (64, 64)
    studio.spent = np.array([1.0, 1e9])  # a quick one the largest
    studio.part(item, Dials())
    assert calls[1][0].size == (256, 256)


def test_stop_and_the_time_limit_end_the_work(studio, image_file):
    item = studio.add(image_file())
    callback = studio.watch("me", lambda progress: studio.stop("me"))
    with pytest.raises(StoppedError):
        studio.upscale(item, Dials(), callback)
    assert studio.stopped("me") and not studio.stopped("you") and item.result is None
    studio.limits = replace(Limits(), seconds=0.01)
    callback = studio.watch("me", lambda progress: time.sleep(0.02))
    with pytest.raises(PatchScalerError, match=r"0\.01 seconds allowed"):
        studio.upscale(item, Dials(), callback)
    assert not list(item.folder.glob("*_*.png"))  # nothing half done


def test_the_pixel_limit_of_the_studio_reaches_the_pipeline(tiny, tmp_path, image_file):
    studio = Studio(tiny, Limits(pixels=100_000), tmp_path)
    item = studio.add(image_file())
    studio.limits = Limits(pixels=100)
    with pytest.raises(PatchScalerError, match=r"in\.png"):
        studio.upscale(item, Dials(1))


def test_only_what_changed_is_made_again(studio, image_file):
    visit = Visit([studio.add(image_file("a.png")), studio.add(image_file("b.png"))])
    first = visit.items[0]
    assert visit.item is first and visit.todo(Dials()) == visit.items and not visit.done()
    studio.upscale(first, Dials())
    assert visit.todo(Dials()) == visit.items[1:] and visit.done() == [first]
    assert visit.todo(Dials(2)) == visit.items
    first.mask = np.full((4, 4), 255, np.uint8)
    assert visit.todo(Dials()) == visit.items


# --- what is handed out ---------------------------------------------------------------------------


def test_formats_and_quality(studio, image_file):
    item = studio.add(image_file("in.png", 64, 96))
    studio.upscale(item, Dials(2))
    assert converted(item, "PNG", 50) == item.result
    sizes = [converted(item, "JPEG", quality).stat().st_size for quality in (30, 90)]
    assert sizes[0] < sizes[1]
    for kind in ("JPEG", "WebP", "AVIF", "TIFF"):
        with Image.open(converted(item, kind, 90)) as image:
            assert (image.format, image.size) == (kind.upper(), (192, 128))
            assert np.abs(np.asarray(image).astype(int) - pixels(item.result)).mean() < 8
    stale = pixels(converted(item, "TIFF", 0))
    studio.upscale(item, Dials(2, "", None, 99))
    assert np.any(pixels(converted(item, "TIFF", 0)) != stale)


def test_transparency_is_kept_or_refused(studio, tmp_path, picture):
    image = picture(32, 48)
    image.putalpha(Image.linear_gradient("L").resize(image.size))
    image.save(tmp_path / "in.png")
    item = studio.add(tmp_path / "in.png")
    studio.upscale(item, Dials(2))
    assert Image.open(item.result).mode == "RGBA"
    assert [Image.open(path).mode for path in item.view()] == ["RGBA", "RGBA"]
    with pytest.raises(PatchScalerError, match="transparency"):
        converted(item, "JPEG", 90)


def test_all_in_one_zip(studio, image_file):
    sources = [image_file("one/in.png"), image_file("two/in.png"), image_file("b.png")]
    items = [studio.add(source) for source in sources]
    for item in items:
        studio.upscale(item, Dials(1))
    with zipfile.ZipFile(pack(items, "WebP", 80)) as file:
        names = ["in_64x40.webp", "2-in_64x40.webp", "b_64x40.webp"]
        assert file.namelist() == names and file.testzip() is None
    forget(Visit(items))
    assert list(studio.folder.iterdir()) == [studio.example.folder]


def test_a_browser_gets_copies_of_a_size_it_can_show(studio, image_file):
    item = studio.add(image_file("in.png", 20, 30))
    before, after = save_pair(item, Image.open(item.source), Image.new("RGB", (6000, 4000)))
    assert Image.open(before).size == Image.open(after).size == (VIEW, 2731)
    again = save_pair(item, Image.open(item.source), Image.new("RGB", (30, 20)))
    assert again[0] != before  # under another name: browsers keep what they have


def test_the_brush_becomes_a_mask_and_back(studio, image_file):
    layer = np.zeros((40, 64, 4), np.uint8)
    sketch = {"background": None, "layers": [layer], "composite": None}
    assert mask_of(None) is None and mask_of(sketch) is None
    layer[10:20, 5:9] = (255, 255, 255, 128)
    item = studio.add(image_file())
    item.mask = mask_of(sketch)
    assert item.mask.sum() == 255 * 40 and item.mask[10, 5] == 255
    assert np.array_equal(mask_of(painted(item)), item.mask)


def test_names_cannot_write_into_the_page():
    assert say("<img>.png: done") == '<p role="status" class="fine">&lt;img&gt;.png: done</p>'


def test_progress_is_shown(studio):
    seen = []
    now = Progress("denoise", 1, 2, 3.0)
    studio.watch("me", seen.append)(now)
    assert seen == [now]
