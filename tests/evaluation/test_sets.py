"""One comparison over several folders and degradations: a table each, what they share once, what
users do wrong.
"""

import csv
import json

import pytest
from PIL import Image

from patchscaler.apps.cli import main
from patchscaler.errors import PatchScalerError
from patchscaler.evaluation.pairs import Pair
from patchscaler.evaluation.run import common_means, compare
from patchscaler.evaluation.sets import open_sets, split_degradations, split_folders
from patchscaler.evaluation.specs import Settings, parse_specs


@pytest.fixture
def folders(tmp_path, picture, monkeypatch):
    """Two folders of originals, in the folder that is worked in: one/a.png of 96x64, two/b.png of
    64x64.
    """
    for folder, name, height, width in (("one", "a", 64, 96), ("two", "b", 64, 64)):
        (tmp_path / folder).mkdir()
        picture(height, width).save(tmp_path / folder / f"{name}.png")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def command(*more):
    methods = ["--methods", "bicubic,lanczos", "--metrics", "psnr-y", "--quiet"]
    return main(["compare", *methods, *map(str, more)])


# --- which sets -----------------------------------------------------------------------------------


def test_folders_and_their_names(folders):
    assert split_folders(None) == []
    assert (
        split_folders(["one,two"])
        == split_folders(["one", " two "])
        == [("one", "one"), ("two", "two")]
    )
    assert split_folders(["Kodak=one, two/"]) == [("Kodak", "one"), ("two", "two/")]
    assert split_folders(["."]) == [(folders.name, ".")]
    assert split_folders(["one/a.png"]) == [("a", "one/a.png")]
    for odd in ("x,y", "k=v"):  # what exists is meant, whatever its name holds
        (folders / odd).mkdir()
        assert split_folders([odd]) == [(odd, odd)]
    with pytest.raises(PatchScalerError, match="',' names no folder of images"):
        split_folders([","])


def test_every_folder_under_every_degradation(folders):
    sets = open_sets(
        [], split_folders(["one,two"]), split_degradations(["mild", "bicubic"]), seed=3
    )
    assert [s.title for s in sets] == ["one, mild", "one, bicubic", "two, mild", "two, bicubic"]
    assert [str(s.folder) for s in sets[1:3]] == ["one/bicubic", "two/mild"]
    assert [(p.name, p.degradation, p.seed) for p in sets[2].pairs] == [("b", "mild", 3)]


def test_small_pictures_and_originals_pair_up(folders):
    for name in ("one", "two"):
        source = next((folders / name).iterdir())
        (folders / f"small-{name}").mkdir()
        Image.open(source).reduce(4).save(folders / f"small-{name}" / source.name)
    sets = open_sets(split_folders(["small-one,small-two"]), split_folders(["one,two"]), [])
    assert [(s.title, str(s.folder), s.pairs[0].lr.shape) for s in sets] == [
        ("one", "one", (16, 24, 3)),
        ("two", "two", (16, 16, 3)),
    ]
    assert [s.title for s in open_sets(split_folders(["small-one,small-two"]), [], [])] == [
        "small-one",
        "small-two",
    ]
    with pytest.raises(
        PatchScalerError, match="--lr has 1 folders and --hr has 2: give one of each"
    ):
        open_sets(split_folders(["small-one"]), split_folders(["one,two"]), [])


# --- measuring ------------------------------------------------------------------------------------


def test_each_set_scores_as_it_does_alone(folders):
    specs = parse_specs("bicubic,lanczos")
    sets = open_sets([], split_folders(["one,two"]), ["mild", "bicubic"])
    found = compare(specs, sets, ["psnr-y"], "out", Settings())
    for comparison, images in zip(found, sets, strict=True):
        (alone,) = compare(specs, [images], ["psnr-y"], "alone", Settings())
        assert common_means(comparison.evaluations) == common_means(alone.evaluations)
        assert (folders / "out" / images.folder / "bicubic" / "records.jsonl").is_file()


def test_a_method_that_is_missing_leaves_the_others(folders):
    sets = open_sets([], [("one", "one")], ["bicubic"])
    found = compare(parse_specs("bicubic,folder:X=none"), sets, ["psnr-y"], "out", Settings())
    assert [e.method for e in found[0].evaluations] == ["bicubic"]
    assert "no such folder" in found[0].unavailable["X"]
    with pytest.raises(PatchScalerError, match="X: none: no such folder"):
        compare(parse_specs("folder:X=none"), sets, ["psnr-y"], "out", Settings())


def test_finished_images_need_no_lr(folders):
    (found,) = open_sets([], [], [], finished="one")
    assert found.pairs == [Pair("a")] and found.title == "one"


# --- the command ----------------------------------------------------------------------------------


def test_a_table_for_each_set_and_the_notes_once(folders, capsys):
    files = {kind: f"c.{kind}" for kind in ("json", "csv", "html")}
    options = [part for kind, file in files.items() for part in (f"--{kind}", file)]
    names = ("--hr", "one", "--hr", "Second=two", "--degradation", "mild,bicubic")
    assert command(*names, *options) == 0
    lines = capsys.readouterr().out.splitlines()
    titles = ["one, mild", "one, bicubic", "Second, mild", "Second, bicubic"]
    assert [lines.index(title) for title in titles] == [0, 5, 10, 15]
    assert lines[1].split()[:4] == ["method", "n", "psnr-y", "↑"]
    assert [line.split()[0] for line in lines[2:4]] == ["bicubic", "lanczos"] and lines[4] == ""
    assert sum(line.startswith("psnr-y: PSNR in dB") for line in lines) == 1
    assert sum(line.startswith("data: ") for line in lines) == 4

    record = json.loads((folders / "c.json").read_text())
    found = [(s["name"], s["degradation"]) for s in record["sets"]]
    assert [", ".join(pair) for pair in found] == titles
    text = (folders / "c.csv").read_text().splitlines()
    rows = list(csv.DictReader(x for x in text if not x.startswith("#")))
    assert [(r["set"], r["method"], r["image"]) for r in rows[:2]] == [
        ("one, mild", "bicubic", "a"),
        ("one, mild", "lanczos", "a"),
    ]
    first = record["sets"][0]["evaluations"][0]
    assert (
        float(rows[0]["psnr-y"]) == first["means"]["psnr-y"] == first["rows"][0]["scores"]["psnr-y"]
    )
    page = (folders / "c.html").read_text()
    for title in titles:
        assert f"<h2>{title}</h2>" in page


def test_failures_name_their_set(folders, capsys):
    (folders / "two" / "broken.png").write_bytes(b"no image")
    assert command("--hr", "one,two", "--degradation", "bicubic") == 1
    out = capsys.readouterr()
    assert "\nfailed: two, bicubic: broken: " in out.out and "1 failed, listed above" in out.err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--hr", "one", "--degradation", "mild,magic"], "unknown degradation 'magic'"),
        (["--hr", "one,two", "--degradation", ""], "--hr alone has nothing to upscale"),
        (["--hr", "one,other/one", "--degradation", "mild"], "two sets have one name"),
        (["--hr", "one,nowhere", "--degradation", "mild"], "nowhere: no such folder"),
        (["--hr", "one,E=other/one", "--degradation", "mild"], "other/one: holds no images"),
        ([], "give images: --lr DIR"),
        (["--hr", "one", "--degradation", "mild", "--limit", "-1"], "take 0 or more"),
    ],
)
def test_wrong_options_are_one_line(folders, capsys, options, message):
    (folders / "other" / "one").mkdir(parents=True)
    assert command(*options) == 1
    out = capsys.readouterr()
    assert out.err.startswith("patchscaler: ") and message in out.err and out.out == ""
