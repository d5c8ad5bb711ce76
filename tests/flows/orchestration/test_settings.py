import json
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import httpx
import pytest

from flows.orchestration.settings import find_server, keep_loopback_direct


class Answering(BaseHTTPRequestHandler):
    def do_GET(self):
        body = json.dumps("3.8.8").encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


@pytest.fixture
def server():
    with HTTPServer(("127.0.0.1", 0), Answering) as listening:
        thread = threading.Thread(target=listening.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{listening.server_port}/api"
        listening.shutdown()
        thread.join()


@pytest.mark.parametrize("proxy", ["http_proxy", "HTTP_PROXY", "ALL_PROXY", "all_proxy"])
def test_a_proxy_is_not_asked_for_this_machine(server, proxy, monkeypatch):
    monkeypatch.setenv(proxy, "http://127.0.0.1:9")  # nothing listens there
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.delenv("no_proxy", raising=False)
    assert find_server(server).version == "3.8.8"


def test_prefect_s_client_reaches_this_machine_though_a_socks_proxy_is_set(server, monkeypatch):
    monkeypatch.setenv("ALL_PROXY", "socks5://127.0.0.1:9")
    monkeypatch.setenv("NO_PROXY", "")
    monkeypatch.setenv("no_proxy", "")
    keep_loopback_direct()
    # As Prefect builds its own: from the environment.
    with httpx.Client(base_url=server) as client:
        assert client.get("/admin/version").json() == "3.8.8"


def test_the_user_s_exceptions_from_the_proxy_stay(monkeypatch):
    monkeypatch.setenv("NO_PROXY", "example.org,localhost")
    monkeypatch.setenv("no_proxy", "")
    keep_loopback_direct()
    import os

    assert os.environ["NO_PROXY"] == "example.org,localhost,127.0.0.1,::1"
    assert os.environ["no_proxy"] == "127.0.0.1,localhost,::1"
