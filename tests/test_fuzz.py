"""A moment of each target of tests/fuzz.py, the same each time, and what `make fuzz` has found so far."""

import io
import json
import random
import zipfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from data_loader.restricted_pickle import load_arrays
from parse_config import load_config
from tests import fuzz
from tests.fuzz import TARGETS, Find, Target, mutate, try_case
from tests.runs import launch
from tests.test_config import RESOLVED, every_key
from utils.errors import ConfigError, DataError

same_each_time = settings(
    derandomize=True, deadline=None, max_examples=80, database=None, suppress_health_check=list(HealthCheck)
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)
SHORT = st.sampled_from(
    [None, True, False, 0, 1, -1, 2**63, 1e308, 1e-320, "", "x", "\0", "~nobody/x", "\ud800", [], {}]
)


@same_each_time
@given(JSON)
def test_any_json_is_a_config_or_one_line(values: object) -> None:
    assert try_case(TARGETS["config"], json.dumps(values).encode()) in ("accepted", "refused")


@same_each_time
@given(st.sampled_from(every_key(RESOLVED)), JSON | SHORT)
def test_any_value_in_a_shipped_config_is_taken_or_refused_in_one_line(path: tuple[str, ...], value: object) -> None:
    values = json.loads(json.dumps(RESOLVED))
    block = values
    for key in path[:-1]:
        block = block[key]
    block[path[-1]] = value
    assert try_case(TARGETS["config"], json.dumps(values).encode()) in ("accepted", "refused")


@same_each_time
@given(st.sampled_from(every_key(RESOLVED)), st.text() | JSON.map(json.dumps))
def test_any_override_is_taken_or_refused_in_one_line(path: tuple[str, ...], text: str) -> None:
    base = Path(__file__).parent.parent / "configs" / "coco_bncn_10noise.json"
    try:
        load_config(base, [f"{'.'.join(path)}={text}"])
    except ConfigError as error:
        fuzz.one_line(error)


RUBBISH = ['{"name": 1e999}', '{"name": "\\ud800"}', '{"\\n": "\\u0000"}', '{"seed": 1' + "0" * 99 + "}"]


@pytest.mark.parametrize("text", RUBBISH)
def test_a_config_of_rubbish_ends_the_program_with_one_line(tmp_path: Path, text: str) -> None:
    (tmp_path / "c.json").write_text(text)
    ended = launch(tmp_path, "-c", tmp_path / "c.json")
    assert (ended.code, ended.err.count("\n"), ended.out) == (2, 1, "")


@pytest.mark.parametrize("name", TARGETS)
def test_mutations_of_what_is_whole(name: str) -> None:
    """Whole files are accepted, mutations accepted or refused; nothing else happens."""
    target = TARGETS[name]
    seeds = target.seeds()
    assert {try_case(target, data) for data in seeds} == {"accepted"}

    @same_each_time
    @given(st.integers(0, 2**32))
    def mutations(seed: int) -> None:
        draw = random.Random(seed)
        try_case(target, mutate(draw, draw.choice(seeds), seeds))

    mutations()


PIECES = [
    *(bytes([opcode]) for opcode in b"()]}012Nt\x85\x86\x87ldaesubR\x81\x93\x94."),
    *(
        b"K\x00",
        b"K\x01",
        b"C\x01b",
        b"X\x01\x00\x00\x00a",
        b"X\x02\x00\x00\x00u1",
        b"\x8c\x01a",
        b"(K\x00t",
        b"(K\x01K\x02t",
    ),
    *(b"h\x00", b"q\x00", b"r\xff\xff\xff\xff", b"j\x00\x00\x00\x00", b"\x96\xff\xff\xff\xff\xff\xff\xff\x0f"),
    *(b"cnumpy\nndarray\n", b"cnumpy\ndtype\n", b"c_codecs\nencode\n", b"cnumpy._core.multiarray\nscalar\n"),
    *(b"cnumpy._core.multiarray\n_reconstruct\n", b"cnumpy._core.numeric\n_frombuffer\n"),
]


@settings(same_each_time, max_examples=600)
@given(st.lists(st.sampled_from(PIECES), max_size=30))
def test_any_opcodes_make_plain_values_or_are_malformed(pieces: list[bytes]) -> None:
    try:
        load_arrays(b"\x80\x04" + b"".join(pieces) + b".", "file")
    except DataError as error:
        fuzz.one_line(error)


def test_what_breaks_its_word_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """The fuzz itself: errors of another kind, of more than one line, and endless cases."""

    def fails(data: bytes) -> str:
        raise KeyError("x")

    def never_ends(data: bytes) -> str:
        while True:
            pass

    with pytest.raises(Find, match="KeyError"):
        try_case(Target(list, fails), b"")
    monkeypatch.setattr(fuzz, "SECONDS", 0.1)
    with pytest.raises(Find, match=r"more than 0\.1 s"):
        try_case(Target(list, never_ends), b"")
    with pytest.raises(Find, match="not one line"):
        fuzz.one_line(DataError("a\nb"))


# --- what was found ------------------------------------------------------------------------------------------------


def npz_with_header(header: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name in ("images", "labels"):
            archive.writestr(f"{name}.npy", b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header)
    return buffer.getvalue()


FINDS = [
    ("npz", npz_with_header(b"{'descr': (((\n")),  # tokenize.TokenError went by
    ("npz", npz_with_header(b"{'descr': '''\n")),
]


@pytest.mark.parametrize(("name", "data"), FINDS, ids=range(len(FINDS)))
def test_what_has_been_found_stays_mended(name: str, data: bytes) -> None:
    assert try_case(TARGETS[name], data) == "refused"
