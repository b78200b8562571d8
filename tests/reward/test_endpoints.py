"""What a reward server rejects, and with which status and words; over loopback."""

import base64
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO

import pytest
from PIL import Image
from starlette.testclient import TestClient

from diffopd.reward.checked import RewardError
from diffopd.reward.server.endpoints import Endpoints
from diffopd.reward.server.serving import RewardServer
from diffopd.reward.server.wire import RequestError, decode_request, encode_request
from support.served import (
    LIMITS,
    PATIENCE,
    batching,
    body,
    brightness,
    client,
    connect,
    head,
    health,
    images,
    post,
    prompts,
    server,
)


@pytest.fixture(scope="module")
def running():
    """A server that outlives whatever it is sent."""
    with server(brightness) as started:
        yield started
        assert post(started.address, body())[0] == 200


@pytest.mark.parametrize(
    ("sent", "status", "message"),
    [
        (b"{", 400, "the body is not JSON"),
        (b"[]", 400, "must be a JSON object with version=1"),
        (body(version=2), 400, "version=1"),
        (body(images=["bm8="]), 400, "image 0 is not a PNG in base64"),
        (body(images=["?"]), 400, "image 0 is not a PNG in base64"),
        (body(images=[7]), 400, "image 0 is not a PNG in base64"),
        (body(images=[]), 400, "lists of one length"),
        (
            body(prompts=[{"text": "x"}]),
            400,
            "prompt 0 must be an object with text, task, metadata, index, group",
        ),
        (body(images=7), 400, "lists of one length"),
        (body(9), 413, "9 images are more than the 8"),
        (body(1, (3, 65)), 413, "65 x 3 pixels; the limit is 64"),
        (body(5, (60, 60)), 413, "5 images of 60 x 60 have 18000 pixels, 8192 are allowed in a request"),
        (b" " * (10**6 + 1), 413, "the body has 1000001 bytes or more, 1000000 are allowed"),
        (b"[" * 10**5, 400, "nested deeper than 32 levels"),
        (b'{"a":' * 10**5, 400, "nested deeper than 32 levels"),
        (b'{"version": ' + b"9" * 5000 + b"}", 400, "the body is not JSON: Exceeds the limit"),
        (b'{"version": NaN}', 400, "NaN is not a number in JSON"),
        (b'{"version": -Infinity}', 400, "-Infinity is not a number in JSON"),
        (b'{"version": "\xff"}', 400, "the body is not JSON"),
        (b'{"version": "\\ud800"}', 400, "surrogates not allowed"),
        (b"\x00", 400, "the body is not JSON"),
        (b"", 400, "the body is not JSON"),
        (body(version=[[[1]]]), 400, "version=1"),
        (
            body(prompts=[{"text": "x", "task": "t", "metadata": {}, "index": 2**63, "group": 0}]),
            400,
            "64 bits",
        ),
        (
            body(prompts=[{"text": "x", "task": "t", "metadata": {}, "index": 0.5, "group": 0}]),
            400,
            "index is 0.5",
        ),
        (body(prompts=[{"text": ["long " * 10**4]}]), 400, "text is ['long long"),
    ],
)
def test_what_cannot_be_served_is_refused_with_its_reason(running, sent, status, message):
    code, reply = post(running.address, sent)
    assert code == status
    assert message in reply["error"]
    assert len(reply["error"]) < 300
    assert post(running.address, body())[0] == 200  # and the next one is served


def test_a_picture_of_another_mode_is_refused():
    buffer = BytesIO()
    Image.new("L", (4, 4)).save(buffer, format="PNG")
    content = {
        **encode_request(images(1), prompts(1)),
        "images": [base64.b64encode(buffer.getvalue()).decode()],
    }
    with pytest.raises(RequestError, match="must be an RGB PNG, got mode L") as refused:
        decode_request(content, LIMITS)
    assert refused.value.status == 400


def test_too_many_pixels_are_refused_before_any_is_decoded(monkeypatch):
    content = encode_request(images(5, (60, 60)), prompts(5))
    monkeypatch.setattr("numpy.array", lambda *_: pytest.fail("an image was decoded"))
    with pytest.raises(RequestError, match="18000 pixels, 8192 are allowed") as refused:
        decode_request(content, LIMITS)
    assert refused.value.status == 413


def test_images_of_other_sizes_are_refused():
    content = encode_request(images(2), prompts(2))
    content["images"][1] = encode_request(images(1, (8, 8)), prompts(1))["images"][0]
    with pytest.raises(RequestError, match="must have one size"):
        decode_request(content, LIMITS)


@pytest.mark.parametrize(
    ("lines", "status"),
    [
        (b"POST /score HTTP/1.0\r\n\r\n", b"411"),
        (b"POST /score HTTP/1.1\r\nHost: x\r\nContent-Length: \xb2\r\n\r\n", b"400"),
        (b"POST /score HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n", b"400"),
        (b"POST /score HTTP/1.1\r\nHost: x\r\nContent-Length: " + b"9" * 5000 + b"\r\n\r\n", b"400"),
        (b"POST /score HTTP/1.1\r\nHost: x\r\nContent-Length: " + b"9" * 19 + b"\r\n\r\n", b"413"),
        (b"GET /score HTTP/1.1\r\nHost: x\r\n\r\n", b"405"),
        (b"POST /elsewhere HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n", b"404"),
        (b"POST /score/ HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n", b"404"),
        (b"no HTTP\r\n\r\n", b"400"),
        (b"GET /health HTTP/1.1\r\nHost: x\r\nX: " + b"x" * (1 << 17) + b"\r\n\r\n", b"400"),
    ],
)
def test_odd_first_lines_are_the_clients_mistake(running, lines, status):
    with connect(running) as line:
        line.sendall(lines)
        assert line.recv(12).split()[1] == status


def test_a_body_without_a_length_is_read_up_to_the_limit(running):
    chunk = body(2)
    assert post(running.address, iter([chunk[:100], chunk[100:]]))[0] == 200
    code, reply = post(running.address, (b" " * 10**5 for _ in range(11)))
    assert (code, "1000000 are allowed" in reply["error"]) == (413, True)


def test_a_token_is_needed_where_there_is_one(monkeypatch):
    monkeypatch.setenv("RIGHT", "secret\n")  # as `export TOKEN=$(cat file; echo)` leaves it
    monkeypatch.setenv("WRONG", "secre")
    with server(brightness, token="secret") as running:
        assert client(running.address, token_variable="RIGHT")(images(1), prompts(1)).value.shape == (1,)
        for variable in ("WRONG", "UNSET"):
            with pytest.raises(
                RewardError, match=rf"answers 401: .*token is missing or wrong; put .* {variable}$"
            ):
                client(running.address, token_variable=variable)(images(1), prompts(1))
        assert (
            post(running.address, body(), {"Authorization": "Bearer s\xe9cret".encode("latin-1")})[0] == 401
        )
        assert health(running.address).json()["status"] == "ok"  # asked by watchdogs, without one


def test_a_large_request_with_a_wrong_token_is_told_so(monkeypatch):
    monkeypatch.setenv("WRONG", "secre")
    large = images(8, (128, 128))  # 500 KB, more than sockets hold
    with server(brightness, token="secret") as running, pytest.raises(RewardError, match="answers 401"):
        client(running.address, token_variable="WRONG", retries=0)(large, prompts(8))


def test_the_token_is_asked_for_before_the_body_is_read():
    with server(brightness, token="secret") as running, connect(running) as line:
        line.sendall(head(10**6))  # and not a byte of the body
        assert line.recv(12) == b"HTTP/1.1 401"


@pytest.mark.parametrize("host", ["0.0.0.0", "", "192.0.2.1", "::"])
@pytest.mark.parametrize("token", [None, ""])
def test_others_may_reach_it_only_with_a_token(host, token):
    batcher = batching(brightness)
    with pytest.raises(
        ValueError, match=rf"host={host} makes the server reachable for others, so it needs a token"
    ):
        RewardServer(host, 0, batcher=batcher, limits=LIMITS, token=token, patience=PATIENCE)
    batcher.close()


def test_a_port_that_cannot_be_had(running):
    for port in (running.server_address[1], 1 << 20):
        with pytest.raises(ValueError, match=f"port={port} cannot be used"):
            RewardServer(
                "127.0.0.1", port, batcher=running.batcher, limits=LIMITS, token=None, patience=PATIENCE
            )


def test_health_says_what_is_served(running):
    reply = health(running.address)
    assert reply.status_code == 200
    assert reply.json() == {
        "status": "ok",
        "reward": "brightness",
        "waiting": 0,
        "limits": {"body": 10**6, "images": 8, "side": 64, "pixels": 8192},
    }


def test_health_fails_once_the_scorer_has_died():
    def dying(images, prompts):
        raise KeyboardInterrupt

    with ThreadPoolExecutor(1) as decoders:
        batcher = batching(dying)
        app = TestClient(Endpoints(batcher, LIMITS, None, timeout=60.0, decoders=decoders))
        assert app.get("/health").json()["status"] == "ok"
        for _ in range(2):  # by the request, and because of it
            reply = app.post("/score", content=body())
            assert (reply.status_code, reply.json()) == (
                500,
                {"error": "the scorer raised KeyboardInterrupt"},
            )
        reply = app.get("/health")
        assert reply.status_code == 503
        assert reply.json()["status"] == "failing"
        assert reply.json()["error"] == "the scorer raised KeyboardInterrupt"
