"""Records of runs in one file, which a report is made of as of the runs themselves."""

import shutil
import zipfile
from pathlib import Path

import pytest

import report
from reporting.runs.records import NAMES, unfolded, write_records
from utils.errors import DataError


@pytest.fixture
def runs(finished: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "runs" / "coco_bn_20noise" / "seed12"
    shutil.copytree(finished, folder)
    return tmp_path / "runs"


def files(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_report_of_the_records_is_that_of_the_runs(runs: Path, tmp_path: Path) -> None:
    records = tmp_path / "records" / "runs.zip"
    assert report.main([str(runs), "-o", str(tmp_path / "a"), "--records", str(records)]) == 0
    assert report.main([str(records), "-o", str(tmp_path / "b")]) == 0
    assert files(tmp_path / "a") == files(tmp_path / "b")
    assert records.stat().st_size < 10_000
    assert all(Path(name).name in NAMES for name in zipfile.ZipFile(records).namelist())


def test_records_of_several_folders_keep_them_apart(runs: Path, tmp_path: Path) -> None:
    other, records = tmp_path / "other", tmp_path / "runs.zip"
    shutil.copytree(runs / "coco_bn_20noise", other / "coco_bncn_20noise")
    for config in other.rglob("config.json"):
        config.write_text(config.read_text().replace('"bn"', '"bncn"').replace("_bn_", "_bncn_"))
    assert report.main([str(runs), str(other), "-o", str(tmp_path / "a"), "--records", str(records)]) == 0
    assert report.main([str(records), "-o", str(tmp_path / "b")]) == 0
    assert files(tmp_path / "a") == files(tmp_path / "b")
    assert b"bncn" in files(tmp_path / "b")["results.csv"]
    assert {Path(name).parts[0] for name in zipfile.ZipFile(records).namelist()} == {"runs", "other"}


def test_a_folder_within_another_is_recorded_once(runs: Path, tmp_path: Path) -> None:
    assert write_records({"a": runs, "b": runs / "coco_bn_20noise"}, tmp_path / "x.zip") == 1


def test_two_folders_of_one_name_have_no_records(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert report.main([str(runs), str(runs), "--records", "x.zip"]) == 2
    assert "two have the same" in capsys.readouterr().err


def test_the_same_runs_are_the_same_bytes(runs: Path, tmp_path: Path) -> None:
    assert write_records({"": runs}, tmp_path / "a.zip") == 1
    (runs / "coco_bn_20noise" / "seed12" / "config.json").touch()
    write_records({"": runs}, tmp_path / "b.zip")
    assert (tmp_path / "a.zip").read_bytes() == (tmp_path / "b.zip").read_bytes()


def test_a_file_that_is_no_archive_of_records(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "x.zip"
    path.write_text("text")
    assert report.main([str(path), "-o", str(tmp_path / "out")]) == 3
    assert capsys.readouterr().err.count("\n") == 1
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("../../outside/config.json", "{}")
        archive.writestr("other.txt", "x")
    with unfolded(path) as folder:
        assert [file.name for file in folder.rglob("*") if file.is_file()] == ["config.json"]
    assert not (tmp_path.parent / "outside").exists()


def test_a_bomb_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("reporting.runs.records.LARGEST", 1 << 20)
    path = tmp_path / "x.zip"
    with (
        zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive,
        archive.open("metrics.csv", "w", force_zip64=True) as file,
    ):
        for _ in range(2):
            file.write(bytes(1 << 20))
    with pytest.raises(DataError, match="unfolds to more than"), unfolded(path):
        pass
