"""The command line: bad input is one line and exit code 1, and the door opens without torch."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from omni_lab import cli, doctor
from omni_lab.data.folders import samples_folder

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["notebook"], "did you mean 'notebooks'?"),
        (["zzz"], "unknown command: choose one of"),
        (["notebooks", "run", "--scale", "huge"], "unknown scale 'huge'"),
        (["notebooks", "run", "77"], "unknown lab '77'"),
        (["notebooks", "build", "--root", "nowhere"], "no labs here"),
        (["notebooks", "run", "--fast"], "No such option: --fast"),
        (["notebooks", "bake"], "No such command 'bake'"),
        (["parts", "--preset", "huge"], "unknown preset 'huge'"),
        (["data", "check", "--count", "0"], "Invalid value for '--count'"),
        (["data", "show", "text_qa", "--count", "-1"], "Invalid value for '--count'"),
    ],
)
def test_bad_input_is_one_line(arguments, words, capsys):
    assert cli.main(arguments) == 1
    said = capsys.readouterr()
    assert words in said.err and said.err.count("\n") == 1 and "Traceback" not in said.err


def test_damaged_files_are_one_line_that_says_what_to_do(tmp_path, capsys):
    """And leave nothing behind."""
    model = tmp_path / "clip"
    model.mkdir()
    (model / "config.json").write_text("{}")
    start = ["train", "clip", "--scale", "smoke", "--out", str(tmp_path / "run"), "--set", f"start={model}"]
    lab = tmp_path / "course"
    (lab / "solutions").mkdir(parents=True)
    (lab / "notebooks").mkdir()
    (lab / "solutions" / "00_start_here.py").write_bytes((ROOT / "solutions" / "00_start_here.py").read_bytes())
    (lab / "notebooks" / "00_start_here.ipynb").write_text("{ no notebook")
    for arguments, words in (
        (start, "no configuration of a CLIP"),
        (["notebooks", "check", "--root", str(lab)], "00_start_here.ipynb: not a Jupyter notebook"),
    ):
        assert cli.main(arguments) == 1
        said = capsys.readouterr()
        assert words in said.err and said.err.count("\n") == 1 and "Traceback" not in said.err
    assert not list((tmp_path / "run").rglob("*.safetensors"))
    assert (lab / "notebooks" / "00_start_here.ipynb").read_text() == "{ no notebook"


def test_help_lists_every_command(capsys):
    assert cli.main([]) == 0 and cli.main(["notebooks", "--help"]) == 0 and cli.main(["--version"]) == 0
    said = capsys.readouterr().out
    assert all(name in said for name in cli.ROOMS) and "build" in said


def test_ctrl_c_is_one_line(monkeypatch, capsys):
    def interrupted():
        raise KeyboardInterrupt

    monkeypatch.setattr(doctor, "doctor", interrupted)
    assert cli.main(["doctor"]) == 130 and capsys.readouterr().err == "omni-lab doctor: interrupted\n"


def test_the_door_opens_without_torch():
    code = "import sys, omni_lab.cli; sys.exit(any(m in sys.modules for m in ('torch', 'numpy', 'matplotlib')))"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_parts_load_and_train_without_the_compiler():
    code = (
        "import sys, torch, omni_lab, omni_lab.lab.check\n"
        "from omni_lab.train.optimise import AdamW\n"
        "layer = torch.nn.Linear(2, 2)\n"
        "optimiser = AdamW(layer.parameters())\n"
        "layer(torch.ones(2)).sum().backward(), optimiser.step(), optimiser.zero_grad()\n"
        "optimiser.load_state_dict(optimiser.state_dict())\n"
        "model = omni_lab.OmniModel.from_pretrained(sys.argv[1], 'cpu')\n"
        "assert model.generate(text='Hello.', max_new_tokens=3, speak=False).text is not None\n"
        "sys.exit('torch._dynamo' in sys.modules)"
    )
    subprocess.run(
        [sys.executable, "-c", code, str(samples_folder() / "checkpoints" / "nano")], check=True, timeout=120
    )


def test_doctor_names_a_pair_that_does_not_match(monkeypatch):
    monkeypatch.setattr(doctor, "installed", {"torch": "2.13.0", "torchaudio": "2.11.0"}.get)
    well, words = doctor.torch_pair()
    assert not well and "do not match" in words and "2.11.0" in words


def test_doctor_covers_what_a_lab_needs(capsys):
    subjects = [subject for subject, _, _ in doctor.findings()]
    assert subjects == ["python", "torch", "gpu", "cores", "memory", "disk", "data", "checkpoint", "scale"]
    assert cli.main(["doctor"]) in (0, 1)
    assert "omni_lab" in capsys.readouterr().out


def test_doctor_looks_where_the_data_is(tmp_path, monkeypatch):
    monkeypatch.setenv("OMNI_LAB_DATA", str(tmp_path))
    (tmp_path / "DATA.md").write_text("of the class")
    found = {subject: (well, words) for subject, well, words in doctor.findings()}
    assert found["data"] == (True, f"{tmp_path}/: 1 files, 0.0 MB") and not found["checkpoint"][0]
    monkeypatch.setenv("OMNI_LAB_DATA", str(tmp_path / "nowhere"))
    found = {subject: (well, words) for subject, well, words in doctor.findings()}
    assert not found["data"][0] and "OMNI_LAB_DATA" in found["data"][1]


def test_doctor_asks_for_modules_by_the_names_that_the_course_imports(monkeypatch, tmp_path, capsys):
    nodes = [n for path in (ROOT / "omni_lab").rglob("*.py") for n in ast.walk(ast.parse(path.read_text("utf-8")))]
    names = {n.module for n in nodes if isinstance(n, ast.ImportFrom)}
    names |= {alias.name for n in nodes if isinstance(n, ast.Import) for alias in n.names}
    imported = {name.split(".")[0] for name in names if name}
    assert doctor.OPTIONAL.keys() - imported == {"jupyterlab"}  # a program, which nothing imports
    monkeypatch.delitem(sys.modules, "hibari", raising=False)
    (tmp_path / "hibari.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    cli.main(["doctor"])
    assert "ok  hibari     for omni-lab data build" in capsys.readouterr().out
