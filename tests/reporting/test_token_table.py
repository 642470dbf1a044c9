"""Tables of bits a token, and rows of runs that were pretrained."""

import pytest

import handmade
from lra.reporting import accuracy_table, grouping, table_formats, token_table
from lra.system.errors import UserError

BITS = {"softmax": (2.0, 2.1, 2.2), "linear": (2.5, 2.6, 2.7)}


def record(attention, seed, bits, task="lm", **changes):
  config = {"seed": seed, "task": {"name": task}, "train": {"objective": "next"}}
  figures = {"accuracy": 0.5, "loss": bits * 0.6931, "bits_per_token": bits, "perplexity": 2**bits}
  return handmade.record(task, attention, seed, 0.5) | {
    "test": figures | {"tokens": 1000, "examples": 10},
    "validation": figures | {"step": 8, "bits_per_token": bits - 1},
    "config": config,
    "baselines": {"bigram": 0.3},
    "baseline_bits": {"unigram": 4.5, "bigram": 3.75},
    "overrides": changes,
  }


def records():
  return [record(a, s, b) for a, bits in BITS.items() for s, b in enumerate(bits)]


def test_rows_are_means_over_seeds_beside_the_baselines():
  (made,) = token_table.tables([*records(), handmade.record("listops", "linear", 0, 0.4)])
  header, rows = token_table.grid(made)
  assert header[:4] == ["bits a token", "task", "validation", "test"]
  assert [row[:4] for row in rows] == [
    ["softmax", "text bytes", "1.1000 ± 0.1000", "2.1000 ± 0.1000"],
    ["linear", "text bytes", "1.6000 ± 0.1000", "2.6000 ± 0.1000"],
    ["baseline: unigram", "text bytes", "–", "4.5000"],
    ["baseline: bigram", "text bytes", "–", "3.7500"],
  ]
  assert rows[0][5:] == ["50.00 ± 0.00", "1,000", "100", "3"] and made.runs == 6
  (difference,) = made.differences
  assert difference.mean == pytest.approx(0.5)
  text = table_formats.markdown([], [made])
  assert "### Next tokens, preset `quick`" in text and "linear − softmax: +0.5000 bits" in text


def test_few_seeds_are_marked_and_overrides_are_rows():
  (made,) = token_table.tables([record("linear", 0, 2.5), record("linear", 0, 2.4, **{"a.b": 1})])
  _, rows = token_table.grid(made)
  assert [(row[0], row[3]) for row in rows[:2]] == [
    ("linear", "2.5000*"),
    ("linear (a.b=1)", "2.4000*"),
  ]


def test_every_format_has_both_kinds(tmp_path):
  tables, tokens = accuracy_table.tables(records()), token_table.tables(records())
  assert tables == []  # none of classes
  for name, write in table_formats.FORMATS.items():
    assert "2.1" in write(tables, tokens), name


@pytest.mark.parametrize(
  "changes, answer",
  [
    ({"data": {"digest": "e" * 64, "origin": "generated"}}, "runs on different data"),
    ({"seed": 0}, "more than one run of seed 0"),
    ({"config": {"seed": 1, "train": {"objective": "next", "steps": 3}}}, "different configs"),
  ],
)
def test_rows_do_not_mix(changes, answer):
  with pytest.raises(UserError, match=answer):
    token_table.tables([record("linear", 0, 2.0), record("linear", 1, 2.0) | changes])


def test_pretrained_runs_are_rows_of_their_own():
  parent = {
    "run": "x-seed0",
    "task": "listops",
    "objective": "masked",
    "steps": 1500,
    "digest": "a",
  }
  plain = [handmade.record("listops", "linear", seed, 0.4 + seed / 100) for seed in range(3)]
  after = [
    handmade.record("listops", "linear", seed, 0.5 + seed / 50)
    | {"parent": parent | {"run": f"x-seed{seed}"}, "overrides": {"train.steps": 1500}}
    for seed in range(3)
  ]
  (made,) = accuracy_table.tables([*plain, *after])
  assert [row.overrides for row in made.rows] == ["", "after 1,500 steps masked, train.steps=1500"]
  (difference,) = [d for d in made.differences if d.task == "listops"]
  assert difference.seeds == (3,) and difference.mean == pytest.approx(11) and difference.p < 0.05


def test_a_pretrained_row_is_compared_with_itself_from_scratch():
  parent = {"run": "x", "task": "listops", "objective": "masked", "steps": 5, "digest": "a"}
  make = lambda share, more: [
    handmade.record("listops", "linear", seed, share + seed / 100 * share) | more for seed in (0, 1)
  ]
  wide, after = {"model.convolution": 5}, {"parent": parent}
  for bare in (make(0.1, {}), []):
    rows = [
      *bare,
      *make(0.2, {"overrides": wide}),
      *make(0.4, {"overrides": wide | {"train.steps": 5}, **after}),
    ]
    (made,) = accuracy_table.tables(rows)
    found = {
      tuple(made.rows[i].overrides for i in (d.first, d.second))
      for d in made.differences
      if d.task == "listops"
    }
    pretrained = ("model.convolution=5", "after 5 steps masked, model.convolution=5, train.steps=5")
    assert found == {pretrained} | ({("", "model.convolution=5")} if bare else set())


def test_a_row_names_all_that_came_before_it():
  first = {"task": "text", "objective": "masked", "steps": 7}
  second = {"task": "text", "objective": "next", "steps": 6, "parent": first, "data": {"seed": 1}}
  third = {"task": "listops", "objective": "classify", "steps": 1500, "parent": second}
  third["data"] = {"max_length": 48, "max_depth": 4, "validation": 5, "test": 6}
  record = {"attention": "linear", "task": "listops", "parent": third, "overrides": {}}
  assert grouping.row_key(record) == (
    "linear",
    "after 7 steps masked on text, then 6 steps next on text seed=1, "
    "then 1,500 steps classify on max_length=48, max_depth=4",
  )
