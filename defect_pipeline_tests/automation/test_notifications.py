"""Who is told what, and that a webhook can neither break anything nor give its URL away."""

import json
import logging
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import dagster as dg
import pytest

from defect_pipeline.automation import notifications, webhook
from defect_pipeline.automation.notifications import (
    ATTEMPTS,
    WEBHOOK_VARIABLE,
    Memory,
    StoreState,
    news_between,
    notify,
)
from defect_pipeline.automation.webhook import News, post
from defect_pipeline.pipeline import Pipeline
from defect_pipeline.profiles import EMBEDDED
from defect_pipeline.store import Store

NEWS = (News("gate closed", "fid_gate [pit]", "Gate closed: KID 0.9 is above 0.7"), News("data ready", "x", "New."))
QUIET = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}


@dataclass
class Listener:
    """A server that answers with a status after a while, and keeps what it is sent."""

    status: int = 200
    seconds: float = 0
    bodies: list[dict] = field(default_factory=list)
    url: str = ""


@contextmanager
def listening(listener: Listener) -> Iterator[Listener]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:  # the library's name
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            time.sleep(listener.seconds)
            listener.bodies.append(body | {"type": self.headers["Content-Type"]})
            self.send_response(listener.status)
            self.send_header("Location", "/elsewhere")
            self.end_headers()

        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    listener.url = f"http://127.0.0.1:{server.server_port}/secret"
    yield listener
    server.shutdown()
    server.server_close()


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "127.0.0.1")


def test_news_arrive_in_one_post_as_text_and_in_parts() -> None:
    with listening(Listener()) as listener:
        assert post(listener.url, NEWS) == ""
    (body,) = listener.bodies
    assert body["type"] == "application/json" and body["text"] == "Gate closed: KID 0.9 is above 0.7\nNew."
    assert body["events"][0] == {"event": "gate closed", "subject": "fid_gate [pit]", "text": NEWS[0].text}


@pytest.mark.parametrize("status", [302, 404, 500])
def test_a_server_that_refuses_is_said_so(status: int) -> None:
    with listening(Listener(status)) as listener:
        assert post(listener.url, NEWS) == f"it answered {status}"


def test_a_slow_server_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(webhook, "TIMEOUT", 0.2)
    with listening(Listener(seconds=3)) as listener:
        began = time.monotonic()
        assert post(listener.url, NEWS) == "TimeoutError"
        assert time.monotonic() - began < 2


@pytest.mark.parametrize(
    "url", ["ftp://host/secret", "file:///secret", "secret", "http://ho st/secret", "http://[secret"]
)
def test_a_url_that_is_none_is_not_repeated(url: str) -> None:
    problem = post(url, NEWS)
    assert problem and "secret" not in problem


def test_a_server_that_is_down_is_said_so() -> None:
    with listening(Listener()) as listener:
        url = listener.url
    assert post(url, NEWS) == "ConnectionRefusedError"


def test_only_what_changed_is_news() -> None:
    before = StoreState({"a": "a: KID 1", "b": "b: KID 1"}, {"x": "1", "y": "1"})
    after = StoreState({"b": "b: KID 2", "c": "c: KID 1"}, {"x": "1", "y": "2", "z": "1"})
    assert [(one.event, one.subject) for one in news_between(before, after)] == [
        ("gate closed", "c"), ("gate opened", "a"), ("data ready", "y"), ("data ready", "z"),
    ]  # fmt: skip
    assert news_between(after, after) == []


def test_the_memory_comes_back() -> None:
    memory = Memory(StoreState({"a": "a: KID 1"}, {"x": "1"}), "cursor", NEWS, 3)
    assert Memory.from_cursor(memory.cursor) == memory
    for other in (None, "", "[1]", '{"seen": {}}', '{"seen": {"closed": {}}, "failures": "", "waiting": []}'):
        assert Memory.from_cursor(other) is None


class Daemon:
    """Ticks of the sensor, one after the other."""

    def __init__(self, instance: dg.DagsterInstance, folder: Path) -> None:
        self.instance, self.cursor = instance, None
        self.resources = {"store": Store(root=str(folder)), "pipeline": Pipeline(data=str(folder), settings=EMBEDDED)}

    def tick(self) -> str:
        context = dg.build_sensor_context(self.instance, self.cursor, resources=self.resources)
        result = notify(context)
        assert isinstance(result, dg.SensorResult) and not result.run_requests
        self.cursor = result.cursor
        return str(
            result.skip_reason.skip_message if hasattr(result.skip_reason, "skip_message") else result.skip_reason
        )


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Daemon]:
    with dg.instance_for_test() as instance:
        yield Daemon(instance, tmp_path)


def fail(instance: dg.DagsterInstance) -> None:
    @dg.op
    def learn() -> None:
        raise ValueError("the loss is NaN")

    @dg.job
    def adapt() -> None:
        learn()

    tags = {"dagster/partition": "pit"}
    adapt.execute_in_process(instance=instance, raise_on_error=False, run_config=QUIET, tags=tags)


def test_a_failed_run_is_told_once_with_its_reason_and_none_from_before_the_first_look(daemon: Daemon) -> None:
    fail(daemon.instance)
    assert daemon.tick() == "First look at the store."
    assert daemon.tick() == "No news."
    fail(daemon.instance)
    said = daemon.tick()
    assert "of adapt [pit] failed" in said and said.count("the loss is NaN") == 1
    assert daemon.tick() == "No news."


def test_news_that_nobody_takes_wait_and_are_given_up_in_the_end(
    daemon: Daemon, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    logging.getLogger("dagster").setLevel(logging.INFO)
    with listening(Listener(500)) as listener:
        monkeypatch.setenv(WEBHOOK_VARIABLE, listener.url)
        daemon.tick()
        fail(daemon.instance)
        daemon.tick()
        look = StoreState({"fid_gate [pit]": "fid_gate [pit]: KID 0.9 is above 0.7"}, {})
        monkeypatch.setattr(notifications.StoreState, "of", lambda store, pipeline: look)
        daemon.tick()
        listener.status = 200
        daemon.tick()
        assert [len(body["events"]) for body in listener.bodies] == [1, 2, 2]  # the second failure waits with the first
        daemon.tick()
        assert len(listener.bodies) == 3
        listener.status = 500
        fail(daemon.instance)
        for _ in range(ATTEMPTS + 2):
            daemon.tick()
        assert len(listener.bodies) == 3 + ATTEMPTS
    said = "".join(capfd.readouterr())
    assert "it answered 500" in said and "given up" in said and "Gate closed: fid_gate [pit]" in said
    assert "secret" not in said and "secret" not in (daemon.cursor or "")


def test_without_a_webhook_the_log_has_the_news(daemon: Daemon, capfd: pytest.CaptureFixture[str]) -> None:
    daemon.tick()
    fail(daemon.instance)
    daemon.tick()
    assert "the loss is NaN" in "".join(capfd.readouterr()) and Memory.from_cursor(daemon.cursor).waiting == ()
