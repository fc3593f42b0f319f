"""From what came out of the sandbox to points: compared in the grader's own process with what it has computed."""

from ..lab.check import judge
from .execution import Execution, outcome_of
from .hidden import Hidden
from .sanitise import Submission

STATUSES = ("ok", "wrong", "error", "timeout", "killed", "missing", "invalid", "infrastructure")


def grade_answers(submission: Submission, execution: Execution, hidden: Hidden) -> dict[str, dict]:
    """{exercise id: {"points", "max_points", "status", "message"}}, points by share of the cases that hold."""
    return {identifier: _grade_one(identifier, submission, execution, hidden) for identifier in hidden.checks}


def same_for_all(hidden: Hidden, status: str, message: str) -> dict[str, dict]:
    """One status for every exercise and artefact. A fault of the grader's own gives no points at all: None, never a
    zero."""
    points = None if status == "infrastructure" else 0.0
    most = {identifier: checks.exercise.points for identifier, checks in hidden.checks.items()}
    most |= {identifier: artefact.points for identifier, artefact in hidden.artefacts.items()}
    return {
        identifier: {"points": points, "max_points": max_points, "status": status, "message": message}
        for identifier, max_points in most.items()
    }


def _grade_one(identifier: str, submission: Submission, execution: Execution, hidden: Hidden) -> dict:
    checks = hidden.checks[identifier]
    entry = {"points": 0.0, "max_points": checks.exercise.points, "status": "missing", "message": "not attempted"}
    if identifier not in submission.attempted:
        return entry
    got = [outcome_of(line) for line in execution.lines.get(identifier, [])]
    stopped = execution.stopped.get(identifier)
    if not got:
        status, message = stopped or ("error", _why_undefined(identifier, submission, execution))
        return {**entry, "status": status, "message": message}
    try:
        verdict = judge(checks, got)
    except (ArithmeticError, ValueError, TypeError, RuntimeError, RecursionError) as error:
        # Plain data, and yet nothing that can be set beside the expected (an integer of a thousand digits, say).
        message = f"the result cannot be compared with the expected ({type(error).__name__})"
        return {**entry, "status": "invalid", "message": message}
    kinds = {outcome.kind for outcome in got}
    if verdict.passed == verdict.total:
        status = "ok"
    elif stopped is not None:
        status = stopped[0]
    elif kinds & {"timeout", "interrupted"}:
        status = "timeout"
    elif "invalid" in kinds:
        status = "invalid"
    elif verdict.passed == 0 and all(kind.startswith("raised") or kind == "call" for kind in kinds):
        status = "error"
    else:
        status = "wrong"
    message = f"{verdict.passed} of {verdict.total} cases. {verdict.message}".strip()
    if verdict.fresh is not None and verdict.share < verdict.passed / verdict.total:
        held, unseen = verdict.fresh
        message += f" The points are those of the {unseen} cases that your notebook does not hold: {held} hold."
    if stopped is not None and status != "ok":
        message = f"{message} {stopped[1][0].upper()}{stopped[1][1:]}."
    return {**entry, "points": verdict.points, "status": status, "message": message}


def _why_undefined(identifier: str, submission: Submission, execution: Execution) -> str:
    """Why there was no function to call: the error of the cell that was to define it, or of the probe itself."""
    if failed := execution.errors.get(f"probe {identifier}"):
        return f"the function could not be called on the cases: {failed}"
    for cell in reversed(submission.cells):
        if identifier in cell.answers:
            reason = execution.errors.get(cell.name)
            return f"{cell.name} defines it and failed: {reason}" if reason else f"{cell.name} left no function behind"
    return "no cell defines it"
