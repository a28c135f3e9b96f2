"""Run a module as on a machine with one GPU, where there is none: what is wrong with devices shows, how fast it is not.

    python tests/fake_gpu pytest -m cuda -n 0 --deselect tests/stages/test_torchrun.py
    python tests/fake_gpu stcl_cli train photos --labels labels.csv -o run --device cuda

Needs Linux, a C compiler and PyTorch's build for CUDA. At the end it says where the CPU waited for the GPU.
"""

import os
import runpy
import subprocess
import sys
import tempfile
from pathlib import Path

LIBRARY = "libcuda.so.1"


def main() -> None:
    if LIBRARY not in os.environ.get("LD_PRELOAD", ""):
        with tempfile.TemporaryDirectory() as folder:
            build = ["cc", "-shared", "-fPIC", "-w", f"-Wl,-soname,{LIBRARY}", "-o", f"{folder}/{LIBRARY}"]
            subprocess.run([*build, Path(__file__).with_name("runtime.c")], check=True)
            there = {"LD_PRELOAD": f"{folder}/{LIBRARY}", "LD_LIBRARY_PATH": folder}
            raise SystemExit(subprocess.run([sys.executable, *sys.argv], env=os.environ | there).returncode)
    import device

    device.install()
    sys.argv = sys.argv[1:]
    try:
        runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
    finally:
        print(f"{device.replays} graphs were replayed; the CPU waited for", file=sys.stderr)
        for (reason, line), count in device.waits.most_common():
            print(f"{count:>8,}  {line}  {reason}", file=sys.stderr)


main()
