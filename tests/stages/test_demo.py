from stcl_cli.config import DemoConfig
from stcl_cli.stages import demo


def test_demo_runs_the_whole_chain(tmp_path, monkeypatch):
    monkeypatch.setattr(demo, "SCENES", {"train": 6, "held_out": 2, "size": 48})
    monkeypatch.setattr(demo, "TRAINING", {"iterations": 2, "batch_size": 2, "crop_size": 48})
    monkeypatch.setattr(demo, "SECOND_STAGE", {"iterations": 2, "batch_size": 2, "crop_size": 48})
    result = demo.run(DemoConfig(output=str(tmp_path / "demo")))
    assert set(result.summary) == {"cams_miou", "masks_miou", "predictions_miou", "seconds"}
    assert (tmp_path / "demo" / "overview.png").is_file()
    assert len(list((tmp_path / "demo" / "pictures").iterdir())) == 2
