"""What people see while they wait."""

import json
import sys

import pytest

from patchscaler.apps.cli.status_line import EVERY, StatusLine
from patchscaler.progress import Progress


@pytest.fixture
def clock(monkeypatch):
    now = [100.0]
    monkeypatch.setattr("patchscaler.apps.cli.status_line.time.monotonic", lambda: now[0])
    return now


@pytest.fixture
def terminal(monkeypatch, request):
    shown = getattr(request, "param", True)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: shown, raising=False)


def test_percent_and_time_left(clock, capsys):
    line = StatusLine("a.png")
    line.live = True  # as on a terminal
    line(Progress("restore", 100, 1000))
    clock[0] += 2 * EVERY
    line(Progress("denoise", 999, 1000, 3.2))
    line(Progress("denoise", 999, 1000, 3.1))  # too early for another
    line.close()
    shown = capsys.readouterr().err.replace("\033[K", "").split("\r")
    assert shown == ["", "a.png: 10 % restore", "a.png: 99 % denoise, 3 s left", ""]


@pytest.mark.parametrize(
    ("quiet", "terminal"), [(True, True), (False, False)], indirect=["terminal"]
)
def test_nothing_where_no_terminal_is(terminal, capsys, quiet):
    line = StatusLine("a.png", quiet)
    line(Progress("denoise", 1, 2))
    line.close()
    assert capsys.readouterr().err == ""


def test_json(capsys):
    StatusLine("a.png", lines=True)(Progress("denoise", 1, 2, 0.5))
    expected = {"event": "progress", "input": "a.png", "stage": "denoise"}
    assert json.loads(capsys.readouterr().out) == expected | {"done": 1, "total": 2, "eta": 0.5}
