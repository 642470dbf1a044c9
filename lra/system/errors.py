"""`UserError`, the exception for everything that the user can mend."""


class UserError(Exception):
  """An obstacle that the user can mend; the message is one line: the cause, then the fix."""
