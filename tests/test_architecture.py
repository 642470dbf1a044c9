"""Imports go one way, from room to room, and some libraries are known in one place alone."""

import ast
import graphlib
import re

import pytest

import tiny

# Room -> the rooms it imports from. A module is in the room with the longest name that begins its own.
ALLOWED = {
  "configs": set(),
  "models": set(),
  "lra.system": set(),
  "lra.data.tasks": {"lra.system", "lra.data"},
  "lra.data": {"lra.system", "lra.data.tasks"},
  "lra.training": {"configs", "lra.system", "lra.data", "lra.data.tasks", "models"},
  "lra.runs": {"configs", "lra.system", "lra.data", "lra.training", "models"},
  "lra.reporting": {"configs", "lra.system", "lra.data", "lra.runs", "models"},
  "lra.sweeps": {"configs", "lra.system", "lra.data.tasks", "lra.runs", "models", "train"},
  "train": {"lra.system", "lra.training", "lra.runs"},
}
# Library -> where it may be imported.
ONLY = {
  "orbax": "lra.training.checkpoint",
  "tensorboardX": "lra.runs.event_file",
  "matplotlib": "lra.reporting.pictures",
  "submitit": "lra.sweeps.launch",
}
# These never import them, nor anything that does.
WITHOUT = {"lra.data.tasks": {"jax", "flax"}, "lra.data.store": {"jax"}, "configs": {"jax"}}


def modules():
  """Name -> (path, names it imports anywhere, names it imports when it is imported)."""
  found = {}
  for path in sorted(
    [*tiny.ROOT.glob("lra/**/*.py"), *tiny.ROOT.glob("models/**/*.py"), tiny.ROOT / "train.py"]
    + [*tiny.ROOT.glob("configs/**/*.py")]
  ):
    parts = path.relative_to(tiny.ROOT).with_suffix("").parts
    name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
    tree = ast.parse(path.read_text())
    found[name] = path, set(imports(ast.walk(tree))), set(imports(tree.body))
  return found


def imports(nodes):
  """Full names of what import statements among `nodes` take."""
  for node in nodes:
    if isinstance(node, ast.Import):
      yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
      assert not node.level, "relative imports hide where a module is"
      yield from (f"{node.module}.{alias.name}" for alias in node.names)


MODULES = modules()


def room(name):
  """The room of a module, or None for a library."""
  fits = [r for r in ALLOWED if name == r or name.startswith(f"{r}.")]
  return max(fits, key=len, default=None)


def module(name):
  """The project's module that an imported name is or is in, or None."""
  while name and name not in MODULES:
    name = name.rpartition(".")[0]
  return name or None


def inside(name, place):
  return name == place or name.startswith(f"{place}.")


def test_every_module_is_in_a_room():
  assert [name for name in MODULES if room(name) is None] == ["lra"]


def test_the_table_of_edges_is_what_modules_import():
  taken = {name: set() for name in ALLOWED}
  for name, (_, everywhere, _) in MODULES.items():
    if name != "lra":
      taken[room(name)] |= {room(imported) for imported in everywhere} - {None, room(name)}
  assert taken == ALLOWED


def test_rooms_have_no_circle():
  """But for the tasks, which are inside the data room."""
  within = lambda a, b: inside(a, b) or inside(b, a)
  edges = {r: {a for a in allowed if not within(r, a)} for r, allowed in ALLOWED.items()}
  edges["lra.sweeps"] -= {"train"}  # the script, for a debugger
  assert list(graphlib.TopologicalSorter(edges).static_order())


def test_modules_have_no_circle():
  graph = {
    name: {m for i in everywhere if (m := module(i)) not in (None, name)}
    for name, (_, everywhere, _) in MODULES.items()
  }
  # A package's __init__ imports what is in it, which may import its siblings, not the package.
  assert list(graphlib.TopologicalSorter(graph).static_order())


@pytest.mark.parametrize("library", ONLY)
def test_library_is_known_in_one_place(library):
  users = [n for n, (_, names, _) in MODULES.items() if any(inside(i, library) for i in names)]
  assert users and all(inside(name, ONLY[library]) for name in users)


@pytest.mark.parametrize("place", WITHOUT)
def test_library_is_never_imported(place):
  """Not through other modules either, as far as these are loaded on import."""
  reached, todo = set(), [n for n in MODULES if inside(n, place)]
  assert todo
  while todo:
    name = todo.pop()
    if name in reached:
      continue
    reached.add(name)
    names = MODULES[name][2]
    wrong = {i for i in names if any(inside(i, library) for library in WITHOUT[place])}
    assert not wrong, f"{name} imports {wrong}"
    todo += [m for i in names if (m := module(i))]


@pytest.mark.parametrize("name", [r for r in ALLOWED if r.startswith("lra.") and r.count(".") == 1])
def test_room_says_what_it_owns(name):
  text = ast.get_docstring(
    ast.parse((tiny.ROOT / name.replace(".", "/") / "__init__.py").read_text())
  )
  assert "\nOwns: " in text and "\nMust not know: " in text


def test_source_files_are_packages_all_the_way():
  """An ignored or forgotten __init__.py works until somebody installs or zips the project."""
  folders = {path.parent for name, (path, *_) in MODULES.items() if inside(name, "lra")}
  assert all((folder / "__init__.py").exists() for folder in folders)


@pytest.mark.parametrize(
  "page", ["README.md", *(f"docs/{p.name}" for p in tiny.ROOT.glob("docs/*.md"))]
)
def test_files_that_a_page_names_are_there(page):
  text, folder = (tiny.ROOT / page).read_text(), (tiny.ROOT / page).parent
  links = {folder / link for link in re.findall(r"\]\(([^)#:]+)[)#]", text)}
  named = {
    tiny.ROOT / name for name in re.findall(r"`((?:lra|tests|configs/lra)/[\w/]+\.py)`", text)
  }
  missing = {path for path in links | named if not path.exists()}
  assert missing <= {tiny.ROOT / "models/attention/relu.py"}  # the one that a page tells to write
