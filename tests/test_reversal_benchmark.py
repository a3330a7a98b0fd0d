"""The study of reversed encoders: its task has the times that it says, and a run of a few updates gives a table."""

import json
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"


@pytest.fixture
def task_module(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    import reversal_task

    return reversal_task


def test_labels_sound_where_the_task_says_and_nowhere_else(task_module, rng):
    task = task_module.Task(noise=0.1)
    for _ in range(5):
        e = task_module.example(task, rng)
        assert task.length[0] <= len(e.labels) <= task.length[1]
        loud = e.features.max(axis=1) > -12
        inside = np.zeros(len(e.features), bool)
        for first, last in e.spans:
            assert task.segment[0] <= last - first <= task.segment[1]
            inside[first:last] = True
        np.testing.assert_array_equal(loud, inside)
        reference = e.reference(task).tier("phones")
        assert [p.label for p in reference] == [f"L{i}" for i in e.labels]
        assert reference[0].start == pytest.approx((e.spans[0, 0] - 0.5) * 0.01)


def test_batches_are_a_function_of_seed_and_number(task_module):
    task = task_module.Task()
    first, again, other = (task_module.batch(task, 3, *at) for at in ((1, 5), (1, 5), (1, 6)))
    assert first.features.shape == (3, task.frames, task.n_mels)
    np.testing.assert_array_equal(first.features, again.features)
    assert np.abs(first.features[:, :40] - other.features[:, :40]).max() > 1
    for row, (n_frames, n_labels) in enumerate(zip(first.n_frames, first.n_labels, strict=True)):
        assert np.all(first.features[row, n_frames:] == 0)
        assert np.all(first.labels[row, n_labels:] == 0)
        assert first.spans[row, n_labels - 1, 1] <= n_frames


def test_a_study_of_a_few_updates_gives_a_table_and_goes_on_where_it_stopped(tmp_path, monkeypatch, capsys):
    argv = "--steps 4 --batch 2 --layers 2 --dim 16 --kernel 3 --watch 2 --probes 1 --tests 2 --warmup 1"
    argv = ["reversal.py", *argv.split(), "--length", "2", "4", "--segment", "6", "10", "--silence", "2", "6"]
    argv += ["--taught", "nothing", "--remedies", "inner-ctc"]
    argv += ["--json", str(tmp_path / "out.json"), "--figures", str(tmp_path / "pages")]
    monkeypatch.syspath_prepend(BENCHMARKS)
    for seeds in (["0"], ["0", "1"]):
        monkeypatch.setattr(sys, "argv", [*argv, "--seeds", *seeds])
        runpy.run_path(str(BENCHMARKS / "reversal.py"), run_name="__main__")
    results = json.loads((tmp_path / "out.json").read_text())["results"]
    assert [(r["remedy"], r["seed"]) for r in results] == [("inner-ctc", 0), ("inner-ctc", 1)]
    for r in results:
        assert r["order"] in ("kept", "reversed", "mixed")
        assert [h["step"] for h in r["history"]] == [2, 4]
        assert r["tse_ms"]["gradient"] > 0
        assert r["tse_ms"]["ctc"] > 0
    out, err = capsys.readouterr()
    assert out.count("| inner-ctc | 1 |") == out.count("| inner-ctc | 2 |") == 1
    assert err.count("nothing-inner-ctc-0 4/4") == 1  # the second time it was there already
    assert {p.name for p in (tmp_path / "pages").iterdir()} >= {
        "nothing-inner-ctc-0.png",
        "nothing-inner-ctc-1-training.png",
    }
    monkeypatch.setattr(sys, "argv", [*argv, "--peak", "1e-3"])
    with pytest.raises(SystemExit, match="holds a study with other settings"):
        runpy.run_path(str(BENCHMARKS / "reversal.py"), run_name="__main__")
