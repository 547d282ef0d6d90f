"""The manifest: complete, of plain values, and without the user's home."""

import json
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

from analyses import manifest
from analyses.settings import as_json, fingerprint, resolve


def facts() -> dict:
    return manifest.manifest(resolve(("steps",), "smoke", {}, {}), "smoke", manifest.now(), 1.0, {"engine": "inline"})


def test_it_has_what_a_reader_needs_to_repeat_the_run() -> None:
    found = facts()
    wanted = {
        "gradgauge", "command", "settings", "settings sha256", "seeds", "seeds are used", "begun", "ended", "engine",
        "source", "numerics", "environment", "machine", "packages", "data", "fonts of figures",
    }  # fmt: skip
    assert wanted <= set(found)
    assert json.loads(json.dumps(found)) == found
    assert found["settings sha256"] == fingerprint(as_json(resolve(("steps",), "smoke", {}, {})))
    assert found["seeds"] == [0] and found["packages"]["torch"] == torch.__version__
    assert {"torch threads", "cpu capability", "flush denormals", "mkldnn", "device"} <= set(found["numerics"])
    assert len(found["fonts of figures"][manifest.FONT]) == 64


def test_the_command_line_is_without_the_home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    home = tmp_path / "someone"
    monkeypatch.setattr(Path, "home", lambda: home)
    monkeypatch.setattr(sys, "argv", ["x", "report", "--out", f"{home}/runs/a", f"--config={home}/a b.toml", str(home)])
    said = manifest.command()
    assert str(home) not in said
    assert said.startswith("gradgauge report --out ~/runs/a") and said.endswith(" ~")


def test_another_folder_that_begins_alike_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "home", lambda: Path("/root"))
    monkeypatch.setattr(sys, "argv", ["x", "--out", "/rootfs/a", "/data/root/b"])
    assert manifest.command() == "gradgauge --out /rootfs/a /data/root/b"


def test_variables_that_choose_kernels_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ATEN_CPU_CAPABILITY", "default")
    assert facts()["environment"]["ATEN_CPU_CAPABILITY"] == "default"


def test_the_images_are_told_from_others(tmp_path: Path) -> None:
    for folder in ("one", "other"):
        for name in ("a", "b"):
            (tmp_path / folder / name).mkdir(parents=True)
            Image.new("L", (28, 28), len(folder)).save(tmp_path / folder / name / f"{folder}.png")
    paths = [str(tmp_path / folder) for folder in ("one", "other")]
    found = manifest.image_sets(["sinusoid", "generalized_few_shot", *(f"few_shot[data={path}]" for path in paths)])
    assert set(found) == {"glyphs", *paths} and found[paths[0]] != found[paths[1]]
