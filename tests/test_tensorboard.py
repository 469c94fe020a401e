"""What a run leaves for people to look at."""

import io
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from tensorboard.backend.event_processing.data_provider import MultiplexerDataProvider
from tensorboard.backend.event_processing.plugin_event_multiplexer import EventMultiplexer
from tensorboard.context import RequestContext
from tensorboard.plugins import base_plugin
from tensorboard.plugins.hparams.backend_context import Context

from logger.confusion import Confusion, confusion_table
from logger.tensorboard import TensorBoard
from logger.thumbnails import thumbnails
from tests.runs import scalars


def test_event_files_of_a_resumed_run_sort_in_the_order_they_were_made(tmp_path: Path) -> None:
    made: list[Path] = []
    for epoch in (1, 2, 3):
        board = TensorBoard(tmp_path, enabled=True, first_epoch=epoch)
        board.epoch({"epoch": epoch, "train_loss": 1.0})
        board.close()
        (new,) = set(tmp_path.glob("events*")) - set(made)
        made.append(new)
    seconds = [file.name.split(".")[3] for file in made]
    assert seconds == sorted(set(seconds))  # one second each: names within a second sort by process and counter


def test_the_table_of_runs_shows_norm_noise_rate_seed_and_accuracy_first(finished: Path) -> None:
    """In the order that TensorBoard itself gives the columns."""
    multiplexer = EventMultiplexer().AddRunsFromDirectory(str(finished)).Reload()
    provider = MultiplexerDataProvider(multiplexer, str(finished))
    context = Context(base_plugin.TBContext(data_provider=provider))
    content = context.hparams_metadata(RequestContext(), "")
    experiment = context.experiment_from_metadata(RequestContext(), "", True, content, [])
    settings = [info.name for info in experiment.hparam_infos]
    assert settings == ["arch.args.norm", "label_noise.rate", "optimizer.args.lr", "seed"]
    figures = [info.name.tag for info in experiment.metric_infos]
    assert figures[0] == "test/accuracy"
    assert set(figures) <= scalars(finished).keys(), "a figure of the table is no curve"


def test_thumbnails_frame_what_is_wrong() -> None:
    images = torch.full((8, 3, 8, 8), 100, dtype=torch.uint8)
    named, true = torch.tensor([0, 1, 2, 0, 0, 0, 0, 5]), torch.tensor([0, 1, 1, 0, 0, 0, 0, 0])
    sheet = np.asarray(Image.open(io.BytesIO(thumbnails(images, named, true, ("a", "b", "\x1b[31m" * 9)))))
    red = (sheet == (200, 30, 30)).all(2)
    cell_height, cell_width = 92, 66
    framed = {
        (row, column)
        for row in range(2)
        for column in range(6)
        if red[row * cell_height + 6 :, column * cell_width + 6 :][:60, -3 + 60 : 63].any()
    }
    assert framed == {(0, 2), (1, 1)}


def test_a_link_in_the_place_of_a_splits_folder_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "val").symlink_to(tmp_path / "mine")
    TensorBoard(tmp_path / "run", enabled=True, first_epoch=1).close()
    assert not list((tmp_path / "mine").iterdir())


def test_confusions_are_a_table_that_strangers_names_do_not_break() -> None:
    true, predicted = torch.tensor([0, 0, 0, 1, 1]), torch.tensor([1, 1, 0, 1, 0])
    table = confusion_table(Confusion.of(predicted, true, ("a|b", "<i>"))).splitlines()
    assert table[2:] == ["| a\\|b | \\<i\\> | 2 | 67% |", "| \\<i\\> | a\\|b | 1 | 50% |"]
    assert confusion_table(Confusion.of(true, true, ("a", "b"))) == "no mistake"
