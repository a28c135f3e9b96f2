"""Through take_folder: no command deletes what it needs, and none goes on with what was made anew since."""

import pytest
from torch import nn

from stcl_cli.config import CamConfig, RefineConfig, RunConfig, TrainConfig
from stcl_cli.errors import StclError
from stcl_cli.formats.checkpoints import CheckpointInfo, save_checkpoint
from stcl_cli.formats.photo_labels import write_photo_labels
from stcl_cli.formats.runs import read_sources
from stcl_cli.stages.output import MaskFolder, take_folder


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def train(labels=None, resume=False, **options):
    config = TrainConfig(images="photos", labels="labels.csv", output="run", **options)
    take_folder(config, "train", resume, labels=labels)


def cam(resume=False, **options):
    config = CamConfig(images="photos", model="run", output="cams", **options)
    take_folder(config, "cam", resume)


def refine(resume=False, **options):
    config = RefineConfig(**{"cams": "cams", "images": "photos", "output": "masks"} | options)
    take_folder(config, "refine", resume)


@pytest.mark.parametrize("inside", ["out", "out/photos", "out/sub/../photos/a.txt"])
def test_overwrite_does_not_delete_an_input(here, inside):
    take_folder(RunConfig(images="photos", labels="labels.csv", output="out"), "run", False)
    (here / "out" / "photos").mkdir()
    (here / "out" / "photos" / "a.jpg").touch()
    config = RunConfig(images=inside, labels="labels.csv", output="out", overwrite=True)
    with pytest.raises(StclError, match=rf"^{inside}: --overwrite would delete this input, with all in out; choose"):
        take_folder(config, "run", False)
    assert (here / "out" / "photos" / "a.jpg").exists()


def test_a_link_to_the_output_folder_is_seen_through(here):
    refine()
    (here / "masks" / "a.png").touch()
    (here / "link").symlink_to("masks")
    with pytest.raises(StclError, match="link: --overwrite would delete this input"):
        refine(cams="link", overwrite=True)
    assert (here / "masks" / "a.png").exists()


def test_overwrite_does_not_delete_what_another_command_made(here):
    cam()
    (here / "cams" / "a.safetensors").touch()
    with pytest.raises(StclError, match="cams: was made by stcl cam"):
        refine(cams="others", output="cams", overwrite=True)
    assert (here / "cams" / "a.safetensors").exists()


def test_overlays_do_not_delete_what_another_command_made(here):
    cam()
    (here / "cams" / "a.safetensors").touch()
    for cams in ("cams", "others"):
        config = RefineConfig(cams=cams, images="photos", output="masks", overlays="cams", overwrite=True)
        with pytest.raises(StclError, match=r"was made by stcl cam|would delete this input"):
            MaskFolder(config, "refine", ("cat",))
    assert (here / "cams" / "a.safetensors").exists()


def test_what_was_made_anew_is_noticed_down_the_chain(here):
    def chain(resume):
        cam(resume=resume)
        refine(resume=resume)

    train({"a": ["cat"]})
    chain(False)
    train({"a": ["cat"]}, resume=True)
    chain(True)
    train({"a": ["cat"]}, overwrite=True, device="cpu")  # the same anew
    chain(True)
    train({"a": ["dog"]}, overwrite=True)
    with pytest.raises(
        StclError, match=r"^cams: was begun with another run, which has been made anew or trained on since; do it"
    ):
        cam(resume=True)
    cam(overwrite=True)
    with pytest.raises(StclError, match=r"^masks: was begun with another cams, which"):
        refine(resume=True)
    refine(overwrite=True)
    chain(True)
    train({"a": ["dog"]}, overwrite=True, seed=1)
    with pytest.raises(StclError, match=r"^cams: was begun with another run"):
        cam(resume=True)


def test_folders_may_be_called_otherwise_later(here):
    train({"a": ["cat"]})
    cam()
    refine()
    (here / "run").rename(here / "old")
    elsewhere = CamConfig(images="photos", model=str(here / "old"), output=str(here / "cams"))
    take_folder(elsewhere, "cam", True)
    refine(resume=True, cams=str(here / "cams"))
    (here / "old").rename(here / "run")
    train({"a": ["cat"]}, overwrite=True, seed=1)
    with pytest.raises(StclError, match=r"cams/config.json: was started with model = .*old, not run; go on"):
        cam(resume=True)


def test_photos_that_have_moved(here):
    """Their folder is not one of stcl's, so nothing tells that it is the same: a link does."""
    train({"a": ["cat"]})
    (here / "photos").mkdir(exist_ok=True)
    (here / "photos").rename(here / "my photos")
    moved = TrainConfig(images="my photos", labels="labels.csv", output="run")
    with pytest.raises(StclError, match=r"images = photos, not my photos; if that has moved, .*my photos' photos\)"):
        take_folder(moved, "train", True)


def test_a_run_that_is_named_by_its_checkpoint_is_noticed_too(here):
    checkpoint = "run/checkpoints/best.safetensors"
    train()
    take_folder(CamConfig(images="photos", model=checkpoint, output="cams"), "cam", False)
    train(overwrite=True, seed=1)
    with pytest.raises(StclError, match=rf"^cams: was begun with another {checkpoint}, which has been made anew"):
        take_folder(CamConfig(images="photos", model=checkpoint, output="cams"), "cam", True)


def test_a_training_that_went_on_is_noticed(here):
    def trained_until(iteration):
        checkpoint = here / "run" / "checkpoints" / "last.safetensors"
        save_checkpoint(checkpoint, nn.Linear(1, 1), CheckpointInfo("train", iteration, ("cat",), {}))

    train(iterations=9)
    trained_until(4)
    cam()
    cam(resume=True)
    trained_until(9)
    with pytest.raises(StclError, match=r"^cams: was begun with another run, which has been made anew or trained on"):
        cam(resume=True)
    cam(overwrite=True)
    cam(resume=True)


def test_new_photos_leave_what_was_made_what_it_was(here):
    train({"a": ["cat"]})
    write_photo_labels(here / "run", {"a": ["cat"]})
    cam()
    before = read_sources(here / "run")
    train({"a": ["cat"], "b": ["dog"]}, resume=True)
    assert read_sources(here / "run") == before
    cam(resume=True)
    with pytest.raises(StclError, match="run: was begun with other labels of a"):
        train({"a": ["dog"], "b": ["dog"]}, resume=True)
