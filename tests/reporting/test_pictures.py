"""Pictures of records: the numbers they show, that their files open, what they refuse."""

import json
import statistics
import subprocess
import sys
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

import drawn
import scripts.plot
import tiny
from handmade import ENVIRONMENT
from lra.reporting import accuracy_table, grouping, pictures, run_record
from lra.reporting.pictures import bubbles, curves, series, style
from lra.system.errors import UserError


def opens(files):
  """Whether PNG and SVG can be read back, the SVG without anything from elsewhere."""
  png, svg = files
  picture = Image.open(png)
  picture.load()
  assert min(picture.size) > 300 and len(np.unique(np.asarray(picture))) > 10
  for element in ElementTree.parse(svg).iter():
    for key, value in element.attrib.items():
      if key.endswith("href"):
        assert value.startswith(("#", "data:")), value


def test_average_is_the_tables_and_speed_is_the_geometric_mean():
  records = drawn.full()
  points, shared = series.average_points(records)
  assert shared == list(grouping.TASKS)
  (made,) = accuracy_table.tables(records)
  for point, row in zip(points, made.rows, strict=True):
    assert point.attention == row.attention
    assert point.accuracy == pytest.approx(row.average.mean)
    assert point.std == pytest.approx(row.average.std)
  speeds = [drawn.SPEED["softmax"] * (1 + 0.3 * i) for i in range(5)]
  assert points[0].speed == pytest.approx(statistics.geometric_mean(speeds))
  assert points[0].gigabytes == pytest.approx(6.0 * 1.4)


def test_a_mechanism_that_lacks_tasks_is_no_part_of_the_average():
  records = [*drawn.full(("softmax", "cosformer")), *drawn.full(("linear",), tasks=("text",))]
  points, shared = series.average_points(records)
  assert [p.attention for p in points] == ["softmax", "cosformer"] and len(shared) == 5
  assert [p.attention for p in series.task_points(records, "text")] == list(drawn.SPEED)
  assert series.average_points(drawn.full(tasks=("pathx",))) == ([], [])


def test_bands_are_means_over_seeds():
  records = drawn.full(("softmax",), tasks=("text",))
  (band,) = series.bands(records, "validation", "accuracy")
  columns = np.array([r["curve"]["validation"]["accuracy"] for r in records])
  np.testing.assert_allclose(band.mean, 100 * columns.mean(0))
  np.testing.assert_allclose(band.std, 100 * columns.std(0, ddof=1))
  (one,) = series.bands(records[:1], "train", "loss")
  assert one.std is None and list(one.mean) == records[0]["curve"]["train"]["loss"]


def test_seeds_with_other_steps_are_interpolated():
  first, second = drawn.full(("softmax",), seeds=(0, 1), tasks=("text",))
  line = lambda steps: {"step": steps, "loss": [s / 10 for s in steps], "accuracy": steps}
  first["curve"], second["curve"] = {"train": line([10, 20, 30])}, {"train": line([15, 30, 45])}
  (band,) = series.bands([first, second], "train", "loss")
  assert band.step.tolist() == [15, 20, 30]
  np.testing.assert_allclose(band.mean, [1.5, 2, 3])
  np.testing.assert_allclose(band.std, 0, atol=1e-12)


def test_exponent_of_a_power_law(tmp_path):
  files = []
  for name, exponent in (("softmax", 2.0), ("cosformer", 1.0)):
    files.append(tmp_path / f"{name}.json")
    files[-1].write_text(json.dumps(drawn.scaling(exponent)))
  found = series.read_scaling(files)
  assert [g.name for g in found["seconds"]] == ["softmax", "cosformer"]
  assert [g.exponent for g in found["seconds"]] == pytest.approx([2, 1])
  assert found["peak_bytes"][0].exponent == pytest.approx(1)
  opens(style.write(curves.scaling(found), tmp_path / "scaling"))


@pytest.mark.parametrize("text", ["", "{}", "[]", '[{"n": 1}]', '[{"n": 1, "seconds": 1}]', "[1]"])
def test_other_files_than_those_of_the_benchmark_are_one_line(tmp_path, text):
  (tmp_path / "a.json").write_text(text)
  with pytest.raises(UserError, match="a.json is not what scripts/benchmark.py"):
    series.read_scaling([tmp_path / "a.json"])
  with pytest.raises(UserError, match="there is no"):
    series.read_scaling([tmp_path / "b.json"])


def test_every_mechanism_has_a_look_of_its_own():
  others = [("cosformer", f"reweight={i}") for i in range(10)]
  keys = [("softmax", ""), ("linear", ""), ("cosformer", ""), ("new", ""), *others]
  found = style.looks(keys)
  assert len(set(map(str, found.values()))) == len(keys)
  assert style.looks([("cosformer", "")])["cosformer", ""] == found["cosformer", ""]


def test_presets_and_devices_have_pictures_of_their_own(tmp_path):
  gpu = ENVIRONMENT | {"device": "NVIDIA H100"}
  one, two = ("softmax",), ("text",)
  records = [
    *drawn.full(one, tasks=two),
    *drawn.full(one, tasks=two, preset="default"),
    *drawn.full(one, tasks=two, preset="default", environment=gpu),
  ]
  names = list(pictures.of_records(records))
  assert len(names) == 6
  assert "curves-default-1-x-NVIDIA-H100-text" in names
  assert list(pictures.of_records(records[:3])) == ["speed-quick", "curves-quick-text"]
  assert pictures.of_records([]) == {}


def test_legend_is_as_wide_as_the_figure_at_most():
  maps = ("identity", "leaky_relu", "relu")
  named = lambda m: {"model.attention_options.feature_map": m, "optim.warmup_steps": 300}
  records = drawn.full(tasks=("text",), seeds=(0,))
  for m in maps:
    records += drawn.full(("cosformer",), tasks=("text",), seeds=(0,), overrides=named(m))
  figure = curves.training(records, "preset quick, on 1 x 2 CPU cores")
  figure.draw_without_rendering()
  (legend,) = figure.legends
  box = legend.get_window_extent()
  assert len(legend.get_texts()) == 7 and 0 < box.x0 < box.x1 < figure.bbox.width


def test_many_rows_leave_the_axes_their_room():
  records = []
  for i in range(24):
    more = {"model.attention_options.reweight": f"{i}", "optim.warmup_steps": 300}
    records += drawn.full(("cosformer",), tasks=("text",), seeds=(0,), overrides=more)
  few = curves.training(records[:1], "one row")
  for figure in (few, many := curves.training(records, "24 rows")):
    figure.draw_without_rendering()
  heights = [figure.axes[0].get_window_extent().height for figure in (few, many)]
  assert len(many.axes[0].lines) == 25 and heights[1] > 0.8 * heights[0]


def test_legend_names_every_bubble_and_its_values():
  figure = bubbles.speed(drawn.full(tasks=("text",), seeds=(0,)), "one task")
  figure.draw_without_rendering()
  texts = [t.get_text() for t in figure.legends[0].get_texts()]
  scores = [100 * (0.4 + drawn.GAIN[a]) for a in drawn.SPEED]
  memory = drawn.MEMORY.values()
  names = ("softmax", "linear", "cosFormer")
  wanted = zip(names, scores, memory, strict=True)
  assert texts == [f"{name}\n{score:.1f} %, {gb:.1f} GB" for name, score, gb in wanted]


def test_the_same_picture_is_the_same_file():
  figures = [bubbles.speed(drawn.full(), "x") for _ in range(2)]
  for format in style.FORMATS:
    a, b = (style.encode(figure, format) for figure in figures)
    assert a == b


def plot(*arguments):
  script = [sys.executable, "scripts/plot.py", *map(str, arguments)]
  return subprocess.run(script, cwd=tiny.ROOT, capture_output=True, text=True)


def test_script_draws_a_folder_of_records(tmp_path):
  for r in drawn.full(tasks=("text", "image"), seeds=(0, 1)):
    run_record.write(r | {"sha256": run_record.digest(r)}, tmp_path / "results")
  (tmp_path / "linear.json").write_text(json.dumps(drawn.scaling(1.0)))
  out = tmp_path / "out"
  done = plot(tmp_path / "results", "--out", out, "--scaling", tmp_path / "linear.json")
  assert done.returncode == 0, done.stderr
  names = {"speed-quick", "speed-tasks-quick", "curves-quick-text", "curves-quick-image", "scaling"}
  assert {p.stem for p in out.iterdir()} == names and len(list(out.iterdir())) == 10
  for name in names:
    opens((out / f"{name}.png", out / f"{name}.svg"))


def test_nothing_to_draw_is_one_line(tmp_path, monkeypatch):
  done = plot(tmp_path)
  assert done.returncode == 1 and done.stdout == ""
  assert done.stderr.count("\n") == 1 and done.stderr.startswith("error: nothing to draw in")
  monkeypatch.setattr(sys, "argv", ["plot.py", str(tmp_path / "gone")])
  with pytest.raises(UserError, match="there is no"):
    scripts.plot.main()
