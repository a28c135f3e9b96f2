"""One frozen, flat dataclass a stage: the only place with names, types, defaults and help of what a user can set.

options.py turns the fields into command line options, each output folder keeps them as config.json, and `--config FILE`
reads them back. Nothing heavy is imported here, so `stcl --help` is instant.
"""

from stcl_cli.config.chains import BenchConfig, DemoConfig, RunConfig
from stcl_cli.config.checking import check_given, check_values
from stcl_cli.config.files import CheckConfig, EvalConfig, ExportConfig, ReportConfig
from stcl_cli.config.labelling import CamConfig, RefineConfig, TrainConfig
from stcl_cli.config.options import LABEL_FORMATS
from stcl_cli.config.segmentation import PredictConfig, SegtrainConfig
from stcl_cli.config.shared import Folder, Sharing, Training

__all__ = [
    "LABEL_FORMATS",
    "BenchConfig",
    "CamConfig",
    "CheckConfig",
    "DemoConfig",
    "EvalConfig",
    "ExportConfig",
    "Folder",
    "PredictConfig",
    "RefineConfig",
    "ReportConfig",
    "RunConfig",
    "SegtrainConfig",
    "Sharing",
    "TrainConfig",
    "Training",
    "check_given",
    "check_values",
]
