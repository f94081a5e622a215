"""One of several processes, or not: from what launchers and machines tell."""

import http.server
import sys
import threading

import pytest
from absl import flags
from absl.testing import flagsaver

from experiments import _launchers, _processes
from experiments._launchers import Launch, find_launch
from maxsup_jax.errors import UsageError

SLURM = {
  'SLURM_JOB_ID': '1234',
  'SLURM_STEP_NODELIST': 'node[001-002]',
  'SLURM_NTASKS': '4',
  'SLURM_STEP_NUM_TASKS': '4',
  'SLURM_STEP_NUM_NODES': '2',
  'SLURM_PROCID': '3',
  'SLURM_LOCALID': '1',
}
OPEN_MPI = {
  'OMPI_COMM_WORLD_SIZE': '2',
  'OMPI_COMM_WORLD_RANK': '1',
  'OMPI_COMM_WORLD_LOCAL_SIZE': '1',
  'OMPI_COMM_WORLD_LOCAL_RANK': '0',
  'OMPI_MCA_orte_num_nodes': '2',
  'OMPI_MCA_orte_hnp_uri': '1199833088.0;tcp://192.0.2.2:52681',
}


@pytest.fixture(autouse=True)
def environment(monkeypatch):
  """Sets variables; none of a launcher are there before."""
  for name in (
    *SLURM,
    *OPEN_MPI,
    'JAX_LOCAL_DEVICE_IDS',
    'JAX_PLATFORMS',
    *('TPU_SKIP_MDS_QUERY', 'TPU_WORKER_HOSTNAMES', 'TPU_WORKER_ID'),
    'MEGASCALE_NUM_SLICES',
  ):
    monkeypatch.delenv(name, raising=False)

  def update(*groups, **variables):
    for group in (*groups, variables):
      for name, value in group.items():
        if value is None:
          monkeypatch.delenv(name, raising=False)
        else:
          monkeypatch.setenv(name, value)

  return update


def test_nothing_is_found_where_nothing_is():
  assert find_launch() is None
  assert _launchers.tasks_not_started() == 0


def test_slurm(environment):
  environment(SLURM)
  assert find_launch() == Launch('SLURM', 'slurm', 3, 4, False, 1)
  environment(SLURM_STEP_NUM_NODES='4')
  assert find_launch().alone_on_host
  environment(SLURM_PROCID='first')
  with pytest.raises(UsageError, match="SLURM_PROCID is 'first'"):
    find_launch()


def test_a_shell_in_a_slurm_job_is_alone(environment):
  """That of salloc is a step of one task; sbatch's script is in no step."""
  environment(SLURM, SLURM_STEP_NUM_TASKS='1', SLURM_PROCID='0')
  assert find_launch() is None
  assert _launchers.tasks_not_started() == 4
  environment(SLURM, SLURM_STEP_NODELIST=None)
  assert find_launch() is None
  assert _launchers.tasks_not_started() == 4
  environment(SLURM_NTASKS='1')
  assert _launchers.tasks_not_started() == 0


def test_open_mpi(environment):
  environment(OPEN_MPI, SLURM)
  assert find_launch() == Launch('Open MPI', 'ompi', 1, 2, True, 0)
  environment(OMPI_COMM_WORLD_LOCAL_SIZE='2', OMPI_COMM_WORLD_LOCAL_RANK='1')
  assert find_launch() == Launch('Open MPI', 'ompi', 1, 2, False, 1)
  environment(OMPI_MCA_orte_hnp_uri=None)
  assert find_launch().method is None
  environment(OMPI_COMM_WORLD_SIZE='1', SLURM_JOB_ID=None)
  assert find_launch() is None


@pytest.fixture
def tpu(tmp_path, monkeypatch):
  """A machine with TPUs."""
  (tmp_path / 'accel0').touch()
  devices = (str(tmp_path / 'accel[0-9]*'),)
  monkeypatch.setattr(_launchers, '_TPU_DEVICES', devices)
  monkeypatch.setattr(_launchers, '_has_libtpu', lambda: True)
  return tmp_path / 'accel0'


@pytest.fixture
def metadata(monkeypatch):
  """Serves what Google Cloud tells a machine; gives what was asked for."""
  asked = []

  class Handler(http.server.BaseHTTPRequestHandler):
    hosts = 'a,b'

    def do_GET(self):
      asked.append((self.path, self.headers['Metadata-Flavor']))
      self.send_response(200 if self.hosts else 404)
      self.end_headers()
      self.wfile.write(self.hosts.encode())

    def log_message(self, *_):
      pass

  server = http.server.ThreadingHTTPServer(('127.0.0.1', 0), Handler)
  thread = threading.Thread(target=server.serve_forever)
  thread.start()
  monkeypatch.setenv('GCE_METADATA_IP', f'127.0.0.1:{server.server_port}')
  yield Handler, asked
  server.shutdown()
  thread.join()
  server.server_close()


def test_a_pod_slice_of_google_cloud(tpu, metadata, environment):
  handler, asked = metadata
  assert find_launch() == Launch('a TPU pod slice', None, None, 2, False)
  path = '/computeMetadata/v1/instance/attributes/worker-network-endpoints'
  assert asked == [(path, 'Google')]
  environment(TPU_WORKER_ID='1')
  assert find_launch().index == 1
  handler.hosts = 'a'
  assert find_launch() is None
  environment(MEGASCALE_NUM_SLICES='2')
  assert find_launch().count == 2
  handler.hosts = ''
  environment(MEGASCALE_NUM_SLICES='1')
  assert find_launch() is None


def test_nobody_is_asked_where_it_is_known(
  tpu, metadata, environment, monkeypatch
):
  # Kubernetes.
  environment(TPU_WORKER_HOSTNAMES='a,b,c,d', TPU_WORKER_ID='2')
  assert find_launch() == Launch('a TPU pod slice', None, 2, 4, False)
  # No platforms are all platforms.
  environment(JAX_PLATFORMS='')
  assert find_launch().count == 4
  environment(TPU_WORKER_HOSTNAMES='localhost')
  assert find_launch() is None
  environment(TPU_WORKER_HOSTNAMES=None, JAX_PLATFORMS='cpu')
  assert find_launch() is None
  environment(JAX_PLATFORMS=None, TPU_SKIP_MDS_QUERY='1')
  assert find_launch() is None
  environment(TPU_SKIP_MDS_QUERY=None)
  with monkeypatch.context() as patch:
    patch.setattr(_launchers, '_has_libtpu', lambda: False)
    assert find_launch() is None
  tpu.unlink()
  assert find_launch() is None
  assert not metadata[1]


def test_a_server_that_is_not_there_costs_no_time(tpu, environment):
  environment(GCE_METADATA_IP='127.0.0.1:9')
  assert find_launch() is None


@pytest.fixture
def arguments():
  """What JAX is told, with flags."""
  if not flags.FLAGS.is_parsed():
    flags.FLAGS.mark_as_parsed()

  def arguments(**values):
    with flagsaver.flagsaver(**values):
      return _processes._arguments()

  return arguments


def test_what_jax_is_told(tpu, arguments, environment):
  environment(TPU_WORKER_HOSTNAMES='a')
  assert arguments() is None
  assert arguments(multihost=True)[0] == {}
  environment(SLURM)
  told, text = arguments()
  assert told == {
    'cluster_detection_method': 'slurm',
    'num_processes': 4,
    'process_id': 3,
    'local_device_ids': [1],
  }
  assert text == 'process 3 of 4 (SLURM) waits for the others'
  assert arguments(multihost=False) is None
  # All GPUs of the host, which JAX would take for those of others.
  environment(SLURM_STEP_NUM_NODES='4')
  assert arguments()[0]['local_device_ids'] == []
  environment(JAX_LOCAL_DEVICE_IDS='0,1')
  assert 'local_device_ids' not in arguments()[0]
  # JAX itself finds the hosts of pod slices.
  environment(TPU_WORKER_HOSTNAMES='a,b', SLURM_STEP_NUM_TASKS='1')
  assert arguments()[0] == {}


def test_flags_come_first_and_launchers_complete_them(arguments, environment):
  environment(OPEN_MPI)
  assert arguments(coordinator='h:1')[0] == {
    'coordinator_address': 'h:1',
    'num_processes': 2,
    'process_id': 1,
    'local_device_ids': [],
  }
  given = {'coordinator': 'h:1', 'num_processes': 9, 'process_id': 5}
  assert arguments(**given)[0]['process_id'] == 5
  # Version 5 does not say where to meet.
  environment(OMPI_MCA_orte_hnp_uri=None)
  with pytest.raises(UsageError, match='add --coordinator=HOST:PORT'):
    arguments()
  assert arguments(multihost=False) is None
  assert arguments(coordinator='h:1')[0]['process_id'] == 1


def test_which_gpus_a_process_takes_at_a_given_address(arguments, environment):
  """JAX would give each the one of its number, or all to each."""
  given = {'coordinator': 'h:1', 'num_processes': 2, 'process_id': 1}

  def ids(**values):
    return arguments(**values)[0].get('local_device_ids')

  # By hand: all, also in a shell of SLURM, which tells a number there, too.
  assert ids(**given) == []
  environment(SLURM, SLURM_STEP_NUM_TASKS='1', SLURM_LOCALID='0')
  assert ids(**given) == []
  environment(SLURM)
  assert ids(coordinator='h:1') == [1]
  environment(SLURM_STEP_NUM_NODES='4')
  assert ids(coordinator='h:1') == []
  # Open MPI 5.
  environment(
    OPEN_MPI, OMPI_MCA_orte_num_nodes=None, OMPI_MCA_orte_hnp_uri=None
  )
  assert ids(coordinator='h:1') == []
  environment(OMPI_COMM_WORLD_LOCAL_SIZE='2', OMPI_COMM_WORLD_LOCAL_RANK='1')
  assert ids(coordinator='h:1') == [1]
  environment(JAX_LOCAL_DEVICE_IDS='3')
  assert ids(coordinator='h:1') is None


def test_flags_that_contradict_each_other(arguments):
  pair = {'num_processes': 2, 'process_id': 1}
  for values, message in (
    ({'num_processes': 2}, 'must be given together'),
    ({'coordinator': 'h:1', 'process_id': 1}, 'must be given together'),
    ({'multihost': False, 'coordinator': 'h:1'}, 'contradict each other'),
    ({'join_timeout': 0.0}, r'--join_timeout is 0.0; expected above 0'),
    ({'peer_timeout': -1.0}, '--peer_timeout is -1.0'),
    ({'coordinator': 'h:65536', **pair}, 'a port from 1 to 65535'),
    ({'coordinator': 'h:0', **pair}, 'is h:0; expected'),
    ({'coordinator': 'h:1', **pair, 'process_id': 2}, '--process_id is 2'),
  ):
    with pytest.raises(UsageError, match=message):
      arguments(**values)


@pytest.mark.parametrize(
  ('index', 'first'), [(None, True), ('0', True), ('1', False), ('x', True)]
)
def test_one_of_them_prints(environment, monkeypatch, index, first):
  environment(SLURM, SLURM_PROCID=index)
  # A program that takes no notice of others prints what is wrong in each.
  monkeypatch.setattr(_processes, '_of_several', False)
  assert _processes.is_first()
  _processes.expect_several()
  assert _processes.is_first() is first
  with flagsaver.flagsaver(multihost=False):
    assert _processes.is_first()
  # Where the flags could not be read.
  monkeypatch.setattr(sys, 'argv', ['train', '--nomultihost', '--confg=x'])
  assert _processes.is_first()


def test_a_program_that_refuses_others_says_it_once(
  arguments, environment, monkeypatch
):
  monkeypatch.setattr(_processes, '_of_several', False)
  _processes.refuse_several('gradcam')
  environment(SLURM)
  with pytest.raises(UsageError, match='gradcam runs in one process, not in'):
    _processes.refuse_several('gradcam')
  assert not _processes.is_first()
  with flagsaver.flagsaver(multihost=False):
    _processes.refuse_several('gradcam')
    assert _processes.is_first()
