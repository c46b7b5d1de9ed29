"""The policy file: absent keys have defaults, null turns a rule off, and each mistake is told by its key."""

from pathlib import Path

import pytest

from image_curation.errors import ConfigError, StorageError
from image_curation.policy import Policy, load_policy, policy_yaml

KEYS = [
    (section, key) for section, info in Policy.model_fields.items() for key in info.annotation.model_fields
]  # (section, key) of the whole policy


@pytest.fixture
def load(tmp_path: Path):
    def read(text: str | bytes) -> Policy:
        path = tmp_path / "policy.yaml"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return load_policy(str(path))

    return read


def error_of(load, text) -> str:
    with pytest.raises(ConfigError) as caught:
        load(text)
    assert "policy.yaml" in str(caught.value)
    return str(caught.value)


def test_no_file_and_an_empty_file_give_the_defaults(load):
    assert load_policy(None) == Policy()
    assert load("") == Policy()
    assert load("# all is commented out\n") == Policy()
    assert load("image: {}\n") == Policy()


def test_keys_that_are_given_replace_their_defaults_alone(load):
    policy = load("image:\n  min_short_side: 256\nduplicates:\n  survivor: [resolution, first]\n")
    assert policy.image.min_short_side == 256
    assert policy.image.max_aspect_ratio == Policy().image.max_aspect_ratio
    assert policy.duplicates.survivor == ("resolution", "first")
    assert policy.nsfw == Policy().nsfw


def test_default_policy_as_yaml_reads_back_and_has_every_key_with_its_meaning(load):
    text = policy_yaml()
    assert load(text) == Policy()
    lines = [line.strip() for line in text.splitlines()]
    for section, key in KEYS:
        assert f"{section}:" in lines
        assert any(line.startswith(f"{key}: ") for line in lines), key
    assert "max_shard_megabytes: 1000  # at most, of a tar (1 MB = 10^6 bytes)" in lines


def test_any_policy_as_yaml_reads_back(load):
    policy = Policy.model_validate(
        {
            "image": {
                "min_short_side": None,
                "max_aspect_ratio": None,
                "min_sharpness": 1e-7,
                "min_exposure": None,
                "max_exposure": 1.0,
                "min_contrast": None,
                "damaged": "keep",
            },
            "caption": {"required": True, "min_characters": 3, "max_characters": 77},
            "aesthetic": {"min": None, "when_null": "drop"},
            "nsfw": {"max": None, "when_null": "drop"},
            "duplicates": {
                "exact": False,
                "max_phash_distance": None,
                "min_similarity": None,
                "survivor": ["first", "sharpness", "caption", "bytes", "resolution", "aesthetic"],
                "groups": "ranked",
                "min_keeper_similarity": 0.875,
                "warn_below": None,
            },
            "release": {"samples_per_shard": 10, "max_shard_megabytes": 1, "vectors": True},
        }
    )
    assert load(policy_yaml(policy)) == policy
    assert policy.fingerprint() != Policy().fingerprint()
    assert load(policy_yaml(policy)).fingerprint() == policy.fingerprint()


@pytest.mark.parametrize(("section", "key"), KEYS)
def test_wrong_type_names_the_key_and_the_value(load, section, key):
    text = error_of(load, f"{section}: {{{key}: {{odd: 1}}}}")
    lines = text.splitlines()[1:]
    assert lines
    for line in lines:
        assert line.startswith(f"  {section}.{key}: Input should be"), line
        assert line.endswith("it is {'odd': 1}."), line


@pytest.mark.parametrize(
    ("text", "key", "allowed"),
    [
        ("image: {min_short_side: 0}", "image.min_short_side", "greater than or equal to 1; it is 0"),
        ("image: {min_short_side: 64.5}", "image.min_short_side", "a valid integer"),
        ("image: {max_aspect_ratio: 0.9}", "image.max_aspect_ratio", "greater than or equal to 1; it is 0.9"),
        ("image: {max_aspect_ratio: .inf}", "image.max_aspect_ratio", "a finite number"),
        ("image: {min_sharpness: -1}", "image.min_sharpness", "greater than or equal to 0"),
        ("image: {min_exposure: 1.1}", "image.min_exposure", "less than or equal to 1"),
        ("image: {max_exposure: -0.1}", "image.max_exposure", "greater than or equal to 0"),
        ("image: {min_contrast: 2}", "image.min_contrast", "less than or equal to 1"),
        ("image: {damaged: drops}", "image.damaged", "'keep' or 'drop'; it is 'drops'"),
        ("caption: {required: 3}", "caption.required", "a valid boolean"),
        ("caption: {min_characters: -1}", "caption.min_characters", "greater than or equal to 0"),
        ("caption: {max_characters: 0}", "caption.max_characters", "greater than or equal to 1"),
        ("aesthetic: {min: .nan}", "aesthetic.min", "a finite number"),
        ("aesthetic: {when_null: ignore}", "aesthetic.when_null", "'keep' or 'drop'"),
        ("nsfw: {max: 1.5}", "nsfw.max", "less than or equal to 1"),
        ("nsfw: {when_null: null}", "nsfw.when_null", "'keep' or 'drop'"),
        ("duplicates: {max_phash_distance: 17}", "duplicates.max_phash_distance", "less than or equal to 16"),
        ("duplicates: {min_similarity: 1.01}", "duplicates.min_similarity", "less than or equal to 1"),
        ("duplicates: {min_similarity: automatic}", "duplicates.min_similarity", "'auto'"),
        ("duplicates: {survivor: [best]}", "duplicates.survivor.0", "'aesthetic', 'resolution', 'bytes', 'caption', "),
        ("duplicates: {survivor: []}", "duplicates.survivor", "at least 1 item"),
        ("duplicates: {groups: stars}", "duplicates.groups", "'components', 'star' or 'ranked'; it is 'stars'"),
        ("duplicates: {groups: null}", "duplicates.groups", "'components', 'star' or 'ranked'"),
        ("duplicates: {min_keeper_similarity: -0.1}", "duplicates.min_keeper_similarity", "greater than or equal to 0"),
        ("duplicates: {min_keeper_similarity: auto}", "duplicates.min_keeper_similarity", "a valid number"),
        ("duplicates: {warn_below: 2}", "duplicates.warn_below", "less than or equal to 1"),
        ("release: {samples_per_shard: 0}", "release.samples_per_shard", "greater than or equal to 1"),
        ("release: {max_shard_megabytes: 0}", "release.max_shard_megabytes", "greater than or equal to 1"),
        ("release: {vectors: perhaps}", "release.vectors", "a valid boolean"),
        ("image:", "image", "min_short_side, max_aspect_ratio"),
        ("image: [min_short_side]", "image", "min_short_side, max_aspect_ratio"),
        ("1: 2", "1", "Keys should be strings"),
    ],
)
def test_value_that_is_not_allowed(load, text, key, allowed):
    lines = error_of(load, text).splitlines()[1:]
    assert any(line.startswith(f"  {key}: ") and allowed in line for line in lines), lines


def test_unknown_key_is_told_with_those_that_exist(load):
    assert (
        "  imag: there is no such key. Allowed here: image, caption, aesthetic, nsfw, duplicates, known, release."
        in error_of(load, "imag: {}").splitlines()
    )
    assert (
        "  nsfw.min: there is no such key. Allowed here: max, when_null."
        in error_of(load, "nsfw: {min: 0.1, max: 0.2}").splitlines()
    )


def test_all_mistakes_are_told_at_once(load):
    text = error_of(load, "image: {min_short_side: x, damaged: y}\nrelease: {vector: true}\n")
    assert [line.split(":")[0].strip() for line in text.splitlines()[1:]] == [
        "image.min_short_side",
        "image.damaged",
        "release.vector",
    ]


@pytest.mark.parametrize("text", ["image: [", ": : :", b"\xff\xfe\x00", "!!python/object:os.system {}"])
def test_what_is_no_yaml(load, text):
    assert "is not valid YAML" in error_of(load, text)


@pytest.mark.parametrize(("text", "kind"), [("- image", "list"), ("0.5", "float"), ("image", "str")])
def test_yaml_without_keys(load, text, kind):
    assert f"should hold keys such as `duplicates:`, but it is a {kind}" in error_of(load, text)


def test_file_that_is_not_there(tmp_path):
    with pytest.raises(
        ConfigError, match=r"there is no policy file .*/none\.yaml\. `image-curation policy` prints one"
    ):
        load_policy(tmp_path / "none.yaml")
    with pytest.raises(StorageError, match="Is a directory"):
        load_policy(tmp_path)


def test_policy_can_lie_in_a_store():
    from image_curation import storage

    storage.write_bytes("memory://policies/p.yaml", b"nsfw: {max: 0.125}")
    assert load_policy("memory://policies/p.yaml").nsfw.max == 0.125


def test_fingerprint_is_that_of_what_is_decided_not_of_the_text(load):
    assert load("nsfw: {max: 0.5}").fingerprint() == Policy().fingerprint()
    assert load("nsfw: {max: 0.4}").fingerprint() != Policy().fingerprint()


def test_blocklists_lie_beside_the_policy_and_count_by_their_content(load, tmp_path):
    path = tmp_path / "a list with a name that is long enough to be wrapped by a writer of YAML, were it let.txt"
    path.write_text("0" * 16)
    policy = load(f"known: {{blocklists: ['./{path.name}', '{path}']}}")
    assert policy.known.blocklists == (str(path), str(path))
    assert load(policy_yaml(policy)) == policy
    before = policy.fingerprint()
    path.write_text("# the same\n" + "0" * 16)
    assert policy.fingerprint() == before
    path.write_text("1" * 16)
    assert policy.fingerprint() != before


def test_blocklist_that_is_wrong_is_told_when_the_policy_is_read(load, tmp_path):
    with pytest.raises(ConfigError, match=r"there is no blocklist .*/gone\.txt"):
        load("known: {blocklists: [gone.txt]}")
    (tmp_path / "bad.txt").write_text("x")
    with pytest.raises(ConfigError, match=r"blocklist .*/bad\.txt, line 1: 'x' is no hash"):
        load("known: {blocklists: [bad.txt]}")
