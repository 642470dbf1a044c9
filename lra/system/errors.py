"""The one exception whose text is written for the person at the keyboard."""


class UserError(Exception):
  """Something the user can mend. The message is one line: the cause, then the fix."""
