"""The report: one page that holds everything, escapes everything and loads nothing."""

import base64
import subprocess
import sys
from html.parser import HTMLParser

import pytest

import drawn
import handmade
import scripts.report
import tiny
from lra.reporting import accuracy_table, html_page, run_record
from lra.system.errors import UserError

VOID = {"meta", "img"}


class Page(HTMLParser):
  """Checks that tags close in order; keeps text and attributes."""

  def __init__(self, html):
    super().__init__()
    self.open, self.text, self.attributes, self.tags = [], [], [], []
    self.feed(html)
    self.close()
    assert self.open == []

  def handle_starttag(self, tag, attrs):
    self.tags.append(tag)
    self.attributes += [(tag, key, value) for key, value in attrs]
    if tag not in VOID:
      self.open.append(tag)

  def handle_endtag(self, tag):
    assert self.open.pop() == tag

  def handle_data(self, data):
    self.text.append(data)


def made(records, shown=None):
  html = html_page.page(records, accuracy_table.tables(records), shown or {})
  return html, Page(html)


def test_page_holds_every_number_and_how_to_repeat_it():
  records = drawn.full(tasks=("text", "image"))
  html, page = made(records)
  text = "\n".join(page.text)
  for r in records:
    assert r["command"] in text
    assert ("code", "title", r["data"]["digest"]) in page.attributes
    assert ("code", "title", r["environment"]["revision"]) in page.attributes
    assert f"{100 * r['test']['accuracy']:.2f}" in text
  (made_table,) = accuracy_table.tables(records)
  for row in made_table.rows:
    for score in row.cells.values():
      assert f"{score.mean:.2f} ± {score.std:.2f}" in text
  for part in ("2 CPU cores", "Python 3.11.0, jax 0.10.2", "published: cosFormer", "18 runs"):
    assert part in text, part


def test_page_loads_nothing():
  svg = b'<svg xmlns="http://www.w3.org/2000/svg"/>'
  html, page = made(drawn.full(tasks=("text",)), {"a < b": (svg, ".svg"), "c": (b"png", ".png")})
  sources = [v for _, key, v in page.attributes if key in ("src", "href", "srcset", "data")]
  assert len(sources) == 2 and all(v.startswith("data:image/") for v in sources)
  assert base64.b64decode(sources[0].partition(",")[2]) == svg
  assert not {"script", "link", "iframe", "object", "base"} & set(page.tags)
  assert "http" not in html and "url(" not in html and "@import" not in html
  assert ("img", "alt", "a < b") in page.attributes


def test_everything_is_escaped():
  evil = '<script>alert("1")</script>&amp;'
  records = drawn.full(("softmax",), tasks=("text",), seeds=(0,))
  environment = records[0]["environment"]
  changes = {
    "command": f"python {evil}",
    "attention": evil,
    "overrides": {"model.x": evil, "task.y": evil},
    "baselines": {evil: 0.5},
    "preset": evil,
    "data": {"digest": evil, "origin": evil},
    "environment": environment
    | {"device": evil, "platform": evil, "revision": evil, "packages": {evil: evil}},
  }
  html, page = made([records[0] | changes], {evil: (b"", ".png")})
  assert "script" not in page.tags and evil not in html
  assert f"python {evil}" in page.text


def test_pictures_are_read_or_refused(tmp_path):
  (tmp_path / "a.PNG").write_bytes(b"1")
  assert html_page.read_picture(tmp_path / "a.PNG") == (b"1", ".png")
  with pytest.raises(UserError, match="neither PNG nor SVG"):
    html_page.read_picture(tmp_path / "a.pdf")
  with pytest.raises(UserError, match="cannot read the picture"):
    html_page.read_picture(tmp_path / "b.svg")


def script(*arguments):
  command = [sys.executable, "scripts/report.py", *map(str, arguments)]
  return subprocess.run(command, cwd=tiny.ROOT, capture_output=True, text=True)


def test_script_writes_a_page_from_a_run_directory(tmp_path):
  given = handmade.arguments("listops", "cosformer", 0)
  handmade.run_folder(tmp_path / "run", *given)
  done = script(tmp_path, "--out", tmp_path / "new" / "report.html")
  assert done.returncode == 0, done.stderr
  html = (tmp_path / "new" / "report.html").read_text()
  page = Page(html)
  record = run_record.make(tmp_path / "run")
  assert record["command"] in page.text
  images = [v for tag, key, v in page.attributes if (tag, key) == ("img", "src")]
  assert len(images) == 2 and all(v.startswith("data:image/svg+xml;base64,") for v in images)
  assert str(tmp_path) not in html


@pytest.mark.parametrize("folder, answer", [("", "nothing to report in"), ("gone", "there is no")])
def test_nothing_to_report_is_one_line(tmp_path, monkeypatch, folder, answer):
  out = tmp_path / "report.html"
  monkeypatch.setattr(sys, "argv", ["report.py", str(tmp_path / folder), "--out", str(out)])
  with pytest.raises(UserError, match=answer) as raised:
    scripts.report.main()
  assert "\n" not in str(raised.value) and not out.exists()
