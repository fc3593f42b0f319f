"""Every exercise of every lab: enough cases, right answers accepted, wrong ones rejected each by its own sentence."""

import re
from functools import cache
from itertools import pairwise
from pathlib import Path

import pytest
import torch

from omni_lab.grading import hidden
from omni_lab.lab import build
from omni_lab.lab.check import check, make_checks
from omni_lab.lab.exercises import Missing, current, install, judge_here, owner_of, restore

ROOT = Path(__file__).parents[2]
SOURCES = {p.stem: p for p in build.lab_sources(ROOT)}
LABS = {name: build.lab_of(path) for name, path in SOURCES.items()}
EXERCISES = [(name, e) for name, lab in LABS.items() for e in lab.exercises]
FRESH_SEEDS = (7, 8)


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


@cache
def stubs(name):
    return build.stub_functions(SOURCES[name])


@cache
def checks_from(name, identifier, seed):
    lab = LABS[name]
    exercise = next(e for e in lab.exercises if e.id == identifier)
    return make_checks(exercise, lab.answers[identifier], seed, stubs(name)[identifier])


@pytest.mark.parametrize(("name", "exercise"), EXERCISES, ids=lambda v: getattr(v, "id", v))
class TestExercise:
    def test_is_complete(self, name, exercise):
        answers = LABS[name].answers[exercise.id]
        checks = checks_from(name, exercise.id, build.SEED)
        assert len(checks.cases) >= 5 and len({c.name for c in checks.cases}) == len(checks.cases)
        assert len(answers.wrong) >= 5 and len(set(checks.messages)) == len(checks.messages)
        assert answers.also_right and len(exercise.hints) >= 2 and exercise.difficulty in (1, 2, 3)
        assert all(set(c.inputs) <= set(checks.parameters) for c in checks.cases)
        for place in (*([exercise.target] if exercise.target else []), *exercise.holds):
            owner_of(place)
        assert not (exercise.target and exercise.holds)

    def test_right_answers_hold_on_fresh_cases(self, name, exercise):
        answers = LABS[name].answers[exercise.id]
        for seed in FRESH_SEEDS:
            checks = checks_from(name, exercise.id, seed)
            for function in (answers.solution, *(f for _, f in answers.also_right)):
                verdict = check(function, checks)
                assert verdict.solved, f"seed {seed}, {function.__name__}: {verdict.message}"

    def test_wrong_answers_are_rejected_each_by_its_own_sentence(self, name, exercise):
        for seed in (build.SEED, *FRESH_SEEDS):
            checks = checks_from(name, exercise.id, seed)
            for wrong_name, message, function in LABS[name].answers[exercise.id].wrong:
                verdict = check(function, checks)
                assert not verdict.solved, f"seed {seed}: {wrong_name} was accepted"
                assert message in verdict.message, f"seed {seed}: {wrong_name} got: {verdict.message}"

    def test_the_reference_in_the_package_is_right(self, name, exercise):
        if exercise.target:
            owner, attribute = owner_of(exercise.target)
            verdict = check(getattr(owner, attribute), checks_from(name, exercise.id, FRESH_SEEDS[0]))
            assert verdict.solved, verdict.message

    def test_the_stub_is_not_attempted(self, name, exercise):
        checks = checks_from(name, exercise.id, build.SEED)
        namespace = {}
        exec("from __future__ import annotations\n" + checks.stub.split("\n", 1)[1], namespace)
        stub = next(f for f in namespace.values() if callable(f) and hasattr(f, "__code__"))
        assert not judge_here(stub, checks).attempted

    def test_it_can_be_solved_alone(self, name, exercise, monkeypatch):
        """In a graded release no other exercise of the lab has a reference; a student may have solved none of them."""
        others = [e for e in LABS[name].exercises if e.target and e.id != exercise.id]
        checks = checks_from(name, exercise.id, FRESH_SEEDS[0])
        right = [function for _, function in LABS[name].answers[exercise.id].also_right]
        try:
            for other in others:
                reference, absent = current(other.target), Missing(other.id, other.number, removed=True)
                install(other.target, absent)
                for attribute, value in list(right[0].__globals__.items()):
                    if value is reference:
                        monkeypatch.setitem(right[0].__globals__, attribute, absent)
            assert any(check(function, checks).solved for function in right)
        finally:
            restore()


@pytest.mark.parametrize("name", sorted(set(SOURCES) - {"00_start_here"}))
def test_who_is_told_to_use_another_exercise_is_told_what_to_do_without(name):
    """Its reference is absent from a graded release: a right answer must not wait for it."""
    names = hidden.function_names(SOURCES[name])
    cells = build.notebook(SOURCES[name], solved=True).cells
    for text, cell in pairwise(cells):
        if "exercise" not in cell.metadata.get("tags", []):
            continue
        own, uses = build.exercise_of(cell.source, SOURCES[name]), set(re.findall(r"\w+(?=\()", cell.source))
        told = {
            word.rpartition(".")[2] for word in re.findall(r"`([\w.]+)`", text.source.rpartition("### Exercise")[2])
        }
        if others := {n for i, n in names.items() if i != own} & uses & told:
            assert "is not solved, write its lines here" in " ".join(text.source.split()), (own, others)


@pytest.mark.parametrize("name", sorted(set(SOURCES) - {"00_start_here"}))
def test_a_graded_lab_has_enough_exercises_and_variants(name):
    """Of a variant the package holds no answer, so none can be copied from it; but see `holds`."""
    exercises = LABS[name].exercises
    assert len(exercises) >= 6 and sum(e.points for e in exercises) == 100
    assert sum(e.target is None for e in exercises) >= 2


@pytest.mark.parametrize("name", SOURCES)
def test_notebooks_and_checks_are_what_the_source_gives(name):
    assert build.problems(SOURCES[name]) == []
