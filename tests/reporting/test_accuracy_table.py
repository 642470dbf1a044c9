"""The accuracy table: its arithmetic, what it refuses to mix, its formats, the README's copy."""

import csv
import io
import json
import math
import sys

import numpy as np
import pytest
from scipy import stats

import tiny
from handmade import ENVIRONMENT, record
from lra.reporting import (
  accuracy_table,
  grouping,
  run_record,
  significance,
  table_formats,
  table_text,
)
from lra.system.errors import UserError
from scripts import make_table

ACCURACY = {"softmax": (0.50, 0.51, 0.49), "cosformer": (0.52, 0.535, 0.511)}
DIGESTS = {task: task * 3 for task in grouping.TASKS}


def full(attentions=("softmax", "cosformer"), seeds=(0, 1, 2), **changes):
  """Records of every task."""
  return [
    record(t, a, s, ACCURACY[a][s] + i / 100, data={"digest": DIGESTS[t]}, **changes)
    for i, t in enumerate(grouping.TASKS)
    for a in attentions
    for s in seeds
  ]


def only(records, **options):
  (made,) = accuracy_table.tables(records, **options)
  return made


def test_mean_deviation_and_average():
  made = only(full())
  softmax, cosformer = made.rows
  assert (softmax.attention, cosformer.attention) == ("softmax", "cosformer")
  assert softmax.cells["listops"].mean == pytest.approx(50)
  assert softmax.cells["listops"].std == pytest.approx(1)
  assert softmax.average.by_seed == pytest.approx({0: 52, 1: 53, 2: 51})
  assert softmax.average.mean == pytest.approx(52) and softmax.average.std == pytest.approx(1)
  assert made.baselines["text"] == ("mode given the root operator", 20)


def test_average_needs_all_five_tasks_and_a_deviation_needs_paired_seeds():
  assert only([r for r in full() if r["task"] != "image"]).rows[0].average is None
  fewer = [r for r in full() if (r["task"], r["seed"]) != ("image", 2)]
  average = only(fewer).rows[0].average
  assert average.std is None
  assert average.mean == pytest.approx((50 + 51 + 52 + 53.5 + 54) / 5)
  one = only(full(seeds=(0,))).rows[0]
  assert one.average.std is None and one.cells["text"].std is None


def test_published_averages_are_those_of_their_rows():
  for figures in accuracy_table.PUBLISHED.values():
    mean = sum(figures[task] for task in grouping.TASKS) / len(grouping.TASKS)
    assert mean == pytest.approx(figures["average"], abs=0.0051)


def test_significance_is_the_paired_t_test_with_holms_correction():
  found = only(full()).differences
  assert [d.task for d in found] == [*grouping.TASKS, "average"]
  a, b = ACCURACY["softmax"], ACCURACY["cosformer"]
  p = stats.ttest_rel(b, a).pvalue
  for d in found:
    assert d.seeds == (3,) and d.mean == pytest.approx(100 * (sum(b) - sum(a)) / 3)
    assert d.p == pytest.approx(min(1, 6 * p))  # the same p six times


def test_holm_does_not_let_a_larger_p_become_the_smaller():
  gaps = {"listops": 0.001, "text": 0.01, "retrieval": 0.02}
  records = [
    record(task, a, s, 0.5 + (a == "linear") * (0.1 + s * gap), data={"digest": task})
    for task, gap in gaps.items()
    for a in ("softmax", "linear")
    for s in range(3)
  ]
  found = {d.task: d.p for d in only(records).differences}
  raw = {t: significance.paired([10, 10 + 100 * gap, 10 + 200 * gap]) for t, gap in gaps.items()}
  assert found["listops"] == pytest.approx(3 * raw["listops"])
  assert found["text"] == pytest.approx(2 * raw["text"])
  assert found["retrieval"] == pytest.approx(max(raw["retrieval"], 2 * raw["text"]))


def test_no_p_without_variance_and_no_difference_of_single_runs():
  assert significance.paired([1.0, 1.0, 1.0]) is None
  assert significance.paired([0.0, 0.0]) is None
  assert significance.unpaired([1.0, 1.0], [2.0, 2.0]) is None
  assert 0 < significance.paired([1.0, 1.1]) < 1
  make = lambda a, s, x: record("text", a, s, x)
  alone = [make("softmax", 0, 0.5), make("linear", 0, 0.6)]
  assert only(alone).differences == ()
  assert "no two mechanisms have two seeds each" in table_formats.markdown([only(alone)])
  shifted = [
    make(a, s, 0.5 + s / 8 + (a == "linear") / 4) for a in ("softmax", "linear") for s in (0, 1)
  ]
  text = table_formats.markdown([only(shifted)])
  assert "| +25.00 (no p, 2) |" in text and "nothing to test, no difference varies." in text


def test_p_values_are_those_of_the_textbook():
  """Student's test of the differences; Welch's with Satterthwaite's degrees of freedom."""
  p = lambda t, freedom: 2 * stats.t.sf(abs(t), freedom)
  gaps = np.array([1.0, 2.0, 4.0])
  t = gaps.mean() / (gaps.std(ddof=1) / np.sqrt(3))
  assert significance.paired(gaps) == pytest.approx(p(t, 2))
  x, y = np.array([1.0, 2.0, 4.0]), np.array([5.0, 5.1, 5.3, 9.0])
  a, b = x.var(ddof=1) / 3, y.var(ddof=1) / 4
  freedom = (a + b) ** 2 / (a**2 / 2 + b**2 / 3)
  t = (x.mean() - y.mean()) / np.sqrt(a + b)
  assert significance.unpaired(x, y) == pytest.approx(p(t, freedom))


@pytest.mark.parametrize("seeds, restarts", [((3, 4, 5), 0), ((0, 1, 5), 0), ((0, 1, 2), 1)])
def test_welch_where_runs_do_not_pair(seeds, restarts):
  make = lambda a, s, x: record("text", a, s, x, restarts=restarts * (s == 2))
  first, second = (0.50, 0.51, 0.49), (0.52, 0.53, 0.54)
  records = [make("softmax", s, x) for s, x in zip(range(3), first)]
  records += [make("linear", s, x) for s, x in zip(seeds, second)]
  (found,) = only(records).differences
  assert found.seeds == (3, 3) and found.mean == pytest.approx(3)
  assert found.p == pytest.approx(stats.ttest_ind(second, first, equal_var=False).pvalue)
  text = table_formats.markdown([only(records)])
  assert ", 3 + 3) |" in text and "or Welch's where the seeds do not pair" in text
  assert ("Started again from another seed: softmax on Text, 1 of 3; linear" in text) == restarts


def test_presets_and_overrides_never_share_a_row():
  overrides = {"model.attention_options.feature_map": "exp"}
  more = record("text", "softmax", 0, 0.9, overrides=overrides, data={"digest": DIGESTS["text"]})
  longer = record("text", "softmax", 0, 0.9, overrides={"task.max_length": 99} | overrides)
  records = [*full(), *full(preset="default"), more, longer]
  default, quick, other = accuracy_table.tables(records)
  assert (default.preset, quick.preset) == ("default", "quick")
  assert (
    other.preset == "quick, task.max_length=99" and other.rows[0].overrides == "feature_map=exp"
  )
  assert [table_text.title(row) for row in quick.rows] == [
    "softmax",
    "cosFormer",
    "softmax (feature_map=exp)",
  ]
  assert (default.runs, quick.runs) == (30, 31)


def test_mix_is_refused_and_allowed():
  other = record("listops", "softmax", 3, 0.5, data={"digest": "other"})
  config = {"seed": 3, "task": {"name": "listops", "max_length": 9}, "preset": "changed"}
  changed = record("listops", "softmax", 3, 0.5, config=config, data={"digest": "listops" * 3})
  for more, answer in ((other, "runs on different data"), (changed, "different configs")):
    with pytest.raises(UserError, match=answer):
      accuracy_table.tables([*full(), more])
    assert only([*full(), more], mix=True).runs == 31
  mixed = only([*full(), *full(preset="default")], mix=True)
  assert mixed.preset == "default + quick"
  assert [table_text.title(row) for row in mixed.rows] == [
    *("softmax (default)", "softmax (quick)", "cosFormer (default)", "cosFormer (quick)")
  ]
  with pytest.raises(UserError, match="more than one run of seed 0"):
    accuracy_table.tables([*full(), full()[0]])


def test_recipes_that_differ_between_mechanisms_are_named():
  config = lambda attention, size: {
    "model": {"attention": attention, "emb_dim": size},
    "task": {"name": "text"},
  }
  make = lambda a, size: record(
    "text", a, 0, 0.5, config=config(a, size), data={"digest": "x" * 12}
  )
  alike, unlike = ([make("softmax", 8), make("linear", size)] for size in (8, 9))
  assert "recipes" not in table_formats.markdown([only(alike)])
  assert "different recipes on Text" in table_formats.markdown([only(unlike)])


def test_ablations_are_a_family_of_tests_of_their_own():
  plain = only(full())
  more = full(("cosformer",), overrides={"model.attention_options.reweight": "none"})
  both = only([*full(), *more])
  of = lambda made: {(d.task, d.p) for d in made.differences if d.second < 2}
  assert of(plain) == of(both)
  assert [row.attention for row in both.rows] == ["softmax", "cosformer", "cosformer"]
  pairs = dict.fromkeys((d.first, d.second) for d in both.differences)
  assert list(pairs) == [(0, 1), (1, 2)]  # not softmax and the ablation of another mechanism


def test_marks():
  stuck = record("image", "linear", 0, 0.1, plateau=True, data={"digest": DIGESTS["image"]})
  text = table_formats.markdown([only([*full(), stuck])])
  (row,) = [line for line in text.splitlines() if line.startswith("| linear")]
  assert row == "| linear | – | – | – | 10.00\\*† | – | – | 1 |"
  assert "| softmax | 50.00 ± 1.00 | " in text and "| 52.00 ± 1.00 | 3 |" in text
  assert "linear on Image, 1 of 1" in text and "fewer than 3 seeds" in text


def test_every_number_says_where_it_comes_from():
  dirty = [r | {"environment": ENVIRONMENT | {"modified": True}} for r in full(("softmax",))]
  made = only([*dirty, *full(("cosformer",))], full_size={"text": {"max_length": 4096}})
  text = table_formats.markdown([made])
  for part in (
    "git 0123456 (ListOps cosFormer, Text cosFormer, Retrieval cosFormer, ",
    "), 0123456 with changes (ListOps softmax, ",
    *("preset quick", "1 x 2 CPU cores", "ListOps listops"),
    *("arXiv 2202.08791", "arXiv 2011.04006", "Text mode given the root operator"),
    *("the quick preset changes the data of Text.", "| parameters | 1,000 |"),
    *("| published: Transformer | 36.37 | 64.27 | 57.46 | 42.44 | 71.40 | 54.39 |",),
    *("| best trivial baseline | 20.00 | 20.00 | 20.00 | 20.00 | 20.00 | 20.00 |",),
  ):
    assert part in text, part


def test_parameters_are_a_range_where_models_differ():
  more = record("image", "linear", 0, 0.1, parameters=2000, data={"digest": DIGESTS["image"]})
  text = table_formats.markdown([only([*full(), more])])
  assert "| parameters | 1,000 | 1,000 | 1,000 | 1,000 to 2,000 | 1,000 |" in text


def test_formats_agree():
  made = accuracy_table.tables(full())
  rows = list(csv.DictReader(io.StringIO(table_formats.comma_separated(made))))
  content = json.loads(table_formats.as_json(made))["tables"][0]
  tex, text = table_formats.latex(made), table_formats.markdown(made)
  for row in content["rows"]:
    for task, score in row["cells"].items():
      values = list(score["by_seed"].values())
      mean = sum(values) / len(values)
      assert score["mean"] == pytest.approx(mean) and score["std"] > 0
      (line,) = [r for r in rows if (r["attention"], r["task"]) == (row["attention"], task)]
      assert math.isclose(float(line["mean"]), mean, abs_tol=1e-4) and line["seeds"] == "3"
      assert f"{mean:.2f} $\\pm$ {float(line['std']):.2f}" in tex
      assert f"{mean:.2f} ± {float(line['std']):.2f}" in text
  assert len([r for r in rows if r["kind"] == "published"]) == 18
  assert (
    tex.count("{") == tex.count("}")
    and "±" not in tex
    and "%" not in tex.replace("\\%", "").replace("% Preset", "")
  )


def test_table_of_nothing_and_of_a_folder_of_records(tmp_path):
  assert accuracy_table.tables([]) == [] and table_formats.NOTHING in table_formats.markdown([])
  for r in full(("softmax",)):
    run_record.write(r | {"sha256": run_record.digest(r)}, tmp_path)
  assert only(run_record.read_all([tmp_path])).runs == 15


def test_pages_have_the_tables_that_the_records_give():
  records = run_record.read_all([tiny.ROOT / "results"])
  for page, text in make_table.pages(records).items():
    assert table_text.between_markers(page.read_text(), text) == page.read_text()


def test_front_page_has_the_recipes_from_scratch_alone():
  recipe = lambda **changes: make_table.of_recipe(full(preset="default", **changes)[0])
  assert recipe() and recipe(
    overrides={"model.attention_options.rope": True, "model.convolution": 5}
  )
  assert not recipe(overrides={"train.steps": 5}) and not recipe(parent={"task": "listops"})
  assert not make_table.of_recipe(full()[0])


def test_unknown_preset_names_those_there_are(tmp_path, monkeypatch):
  for r in full(("softmax",)):
    run_record.write(r | {"sha256": run_record.digest(r)}, tmp_path)
  monkeypatch.setattr(sys, "argv", ["make_table.py", str(tmp_path), "--preset", "none"])
  with pytest.raises(UserError, match="no run of preset none; there are runs of quick"):
    make_table.main()


def test_markers():
  begin, end = table_text.MARKERS
  page = f"a\n{begin}\nold\n{end}\nb\n"
  assert table_text.between_markers(page, "new\n") == f"a\n{begin}\nnew\n{end}\nb\n"
  for broken in ("a", f"{end}{begin}", f"{begin}{begin}{end}"):
    with pytest.raises(UserError, match="the page needs one"):
      table_text.between_markers(broken, "new")


def test_mixed_presets_are_rows_of_one_table():
  """Users ask for it: `make_table.py --mix` is part of the command line and stays."""
  both = [*full(), *full(preset="default")]
  (table,) = accuracy_table.tables(both, mix=True)
  assert len(table.rows) == 4
  assert {row.overrides for row in table.rows} == {"default", "quick"}
