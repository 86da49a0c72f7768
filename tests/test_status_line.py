"""What people see while they wait."""

import sys

import pytest

from patchscaler.apps.cli.status_line import StatusLine


@pytest.fixture
def clock(monkeypatch):
    now = [100.0]
    monkeypatch.setattr("patchscaler.apps.cli.status_line.time.perf_counter", lambda: now[0])
    return now


def test_time_left_is_the_stages_own_speed(clock, monkeypatch, capsys):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    line = StatusLine("a.png", quiet=False)
    line("windows restored", 0, 4)
    clock[0] += 6
    line("windows restored", 3, 4)
    clock[0] += 50  # another stage begins, with part of it done by an earlier run
    line.patch_steps(10, 50)
    clock[0] += 5
    line.patch_steps(20, 50)
    line.close()
    shown = capsys.readouterr().err.replace("\033[K", "").split("\r")
    assert shown[1:-1] == [
        "a.png: 0/4 windows restored ",
        "a.png: 3/4 windows restored, 2 s left ",
        "a.png: 10/50 patch-steps ",
        "a.png: 20/50 patch-steps, 15 s left ",
    ]


@pytest.mark.parametrize(("quiet", "terminal"), [(True, True), (False, False)])
def test_nothing_where_nobody_looks(monkeypatch, capsys, quiet, terminal):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: terminal, raising=False)
    line = StatusLine("a.png", quiet)
    line("frames", 1, 2)
    line.close()
    assert capsys.readouterr().err == ""
