"""What goes wrong with a bucket is told in a sentence, soon, and without the credentials."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import threading
import time
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from uuid import uuid4

import pytest

from isae.errors import StoreError
from isae.store.places import Place, open_place

OPERATIONS: dict[str, Callable[[Place], object]] = {
    "read": lambda place: place.read("a/b"),
    "read part": lambda place: place.read("a/b", 1, 2),
    "size": lambda place: place.size("a/b"),
    "write": lambda place: place.write("a/b", b"123"),
    "write in parts": lambda place: place.write("a/b", bytes(20_000_000)),
    "create": lambda place: place.create("a/b", b"123"),
    "keys": lambda place: place.keys(),
    "delete": lambda place: place.delete("a/b"),
}
SECRETS = ("AKIA", "test/secret/key", "secret", "Signature=")


def refusal(url: str, operation: Callable[[Place], object]) -> str:
    """The message of the StoreError; it is one short line that shows no credentials."""
    with pytest.raises(StoreError) as raised:
        operation(open_place(url))
    message = str(raised.value)
    assert "\n" not in message
    assert len(message) < 450
    assert not any(secret in message for secret in SECRETS)
    # What obstore said, which may show more, is not printed with it either.
    assert raised.value.__cause__ is None
    assert raised.value.__suppress_context__
    return message


@pytest.mark.parametrize("operation", OPERATIONS)
def test_absent_bucket(s3_url: str, operation: str) -> None:
    message = refusal("s3://no-such-bucket/x", OPERATIONS[operation])
    assert "found no bucket s3://no-such-bucket at 127.0.0.1:" in message
    assert "make it" in message


@pytest.fixture
def strict(s3_url: str, s3_endpoint: str) -> Iterator[str]:
    """The server checks signatures and rights, which it does not otherwise."""

    def call(path: str, data: bytes) -> bytes:
        kind = "text/plain" if path != "/" else "application/x-www-form-urlencoded"
        service = {
            "Content-Type": kind,
            "Authorization": "AWS4-HMAC-SHA256 Credential=x/20260101/us-east-1/iam/aws4_",
        }
        request = urllib.request.Request(s3_endpoint + path, data=data, headers=service)
        with urllib.request.urlopen(request) as answer:
            return bytes(answer.read())

    def iam(action: str, user: str) -> str:
        fields = {"Action": action, "UserName": user, "Version": "2010-05-08"}
        return call("/", urllib.parse.urlencode(fields).encode()).decode()

    user = uuid4().hex
    iam("CreateUser", user)
    key = iam("CreateAccessKey", user)
    found = [
        re.search(rf"<{name}>(.*?)</{name}>", key) for name in ("AccessKeyId", "SecretAccessKey")
    ]
    call("/moto-api/reset-auth", b"0")
    try:
        yield json.dumps([match[1] for match in found if match])
    finally:
        call("/moto-api/reset-auth", b"inf")


@pytest.mark.parametrize("operation", OPERATIONS)
def test_unknown_key(s3_url: str, strict: str, operation: str) -> None:
    message = refusal(s3_url, OPERATIONS[operation])
    # The answer to HEAD has no body, so no error code.
    expected = "access denied (403)" if operation == "size" else "credentials refused (403"
    assert expected in message
    assert "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY" in message


def test_wrong_secret(s3_url: str, strict: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", json.loads(strict)[0])
    message = refusal(s3_url, OPERATIONS["read"])
    assert "credentials refused (403 SignatureDoesNotMatch); mend AWS_ACCESS_KEY_ID" in message


@pytest.mark.parametrize("operation", OPERATIONS)
def test_no_rights(
    s3_url: str, strict: str, operation: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    key, secret = json.loads(strict)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", key)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", secret)
    message = refusal(s3_url, OPERATIONS[operation])
    assert secret not in message
    assert key not in message
    assert "access denied (" in message
    assert "to list the bucket" in message


@pytest.mark.parametrize("name", ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"])
def test_half_of_the_credentials(s3_url: str, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(name)
    message = refusal(s3_url, OPERATIONS["read"])
    assert "found no credentials; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY" in message


@pytest.fixture
def silent() -> Iterator[str]:
    """The address of a server that takes connections and never answers."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen(100)
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


@pytest.fixture
def closed() -> str:
    """An address where nobody listens."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{server.getsockname()[1]}"


def test_no_credentials_and_no_role(
    s3_url: str, closed: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.setenv("AWS_METADATA_ENDPOINT", closed)
    begun = time.monotonic()
    message = refusal(s3_url, OPERATIONS["keys"])
    assert "found no credentials; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY" in message
    assert time.monotonic() - begun < 20


def test_no_credentials_for_the_other_clouds(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("AZURE_")]:
        monkeypatch.delenv(name)
    message = refusal("az://bucket/x", OPERATIONS["keys"])
    assert "set AZURE_STORAGE_ACCOUNT_NAME and AZURE_STORAGE_ACCOUNT_KEY" in message


def test_nobody_listens(s3_url: str, closed: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", closed.replace("//", "//me:secret@"))
    begun = time.monotonic()
    message = refusal(s3_url, OPERATIONS["write"])
    assert f"found no answer from {closed.removeprefix('http://')}; check" in message
    assert time.monotonic() - begun < 20


@pytest.mark.soak
def test_a_server_that_never_answers(
    s3_url: str, silent: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", silent)
    names = ("read", "size", "write", "create", "keys", "delete")
    messages: dict[str, str] = {}
    threads = [
        threading.Thread(
            target=lambda name=name: messages.update({name: refusal(s3_url, OPERATIONS[name])})
        )
        for name in names
    ]
    begun = time.monotonic()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    # Two requests of 8 s without an answer, and the waiting between them.
    assert time.monotonic() - begun < 21
    assert sorted(messages) == sorted(names)
    assert all("found no answer from 127.0.0.1:" in message for message in messages.values())


def test_plain_http_must_be_allowed(s3_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for value in (None, "false"):
        monkeypatch.delenv("AWS_ALLOW_HTTP", raising=False)
        if value is not None:
            monkeypatch.setenv("AWS_ALLOW_HTTP", value)
        assert "set AWS_ALLOW_HTTP=true" in refusal(s3_url, OPERATIONS["keys"])
    monkeypatch.setenv("AWS_ALLOW_HTTP", "TRUE")
    assert open_place(s3_url).keys() == []


@pytest.fixture
def answering(
    s3_url: str, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[[int, str], list[str]]]:
    """Make every answer this status and error code; a list that the requests go to."""
    state: dict[str, tuple[int, str]] = {}
    seen: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def answer(self) -> None:
            seen.append(self.command)
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            status, code = state["now"]
            said = f"{os.environ['AWS_SECRET_ACCESS_KEY']} Signature=1 AKIATESTKEY"
            body = f"<Error><Code>{code}</Code><Message>{said}</Message></Error>".encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = answer

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{server.server_port}")

    def answer(status: int, code: str) -> list[str]:
        state["now"] = (status, code)
        seen.clear()
        return seen

    yield answer
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.parametrize(
    ("status", "code", "expected"),
    [
        (400, "ExpiredToken", "credentials refused (400 ExpiredToken)"),
        (401, "Unauthorized", "credentials refused (401 Unauthorized)"),
        (403, "AccessDenied", "access denied (403 AccessDenied)"),
        (400, "AuthorizationHeaderMalformed", "set AWS_REGION"),
        (301, "PermanentRedirect", "set AWS_REGION"),
        (501, "NotImplemented", "conditional puts"),
        (400, "KeyTooLongError", "a failure of the server (400 KeyTooLongError)"),
    ],
)
def test_answers(
    s3_url: str,
    answering: Callable[[int, str], list[str]],
    status: int,
    code: str,
    expected: str,
) -> None:
    answering(status, code)
    # 501 is asked again, as every 5xx.
    for name in ("create",) if status == 501 else ("read", "write", "create", "keys", "delete"):
        assert expected in refusal(s3_url, OPERATIONS[name])


def test_a_busy_server_is_asked_again_for_a_while(
    s3_url: str, answering: Callable[[int, str], list[str]]
) -> None:
    seen = answering(503, "SlowDown")
    begun = time.monotonic()
    message = refusal(s3_url, OPERATIONS["read"])
    assert "a failure of the server (503 SlowDown); run again later" in message
    assert len(seen) > 2
    assert time.monotonic() - begun < 20


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_forked_process_gets_an_error_and_not_a_hang(s3_url: str) -> None:
    place = open_place(s3_url)
    place.write("a", b"1")
    child = os.fork()
    if child == 0:
        code = 1
        try:
            place.read("a")
        except StoreError as error:
            code = 0 if "spawn" in str(error) else 2
        finally:
            os._exit(code)
    deadline = time.monotonic() + 20
    done = status = 0
    while not done and time.monotonic() < deadline:
        done, status = os.waitpid(child, os.WNOHANG)
        time.sleep(0.02)
    if not done:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        pytest.fail("the child hangs")
    assert os.waitstatus_to_exitcode(status) == 0
