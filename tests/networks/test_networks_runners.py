"""Preprocessing and the two runners."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from segue.errors import RegistryError, UnknownNameError, UnsafeModelError, UsageError, VectorError
from segue.networks import OnnxRunner, TorchRunner, build_network, embed, prepare
from segue.types import Preprocessing

SIDE, DIMENSION = 8, 5


def onnx_model(batch="N", *, size=SIDE, nodes=None, domain="", shape=("N", DIMENSION), outputs=1):
    """A linear embedding of [N, 3, size, size] as ONNX bytes."""
    generator = np.random.default_rng(0)
    flat = 3 * SIDE * SIDE
    weights = numpy_helper.from_array(
        generator.normal(size=(flat, DIMENSION)).astype(np.float32), "weights"
    )
    names = ["vectors", *(f"further{i}" for i in range(1, outputs))]
    made = nodes or [
        helper.make_node("Flatten", ["images"], ["flat"], axis=1),
        *(helper.make_node("MatMul", ["flat", "weights"], [name], domain=domain) for name in names),
    ]
    graph = helper.make_graph(
        made,
        "model",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, [batch, 3, size, size])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in names],
        [weights],
    )
    opsets = [helper.make_opsetid("", 18)] + ([helper.make_opsetid(domain, 1)] if domain else [])
    return helper.make_model(graph, opset_imports=opsets, ir_version=9)


def reference(batch):
    """The slow obvious embedding of `onnx_model`."""
    weights = np.random.default_rng(0).normal(size=(3 * SIDE * SIDE, DIMENSION)).astype(np.float32)
    vectors = []
    for image in batch:
        vector = image.reshape(-1).astype(np.float64) @ weights.astype(np.float64)
        vectors.append(vector / np.sqrt((vector**2).sum()))
    return np.array(vectors).reshape(len(batch), DIMENSION)


def images_of(count, side=SIDE, seed=1):
    return np.random.default_rng(seed).integers(0, 256, (count, side, side, 3), dtype=np.uint8)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 4), st.integers(1, 5), st.integers(1, 5), st.sampled_from(["RGB", "BGR"]))
def test_prepare_is_the_formula_per_value(count, height, width, colour):
    """Each value is (x / 255 - mean) / std of its channel, in the order of the colours."""
    how = Preprocessing(height, width, (0.1, 0.2, 0.3), (0.4, 0.5, 0.6), colour)
    images = np.random.default_rng(0).integers(0, 256, (count, height, width, 3), dtype=np.uint8)
    found = prepare(images, how)
    assert found.shape == (count, 3, height, width)
    assert found.dtype == np.float32
    for n in range(count):
        for channel in range(3):
            source = channel if colour == "RGB" else 2 - channel
            expected = (images[n, :, :, source] / 255 - how.mean[channel]) / how.std[channel]
            np.testing.assert_allclose(found[n, channel], expected, atol=1e-5)


@pytest.mark.parametrize(
    ("how", "error"),
    [
        (Preprocessing(4, 5), VectorError),
        (Preprocessing(4, 4, colour="GBR"), UsageError),
        (Preprocessing(4, 4, std=(0.0, 1.0, 1.0)), UsageError),
    ],
)
def test_prepare_refuses_what_does_not_fit(how, error):
    """Images of another size, unknown colours and a std of 0 are refused."""
    with pytest.raises(error):
        prepare(images_of(1, 4), how)


def test_the_torch_runner_does_not_depend_on_how_a_call_is_cut(monkeypatch):
    """Many images at once give the vectors that they give one by one, and no gradient."""
    torch.manual_seed(0)
    runner = TorchRunner(build_network("small", {"width": 2, "dimension": 4}))
    batch = np.random.default_rng(0).normal(size=(7, 3, 32, 32)).astype(np.float32)
    monkeypatch.setattr("segue.networks.torch_runner.BATCH", 3)
    together = runner.run(batch)["embedding"]
    alone = np.concatenate([runner.run(batch[i : i + 1])["embedding"] for i in range(7)])
    np.testing.assert_allclose(together, alone, atol=1e-6)
    np.testing.assert_array_equal(together, runner.run(batch)["embedding"])


def test_the_torch_runner_leaves_the_networks_mode_and_statistics():
    """Embedding in the middle of a training changes neither the mode nor the running statistics."""
    network = build_network("small", {"width": 2, "dimension": 4}).train()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    TorchRunner(network).run(np.zeros((2, 3, 32, 32), np.float32))
    assert network.training
    for name, value in network.state_dict().items():
        assert torch.equal(value, before[name])


@pytest.mark.parametrize("runner", ["torch", "onnx"])
def test_no_images_give_no_vectors(runner):
    """An empty batch gives an empty array of the right dimension."""
    if runner == "torch":
        found = TorchRunner(build_network("small", {"width": 2, "dimension": 4})).run(
            np.empty((0, 3, 32, 32), np.float32)
        )
        assert found["embedding"].shape == (0, 4)
    else:
        found = OnnxRunner(onnx_model().SerializeToString(), threads=1).run(
            np.empty((0, 3, SIDE, SIDE), np.float32)
        )
        assert found["embedding"].shape == (0, DIMENSION)


@pytest.mark.parametrize("batch", ["N", 1, 4])
@pytest.mark.parametrize("count", [1, 3, 4, 9])
def test_the_onnx_runner_equals_the_obvious_product(batch, count):
    """Dynamic and fixed batches give the same unit vectors, whatever the number of images."""
    runner = OnnxRunner(onnx_model(batch).SerializeToString(), threads=1)
    images = np.random.default_rng(count).normal(size=(count, 3, SIDE, SIDE)).astype(np.float32)
    found = runner.run(images)["embedding"]
    assert runner.outputs == {"embedding": DIMENSION}
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, reference(images), atol=1e-5)
    np.testing.assert_array_equal(found, runner.run(images)["embedding"])


def test_the_onnx_runner_measures_a_dimension_that_is_not_declared():
    """A model that names its vectors' length by a symbol only is run once to learn it."""
    model = onnx_model(shape=("N", "D")).SerializeToString()
    assert OnnxRunner(model, "own", threads=1).outputs == {"own": DIMENSION}


def test_an_onnx_model_of_several_outputs_needs_one_named():
    """With two outputs the caller says which one holds the vectors; another name is refused."""
    model = onnx_model(outputs=2).SerializeToString()
    with pytest.raises(RegistryError, match="further1, vectors"):
        OnnxRunner(model, threads=1)
    with pytest.raises(UnknownNameError, match="further1, vectors"):
        OnnxRunner(model, threads=1, graph_output="third")
    assert OnnxRunner(model, threads=1, graph_output="further1").outputs == {"embedding": DIMENSION}


def test_images_of_another_size_than_the_models_are_refused():
    """A wrong input size is told with both sizes, before the runtime sees it."""
    runner = OnnxRunner(onnx_model().SerializeToString(), threads=1)
    with pytest.raises(VectorError, match="8 x 8 pixels, these are 9 x 8"):
        runner.run(np.zeros((1, 3, 9, 8), np.float32))


@pytest.mark.parametrize("bad", [np.zeros((1, 3, 8, 8)), np.zeros((3, 8, 8), np.float32)])
def test_a_batch_of_another_type_or_shape_is_refused(bad):
    """A batch that `prepare` did not make is refused."""
    with pytest.raises(VectorError, match="prepare"):
        OnnxRunner(onnx_model().SerializeToString(), threads=1).run(bad)


def test_a_vector_without_a_direction_is_refused():
    """An image that a model maps to length 0 gives an error, not a row of NaN."""
    with pytest.raises(VectorError, match="length 0"):
        OnnxRunner(onnx_model().SerializeToString(), threads=1).run(
            np.zeros((1, 3, SIDE, SIDE), np.float32)
        )


def test_a_model_that_takes_no_images_is_refused():
    """A model of another input is refused with what it takes."""
    graph = helper.make_graph(
        [helper.make_node("Identity", ["x"], ["y"])],
        "model",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 4])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    with pytest.raises(RegistryError, match=r"x: tensor\(float\)"):
        OnnxRunner(model.SerializeToString(), threads=1)


@pytest.mark.parametrize("changes", [{"size": 2**31}, {"batch": 2**31}, {"batch": 0}])
def test_a_model_of_absurd_input_is_refused(changes):
    """A model that would have Segue fill the memory to feed it is refused before it is fed."""
    model = onnx_model(**{"batch": "N", **changes}).SerializeToString()
    with pytest.raises(RegistryError):
        OnnxRunner(model, threads=1)


def test_a_model_without_an_output_is_refused():
    """A graph that gives nothing is refused in one sentence."""
    model = onnx_model()
    del model.graph.output[:]
    with pytest.raises(RegistryError):
        OnnxRunner(model.SerializeToString(), threads=1)


def test_a_model_that_gives_no_vectors_is_refused():
    """A model whose output is an image is refused with what it gives."""
    nodes = [helper.make_node("Identity", ["images"], ["vectors"])]
    model = onnx_model(nodes=nodes, shape=("N", 3, SIDE, SIDE)).SerializeToString()
    with pytest.raises(RegistryError, match="one vector for each image"):
        OnnxRunner(model, threads=1)


def test_external_data_is_refused_although_the_file_is_there(tmp_path, monkeypatch):
    """A model that keeps weights in another file is refused even where a runtime would find it."""
    onnx.save_model(onnx_model(), tmp_path / "m.onnx", save_as_external_data=True, size_threshold=0)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UnsafeModelError, match="weights in other files"):
        OnnxRunner((tmp_path / "m.onnx").read_bytes(), threads=1)


@pytest.mark.parametrize("where", ["node", "attribute", "sparse", "subgraph"])
def test_external_data_is_found_wherever_a_tensor_can_stand(where):
    """Tensors in attributes, sparse tensors and inner graphs are looked at too."""
    tensor = numpy_helper.from_array(np.zeros((2, 2), np.float32), "elsewhere")
    tensor.data_location = TensorProto.EXTERNAL
    entry = tensor.external_data.add()
    entry.key, entry.value = "location", "/etc/hostname"
    model = onnx_model()
    if where == "node":
        model.graph.initializer.append(tensor)
    elif where == "attribute":
        model.graph.node.append(helper.make_node("Constant", [], ["c"], value=tensor))
    elif where == "sparse":
        sparse = model.graph.sparse_initializer.add()
        sparse.values.CopyFrom(tensor)
    else:
        inner = helper.make_graph([], "inner", [], [], [tensor])
        model.graph.node.append(
            helper.make_node("If", ["x"], ["y"], then_branch=inner, else_branch=inner)
        )
    with pytest.raises(UnsafeModelError, match="weights in other files"):
        OnnxRunner(model.SerializeToString(), threads=1)


def test_operators_of_other_domains_are_refused():
    """A custom operator is named with its domain; no library is looked for."""
    with pytest.raises(UnsafeModelError, match=r"operator 'MatMul' of the domain 'com\.evil'"):
        OnnxRunner(onnx_model(domain="com.evil").SerializeToString(), threads=1)


def test_operators_of_other_domains_are_refused_inside_functions():
    """A model's own functions are looked into as well."""
    model = onnx_model()
    model.functions.append(
        helper.make_function(
            "",
            "Inner",
            ["x"],
            ["y"],
            [helper.make_node("Run", ["x"], ["y"], domain="com.evil")],
            [helper.make_opsetid("", 18)],
        )
    )
    with pytest.raises(UnsafeModelError, match=r"com\.evil"):
        OnnxRunner(model.SerializeToString(), threads=1)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"not a model",
        b"\x80\x04N.",
        b"PK\x03\x04" + b"\0" * 60,
        b"\x08\x09",
        b"\xff" * 40,
        b"\x1c\0\0\0ORTM" + b"\0" * 40,
    ],
)
def test_bytes_that_are_no_onnx_model_are_refused(content):
    """Pickles, archives, other formats and garbage end in one sentence."""
    with pytest.raises(UnsafeModelError):
        OnnxRunner(content, threads=1)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 250), st.integers(0, 255))
@example(9, 128)  # a name that is no UTF-8, which the runtime's own message stumbles over
def test_a_damaged_onnx_model_is_refused_or_runs(place, value):
    """Whatever byte is changed, there is a model or one error of ours, never a crash."""
    content = bytearray(onnx_model().SerializeToString())
    where = place if place < 125 else len(content) - (place - 124)  # not amid the weights
    content[where] = value
    try:
        runner = OnnxRunner(bytes(content), threads=1)
        found = runner.run(np.ones((2, 3, SIDE, SIDE), np.float32))
    except (RegistryError, UnknownNameError, VectorError):
        return
    assert found["embedding"].shape == (2, *runner.outputs.values())


@pytest.mark.parametrize("share", [0.2, 0.9, 0.999])
def test_a_truncated_onnx_model_is_refused(share):
    """A file cut short is refused wherever it was cut."""
    content = onnx_model().SerializeToString()
    with pytest.raises(UnsafeModelError):
        OnnxRunner(content[: int(len(content) * share)], threads=1)


def test_nested_graphs_without_end_are_refused():
    """A model nested deeper than any real one is refused instead of exhausting the stack."""
    content = b""
    for _ in range(400):  # graph -> node -> attribute -> graph …
        for key in (b"\x32", b"\x2a", b"\x0a"):
            size, length = len(content), b""
            while size > 127:
                length += bytes([size & 127 | 128])
                size >>= 7
            content = key + length + bytes([size]) + content
    with pytest.raises(UnsafeModelError):
        OnnxRunner(b"\x3a" + bytes([len(content) & 127 | 128, len(content) >> 7]) + content)


def test_flipped_embeddings_ignore_which_way_a_face_looks():
    """The averaged vector of an image and of its mirror image are the same, and of unit length."""
    runner = OnnxRunner(onnx_model().SerializeToString(), threads=1)
    how, images = Preprocessing(SIDE, SIDE, flip=True), images_of(5)
    straight = embed(runner, images, how)["embedding"]
    mirrored = embed(runner, images[:, :, ::-1], how)["embedding"]
    np.testing.assert_allclose(straight, mirrored, atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(straight, axis=1), 1, atol=1e-6)


def test_embedding_images_prepares_them(monkeypatch):
    """`embed` equals preparing and running, however it is cut into batches."""
    monkeypatch.setattr("segue.networks.runner.BATCH", 2)
    runner = OnnxRunner(onnx_model().SerializeToString(), threads=1)
    how, images = Preprocessing(SIDE, SIDE), images_of(5)
    expected = runner.run(prepare(images, how))["embedding"]
    np.testing.assert_allclose(embed(runner, images, how)["embedding"], expected, atol=1e-6)
    assert embed(runner, images[:0], how)["embedding"].shape == (0, DIMENSION)


def test_an_onnx_model_runs_without_torch():
    """Running a foreign model in a fresh process loads no torch."""
    program = (
        "import sys, segue.networks as n; n.prepare; n.OnnxRunner; n.embed;"
        "raise SystemExit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


@pytest.mark.lfw
def test_a_real_face_network_runs():
    """The MobileFaceNet gives 128 numbers of unit length for each face, the same in any batch."""
    default = Path(__file__).parents[2].parent / "shared" / "data"
    data = Path(os.environ.get("SEGUE_DATA", default))
    model = data.parent / "models" / "mobilefacenet_ms1m_112.onnx"
    if not model.is_file():
        pytest.skip("no real face model (SEGUE_DATA or ../shared/data)")
    how = Preprocessing(112, 112, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    runner = OnnxRunner(model.read_bytes(), threads=1)
    images = images_of(3, 112)
    found = embed(runner, images, how)["embedding"]
    alone = np.concatenate([embed(runner, images[i : i + 1], how)["embedding"] for i in range(3)])
    assert found.shape == (3, 128)
    assert runner.input_size == (112, 112)
    assert (((found - alone) ** 2).sum(axis=1) < 1e-5).all()
