import asyncio

import pytest

from flows.own_pages import OwnPagesOnly, is_loopback, refusal

HERE = {"host": "127.0.0.1:4200"}


@pytest.mark.parametrize("host", ["127.0.0.1:4200", "localhost:4200", "[::1]:4200", "LOCALHOST", "[::1]"])
def test_programs_of_this_machine_and_own_pages_are_answered(host):
    assert refusal({"host": host}) is None
    assert refusal({"host": host, "origin": f"http://{host}"}) is None
    assert refusal({"host": host, "sec-fetch-site": "same-origin", "sec-fetch-mode": "cors"}) is None
    # A link in a mail, a bookmark.
    assert refusal({"host": host, "sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate"}) is None


@pytest.mark.parametrize(
    "host", ["evil.example:4200", "127.0.0.1.evil.example", "localhost.evil.example:4200", "", "["]
)
def test_other_names_for_this_machine_are_refused(host):
    assert "Host" in refusal({"host": host})


@pytest.mark.parametrize(
    "origin",
    [
        "http://evil.example",
        "null",
        "http://127.0.0.1:8000",
        "http://localhost:42000",
        "http://[",
        "file://",
        "http://127.0.0.1:4200.evil.example",
        "http://user@127.0.0.1:4200",
    ],
)
def test_pages_of_other_sites_are_refused(origin):
    assert "another site" in refusal({**HERE, "origin": origin})


@pytest.mark.parametrize("site", ["cross-site", "same-site"])
def test_what_a_page_loads_without_an_origin_is_refused_too(site):
    assert "another site" in refusal({**HERE, "sec-fetch-site": site, "sec-fetch-mode": "no-cors"})


def test_two_local_names_of_one_server_are_one_origin():
    assert refusal({**HERE, "origin": "http://localhost:4200"}) is None


def test_a_server_for_others_answers_to_its_name_and_to_addresses():
    rules = {"names": {"robots.lab"}, "any_address": True}
    assert refusal({"host": "robots.lab:4200", "origin": "http://robots.lab:4200"}, **rules) is None
    assert refusal({"host": "192.0.2.7:4200"}, **rules) is None
    assert "Host" in refusal({"host": "evil.example:4200"}, **rules)
    assert "another site" in refusal({"host": "192.0.2.7:4200", "origin": "http://192.0.2.8:4200"}, **rules)


@pytest.mark.parametrize(
    ("host", "own"),
    [("127.0.0.1", True), ("127.9.9.9", True), ("::1", True), ("localhost", True), ("0.0.0.0", False), ("lab", False)],
)
def test_what_other_machines_reach_is_no_loopback(host, own):
    assert is_loopback(host) is own


def answers(kind, headers):
    """What the application behind the door was asked, and what was sent back."""
    reached, sent = [], []

    async def app(scope, receive, send):
        reached.append(scope["type"])
        await send({"type": "http.response.start", "status": 200, "headers": []})

    async def receive():
        return {"type": f"{kind}.connect"}

    async def send(message):
        sent.append(message)

    asyncio.run(OwnPagesOnly(app)({"type": kind, "headers": headers}, receive, send))
    return reached, sent


def test_a_foreign_web_socket_is_closed_before_it_is_accepted():
    reached, sent = answers("websocket", [(b"host", b"127.0.0.1:4200"), (b"origin", b"http://evil.example")])
    assert (reached, sent[0]["type"]) == ([], "websocket.close")


def test_a_header_given_twice_fits_no_name():
    reached, sent = answers("http", [(b"host", b"127.0.0.1:4200"), (b"host", b"evil.example")])
    assert (reached, sent[0]["status"]) == ([], 403)


def test_own_answers_may_not_be_framed():
    reached, sent = answers("http", [(b"host", b"127.0.0.1:4200")])
    assert reached == ["http"]
    assert (b"content-security-policy", b"frame-ancestors 'none'") in sent[0]["headers"]
