"""notebooks/experiment.ipynb, run as papermill would run it: the parameters cell, then a cell that overrides it."""

import signal
import threading
import time
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient
from nbclient.exceptions import DeadKernelError

from tests.conftest import ROOT
from tests.runs import rows

NOTEBOOK = ROOT / "notebooks" / "experiment.ipynb"
SMALL = {"arch.args.width": 4, "data_loader.args.subset": 200, "trainer.device": "cpu"}


def client(place: Path, **parameters: object) -> NotebookClient:
    notebook = nbformat.read(NOTEBOOK, 4)
    own = "\n".join(f"{name} = {value!r}" for name, value in parameters.items())
    (at,) = [i for i, cell in enumerate(notebook.cells) if "parameters" in cell.metadata.get("tags", [])]
    notebook.cells.insert(at + 1, nbformat.v4.new_code_cell(own))
    return NotebookClient(notebook, timeout=500, kernel_name="python3", resources={"metadata": {"path": str(place)}})


def test_it_is_stored_without_outputs_and_its_first_cell_holds_the_parameters() -> None:
    notebook = nbformat.read(NOTEBOOK, 4)
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert all(not cell.outputs and cell.execution_count is None for cell in code)
    assert notebook.cells[0].metadata.tags == ["parameters"]
    assert all(f"\n{name} = " in f"\n{notebook.cells[0].source}" for name in ("dataset", "arm", "noise", "repository"))


@pytest.mark.slow
def test_it_trains_and_shows_curves_confusions_and_wrong_answers(tmp_path: Path) -> None:
    """From a folder within the repository, with no widgets, and without a warning of it."""
    run = client(ROOT / "notebooks", arm="bn", noise=20, epochs=2, save_dir=str(tmp_path), overrides=SMALL)
    done = run.execute()
    pictures = [o for cell in done.cells for o in cell.get("outputs", ()) if "image/png" in o.get("data", {})]
    assert len(pictures) == 3
    text = "".join(o.get("text", "") for cell in done.cells for o in cell.get("outputs", ()))
    assert "answers are wrong" in text
    assert "images/s" in text
    assert "IProgress" not in text
    (folder,) = tmp_path.iterdir()
    assert [row["epoch"] for row in rows(folder)] == ["1", "2"]


@pytest.mark.slow
def test_after_a_killed_kernel_it_goes_on_from_the_last_checkpoint(tmp_path: Path) -> None:
    parameters = {"arm": "bn", "noise": 10, "epochs": 4, "save_dir": str(tmp_path), "overrides": SMALL}
    first = client(ROOT / "notebooks", **parameters)

    def kill() -> None:
        while not list(tmp_path.glob("*/checkpoint-epoch2.pth")):
            time.sleep(0.02)
        first.km.provisioner.process.send_signal(signal.SIGKILL)

    killer = threading.Thread(target=kill, daemon=True)
    killer.start()
    with pytest.raises(DeadKernelError):
        first.execute()
    killer.join()
    (folder,) = tmp_path.iterdir()
    saved = max(int(path.stem.removeprefix("checkpoint-epoch")) for path in folder.glob("checkpoint-epoch?.pth"))
    assert saved < 4, "it was to be killed in mid-training"
    client(ROOT / "notebooks", **parameters).execute()
    assert [row["epoch"] for row in rows(folder)] == ["1", "2", "3", "4"]
    log = (folder / "train.log").read_text()
    assert log.count("epoch 1/4") == 1
    assert log.count("run folder:") == 3  # begun twice, ended once
