"""Connections that tell at once that a process is gone.

When a process is killed, its system closes its connections. So every process
keeps one to process 0, over which nothing is sent. Where a machine loses its
power, or a firewall is between them, nothing is noticed here; see `peers`.
"""

import contextlib
import secrets
import selectors
import socket
import threading
from collections.abc import Callable

_CONNECT_SECONDS = 10


class Server:
  """Process 0's end of the connections.

  Attributes:
    address: the port and a password, for `hold`.
    lost: the processes whose connection has ended.
  """

  def __init__(self):
    try:
      self._socket = socket.create_server(
        ('', 0), family=socket.AF_INET6, dualstack_ipv6=True
      )
    except (OSError, ValueError):  # There is no IPv6.
      self._socket = socket.create_server(('', 0))
    self._password = secrets.token_hex(8)
    self.address = f'{self._socket.getsockname()[1]} {self._password}'
    self.lost: set[int] = set()
    self._selector = selectors.DefaultSelector()
    self._selector.register(self._socket, selectors.EVENT_READ)
    self._wake, wakes = socket.socketpair()
    self._selector.register(wakes, selectors.EVENT_READ)
    self._received: dict[socket.socket, str] = {}
    self._thread = threading.Thread(target=self._serve, daemon=True)
    self._thread.start()

  def close(self) -> None:
    """Ends all connections."""
    self._wake.close()
    self._thread.join()

  def _serve(self):
    while True:
      for key, _ in self._selector.select():
        if key.fileobj is self._socket:
          connection, _ = self._socket.accept()
          connection.setblocking(False)
          self._received[connection] = ''
          self._selector.register(connection, selectors.EVENT_READ)
        elif key.fileobj in self._received:
          self._read(key.fileobj)
        else:
          for held in list(self._selector.get_map().values()):
            held.fileobj.close()
          self._selector.close()
          return

  def _read(self, connection):
    try:
      data = connection.recv(64)
    except OSError:
      data = b''
    if data:
      # Of a stranger nothing is kept that is longer than the password.
      text = self._received[connection] + data.decode('ascii', 'replace')
      self._received[connection] = text[:64]
      return
    self._selector.unregister(connection)
    connection.close()
    text = self._received.pop(connection)
    index = text.removeprefix(self._password)
    if index != text and index.isdecimal():
      self.lost.add(int(index))


def hold(
  host: str, address: str, index: int, on_end: Callable[[], None]
) -> None:
  """Keeps a connection to process 0, and says when it has ended.

  Args:
    host: of process 0.
    address: what its server says.
    index: which process this one is.
    on_end: is called in a thread. Never, if there is no connection.
  """
  port, password = address.split()
  # Something is in between: process 0 will not be missed this way.
  with contextlib.suppress(OSError):
    connection = socket.create_connection(
      (host, int(port)), timeout=_CONNECT_SECONDS
    )
    connection.settimeout(None)
    connection.sendall(f'{password}{index}'.encode())

    def wait():
      with contextlib.suppress(OSError), connection:
        connection.recv(1)
      on_end()

    threading.Thread(target=wait, daemon=True).start()
