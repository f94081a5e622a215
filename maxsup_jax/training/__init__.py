"""Training: from a configuration to checkpoints and metrics.

Import what you need from its modules, such as `maxsup_jax.training.steps`; so
that the steps alone can be used where neither tfds nor grain is installed.

  durations, schedules, optimizers, config   what a run card says
  state, metrics, steps, parallel            what the devices compute
  checkpoints, workdir, tensorboard, clock   what is written
  evaluation, diagnostics, extraction, npz   what is measured of a state
  setup, loop, signals                       what puts them together
"""
