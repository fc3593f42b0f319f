"""The suite on an untrained nano model: every task runs; what they report has the promised form."""

import json
from dataclasses import asdict, replace

import pytest
import torch

from omni_lab import config, tmrope
from omni_lab.cli import main
from omni_lab.data import speech, world
from omni_lab.data.folders import samples_folder
from omni_lab.data.sample import Sample, user
from omni_lab.errors import CheckpointError, DataError, InputError
from omni_lab.evaluate import asking, commands, dpo_change, suite
from omni_lab.evaluate.outcome import Outcome, accuracy
from omni_lab.evaluate.tasks import hearing, seeing, speaking
from omni_lab.omni import OmniModel
from omni_lab.processing.processor import OmniProcessor
from omni_lab.sampling import GREEDY


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    torch.set_num_threads(1)
    made = OmniModel(config.preset("nano")).eval()
    made.processor = OmniProcessor.from_pretrained(samples_folder() / "checkpoints" / "nano")
    made.enrol(speech.say("This is the voice in which I answer."), 24_000, "heart")
    return made


def test_the_names_of_the_tasks_are_those_that_reports_use():
    assert len(suite.SUITE) == 23 and tuple(suite.SUITE) == suite.ORDER
    with pytest.raises(InputError, match="unknown task 'vision'"):
        suite.choose(["vision"])
    assert suite.choose(["ocr", "asr"]) == ["asr", "ocr"]


@pytest.mark.parametrize("task", ["text_qa", "asr", "picture_qa", "grounding", "av_synchrony", "who_said_what"])
def test_written_tasks_run_on_an_untrained_model(model, task, tmp_path):
    results = suite.run(model, [task], items=2)
    found = results[task]
    assert {"metric", "value", "chance", "baseline", "n", "seconds", "report"} <= set(found)
    assert found["n"] == 2 and found["value"] >= 0
    suite.write_json(tmp_path / "out.json", suite.document("nano", results, 0))
    read = json.loads((tmp_path / "out.json").read_text())
    assert read["tasks"][task]["value"] == found["value"] and read["hardware"]
    assert task in suite.table(results)
    suite.plot(results).savefig(tmp_path / "out.png")


def test_spoken_tasks_run_on_an_untrained_model(model, monkeypatch):
    monkeypatch.setattr("omni_lab.evaluate.asking.LONGEST_SPEECH", 40)
    results = suite.run(model, ["speech_wer", "pause_errors", "dpo_wer_ratio"], items=1, folder="nowhere")
    assert results["speech_wer"]["value"] > 0.5 > results["speech_wer"]["parts"]["source voice"]
    assert results["dpo_wer_ratio"]["value"] is None and "dpo_change" in results["dpo_wer_ratio"]["note"]


def test_what_dpo_added_can_be_taken_back(model, tmp_path, monkeypatch):
    monkeypatch.setattr("omni_lab.evaluate.asking.LONGEST_SPEECH", 12)
    weights = {name: w.clone() for name, w in model.talker.state_dict().items()}
    added = {"codec_head.weight": torch.full_like(weights["codec_head.weight"], 0.5)}
    dpo_change.write(tmp_path / dpo_change.FILE, added)
    taken = dpo_change.taken_back(weights, tmp_path / dpo_change.FILE)
    assert torch.allclose(taken["codec_head.weight"] + 0.5, weights["codec_head.weight"], atol=1e-6)
    assert all(torch.equal(taken[name], w) for name, w in weights.items() if name not in added)
    found = speaking.dpo_wer_ratio(model, 1, 0, False, tmp_path)
    assert found.value is not None and set(found.parts) == {"after", "before"}
    assert all(torch.equal(w, model.talker.state_dict()[name]) for name, w in weights.items())


@pytest.mark.parametrize(
    "content", [b"rubbish", {"head.weight": torch.zeros(2)}, {"codec_head.weight": torch.zeros(2)}]
)
def test_a_change_of_another_talker_is_named(model, tmp_path, content):
    path = tmp_path / dpo_change.FILE
    path.write_bytes(content) if isinstance(content, bytes) else dpo_change.write(path, content)
    with pytest.raises(CheckpointError, match="dpo_change.safetensors: "):
        dpo_change.taken_back(model.talker.state_dict(), path)


def test_eight_bits_are_finer_than_the_weights(tmp_path):
    torch.manual_seed(0)
    weights, change = torch.randn(64, 64) * 0.05, torch.randn(64, 64) * 2e-3
    dpo_change.write(tmp_path / dpo_change.FILE, {"w": change})
    error = (dpo_change.read(tmp_path / dpo_change.FILE)["w"] - change).abs().mean()
    assert error < (weights.bfloat16().float() - weights).abs().mean()


def test_a_batch_answers_as_each_alone(model):
    samples = asking.items("picture_qa", 3, 0)
    assert asking.ask(model, samples, longest=6) == [asking.ask(model, [s], longest=6)[0] for s in samples]


def test_items_are_the_same_for_every_model():
    one, two = (asking.items("picture_qa", 3, 5) for _ in range(2))
    assert [s.meta["key"] for s in one] == [s.meta["key"] for s in two]
    assert [s.meta["key"] for s in asking.items("picture_qa", 3, 6)] != [s.meta["key"] for s in one]


def test_without_its_time_axis_a_video_has_one_time(model):
    sample = world.sample("av_synchrony", "test", 0, 0)
    inputs = model.processor(messages=[sample.messages], use_audio_in_video=True, longest_audio=True)
    seen = []

    def recorded(input_ids, *args, config=None, **kwargs):
        ids, delta = complete(input_ids, *args, config=config, **kwargs)
        seen.append((ids, asking.without_time(ids, input_ids, config)))
        return ids, delta

    complete, tmrope.position_ids = tmrope.position_ids, recorded
    try:
        model.thinker(**inputs)
    finally:
        tmrope.position_ids = complete
    with_time, without = seen[0]
    ids = inputs["input_ids"][0]
    video = ids == model.config.thinker_config.video_token_index
    sound = ids == model.config.thinker_config.audio_token_index
    assert with_time[0, 0, video].unique().numel() == 4 and with_time[0, 0, sound].unique().numel() == 100
    assert without[0, 0, video | sound].unique().numel() == 1
    assert without[:, 0, sound].unique().numel() == 1
    assert torch.equal(without[1:, 0, video], with_time[1:, 0, video])  # places in the picture stay
    assert torch.equal(without[:, 0, ~(video | sound)], with_time[:, 0, ~(video | sound)])
    with asking.no_time_axis():
        assert tmrope.position_ids is not complete
    assert tmrope.position_ids is complete


def test_the_baseline_of_sounds_knows_no_answer(model):
    found = suite.run(model, ["sound_events"], items=40)["sound_events"]
    assert 1 / 40 < found["baseline"] < 0.3


def test_voices_enrolled_for_a_test_leave_the_model_as_it_was(model, monkeypatch):
    monkeypatch.setattr("omni_lab.evaluate.asking.LONGEST_SPEECH", 12)
    monkeypatch.setattr(speaking.speech, "HELD_OUT_SPEAKERS", speaking.speech.HELD_OUT_SPEAKERS[:2])
    before = dict(model.speakers)
    speaking.speaker_similarity(model, 2, 0, False)
    assert model.speakers == before and list(model.speakers) == list(before)


def test_scores_of_perfect_and_silent_replies():
    samples = asking.items("who_said_what", 3, 0)
    assert all(all(seeing.both_sides(s, s.answer)) for s in samples)
    assert not any(any(seeing.both_sides(s, "left: nothing. right: at all.")) for s in samples)
    pieces = [s.meta["piece"] for s in asking.items("music", 3, 0)]
    assert all(all(hearing.musical(p, p.words)) for p in pieces)
    assert hearing.musical(pieces[0], "loud music") == (False, False, False)
    slower = pieces[0].words.replace(str(pieces[0].tempo), str(round(pieces[0].tempo * 0.95)))
    assert hearing.musical(pieces[0], slower) == (True, True, False)
    questions = asking.items("text_qa", 20, 0)
    assert accuracy(questions, [s.answer for s in questions], 0.1).value == 1.0
    assert accuracy(questions, ["" for _ in questions], 0.1).value == 0.0


def test_a_batch_speaks_as_each_alone(model, monkeypatch):
    monkeypatch.setattr(asking, "LONGEST_SPEECH", 12)
    lines = ["Say: Two dogs.", "Say: The old boat is in the house, not the cake.", "Hm."]
    samples, voice = [Sample([user(line)], "say_this", "") for line in lines], model.voice(None)
    together = asking.spoken_codes(model, samples, voice, 0, GREEDY)
    alone = [asking.spoken_codes(model, [sample], voice, 0, GREEDY)[0] for sample in samples]
    assert all(torch.equal(one, other) for one, other in zip(together, alone, strict=True)) and len(together[0])
    inputs = model.prepare(messages=samples[1].messages)
    reply = model.respond(inputs, max_new_tokens=asking.LONGEST_REPLY, max_codes=12, talker_sampling=GREEDY)
    assert torch.equal(reply.codes, together[1])


def test_a_task_that_fails_costs_no_other_and_is_done_again(model, tmp_path, monkeypatch, capsys):
    def broken(*_):
        raise RuntimeError("no memory left")

    saved = []
    monkeypatch.setitem(suite.SUITE, "ocr", replace(suite.SUITE["ocr"], run=broken))
    first = suite.run(model, ["text_qa", "ocr", "science_choice"], 1, after_each=lambda r: saved.append(len(r)))
    assert saved == [1, 2, 3] and first["ocr"]["failed"] and "no memory left" in first["ocr"]["note"]
    assert "RuntimeError: no memory left" in capsys.readouterr().err
    monkeypatch.undo()
    again = suite.run(model, ["text_qa", "ocr", "science_choice"], 1, done=first)
    assert again["text_qa"] is first["text_qa"] and again["ocr"]["value"] is not None and not again["ocr"]["failed"]


def test_results_of_another_run_are_not_taken_over(tmp_path):
    file, origin = tmp_path / "r.json", {"items": 5, "weights": "abc"}
    assert commands.earlier(file, suite.document("nano", {}, 0, **origin)) == {}
    good = {"metric": "m", "value": 1, "chance": 0, "report": None, "report_set": "", "lower_is_better": False}
    suite.write_json(file, suite.document("nano", {"ocr": good | {"failed": True}, "asr": good}, 0, **origin))
    assert commands.earlier(file, suite.document("nano", {}, 0, **origin)) == {"asr": good}
    for changed in ({"items": 6}, {"weights": "new"}):
        with pytest.raises(DataError, match=f"is of {next(iter(changed))}"):
            commands.earlier(file, suite.document("nano", {}, 0, **origin | changed))
    with pytest.raises(DataError, match="needs --json"):
        commands.earlier(None, {})


def test_several_processes_find_what_one_finds(model, tmp_path, capsys):
    made = OmniModel(replace(config.preset("nano"), enable_audio_output=False, speech_tokenizer_config=None)).eval()
    made.processor = model.processor
    made.save_pretrained(tmp_path / "made")
    found = []
    for processes in ("1", "2"):
        file = tmp_path / f"{processes}.json"
        asked = ["eval", "--checkpoint", str(tmp_path / "made"), "--tasks", "text_qa,ocr", "--items", "2"]
        assert main([*asked, "--processes", processes, "--json", str(file)]) == 0
        found.append({name: (r["value"], r["n"]) for name, r in json.loads(file.read_text())["tasks"].items()})
    assert found[0] == found[1] and list(found[0]) == ["text_qa", "ocr"]
    assert main([*asked, "--processes", "2", "--items", "0"]) == 1
    assert "0 items a task: at least 1" in capsys.readouterr().err


def test_what_cannot_be_written_is_said_before_the_work(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(commands.backends, "open_backend", lambda *how: pytest.fail("the work has begun"))
    (tmp_path / "file").touch()
    (tmp_path / "folder.png").mkdir()
    for options, words in (
        (["--plot", tmp_path / "x.txt"], "x.txt: no ending of a picture"),
        (["--plot", tmp_path / "x"], "no ending of a picture"),
        (["--plot", tmp_path / "folder.png"], "is a folder"),
        (["--plot", tmp_path / "file" / "x.png"], "its folder cannot be made"),
        (["--json", tmp_path / "file" / "x.json"], "its folder cannot be made"),
        (["--backend", "openai:http://host/v1#m", "--checkpoint", tmp_path], "give one of them"),
    ):
        assert main(["eval", "--tasks", "ocr", *map(str, options)]) == 1
        said = capsys.readouterr().err
        assert words in said and said.count("\n") == 1


def test_the_pictures_folder_is_made(tmp_path, monkeypatch):
    monkeypatch.setattr(commands.backends, "open_backend", lambda *how: None)
    outcome = asdict(Outcome("accuracy", 0.5, 0.1, 0.1, 2))
    beside = {"cpu_seconds": 1.0, "report": None, "report_set": "", "lower_is_better": False, "failed": False}
    monkeypatch.setattr(suite, "run", lambda *how: {"ocr": outcome | beside})
    assert main(["eval", "--tasks", "ocr", "--plot", str(tmp_path / "new" / "x.png")]) == 0
    assert (tmp_path / "new" / "x.png").read_bytes().startswith(b"\x89PNG")
