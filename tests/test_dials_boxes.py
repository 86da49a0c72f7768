"""Boxes: which patches they touch, what may be wished for them, and redoing them as a whole run
would.
"""

from dataclasses import replace

import numpy as np
import pytest

from patchscaler.dials.boxes import Change, in_force, last_seeds, make_change, patches_in
from patchscaler.dials.record import options_record, read_options
from patchscaler.dials.redo import Made, redo
from patchscaler.errors import PatchScalerError
from patchscaler.jobs import Result
from patchscaler.patching import make_grid


def test_patches_of_a_box():
    grid = make_grid(32, 48)  # 64 x 96 pixels of the input; strides of 16 pixels
    assert patches_in((0, 0, 1, 1), grid, 2, (64, 96)).tolist() == [0]
    assert patches_in((16, 0, 1, 1), grid, 2, (64, 96)).tolist() == [0, 1]
    assert patches_in((0, 16, 1, 1), grid, 2, (64, 96)).tolist() == [0, 5]
    assert len(patches_in((0, 0, 96, 64), grid, 2, (64, 96))) == len(grid)
    with pytest.raises(PatchScalerError, match="box 96,0,1,1 lies outside of the 96x64 picture"):
        patches_in((96, 0, 1, 1), grid, 2, (64, 96))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (((-1, 0, 5, 5), "hard"), "give x,y,width,height"),
        (((0, 0, 0, 5), "hard"), "give x,y,width,height"),
        (((0, 0, 5, 5),), "a group or a seed"),
        (((0, 0, 5, 5), "easy"), "unknown group 'easy': choose one of simple"),
        (((0, 0, 5), "hard"), "box 0,0,5: give x,y,width,height"),
        (((0, 0, 5, 0.5), "hard"), "give x,y,width,height"),
        (((0, 2**70, 5, 5), "hard"), "give x,y,width,height"),
        (((0, 0, 5, "5"), "hard"), "give x,y,width,height"),
        (((0, 0, 5, 5), 7), "unknown group '7'"),
        (((0, 0, 5, 5), [0]), "unknown group"),
        (((0, 0, 5, 5), None, "7"), "seed 7: give a whole number"),
    ],
)
def test_changes_that_cannot_be(arguments, message):
    with pytest.raises(PatchScalerError, match=message):
        make_change(*arguments)
    assert make_change((1, 2, 3, 4), "medium", 5) == Change((1, 2, 3, 4), 1, 5)


def test_changes_that_later_ones_undo_are_left_out():
    grid, size = make_grid(32, 48), (64, 96)
    whole, corner = (0, 0, 96, 64), (0, 0, 9, 9)
    hard, seed, both = (
        make_change(whole, "hard"),
        make_change(whole, None, 1),
        make_change(corner, "simple", 2),
    )

    def kept(*changes: Change) -> list[Change]:
        return in_force(changes, grid, 2, size)

    assert kept(hard, both, seed) == [hard, both, seed]  # the corner is still simple
    assert kept(both, hard, seed) == [hard, seed]
    assert kept(both, both) == [both] and kept(both, hard) == [both, hard] and kept() == []


def test_the_last_seed_of_a_patch_counts():
    grid, size = make_grid(32, 48), (64, 96)
    whole, corner, group = (
        make_change(*a)
        for a in (((0, 0, 96, 64), None, 1), ((0, 0, 9, 9), None, 2), ((0, 0, 9, 9), 0))
    )
    assert last_seeds([whole, corner, group], grid, 2, size) == {0: 2} | dict.fromkeys(
        range(1, len(grid)), 1
    )
    assert last_seeds([corner, whole], grid, 2, size) == dict.fromkeys(range(len(grid)), 1)
    assert last_seeds([group], grid, 2, size) == {}


def made(result: Result) -> Made:
    return Made(
        result.array,
        read_options(options_record(result.options)),
        result.groups,
        result.config,
        result.textures,
        result.moments,
    )


CHANGES = {
    "harder": [make_change((60, 40, 12, 9), "hard")],
    "left alone": [make_change((0, 0, 5, 5), "simple")],
    "other noise": [make_change((100, 60, 30, 9), None, 7)],
    "three": [
        make_change((0, 0, 9, 9), "simple"),
        make_change((8, 8, 60, 9), "hard", 3),
        make_change((9, 9, 9, 9), "medium"),
    ],
}


@pytest.mark.parametrize("changes", CHANGES.values(), ids=CHANGES.keys())
@pytest.mark.parametrize("options", [{}, {"color": "none"}, {"budget": 0.5}, {"fidelity": 0.3}])
def test_redo_gives_what_a_whole_run_gives(tiny, picture, changes, options):
    image = picture(97, 141)
    first = tiny.upscale(image, invention=True, **options)
    new = redo(tiny, image, made(first), changes)
    groups = {"groups": first.config} if "budget" in options else {}
    others = {k: v for k, v in options.items() if k != "budget"}
    whole = tiny.upscale(
        image, changes=changes, assigned=first.groups, invention=True, **groups, **others
    )
    # The low band of what a box changes reaches a little beyond its patches; there the redone
    # picture stays.
    away = np.abs(new.array.astype(int) - whole.array).max(-1)
    assert away.max() <= 2 and (away > 1).mean() < 3e-3
    assert np.array_equal(new.groups, whole.groups) and np.array_equal(new.textures, whole.textures)
    assert np.abs(new.moments - whole.moments).mean() < 1e-2 * np.abs(whole.moments).mean()


@pytest.mark.parametrize("options", [{}, {"color": "none"}])
def test_outside_of_the_boxs_patches_nothing_changes(tiny, picture, options):
    image = picture(97, 141)
    first = tiny.upscale(image, **options)
    change = make_change((60, 40, 12, 9), "hard", 5)
    new = redo(tiny, image, made(first), [change])
    touched = patches_in(change.box, first.grid, tiny.step, (97, 141))
    inside = np.zeros(first.array.shape[:2], bool)
    for i in touched:
        y, x = first.grid.corners()[i]
        inside[8 * y : 8 * (y + 16), 8 * x : 8 * (x + 16)] = True
    changed = (new.array != first.array).any(-1)
    assert not changed[~inside].any() and changed[inside].mean() > 0.3
    other = np.setdiff1d(np.arange(len(first.groups)), touched)
    assert np.array_equal(new.groups[other], first.groups[other])
    assert (new.groups[touched] == 2).all()


def test_redo_computes_little_more_than_the_box(tiny, picture, monkeypatch):
    image = picture(97, 141)
    first = tiny.upscale(image)
    pixels, real = [], tiny.grm.forward
    monkeypatch.setattr(
        tiny.grm, "forward", lambda lr, *args: pixels.append(lr[0, 0].numel()) or real(lr, *args)
    )
    told = []
    redo(
        tiny,
        image,
        made(first),
        [make_change((0, 0, 4, 4), "hard")],
        lambda *step: told.append(step),
    )
    assert told and told[-1][0] == told[-1][1] > 0
    assert pixels == [pytest.approx(86 * 86, rel=0.1)]  # 97 x 141 for the whole


def test_redo_twice_is_the_last(tiny, picture):
    image = picture(97, 141)
    first = tiny.upscale(image)
    there = redo(tiny, image, made(first), [make_change((60, 40, 12, 9), "simple")])
    back = redo(tiny, image, there, [make_change((60, 40, 12, 9), "hard")])
    straight = redo(tiny, image, made(first), [make_change((60, 40, 12, 9), "hard")])
    assert np.abs(back.array.astype(int) - straight.array).max() <= 1
    assert len(back.options["changes"]) == 2


def test_redo_of_what_does_not_fit(tiny, picture):
    image, first = picture(97, 141), tiny.upscale(picture(97, 141))
    change = [make_change((0, 0, 5, 5), "hard")]
    with pytest.raises(
        PatchScalerError, match="the finished picture is 564x388, not 4 times 47x33"
    ):
        redo(tiny, picture(33, 47), made(first), change)
    with pytest.raises(PatchScalerError, match="'adain' hang on the whole picture"):
        redo(tiny, image, made(tiny.upscale(image, color="adain")), change)
    with pytest.raises(PatchScalerError, match="a tileable texture"):
        redo(tiny, image, made(tiny.upscale(image, period=(97, 141))), change)
    with pytest.raises(PatchScalerError, match="3 patches are recorded, the picture has"):
        redo(tiny, image, replace(made(first), groups=np.zeros(3, int)), change)
    with pytest.raises(PatchScalerError, match="3 groups for"):
        tiny.upscale(image, assigned=np.zeros(3, int))
