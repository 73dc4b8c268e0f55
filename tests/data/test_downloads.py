"""CIFAR is downloaded once: what breaks off goes on, what is damaged comes anew, and without a network it is said."""

import hashlib
import http.server
import io
import pickle
import tarfile
import threading
import time

import numpy as np
import pytest
import torch
from pictures import refusal
from torchvision import datasets

from lowrank.data import load
from lowrank.data.dataset import Data

pytestmark = pytest.mark.usefixtures("cache")

PIXELS = np.random.default_rng(0).integers(0, 256, (80, 3, 32, 32), dtype=np.uint8)


class Handler(http.server.BaseHTTPRequestHandler):
    """Serves its server's content; breaks off, damages it, ignores ranges or waits as the server's attributes say."""

    def do_GET(self):
        asked = self.headers.get("Range")
        self.server.requests.append(asked)
        start = int(asked[6:-1]) if asked and self.server.knows_ranges else 0
        body = self.server.content[start:]
        if not body:
            return self.send_error(416)
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        time.sleep(self.server.waits)
        self.wfile.write(body[: self.server.breaks_after][:: -1 if self.server.damages else 1])

    def log_message(self, *_):
        pass


@pytest.fixture
def server(monkeypatch):
    """A server of a CIFAR-10 of PIXELS, half for training, at the place that torchvision takes it from."""
    labels = [i % 2 for i in range(40)]
    batches = [{"data": half.reshape(40, -1), "labels": labels} for half in (PIXELS[:40], PIXELS[40:])]
    files, stream, sums = [*batches, {"label_names": ["heads", "tails"]}], io.BytesIO(), []
    with tarfile.open(fileobj=stream, mode="w:gz") as archive:
        for name, content in zip(("data_batch_1", "test_batch", "batches.meta"), map(pickle.dumps, files), strict=True):
            member = tarfile.TarInfo(f"cifar-10-batches-py/{name}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
            sums.append(hashlib.md5(content).hexdigest())
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.content, server.requests = stream.getvalue(), []
    server.breaks_after, server.damages, server.knows_ranges, server.waits = None, False, True, 0
    kind = datasets.CIFAR10
    monkeypatch.setattr(kind, "url", f"http://127.0.0.1:{server.server_port}/{kind.filename}")
    monkeypatch.setattr(kind, "tgz_md5", hashlib.md5(server.content).hexdigest())
    monkeypatch.setattr(kind, "train_list", [["data_batch_1", sums[0]]])
    monkeypatch.setattr(kind, "test_list", [["test_batch", sums[1]]])
    monkeypatch.setattr(kind, "meta", kind.meta | {"md5": sums[2]})
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def is_whole(data: Data) -> bool:
    images = torch.cat([data.train_images, data.test_images])
    return data.classes == ("heads", "tails") and np.array_equal(images, PIXELS)


def test_download_happens_once(server, cache):
    assert is_whole(load("cifar10")) and is_whole(load("cifar10"))
    (cache / "cifar10.npz").unlink()
    assert is_whole(load("cifar10"))  # from the archive that was kept
    assert server.requests == [None]


@pytest.mark.parametrize("knows_ranges", [True, False])
def test_broken_download_goes_on_where_it_stopped(server, knows_ranges):
    half = len(server.content) // 2
    server.breaks_after, server.knows_ranges = half, knows_ranges
    assert "broke off" in refusal("cifar10")
    server.breaks_after = None
    assert is_whole(load("cifar10")) and server.requests == [None, f"bytes={half}-"]


@pytest.mark.parametrize("held, requests", [(b"damaged", 2), (b"all and more", 2), (b"", 1)])
def test_what_an_earlier_attempt_left_is_verified(server, cache, held, requests):
    cache.mkdir()
    content = held if held == b"damaged" else server.content + held
    (cache / "cifar-10-python.tar.gz.part").write_bytes(content)
    (cache / "cifar-10-python.tar.gz").write_bytes(b"damaged")
    assert is_whole(load("cifar10")) and len(server.requests) == requests


def test_download_that_stays_damaged(server):
    server.damages = True
    assert "what arrives is damaged" in refusal("cifar10")


def test_download_into_an_unwritable_cache(server, cache):
    cache.write_text("no folder")
    assert is_whole(load("cifar10"))


def test_two_downloads_at_once_are_one(server):
    data, server.waits = [], 0.3  # long enough that the second asks while the first waits
    threads = [threading.Thread(target=lambda: data.append(load("cifar10"))) for _ in range(2)]
    for action in (threading.Thread.start, threading.Thread.join):
        list(map(action, threads))
    assert [is_whole(each) for each in data] == [True, True] and server.requests == [None]


def test_no_network_names_the_ways_out(cache, monkeypatch):
    monkeypatch.setattr(datasets.CIFAR100, "url", "http://127.0.0.1:9/cifar-100-python.tar.gz")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    message = refusal("cifar100")
    assert all(way in message for way in ("dataset='digits'", "cifar-100-python.tar.gz", str(cache), "image folder"))
