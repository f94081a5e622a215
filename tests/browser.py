"""Opens a page in headless Chromium and tells what became of it.

Speaks the DevTools protocol over pipes, so that it needs no other package.
"""

import base64
import contextlib
import json
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

CHROMIUM = shutil.which('chromium') or shutil.which('google-chrome')
_FLAGS = (
  '--headless=new',
  '--no-sandbox',
  '--disable-gpu',
  '--disable-quic',
  '--no-first-run',
  '--disable-background-networking',
  '--disable-component-update',
  '--disable-sync',
  '--disable-dev-shm-usage',
  '--remote-debugging-pipe',
)


@contextlib.contextmanager
def opened(page: Path, width: int = 1200, height: int = 900):
  """A tab with the page in a window of this size, loaded."""
  # The browser reads its commands from 3 and writes to 4.
  command_in, command_out = os.pipe()
  answer_in, answer_out = os.pipe()
  with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
    # A shell moves the pipes to where the browser expects them (not dash, which
    # knows only ten of them).
    process = subprocess.Popen(
      [
        'bash',
        '-c',
        f'exec "$0" "$@" 3<&{command_in} 4>&{answer_out}',
        CHROMIUM,
        *_FLAGS,
        f'--user-data-dir={profile}',
        'about:blank',
      ],
      pass_fds=(command_in, answer_out),
      stdout=subprocess.DEVNULL,
      stderr=subprocess.DEVNULL,
      env=os.environ | {'HOME': profile},
    )
    os.close(command_in)
    os.close(answer_out)
    try:
      with open(command_out, 'wb', 0) as send, open(answer_in, 'rb', 0) as hear:
        tab = Tab(send, hear)
        tab.open(page, width, height)
        yield tab
    finally:
      process.kill()
      process.wait()


class Tab:
  """A tab.

  Attributes:
    messages: what the page wrote to the console, and its uncaught errors.
    requests: the addresses that it asked for, but for itself and data.
  """

  def __init__(self, send, hear):
    self._send, self._hear = send, hear
    self._buffer = b''
    self._last = 0
    self._session = None
    self._loaded = False
    self.messages, self.requests = [], []

  def open(self, page, width, height):
    targets = self.call('Target.getTargets')['targetInfos']
    target = next(t['targetId'] for t in targets if t['type'] == 'page')
    self._session = self.call(
      'Target.attachToTarget', targetId=target, flatten=True
    )['sessionId']
    for domain in ('Page', 'Runtime', 'Log', 'Network'):
      self.call(f'{domain}.enable')
    self.resize(width, height)
    self.call('Page.navigate', url=page.resolve().as_uri())
    while not self._loaded:
      self._receive()

  def resize(self, width, height):
    self.call(
      'Emulation.setDeviceMetricsOverride',
      width=width,
      height=height,
      deviceScaleFactor=1,
      mobile=width < 600,
    )

  def prefer(self, scheme):
    """A 'light' or a 'dark' page."""
    feature = {'name': 'prefers-color-scheme', 'value': scheme}
    self.call('Emulation.setEmulatedMedia', features=[feature])

  def evaluate(self, expression):
    """The value of a JavaScript expression; promises are awaited."""
    result = self.call(
      'Runtime.evaluate',
      expression=expression,
      returnByValue=True,
      awaitPromise=True,
    )
    assert 'exceptionDetails' not in result, result
    return result['result'].get('value')

  def pdf(self):
    """The page as it prints."""
    return base64.b64decode(self.call('Page.printToPDF')['data'])

  def screenshot(self):
    """The whole page as PNG."""
    return base64.b64decode(
      self.call('Page.captureScreenshot', captureBeyondViewport=True)['data']
    )

  def call(self, method, **parameters):
    self._last += 1
    message = {'id': self._last, 'method': method, 'params': parameters}
    if self._session:
      message['sessionId'] = self._session
    self._send.write(json.dumps(message).encode() + b'\0')
    while True:
      answer = self._receive()
      if answer.get('id') == self._last:
        assert 'error' not in answer, answer
        return answer['result']

  def _receive(self):
    while b'\0' not in self._buffer:
      part = self._hear.read(1 << 16)
      assert part, 'the browser is gone'
      self._buffer += part
    text, self._buffer = self._buffer.split(b'\0', 1)
    message = json.loads(text)
    method, details = message.get('method'), message.get('params', {})
    if method in ('Runtime.consoleAPICalled', 'Runtime.exceptionThrown'):
      self.messages.append(details)
    elif method == 'Log.entryAdded':
      self.messages.append(details['entry'])
    elif method == 'Page.loadEventFired':
      self._loaded = True
    elif method == 'Network.requestWillBeSent':
      address = details['request']['url']
      if not address.startswith(('data:', 'file:')):
        self.requests.append(address)
    return message
