import shutil

import numpy as np
import pytest
from chains import COMMANDS, clean, contents
from PIL import Image
from processes import run


@pytest.fixture(scope="session")
def place(trained, tmp_path_factory):
    """A folder with all that the commands read: seven photos, of which one is empty."""
    folder = tmp_path_factory.mktemp("faults")
    shutil.copytree(trained.photos, folder / "photos")
    shutil.copytree(trained.root / "truth", folder / "truth")
    rng = np.random.default_rng(1)
    for name in ("d", "sub dir/e", "f"):
        Image.fromarray(rng.integers(0, 256, (30, 44, 3), dtype=np.uint8)).save(folder / "photos" / f"{name}.jpg")
        Image.fromarray(rng.integers(0, 3, (30, 44), dtype=np.uint8)).save(folder / "truth" / f"{name}.png")
    (folder / "photos" / "g.jpg").touch()
    shutil.copy(folder / "truth" / "d.png", folder / "truth" / "g.png")
    labels = (trained.root / "labels.csv").read_text()
    (folder / "labels.csv").write_text(labels + "d,cat\nsub dir/e,dog\nf,dog\ng,cat\n")
    (folder / "RUN").symlink_to(trained.run)
    (folder / "SEG").symlink_to(trained.seg)
    ended = run(COMMANDS["cam"], folder)
    assert ended.code == 3, ended.err
    (folder / "out").rename(folder / "CAMS")
    shutil.copy(folder / "CAMS" / "d.safetensors", folder / "CAMS" / "g.safetensors")
    return folder


@pytest.fixture(scope="session")
def peaceful(place):
    """stage -> (how its run ended, its files), when nobody disturbs it."""
    known = {}

    def of(stage):
        if stage not in known:
            clean(place)
            ended = run(COMMANDS[stage], place)
            assert ended.code == 3, ended.err
            known[stage] = ended, contents(place)
        clean(place)
        return known[stage]

    return of
