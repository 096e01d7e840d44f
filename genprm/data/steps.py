r"""Splitting a solution into steps, and joining it again.

The first rule that finds more than one step decides:

1. *Labels*: lines that begin with `Step 1:`, `**Step 1.**`, `## Step 1` and the like, with increasing numbers. Each
   begins a step, and text before the first is a separate step.
2. *Paragraphs*: blocks between blank lines.
3. *Lines*, when the whole solution is one block, as in GSM8K.

Fenced code blocks are never cut; the third rule does not cut displayed formulas either. Steps keep their text including
labels, without surrounding white space.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from itertools import pairwise

_FENCE = re.compile(r" {0,3}(`{3,}|~{3,})(.*)")
_LABEL = re.compile(r" {0,3}(?:#{1,6} *)?(?:\*\*|__)? *step +(\d{1,4}) *(?:\*\*|__)? *(?:[:.)—–-]|$)", re.IGNORECASE)
_HEADER = re.compile(r" {0,3}#{1,6} *(?:\*\*|__)? *step +(\d{1,4})\b", re.IGNORECASE)
_OPENS = re.compile(r"\\begin\{|\\\[")
_CLOSES = re.compile(r"\\end\{|\\\]")


def split_steps(solution: str) -> list[str]:
    """Splits a solution into its steps; [] when it is blank."""
    lines = solution.splitlines()
    fenced = list(_fenced(lines))
    for pieces in (_by_label(lines, fenced), _by_paragraph(lines, fenced), _by_line(lines, fenced)):
        steps = [text for piece in pieces if (text := "\n".join(piece).strip())]
        if len(steps) > 1:
            return steps
    return [text] if (text := "\n".join(lines).strip()) else []


def join_steps(steps: Sequence[str]) -> str:
    """Joins steps with blank lines. Splitting the result of `split_steps` joined this way gives the same steps."""
    return "\n\n".join(steps)


def _fenced(lines: Sequence[str]) -> Iterator[bool]:
    """For each line, whether it continues the fenced block of the line before it."""
    fence = ""
    for line in lines:
        match = _FENCE.match(line)
        if fence:
            yield True
            # A closing fence is at least as long as the opening one and has no text after it.
            if match and match[1].startswith(fence) and not match[2].strip():
                fence = ""
        else:
            yield False
            if match and "`" not in match[2]:
                fence = match[1]


def _by_label(lines: Sequence[str], fenced: Sequence[bool]) -> list[list[str]]:
    starts: list[int] = []
    last = -1
    for index, line in enumerate(lines):
        match = None if fenced[index] else _LABEL.match(line) or _HEADER.match(line)
        if match and int(match[1]) > last:
            last = int(match[1])
            starts.append(index)
    if len(starts) < 2:
        return []
    bounds = [0, *starts, len(lines)]
    return [list(lines[start:end]) for start, end in pairwise(bounds)]


def _by_paragraph(lines: Sequence[str], fenced: Sequence[bool]) -> list[list[str]]:
    pieces: list[list[str]] = [[]]
    for line, inside in zip(lines, fenced, strict=True):
        if not inside and not line.strip():
            pieces.append([])
        else:
            pieces[-1].append(line)
    return pieces


def _by_line(lines: Sequence[str], fenced: Sequence[bool]) -> list[list[str]]:
    pieces: list[list[str]] = []
    depth = 0
    for line, inside in zip(lines, fenced, strict=True):
        if inside or depth > 0:
            pieces[-1].append(line)
        else:
            pieces.append([line])
        if not inside:
            depth += len(_OPENS.findall(line)) - len(_CLOSES.findall(line))
            if line.count("$$") % 2:
                depth = 0 if depth > 0 else 1
    return pieces
