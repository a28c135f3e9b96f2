import pytest
import torch

from stcl_cli.config import TrainConfig
from stcl_cli.data.photos import list_photos
from stcl_cli.networks import load_stcl
from stcl_cli.runtime.device import make_runtime
from stcl_cli.training.regions import regions_of_photos


@pytest.fixture
def run(trained):
    """A network whose maps are noise, with thresholds that find regions in noise, and its labelled photos."""
    model = load_stcl(trained.run)[0].eval()
    torch.manual_seed(0)
    for parameter in (model.classifier.weight, model.classifier_aux.weight):
        torch.nn.init.normal_(parameter)
    config = TrainConfig(images="", labels="", output="", cam_scales=(1.0,), guidance=0.0, max_side=64)
    labelled = [(photo, (number % 2,)) for number, photo in enumerate(list_photos(str(trained.photos))[0])]
    return model, config, labelled


@pytest.fixture
def regions():
    """What `regions_of_photos` gives for all of them."""

    def all_of(model, config, labelled, tokens=1000):
        runtime = make_runtime("cpu")
        return list(regions_of_photos(model, config, runtime, labelled, range(len(labelled)), tokens))

    return all_of
