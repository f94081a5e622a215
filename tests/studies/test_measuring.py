"""What a study measures of a run, against other ways to the same numbers."""

import json

import numpy as np
import pytest

from configs import study_digits
from maxsup_jax import outputs, tasks
from maxsup_jax.studies import measuring, running
from maxsup_jax.studies.measures import MEASURES
from maxsup_jax.studies.study import directory
from maxsup_jax.training.signals import StopRequest
from tests.diagnostics.reference import log_softmax  # noqa: F401
