"""Twenty thousand snippets, one in five an attack, four concurrent sessions: are the answers right, and what leaks?

With `--neighbours` another question: for every attack, what share of their rate do eight honest chains keep beside two
attackers? (Beside two honest sessions whose snippets take as long, they have all of it.)

usage: python benchmarks/soak.py [--sandbox docker|bubblewrap] [--snippets 20000] [--sessions 4] [--save]
       python benchmarks/soak.py --neighbours [--sandbox docker|bubblewrap] [--seconds 4] [--only NAME] [--save]
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
from genprm.sandbox.attacks import ATTACKS
from genprm.sandbox.neighbours import Neighbourhood, neighbourhood
from genprm.sandbox.soak import SoakReport, soak

RESULTS = Path(__file__).parent / "results"


LIMITS = Limits(wall_s=1.0, cpu_s=2.0, memory_mb=256, output_kb=16)
KEPT = 0.8


async def run(arguments: argparse.Namespace) -> tuple[SoakReport, str]:
    """Soak one backend under the limits of the attack suite."""
    async with open_sandbox(arguments.sandbox, limits=LIMITS, lanes=arguments.lanes) as box:
        await box.grow()
        report = await soak(box, arguments.snippets, sessions=arguments.sessions, seed=arguments.seed,
                            attacks_share=arguments.attacks)  # fmt: skip
        return report, f"{box.backend}, {box.lanes} lanes"


async def neighbours(arguments: argparse.Namespace) -> list[Neighbourhood]:
    """Measure every attack on four lanes, and again (up to twice) when it seems to cost too much."""
    found: list[Neighbourhood] = []
    async with open_sandbox(arguments.sandbox, limits=LIMITS, lanes=4) as box:
        await box.grow()
        for attack in ATTACKS:
            if arguments.only and arguments.only not in attack.name:
                continue
            best = await neighbourhood(box, attack, arguments.seconds)
            for _ in range(2):  # a machine with other work is slow for a second now and then
                if best.kept < KEPT and not best.wrong and not best.guests_lost:
                    best = max(best, await neighbourhood(box, attack, arguments.seconds), key=lambda one: one.kept)
            found.append(best)
            print(f"{best.attack:28}{best.fair_per_s:8.1f}/s{best.attacked_per_s:8.1f}/s{best.kept:7.2f}"
                  f"  wrong {len(best.wrong)}, guests lost {best.guests_lost}", flush=True)  # fmt: skip
    return found


def main() -> int:
    """Print the report; exit code 1 when something was wrong."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sandbox", default="docker", help="docker, bubblewrap, podman, or the address of a service")
    parser.add_argument("--snippets", type=int, default=20_000)
    parser.add_argument("--sessions", type=int, default=4)
    parser.add_argument("--lanes", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--attacks", type=float, default=0.2, help="share of the snippets that is an attack")
    parser.add_argument("--neighbours", action="store_true", help="measure what attackers cost their neighbours")
    parser.add_argument("--seconds", type=float, default=4.0, help="with --neighbours: for each side of each attack")
    parser.add_argument("--only", help="with --neighbours: attacks whose name contains this")
    parser.add_argument("--save", action="store_true", help="also write benchmarks/results/soak-BACKEND.json")
    arguments = parser.parse_args()
    backend = "remote" if ":" in arguments.sandbox else arguments.sandbox
    if arguments.neighbours:
        found = asyncio.run(neighbours(arguments))
        worst = min(found, key=lambda one: one.kept)
        text = json.dumps({"backend": backend, "attacks": len(found), "least_kept": worst.kept,
                           "least_kept_beside": worst.attack, "wrong": sum(len(one.wrong) for one in found),
                           "guests_lost": sum(one.guests_lost for one in found)})  # fmt: skip
        if arguments.save:
            RESULTS.mkdir(exist_ok=True)
            (RESULTS / f"neighbours-{backend}.json").write_text(text + "\n", encoding="utf-8")
        print(text)
        return 1 if any(one.kept < KEPT or one.wrong or one.guests_lost for one in found) else 0
    report, where = asyncio.run(run(arguments))
    print(f"{report.snippets} snippets, {report.attacks} of them attacks, on {where}: {report.seconds:.0f} s")
    print(f"wrong: {len(report.wrong)}, sandbox errors: {len(report.errors)}, guests lost: {report.guests_lost}")
    for line in (*report.wrong[:20], *report.errors[:20]):
        print(f"  {line}")
    for field in dataclasses.fields(report.before):
        print(f"{field.name:24}{getattr(report.before, field.name):>10}{getattr(report.after, field.name):>10}")
    text = json.dumps({"backend": backend, "lanes": arguments.lanes, **dataclasses.asdict(report)})
    if arguments.save:
        RESULTS.mkdir(exist_ok=True)
        (RESULTS / f"soak-{backend}.json").write_text(text + "\n", encoding="utf-8")
    print(text)
    return 1 if report.wrong or report.errors else 0


if __name__ == "__main__":
    raise SystemExit(main())
