"""What a run leaves for people to look at."""

from pathlib import Path

from logger.tensorboard import TensorBoard


def test_event_files_of_a_resumed_run_sort_in_the_order_they_were_made(tmp_path: Path) -> None:
    made: list[Path] = []
    for epoch in (1, 2, 3):
        board = TensorBoard(tmp_path, enabled=True, first_epoch=epoch)
        board.epoch({"epoch": epoch, "train_loss": 1.0})
        board.close()
        (new,) = set(tmp_path.iterdir()) - set(made)
        made.append(new)
    seconds = [file.name.split(".")[3] for file in made]
    assert seconds == sorted(set(seconds))  # one second each: names within a second sort by process and counter
