"""What is said of a config that is wrong: each problem in words, the choices, and a guess at what was meant."""

import contextlib
import json
import math
import re
from collections.abc import Iterable, Sequence
from itertools import islice
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from config_schema import LIBRARIES, NULL_IS_UNSET, Config, UnknownChoice, name_of, types_of
from utils import strict_json
from utils.errors import ConfigError
from utils.keys import value_at
from utils.text import LONGEST_GUESS, did_you_mean, shortened

MOST_PROBLEMS = 20  # that one message lists
ADVICE = "; write "


def config_error(source: str, problems: Iterable[str], count: int) -> ConfigError:
    listed = [*islice(problems, MOST_PROBLEMS), *["..."] * (count > MOST_PROBLEMS)]
    return ConfigError(f"{source}: {'1 problem' if count == 1 else f'{count} problems'}: {'; '.join(listed)}")


def describe(problem: Any, values: dict[str, Any]) -> str:
    """One pydantic problem of `values` as `path: what is wrong, the choices, did you mean`."""
    keys, block, name = _place(problem["loc"], values)
    path, given = ".".join(keys) or "config", problem["input"]
    kind, context = problem["type"], problem.get("ctx", {})
    if kind == "extra_forbidden":
        known = list(block.model_fields)
        if not _fields_at(keys):
            return f"unknown key {path!r}{_key_meant(keys, known)}"
        taken = ", ".join(key for key in known if key != "type")
        return f"{path}: {name} does not take it; it takes {taken or 'no arguments'}"
    if kind == "missing":
        return f"{path}: {f'{name} needs it' if name else 'missing'}; {block.model_fields[keys[-1]].description}"
    if kind == "union_tag_invalid":
        given = given["type"]
        path += ".type" if isinstance(value_at(values, keys), dict) else ""
    if kind in ("literal_error", "union_tag_invalid"):
        choices = re.findall(r"'([^']*)'", context.get("expected") or context["expected_tags"])
        choices += [f"{library}/NAME" for library in LIBRARIES if path == "arch.type"]
        listed = f"{did_you_mean(str(given), choices)}; choose from {', '.join(choices)}"
        of = f" for {name}" if "/" in name else ""
        return f"{path}: unknown choice {given!r}{of}{listed}{_json_form(kind, given, NoneType in kinds_at(keys))}"
    if kind in ("model_type", "model_attributes_type"):
        return f"{path}: must be an object {{...}}, got {shortened(given)}"
    if kind == "value_error":
        error = context["error"]
        return f"{path}: {error}{did_you_mean(given, error.choices) if isinstance(error, UnknownChoice) else ''}"
    form = _json_form(kind, given, NoneType in kinds_at(keys))
    next_problem = _next_problem(problem["loc"], values, keys, form)
    if next_problem:
        return next_problem
    message = problem["msg"].removeprefix("Input ")
    return f"{path}: {message}, got {shortened(given)}{form}"


def _key_meant(keys: Sequence[str], known: Sequence[str]) -> str:
    """The end of a message on an unknown key: a similar key beside it or among the arguments, and the known keys."""
    *above, key = keys
    listed = f"; keys here: {', '.join(known) or 'none'}"
    args = ".".join([*above, "args"])
    if _fields_at([*above, "args", key]):
        return f"; did you mean {f'{args}.{key}'!r}?{listed}"
    elsewhere = [path for path in Config(name="x").settings() if path.rpartition(".")[2] == key]
    if len(elsewhere) == 1:
        return f"; did you mean {elsewhere[0]!r}?{listed}"
    guess = did_you_mean(key, known)
    return guess + listed + (f"; arguments go to {args}" if "args" in known and not guess else "")


def _next_problem(loc: Sequence[str | int], values: dict[str, Any], keys: Sequence[str], form: str) -> str:
    """The problem that is left at `loc` after the user has followed the advice `form`; empty if there is none."""
    try:
        changed = _replaced(values, keys, json.loads(form.removeprefix(ADVICE)))
        if changed == values:  # it is what was given
            return ""
        Config.model_validate(changed)
    except json.JSONDecodeError:  # the advice is not a value
        return ""
    except ValidationError as error:
        left = [problem for problem in error.errors() if problem["loc"][: len(loc)] == loc]
        if left:
            field = _fields_at(keys)[:1]
            default = f"; the default is {shortened(field[0].default)}" if field and not field[0].is_required() else ""
            return describe(left[0], changed) + default
    return ""


def _replaced(block: Any, keys: Sequence[str], value: Any) -> Any:
    """`block` with `value` at a path of keys and of indices of lists."""
    if not keys:
        return value
    if isinstance(block, list):
        return [_replaced(each, keys[1:], value) if str(n) == keys[0] else each for n, each in enumerate(block)]
    return block | {keys[0]: _replaced(block.get(keys[0]), keys[1:], value)} if isinstance(block, dict) else block


def _place(loc: Sequence[str | int], values: dict[str, Any]) -> tuple[list[str], type[BaseModel], str]:
    """The keys to a problem, the block that the last of them is in, and the type that a block on the way is of, if any.

    Where there is a block for each type, pydantic's `loc` has `name_of` the block among the keys.
    """
    keys: list[str] = []
    name = ""
    block: type[BaseModel] = Config
    below = types_of(Config)
    for part in loc:
        if len(below) > 1:
            below = [choice for choice in below if name_of(choice) == part]
            name = str(value_at(values, [*keys, "type"]) or part)
            continue
        block = below[0] if below else block
        keys.append(str(part))
        field = block.model_fields.get(keys[-1])
        below = types_of(field.annotation) if field else []
    return keys, block, name


def _json_form(kind: str, given: Any, nullable: bool) -> str:
    """The end of a message on a value of the wrong type: how JSON has what was meant, where that can be told."""
    if isinstance(given, dict | list) or (isinstance(given, str) and len(given) > LONGEST_GUESS):
        return ""
    text = given if isinstance(given, str) else json.dumps(given)
    word = text.strip().strip("'\"").lower()
    form: str | None = None
    if word in ("none", "null", "nil") and nullable:
        form = "null"
    elif kind == "bool_type":
        form = {"true": "true", "yes": "true", "on": "true", "1": "true"}.get(word)
        form = form or {"false": "false", "no": "false", "off": "false", "0": "false"}.get(word, "true or false")
    elif kind.startswith(("float", "int")):
        form = _number(word, whole=kind.startswith("int")) or (
            "a whole number, such as 16" if kind.startswith("int") else "a number as JSON has it, such as 0.05 or 1e-3"
        )
    elif kind == "string_type":
        form = json.dumps(text)
    elif kind == "list_type":
        form = _list(text)
    return ADVICE + form if form else ""


def _number(word: str, whole: bool) -> str | None:
    """.05, 1., 0x10, 1_000 and the like as JSON has them; None if it is no finite number, or not whole where asked."""
    for read in (float, lambda text: float(int(text, 0))):
        with contextlib.suppress(ValueError, OverflowError):
            number = read(word)
            if math.isfinite(number) and number.is_integer() >= whole:
                return str(int(number)) if whole else json.dumps(number)
    return None


def _list(text: str) -> str:
    """What stands between commas as a JSON list."""
    inner = text.strip().strip("()[]")
    try:
        return json.dumps(strict_json.loads(f"[{inner}]"))
    except json.JSONDecodeError:
        words = (part.strip().strip("'\"") for part in inner.split(","))
        return f"[{', '.join(_number(word, whole=False) or json.dumps(word) for word in words)}]"


def _fields_at(keys: Sequence[str]) -> list[FieldInfo]:
    """The fields of that path, in whichever types of the blocks on the way there are some."""
    fields: list[FieldInfo] = []
    blocks = types_of(Config)
    for key in keys:
        fields = [block.model_fields[key] for block in blocks if key in block.model_fields]
        blocks = [block for field in fields for block in types_of(field.annotation)]
    return fields


def kinds_at(keys: Sequence[str]) -> set[Any]:
    """The plain types that may stand at that path, {str, NoneType} for trainer.amp; none where no setting is."""
    kinds = set().union(*(_kinds(field.annotation) for field in _fields_at(keys)))
    has_types = len(types_of(Config.model_fields[keys[0]].annotation)) > 1 if kinds else False
    return kinds | {NoneType} if has_types and keys[-1] in NULL_IS_UNSET else kinds


def _kinds(annotation: Any) -> set[Any]:
    origin, parts = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _kinds(parts[0])
    if origin in (Union, UnionType):
        return set().union(*map(_kinds, parts))
    if origin is Literal:
        return set(map(type, parts))
    return {origin or annotation}
