"""How much a request may bring, and how much all of them together.

Needs gradio (the extra `web`).
"""

import concurrent.futures
import contextlib
import time

import pytest

pytest.importorskip("gradio")
from webserver import multipart, own, request, served, waited

from patchscaler.apps.web import guard


@pytest.fixture(scope="module")
def server(tiny, tmp_path_factory):
    with served(tiny, tmp_path_factory.mktemp("web"), files=3, file_bytes=300_000) as (
        service,
        address,
    ):
        yield service, address


def test_uploads_are_bounded(server):
    service, address = server
    before = set(own(service))
    body, headers = multipart(bytes(300_001))
    assert request(address, "POST", "/gradio_api/upload", body, headers)[0] == 413  # one file
    body, headers = multipart(bytes(1_000_000))
    # more than all that a zip may have
    status, text = request(address, "POST", "/gradio_api/upload", body, headers)
    assert (status, text) == (413, "files of up to 0.3 MB are taken")
    chunks = (bytes(65536) for _ in range(100))  # 6.5 MB whose length nobody announced
    head, headers = multipart(b"")
    status, _ = request(address, "POST", "/gradio_api/upload", _joined(head[:-9], chunks), headers)
    assert status == 413
    assert waited(lambda: set(own(service)) <= before)
    status, _ = request(
        address,
        "POST",
        "/gradio_api/call/enlarge",
        bytes(guard.BODY + 1),
        {"Content-Type": "application/json"},
    )
    assert status == 413


def _joined(head, chunks):
    yield head
    yield from chunks


def test_no_upload_when_the_folder_is_full(tiny, tmp_path):
    with served(tiny, tmp_path, disk_bytes=100_000) as (service, address):
        body, headers = multipart(bytes(60_000))
        assert request(address, "POST", "/gradio_api/upload", body, headers)[0] == 200
        body, headers = multipart(bytes(60_001))
        status, text = request(address, "POST", "/gradio_api/upload", body, headers)
        assert status == 503 and "no room for more pictures at the moment" in text
        head, headers = multipart(b"")
        chunks = (bytes(10_000) for _ in range(7))  # whose length nobody announced
        assert (
            request(address, "POST", "/gradio_api/upload", _joined(head[:-9], chunks), headers)[0]
            == 503
        )
        assert request(address, "POST", "/gradio_api/upload", *multipart(b"one more"))[0] == 200
        service.folder.sweep(time.time() + 4000)
        assert request(address, "POST", "/gradio_api/upload", *multipart(b"one more"))[0] == 200


def _slowly(pieces: int, sent: list[int]):
    """An upload of so many pieces of 10 kB; sent: grows by each that was taken."""
    yield multipart(b"")[0][:-9]
    for _ in range(pieces):
        time.sleep(0.02)
        yield bytes(10_000)
        sent.append(10_000)


def test_the_answer_reaches_whoever_goes_on_sending(tiny, tmp_path):
    sent: list[int] = []
    with served(tiny, tmp_path, disk_bytes=100_000) as (_, address):
        status, text = request(
            address, "POST", "/gradio_api/upload", _slowly(30, sent), multipart(b"")[1]
        )
        assert (
            status == 503 and "no room for more pictures at the moment" in text and len(sent) == 30
        )
        assert request(address, "POST", "/gradio_api/upload", *multipart(b"small"))[0] == 200


def test_what_follows_a_refusal_is_taken_for_a_while_only(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(guard, "REST", (50_000, 30.0))
    sent: list[int] = []
    with served(tiny, tmp_path, disk_bytes=100_000) as (_, address):
        with contextlib.suppress(ConnectionError):  # the answer itself may be lost then
            assert (
                request(
                    address, "POST", "/gradio_api/upload", _slowly(100, sent), multipart(b"")[1]
                )[0]
                == 503
            )
        assert sum(sent) < 900_000
        assert request(address, "POST", "/gradio_api/upload", *multipart(b"small"))[0] == 200


def test_uploads_at_once_share_the_room(tiny, tmp_path):
    def one(n: int) -> int:
        try:
            return request(
                address, "POST", "/gradio_api/upload", *multipart(bytes([n]) * 5_000_000)
            )[0]
        except ConnectionError:  # it was refused, and more was still on its way
            return 503

    with served(tiny, tmp_path, disk_bytes=1_000_000) as (service, address):
        with concurrent.futures.ThreadPoolExecutor(20) as pool:
            assert set(pool.map(one, range(20))) == {503}
        assert service.folder.size() < 1_000_000
        assert request(address, "POST", "/gradio_api/upload", *multipart(b"small"))[0] == 200
    with served(tiny, tmp_path, disk_bytes=12_000_000) as (service, address):
        with concurrent.futures.ThreadPoolExecutor(20) as pool:
            said = list(pool.map(one, range(20)))
        assert (
            set(said) == {200, 503}
            and 1 <= said.count(200) <= 2
            and service.folder.size() < 12_000_000
        )
        one(99)  # what was refused holds no room
        assert said.count(200) == 2 or service.folder.size() > 10_000_000


def test_any_number_of_files(tiny, tmp_path):
    part = multipart(bytes(90_000))[0].removesuffix(b"--x--\r\n")
    body, headers = part * 9 + b"--x--\r\n", {"Content-Type": "multipart/form-data; boundary=x"}
    with served(tiny, tmp_path, files=0, file_bytes=100_000) as (_, address):
        assert request(address, "POST", "/gradio_api/upload", body, headers)[0] == 200
        assert request(address, "POST", "/gradio_api/upload", *multipart(bytes(100_001)))[0] == 413
        told = request(address, "GET", "/config")[1]
        assert "Pictures: drop several" in told and "drop up to" not in told
    with served(tiny, tmp_path, files=3, file_bytes=100_000) as (_, address):
        assert request(address, "POST", "/gradio_api/upload", body, headers)[0] == 413
        assert "Pictures: drop up to 3" in request(address, "GET", "/config")[1]
