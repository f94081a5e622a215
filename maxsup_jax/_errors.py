"""The one exception that means: the user's input is wrong."""


class UsageError(ValueError):
  """Something the user passed in cannot be used; the message is one line.

  The command-line programs print the message alone and exit with code 2. Any
  other exception is a fault of the program and keeps its traceback.
  """
