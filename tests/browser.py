"""A page in headless Chromium, by its DevTools protocol over two pipes."""

import base64
import contextlib
import itertools
import json
import os
import pathlib
import select
import shutil
import subprocess
import time
from collections.abc import Iterator
from typing import Any

import pytest

_NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
_PATIENCE = 15  # seconds, on two cores with other things to do
# A container's root has no sandbox, and its /dev/shm is small; nothing is fetched.
_FLAGS = """--headless=new --no-sandbox --disable-dev-shm-usage --disable-gpu
--enable-unsafe-swiftshader --no-first-run --disable-extensions --hide-scrollbars
--disable-background-networking --disable-component-update --disable-sync
--remote-debugging-pipe""".split()


class Page:
  """One tab."""

  def __init__(self, commands: int, answers: int):
    self._commands, self._answers = commands, answers
    self._left = b""
    self._numbers = itertools.count(1)
    self._session: str | None = None
    self.errors: list[str] = []  # what the console said of them
    self.requests: list[str] = []  # addresses that were asked for
    target = self.call("Target.createTarget", url="about:blank")["targetId"]
    attached = self.call("Target.attachToTarget", targetId=target, flatten=True)
    self._session = attached["sessionId"]
    for domain in ("Page", "Runtime", "Log", "Network"):
      self.call(f"{domain}.enable")

  def call(self, method: str, **parameters: Any) -> dict[str, Any]:
    """Asks the browser for something and waits for what comes of it."""
    number = next(self._numbers)
    told = {"id": number, "method": method, "params": parameters}
    if self._session:
      told["sessionId"] = self._session
    os.write(self._commands, json.dumps(told).encode() + b"\0")
    while True:
      came = self._next()
      if came.get("id") == number:
        assert "error" not in came, (method, came["error"])
        return came["result"]

  def _next(self) -> dict[str, Any]:
    """The next message; of events, what a test looks at is kept."""
    deadline = time.monotonic() + _PATIENCE
    while b"\0" not in self._left:
      wait = deadline - time.monotonic()
      assert select.select([self._answers], [], [], max(wait, 0))[0], "silence"
      part = os.read(self._answers, 2**20)
      assert part, "the browser has ended"
      self._left += part
    message, _, self._left = self._left.partition(b"\0")
    came = json.loads(message)
    params = came.get("params", {})
    match came.get("method"):
      case "Runtime.exceptionThrown":
        self.errors.append(json.dumps(params["exceptionDetails"])[:500])
      case "Runtime.consoleAPICalled" if params["type"] in ("error", "assert"):
        self.errors.append(json.dumps(params["args"])[:500])
      case "Log.entryAdded" if params["entry"]["level"] == "error":
        self.errors.append(params["entry"]["text"])
      case "Network.requestWillBeSent":
        self.requests.append(params["request"]["url"])
    return came

  def run(self, script: str) -> Any:
    """The value of a script in the page, awaited."""
    found = self.call(
      "Runtime.evaluate",
      expression=script,
      returnByValue=True,
      awaitPromise=True,
    )
    assert "exceptionDetails" not in found, found["exceptionDetails"]
    return found["result"].get("value")

  def until(self, script: str) -> None:
    """Waits until a script is true."""
    deadline = time.monotonic() + _PATIENCE
    while not self.run(script):
      assert time.monotonic() < deadline, script
      time.sleep(0.05)

  def open(
    self, path: pathlib.Path, *, width: int, height: int = 900, dark: bool
  ) -> None:
    """Opens a file as a person with such a screen would."""
    self.call(
      "Emulation.setDeviceMetricsOverride",
      width=width,
      height=height,
      deviceScaleFactor=1,
      mobile=False,
    )
    scheme = {
      "name": "prefers-color-scheme",
      "value": "dark" if dark else "light",
    }
    self.call("Emulation.setEmulatedMedia", features=[scheme])
    self.call("Page.navigate", url=path.resolve().as_uri())
    self.until("document.readyState === 'complete'")

  def press(self, key: str, code: int) -> None:
    """One key, down and up."""
    for kind in ("keyDown", "keyUp"):
      self.call(
        "Input.dispatchKeyEvent",
        type=kind,
        key=key,
        code=key,
        windowsVirtualKeyCode=code,
        text="\r" if key == "Enter" and kind == "keyDown" else "",
      )

  def click(self, x: float, y: float) -> None:
    """The left button, at a place of the window."""
    where = {"x": x, "y": y}
    self.call("Input.dispatchMouseEvent", type="mouseMoved", **where)
    for kind in ("mousePressed", "mouseReleased"):
      self.call(
        "Input.dispatchMouseEvent",
        type=kind,
        button="left",
        clickCount=1,
        **where,
      )

  def screenshot(self, path: pathlib.Path) -> None:
    """All of the page, as a PNG."""
    size = self.call("Page.getLayoutMetrics")["cssContentSize"]
    shot = self.call(
      "Page.captureScreenshot",
      format="png",
      captureBeyondViewport=True,
      clip={**size, "scale": 1},
    )
    path.write_bytes(base64.b64decode(shot["data"]))


def find() -> str | None:
  """Where Chromium is."""
  return next(filter(None, map(shutil.which, _NAMES)), None)


@contextlib.contextmanager
def page(profile: pathlib.Path) -> Iterator[Page]:
  """A browser of its own; the test is skipped where there is none.

  Args:
    profile: an empty folder.
  """
  program = find()
  if program is None:
    pytest.skip(f"needs a browser, {' or '.join(_NAMES)}: apt install chromium")
  (command_in, command_out), (answer_in, answer_out) = os.pipe(), os.pipe()
  # It reads commands at 3 and writes answers at 4.
  redirected = f'exec "$0" "$@" 3<&{command_in} 4>&{answer_out}'
  browser = subprocess.Popen(
    ["bash", "-c", redirected, program, *_FLAGS, f"--user-data-dir={profile}"],
    pass_fds=(command_in, answer_out),
    stdout=subprocess.DEVNULL,
    stderr=subprocess.DEVNULL,
  )
  os.close(command_in)
  os.close(answer_out)
  try:
    yield Page(command_out, answer_in)
  finally:
    browser.terminate()
    try:
      browser.wait(20)
    except subprocess.TimeoutExpired:
      browser.kill()
      browser.wait()
    os.close(command_out)
    os.close(answer_in)
