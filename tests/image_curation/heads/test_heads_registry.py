"""Which head is loaded from where, and what is said when there is none."""

import subprocess
import sys

import pytest

from image_curation.errors import NoHead, WeightsError
from image_curation.heads import CLIP_B_32, CLIP_L_14, HEADS, load_head

LINEAR_B32 = HEADS["aesthetic", CLIP_B_32][0]


@pytest.fixture
def linear_b32(heads_data) -> bytes:
    return (heads_data / "aesthetic" / LINEAR_B32.file).read_bytes()


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    """No test sees the heads that the person who runs it has fetched."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("IMAGE_CURATION_HEADS", raising=False)
    return tmp_path / "home"


def put(folder, data: bytes) -> str:
    folder.mkdir(parents=True)
    (folder / LINEAR_B32.file).write_bytes(data)
    return str(folder)


@pytest.mark.parametrize("key", list(HEADS), ids=" ".join)
def test_every_registered_file_is_the_original(heads_data, key):
    kind, space = key
    for file in HEADS[key]:
        path = heads_data / kind / file.file
        assert path.stat().st_size == file.size_bytes
        head = load_head(kind, space, str(path))
        assert (head.name, head.vector_space, head.weights_sha256) == (file.name, space, file.sha256)


def test_urls_are_pinned_by_commit_and_quoted():
    assert HEADS["aesthetic", CLIP_L_14][0].url == (
        "https://raw.githubusercontent.com/christophschuhmann/improved-aesthetic-predictor/"
        "6934dd81792f086e613a121dbce43082cb8be85e/sac%2Blogos%2Bava1-l14-linearMSE.pth"
    )


def test_explicit_file_may_have_any_name(tmp_path, linear_b32):
    (tmp_path / "mine.bin").write_bytes(linear_b32)
    assert load_head("aesthetic", CLIP_B_32, str(tmp_path / "mine.bin")).name == "laion-aesthetic-v1-b-32"


def test_folders_are_searched_in_order_path_variable_cache(tmp_path, home, monkeypatch, linear_b32):
    """Each earlier folder holds a wrong file, so that the text of the refusal says which one was taken."""
    cache = put(home / ".cache" / "image-curation" / "heads", linear_b32)
    assert load_head("aesthetic", CLIP_B_32).name == "laion-aesthetic-v1-b-32"
    assert load_head("aesthetic", CLIP_B_32, str(home)).name == "laion-aesthetic-v1-b-32"

    named = put(tmp_path / "named", b"wrong")
    monkeypatch.setenv("IMAGE_CURATION_HEADS", named)
    with pytest.raises(WeightsError, match=f"{named}/"):
        load_head("aesthetic", CLIP_B_32)

    given = put(tmp_path / "given", b"wrong too")
    with pytest.raises(WeightsError, match=f"{given}/"):
        load_head("aesthetic", CLIP_B_32, given)
    assert load_head("aesthetic", CLIP_B_32, cache).name == "laion-aesthetic-v1-b-32"


def test_absent_file_is_no_head_and_the_text_names_every_folder_and_the_way_out(tmp_path, home, monkeypatch):
    monkeypatch.setenv("IMAGE_CURATION_HEADS", str(tmp_path / "named"))
    with pytest.raises(NoHead) as error:
        load_head("nsfw", CLIP_L_14, str(tmp_path))
    text = str(error.value)
    assert text.startswith(
        "The nsfw head for openai-clip-vit-l-14 is not here: clip_autokeras_binary_nsfw.zip is in none"
    )
    for part in (
        f"{tmp_path}, {tmp_path}/named, {home}/.cache/image-curation/heads",
        "image-curation fetch ENCODER",
        "IMAGE_CURATION_HEADS",
    ):
        assert part in text
    assert HEADS["nsfw", CLIP_L_14][0].url in text


def test_path_that_does_not_exist_is_not_passed_over(tmp_path, home, linear_b32):
    put(home / ".cache" / "image-curation" / "heads", linear_b32)
    with pytest.raises(WeightsError, match=r"should be at .*/nowhere, but there is no such file or folder"):
        load_head("aesthetic", CLIP_B_32, str(tmp_path / "nowhere"))


@pytest.mark.parametrize(
    ("kind", "space", "text"),
    [
        (
            "nsfw",
            "siglip-so400m",
            "There is no nsfw head for vectors of siglip-so400m; "
            "nsfw heads exist for openai-clip-vit-b-32, openai-clip-vit-l-14.",
        ),
        (
            "aesthetic",
            "",
            "There is no aesthetic head for vectors that belong to no known vector space; "
            "aesthetic heads exist for openai-clip-vit-b-32, openai-clip-vit-l-14.",
        ),
    ],
)
def test_other_vector_space_has_no_head_and_the_text_says_which_have(kind, space, text):
    with pytest.raises(NoHead) as error:
        load_head(kind, space)
    assert str(error.value) == text


def test_wrong_checksum_names_both(tmp_path):
    (tmp_path / LINEAR_B32.file).write_bytes(b"")
    with pytest.raises(WeightsError) as error:
        load_head("aesthetic", CLIP_B_32, str(tmp_path))
    empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    assert f"its sha256 is {empty}, expected {LINEAR_B32.sha256}" in str(error.value)
    assert LINEAR_B32.url in str(error.value)


def test_head_of_another_encoder_is_refused_by_its_checksum(heads_data):
    with pytest.raises(WeightsError, match="is not the nsfw head for openai-clip-vit-l-14"):
        load_head("nsfw", CLIP_L_14, str(heads_data / "nsfw" / "clip_autokeras_nsfw_b32.zip"))


def test_unpinned_file_is_refused_without_being_opened(tmp_path):
    (tmp_path / "mine.pth").write_bytes(b"\x80\x02cbuiltins\nprint\n(Vcode ran\ntR.")
    with pytest.raises(WeightsError, match=r"expected 21dd59\w+ \(sac.*\) or 2cd4e6\w+ \(sa_0_4"):
        load_head("aesthetic", CLIP_L_14, str(tmp_path / "mine.pth"))


def test_registry_loads_without_torch_and_nsfw_head_without_tensorflow(heads_data):
    code = (
        "import sys; from image_curation.heads import load_head; assert 'torch' not in sys.modules;"
        f"load_head('nsfw', {CLIP_B_32!r}, {str(heads_data / 'nsfw')!r});"
        "assert not {'torch', 'tensorflow', 'keras'} & set(sys.modules); print('loaded')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.stdout, done.returncode) == ("loaded\n", 0), done.stderr
