"""Web pages of other sites can neither read nor change the sandbox through a browser on this machine."""

from __future__ import annotations

import socket

import pytest
import requests

from datatile_provider.sandbox.guard import rejection

PORT = 8400
#: Each with whether the sandbox allows it.
HOSTS = {
    "localhost": True,
    "LocalHost": True,
    "localhost:PORT": True,
    "127.0.0.1": True,
    "127.0.0.1:PORT": True,
    # A proxy on this machine that forwards the header.
    "127.0.0.1:1": True,
    "127.9.8.7": True,
    "[::1]": True,
    "[::1]:PORT": True,
    "evil.example": False,
    "evil.example:8400": False,
    "127.0.0.1.evil.example": False,
    "127.0.0.1.evil.example:PORT": False,
    "localhost.evil.example": False,
    "evil.localhost": False,
    "localhost:PORT@evil.example": False,
    "evil.example@localhost:PORT": False,
    "localhost/evil.example": False,
    "localhost:evil.example": False,
    "localhost, evil.example": False,
    "0.0.0.0:PORT": False,
    "192.168.0.7:PORT": False,
    "[::2]:PORT": False,
    "[::1": False,
    "::1": False,
    "[localhost]": False,
    ":PORT": False,
    "": False,
}
#: The origin of a page and the host that it sends a request to, with whether the sandbox allows it.
ORIGINS = {
    ("http://localhost:PORT", "localhost:PORT"): True,
    ("https://localhost:PORT", "localhost:PORT"): True,
    ("http://localhost:PORT", "LocalHost:PORT"): True,
    ("http://127.0.0.1", "127.0.0.1"): True,
    ("http://[::1]:PORT", "[::1]:PORT"): True,
    ("null", "localhost:PORT"): False,
    ("", "localhost:PORT"): False,
    ("http://evil.example", "localhost:PORT"): False,
    ("http://localhost", "localhost:PORT"): False,
    ("http://localhost:1", "localhost:PORT"): False,
    ("http://127.0.0.1:PORT", "localhost:PORT"): False,
    ("http://localhost:PORT.evil.example", "localhost:PORT"): False,
    ("http://localhost:PORT@evil.example", "localhost:PORT"): False,
    ("ftp://localhost:PORT", "localhost:PORT"): False,
    ("http://evil.example", "evil.example"): False,
}
CHANGES = (
    "/sandbox/token",
    "/sandbox/databases",
    "/sandbox/permissions",
    "/sandbox/roles",
    "/sandbox/jobs/1/cancel",
    "/sandbox/jobs/1/status",
)
#: What an HTML form can send, and a script without a CORS preflight.
FORMS = {
    "application/x-www-form-urlencoded": b"a=b",
    "text/plain": b'{"name": "x=y"}',
    "multipart/form-data; boundary=b": b'--b\r\nContent-Disposition: form-data; name="a"\r\n\r\nb\r\n--b--\r\n',
}


def with_port(text: str, port: int = PORT) -> str:
    return text.replace("PORT", str(port))


@pytest.mark.parametrize(("host", "is_allowed"), HOSTS.items())
def test_only_loopback_hosts_are_allowed(host, is_allowed):
    found = rejection("GET", "/", {"Host": with_port(host)})
    assert (found is None) == is_allowed
    assert is_allowed or "Host header" in str(found)


def test_a_request_without_a_host_is_rejected():
    assert "Host header" in str(rejection("GET", "/", {}))


@pytest.mark.parametrize(("pair", "is_allowed"), ORIGINS.items())
@pytest.mark.parametrize("method", ["GET", "POST", "OPTIONS"])
def test_only_pages_of_the_same_origin_are_allowed(method, pair, is_allowed):
    origin, host = map(with_port, pair)
    found = rejection(method, "/", {"Host": host, "Origin": origin})
    assert (found is None) == is_allowed


@pytest.mark.parametrize("path", CHANGES)
def test_a_change_needs_a_header_that_no_form_can_send(path):
    headers = {"Host": "localhost"}
    for method in ("POST", "PUT", "PATCH", "DELETE"):
        for missing in ({}, {"X-Requested-With": ""}):
            assert "X-Requested-With" in str(rejection(method, path, headers | missing))
        assert rejection(method, path, headers | {"X-Requested-With": "curl"}) is None
    from_elsewhere = {"X-Requested-With": "x", "Origin": "http://evil.example"}
    assert "Origin" in str(rejection("POST", path, headers | from_elsewhere))
    assert "Host" in str(rejection("POST", path, {"Host": "evil.example", "X-Requested-With": "x"}))


@pytest.mark.parametrize(
    ("method", "path"),
    [("GET", "/"), ("GET", "/sandbox/state"), ("HEAD", "/sandbox/state"), ("POST", "/api/v2/upload/create/surveys")],
)
def test_reading_and_uploading_need_no_extra_header(method, path):
    assert rejection(method, path, {"Host": "localhost"}) is None


class TestRunningSandbox:
    @pytest.mark.parametrize(("host", "is_allowed"), HOSTS.items())
    def test_a_page_of_another_host_name_cannot_read_the_token(self, user, host, is_allowed):
        """DNS rebinding: the site's name resolves to 127.0.0.1."""
        response = send(user, f"GET /sandbox/state HTTP/1.1\r\nHost: {with_port(host, port_of(user))}\r\n")
        if is_allowed:
            assert response.startswith("HTTP/1.1 200 ")
        # Some releases of aiohttp reject an invalid host themselves.
        assert is_allowed or response.startswith(("HTTP/1.1 403 ", "HTTP/1.0 400 ", "HTTP/1.1 400 "))
        assert (user.sandbox.token in response) == is_allowed

    @pytest.mark.parametrize("host", ["", "Host:\r\n", "Host: evil.example\r\n"])
    def test_http_1_0_without_a_host_cannot_read_the_token(self, user, host):
        response = send(user, f"GET /sandbox/state HTTP/1.0\r\n{host}")
        assert response.startswith("HTTP/1.0 403 ")
        assert user.sandbox.token not in response

    @pytest.mark.parametrize("path", ["/", "/processing-log", "/sandbox/state", "/api/v2/jobs/1", "/nowhere"])
    def test_every_path_checks_the_host_and_the_origin(self, user, path):
        for headers in ({"Host": "evil.example"}, {"Origin": "http://evil.example"}):
            response = requests.get(user.sandbox.url + path, headers=headers, timeout=5)
            assert response.status_code == 403
            assert next(iter(headers)) in response.json()["error"]

    def test_a_browser_gets_a_page_with_the_reason(self, user):
        headers = {"Accept": "text/html", "Host": "<b>.evil.example"}
        response = requests.get(user.sandbox.url, headers=headers, timeout=5)
        assert (response.status_code, response.headers["Content-Type"]) == (403, "text/html; charset=utf-8")
        assert "&lt;b&gt;.evil.example" in response.text

    @pytest.mark.parametrize(("pair", "is_allowed"), ORIGINS.items())
    def test_a_page_of_another_origin_cannot_make_a_new_token(self, user, pair, is_allowed):
        origin, host = (with_port(text, port_of(user)) for text in pair)
        before = user.sandbox.state()
        headers = {"Host": host, "Origin": origin, "X-Requested-With": "a page"}
        response = requests.post(f"{user.sandbox.url}/sandbox/token", headers=headers, timeout=5)
        assert response.status_code == (200 if is_allowed else 403)
        assert (user.sandbox.state() != before) == is_allowed

    @pytest.mark.parametrize("path", CHANGES)
    @pytest.mark.parametrize("content_type", FORMS)
    def test_a_form_changes_nothing(self, user, path, content_type):
        before = user.sandbox.state()
        response = requests.post(
            user.sandbox.url + path, data=FORMS[content_type], headers={"Content-Type": content_type}, timeout=5
        )
        assert response.status_code == 403
        assert "X-Requested-With" in response.json()["error"]
        assert user.sandbox.state() == before

    @pytest.mark.parametrize("path", ["/%73andbox/token", "/sandbox%2Ftoken", "//sandbox/token", "/x/../sandbox/token"])
    def test_no_spelling_of_the_path_bypasses_the_check(self, user, path):
        before = user.sandbox.token
        send(user, f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 0\r\n")
        assert user.sandbox.token == before

    def test_an_upload_from_a_page_of_another_origin_is_rejected(self, user):
        response = requests.post(
            f"{user.sandbox.url}/api/v2/upload/create/{user.sandbox.folder}",
            headers={"token": user.sandbox.token, "Origin": "http://evil.example"},
            files={"dataset": ("a.csv", b"a,b\n1,2\n")},
            timeout=5,
        )
        assert response.status_code == 403
        assert user.sandbox.uploads() == []

    def test_no_other_origin_may_send_the_header(self, user):
        """A browser sends a CORS preflight request before the request of a script."""
        preflight = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "x-requested-with"}
        headers = {"Origin": "http://evil.example", **preflight}
        response = requests.options(f"{user.sandbox.url}/sandbox/token", headers=headers, timeout=5)
        assert response.status_code == 403
        assert not [name for name in response.headers if name.lower().startswith("access-control")]


def port_of(user) -> int:
    return int(user.sandbox.url.rpartition(":")[2])


def send(user, head: str) -> str:
    """Send a request unchanged, and return the whole response."""
    with socket.create_connection(("127.0.0.1", port_of(user)), timeout=5) as client:
        client.sendall(f"{head}Connection: close\r\n\r\n".encode())
        with client.makefile("rb") as response:
            return response.read().decode()
