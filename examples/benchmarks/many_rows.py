"""What a large CSV of labels costs to read: one JSON line with CPU seconds and the peak of resident memory.

    python examples/benchmarks/many_rows.py FILE --rows 10000000

FILE is written if it is not there: a photo and two of 20 classes a row.
"""

from __future__ import annotations

import argparse
import json
import resource
import sys
import time
from pathlib import Path

from stcl_cli.data.labels import read_labels


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("file", type=Path)
    parser.add_argument("--rows", type=int, default=10_000_000)
    options = parser.parse_args()
    if not options.file.exists():
        with open(options.file, "w") as file:
            file.write("image,labels\n")
            for row in range(options.rows):
                name = f"folder {row // 1000:05d}/photo {row:08d}.jpg"
                file.write(f"{name},class {row % 20};class {(7 * row + 3) % 20}\n")
    started = time.process_time()
    labels = read_labels(options.file)
    seconds = time.process_time() - started
    unit = 2**20 if sys.platform == "darwin" else 2**10
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit
    line = {"photos": len(labels.by_name), "classes": len(labels.classes), "file_mb": options.file.stat().st_size / 1e6}
    print(json.dumps({**line, "cpu_seconds": round(seconds, 1), "peak_mb": round(peak)}))


if __name__ == "__main__":
    main()
