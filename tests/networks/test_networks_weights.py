"""Weights from untrusted bytes: safetensors that fit, or one error and no code run."""

from __future__ import annotations

import io
import pickle
import zipfile

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save

from segue.errors import UnsafeModelError
from segue.networks import build_network, load_network, save_weights

SETTINGS = {"width": 1, "dimension": 2}
WEIGHTS = save_weights(build_network("small", SETTINGS))


class Malicious:
    """An object whose unpickling makes a file."""

    def __init__(self, target):
        self.target = str(target)

    def __reduce__(self):
        return (open, (self.target, "w"))


def as_pickle(target):
    return pickle.dumps(Malicious(target))


def as_torch_save(target):
    content = io.BytesIO()
    torch.save({"weights": Malicious(target)}, content)
    return content.getvalue()


def as_archive(target):
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        archive.writestr("archive/data.pkl", as_pickle(target))
        archive.writestr("archive/version", "3")
    return content.getvalue()


@pytest.mark.parametrize("make", [as_pickle, as_torch_save, as_archive])
def test_a_file_that_would_run_code_is_refused_and_runs_none(make, tmp_path):
    """A malicious pickle, a torch.save and a .pt2-like archive are refused without being opened."""
    target = tmp_path / "ran"
    content = make(target)
    with pytest.raises(UnsafeModelError, match="can run code"):
        load_network("small", SETTINGS, content, source="weights.pt")
    assert not target.exists()


def test_the_malicious_files_of_these_tests_do_run_code(tmp_path):
    """Unpickled, the same bytes would have made the file: the test above proves something."""
    pickle.loads(as_pickle(tmp_path / "ran")).close()
    assert (tmp_path / "ran").exists()


@settings(max_examples=60, deadline=None)
@given(st.binary(max_size=200))
def test_garbage_is_refused(content):
    """Any other bytes end in the same error."""
    with pytest.raises(UnsafeModelError):
        load_network("small", SETTINGS, content)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, len(WEIGHTS) - 1))
def test_truncated_weights_are_refused(length):
    """A weights file cut anywhere is refused."""
    with pytest.raises(UnsafeModelError, match=r"truncated|tensors"):
        load_network("small", SETTINGS, WEIGHTS[:length])


def changed(change):
    state = {
        name: value.clone() for name, value in build_network("small", SETTINGS).state_dict().items()
    }
    change(state)
    return save({name: value.contiguous() for name, value in state.items()})


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda s: s.pop("heads.embedding.bias"), "missing: heads.embedding.bias"),
        (lambda s: s.update(extra=torch.zeros(1)), "foreign: extra"),
        (
            lambda s: s.update({"heads.embedding.bias": torch.zeros(3)}),
            r"heads.embedding.bias is torch.float32 \[3\], this network's is torch.float32 \[2\]",
        ),
        (
            lambda s: s.update({"heads.embedding.bias": torch.zeros(2, dtype=torch.float64)}),
            "torch.float64",
        ),
    ],
)
def test_tensors_that_are_not_the_networks_are_refused_by_name(change, told):
    """Missing, foreign, wrongly shaped and wrongly typed tensors are each named."""
    with pytest.raises(UnsafeModelError, match=told):
        load_network("small", SETTINGS, changed(change))


def test_weights_of_another_width_are_refused():
    """Settings and weights that do not belong together are refused."""
    with pytest.raises(UnsafeModelError, match="this network's is"):
        load_network("small", {"width": 2, "dimension": 2}, WEIGHTS)
