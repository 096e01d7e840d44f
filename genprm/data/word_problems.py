r"""Generated word problems of two to six steps, with the exact truth of every step.

The built-in policy was trained on them. With them rollouts, labels, search and refinement run for real without a large
model, and the results can be compared with the truth:

    problem = make_problems(1, seed=0)[0]
    problem.text              # "A bakery bakes 6 trays with 14 rolls on each tray. A school takes ..."
    problem.solution          # ("Step 1: The bakery bakes 6*14 = 84 rolls.", ...): the last ends with \boxed{...}
    first_error(problem, problem.solution)     # -1
"""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from itertools import pairwise

FEWEST, MOST = 2, 6
"""Steps of a problem."""
LARGEST = 300
"""Largest intermediate value, so that a very small policy can learn the arithmetic."""

_EQUATION = re.compile(r"(\d+) *([-+*/]) *(\d+) *= *\$?(-?\d+)")
_BOXED = re.compile(r"\\boxed\{([^{}]*)\}")


@dataclass(frozen=True, slots=True)
class Calculation:
    """One step towards the answer."""

    left: int
    operator: str
    """`+`, `-`, `*` or `/`; divisions have no remainder."""
    right: int
    sentence: str
    """Text of the step, with `{e}` for the equation."""

    @property
    def value(self) -> int:
        """Its result."""
        return evaluate(self.left, self.operator, self.right)

    @property
    def equation(self) -> str:
        """As a solution writes it: `6*14 = 84`."""
        return f"{self.left}{self.operator}{self.right} = {self.value}"


@dataclass(frozen=True, slots=True)
class WordProblem:
    """A problem and its solution."""

    id: str
    text: str
    calculations: tuple[Calculation, ...]

    @property
    def answer(self) -> str:
        """The value of the last calculation."""
        return str(self.calculations[-1].value)

    @property
    def solution(self) -> tuple[str, ...]:
        """The right solution, step by step."""
        sentences = [c.sentence.replace("{e}", c.equation) for c in self.calculations]
        return write_steps(sentences, self.answer)


def write_steps(sentences: Sequence[str], answer: str) -> tuple[str, ...]:
    """Sentences as numbered steps, the last of which gives the answer."""
    steps = [f"Step {number}: {sentence}" for number, sentence in enumerate(sentences, start=1)]
    steps[-1] += f" The answer is \\boxed{{{answer}}}."
    return tuple(steps)


def make_problems(count: int, seed: int, *, steps: Sequence[int] = range(FEWEST, MOST + 1)) -> list[WordProblem]:
    """Generates problems with distinct texts.

    Args:
        count: number of problems.
        seed: the same seed gives the same problems; a larger count begins with those of a smaller one.
        steps: numbers of steps to choose from uniformly; 2 to 6.

    Raises:
        ValueError: a length is out of range.
    """
    if not steps or any(not FEWEST <= length <= MOST for length in steps):
        raise ValueError(f"problems have {FEWEST} to {MOST} steps, not {list(steps)!r}")
    rng = random.Random(f"word problems {seed}")
    made: dict[str, WordProblem] = {}
    while len(made) < count:
        text, calculations = _make(rng, rng.choice(steps))
        if text not in made:
            made[text] = WordProblem(f"word-{seed}-{len(made)}", text, calculations)
    return list(made.values())


def first_error(problem: WordProblem, steps: Sequence[str]) -> int:
    r"""The 0-based index of the first wrong step of a solution to a problem; -1 when there is none.

    A step is right when every equation in it holds and is one of the solution's equations (in any order of steps and
    terms), and the content of any `\boxed{}` is the answer. The last step must have a box.
    """
    wanted = {_normal(c.left, c.operator, c.right) for c in problem.calculations}
    for index, step in enumerate(steps):
        boxed = _BOXED.findall(step)
        if index == len(steps) - 1 and not boxed:
            return index
        if any(box.strip() != problem.answer for box in boxed):
            return index
        for left, operator, right, value in _EQUATION.findall(step):
            terms = _normal(int(left), operator, int(right))
            if terms not in wanted or evaluate(int(left), operator, int(right)) != int(value):
                return index
    return -1


def _normal(left: int, operator: str, right: int) -> tuple[int, str, int]:
    if operator in "+*":
        left, right = sorted((left, right))
    return left, operator, right


def evaluate(left: int, operator: str, right: int) -> int:
    """The result of a calculation; divisions are rounded down."""
    match operator:
        case "+":
            return left + right
        case "-":
            return left - right
        case "*":
            return left * right
        case _:
            return left // right


class _Again(Exception):
    """The numbers do not fit; draw others."""


class _Draft:
    """A problem while it is generated."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.told: list[str] = []
        self.calculations: list[Calculation] = []

    def calculate(self, left: int, operator: str, right: int, sentence: str) -> int:
        """Adds a step and returns its value."""
        if operator == "/" and left % right:
            raise _Again
        made = Calculation(left, operator, right, sentence)
        if not 1 <= made.value <= LARGEST or (operator == "-" and made.value < 2):
            raise _Again
        self.calculations.append(made)
        return made.value


@dataclass(frozen=True, slots=True)
class _Event:
    """An event that changes the number of things."""

    operator: str
    """`/2` halves."""
    told: str
    solved: str
    question: str = ""


@dataclass(frozen=True, slots=True)
class _Theme:
    """A story about a number of things that changes."""

    first: _Event
    second: _Event
    """Its `question` is the step that adds the two."""
    events: tuple[_Event, ...]
    left: str
    closings: tuple[_Event, ...]


# One paragraph per theme. `first` and `second`: {a} groups of {b}, and the step that counts them; for the second, the
# step that adds the two. Then possible events with the text of their step: {k} is the amount, {e} the equation. `left`
# is the question after that, and `last` one more event with its own question.
_STORIES = """
first  | A bakery bakes {a} trays with {b} rolls on each tray. | The bakery bakes {e} rolls.
second | It also bakes {a} large trays with {b} rolls on each. | On the large trays there are {e} rolls. | In all there are {e} rolls.
+      | Then it bakes {k} more rolls. | With the new ones there are {e} rolls.
-      | A school takes {k} of the rolls. | After the school there are {e} rolls left.
/2     | Half of the rolls are sold in the morning. | After the morning there are {e} rolls left.
-      | The baker burns {k} of the rolls. | Without the burnt ones there are {e} rolls left.
left   | How many rolls are left?
last * | Each roll that is left costs ${k}. | The rolls bring in {e} dollars. | How many dollars do they bring in?
last / | The rest is packed into bags of {k} rolls. | The rolls fill {e} bags. | How many bags are filled?

first  | A gardener plants {a} rows of tomatoes with {b} plants in each row. | The gardener plants {e} plants.
second | In the field there are {a} more rows with {b} plants in each. | In the field there are {e} plants. | Together that makes {e} plants.
-      | A storm ruins {k} of the plants. | After the storm there are {e} plants left.
+      | A neighbour brings {k} more plants. | With the neighbour's there are {e} plants.
/2     | Snails eat half of the plants. | After the snails there are {e} plants left.
-      | The gardener gives away {k} plants. | After the gift there are {e} plants left.
left   | How many plants are left?
last * | Each plant gives {k} kilograms of tomatoes. | The harvest is {e} kilograms. | How many kilograms are harvested?
last / | The plants are put into boxes of {k} plants. | The plants fill {e} boxes. | How many boxes are needed?

first  | Nadia saves ${b} a week for {a} weeks. | Nadia saves {e} dollars.
second | In summer she works {a} days for ${b} a day. | In summer she earns {e} dollars. | Together she has {e} dollars.
-      | She spends ${k} on a coat. | After the coat she has {e} dollars.
+      | Her aunt gives her ${k}. | With the gift she has {e} dollars.
/2     | She gives half of her money to her brother. | After giving she has {e} dollars.
-      | She buys books for ${k}. | After the books she has {e} dollars.
left   | How many dollars does she have?
last * | A year later she has {k} times as much. | A year later she has {e} dollars. | How many dollars does she have then?
last / | She buys tickets for ${k} each with all of it. | She buys {e} tickets. | How many tickets does she buy?

first  | A library has {a} shelves with {b} books on each shelf. | The library has {e} books.
second | In the cellar there are {a} boxes with {b} books in each. | In the cellar there are {e} books. | In all the library has {e} books.
+      | It buys {k} new books. | With the new ones it has {e} books.
-      | It lends out {k} books. | After lending there are {e} books left.
/2     | Half of the books go to a school. | After that there are {e} books left.
+      | Readers bring back {k} books. | With those there are {e} books.
left   | How many books does it have then?
last / | The books are put on new shelves of {k} books. | They fill {e} shelves. | How many new shelves are filled?
last * | Each book gets {k} stamps. | The books get {e} stamps. | How many stamps are needed?

first  | A train makes {a} trips with {b} people on each trip. | The train carries {e} people.
second | A bus makes {a} trips with {b} people on each. | The bus carries {e} people. | Together they carry {e} people.
-      | At the lake {k} people get off. | After the lake there are {e} people.
+      | In town {k} people join. | After the town there are {e} people.
/2     | At noon half of the people go home. | After noon there are {e} people.
-      | In the evening {k} people leave. | In the evening there are {e} people.
left   | How many people are there in the end?
last * | Each of them pays ${k}. | They pay {e} dollars. | How many dollars do they pay?
last / | They sit down at tables of {k} people. | They need {e} tables. | How many tables do they need?
"""  # noqa: E501


def _read_theme(paragraph: str) -> _Theme:
    rows = [[cell.strip() for cell in line.split("|")] for line in paragraph.splitlines()]
    named = {row[0]: row for row in rows if row[0] in ("first", "second", "left")}
    return _Theme(
        first=_Event("*", *named["first"][1:]),
        second=_Event("*", *named["second"][1:]),
        events=tuple(_Event(*row) for row in rows if row[0] in ("+", "-", "/2")),
        left=named["left"][1],
        closings=tuple(_Event(row[0].removeprefix("last "), *row[1:]) for row in rows if row[0].startswith("last ")),
    )


_THEMES = tuple(_read_theme(paragraph) for paragraph in _STORIES.strip().split("\n\n"))


def _story(draft: _Draft, steps: int) -> None:
    """A number of things that grows and shrinks, in one of the themes."""
    rng = draft.rng
    theme = rng.choice(_THEMES)
    groups = 2 if steps >= 4 and rng.random() < 0.4 else 1
    closing = rng.random() < 0.6
    a, b = rng.randint(3, 9), rng.randint(4, 20)
    draft.told.append(theme.first.told.format(a=a, b=b))
    value = draft.calculate(a, "*", b, theme.first.solved)
    if groups == 2:
        a, b = rng.randint(2, 9), rng.randint(4, 20)
        draft.told.append(theme.second.told.format(a=a, b=b))
        other = draft.calculate(a, "*", b, theme.second.solved)
        value = draft.calculate(value, "+", other, theme.second.question)
    happens = list(theme.events)
    rng.shuffle(happens)
    for event in happens[: steps - len(draft.calculations) - closing]:
        value = _happen(draft, event, value)
    question = theme.left
    if closing:
        event = rng.choice(theme.closings)
        question = event.question
        _happen(draft, event, value)
    draft.told.append(question)


def _happen(draft: _Draft, event: _Event, value: int) -> int:
    match event.operator:
        case "+":
            k = draft.rng.randrange(5, 65, 5)
        case "-":
            k = draft.rng.randrange(5, min(65, max(6, value - 1)), 5)
        case "*":
            k = draft.rng.randint(2, 5)
        case "/":
            k = draft.rng.choice([k for k in range(2, 10) if value % k == 0] or [2])
        case _:
            k = 2
    draft.told.append(event.told.format(k=k))
    return draft.calculate(value, event.operator[0], k, event.solved)


_NAMES = ("Ann", "Ben", "Cleo", "Dan", "Eva", "Finn", "Gus", "Hana")
_THINGS = ("stamps", "marbles", "cards", "shells", "stickers")


def _comparison(draft: _Draft, steps: int) -> None:
    """Amounts given by comparison with the previous person, and their total."""
    rng = draft.rng
    people, thing = rng.sample(_NAMES, 4), rng.choice(_THINGS)
    counts = [rng.randint(8, 60)]
    draft.told.append(f"{people[0]} has {counts[0]} {thing}.")
    for before, name in pairwise(people[: steps // 2 + 1]):
        kind = rng.choice(["more", "fewer", "times", "half"])
        k = rng.randint(2, 5) if kind == "times" else rng.randrange(5, 45, 5)
        operator, right = {"more": ("+", k), "fewer": ("-", k), "times": ("*", k), "half": ("/", 2)}[kind]
        amount = {"more": f"{k} more", "fewer": f"{k} fewer", "times": f"{k} times as many", "half": "half as many"}
        draft.told.append(
            f"{name} has {amount[kind]} {thing} {'as' if kind in ('times', 'half') else 'than'} {before}."
        )
        counts.append(draft.calculate(counts[-1], operator, right, f"{name} has {{e}} {thing}."))
    value = counts[0]
    for name, count in zip(people[1:], counts[1:], strict=False):
        value = draft.calculate(value, "+", count, f"With {name} that makes {{e}} {thing}.")
    draft.told.append(f"How many {thing} do they have together?")


def _shopping(draft: _Draft, steps: int) -> None:
    """The cost of two purchases, optionally with a coupon and change."""
    rng = draft.rng
    name = rng.choice(_NAMES)
    (one, two) = rng.sample(["pens", "books", "cups", "shirts", "lamps"], 2)
    a, p, b, q = rng.randint(2, 9), rng.randint(3, 20), rng.randint(2, 9), rng.randint(3, 20)
    draft.told.append(f"{name} buys {a} {one} for ${p} each and {b} {two} for ${q} each.")
    first = draft.calculate(a, "*", p, f"The {one} cost {{e}} dollars.")
    second = draft.calculate(b, "*", q, f"The {two} cost {{e}} dollars.")
    value = draft.calculate(first, "+", second, "Together they cost {e} dollars.")
    question = f"How many dollars does {name} pay?"
    if steps == 5:
        k = rng.randrange(5, 35, 5)
        draft.told.append(f"A coupon takes ${k} off.")
        value = draft.calculate(value, "-", k, "With the coupon they cost {e} dollars.")
    if steps >= 4:
        paid = next(paid for paid in (100, 200, 300, 400) if paid > value)
        draft.told.append(f"{name} pays with ${paid}.")
        draft.calculate(paid, "-", value, "The change is {e} dollars.")
        question = f"How many dollars does {name} get back?"
    draft.told.append(question)


def _make(rng: random.Random, steps: int) -> tuple[str, tuple[Calculation, ...]]:
    """A problem with this many steps: its text and its calculations."""
    kinds = [_story, _story]
    if steps % 2 == 0:
        kinds.append(_comparison)
    if 3 <= steps <= 5:
        kinds.append(_shopping)
    kind = rng.choice(kinds)
    while True:
        draft = _Draft(rng)
        try:
            kind(draft, steps)
        except _Again:
            continue
        if len(draft.calculations) == steps:
            return " ".join(draft.told), tuple(draft.calculations)


def find_problem(identity: str | None, text: str) -> WordProblem | None:
    """The generated problem with this id, if its text is the same and it has the default lengths; else None."""
    match = re.fullmatch(r"word-(\d+)-(\d+)", identity or "")
    if match is None:
        return None
    found = _known(int(match[1]), 1 + int(match[2]) // 1000)
    problem = found[int(match[2])] if int(match[2]) < len(found) else None
    return problem if problem is not None and problem.text == text else None


def read_equations(step: str) -> list[tuple[str, str]]:
    """The equations of a step, each as its left side and the claimed value."""
    return [(f"{left}{operator}{right}", value) for left, operator, right, value in _EQUATION.findall(step)]


@cache
def _known(seed: int, thousands: int) -> list[WordProblem]:
    return make_problems(1000 * thousands, seed)
