"""Our model inside the field's own harness: `lm-eval` asks it, and counts what we count ourselves.

    pip install 'omni-lab[bench]' && python -m benchmarks.lm_eval_harness [--checkpoint FOLDER] [--items 40]

Three tasks in the harness's own format (YAML beside JSON lines) are made from the nano world under build/lm_eval and
need no network: questions answered in a chat, four options by log-likelihood, likelihood of whole texts. The harness
gets the model by its registered name. Beside its figures stand those of `omni-lab eval` on the same items, and
log-likelihoods from the loss that the model is trained with. Writes benchmarks/results/lm_eval_harness.md and .json;
a difference ends it with an error.
"""

import argparse
import json
import math
import os
import sys
from datetime import date
from pathlib import Path
from typing import Any

import torch

from omni_lab.data.folders import samples_folder
from omni_lab.data.sample import Sample
from omni_lab.errors import OmniLabError
from omni_lab.evaluate import suite
from omni_lab.evaluate.asking import LONGEST_REPLY, ask, items
from omni_lab.evaluate.harness import harness_class
from omni_lab.omni import OmniModel
from omni_lab.runtime import hardware

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"
LETTERS = "ABCD"
SOURCE = """dataset_path: json
dataset_kwargs:
  data_files:
    test: {rows}
test_split: test
metadata:
  version: 1
"""
TASKS = {
    "nano_text_qa": """output_type: generate_until
doc_to_text: "{{question}}"
doc_to_target: answer
generation_kwargs:
  until: []
  max_gen_toks: LONGEST
process_results: !function scoring.right
metric_list:
  - metric: acc
    aggregation: mean
    higher_is_better: true
""",
    "nano_science": """output_type: multiple_choice
doc_to_text: "{{question}}"
doc_to_choice: ["A", "B", "C", "D"]
doc_to_target: label
target_delimiter: ""
metric_list:
  - metric: acc
    aggregation: mean
    higher_is_better: true
""",
    "nano_text": """output_type: loglikelihood_rolling
doc_to_text: ""
doc_to_target: "{{text}}"
metric_list:
  - metric: byte_perplexity
    aggregation: weighted_perplexity
    higher_is_better: false
""",
}
SCORING = '''"""How a reply of nano_text_qa is scored: as the mini suite scores it."""

from omni_lab.evaluate.metrics import same_answer


def right(doc, results):
    return {"acc": float(same_answer(doc["answer"], results[0]))}
'''


def question(sample: Sample) -> str:
    """What a sample that is text alone asks."""
    return "".join(part["text"] for part in sample.messages[0]["content"])


def text_samples(task: str, count: int) -> list[Sample]:
    """The first `count` test items of a task that have no picture: the harness asks in text."""
    found = items(task, 8 * count, 0)
    return [s for s in found if all(part["type"] == "text" for part in s.messages[0]["content"])][:count]


def write_tasks(folder: Path, count: int) -> dict[str, list[dict[str, Any]]]:
    """Put three tasks in the harness's format into `folder`; returns their rows."""
    asked = text_samples("text_qa", count)
    rows = {
        "nano_text_qa": [{"question": question(s), "answer": s.answer} for s in asked],
        "nano_science": [
            {"question": question(s), "label": LETTERS.index(s.answer)} for s in text_samples("science_choice", count)
        ],
        "nano_text": [{"text": f"{question(s)} {s.answer}"} for s in asked],
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "scoring.py").write_text(SCORING)
    for name, content in rows.items():
        path = folder / f"{name}.jsonl"
        path.write_text("\n".join(map(json.dumps, content)) + "\n")
        body = TASKS[name].replace("LONGEST", str(LONGEST_REPLY))
        (folder / f"{name}.yaml").write_text(f"task: {name}\n{SOURCE.format(rows=path)}{body}")
    return rows


def from_harness(folder: Path, checkpoint: str) -> tuple[dict[str, float], dict[str, list[dict[str, Any]]]]:
    """The harness's figures by task, and what it kept of each item."""
    from lm_eval import simple_evaluate
    from lm_eval.tasks import TaskManager

    manager, figures, kept = TaskManager(include_path=str(folder), include_defaults=False), {}, {}
    # The chat template is for what is asked; the likelihood of a whole text is that of the bare text.
    for chat, names in ((True, ["nano_text_qa", "nano_science"]), (False, ["nano_text"])):
        found = simple_evaluate(
            "omni_lab", model_args={"checkpoint": checkpoint}, tasks=names, task_manager=manager, bootstrap_iters=0,
            apply_chat_template=chat, device="cpu", log_samples=True,
        )  # fmt: skip
        for name in names:
            measure = "byte_perplexity" if name == "nano_text" else "acc"
            figures[name] = float(found["results"][name][f"{measure},none"])
            kept[name] = sorted(found["samples"][name], key=lambda sample: sample["doc_id"])
    return figures, kept


@torch.no_grad()
def nats(model: OmniModel, context: list[int], ids: list[int]) -> float:
    """Log-probability of `ids` behind `context`, from the loss that the thinker is trained with."""
    row = torch.tensor([context + ids])
    labels = torch.tensor([[-100] * len(context) + ids])
    return -float(model.thinker(input_ids=row, labels=labels).loss) * len(ids)


def chat_ids(model: OmniModel, text: str) -> list[int]:
    """Tokens of a typed question as the model's own processor writes it."""
    messages = [{"role": "user", "content": [{"type": "text", "text": text}]}]
    return model.processor(messages=[messages])["input_ids"][0].tolist()


def compare(folder: Path, checkpoint: str, count: int) -> dict[str, Any]:
    """The harness's figures and ours, and the largest difference of an item."""
    rows = write_tasks(folder, count)
    figures, kept = from_harness(folder, checkpoint)
    model = OmniModel.from_pretrained(checkpoint, device="cpu")
    encode = model.processor.tokenizer.encode
    begin = model.processor.tokenizer.convert_tokens_to_ids("<|endoftext|>")

    replies = ask(model, text_samples("text_qa", count))
    same = sum(
        reply.strip() == s["resps"][0][0].strip() for reply, s in zip(replies, kept["nano_text_qa"], strict=True)
    )
    accuracy = suite.run(model, ["text_qa"], items=count)["text_qa"]["value"]

    right, apart = 0, 0.0
    for row, sample in zip(rows["nano_science"], kept["nano_science"], strict=True):
        ids = chat_ids(model, row["question"])
        # The harness counts the line break at the end of the prompt to the answer.
        context, line = ids[:-1], ids[-1:]
        mine = [nats(model, context, line + encode(letter)) for letter in LETTERS]
        asked = [float(answer[0][0]) for answer in sample["resps"]]
        apart = max(apart, *(abs(a - b) for a, b in zip(mine, asked, strict=True)))
        right += max(range(4), key=lambda i: mine[i]) == row["label"]

    whole = [nats(model, [begin], encode(row["text"])) for row in rows["nano_text"]]
    apart_text = max(abs(a - float(s["resps"][0][0])) for a, s in zip(whole, kept["nano_text"], strict=True))
    perplexity = math.exp(-sum(whole) / sum(len(row["text"].encode()) for row in rows["nano_text"]))
    return {
        "items": count,
        "nano_text_qa": {"harness": figures["nano_text_qa"], "ours": accuracy, "same_replies": same},
        "nano_science": {"harness": figures["nano_science"], "ours": right / count, "nats_apart": apart},
        "nano_text": {"harness": figures["nano_text"], "ours": perplexity, "nats_apart": apart_text},
    }


def page(found: dict[str, Any]) -> str:
    """The result as Markdown."""
    import lm_eval

    chat, choice, text = found["nano_text_qa"], found["nano_science"], found["nano_text"]
    return f"""# Our model inside lm-eval

lm-eval {lm_eval.__version__}, {found["checkpoint"]}, {found["items"]} held-out items a task, {hardware("cpu").name},
{found["date"]}, float32. The model is asked for by its registered name, the tasks are YAML and JSON lines of the nano world, nothing is
fetched.

| task | measure | the harness | ours | item by item |
|---|---|---|---|---|
| typed questions, answered in a chat | accuracy | {chat["harness"]:.4f} | {chat["ours"]:.4f} (`omni-lab eval`, text_qa) | {chat["same_replies"]} of {found["items"]} replies the same |
| science, four options | accuracy by log-likelihood | {choice["harness"]:.4f} | {choice["ours"]:.4f} (training loss) | log-likelihoods at most {choice["nats_apart"]:.1e} nats apart |
| whole texts | perplexity a byte | {text["harness"]:.4f} | {text["ours"]:.4f} (training loss) | log-likelihoods at most {text["nats_apart"]:.1e} nats apart |
"""  # noqa: E501


def differs(found: dict[str, Any]) -> bool:
    """Whether a figure or an item is not the same to rounding."""
    figures = [found[name] for name in TASKS]
    return (
        any(abs(f["harness"] - f["ours"]) > 1e-5 or f.get("nats_apart", 0.0) > 1e-3 for f in figures)
        or found["nano_text_qa"]["same_replies"] != found["items"]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--checkpoint", default=str(samples_folder() / "checkpoints" / "nano"))
    parser.add_argument("--items", type=int, default=40)
    chosen = parser.parse_args()
    os.environ |= {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    folder = ROOT / "build" / "lm_eval"
    os.environ["HF_DATASETS_CACHE"] = str(folder / "cache")
    try:
        harness_class()
    except OmniLabError as error:
        print(f"lm_eval_harness: {error}: nothing measured")
        return
    origin = {"checkpoint": Path(chosen.checkpoint).name, "date": date.today().isoformat()}
    found = origin | compare(folder, chosen.checkpoint, chosen.items)
    print(page(found))
    (RESULTS / "lm_eval_harness.md").write_text(page(found))
    (RESULTS / "lm_eval_harness.json").write_text(json.dumps(found, indent=1) + "\n")
    if differs(found):
        sys.exit("lm_eval_harness: the harness and omni-lab do not agree: see the table")


if __name__ == "__main__":
    main()
