"""The page's folder, and who may enter: what is kept, for whom, and who is let in."""

import time

import pytest

from patchscaler.apps.cli import main
from patchscaler.apps.web.folder import Folder
from patchscaler.apps.web.server import check_open, read_passwords
from patchscaler.errors import PatchScalerError

# --- the folder -----------------------------------------------------------------------------------


def test_equal_files_of_two_visitors_are_one(tmp_path):
    folder = Folder(60, tmp_path)
    file = folder.path / "a" / "x.png"
    file.parent.mkdir()
    file.write_bytes(b"x")
    for visitor in ("one", "two"):
        assert folder.uploaded(str(file), visitor) == file
    folder.left("one")
    assert file.exists()
    folder.left("two")
    assert not file.parent.exists()
    folder.left("nobody")


def test_sweep_spares_what_is_young_in_use_or_pinned(tmp_path):
    folder = Folder(60, tmp_path)
    (folder.path / "example").mkdir()
    (folder.path / "example" / "cat.jpg").write_bytes(b"cat")
    folder.pin()
    used, done = folder.new_job(), folder.new_job()
    folder.keep_job(done, "me")
    (folder.path / "half").write_bytes(b"an upload that was cut off")
    assert folder.size() == 3 + 26
    folder.sweep()
    assert len(list(folder.path.iterdir())) == 4
    folder.sweep(time.time() + 61)
    assert {path.name for path in folder.path.iterdir()} == {"example", used.name}
    folder.uploaded(folder.path / "example" / "cat.jpg", "me")
    folder.left("me")  # an example is nobody's own
    assert (folder.path / "example" / "cat.jpg").exists()
    assert folder.path.stat().st_mode & 0o777 == 0o700
    folder.close()
    assert not folder.path.exists()


def test_a_folder_that_was_cleared_away_is_made_anew(tmp_path):
    folder = Folder(60, tmp_path)
    folder.path.rmdir()
    folder.sweep()
    assert folder.path.stat().st_mode & 0o777 == 0o700 and folder.new_job().exists()
    folder.close()
    folder.sweep()
    assert not folder.path.exists()  # it is over


def test_a_folder_whose_parent_is_gone(tmp_path):
    parent = tmp_path / "parent"
    parent.mkdir()
    folder = Folder(60, parent)
    folder.path.rmdir()
    parent.rmdir()
    folder.sweep()
    assert folder.size() == 0 and not parent.exists()


def test_no_place_for_a_folder(tmp_path):
    with pytest.raises(PatchScalerError, match="no folder for uploads"):
        Folder(60, tmp_path / "missing")


# --- who may enter --------------------------------------------------------------------------------


def test_passwords(tmp_path):
    file = tmp_path / "who"
    file.write_text("anna:one:two\n\nbert:three\n", encoding="utf-8")
    check = read_passwords(file)
    assert check("anna", "one:two") and check("bert", "three")
    assert not any(
        check(*pair) for pair in (("anna", "three"), ("carl", "-"), ("", ""), ("anna", "one"))
    )
    file.write_text("anna\n", encoding="utf-8")
    with pytest.raises(PatchScalerError, match="name:password"):
        read_passwords(file)
    with pytest.raises(PatchScalerError, match="cannot be read"):
        read_passwords(tmp_path / "missing")


def test_strangers_are_let_in_on_purpose_only():
    check_open("127.0.0.1", False, False, False)
    for host, share in (("0.0.0.0", False), ("127.0.0.1", True), ("192.168.0.2", False)):
        with pytest.raises(PatchScalerError, match="--password-file FILE, or --everybody"):
            check_open(host, share, False, False)
        check_open(host, share, True, False)
        check_open(host, share, False, True)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (["--queue", "0"], "--queue 1 or more"),
        (["--keep", "0"], "--keep"),
        (["--max-pixels", "-1"], "limits"),
        (["--share"], "--everybody"),
        (["--host", "0.0.0.0"], "--host 0.0.0.0 opens"),
        (["--password-file", "missing"], "missing: cannot be read"),
    ],
)
def test_commands_that_cannot_be(options, text, capsys, monkeypatch, tmp_path):
    import sys
    import types

    monkeypatch.chdir(tmp_path)
    # nothing of it is needed to refuse
    monkeypatch.setitem(sys.modules, "gradio", types.ModuleType("gradio"))
    assert main(["web", *options]) == 1
    assert text in capsys.readouterr().err


def test_without_the_extra(capsys, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "gradio", None)
    assert main(["web"]) == 1
    assert "pip install 'patchscaler[web]'" in capsys.readouterr().err
