"""Reads the pickles of CIFAR-10 and of arrays like theirs without running what is in them.

Python's own unpickler, in its Python form, less every operation that a dict of bytes, numbers, lists
and uint8 arrays does without. Memory and time stay in proportion to the bytes: no callable is called
but those below, nothing but text and numbers is a key, and text is encoded once.
"""

import io
import pickle
from typing import Any

import numpy as np

FUNCTIONS = {
  ("numpy", "ndarray"): "ndarray",
  ("numpy", "dtype"): "dtype",
  ("numpy.core.multiarray", "_reconstruct"): "_reconstruct",
  ("numpy._core.multiarray", "_reconstruct"): "_reconstruct",
  ("_codecs", "encode"): "encode",  # how Python 3 writes bytes in protocol 2
}
OPERATIONS = (
  *("PROTO", "FRAME", "STOP", "MARK", "POP", "NONE", "NEWTRUE", "NEWFALSE"),
  *("INT", "BININT", "BININT1", "BININT2", "LONG1", "STRING", "BINSTRING", "SHORT_BINSTRING"),
  *("BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "UNICODE", "BINUNICODE", "SHORT_BINUNICODE"),
  *("EMPTY_LIST", "APPEND", "APPENDS", "LIST", "EMPTY_DICT", "SETITEM", "SETITEMS", "DICT"),
  *("EMPTY_TUPLE", "TUPLE", "TUPLE1", "TUPLE2", "TUPLE3", "GLOBAL", "STACK_GLOBAL"),
  *("GET", "BINGET", "LONG_BINGET", "PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE", "REDUCE", "BUILD"),
)


def load(data: bytes) -> Any:
  """The object in a pickle. Raises UnpicklingError, or whatever Python's unpickler does."""
  made = _Unpickler(data).load()
  if not isinstance(made, dict):
    raise pickle.UnpicklingError("it is no dictionary")
  return {key: value.value if isinstance(value, _Array) else value for key, value in made.items()}


class _Dtype:
  """Stands for numpy.dtype("u1"); raises UnpicklingError for any other."""

  def __init__(self, spec: Any, *_: Any) -> None:
    if spec not in ("u1", b"u1"):
      raise pickle.UnpicklingError("it has an array that is not uint8")


class _Array:
  """Stands for an array until its state comes, and then holds it as `value`."""

  value: np.ndarray | None = None

  def build(self, _: Any, shape: Any, dtype: Any, fortran: Any, raw: Any) -> None:
    if not isinstance(dtype, _Dtype):
      raise pickle.UnpicklingError("it has an array without a type")
    order = "F" if fortran else "C"
    self.value = np.frombuffer(raw, np.uint8).reshape(shape, order=order)


class _Unpickler(pickle._Unpickler):
  def __init__(self, data: bytes) -> None:
    super().__init__(io.BytesIO(data), encoding="bytes")
    self._left = len(data)  # characters that may still be encoded

  def find_class(self, module: str, name: str) -> str:
    if (module, name) not in FUNCTIONS:
      raise pickle.UnpicklingError(f"it asks for {module}.{name}")
    return FUNCTIONS[module, name]

  def load_reduce(self) -> None:
    arguments, function = self.stack.pop(), self.stack.pop()
    if function == "_reconstruct":
      self.stack.append(_Array())
    elif function == "dtype":
      self.stack.append(_Dtype(*arguments))
    elif function == "encode" and arguments[1:] == ("latin1",):
      self._left -= len(arguments[0])
      if self._left < 0:
        raise pickle.UnpicklingError("it encodes the same text again and again")
      self.stack.append(arguments[0].encode("latin1"))
    else:
      raise pickle.UnpicklingError("it calls what is no function")

  def load_build(self) -> None:
    state = self.stack.pop()
    if isinstance(self.stack[-1], _Array):
      self.stack[-1].build(*state)
    elif not isinstance(self.stack[-1], _Dtype):  # whose state is its byte order
      raise pickle.UnpicklingError("it sets the state of what has none")

  def load_setitem(self) -> None:
    _check_keys(self.stack[-2:-1])
    super().load_setitem()

  def load_setitems(self) -> None:
    _check_keys(self.stack[::2])
    super().load_setitems()

  def load_dict(self) -> None:
    _check_keys(self.stack[::2])
    super().load_dict()

  dispatch = {}
  for _name in OPERATIONS:
    _code = getattr(pickle, _name)[0]
    dispatch[_code] = pickle._Unpickler.dispatch[_code]
  dispatch |= {
    pickle.REDUCE[0]: load_reduce,
    pickle.BUILD[0]: load_build,
    pickle.SETITEM[0]: load_setitem,
    pickle.SETITEMS[0]: load_setitems,
    pickle.DICT[0]: load_dict,
  }


def _check_keys(keys: list[Any]) -> None:
  """To hash a tuple of tuples can take for ever."""
  if any(type(key) not in (bytes, str, int) for key in keys):
    raise pickle.UnpicklingError("a key is neither text nor a number")
