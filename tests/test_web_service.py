"""The page's jobs without the page: work that is watched, stopped and cleared up behind."""

import json
import threading
import time
import zipfile

import numpy as np
import pytest
from PIL import Image
from webserver import jobs, result_of, upload, waited, working

from patchscaler.apps.web import service as service_module
from patchscaler.apps.web.folder import IN_USE
from patchscaler.apps.web.jobs import Gone, Pace, Step, Watched
from patchscaler.apps.web.limits import Dials, Limits, read_dials, read_seed
from patchscaler.apps.web.service import Service
from patchscaler.dials.boxes import make_change
from patchscaler.dials.record import read_provenance
from patchscaler.errors import PatchScalerError
from patchscaler.images.planes import eight_bits
from patchscaler.images.read import load_picture
from patchscaler.images.write import save_picture

# --- what may be asked for ------------------------------------------------------------------------


def test_dials_are_read():
    dials = read_dials(2, 0.5, " 40% ", 7)
    assert dials.target_size.scale == 2 and dials.keywords()["budget"].share == pytest.approx(0.4)
    assert (dials.fidelity, dials.seed) == (0.5, 7)
    assert read_dials(4, 0, "", 0) == read_dials(4.0, 0.0, None, 0) == Dials()


@pytest.mark.parametrize(
    ("values", "text"),
    [
        (("4", 0, "", 0), "scale: give a number"),
        ((float("nan"), 0, "", 0), "scale: give a number"),
        ((True, 0, "", 0), "scale"),
        ((0, 0, "", 0), "take more than 0"),
        ((4, None, "", 0), "fidelity"),
        ((4, 0, "much", 0), "budget much"),
        ((4, 0, ["fast"], 0), "budget"),
        ((4, 0, {"a": 1}, 0), "budget"),
        ((4, 0, "", 0.5), "seed: give a whole number"),
        ((4, 0, "", 2**60), "seed"),
        ((4, 0, "", None), "seed"),
        ((10**400, 0, "", 0), "scale: give a number"),
        ((4, -(10**400), "", 0), "fidelity: give a number"),
        ((4, 0, "", 10**400), "seed: give a number"),
        ((4, 0, "500ms", 0), "budget 500ms: give a share"),
    ],
)
def test_dials_that_cannot_be(values, text):
    with pytest.raises(PatchScalerError, match=text):
        read_dials(*values)


def test_seeds_are_read():
    assert [read_seed(value) for value in (None, "", "  ", " 12 ", "-5", 7)] == [
        None,
        None,
        None,
        12,
        -5,
        7,
    ]


LONG = [pytest.param("9" * 5000, id="5000 digits"), pytest.param(10**400, id="401 digits")]


@pytest.mark.parametrize("value", ["--5", "-", "5-", "1.5", "five", "9" * 20, 0.5, True, *LONG])
def test_seeds_that_cannot_be(value):
    with pytest.raises(PatchScalerError, match=r"^seed: give a (whole )?number(, or nothing)?$"):
        read_seed(value)


def test_limits_are_told():
    assert Limits().text() == "pictures of up to 4 megapixels, 50 MB a file, 300 seconds of work"
    assert Limits(0, 0, 0).text() == "pictures of any size"


# --- one picture ----------------------------------------------------------------------------------


def test_enlarge_is_the_pipeline(service, tiny, picture):
    image = picture(40, 64)
    steps = list(service.enlarge("me", upload(service, image), read_dials(4, 0, "", 3)))
    job = steps.pop()
    assert all(isinstance(step, Step) for step in steps)
    expected = tiny.upscale(image, seed=3)
    assert np.abs(np.asarray(Image.open(job.result)).astype(int) - expected.array).max() <= 1
    assert {name: patches for name, patches, _ in job.cost()} == expected.cost["patches"]
    most = len(expected.groups) * max(tiny.config.groups.num_inference_steps)
    assert job.share() == pytest.approx(expected.cost["evaluations_total"] / most)
    assert set(job.views) == {
        "before",
        "after",
        "difficulty",
        "steps",
        "invention_low",
        "invention_high",
    }
    assert [Image.open(job.views[name]).size for name in ("before", "after", "steps")] == [
        (64, 40),
        *[(256, 160)] * 2,
    ]
    assert job.result.name == "in_x4.png" and not (job.folder / IN_USE).exists()
    service.folder.left("me")
    assert not list(service.folder.path.iterdir())


def test_transparent_pictures_stay_so(service, picture):
    job = result_of(
        service.enlarge(
            "me", upload(service, picture(24, 32).convert("RGBA")), read_dials(2, 1, "", 0)
        )
    )
    assert Image.open(job.result).mode == "RGBA" and job.views["after"].suffix == ".webp"


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_deep_greys_are_shown_as_they_are(service, suffix):
    deep = np.linspace(0, 65535, 64 * 40).reshape(40, 64).astype(np.uint16)
    path = service.folder.path / f"in{suffix}"
    Image.fromarray(deep).save(path)
    job = result_of(service.enlarge("me", path, Dials()))
    made = np.asarray(Image.open(job.result))
    assert made.dtype == np.uint16
    for name, values in (("before", deep), ("after", made)):
        shown = Image.open(job.views[name])
        assert shown.mode == "L" and np.abs(np.asarray(shown) - values / 257).mean() < 2


@pytest.mark.parametrize(
    ("dtype", "top"), [(np.int32, 65535), (np.float32, 1), (np.float32, 255), (np.uint16, 65535)]
)
def test_greys_of_any_depth_in_eight_bits(dtype, top):
    image = Image.fromarray((np.linspace(0, top, 256).reshape(16, 16)).astype(dtype))
    assert np.abs(np.asarray(eight_bits(image)).ravel() - np.arange(256.0)).max() <= 1
    for mode in ("L", "RGBA", "P"):
        assert eight_bits(other := Image.new(mode, (4, 4))) is other


def test_redo_changes_the_box_and_nothing_else(service, picture):
    first = result_of(service.enlarge("me", upload(service, picture(97, 141)), Dials()))
    before = np.asarray(Image.open(first.result)).copy()
    second = result_of(service.redo("me", first, make_change((0, 0, 4, 4), None, seed=9)))
    after = np.asarray(Image.open(second.result))
    assert (after != before).any() and np.array_equal(after[240:, 300:], before[240:, 300:])
    assert np.array_equal(np.asarray(Image.open(first.result)), before)  # the earlier one stays
    assert (
        len(second.record["options"]["changes"]) == 1
        and second.views["after"] != first.views["after"]
    )
    third = result_of(service.redo("me", second, make_change((0, 0, 4, 4), "simple")))
    assert len(third.record["options"]["changes"]) == 2


def test_redo_of_uploads(service, picture):
    image = picture(40, 64)
    job = result_of(service.enlarge("me", upload(service, image), Dials()))
    large = upload(service, job.result.read_bytes(), "in_x4.png", "b")
    change = make_change((0, 0, 4, 4), None, seed=9)
    again = result_of(service.redo_files("me", service.folder.path / "a" / "in.png", large, change))
    expected = result_of(service.redo("me", job, change))
    assert np.array_equal(
        np.asarray(Image.open(again.result)), np.asarray(Image.open(expected.result))
    )
    foreign = upload(service, picture(160, 256), "other.png", "c")
    with pytest.raises(PatchScalerError, match=r"^other.png: does not tell how it was made"):
        list(service.redo_files("me", service.folder.path / "a" / "in.png", foreign, change))


@pytest.mark.parametrize(
    ("changed", "text"),
    [
        (
            {"changes": [{"box": [0, 0, 9, 9], "group": None, "seed": n} for n in range(20_000)]},
            "20000 boxes were",
        ),
        ({"changes": [{"box": [0, 0, 9, 9], "group": 7, "seed": None}]}, "unknown group '7'"),
        ({"origin": [2**70, 0]}, "origin"),
        ({"budget": {"name": "nonsense"}}, "budget"),
        ({"groups": None}, "cannot be followed"),
        ({}, "overlap otherwise than this page's"),
    ],
)
def test_redo_of_a_crafted_result(service, picture, changed, text):
    image = picture(40, 64)
    path = result_of(service.enlarge("me", upload(service, image), Dials())).result
    large = load_picture(path)
    facts = read_provenance(large.metadata.xmp)
    options = json.loads(facts["Options"])
    changed = changed or {"groups": options["groups"] | {"overlap": 15}}
    metadata = large.metadata.with_provenance(facts | {"Options": json.dumps(options | changed)})
    crafted = upload(service, b"", "in_x4.png", "b")
    save_picture(np.asarray(large.pixels), crafted, metadata)
    before = jobs(service)
    with pytest.raises(PatchScalerError, match=rf"^in_x4\.png: .*{text}"):
        list(
            service.redo_files(
                "me",
                service.folder.path / "a" / "in.png",
                crafted,
                make_change((0, 0, 4, 4), "hard"),
            )
        )
    assert jobs(service) == before


def test_redo_when_the_picture_is_gone(service, picture):
    job = result_of(service.enlarge("me", upload(service, picture(24, 32)), Dials()))
    service.folder.left("me")
    with pytest.raises(PatchScalerError, match="no longer here"):
        list(service.redo("me", job, make_change((0, 0, 4, 4), "hard")))
    assert not jobs(service)


# --- several --------------------------------------------------------------------------------------


def test_zip_names_what_failed_and_goes_on(service, picture):
    files = [
        upload(service, picture(24, 32), "a.png", "a"),
        upload(service, b"nothing", "b.png", "b"),
    ]
    files += [upload(service, picture(24, 32, 1), "a.png", "c")]  # another one of the same name
    steps = list(service.zip("me", files, read_dials(2, 0, "", 0)))
    made = steps.pop()
    assert {step.picture for step in steps if step.picture} <= {
        "1 of 3, a.png",
        "2 of 3, b.png",
        "3 of 3, a.png",
    }
    with zipfile.ZipFile(made.file) as archive:
        assert (
            archive.namelist() == ["a_x2.png", "a_x2 (2).png", "failed.txt"]
            and archive.testzip() is None
        )
        assert archive.read("failed.txt") == b"b.png: not a picture in a format that can be read\n"
        with archive.open("a_x2.png") as file:
            assert Image.open(file).size == (64, 48)
    assert made.summary.lines()[0] == "2 enlarged, 0 done before, 1 failed"
    # the single files are gone
    assert sorted(path.name for path in made.file.parent.parent.iterdir()) == ["out"]


def test_zips_that_cannot_be(service, picture):
    with pytest.raises(PatchScalerError, match="choose some pictures"):
        list(service.zip("me", [], Dials()))
    with pytest.raises(PatchScalerError, match="4 pictures are more than the 3"):
        list(service.zip("me", ["a"] * 4, Dials()))
    with pytest.raises(PatchScalerError, match=r"^b.png: not a picture"):
        list(service.zip("me", [upload(service, b"nothing", "b.png", "b")], Dials()))
    assert not jobs(service)


# --- room -----------------------------------------------------------------------------------------


def test_results_count_and_above_the_limit_none_is_made(tiny, picture, tmp_path):
    path = upload(service := Service(tiny, Limits(disk_bytes=100_000), tmp_path), picture(40, 64))
    made = []
    with pytest.raises(
        PatchScalerError, match=r"^there is no room for more results at the moment: save yours and"
    ):
        for _ in range(20):
            made.append(result_of(service.enlarge("me", path, Dials())))
    assert (
        0 < len(made) < 20
        and service.folder.size() < 100_000 + 150_000
        and len(jobs(service)) == len(made)
    )
    with pytest.raises(PatchScalerError, match="no room"):
        list(service.redo("me", made[-1], make_change((0, 0, 4, 4), "hard")))
    service.folder.left("me")
    assert result_of(
        service.enlarge("me", upload(service, picture(40, 64)), Dials())
    ).result.exists()
    service.folder.close()


def test_a_zip_that_finds_no_more_room(tiny, picture, tmp_path):
    service = Service(tiny, Limits(disk_bytes=100_000), tmp_path)
    files = [upload(service, picture(40, 64, n), f"{n}.png") for n in range(6)]
    made = result_of(service.zip("me", files, Dials()))
    done, failed = made.summary.done, made.summary.failed
    assert (
        done
        and failed
        and len(done) + len(failed) == 6
        and all("no room" in one["error"] for one in failed)
    )
    service.folder.close()


# --- hurried visitors -----------------------------------------------------------------------------


def test_who_leaves_midway_leaves_nothing(service, picture, monkeypatch):
    reached, go_on = threading.Event(), threading.Event()

    def slow(*args, watch, **keywords):
        watch("patch-steps", 0, 9)
        reached.set()
        go_on.wait(20)
        watch("patch-steps", 1, 9)
        raise AssertionError("the work went on")

    monkeypatch.setattr(service_module, "upscale_file", slow)
    steps = service.enlarge("me", upload(service, picture(16, 16)), Dials())
    next(steps)
    assert reached.wait(20) and len(jobs(service)) == 1
    steps.close()
    go_on.set()
    assert waited(lambda: not working()) and not jobs(service) and not service.lock.locked()


def test_who_leaves_before_it_begins(service, picture):
    with service.lock:  # another one's picture is made
        steps = service.enlarge("me", upload(service, picture(16, 16)), Dials())
        assert next(steps).stage == "waiting"
        steps.close()
        assert working()  # it waits for its turn, and does not know yet that nobody is there
    assert waited(lambda: not working()) and not jobs(service) and not service.lock.locked()


def test_time_is_limited(tiny, picture, tmp_path):
    service = Service(tiny, Limits(seconds=1e-6), tmp_path)
    path = upload(service, picture(16, 16))
    with pytest.raises(
        PatchScalerError,
        match=r"longer than the 1e-06 seconds allowed here; take a smaller picture",
    ):
        list(service.enlarge("me", path, Dials()))
    with pytest.raises(PatchScalerError, match="longer than"):
        list(service.zip("me", [path, path], Dials()))
    assert not jobs(service)
    service.folder.close()


def test_what_nobody_foresaw(service, picture, monkeypatch, capfd):
    def broken(*args, **keywords):
        raise RuntimeError("secret detail")

    monkeypatch.setattr(service_module, "upscale_file", broken)
    with pytest.raises(
        PatchScalerError, match="something went wrong here; the server's log says what"
    ) as caught:
        list(service.enlarge("me", upload(service, picture(16, 16)), Dials()))
    assert "secret" not in str(caught.value) and "secret detail" in capfd.readouterr().err
    assert not jobs(service)


def test_one_job_at_a_time(service, picture, monkeypatch):
    inside, most, real = [0], [0], service_module.upscale_file

    def counted(*args, **keywords):
        inside[0] += 1
        most[0] = max(most[0], inside[0])
        time.sleep(0.05)
        try:
            return real(*args, **keywords)
        finally:
            inside[0] -= 1

    monkeypatch.setattr(service_module, "upscale_file", counted)
    paths = [upload(service, picture(16, 16, n), place=str(n)) for n in range(4)]
    results: list[object] = []
    threads = [
        threading.Thread(
            target=lambda p=p, n=n: results.append(result_of(service.enlarge(str(n), p, Dials())))
        )
        for n, p in enumerate(paths)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == [1] and len(results) == 4 and len({job.folder for job in results}) == 4


# --- progress -------------------------------------------------------------------------------------


def test_time_left_of_a_stage_and_of_all(monkeypatch):
    clock = [100.0]
    monkeypatch.setattr("patchscaler.apps.web.jobs.time.perf_counter", lambda: clock[0])
    watch = Watched(0)
    assert watch.step() == Step("waiting", 0, 1)
    watch("patch-steps", 0, 10)
    assert watch.step().left is None
    clock[0] += 4
    watch("patch-steps", 2, 10)
    clock[0] += 1  # nothing was done since, but time went on
    assert watch.step() == Step("patch-steps", 2, 10, 15.0)
    watch.expected = {"patch-steps": 50.0, "strips decoded": 7.0}
    assert watch.step() == Step("patch-steps", 2, 10, 22.0, whole=True)
    watch("strips decoded", 0, 1)
    clock[0] += 2
    assert watch.step() == Step("strips decoded", 0, 1, 5.0, whole=True)
    clock[0] += 20
    assert watch.step().left == 0  # never less
    assert watch.end() == {"patch-steps": 5.0, "strips decoded": 22.0}
    watch.left = True
    with pytest.raises(Gone):
        watch("strips decoded", 1, 1)


def test_pace():
    pace = Pace()
    assert pace.expected(100) == {}
    pace.learn({"a": 10.0}, 100)
    assert pace.expected(50) == {"a": 5.0}
    pace.learn({"a": 40.0}, 200)
    assert pace.expected(100) == {"a": pytest.approx(15)}
