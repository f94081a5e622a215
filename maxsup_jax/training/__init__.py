"""Training: the step, the loop, and what they write. It knows no task.

Import what you need from its modules, such as `maxsup_jax.training.step`.

  task                                       what training knows of a task
  durations, schedules, optimizers, config   what a run card says
  state, step, parallel, sums                what the devices compute
  checkpoints, workdir, tensorboard, clock   what is written
  evaluation, run, loop, signals             what puts them together
  agreement, peers                           what processes tell each other
"""
