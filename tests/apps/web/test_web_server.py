"""The page's API as programs call it, who may enter, and what is not given away."""

import argparse
import http.client
import json
import os
import signal
import subprocess
import sys
import urllib.parse
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("gradio")
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError

from patchscaler.apps.cli import web as command
from patchscaler.apps.web.jobs import STRANGERS, Limits
from patchscaler.apps.web.server import launched, read_passwords
from patchscaler.errors import PatchScalerError

DOCUMENT = Path(__file__).parents[3] / "docs" / "web.md"


@pytest.fixture
def client(address, tmp_path):
    return Client(address, verbose=False, download_files=tmp_path / "downloads")


def request(address, method, path, body=None, headers=None):
    """-> (status, text)."""
    connection = http.client.HTTPConnection(urllib.parse.urlparse(address).netloc, timeout=30)
    connection.request(method, path, body, headers or {})
    response = connection.getresponse()
    text = response.read().decode("utf-8", "replace")
    connection.close()
    return response.status, text


def call(address, value):
    """`upscale` of a file that was not uploaded -> all that the server says about it."""
    data = [{"path": value, "meta": {"_type": "gradio.FileData"}}, 4, "", 0, 0, "PNG", 95]
    body, kind = json.dumps({"data": data}).encode(), {"Content-Type": "application/json"}
    status, text = request(address, "POST", "/gradio_api/call/upscale", body, kind)
    if status != 200:
        return text
    return request(address, "GET", f"/gradio_api/call/upscale/{json.loads(text)['event_id']}")[1]


def upload(address, data):
    body = b'--x\r\nContent-Disposition: form-data; name="files"; filename="a.png"\r\n\r\n' + data
    kind = {"Content-Type": "multipart/form-data; boundary=x"}
    return request(address, "POST", "/gradio_api/upload", body + b"\r\n--x--\r\n", kind)


# --- the API --------------------------------------------------------------------------------------


def test_upscale(client, tiny, image_file):
    file = image_file()
    result, details = client.predict(
        image=handle_file(file), size="128x", fidelity=0.5, seed=3, api_name="/upscale"
    )
    expected = tiny(Image.open(file), size="128x", fidelity=0.5, seed=3)
    made = np.asarray(Image.open(result)).astype(int)
    assert Path(result).name == "in_128x80.png" and np.abs(made - expected.array).max() <= 1
    assert details["size"] == [128, 80] and details["nfe"] == expected.nfe
    assert sum(details["patches"].values()) == len(expected.groups)
    assert details["gmac"] <= details["gmac_uniform"] and details["seconds"]["all"] > 0
    result, _ = client.predict(
        image=handle_file(file), format="WebP", quality=50, api_name="/upscale"
    )
    assert Image.open(result).size == (256, 160) and Image.open(result).format == "WEBP"


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"size": "large"}, "large"),
        ({"fidelity": 2}, "fidelity"),
        ({"format": "BMP"}, "PNG, JPEG"),
        ({"image": None}, "give an image"),
    ],
)
def test_what_cannot_be_done_is_said(client, image_file, options, text):
    options = {"image": handle_file(image_file())} | options
    with pytest.raises(AppError, match=text):
        client.predict(**options, api_name="/upscale")


def test_the_only_endpoint_is_documented(client):
    info = client.view_api(return_format="dict", print_info=False)
    assert list(info["named_endpoints"]) == ["/upscale"] and not info["unnamed_endpoints"]
    text = DOCUMENT.read_text("utf-8")
    for parameter in info["named_endpoints"]["/upscale"]["parameters"]:
        assert f"`{parameter['parameter_name']}`" in text


# --- what is not given away -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "text"),
    [("http://127.0.0.1:9/a.png", "upload the image"), ("/etc/hostname", "error")],
)
def test_only_uploads_are_read(address, value, text):
    assert text in call(address, value)


def test_nothing_else_is_served(address, tmp_path):
    (tmp_path / "secret.txt").write_text("secret", "utf-8")
    for path in ("/etc/passwd", str(tmp_path / "secret.txt"), str(Path(command.__file__))):
        status, text = request(address, "GET", f"/gradio_api/file={path}")
        assert status in (403, 404) and "secret" not in text.replace("secret.txt", "")


def test_uploads_have_a_limit(address):
    assert upload(address, b"a" * 1000)[0] == 200
    assert upload(address, b"a" * 400_000)[0] == 413


def test_the_page_carries_the_projects_tags(address):
    text = request(address, "GET", "/")[1]
    assert 'property="og:title" content="PatchScaler"' in text


def test_passwords(tiny, tmp_path, image_file):
    (tmp_path / "who").write_text("anna:word\nbob:a:b\n", "utf-8")
    passwords = read_passwords(tmp_path / "who")
    assert passwords == [("anna", "word"), ("bob", "a:b")]
    with launched(tiny, Limits(), passwords=passwords) as address:
        assert request(address, "GET", "/config")[0] == 401
        assert upload(address, b"a")[0] == 401
        assert "Not authenticated" in call(address, "a.png")
        with pytest.raises(Exception, match=r"login|401|auth|credentials"):
            Client(address, verbose=False, auth=("anna", "wrong"))
        client = Client(address, verbose=False, auth=("bob", "a:b"), download_files=tmp_path)
        image = handle_file(image_file())
        assert client.predict(image=image, scale=1, api_name="/upscale")[1]["size"] == [64, 40]
    for text in ("", "anna\n", "anna:\n"):
        (tmp_path / "who").write_text(text, "utf-8")
        with pytest.raises(PatchScalerError, match="name:password"):
            read_passwords(tmp_path / "who")


# --- the command ----------------------------------------------------------------------------------


def parsed(*options):
    parser = argparse.ArgumentParser()
    command.add_parser(parser.add_subparsers())
    return parser.parse_args(["web", *options])


def test_limits_are_for_strangers():
    assert parsed().host == "127.0.0.1"
    assert command.limits_of(parsed()) == Limits()
    assert command.limits_of(parsed("--host", "0.0.0.0")) == STRANGERS
    limits = command.limits_of(parsed("--share", "--max-pixels", "0", "--keep", "5"))
    assert (limits.pixels, limits.keep, limits.seconds) == (0, 300, STRANGERS.seconds)
    for options in (["--max-files", "-1"], ["--queue", "0"], ["--keep", "0"]):
        with pytest.raises(PatchScalerError, match="limits"):
            command.limits_of(parsed(*options))


@pytest.mark.parametrize("options", [["--share"], ["--host", "0.0.0.0"]])
def test_strangers_are_let_in_on_purpose_only(options):
    with pytest.raises(PatchScalerError, match="--everybody"):
        command.serve(parsed(*options))


def test_without_gradio_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "gradio", None)
    with pytest.raises(PatchScalerError, match=r"pip install 'patchscaler\[web\]'"):
        command.serve(parsed())


def test_a_port_in_use_is_named(tiny, address):
    port = urllib.parse.urlparse(address).port
    with (
        pytest.raises(PatchScalerError, match=rf"port {port} of 127\.0\.0\.1"),
        launched(tiny, Limits(), port=port),
    ):
        pass


def test_the_command_leaves_nothing_behind(model_folder, tmp_path):
    line = [sys.executable, "-m", "patchscaler", "web", "--model", str(model_folder)]
    environment = os.environ | {"TMPDIR": str(tmp_path), "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(line, stdout=subprocess.PIPE, text=True, env=environment) as process:
        try:
            where = urllib.parse.urlparse(process.stdout.readline().split()[0])
            assert where.hostname == "127.0.0.1"
            assert len(list(tmp_path.glob("patchscaler-web-*"))) == 1
            process.send_signal(signal.SIGINT)
            assert process.wait(30) == 0
            assert not list(tmp_path.glob("patchscaler-web-*"))
        finally:
            process.kill()
