"""How processes that are started by hand meet, before JAX joins them.

JAX's service takes anybody who comes, for a run that is going on, too: a second
process of the same number aborts all of them, and one that was told of another
count trains on other rows. So each process first tells process 0 who it is, at
the port that JAX's service will have as soon as all are there.
"""

import contextlib
import errno
import select
import socket
import time
from collections.abc import Iterator

from maxsup_jax.errors import UsageError

# Seconds: between two attempts; for one answer; for those who come late to a
# meeting that has failed.
_AGAIN, _PATIENCE, _LINGER = 0.2, 5.0, 5.0
_NAME, _GO = 'maxsup_jax', 'go'


def meet(address: str, count: int, index: int) -> None:
  """Waits until all processes are there.

  Args:
    address: HOST:PORT of process 0.
    count: how many there are.
    index: which this one is.

  Raises:
    UsageError: for a host that is not known, a port that is in use, two
      processes of one number, and different counts; in all processes.
  """
  host, port = address.rsplit(':', 1)
  try:
    socket.getaddrinfo(host.strip('[]'), int(port))
  except (OSError, UnicodeError) as e:
    reason = getattr(e, 'strerror', None) or e
    raise UsageError(
      f'--coordinator is {address}; expected a host that is known here '
      f'({reason})'
    ) from None
  if index == 0:
    with _server(address, int(port)) as server:
      _receive(server, count)
    return
  while (answer := _ask(host.strip('[]'), int(port), count, index)) != _GO:
    if answer is not None:
      raise UsageError(answer)
    time.sleep(_AGAIN)


@contextlib.contextmanager
def _server(address: str, port: int) -> Iterator[socket.socket]:
  try:
    server = socket.create_server(
      ('', port), family=socket.AF_INET6, dualstack_ipv6=True
    )
  except OSError as e:
    if e.errno != errno.EADDRINUSE:
      raise UsageError(f'--coordinator is {address}: {e.strerror}') from None
    raise UsageError(
      f'--coordinator is {address}, but port {port} of this host is in use, '
      'maybe by another run; choose another port for all processes'
    ) from None
  with server:
    yield server


def _receive(server: socket.socket, count: int) -> None:
  """Process 0: hears from all others, and tells them whether to go on."""
  members: dict[int, socket.socket] = {}
  with contextlib.ExitStack() as stack:
    while len(members) < count - 1:
      member, index, said = _accept(server)
      stack.enter_context(member)
      error = ''
      if said != count:
        error = (
          f'--num_processes is {said} in process {index} and {count} in '
          'process 0; start all processes with the same number'
        )
      elif index in members and _is_there(members[index]):
        error = (
          f'two processes have --process_id={index}; start each with its own'
        )
      if error:
        for other in (*members.values(), member):
          _tell(other, error)
        _refuse_late(server, error)
        raise UsageError(error)
      members[index] = member
    for member in members.values():
      _tell(member, _GO)
    for member in members.values():
      # Who closes first keeps the port for a minute; JAX will need this one.
      with contextlib.suppress(OSError):
        member.recv(1)


def _accept(server: socket.socket) -> tuple[socket.socket, int, int]:
  """The next process, its number and count; whoever else comes is ignored."""
  while True:
    member, _ = server.accept()
    member.settimeout(_PATIENCE)
    with contextlib.suppress(OSError, ValueError):
      name, index, count = member.recv(99).decode().split()
      if name == _NAME:
        return member, int(index), int(count)
    member.close()


def _refuse_late(server: socket.socket, error: str) -> None:
  server.settimeout(_LINGER)
  with contextlib.suppress(TimeoutError):
    while True:
      member, *_ = _accept(server)
      with member:
        _tell(member, error)


def _tell(member: socket.socket, text: str) -> None:
  with contextlib.suppress(OSError):
    member.sendall(f'{_NAME} {text}\n'.encode())


def _is_there(member: socket.socket) -> bool:
  """Whether a process that waits, and says no more, has not ended meanwhile."""
  return not select.select([member], [], [], 0)[0]


def _ask(host: str, port: int, count: int, index: int) -> str | None:
  """What process 0 answers; None where it is not there (any more)."""
  try:
    with socket.create_connection((host, port), _PATIENCE) as server:
      server.sendall(f'{_NAME} {index} {count}\n'.encode())
      server.settimeout(None)
      answer = server.recv(2**16).decode(errors='replace')
  except OSError:
    return None
  if not answer or answer.startswith(_NAME):
    return answer.removeprefix(_NAME).strip() or None
  # JAX's service, and not ours.
  return (
    f'--process_id is {index}, but the processes at {host}:{port} have met '
    'without this one; another was started with the same --process_id, or it '
    'is another run'
  )
