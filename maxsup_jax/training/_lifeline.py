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
    family = socket.AF_INET6 if socket.has_dualstack_ipv6() else socket.AF_INET
    self._socket = socket.create_server(
      ('', 0), family=family, dualstack_ipv6=family == socket.AF_INET6
    )
    self._password = secrets.token_hex(8)
    self.address = f'{self._socket.getsockname()[1]} {self._password}'
    self.lost: set[int] = set()
    threading.Thread(target=self._serve, daemon=True).start()

  def _serve(self):
    with selectors.DefaultSelector() as selector:
      selector.register(self._socket, selectors.EVENT_READ)
      while True:
        for key, _ in selector.select():
          if key.fileobj is self._socket:
            connection, _ = self._socket.accept()
            connection.setblocking(False)
            selector.register(connection, selectors.EVENT_READ, [''])
            continue
          try:
            received = key.fileobj.recv(64)
          except OSError:
            received = b''
          if received:
            key.data[0] = (key.data[0] + received.decode('ascii', 'replace'))[
              :64
            ]
            continue
          selector.unregister(key.fileobj)
          key.fileobj.close()
          index = key.data[0].removeprefix(self._password)
          if index != key.data[0] and index.isdigit():
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
