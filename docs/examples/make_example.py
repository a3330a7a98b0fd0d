"""Make the bundled example: one synthetic sentence, its text, and when each word and phone of it was really said.

Run from the repository root: python docs/examples/make_example.py (needs the Debian package flite). The voice is one
that no model of this project is trained on.
"""

import json
from pathlib import Path

import soundfile

from gradalign.synth import synthesise

TEXT = "Please put the heavy boxes near the window, and then close the curtains!"
FOLDER = Path(__file__).parent


def main() -> None:
    """Write ``example.wav``, ``example.txt`` and ``example.truth.json`` beside this file."""
    speech = synthesise(TEXT, "flite-rms")
    tiers = {
        name: [[round(i.start, 4), round(i.end, 4), i.label] for i in tier]
        for name, tier in (("words", speech.words), ("phones", speech.phones))
    }
    rows = {name: "[\n    " + ",\n    ".join(json.dumps(row) for row in rows) + "\n  ]" for name, rows in tiers.items()}
    truth = f'{{\n  "voice": "{speech.voice}",\n  "words": {rows["words"]},\n  "phones": {rows["phones"]}\n}}\n'
    soundfile.write(FOLDER / "example.wav", speech.samples, speech.sample_rate, subtype="PCM_16")
    (FOLDER / "example.txt").write_text(TEXT + "\n", encoding="utf-8")
    (FOLDER / "example.truth.json").write_text(truth, encoding="utf-8")


if __name__ == "__main__":
    main()
