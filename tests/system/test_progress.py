"""What the user sees while a run goes on."""

import io

from lra.system import progress


def test_reports_come_at_most_once_a_second(monkeypatch):
  clock, said = iter([0.0, 0.0, 0.5, 1.0, 1.0, 1.9, 2.1, 2.1]), []
  monkeypatch.setattr(progress.time, "monotonic", lambda: next(clock))
  say = progress.once_a_second(said.append)
  for text in "abcde":
    say(text)
  assert said == ["a", "c", "e"]


def test_lines_that_end_with_a_newline_stay():
  out = io.StringIO()
  shown = progress.Progress(out)
  for text in ("working", "still working", "odd, so taken from there\n", "working on"):
    shown.live(text)
  assert out.getvalue() == "working\nodd, so taken from there\n"
