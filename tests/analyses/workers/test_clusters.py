"""Where the workers are: addresses, files, and schedulers that are not there, all told in seconds and in one line."""

import http.server
import json
import socket
import threading
import time
from pathlib import Path

import pytest

from analyses.engine import Asked, Inline, NoWorkers, engine
from analyses.workers import clusters
from analyses.workers.clusters import Unreachable, cluster, scheduler_address
from analyses.workers.facts import differences, facts


@pytest.mark.parametrize(
    ("text", "address"),
    [("tcp://a.b:8786", "tcp://a.b:8786"), ("tls://10.0.0.1:1", "tls://10.0.0.1:1"), ("host:8786", "tcp://host:8786"),
     ("[::1]:8786", "tcp://[::1]:8786")],
)  # fmt: skip
def test_an_address_in_its_spellings(text: str, address: str) -> None:
    assert scheduler_address(text) == address


def test_a_schedulers_file(tmp_path: Path) -> None:
    file = tmp_path / "a file.json"
    file.write_text(json.dumps({"address": "tcp://127.0.0.1:8786", "workers": {}}))
    assert scheduler_address(str(file)) == "tcp://127.0.0.1:8786"


@pytest.mark.parametrize(
    "content", [b"", b"{}", b"[]", b"\xff\xfe", b'{"address": 3}', b'{"address": "inproc://x"}', b"[" * 100_000]
)
def test_a_file_that_is_no_schedulers(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(content)
    with pytest.raises(Unreachable, match="names no such address"):
        scheduler_address(str(tmp_path / "file"))


@pytest.mark.parametrize("text", ["nowhere", "http://a:80", "tcp://a", "/no/such/file"])
def test_what_is_no_address(text: str) -> None:
    with pytest.raises(Unreachable, match=r"expected an address as tcp://HOST:PORT, or a scheduler's file, found"):
        scheduler_address(text)


def entered(address: str) -> None:
    with cluster(address, {}, 1.0, print):
        pytest.fail("it connected")


@pytest.fixture
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """A tenth of the usual patience; a test of the command waits in full."""
    monkeypatch.setattr(clusters, "CONNECTING", clusters.CONNECTING / 10)


def test_nobody_listens(hurried: None) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{taken.getsockname()[1]}"
    begun = time.monotonic()
    with pytest.raises(Unreachable, match=f"expected a dask scheduler at tcp://{address}"):
        entered(address)
    assert time.monotonic() - begun < 10


def test_another_server_listens(hurried: None) -> None:
    class Silent(http.server.BaseHTTPRequestHandler):
        def log_message(self, format: str, *arguments: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Silent)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    begun = time.monotonic()
    try:
        with pytest.raises(Unreachable, match="expected a dask scheduler"):
            entered(f"127.0.0.1:{server.server_port}")
    finally:
        server.shutdown()
        server.server_close()
    assert time.monotonic() - begun < 10


def test_a_server_that_says_nothing(hurried: None) -> None:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        begun = time.monotonic()
        with pytest.raises(Unreachable, match="expected a dask scheduler"):
            entered(f"127.0.0.1:{server.getsockname()[1]}")
        assert time.monotonic() - begun < 10


def test_tls_needs_its_address_and_its_files() -> None:
    with pytest.raises(Unreachable, match="without them"):
        entered("tls://127.0.0.1:8786")
    with pytest.raises(Unreachable, match="with them"), cluster("tcp://127.0.0.1:1", {"tls_ca_file": "x"}, 1.0, print):
        pass


@pytest.mark.parametrize(
    ("asked", "words"),
    [({"engine": "lokal"}, "expected inline or local, found 'lokal'"), ({"workers": 0}, "--workers: expected 1 to"),
     ({"workers": -2}, "found -2"), ({"engine": "inline", "workers": 2}, "found 2; take --engine local"),
     ({"cluster": "a:1", "workers": 2}, "expected no --engine or --workers"),
     ({"cluster": "a:1", "engine": "local"}, "expected no --engine or --workers"),
     ({"wait_for_workers": 0.0}, "expected seconds > 0, found 0"), ({"wait_for_workers": float("nan")}, "found nan"),
     ({"tls_ca": Path("ca.pem")}, "expected all three"), ({"cluster": "a:1", "tls_ca": Path("ca.pem")}, "all three"),
     ({"cluster": "tls://a:1", "tls_ca": Path("/no"), "tls_cert": Path("/no"), "tls_key": Path("/no")}, "PEM format")],
)  # fmt: skip
def test_what_contradicts_itself_is_refused(asked: dict[str, object], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Asked(**asked)  # pyright: ignore[reportArgumentType]


def test_who_is_asked_for() -> None:
    assert Asked().kind == Asked(workers=1).kind == "inline"
    assert Asked(workers=2).kind == Asked(engine="local").kind == Asked(engine="local", workers=1).kind == "local"
    assert Asked(cluster="a:1").kind == "cluster"
    with engine(Asked(), print) as found:
        assert found == Inline()


def test_what_a_worker_must_share() -> None:
    mine = facts()
    assert differences(mine, facts()) == []
    assert differences(mine, mine | {"cpu capability": "DEFAULT", "processor": "another"}) == []
    assert differences(mine, mine | {"torch": "1.0"}) == [f"torch: 1.0, and here {mine['torch']}"]
    assert differences(mine, {k: v for k, v in mine.items() if k != "flush denormals"}) == [
        "flush denormals: not told, and here False"
    ]
    assert {"python", "torch", "numpy", "gradgauge's source", "torch threads"} <= set(mine)


@pytest.mark.parametrize("failures", [0, 3, 4])
def test_processes_that_do_not_start_are_started_again_and_then_given_up(
    failures: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried = []

    def start(count: int) -> str:
        tried.append(count)
        if len(tried) <= failures:
            raise RuntimeError("Nanny failed to start.")
        return "started"

    monkeypatch.setattr(clusters, "_start", start)
    if failures < 4:
        assert clusters._started(2) == "started" and tried == [2] * (failures + 1)
        return
    with pytest.raises(NoWorkers, match=r"expected 2 processes to start, .* each of 4 attempts .* take fewer"):
        clusters._started(2)
    assert len(tried) == 4
