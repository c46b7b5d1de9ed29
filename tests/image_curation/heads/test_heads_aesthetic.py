"""The aesthetic heads against golden ratings, against PyTorch, and against files that are not what they claim."""

import dataclasses
import io
import pickle

import numpy as np
import pytest
import torch

from image_curation.errors import ConfigError, WeightsError
from image_curation.heads import CLIP_B_32, CLIP_L_14, HEADS, load_head
from image_curation.heads.aesthetic import fold_layers, read_aesthetic_head

MLP, LINEAR = HEADS["aesthetic", CLIP_L_14]


@pytest.fixture(scope="module")
def golden(heads_data):
    return np.load(heads_data / "aesthetic" / "golden_rating_embeddings.npz")


def saved(state) -> bytes:
    file = io.BytesIO()
    torch.save(state, file)
    return file.getvalue()


def test_mlp_equals_golden_ratings(heads_data, golden):
    head = load_head("aesthetic", CLIP_L_14, str(heads_data / "aesthetic"))
    assert head.name == "laion-aesthetic-v2-l-14"
    assert head.weights_sha256 == MLP.sha256
    scores = head.score(golden["emb"])
    assert scores.dtype == np.float32
    np.testing.assert_allclose(scores, golden["mlp_sac_logos_ava1"], rtol=0, atol=5e-6)


def test_mlp_on_half_precision_vectors_is_off_only_by_their_rounding(heads_data, golden):
    head = load_head("aesthetic", CLIP_L_14, str(heads_data / "aesthetic"))
    halves = golden["emb"].astype(np.float16)
    by_hand = halves.astype(np.float64) @ golden["collapsed_w"][0] + golden["collapsed_b"][0]
    np.testing.assert_allclose(head.score(halves), by_hand, rtol=0, atol=1e-6)
    np.testing.assert_allclose(head.score(halves), golden["mlp_sac_logos_ava1"], rtol=0, atol=1e-3)


def test_folded_layers_equal_the_layers_run_one_after_another(heads_data, golden):
    state = torch.load(heads_data / "aesthetic" / MLP.file, map_location="cpu", weights_only=True)
    values = torch.from_numpy(golden["emb"])
    for number in (0, 2, 4, 6, 7):
        values = torch.nn.functional.linear(values, state[f"layers.{number}.weight"], state[f"layers.{number}.bias"])
    head = load_head("aesthetic", CLIP_L_14, str(heads_data / "aesthetic"))
    np.testing.assert_allclose(head.score(golden["emb"]), values.numpy()[:, 0], rtol=0, atol=5e-6)


def test_linear_l14_head_equals_golden_ratings_when_named_by_its_file(heads_data, golden):
    head = load_head("aesthetic", CLIP_L_14, str(heads_data / "aesthetic" / LINEAR.file))
    assert head.name == "laion-aesthetic-v1-l-14"
    assert head.weights_sha256 == LINEAR.sha256
    np.testing.assert_allclose(head.score(golden["emb"]), golden["linear_v1"], rtol=0, atol=5e-6)


def test_linear_b32_head_equals_pytorch_on_real_embeddings(heads_data, shared_data):
    reference = np.load(shared_data / "clip-b32-reference" / "clip_vitb32_emb_and_tensors.npz")
    embeddings = np.stack([reference[name] for name in reference.files if name.startswith("emb_")])
    assert embeddings.shape == (7, 512)
    state = torch.load(heads_data / "aesthetic" / "sa_0_4_vit_b_32_linear.pth", map_location="cpu", weights_only=True)
    layer = torch.nn.Linear(512, 1)
    layer.load_state_dict(state)
    expected = layer(torch.from_numpy(embeddings.astype(np.float32))).detach().numpy()[:, 0]
    head = load_head("aesthetic", CLIP_B_32, str(heads_data / "aesthetic"))
    assert head.vector_space == CLIP_B_32
    np.testing.assert_allclose(head.score(embeddings), expected, rtol=0, atol=5e-6)


def test_layers_are_composed_in_the_order_of_their_numbers_not_of_their_names():
    state = {
        "layers.10.weight": torch.tensor([[10.0, 1.0]]),
        "layers.10.bias": torch.tensor([0.5]),
        "layers.2.weight": torch.tensor([[1.0, 2.0], [3.0, 4.0]]),
        "layers.2.bias": torch.tensor([1.0, -1.0]),
    }
    head = read_aesthetic_head(saved(state), MLP, CLIP_L_14)
    # For (1, 1) the first layer gives (1+2+1, 3+4-1) = (4, 6), the second 40 + 6 + 0.5.
    np.testing.assert_array_equal(head.score(np.ones((1, 2), np.float16)), [46.5])


def test_row_with_nan_or_infinity_gets_nan_and_its_neighbours_keep_their_score(heads_data, golden):
    head = load_head("aesthetic", CLIP_L_14, str(heads_data / "aesthetic"))
    good = golden["emb"].astype(np.float16)
    bad = good.copy()
    bad[2, 5] = np.nan
    bad[4, 0] = np.inf
    expected = head.score(good)
    expected[[2, 4]] = np.nan
    np.testing.assert_array_equal(head.score(bad), expected)


def test_no_rows_give_no_scores(heads_data):
    head = load_head("aesthetic", CLIP_L_14, str(heads_data / "aesthetic"))
    assert head.score(np.zeros((0, 768), np.float16)).shape == (0,)


@pytest.mark.parametrize("shape", [(3, 512), (768,), (2, 3, 768)])
def test_vectors_of_another_shape_are_refused(heads_data, shape):
    head = load_head("aesthetic", CLIP_L_14, str(heads_data / "aesthetic"))
    with pytest.raises(
        ConfigError, match=r"laion-aesthetic-v2-l-14 was made for vectors of 768 numbers.*\[.*\]"
    ) as error:
        head.score(np.zeros(shape, np.float16))
    assert str(list(shape)) in str(error.value)


class Explosive:
    """Pickles into a call of `print`, which shows if unpickling runs it."""

    def __reduce__(self):
        return (print, ("code from the weights file ran",))


def test_pickle_that_runs_code_is_refused_before_it_runs(capsys):
    pickle.loads(pickle.dumps(Explosive()))  # noqa: S301 - shows that the trap works
    assert "ran" in capsys.readouterr().out
    for data in (pickle.dumps(Explosive(), protocol=2), saved({"weight": Explosive()})):
        with pytest.raises(WeightsError, match=r"linearMSE.pth is not a whole state dict"):
            read_aesthetic_head(data, MLP, CLIP_L_14)
    assert "ran" not in capsys.readouterr().out


@pytest.mark.parametrize(
    "state",
    [
        {},
        [torch.zeros(1, 3)],
        torch.zeros(3),
        {"weight": 1, "bias": 2},
        {"weight": torch.zeros(1, 3)},
        {"weight": torch.zeros(1, 3), "bias": torch.zeros(2)},
        {"weight": torch.zeros(2, 3), "bias": torch.zeros(2)},
        {"weight": torch.zeros(3), "bias": torch.zeros(3)},
    ],
    ids=["empty", "list", "tensor", "numbers", "no bias", "other bias", "two outputs", "weight of one axis"],
)
def test_other_state_dict_is_refused(state):
    with pytest.raises(WeightsError, match=r"linearMSE\.pth"):
        read_aesthetic_head(saved(state), MLP, CLIP_L_14)


def test_file_cut_short_anywhere_is_refused(heads_data):
    whole = (heads_data / "aesthetic" / LINEAR.file).read_bytes()
    lengths = range(0, len(whole), 97)
    assert len(lengths) > 30
    for length in lengths:
        with pytest.raises(WeightsError, match=r"sa_0_4_vit_l_14_linear\.pth"):
            read_aesthetic_head(whole[:length], LINEAR, CLIP_L_14)


def test_layers_that_do_not_fit_are_refused():
    layer = (np.zeros((4, 3)), np.zeros(4))
    last = (np.zeros((1, 5)), np.zeros(1))
    with pytest.raises(WeightsError, match=r"4 outputs is followed by \(1, 5\)"):
        fold_layers([layer, last], "x.pth")


def test_heads_are_frozen(heads_data):
    head = load_head("aesthetic", CLIP_L_14, str(heads_data / "aesthetic"))
    with pytest.raises(dataclasses.FrozenInstanceError):
        head.vector_space = CLIP_B_32
