"""The accuracy benchmark on a manifest of its own: references planted where one method must find them."""

import importlib
import json
import runpy
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile
from flax import nnx

from gradalign import bundle as bundles
from gradalign.aligner import align
from gradalign.bundle import Bundle
from gradalign.error_rate import edit_distance
from gradalign.errors import AlignmentError
from gradalign.features import LogMel
from gradalign.lexicon import PHONES
from gradalign.manifest import read_manifest
from gradalign.nn.aed import AED
from gradalign.nn.config import AEDConfig
from gradalign.recognition import recognise
from gradalign.transcript import Transcript

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"
SCRIPT = BENCHMARKS / "accuracy.py"


def test_a_method_that_equals_the_reference_has_no_error(
    tmp_path: Path, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    config = AEDConfig(
        dim=16, heads=2, encoder_layers=2, decoder_layers=1, feed_forward_dim=32, conv_kernel=5, stem_channels=4
    )
    model = Bundle("random", AED(config, rngs=nnx.Rngs(0)), LogMel(), PHONES)
    bundles.save(model, tmp_path / "model")
    manifest, refs, far = [], [], []
    for name in ("a", "b"):
        samples = (0.1 * rng.normal(size=32_000)).astype(np.float32)
        soundfile.write(tmp_path / f"{name}.wav", samples, 16_000, subtype="FLOAT")
        truth = align(samples, "the cat sat", model=model, method="equal")
        words = [[w.start, w.end, w.label] for w in truth.tier("words")]
        behind = align(samples, "the cat sat", model=model, method="gradient", leaf="encoder", exact=True)
        pairs = zip(behind.tier("words"), truth.tier("words"), strict=True)
        far += [abs(a.start - b.start) + abs(a.end - b.end) for a, b in pairs]
        manifest.append({"audio_filepath": f"{name}.wav", "text": "the cat sat", "set": "s", "id": name})
        refs.append({"set": "s", "id": name, "kind": "exact", "words": words})
    manifest.append({"audio_filepath": "missing.wav", "text": "the cat", "set": "s", "id": "c"})
    refs.append({"set": "s", "id": "c", "kind": "exact", "words": [[0.0, 1.0, "the"]]})
    (tmp_path / "m.jsonl").write_text("\n".join(map(json.dumps, manifest)))
    (tmp_path / "m_refs.jsonl").write_text("\n".join(map(json.dumps, refs)))
    argv = ["--no-synthetic", "--manifest", str(tmp_path / "m.jsonl"), "--model", str(tmp_path / "model")]
    argv += ["--methods", "equal", "ctc", "encoder-gradient", "--json", str(tmp_path / "out.json")]
    monkeypatch.setattr(sys, "argv", ["accuracy.py", *argv])
    monkeypatch.syspath_prepend(BENCHMARKS)
    with pytest.raises(SystemExit) as done:
        runpy.run_path(str(SCRIPT), run_name="__main__")
    assert done.value.code == 0  # none of the project's bars is about these
    groups = json.loads((tmp_path / "out.json").read_text())["groups"]
    equal, ctc = (groups["s (exact)"][method]["words"] for method in ("equal", "ctc"))
    assert equal["tse_s"] == 0.0
    assert equal["n_reference"] == ctc["n_reference"] == 7
    assert equal["n_missing"] == ctc["n_missing"] == 1  # of the recording that failed
    assert ctc["tse_s"] > 0.05
    assert groups["s (exact)"]["encoder-gradient"]["words"]["tse_s"] == pytest.approx(np.mean(far) / 2)
    shown = capsys.readouterr().out
    assert "### s (exact), words: 3 recordings, 7 words" in shown
    assert "s (exact): equal: 1 failed" in shown


def test_phone_error_rates_are_those_of_what_is_recognised(
    tmp_path: Path, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    config = AEDConfig(
        dim=16, heads=2, encoder_layers=2, decoder_layers=1, feed_forward_dim=32, conv_kernel=5, stem_channels=4
    )
    model = Bundle("random", AED(config, rngs=nnx.Rngs(0)), LogMel(), PHONES)
    bundles.save(model, tmp_path / "model")
    said = "DH AH K AE T S AE T".split()
    manifest, edits, joint_edits = [], 0, 0
    for name in ("a", "b"):
        samples = (0.1 * rng.normal(size=16_000)).astype(np.float32)
        soundfile.write(tmp_path / f"{name}.wav", samples, 16_000, subtype="FLOAT")
        edits += edit_distance(said, recognise(model, samples, beam=1, ctc_weight=0.0).labels).errors
        joint_edits += edit_distance(said, recognise(model, samples, beam=1).labels).errors
        manifest.append({"audio_filepath": f"{name}.wav", "text": "The cat sat.", "set": "librispeech", "id": name})
    manifest.append({"audio_filepath": "missing.wav", "text": "the cat sat", "set": "other", "id": "c"})
    (tmp_path / "m.jsonl").write_text("\n".join(map(json.dumps, manifest)))
    argv = ["--no-synthetic", "--manifest", str(tmp_path / "m.jsonl"), "--model", str(tmp_path / "model")]
    argv += ["--sets", "librispeech", "other", "none", "--json", str(tmp_path / "out.json")]
    monkeypatch.setattr(sys, "argv", ["recognition.py", *argv])
    monkeypatch.syspath_prepend(BENCHMARKS)
    runpy.run_path(str(BENCHMARKS / "recognition.py"), run_name="__main__")
    rows = {(r["group"], r["search"]): r for r in json.loads((tmp_path / "out.json").read_text())["rows"]}
    row = rows["librispeech", "decoder, greedy"]
    assert (row["recordings"], row["phones"], row["bar"], row["passed"]) == (2, 16, 0.25, False)
    assert row["rate"] == edits / 16 == (row["substitutions"] + row["insertions"] + row["deletions"]) / 16
    assert rows["librispeech", "joint, greedy"]["rate"] == joint_edits / 16
    lost = rows["other", "CTC, greedy"]
    assert (lost["not_recognised"], lost["deletions"], lost["rate"], lost["passed"]) == (1, 8, 1.0, None)
    out, err = capsys.readouterr()
    assert "| librispeech | decoder, greedy | 2 | 16     |" in out
    assert "none left out" in err


def test_phone_error_rates_without_recordings_say_what_is_missing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setattr(sys, "argv", ["recognition.py", "--no-synthetic", "--manifest", "nowhere.jsonl"])
    monkeypatch.syspath_prepend(BENCHMARKS)
    with pytest.raises(SystemExit, match="2"):
        runpy.run_path(str(BENCHMARKS / "recognition.py"), run_name="__main__")
    err = capsys.readouterr().err
    assert "nothing to recognise: give --manifest" in err
    assert "nowhere.jsonl does not exist" in err


def test_a_manifest_without_references_is_wrong_usage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    (tmp_path / "m.jsonl").write_text("{}")
    monkeypatch.setattr(sys, "argv", ["accuracy.py", "--no-synthetic", "--manifest", str(tmp_path / "m.jsonl")])
    monkeypatch.syspath_prepend(BENCHMARKS)
    with pytest.raises(SystemExit, match="2"):
        runpy.run_path(str(SCRIPT), run_name="__main__")
    assert "m_refs.jsonl: no such file; expected a manifest and its reference times" in capsys.readouterr().err


def test_bars_say_what_holds(monkeypatch: pytest.MonkeyPatch):
    from gradalign.alignment import Alignment, Interval, Tier
    from gradalign.metrics import Comparison, compare

    monkeypatch.syspath_prepend(BENCHMARKS)
    bars = runpy.run_path(str(SCRIPT))["bars"]
    words = Tier("words", (Interval(0.1, 0.3, "a"), Interval(0.3, 0.6, "b")))

    def late(by_s: float):
        moved = Tier("words", tuple(Interval(i.start + by_s, i.end + by_s, i.label) for i in words))
        return {"words": compare(words, Alignment(2.0, (moved,)), tier="words")}

    found = bars(
        {"librispeech (silver-hmm)": {"calibrated": late(0.02), "calibrated-ctc": late(0.01), "ctc": late(0.04)}}
    )
    assert {bar.what: (round(bar.value), bar.limit, bar.holds) for bar in found} == {
        "librispeech (silver-hmm), calibrated: word TSE, ms": (20, 25, True),
        "librispeech (silver-hmm), calibrated: median, ms": (20, 12, False),
        "librispeech (silver-hmm), ctc: word TSE, ms": (40, 36, False),
        "librispeech (silver-hmm): word TSE of calibrated against calibrated-ctc, ms": (20, pytest.approx(10), False),
    }

    def twice(*by_s: float):
        return {"words": Comparison.pooled(late(by)["words"] for by in by_s)}

    found = bars({"some (exact)": {"gradient": twice(0.02, 0.04), "ctc": twice(0.01, 0.06)}})
    against = {bar.what.partition(": ")[2]: (bar.holds, bar.difference) for bar in found if " against " in bar.what}
    # One recording of each sign: which method is better is chance.
    assert against["word TSE of gradient against ctc, ms"] == (True, pytest.approx((-20, 10)))
    assert against["centre error of gradient against ctc, ms"] == (True, pytest.approx((-20, 10)))


def test_transcribe_keeps_the_proposal_that_the_model_hears_and_loses_nothing_to_a_broken_file(
    tmp_path: Path, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    """A made-up PocketSphinx proposes four texts, and a made-up CTC head hears the phones of the third."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    said = Transcript.from_text("the cat sat").labels
    config = AEDConfig(
        dim=16, heads=2, encoder_layers=1, decoder_layers=1, feed_forward_dim=32, conv_kernel=5, stem_channels=4
    )
    model = Bundle("random", AED(config, rngs=nnx.Rngs(0)), LogMel(), PHONES)
    bundles.save(model, tmp_path / "model")
    emissions = np.full((3 * len(said), len(PHONES) + 1), -9.0)
    emissions[:, 0] = -1.0
    emissions[np.arange(1, 3 * len(said), 3), model.ids(said)] = 0.0

    class Decoder:
        def __init__(self, **_: object) -> None:
            self.start_utt = self.end_utt = lambda: None

        def process_raw(self, data: bytes, **_: object) -> None:
            assert abs(np.frombuffer(data, np.int16)).max() == pytest.approx(0.7 * 32767, abs=1)

        def hyp(self) -> SimpleNamespace:
            return SimpleNamespace(hypstr="the dog sat")

        def nbest(self) -> list[SimpleNamespace | None]:
            return [None, SimpleNamespace(hypstr="the cat sat"), SimpleNamespace(hypstr=""), self.hyp()]

    monkeypatch.setitem(sys.modules, "pocketsphinx", SimpleNamespace(Decoder=Decoder, __spec__=object()))
    monkeypatch.setattr("gradalign.readout.ctc_log_probs", lambda bundle, features: emissions)
    samples = (0.01 * rng.normal(size=16_000)).astype(np.float32)
    soundfile.write(tmp_path / "7-a.wav", samples, 16_000, subtype="FLOAT")
    (tmp_path / "8-b.wav").write_bytes(b"no sound")
    out = tmp_path / "found.jsonl"
    command = ["transcribe.py", *(str(tmp_path / name) for name in ("8-b.wav", "7-a.wav"))]
    command += ["--model", str(tmp_path / "model"), "-o", str(out)]

    def run(*options: str) -> int:
        monkeypatch.setattr(sys, "argv", [*command, *options])
        with pytest.raises(SystemExit) as end:
            runpy.run_path(str(BENCHMARKS / "transcribe.py"), run_name="__main__")
        return int(end.value.code or 0)

    assert run() == 1
    assert "8-b.wav left out" in capsys.readouterr().err
    (only,) = read_manifest(out)
    assert (only.text, only.id, only.speaker, only.set, only.duration) == ("the cat sat", "7-a", "7", "transcribed", 1)
    assert run() == 1
    assert "exists already and was kept" in capsys.readouterr().err
    assert run("--overwrite", "--farthest", "0") == 1
    assert "no transcript came near enough" in capsys.readouterr().err
    assert len(read_manifest(out)) == 1
    monkeypatch.setitem(sys.modules, "pocketsphinx", None)
    assert run() == 2
    assert 'pip install ".[bench]"' in capsys.readouterr().err


def test_words_of_aeneas_are_those_of_its_fragments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A made-up command writes fragments, one of them without duration, for the words that it is given."""
    monkeypatch.syspath_prepend(BENCHMARKS)
    peers, sources = (importlib.import_module(name) for name in ("peers", "sources"))
    command = tmp_path / "aeneas_execute_task"
    command.write_text(
        f"#!{sys.executable}\n"
        "import json, sys\n"
        "said = open(sys.argv[2]).read().split()\n"
        "if said[0] == 'fail': sys.exit('no such voice')\n"
        "times = [(0.0, 0.4), (0.4, 0.4), (0.4, 0.9)]\n"
        "assert len(said) == 3\n"
        "fragments = [{'begin': f'{a:.3f}', 'end': f'{b:.3f}', 'lines': [w]} for (a, b), w in zip(times, said)]\n"
        "json.dump({'fragments': fragments}, open(sys.argv[4], 'w'))\n"
    )
    command.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "aeneas" in peers.installed()
    found = peers.aeneas_align(sources.Recording("a", "s", np.zeros(16_000, np.float32), "The cat, sat!", ()))
    assert [(w.label, w.start, w.end) for w in found.tier("words")] == [
        ("The", 0.0, 0.4),
        ("cat", 0.4, 0.401),
        ("sat", 0.401, 0.9),
    ]
    assert found.duration == 1.0
    with pytest.raises(AlignmentError, match="aeneas: no such voice"):
        peers.aeneas_align(sources.Recording("b", "s", np.zeros(16_000, np.float32), "fail", ()))
    monkeypatch.setenv("PATH", "")
    assert "aeneas" not in peers.installed()


def test_own_times_are_of_parts_between_pauses_whose_words_are_all_sure(monkeypatch: pytest.MonkeyPatch):
    from gradalign.alignment import Alignment, Interval, Tier
    from gradalign.manifest import Utterance

    monkeypatch.syspath_prepend(str(BENCHMARKS))
    own_times = importlib.import_module("own_times")
    spans = [
        *((0.6, 0.8, "A", 0.99), (0.8, 1.0, "B", 0.99)),  # after a long silence, before a pause
        *((1.3, 1.5, "C", 0.99), (1.52, 1.7, "D", 0.5)),  # unsure
        *((2.0, 2.2, "A", 0.99), (2.25, 2.4, "B", 0.99)),  # up to the end of the recording
    ]
    words = tuple(Interval(start, end, label, confidence=sure) for start, end, label, sure in spans)
    phones = tuple(Interval(start, end, label) for start, end, label, _ in spans)
    alignment = Alignment(2.5, (Tier("words", words), Tier("phones", phones)))
    utterance = Utterance(Path("x.wav"), "a b c d a b", "x", "who", "corpus", 2.5, start=10.0)
    first, second = own_times.cut(utterance, alignment, 3.0, 0.9)
    assert (first.text, second.text) == ("A B", "A B")
    assert (first.start, first.duration) == pytest.approx((10.2, 0.95))
    assert (second.start, second.duration) == pytest.approx((11.85, 0.65))
    assert [(p.start, p.end) for p in first.phones] == [pytest.approx((0.4, 0.6)), pytest.approx((0.6, 0.8))]
    assert [(w.start, w.end) for w in second.words] == [pytest.approx((0.15, 0.35)), pytest.approx((0.4, 0.55))]
    assert not own_times.cut(utterance, alignment, 0.5, 0.9)  # both are longer
    assert len(own_times.cut(utterance, alignment, 3.0, 0.4)) == 1  # one part holds all


def test_what_few_recordings_teach_is_not_scored_on_them(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    from gradalign.alignment import Interval, Tier
    from gradalign.metrics import Comparison, compare

    monkeypatch.syspath_prepend(str(BENCHMARKS))
    few, sources = importlib.import_module("few_recordings"), importlib.import_module("sources")
    words = Tier("words", (Interval(0.1, 0.3, "a"), Interval(0.3, 0.6, "b")))
    sizes = {"many": 12, "less": 10, "none": 4}
    recordings = [
        sources.Recording(f"{group}-{i}", group, np.zeros(0), "a b", (words,))
        for group, n in sizes.items()
        for i in range(n)
    ]
    silent = sources.Recording("silent", "many", np.zeros(0), "a b", ())
    learnt, scored = [], []
    bundle = SimpleNamespace(name="tiny", calibrations={"calibrated": None})
    monkeypatch.setattr(few, "gathered", lambda *_: [*recordings, silent])
    monkeypatch.setattr(few, "load", lambda *_, **__: bundle)
    monkeypatch.setattr(few, "taught", lambda _, those, *__, afresh: learnt.append({one.name for one in those}))

    def tried(_, calibrations, those):
        scored.append({one.name for one in those})
        one = few.Tried(Comparison.pooled([compare(words, words, tier="words") for _ in those]), 0.9, 1.0)
        return dict.fromkeys(calibrations, one)

    monkeypatch.setattr(few, "tried", tried)
    monkeypatch.setattr(sys, "argv", ["few_recordings.py", "--learn", "2"])
    assert few.main() == 0
    out, err = capsys.readouterr()
    assert learnt[0] == learnt[1]  # begun with the model's and afresh: of the same recordings
    for group, teachers, others in (("many", learnt[0], scored[0]), ("less", learnt[2], scored[1])):
        assert len(teachers) == 2
        assert not teachers & others
        assert teachers | others == {one.name for one in recordings if one.group == group}
    assert "none left out: 4 recordings, expected 10" in err
    assert "| less | 2 | 8 | begun with it | 0.0 | +0.0 to +0.0 | 90 / 100 |" in out
