import sys
from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from stcl_cli.config import RefineConfig
from stcl_cli.errors import StclError
from stcl_cli.formats.cams import CamFile, read_cam, write_cam
from stcl_cli.formats.masks import read_mask, write_mask
from stcl_cli.formats.runs import read_jsonl, write_config
from stcl_cli.stages import refine

NAMES = ("a", "sub dir/bär 01")


@pytest.fixture
def folder(tmp_path):
    """Two photos of 12 x 8 pixels, green on the left, and CAMs that say so: class 2, dog, is on the left."""
    pixels_HW3 = np.zeros((8, 12, 3), np.uint8)
    pixels_HW3[:, :6, 1] = 255
    cam_KHW = np.zeros((1, 8, 12), np.float32)
    cam_KHW[:, :, :6] = 1
    for name in NAMES:
        (tmp_path / "photos" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels_HW3).save(tmp_path / "photos" / f"{name}.png")
        # 2 x 3 patches, each like those above and below it
        affinity = np.zeros((2, 3, 9), np.float32)
        affinity[..., 1::3] = 1
        cam = CamFile(classes=("cat", "dog"), labels=(1,), cam_KHW=cam_KHW, size=(8, 12), affinity_hwJ=affinity)
        write_cam(tmp_path / "cams" / f"{name}.safetensors", cam)
    (tmp_path / "cams" / "classes.txt").write_text("cat\ndog\n")
    return tmp_path


def run(folder, **settings):
    items = []
    settings = {"method": "none", "output": str(folder / "out"), "device": "cpu", "workers": 1} | settings
    config = RefineConfig(cams=str(folder / "cams"), images=str(folder / "photos"), **settings)
    return refine.run(config, items.append), items


@pytest.mark.parametrize(
    "settings",
    [{}, {"workers": 2}, *({"method": method} for method in ("affinity", "par", "crf", "affinity,par,crf"))],
)
def test_masks_and_items(folder, settings):
    result, items = run(folder, **settings)
    assert result.skipped == 0
    assert [(item["image"], item["classes"], item["ignored"]) for item in items] == [
        (name, ["dog"], 0.0) for name in NAMES
    ]
    for item in items:
        mask_HW = read_mask(item["output"])
        assert (mask_HW[:, :4] == 2).all()
        assert (mask_HW[:, 8:] == 0).all()


@pytest.mark.parametrize(("workers", "processes"), [(None, 2), (0, 0), (1, 0), (2, 2)])
def test_how_many_processes(folder, monkeypatch, workers, processes):
    counts = []

    class Readers(refine.Readers):
        def __init__(self, count):
            counts.append(count)
            super().__init__(count)

    monkeypatch.setattr(refine, "Readers", Readers)
    monkeypatch.setattr(refine, "cores", lambda: 2)
    assert run(folder, workers=workers)[0].skipped == 0
    assert counts == [processes]


def test_processes_beside_others_have_one_thread_each(folder, monkeypatch):
    refined = refine.refine_scores

    def note_threads(*arguments):
        with open(folder / "threads", "a") as file:
            file.write(f"{cv2.getNumThreads()} {torch.get_num_threads()}\n")
        return refined(*arguments)

    monkeypatch.setattr(refine, "refine_scores", note_threads)
    before = cv2.getNumThreads()
    cv2.setNumThreads(3)
    try:
        run(folder, workers=2)
    finally:
        cv2.setNumThreads(before)
    assert (folder / "threads").read_text() == "1 1\n" * 2


def test_resume_adds_what_lacks(folder):
    run(folder)
    (folder / "out" / "a.png").unlink()
    _, items = run(folder, resume=True, overlays=str(folder / "look"))
    assert [item["overlay"].is_file() for item in items] == [True, True]
    assert run(folder, resume=True, overlays=str(folder / "look"))[1] == []


def test_a_cam_without_a_photo_and_one_of_another_shape_are_skipped(folder):
    (folder / "photos" / "a.png").unlink()
    Image.new("RGB", (5, 20)).save(folder / "photos" / "sub dir" / "bär 01.png")
    with pytest.raises(
        StclError, match=r"out: none of 2 inputs could be used; the first, a: .*a.safetensors: there is no"
    ):
        run(folder)
    reasons = {record["image"]: record["reason"] for record in read_jsonl(folder / "out" / "failed.jsonl")}
    assert "there is no photo of this name" in reasons["a"]
    assert "is of a photo of 12 x 8, not of this one; delete it and run stcl cam" in reasons["sub dir/bär 01"]


def test_classes_of_cams_are_known_by_their_names(folder):
    """dog is 2 in the CAMs, and 1 in the folder's list, which may have been written anew."""
    (folder / "cams" / "classes.txt").write_text("dog\nemu\ncat\n")
    two = CamFile(("cat", "dog"), (0, 1), np.stack([np.eye(8, 12) * 0, np.ones((8, 12))]).astype(np.float32), (8, 12))
    write_cam(folder / "cams" / "a.safetensors", two)
    _, items = run(folder)
    assert [item["classes"] for item in items] == [["dog"], ["dog"]]
    assert set(np.unique(read_mask(items[0]["output"]))) == {1}
    (folder / "cams" / "classes.txt").write_text("cat\n")
    with pytest.raises(StclError, match="none of 2 inputs could be used"):
        run(folder, overwrite=True)
    assert "has a map of class 'dog', which is not among" in read_jsonl(folder / "out" / "failed.jsonl")[0]["reason"]


def test_masks_without_any_class_are_counted(folder, capsys):
    path = folder / "cams" / "a.safetensors"
    cam = read_cam(path)
    write_cam(path, replace(cam, cam_KHW=np.zeros_like(cam.cam_KHW)))
    _, items = run(folder)
    assert [item["lost"] for item in items] == [["dog"], []]
    assert "2 masks in" in (said := capsys.readouterr().err)
    assert ", 1 of them without any class" in said
    assert "stcl: 1 of 2 photos with labels have none of them in the mask: try a lower --background" in said
    write_cam(path, replace(cam, labels=(), cam_KHW=cam.cam_KHW[:0]))  # a photo that is said to show nothing
    _, items = run(folder, overwrite=True)
    assert [item["lost"] for item in items] == [[], []]
    assert "with labels" not in capsys.readouterr().err


def test_two_background_scores_in_either_order(folder):
    masks = [run(folder, background=scores, overwrite=True) and (folder / "out" / "a.png").read_bytes()
             for scores in ((0.3, 0.7), (0.7, 0.3))]  # fmt: skip
    assert masks[0] == masks[1]


def test_no_cams(folder):
    (folder / "cams" / "a.safetensors").unlink()
    (folder / "photos" / "sub dir" / "bär 01.png").unlink()
    with pytest.raises(StclError, match="cams: holds no CAM file or mask for any photo"):
        run(folder)


def test_cams_without_affinity(folder):
    names = sorted((folder / "cams").rglob("*.safetensors"))
    for name in names[1:]:
        write_cam(name, replace(read_cam(name), affinity_hwJ=None))
    assert run(folder, method="affinity,crf")[0].skipped == 1
    (record,) = read_jsonl(folder / "out" / "failed.jsonl")
    assert "make it with stcl cam --affinity" in record["reason"]
    write_cam(names[0], replace(read_cam(names[0]), affinity_hwJ=None))
    with pytest.raises(StclError, match="make it with stcl cam --affinity"):
        run(folder, method="affinity", output=str(folder / "none"))
    assert not (folder / "none").exists()


@pytest.fixture
def masks(folder):
    """Masks in place of CAMs, with a speck and a hole."""
    mask_HW = np.zeros((8, 12), np.uint8)
    mask_HW[:, :6] = 2
    mask_HW[3, 9], mask_HW[5, 2] = 2, 255
    for name in NAMES:
        (folder / "cams" / f"{name}.safetensors").unlink()
        write_mask(folder / "cams" / f"{name}.png", mask_HW)
    return folder


@pytest.mark.parametrize("workers", [1, 2])
def test_masks_in_place_of_cams(masks, workers):
    result, items = run(masks, method="crf", workers=workers)
    assert (result.skipped, [item["image"] for item in items]) == (0, list(NAMES))
    assert "--init" not in result.next
    for item in items:
        mask_HW = read_mask(item["output"])
        assert (mask_HW[:, :6] == 2).all()
        assert not mask_HW[:, 6:].any()
    assert (read_mask(run(masks, method="crf", confidence=0.99999, overwrite=True)[1][0]["output"])[3, 9]) == 2


def test_masks_that_do_not_fit(masks):
    write_mask(masks / "cams" / "a.png", np.full((8, 12), 3, np.uint8))
    write_mask(masks / "cams" / "sub dir" / "bär 01.png", np.zeros((7, 12), np.uint8))
    with pytest.raises(StclError, match="none of 2 inputs could be used"):
        run(masks, method="crf")
    reasons = {record["image"]: record["reason"] for record in read_jsonl(masks / "out" / "failed.jsonl")}
    assert "holds class 3, but there are 2 classes" in reasons["a"]
    assert "the mask is 12 x 7, its photo 12 x 8" in reasons["sub dir/bär 01"]


def test_an_option_without_an_effect_is_told(folder, capsys):
    for settings, words in (
        ({"method": "par", "crf_iterations": 3}, "--crf-iterations is passed over: --method par is without crf"),
        ({"method": "affinity,par", "crf_preset": "irn"}, "--crf-preset is passed over: --method affinity,par is"),
        ({"method": "none", "walk_steps": 3}, "--walk-steps is passed over: --method none is without affinity"),
        ({"confidence": 0.9}, "--confidence is passed over: it is of masks, and these are CAMs"),
    ):
        assert len(run(folder, overwrite=True, **settings)[1]) == 2
        assert capsys.readouterr().err.count("passed over") == 1
        assert len(run(folder, overwrite=True, **settings)[1]) == 2
        assert f"stcl: {words}" in capsys.readouterr().err
    run(folder, method="affinity,crf", walk_steps=3, crf_iterations=3, overwrite=True)
    assert "passed over" not in capsys.readouterr().err


def test_masks_have_no_background_score(masks, capsys):
    run(masks, background=(0.3,))
    assert "stcl: --background is passed over: it is of CAMs, and these are masks" in capsys.readouterr().err


def test_masks_have_no_affinity(masks):
    with pytest.raises(StclError, match=r"a\.png: is a mask.*give --method crf"):
        run(masks, method="affinity,crf")
    assert not (masks / "out").exists()


def test_pydensecrf_gives_the_same_masks(folder):
    pytest.importorskip("pydensecrf")
    masks = [
        [read_mask(item["output"]) for item in run(folder, method="crf", backend=backend, overwrite=True)[1]]
        for backend in ("torch", "pydensecrf")
    ]
    assert np.array_equal(*masks)


def test_pydensecrf_takes_all_cores_also_beside_a_gpu(folder, monkeypatch):
    pytest.importorskip("pydensecrf")
    monkeypatch.setattr(refine, "pick_device", lambda name: torch.device("cuda"))
    assert run(folder, method="crf", backend="pydensecrf")[0].skipped == 0


def test_pydensecrf_is_missing(folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "pydensecrf.densecrf", None)
    with pytest.raises(StclError, match=r"pip install \"stcl\[pydensecrf\]\""):
        run(folder, method="crf", backend="pydensecrf")
    assert not (folder / "out").exists()


def test_the_next_command_starts_from_the_run_that_made_the_cams(folder):
    then = ("segtrain", str(folder / "photos"), "--masks", folder / "out", "-o", "SEG")
    assert run(folder)[0].next == then  # CAMs of another tool
    write_config(folder / "cams", "cam", {"model": "RUN"})
    assert run(folder, resume=True)[0].next == (*then[:4], "--init", "RUN", *then[4:])


def test_the_next_command_is_as_long_as_the_training_was_and_at_its_size(folder):
    (folder / "run").mkdir()
    model = str(folder / "run")
    write_config(model, "train", {"crop_size": 448, "iterations": 150, "batch_size": 2})
    write_config(folder / "cams", "cam", {"model": model})
    assert run(folder)[0].next[4:] == ("--init", model, "--iterations", "150", "-o", "SEG")
    write_config(folder / "cams", "cam", {})  # edited by hand
    assert run(folder, overwrite=True)[0].next[4:] == ("-o", "SEG")
    write_config(folder / "cams", "cam", {"model": model})
    (folder / "run" / "config.json").write_text("{")
    assert run(folder, overwrite=True)[0].next[4:] == ("--init", model, "-o", "SEG")


@pytest.mark.parametrize("photo", ["a", "sub dir/bär 01"])
@pytest.mark.parametrize("where", ["refine_scores", "mask_of"])
def test_a_photo_that_memory_is_too_small_for_is_skipped(folder, monkeypatch, where, photo):
    work, name = getattr(refine, where), {0: "a", 1: "sub dir/bär 01"}
    calls = iter(range(2))

    def refuses(*arguments):
        if name[next(calls)] == photo:
            raise MemoryError
        return work(*arguments)

    monkeypatch.setattr(refine, where, refuses)
    result, items = run(folder)
    assert result.skipped == 1
    assert [item["image"] for item in items] == [other for other in NAMES if other != photo]
    (record,) = read_jsonl(folder / "out" / "failed.jsonl")
    assert record["image"] == photo
    assert "there is too little memory for it" in record["reason"]


def test_a_gpu_takes_many_at_a_time_and_leaves_the_cpu_what_it_has_no_room_for(folder, monkeypatch):
    """With its batches computed on the CPU: a GPU that has no room for two, nor for the second one alone."""
    run(folder, method="crf", output=str(folder / "cpu"))
    refined, asked = refine.refine_scores, []

    def refine_scores(sources, photos, config, device):
        asked.append((device.type, len(sources)))
        if device.type == "cuda" and asked != [("cuda", 2), ("cuda", 1)]:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")
        return refined(sources, photos, config, refine.CPU)

    monkeypatch.setattr(refine, "pick_device", lambda name: torch.device("cuda"))
    monkeypatch.setattr(refine, "refine_scores", refine_scores)
    _, items = run(folder, method="crf", overlays=str(folder / "look"))
    assert asked == [("cuda", 2), ("cuda", 1), ("cuda", 1), ("cpu", 1)]
    assert [item["image"] for item in items] == list(NAMES)
    for item in items:
        assert item["overlay"].is_file()
        assert item["output"].read_bytes() == (folder / "cpu" / f"{item['image']}.png").read_bytes()
