"""Settings of the dense CRF that papers and their code are cited for. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class CrfParams:
    """Kernel widths (standard deviations: pixels, grey levels of 0..255), Potts weights, mean-field iterations.

    The energy is w_pos exp(-|dp|^2 / 2 pos_xy^2) + w_bi exp(-|dp|^2 / 2 bilateral_xy^2 - |dI|^2 / 2 bilateral_rgb^2).
    """

    pos_xy: float
    pos_weight: float
    bilateral_xy: float
    bilateral_rgb: float
    bilateral_weight: float
    iterations: int = 10


CRF_PRESETS: dict[str, CrfParams] = {
    "irn": CrfParams(3, 3, 50, 5, 10),
    "toco-cam": CrfParams(3, 3, 36, 3, 4),
    "toco-seg": CrfParams(1, 1, 121, 5, 4),
    "psa": CrfParams(3, 3, 80, 13, 10),
    "deeplab": CrfParams(1, 3, 67, 3, 4),
}
