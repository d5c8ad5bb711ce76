"""A picture and the text of a page, by headless Chromium.

    python -m tests.tools.screenshot URL FILE.png [--width 1400] [--height 1000] [--wait 6] [--click TEXT]

Speaks the browser's debugging protocol: Chromium's own `--screenshot` takes the picture before the page has its data.
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import json
import shutil
import subprocess
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from websockets.sync.client import ClientConnection, connect

BROWSER = shutil.which("chromium") or shutil.which("google-chrome")

CLICK = """
(text => {
  const named = [...document.querySelectorAll('body *')].filter(each => (each.innerText || '').trim() === text);
  const shown = named[named.length - 1];
  if (shown) shown.click();
  return Boolean(shown);
})(%s)
"""


class Page:
    """One page of a browser."""

    def __init__(self, socket: ClientConnection) -> None:
        self._socket, self._last = socket, 0

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        self._last += 1
        self._socket.send(json.dumps({"id": self._last, "method": method, "params": parameters}))
        while True:
            answer = json.loads(self._socket.recv(timeout=60))
            if answer.get("id") == self._last:
                assert "error" not in answer, answer
                return dict(answer["result"])

    def open(self, url: str, wait: float) -> None:
        self.call("Page.navigate", url=url)
        time.sleep(wait)

    def click(self, text: str, wait: float) -> None:
        clicked = self.call("Runtime.evaluate", expression=CLICK % json.dumps(text))
        assert clicked["result"]["value"], f"nothing to click says {text!r}; the page says {self.text()[:500]!r}"
        time.sleep(wait)

    def text(self) -> str:
        return str(self.call("Runtime.evaluate", expression="document.body.innerText")["result"]["value"])

    def save(self, path: Path) -> None:
        path.write_bytes(base64.b64decode(self.call("Page.captureScreenshot", format="png")["data"]))


@contextlib.contextmanager
def browser(width: int = 1400, height: int = 1000) -> Iterator[Page]:
    """A page of a browser of its own, closed afterwards."""
    assert BROWSER is not None, "no Chromium here: apt-get install chromium"
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        command = [BROWSER, "--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"]
        command += ["--remote-debugging-port=0", f"--user-data-dir={profile}", f"--window-size={width},{height}"]
        process = subprocess.Popen([*command, "about:blank"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            port_file = Path(profile) / "DevToolsActivePort"
            deadline = time.monotonic() + 60
            while not port_file.exists() or not port_file.read_text().strip():
                assert time.monotonic() < deadline, "Chromium did not start within 60 s"
                time.sleep(0.1)
            port = port_file.read_text().split()[0]
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/json/list", timeout=30) as answer:
                pages = [page for page in json.load(answer) if page["type"] == "page"]
            with connect(pages[0]["webSocketDebuggerUrl"], max_size=2**26) as socket:
                page = Page(socket)
                size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
                page.call("Emulation.setDeviceMetricsOverride", **size)
                yield page
        finally:
            process.terminate()
            process.wait()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("url")
    parser.add_argument("file", type=Path)
    parser.add_argument("--width", type=int, default=1400)
    parser.add_argument("--height", type=int, default=1000)
    parser.add_argument("--wait", type=float, default=6.0, help="seconds the page gets to load its data")
    parser.add_argument("--click", help="text of a link, button or tab to click first")
    options = parser.parse_args()
    with browser(options.width, options.height) as page:
        page.open(options.url, options.wait)
        if options.click:
            page.click(options.click, options.wait)
        page.save(options.file)
        print(page.text())


if __name__ == "__main__":
    main()
