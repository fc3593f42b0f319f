"""Talker beside the reference: same weights, one process, alternating; medians, ratios, peak memory.

    python -m benchmarks.talker [--preset nano] [--codes 128] [--rounds 5] [--threads N]

The reference has no loss for its talker, so there is nothing to set beside a training step of ours.
Prints a table and writes benchmarks/results/talker.md (on a GPU talker_gpu.md).
"""

import argparse

import torch

from benchmarks.codec import Runs, compare, published, write
from omni_lab.config import PRESETS
from omni_lab.runtime import hardware
from omni_lab.sampling import Sampling
from omni_lab.talker import Talker
from tests.talker_reference import always_masked, context_of, reference_inputs, reference_of


def tasks(preset: str, codes: int, device: torch.device) -> Runs:
    """Greedy and sampled decoding of `codes` codes behind 64 tokens of context, alone and in a padded batch."""
    talker = Talker(PRESETS[preset]().talker_config)
    reference = reference_of(talker)
    always_masked(reference)
    talker.to(device)
    reference.to(device)
    never = tuple(sorted({talker.config.tts_codec_start_token_id, *talker.end_tokens}))
    greedy = Sampling(repetition_penalty=1.05, suppress=never)
    sampled = Sampling(0.9, 40, 0.8, 1.05, never)
    runs = {}
    for rows in (1, 4):
        context = context_of(talker, [list(range(64 - 9 * row)) for row in range(rows)], device=device)
        reply = torch.randn(rows, 20, talker.config.embedding_size, device=device)
        inputs = reference_inputs(talker, context, reply)
        for name, how in (("greedy", greedy), ("sampled", sampled)):
            settings = dict(max_new_tokens=codes, do_sample=name == "sampled", repetition_penalty=1.05)
            settings |= dict(suppress_tokens=list(never), pad_token_id=talker.config.tts_codec_pad_token_id)
            settings |= dict(top_k=40, top_p=0.8, temperature=0.9) if name == "sampled" else {}

            def ours(context=context, reply=reply, how=how) -> None:
                talker.generate(context, reply, max_new_tokens=codes, sampling=how)

            def theirs(inputs=inputs, settings=settings) -> None:
                with torch.no_grad():
                    reference.generate(**inputs, **settings)

            runs[f"{codes} codes, batch {rows}, {name}"] = (ours, theirs)
    return runs


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--preset", default="nano", choices=sorted(PRESETS))
    parser.add_argument("--codes", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.manual_seed(0)
    torch.set_num_threads(options.threads)
    device = hardware().device
    table = compare(tasks(options.preset, options.codes, device), options.rounds, device)
    write("talker", published("Talker", options.preset, options.rounds, options.threads, table), options.preset)


if __name__ == "__main__":
    main()
