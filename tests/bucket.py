"""A bucket on this machine: an emulator that also keeps to preconditions."""

import collections
import contextlib
import http
import threading

import pytest


class Bucket:
  """gs://test-bucket; what is asked of it is counted, and may fail.

  Attributes:
    url: of the server.
    requests: how often each HTTP method was asked for.
    fault: takes (method, path) and returns the status of an answer that is an
      error, or None.
  """

  def __init__(self):
    from gcp_storage_emulator import server

    self.requests = collections.Counter()
    self.fault = lambda method, path: None
    self._lock = threading.Lock()
    handlers = tuple(
      (pattern, {m: self._wrapped(f) for m, f in methods.items()})
      for pattern, methods in server.HANDLERS
    )
    self._patch = pytest.MonkeyPatch()
    self._patch.setattr(server, 'HANDLERS', handlers)
    self._server = server.create_server(
      '127.0.0.1', 0, in_memory=True, default_bucket='test-bucket'
    )
    self._server.start()
    self.url = f'http://127.0.0.1:{self._server._api._httpd.server_port}'

  def stop(self):
    self._server.stop()
    self._patch.undo()

  def environment(self):
    """What makes programs ask this server, and no other."""
    return {
      'STORAGE_EMULATOR_HOST': self.url,
      'TENSORSTORE_GCS_HTTP_URL': self.url,
      # Or credentials are looked for on the network.
      'NO_GCE_CHECK': 'true',
    }

  def _wrapped(self, handler):
    def handle(request, response, storage, *args, **kwargs):
      self.requests[request.method] += 1
      status = self.fault(request.method, request.path)
      if status:
        response.status = http.HTTPStatus(status)
        return
      with self._lock:
        if not self._is_met(request, storage):
          response.status = http.HTTPStatus(412)
          return
        handler(request, response, storage, *args, **kwargs)
        if 'alt' in request.query and 'object_id' in request.params:
          response['x-goog-generation'] = self._generation(request, storage)

    return handle

  def _is_met(self, request, storage):
    expected = request.query.get('ifGenerationMatch')
    return not expected or expected[0] == self._generation(request, storage)

  def _generation(self, request, storage):
    from gcp_storage_emulator.exceptions import NotFound

    params = request.params
    name = params.get('object_id') or request.query.get('name', [None])[0]
    if name is None:
      name = request.data['meta']['name']
    with contextlib.suppress(NotFound):
      return storage.get_file_obj(params['bucket_name'], name)['generation']
    return '0'
