"""Read the preference pairs of a run with pyarrow alone: `python examples/load_pairs.py RUN`."""

from __future__ import annotations

import sys
from pathlib import Path

import pyarrow.parquet as pq


def main(run: Path) -> None:
    """Print every pair of the run at `run`, shortened."""
    pairs = pq.read_table(run / "data" / "preference").to_pylist()
    print(f"{len(pairs)} pairs")
    for pair in pairs:
        (chosen,), (rejected,) = pair["chosen"], pair["rejected"]
        print(f"\n{pair['id']}  {pair['domain']}: breaks {', '.join(pair['violation_ids'])}")
        print(
            f"  {len(pair['prompt'])} turns before, the last: {pair['prompt'][-1]['content'][:70]}"
        )
        print(f"  rejected: {rejected['content'][:70]}")
        print(f"  chosen:   {chosen['content'][:70]}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
