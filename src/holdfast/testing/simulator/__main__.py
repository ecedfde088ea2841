"""Replay one schedule with a readable trace: `python -m holdfast.testing.simulator SEED [functions|plain]`.

With the second word programs have durable functions, or have none, whatever the seed says.
"""

import sys

from holdfast.testing.simulator.simulate import simulate


def main() -> int:
    """Print the trace, what struck, and what went wrong; 1 if anything did."""
    functions = {"functions": True, "plain": False}[sys.argv[2]] if len(sys.argv) > 2 else None  # noqa: PLR2004
    report = simulate(int(sys.argv[1]), functions=functions)
    lines = [*report.trace, ""]
    lines += [f"{count:6} {kind}" for kind, count in sorted(report.hits.items())]
    lines += ["", f"seed {report.seed}: {report.runs} runs, {report.seconds:.1f} s, hash {report.hash}"]
    lines += [f"PROBLEM {problem}" for problem in report.problems]
    sys.stdout.write("\n".join(lines) + "\n")
    return 1 if report.problems else 0


if __name__ == "__main__":
    sys.exit(main())
