"""The settings of issue and papers, and that reading them costs no torch."""

from __future__ import annotations

import subprocess
import sys

from stcl_cli.refine.presets import CRF_PRESETS, CrfParams


def test_the_numbers_people_cite():
    cited = {
        "irn": CrfParams(3, 3, 50, 5, 10, 10),
        "toco-cam": CrfParams(3, 3, 36, 3, 4, 10),
        "toco-seg": CrfParams(1, 1, 121, 5, 4, 10),
        "psa": CrfParams(3, 3, 80, 13, 10, 10),
        "deeplab": CrfParams(1, 3, 67, 3, 4, 10),
    }
    assert cited == CRF_PRESETS


def test_imports_no_torch():
    code = "import sys, stcl_cli.refine.presets; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
