"""Many files by the API."""

import numpy as np
import pytest
from PIL import Image

from patchscaler import batch
from patchscaler.batch import FileOptions, batches, upscale_batch, upscale_files
from patchscaler.errors import PatchScalerError
from patchscaler.images.planes import to_planes
from patchscaler.tiling import LocalExecutor


def test_batches_keep_their_limits():
    sizes = [400, 500, 200, 900, 5000, 1, 1, 1]
    found = list(batches(((size, size) for size in sizes), pixels=1000, count=2))
    assert found == [[400, 500], [200], [900], [5000], [1, 1], [1]]


@pytest.fixture
def items(small_pictures, tmp_path):
    return [(path, tmp_path / "out" / path.name) for path in sorted(small_pictures.iterdir())]


@pytest.mark.parametrize("own", [True, False])
def test_files_are_written_and_reported(tiny, items, own):
    done = []
    executor = None if own else LocalExecutor(tiny.model)
    upscale_files(tiny, items, options={"scale": 2}, on_done=done.append, executor=executor)
    assert [made.target for made in done] == [target for _, target in items]
    for made in done:
        with Image.open(made.target) as image:
            assert image.size == made.output.size == tuple(2 * side for side in made.size)
        assert made.seconds > 0


def test_large_images_come_last_and_are_written_too(tiny, items, monkeypatch):
    monkeypatch.setattr(batch, "BATCH_PIXELS", 2 * 33 * 47)  # b alone is small
    done = []
    upscale_files(tiny, items, on_done=done.append)
    assert [made.source.name for made in done] == ["b.png", "a.png"]
    assert all(target.exists() for _, target in items)


def test_without_a_listener_an_error_is_raised(tiny, items):
    items[0][0].write_text("hello")
    with pytest.raises(PatchScalerError, match=r"a\.png"):
        upscale_files(tiny, items)


def test_errors_are_named_and_the_rest_goes_on(tiny, items):
    items[0][0].write_text("hello")
    failed = []
    upscale_files(tiny, items, on_error=lambda path, error: failed.append(path.name))
    assert failed == ["a.png"] and items[1][1].exists() and not items[0][1].exists()


def test_outputs_that_are_there_are_kept_on_request(tiny, items):
    upscale_files(tiny, items[:1])
    skipped = []
    upscale_files(tiny, items, overwrite=False, on_skip=lambda *facts: skipped.append(facts))
    assert skipped == [(*items[0], False)] and items[1][1].exists()


def test_files_are_written_as_asked(tiny, items, tmp_path):
    source, target = items[0][0], tmp_path / "a.webp"
    upscale_files(tiny, [(source, target)], files=FileOptions(lossless=True, provenance=False))
    expected = tiny(source).array
    assert np.array_equal(np.asarray(Image.open(target)), expected)


def test_no_memory_for_all_is_memory_for_each(tiny, picture, monkeypatch):
    real = type(tiny).__call__

    def tight(self, images, **options):
        if isinstance(images, list):
            raise PatchScalerError("not enough memory")
        return real(self, images, **options)

    monkeypatch.setattr(type(tiny), "__call__", tight)
    images = [to_planes(picture(32, 32, seed)) for seed in range(2)]
    assert [output.size for output in upscale_batch(tiny.model, images, {})] == [(128, 128)] * 2
