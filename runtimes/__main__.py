"""Measures the rows that have no result yet, or those that are named, and prints the table.

python -m runtimes [ROW…] [--adapter NAME…]: of a row that is measured already, these adapters anew.
"""

import argparse

from runtimes.engines import rows
from runtimes.measure import RESULTS, measure, write
from runtimes.verdicts import table


def main() -> None:
    given = argparse.ArgumentParser(prog="python -m runtimes", description=__doc__)
    given.add_argument("rows", nargs="*", metavar="ROW", help="vllm@0.32.0")
    given.add_argument("--adapter", action="append", default=[], metavar="NAME")
    asked = given.parse_args()
    for row in rows():
        if row.name in asked.rows or (not asked.rows and not (RESULTS / f"{row.name}.json").exists()):
            print(row.name, flush=True)
            write(row, measure(row, asked.adapter))
    print(table())


if __name__ == "__main__":
    main()
