"""One comparison over several folders and degradations: a table each, what they share once, what
users do wrong.
"""

import csv
import json

import numpy as np
import pytest
from common import CountingMethod
from PIL import Image

from patchscaler.apps.cli import main
from patchscaler.errors import PatchScalerError
from patchscaler.evaluation import compare as comparing
from patchscaler.evaluation.compare import compare, compare_sets
from patchscaler.evaluation.cost.memory import ChildCost
from patchscaler.evaluation.pairs import load_pairs
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
    methods = ["--methods", "bicubic,lanczos", "--metrics", "psnr-y", "--no-memory", "--quiet"]
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
    with pytest.raises(PatchScalerError, match="',' names no folder of pictures"):
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


def test_each_set_scores_as_it_does_alone(folders, monkeypatch):
    asked = []

    def child(spec, picture, settings):
        asked.append((spec, picture.shape))
        return ChildCost(1.0, 100.0 + len(asked), 0.0)

    monkeypatch.setattr(comparing, "method_cost", child)
    specs = parse_specs("bicubic,lanczos")
    sets = open_sets([], split_folders(["one,two"]), ["mild", "bicubic"])
    found = compare_sets(specs, sets, ["psnr-y"], "out", Settings())
    for comparison, pictures in zip(found, sets, strict=True):
        pairs, _ = load_pairs(hr=pictures.name, degradation=pictures.degradation)
        alone = compare(specs, pairs, ["psnr-y"], "alone", Settings(), memory=False)
        assert [e.means for e in comparison.evaluations] == [e.means for e in alone.evaluations]
        assert (folders / "out" / pictures.folder / "bicubic" / "records.jsonl").is_file()
    # Peak memory: once a method and size, not once a degradation.
    assert asked == [
        (m, shape) for shape in ((16, 24, 3), (16, 16, 3)) for m in ("bicubic", "lanczos")
    ]
    assert [c.costs["lanczos"].peak_mib for c in found] == [102, 102, 104, 104]


def test_sets_resume_and_methods_warm_up_once(folders, monkeypatch):
    method = CountingMethod()
    monkeypatch.setattr(comparing, "build_methods", lambda specs, settings: ([method], {}))
    sets = open_sets([], split_folders(["one,two"]), ["bicubic"])
    first = compare_sets([], sets, ["psnr-y"], "out", Settings(), memory=False)
    assert method.calls == [(16, 24, 3), (16, 24, 3), (16, 16, 3)]
    again = compare_sets([], sets, ["psnr-y"], "out", Settings(), memory=False)
    assert len(method.calls) == 3 and [c.costs for c in again] == [c.costs for c in first]


# --- the command ----------------------------------------------------------------------------------


def test_a_table_under_each_heading_and_the_notes_once(folders, capsys):
    files = {kind: f"c.{kind}" for kind in ("json", "csv", "html")}
    options = [part for kind, file in files.items() for part in (f"--{kind}", file)]
    assert (
        command("--hr", "one", "--hr", "Second=two", "--degradation", "mild,bicubic", *options) == 0
    )
    lines = capsys.readouterr().out.splitlines()
    titles = ["one, mild", "one, bicubic", "Second, mild", "Second, bicubic"]
    starts = [lines.index(title) for title in titles]
    assert starts == [0, 5, 10, 15]
    for i in starts:
        assert lines[i + 1].split()[:4] == ["method", "n", "psnr-y", "↑"]
        assert [line.split()[0] for line in lines[i + 2 : i + 4]] == [
            "bicubic",
            "lanczos",
        ] and lines[i + 4] == ""
    notes = lines[20:]
    assert sum(line.startswith("psnr-y: PSNR in dB") for line in notes) == 1
    assert sum(line.startswith("with: patchscaler") for line in notes) == 1
    data = [line for line in notes if ": data: 1 pictures, small ones made by" in line]
    assert [line.split(": data")[0] for line in data] == titles

    record = json.loads((folders / "c.json").read_text())
    assert record["format"] == "patchscaler-comparisons-1"
    assert [(c["set"], c["degradation"]) for c in record["comparisons"]][1:3] == [
        ("one", "bicubic"),
        ("Second", "mild"),
    ]
    assert record["comparisons"][0]["format"] == "patchscaler-comparison-1"
    rows = list(
        csv.DictReader(
            x for x in (folders / "c.csv").read_text().splitlines() if not x.startswith("#")
        )
    )
    assert [(r["set"], r["degradation"], r["method"]) for r in rows[:3]] == [
        ("one", "mild", "bicubic"),
        ("one", "mild", "lanczos"),
        ("one", "bicubic", "bicubic"),
    ]
    means = [
        c["common"]["means"][m]["psnr-y"]
        for c in record["comparisons"]
        for m in ("bicubic", "lanczos")
    ]
    assert [float(r["psnr-y"]) for r in rows] == means and np.isfinite(means).all()
    page = (folders / "c.html").read_text()
    assert "<h1>2 methods on one, Second</h1>" in page and page.count("To repeat it") == 1
    for title in titles:
        assert f"<h2>{title}</h2>" in page and f"<h2>{title}: picture by picture</h2>" in page


def test_one_of_each_is_as_it_was(folders, capsys):
    assert command("--hr", "one", "--degradation", "bicubic", "--json", "c.json", "-o", "out") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("method") and any(
        line.startswith("data: 1 pictures") for line in lines
    )
    assert json.loads((folders / "c.json").read_text())["format"] == "patchscaler-comparison-1"
    assert (folders / "out" / "bicubic" / "a.png").is_file()


def test_failures_name_their_set(folders, capsys):
    (folders / "two" / "broken.png").write_bytes(b"no picture")
    assert command("--hr", "one,two", "--degradation", "bicubic") == 1
    out = capsys.readouterr()
    assert "\ntwo, bicubic: failed: broken: " in out.out and "1 failed, listed above" in out.err


def test_what_users_do_wrong(folders, capsys):
    def fails(*more, program=command):
        assert program(*more) == 1
        out = capsys.readouterr()
        assert out.err.startswith("patchscaler: ") and out.out == ""
        return out.err.splitlines()[-1]

    assert "unknown degradation 'magic': choose from bicubic" in fails(
        "--hr", "one", "--degradation", "mild,magic"
    )
    assert "'mild' is named twice" in fails("--hr", "one", "--degradation", "mild,mild")
    assert "nothing to enlarge" in fails("--hr", "one,two", "--degradation", "")
    (folders / "other" / "one").mkdir(parents=True)
    two = fails("--hr", "one,other/one", "--degradation", "mild")
    assert two == "patchscaler: two sets are called 'one': write one as ANOTHER=other/one"
    assert "other/one: holds no pictures" in fails(
        "--hr", "one,Empty=other/one", "--degradation", "mild"
    )
    assert "nowhere: no such folder" in fails("--hr", "one,nowhere", "--degradation", "mild")
    (folders / "other" / "one" / "c.png").write_bytes(b"no picture")
    assert "Bad, mild: no picture can be measured" in fails(
        "--hr", "one,Bad=other/one", "--degradation", "mild"
    )
    assert not (folders / "comparison").exists() or not list((folders / "comparison").iterdir())

    def evaluate(*more):
        return main(["evaluate", *more])

    says = "patchscaler: evaluate takes one set and one degradation; several: patchscaler compare"
    assert fails("--hr", "one", "--degradation", "mild,real", program=evaluate) == says
    assert fails("--hr", "one,two", "--degradation", "mild", program=evaluate) == says
