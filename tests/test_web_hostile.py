"""Files that mean no good, given to the page's jobs: one line each, and nothing is left."""

from pathlib import Path

import pytest
from PIL import Image
from webserver import jobs, result_of, upload

from patchscaler.apps.web.limits import Dials, read_dials
from patchscaler.apps.web.service import Service
from patchscaler.errors import PatchScalerError

FORMATS = ("PNG", "JPEG", "WEBP", "TIFF", "BMP", "GIF", "AVIF")


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("share", [0.0, 0.05, 0.5, 0.9])
def test_truncated_files(service, picture, tmp_path, kind, share):
    whole = tmp_path / "whole"
    picture(40, 64).save(whole, kind)
    data = whole.read_bytes()
    check_refused_or_made(
        service, upload(service, data[: int(len(data) * share)], f"in.{kind.lower()}")
    )


@pytest.mark.parametrize("kind", FORMATS)
def test_mislabelled_files_are_what_they_are(service, picture, tmp_path, kind):
    whole = tmp_path / "whole"
    picture(16, 24).save(whole, kind)
    for name in ("in.txt", "in", "in.jpg" if kind != "JPEG" else "in.png"):
        job = result_of(service.enlarge("me", upload(service, whole.read_bytes(), name), Dials()))
        assert Image.open(job.result).size == (96, 64)


@pytest.mark.parametrize(
    "data",
    [
        b"<svg xmlns='http://www.w3.org/2000/svg'/>",
        b"<html>",
        b"PK\x03\x04",
        b"%PDF-1.7",
        b"\x89PNG\r\n\x1a\n",
        b"GIF89a",
        b"RIFF\xff\xff\xff\xffWEBPVP8 ",
        b"II*\0\x08\0\0\0",
        b"BM" + bytes(60),
        bytes(1000),
        b"%!PS",
        b"\0\0\0\x0cjP  ",
    ],
)
def test_no_pictures(service, data):
    error = check_refused_or_made(service, upload(service, data, "in.png"))
    assert error is not None


def check_refused_or_made(service: Service, path: Path) -> str | None:
    """A file ends as a picture or as one line about it, with no path of the server; and then
    nothing is left.
    """
    try:
        result_of(service.enlarge("me", path, Dials()))
        text = None
    except PatchScalerError as error:
        text = str(error)
        assert (
            text.startswith(f"{path.name}: ")
            and str(service.folder.path) not in text
            and "\n" not in text
        )
        assert "--" not in text and not jobs(service)
    service.folder.left("me")
    assert not list(service.folder.path.iterdir())
    return text


def test_bombs(service, tmp_path):
    # 100 megapixels in 100 kB: told by the header, before anything is decoded.
    Image.new("1", (10_000, 10_000)).save(tmp_path / "bomb.png")
    path = upload(service, (tmp_path / "bomb.png").read_bytes(), "bomb.png")
    with pytest.raises(
        PatchScalerError, match=r"^bomb.png: 10000x10000 pixels are more than the 0\.02 meg"
    ):
        list(service.enlarge("me", path, Dials()))
    Image.new("RGB", (100, 100)).save(path)
    with pytest.raises(
        PatchScalerError, match=r"would become 6400x6400, and up to 0\.32 megapixels can"
    ):
        list(service.enlarge("me", path, read_dials(64, 0, "", 0)))
    frames = [Image.new("L", (8, 8), value) for value in (0, 99, 200)]
    frames[0].save(path.with_name("moves.gif"), save_all=True, append_images=frames[1:])
    with pytest.raises(PatchScalerError, match=r"^moves.gif: moves, and only still pictures"):
        list(service.enlarge("me", path.with_name("moves.gif"), Dials()))


@pytest.mark.parametrize(
    "path", ["/etc/passwd", "http://a/b.png", "../x", "", "a\0b", None, 5, ["a"], {"path": "a"}]
)
def test_what_is_no_upload(service, path):
    with pytest.raises(PatchScalerError, match=r"no uploaded file|no file"):
        list(service.enlarge("me", path, Dials()))
    assert not list(service.folder.path.iterdir())


def test_links_out_of_the_folder(service, picture, tmp_path):
    picture(16, 16).save(tmp_path / "secret.png")
    link = service.folder.path / "a" / "in.png"
    link.parent.mkdir()
    link.symlink_to(tmp_path / "secret.png")
    for path in (link, service.folder.path / "a" / ".." / ".." / "secret.png"):
        with pytest.raises(PatchScalerError, match="no uploaded file"):
            list(service.enlarge("me", path, Dials()))
