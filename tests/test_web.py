"""The page's API as programs call it, and as those who mean no good do.

Needs gradio (the extra `web`).
"""

import concurrent.futures
import http.client
import json
import os
import signal
import subprocess
import sys
import time
import urllib.parse
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("gradio")
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError
from webserver import called, jobs, multipart, own, request, served, slow_work, upload_of, waited

from patchscaler.apps.web import guard
from patchscaler.apps.web import service as service_module
from patchscaler.apps.web.widgets import STAGES
from patchscaler.config import RefinerConfig
from patchscaler.models.refiner import Refiner
from patchscaler.pipeline import PatchScaler
from patchscaler.streaming.files import upscale_file


@pytest.fixture(scope="module")
def server(tiny, tmp_path_factory):
    with served(tiny, tmp_path_factory.mktemp("web"), queue=4, files=3, file_bytes=300_000) as (
        service,
        address,
    ):
        yield service, address


@pytest.fixture
def client(server, tmp_path):
    one = Client(server[1], verbose=False, download_files=tmp_path / "downloads")
    yield one
    one.close() if hasattr(one, "close") else None


@pytest.fixture
def file(picture, tmp_path):
    picture(40, 64).save(tmp_path / "in.png")
    return tmp_path / "in.png"


# --- as it is meant -------------------------------------------------------------------------------


def test_enlarge(client, tiny, file):
    job = client.submit(
        picture=handle_file(file), scale=4, fidelity=0, budget="", seed=3, api_name="/enlarge"
    )
    *steps, (result, maps, facts) = list(job)
    expected = tiny.upscale(Image.open(file), seed=3)
    assert np.abs(np.asarray(Image.open(result)).astype(int) - expected.array).max() <= 1
    assert Path(result).name == "in_x4.png"
    assert [Path(path).stem for path in maps] == [
        "difficulty",
        "steps",
        "invention_low",
        "invention_high",
    ]
    assert facts["cost"]["patches"] == expected.cost["patches"] and facts["options"]["seed"] == 3
    for first, second, told in steps:
        assert first is second is None
        assert set(told) == {"stage", "done", "total", "seconds_left", "of_all_stages"}


def test_dials_have_defaults_and_do_something(client, file):
    first = client.predict(picture=handle_file(file), api_name="/enlarge")
    second = client.predict(
        picture=handle_file(file), scale=2, fidelity=1, budget="fast", api_name="/enlarge"
    )
    assert Image.open(first[0]).size == (256, 160) and Image.open(second[0]).size == (128, 80)
    assert second[2]["cost"]["evaluations_total"] == 0 < first[2]["cost"]["evaluations_total"]


def test_redo(client, file):
    result, _, _ = client.predict(picture=handle_file(file), api_name="/enlarge")
    again, _ = client.predict(
        picture=handle_file(file),
        result=handle_file(result),
        box=[0, 0, 4, 4],
        seed=5,
        api_name="/redo",
    )
    assert (np.asarray(Image.open(again)) != np.asarray(Image.open(result))).any()
    with pytest.raises(AppError, match="say what is to change"):
        client.predict(
            picture=handle_file(file),
            result=handle_file(result),
            box=[0, 0, 4, 4],
            api_name="/redo",
        )
    with pytest.raises(AppError, match="box: give"):
        client.predict(
            picture=handle_file(file), result=handle_file(result), box=[1], seed=5, api_name="/redo"
        )


def test_batch(client, file, tmp_path):
    (tmp_path / "bad.jpg").write_bytes(b"nothing")
    result, facts = client.predict(
        pictures=[handle_file(file), handle_file(tmp_path / "bad.jpg")], scale=2, api_name="/batch"
    )
    assert zipfile.ZipFile(result).namelist() == ["in_x2.png", "failed.txt"]
    assert facts["done"] == [{"source": "in.png", "target": "in_x2.png"}]
    assert facts["failed"] == [
        {"source": "bad.jpg", "error": "not a picture in a format that can be read"}
    ]


def test_info_and_what_is_public(client, server):
    facts = client.predict(api_name="/info")
    assert (facts["model"], facts["max_pixels"], facts["queue"]) == ("tiny", 40_000, 4)
    public = client.view_api(return_format="dict")["named_endpoints"]
    # the page's own handlers are not
    assert set(public) == {"/enlarge", "/redo", "/batch", "/info"}
    assert [parameter["parameter_name"] for parameter in public["/enlarge"]["parameters"]] == [
        "picture",
        "scale",
        "fidelity",
        "budget",
        "seed",
    ]


def test_the_documentation_names_every_endpoint(client):
    text = (Path(__file__).parents[1] / "docs" / "web.md").read_text("utf-8")
    for name, endpoint in client.view_api(return_format="dict")["named_endpoints"].items():
        assert f"`{name}`" in text
        assert all(
            f"`{parameter['parameter_name']}`" in text for parameter in endpoint["parameters"]
        )


def test_two_at_once_get_their_own(server, picture, tmp_path):
    _, address = server
    for n in (1, 2):
        picture(24, 24 + 8 * n, n).save(tmp_path / f"{n}.png")

    def one(n: int):
        client = Client(address, verbose=False, download_files=tmp_path / f"downloads{n}")
        return client.predict(picture=handle_file(tmp_path / f"{n}.png"), api_name="/enlarge")[0]

    with concurrent.futures.ThreadPoolExecutor() as pool:
        results = list(pool.map(one, (1, 2)))
    assert [Path(result).name for result in results] == ["1_x4.png", "2_x4.png"]
    assert [Image.open(result).size for result in results] == [(128, 96), (160, 96)]


def test_files_are_gone_when_the_client_is(tiny, file, tmp_path):
    with served(tiny, tmp_path) as (service, address):
        client = Client(address, verbose=False, download_files=tmp_path / "downloads")
        client.predict(picture=handle_file(file), api_name="/enlarge")
        assert len(own(service)) == 2  # the upload, the job
        # what Gradio calls when the connection of a page ends
        service.folder.left(client.session_hash)
        assert not own(service)
        folder = service.folder.path
        assert folder.exists()
    assert not folder.exists()


# --- errors are kind ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ({"scale": 1000}, "take 1/64 to 64"),
        ({"scale": 64}, "take a smaller scale"),
        ({"fidelity": 2}, "fidelity 2"),
        ({"budget": "much"}, "budget much"),
        ({"seed": 0.5}, "seed: give a whole number"),
        ({"scale": None}, "scale"),
    ],
)
def test_dials_that_cannot_be(client, file, values, text):
    with pytest.raises(AppError, match=text):
        client.predict(picture=handle_file(file), api_name="/enlarge", **values)


def test_files_that_are_none(client, server, tmp_path):
    for name, data in (
        ("a.jpg", b"nothing"),
        ("b.svg", b"<svg onload='x()'/>"),
        ("c.png", b"\x89PNG\r\n\x1a\n"),
    ):
        (tmp_path / name).write_bytes(data)
        with pytest.raises(AppError, match=rf"^{name}: ") as caught:
            client.predict(picture=handle_file(tmp_path / name), api_name="/enlarge")
        assert str(server[0].folder.path) not in str(caught.value)
    Image.new("1", (9000, 9000)).save(tmp_path / "bomb.png")
    with pytest.raises(
        AppError, match=r"bomb.png: 9000x9000 pixels are more than the 0.04 megapixels taken here"
    ):
        client.predict(picture=handle_file(tmp_path / "bomb.png"), api_name="/enlarge")


def test_the_unforeseen_is_told_without_its_inside(client, file, monkeypatch, capfd):
    monkeypatch.setattr(service_module, "upscale_file", lambda *args, **keywords: 1 / 0)
    with pytest.raises(AppError, match="something went wrong here") as caught:
        client.predict(picture=handle_file(file), api_name="/enlarge")
    assert "division" not in str(caught.value) and "ZeroDivisionError" in capfd.readouterr().err


@pytest.mark.parametrize(
    "value",
    [
        "/etc/passwd",
        "http://127.0.0.1:9/a.png",
        "https://example.com/a.png",
        "HTTP://a/b",
        "../../etc/passwd",
        "",
        "in.png",
        "file:///etc/passwd",
        "/proc/self/environ",
        "\0",
        "a" * 5000,
    ],
)
def test_paths_and_addresses_instead_of_files(server, value, monkeypatch):
    from gradio import processing_utils

    fetched: list[str] = []
    monkeypatch.setattr(
        processing_utils, "async_ssrf_protected_download", lambda url, **_: fetched.append(url)
    )
    service, address = server
    before = set(own(service))
    for file in (upload_of(value), upload_of(value, url=value), value):
        said = called(address, "enlarge", file, 4, 0, "", 0)
        assert "event: error" in said and ("upload" in said or "no file" in said), said
        assert "passwd" not in said.replace(value, "") and "root:" not in said
    # Also where no file is due, and among several.
    for values in ((None, upload_of(value), 0, "", 0), (None, 4, [[upload_of(value)]], "", 0)):
        assert "event: error" in called(address, "enlarge", *values)
    assert "event: error" in called(address, "batch", [upload_of(value)], 4, 0, "", 0)
    assert not fetched and set(own(service)) <= before  # clients of other tests may leave meanwhile


def test_an_address_beside_an_upload_is_not_followed(server, file, client, monkeypatch):
    from gradio import processing_utils

    fetched: list[str] = []
    monkeypatch.setattr(
        processing_utils, "async_ssrf_protected_download", lambda url, **_: fetched.append(url)
    )
    body, headers = multipart(file.read_bytes(), "in.png")
    path = json.loads(request(server[1], "POST", "/gradio_api/upload", body, headers)[1])[0]
    said = called(
        server[1], "enlarge", upload_of(path, url="http://127.0.0.1:9/file=x"), 4, 0, "", 0
    )
    assert "event: complete" in said and not fetched
    assert "event: error" in called(
        server[1], "enlarge", upload_of(path, url="http://127.0.0.1:9/x"), 4, 0, "", 0
    )


def test_nothing_else_is_served(server, tmp_path, monkeypatch):
    service, address = server
    secret = tmp_path / "secret.png"
    Image.new("L", (8, 8)).save(secret)
    link = service.folder.path / "link.png"
    inside = service.folder.path / "inside.txt"
    inside.write_text("fine", encoding="utf-8")
    link.symlink_to(secret)
    try:
        inward, up = service.folder.path, "%2e%2e"
        for path in (
            "/etc/passwd",
            str(secret),
            f"{inward}/../secret.png",
            f"{os.getcwd()}/pyproject.toml",
            f"{inward}/{up}/{up}/etc/passwd",
            str(Path(guard.__file__)),
            str(link),
        ):
            status, text = request(address, "GET", f"/gradio_api/file={path}")
            assert status in (403, 404), (path, status, text[:200])
        assert request(address, "GET", f"/gradio_api/file={inside}") == (200, "fine")
        for path in (
            "file=http://127.0.0.1:9/x",
            "file=https://example.com/x",
            "proxy=http://127.0.0.1:9/x",
        ):
            status, text = request(address, "GET", f"/gradio_api/{path}")
            assert status == 403 and "nothing is fetched" in text
    finally:
        link.unlink()
        inside.unlink()


# --- many at once ---------------------------------------------------------------------------------


def test_thirty_at_once_against_a_queue_of_four(server, picture, tmp_path, monkeypatch):
    service, address = server
    running, most, real = [0], [0], service_module.upscale_file

    def slow(*args, **keywords):
        running[0] += 1
        most[0] = max(most[0], running[0])
        time.sleep(1.5)  # all thirty have come before the first is done
        try:
            return real(*args, **keywords)
        finally:
            running[0] -= 1

    monkeypatch.setattr(service_module, "upscale_file", slow)
    for n in range(30):
        picture(16, 16, n).save(tmp_path / f"{n}.png")
    clients = [
        Client(address, verbose=False, download_files=tmp_path / "downloads") for _ in range(30)
    ]

    def one(n: int) -> str:
        try:
            result = clients[n].predict(
                picture=handle_file(tmp_path / f"{n}.png"), api_name="/enlarge"
            )[0]
            return "made" if Path(result).name == f"{n}_x4.png" else "another's"
        except Exception as error:
            return str(error)

    with concurrent.futures.ThreadPoolExecutor(30) as pool:
        said = list(pool.map(one, range(30)))
    made, refused = said.count("made"), [text for text in said if text != "made"]
    assert most == [1]
    assert 5 <= made <= 10 and all("Queue is full" in text for text in refused), said
    assert not service.lock.locked()
    for client in clients:
        service.folder.left(client.session_hash)
    service.folder.sweep(time.time() + 4000)  # the uploads of those that were refused
    assert not own(service)


def test_a_client_that_leaves_midway(server, file, monkeypatch):
    service, address = server
    reached, stopped = slow_work(monkeypatch, 400)
    before = set(jobs(service))
    upload, headers = multipart(file.read_bytes(), "in.png")
    path = json.loads(request(address, "POST", "/gradio_api/upload", upload, headers)[1])[0]
    body = json.dumps({"data": [upload_of(path), 4, 0, "", 0]}).encode()
    event = json.loads(
        request(
            address, "POST", "/gradio_api/call/enlarge", body, {"Content-Type": "application/json"}
        )[1]
    )["event_id"]
    connection = http.client.HTTPConnection(urllib.parse.urlparse(address).netloc, timeout=30)
    connection.request("GET", f"/gradio_api/call/enlarge/{event}")
    connection.getresponse().read(1)
    assert reached.wait(20) and len(set(jobs(service)) - before) == 1
    connection.close()
    assert stopped.wait(20) and waited(
        lambda: set(jobs(service)) <= before and not service.lock.locked()
    )


# --- who may enter --------------------------------------------------------------------------------


def test_password(tiny, file, tmp_path):
    with served(tiny, tmp_path, check=lambda name, word: (name, word) == ("anna", "word")) as (
        _,
        address,
    ):
        for path in ("/config", "/gradio_api/info", f"/gradio_api/file={tmp_path}"):
            assert request(address, "GET", path)[0] == 401
        assert request(address, "POST", "/gradio_api/upload", *multipart(b"a"))[0] == 401
        assert "Not authenticated" in called(address, "enlarge", None, 4, 0, "", 0)
        with pytest.raises(Exception, match=r"login|401|auth"):
            Client(address, verbose=False, auth=("anna", "wrong"))
        client = Client(
            address, verbose=False, auth=("anna", "word"), download_files=tmp_path / "downloads"
        )
        assert Image.open(
            client.predict(picture=handle_file(file), api_name="/enlarge")[0]
        ).size == (256, 160)


def test_it_listens_on_this_machine_alone(server):
    assert urllib.parse.urlparse(server[1]).hostname == "127.0.0.1"


def test_the_command(model_folder, file, tmp_path):
    """A process of its own: a client that ends takes its files along, and so does the server."""
    command = [
        sys.executable,
        "-m",
        "patchscaler",
        "web",
        "--model",
        str(model_folder),
        "--device",
        "cpu",
    ]
    environment = os.environ | {"TMPDIR": str(tmp_path), "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        try:
            assert process.stdout is not None
            address = process.stdout.readline().split()[0]
            assert urllib.parse.urlparse(address).hostname == "127.0.0.1"
            folder = next(tmp_path.glob("patchscaler-web-*"))
            pinned = set(folder.iterdir())
            code = (
                "import sys; from gradio_client import Client, handle_file\n"
                "client = Client(sys.argv[1], verbose=False, download_files=sys.argv[3])\n"
                "print(client.predict(picture=handle_file(sys.argv[2]), api_name='/enlarge')[0])"
            )
            done = subprocess.run(
                [sys.executable, "-c", code, address, str(file), str(tmp_path / "downloads")],
                capture_output=True,
                text=True,
                check=True,
            )
            assert Image.open(done.stdout.strip()).size == (256, 160)
            assert waited(lambda: set(folder.iterdir()) == pinned)
            process.send_signal(signal.SIGTERM)
            assert process.wait(30) == 0
            assert "all uploads and results are removed" in process.stdout.read()
            assert not folder.exists()
        finally:
            process.kill()


def test_the_page_knows_every_stage(tiny, picture, tmp_path):
    refiner = RefinerConfig(8, 1)
    model = PatchScaler(
        replace(tiny.config, refiner=refiner),
        tiny.networks | {"refiner": Refiner(refiner)},
        tiny.memory,
    )
    picture(60, 60).save(tmp_path / "in.png")
    told = []
    upscale_file(
        model, tmp_path / "in.png", tmp_path / "out.png", watch=lambda *what: told.append(what[0])
    )
    stages = list(dict.fromkeys(told))
    assert "tiles refined" in stages and [STAGES[stage][0] for stage in stages] == [1, 2, 3, 4, 5]
