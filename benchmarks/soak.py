"""Twenty thousand snippets, one in ten an attack, four sessions at once: are the answers right, and what is left?

usage: python benchmarks/soak.py [--sandbox docker|bubblewrap] [--snippets 20000] [--sessions 4] [--save]
"""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
import json
import sys
from pathlib import Path

# Before this folder, whose sandbox.py would hide the package.
sys.path.insert(0, str(Path(__file__).parents[1]))

from genprm.sandbox import Limits, open_sandbox
from genprm.sandbox.soak import SoakReport, soak

RESULTS = Path(__file__).parent / "results"


async def run(arguments: argparse.Namespace) -> tuple[SoakReport, str]:
    """Soak one backend under the limits of the attack suite."""
    limits = Limits(wall_s=1.0, cpu_s=2.0, memory_mb=256, output_kb=16)
    async with open_sandbox(arguments.sandbox, limits=limits, lanes=arguments.lanes) as box:
        await box.grow()
        report = await soak(box, arguments.snippets, sessions=arguments.sessions, seed=arguments.seed)
        return report, f"{box.backend}, {box.lanes} lanes"


def main() -> int:
    """Print the report; exit code 1 when something was wrong."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sandbox", default="docker", choices=["docker", "bubblewrap"])
    parser.add_argument("--snippets", type=int, default=20_000)
    parser.add_argument("--sessions", type=int, default=4)
    parser.add_argument("--lanes", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--save", action="store_true", help="also write benchmarks/results/soak-BACKEND.json")
    arguments = parser.parse_args()
    report, where = asyncio.run(run(arguments))
    print(f"{report.snippets} snippets, {report.attacks} of them attacks, on {where}: {report.seconds:.0f} s")
    print(f"wrong: {len(report.wrong)}, sandbox errors: {len(report.errors)}")
    for line in (*report.wrong[:20], *report.errors[:20]):
        print(f"  {line}")
    for field in dataclasses.fields(report.before):
        print(f"{field.name:24}{getattr(report.before, field.name):>10}{getattr(report.after, field.name):>10}")
    text = json.dumps({"backend": arguments.sandbox, "lanes": arguments.lanes, **dataclasses.asdict(report)})
    if arguments.save:
        RESULTS.mkdir(exist_ok=True)
        (RESULTS / f"soak-{arguments.sandbox}.json").write_text(text + "\n", encoding="utf-8")
    print(text)
    return 1 if report.wrong or report.errors else 0


if __name__ == "__main__":
    raise SystemExit(main())
