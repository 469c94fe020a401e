"""docs/faults.md against the tests that it names."""

import re

from tests.conftest import ROOT

TEXT = (ROOT / "docs" / "faults.md").read_text()
LIST = TEXT[: TEXT.index("\n## ")]
ROWS = re.findall(r"^\| (\d+) \|(.*)$", LIST, flags=re.MULTILINE)
SOURCES = {path.name: path.read_text() for path in sorted((ROOT / "tests").glob("test_*.py"))}
TESTS = {name for source in SOURCES.values() for name in re.findall(r"^def (test_\w+)\(", source, flags=re.MULTILINE)}


def named(text: str) -> list[str]:
    return re.findall(r"`(test_[a-z0-9_]+)`", text)


def test_every_fault_is_listed_once_with_a_test_that_exists() -> None:
    assert [int(number) for number, _ in ROWS] == list(range(1, 77))
    for number, text in ROWS:
        assert named(text), number
    assert set(named(TEXT)) <= TESTS, set(named(TEXT)) - TESTS


def test_every_test_with_a_number_stands_in_its_row() -> None:
    rows = {int(number): set(named(text)) for number, text in ROWS}
    for name in TESTS:
        for number in re.findall(r"(?<=_)\d\d(?=_)", re.match(r"test(_\d\d)*_|", name)[0]):
            assert name in rows[int(number)], (number, name)


def test_every_fault_but_those_that_take_long_has_a_fast_test() -> None:
    slow = {
        name
        for source in SOURCES.values()
        for name in re.findall(r"@pytest\.mark\.slow\n(?:@.*\n)*def (test_\w+)\(", source)
    }
    without = [number for number, text in ROWS if not set(named(text)) - slow]
    assert without == ["2"], "25 kills take a while; row 1 kills at the worst moments"
    for number, text in ROWS:
        for name in set(named(text)) & slow:
            assert f"`{name}` *slow*" in text, (number, name)
