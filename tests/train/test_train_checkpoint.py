"""Checkpoints that are damaged: every one is refused in one sentence, with what to do."""

from __future__ import annotations

import dataclasses
import json

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load, save
from train_world import BASE, Killed, kill_at, without_time

from segue.errors import FormatError, UnsafeModelError
from segue.train import train_base
from segue.train.checkpoint import FILE_NAME, Checkpoint, load_checkpoint, save_checkpoint

OF = {"kind": "base", "settings": {"steps": 3}}
GOOD = {"format": 2, "of": OF, "step": 1, "history": [{"step": 1, "loss": 0.5}], "seconds": 2.5}
ADVICE = "delete it to begin the training anew"


def _checkpoint():
    weights = {"network.a": torch.arange(6.0).reshape(2, 3), "network.count": torch.tensor(4)}
    state = {0: {"step": torch.tensor(1.0), "exp_avg": torch.ones(2, 3)}}
    return Checkpoint(1, weights, state, list(GOOD["history"]), 2.5)


def _as_values(checkpoint):
    return (
        checkpoint.step,
        checkpoint.history,
        checkpoint.seconds,
        {name: value.tolist() for name, value in checkpoint.weights.items()},
        {
            number: {name: value.tolist() for name, value in values.items()}
            for number, values in checkpoint.optimiser.items()
        },
    )


def _write(folder, header, tensors=None, **metadata):
    """Write a checkpoint of some header without a checksum."""
    text = header if isinstance(header, str) else json.dumps(header)
    found = {"weights.network.a": torch.zeros(2)} if tensors is None else tensors
    (folder / FILE_NAME).write_bytes(save(found, {"segue": text, **metadata}))


def test_a_checkpoint_comes_back_as_it_was_saved(tmp_path):
    """All of it, numbers of all kinds among them; there is none in an empty folder."""
    assert load_checkpoint(tmp_path, OF) is None
    save_checkpoint(tmp_path, _checkpoint(), OF)
    assert _as_values(load_checkpoint(tmp_path, OF)) == _as_values(_checkpoint())


def test_every_changed_byte_of_numbers_is_refused(tmp_path):
    """One bit of a weight or of the optimiser's state makes another checkpoint."""
    save_checkpoint(tmp_path, _checkpoint(), OF)
    path = tmp_path / FILE_NAME
    content = path.read_bytes()
    begin = 8 + int.from_bytes(content[:8], "little")
    for place in range(begin, len(content)):
        changed = bytearray(content)
        changed[place] ^= 64
        path.write_bytes(bytes(changed))
        with pytest.raises(UnsafeModelError, match=f"not what was saved; {ADVICE}"):
            load_checkpoint(tmp_path, OF)


@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_changed_bit_anywhere_is_refused_or_changes_nothing(tmp_path, data):
    """Whatever bit is flipped: our own error, or the checkpoint as it was; never another one."""
    save_checkpoint(tmp_path, _checkpoint(), OF)
    path = tmp_path / FILE_NAME
    changed = bytearray(path.read_bytes())
    changed[data.draw(st.integers(0, len(changed) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    path.write_bytes(bytes(changed))
    try:
        found = load_checkpoint(tmp_path, OF)
    except (UnsafeModelError, FormatError):
        return
    assert _as_values(found) == _as_values(_checkpoint())


@pytest.mark.parametrize(
    ("change", "named"),
    [
        *(({name: ...}, name) for name in ("of", "step", "history", "seconds")),
        *(({"of": value}, "of") for value in (None, [], "base", {"settings": [1]})),
        *(({"step": value}, "step") for value in (None, "1", -1, 1.5, True, [])),
        *(({"history": v}, "history") for v in (None, {}, [1], [{"loss": "x"}], [{"loss": None}])),
        *(({"seconds": value}, "seconds") for value in (None, "1", -1, float("nan"), float("inf"))),
        *(({"format": value}, "format") for value in (True, "2", 2.0, None, 0, -1, [2])),
        ({"step": None, "seconds": "x"}, "step, seconds"),
    ],
)
def test_a_header_that_lacks_an_entry_or_has_another_type_is_refused(tmp_path, change, named):
    """The entry is named, whatever it is, and what to do."""
    header = {name: value for name, value in {**GOOD, **change}.items() if value is not ...}
    _write(tmp_path, header)
    with pytest.raises(UnsafeModelError, match=rf"header is damaged \({named}\); {ADVICE}"):
        load_checkpoint(tmp_path, OF)


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "3", '"x"', "{}", "[" * 100_000])
def test_a_header_that_is_none_is_refused(tmp_path, text):
    """Text that is no JSON object with a format is no checkpoint's."""
    _write(tmp_path, text)
    with pytest.raises(UnsafeModelError, match=f"no checkpoint of a training; {ADVICE}"):
        load_checkpoint(tmp_path, OF)


@pytest.mark.parametrize("content", [b"", b"x", b"\0" * 8, b"\xff" * 64])
def test_a_file_that_is_no_safetensors_is_refused(tmp_path, content):
    """Also here the advice is what to do about a checkpoint."""
    (tmp_path / FILE_NAME).write_bytes(content)
    with pytest.raises(UnsafeModelError, match=ADVICE):
        load_checkpoint(tmp_path, OF)


@pytest.mark.parametrize("of", [{}, {"kind": 3}, {"kind": "base"}, {"settings": {}}])
def test_a_header_of_format_1_that_lacks_what_it_is_of_is_another_trainings(tmp_path, of):
    """Lifting it to today's words raises nothing else."""
    _write(tmp_path, {**GOOD, "format": 1, "of": of})
    with pytest.raises(Exception, match="checkpoint of another training"):
        load_checkpoint(tmp_path, OF)


@pytest.mark.parametrize(
    "name", ["other", "optimiser.x.exp_avg", "optimiser.0", "optimiser.-1.step", "optimiser.1."]
)
def test_a_tensor_that_no_training_has_is_refused(tmp_path, name):
    """It is named, and is neither left out nor taken for something."""
    _write(tmp_path, GOOD, {name: torch.zeros(1)})
    with pytest.raises(UnsafeModelError, match=f"'{name}'.*{ADVICE}"):
        load_checkpoint(tmp_path, OF)


def test_without_a_checksum_a_checkpoint_is_read_unless_its_numbers_are_none(tmp_path):
    """As older ones of this format are; infinity and NaN are damage all the same."""
    _write(tmp_path, GOOD)
    assert load_checkpoint(tmp_path, OF).step == 1
    for value in (float("nan"), float("inf")):
        _write(tmp_path, GOOD, {"weights.network.a": torch.tensor([0.0, value])})
        with pytest.raises(UnsafeModelError, match=f"weights.network.a holds NaN.*{ADVICE}"):
            load_checkpoint(tmp_path, OF)
    _write(tmp_path, GOOD, **{"segue.sha256": "0" * 64})
    with pytest.raises(UnsafeModelError, match="not what was saved"):
        load_checkpoint(tmp_path, OF)


@pytest.fixture(scope="module", params=["adam", "sgd"])
def killed(request, faces, tmp_path_factory):
    """Settings, and the folder of a training that was killed after 6 of 10 steps."""
    folder = tmp_path_factory.mktemp("killed")
    chosen = dataclasses.replace(BASE, optimiser=request.param, checkpoint_every=3)
    with pytest.raises(Killed):
        train_base(faces, chosen, checkpoint=folder, progress=kill_at(6))
    return chosen, folder


def _header(folder):
    content = (folder / FILE_NAME).read_bytes()
    length = int.from_bytes(content[:8], "little")
    return json.loads(json.loads(content[8 : 8 + length])["__metadata__"]["segue"])


def _no_state(_state):
    return {}


def _of_other_parameters(state):
    return {number + 1000: values for number, values in state.items()}


def _under_other_names(state):
    return {**state, 0: {f"other_{key}": value for key, value in state[0].items()}}


def _of_another_shape(state):
    return {**state, 0: {key: torch.zeros(2, 7) for key in state[0]}}


def _of_another_type(state):
    return {**state, 0: {key: value.to(torch.int64) for key, value in state[0].items()}}


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (_no_state, "lacks the optimiser's state"),
        (_of_other_parameters, "the state of another optimiser"),
        (_under_other_names, "the state of another optimiser"),
        (_of_another_shape, "does not fit"),
        (_of_another_type, "does not fit"),
    ],
)
def test_a_state_that_is_not_the_optimisers_is_refused(faces, killed, tmp_path, change, told):
    """A training does not go on with it, with an error of torch's or in silence."""
    chosen, folder = killed
    of = _header(folder)["of"]
    found = load_checkpoint(folder, of)
    save_checkpoint(tmp_path, dataclasses.replace(found, optimiser=change(found.optimiser)), of)
    with pytest.raises(UnsafeModelError, match=f"{told}.*{ADVICE}"):
        train_base(faces, chosen, checkpoint=tmp_path)


def test_a_checkpoint_beyond_the_last_step_or_of_other_weights_is_refused(faces, killed, tmp_path):
    """It is not returned as a training that has ended."""
    chosen, folder = killed
    of = _header(folder)["of"]
    found = load_checkpoint(folder, of)
    save_checkpoint(tmp_path, dataclasses.replace(found, step=11), of)
    with pytest.raises(UnsafeModelError, match=f"of step 11, and the training has 10; {ADVICE}"):
        train_base(faces, chosen, checkpoint=tmp_path)
    save_checkpoint(tmp_path, dataclasses.replace(found, weights={}), of)
    with pytest.raises(UnsafeModelError, match=f"not this network's.*{ADVICE}"):
        train_base(faces, chosen, checkpoint=tmp_path)


def test_a_training_goes_on_from_a_checkpoint_without_a_checksum(faces, killed, tmp_path):
    """As with one, to the same weights."""
    chosen, folder = killed
    _write(tmp_path, _header(folder), load((folder / FILE_NAME).read_bytes()))
    assert b"segue.sha256" not in (tmp_path / FILE_NAME).read_bytes()
    resumed = train_base(faces, chosen, checkpoint=tmp_path)
    assert without_time(resumed) == without_time(train_base(faces, chosen))
