"""The settings: defaults, bad values, config files, and flags over files."""

import json

import pytest

from w2v_ext import TrainConfig
from w2v_ext.train import parse_arguments


@pytest.mark.parametrize("name", ["dim", "window", "negative", "epochs", "min_count"])
@pytest.mark.parametrize("value", [0, -3, 1.5, "ten", True, None])
def test_positive_integers(name, value):
    with pytest.raises(ValueError, match=f"^{name}: expected an integer >= 1, got {value!r}"):
        TrainConfig(**{name: value})


@pytest.mark.parametrize("value", [0, -1, float("nan"), float("inf"), "fast", True])
def test_learning_rate(value):
    with pytest.raises(ValueError, match=f"^lr: expected a number > 0, got {value!r}"):
        TrainConfig(lr=value)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"corpus": 5}, "corpus: expected paths, got 5"),
        ({"corpus": None}, "corpus: expected paths, got None"),
        ({"corpus": {"a": "b"}}, "corpus: expected paths, got {'a': 'b'}"),
        ({"probe": 3}, "probe: expected words separated by commas, got 3"),
        ({"out": None}, "out: expected a path, got None"),
        ({"out": ""}, "out: expected a path, got ''"),
        ({"cache_dir": 5}, "cache_dir: expected a path, got 5"),
        ({"dim": 10**9}, "dim: expected an integer <= 1048576, got 1000000000"),
        ({"window": 10_001}, "window: expected an integer <= 10000, got 10001"),
        ({"negative": 1001}, "negative: expected an integer <= 1000, got 1001"),
        ({"sample": -1e-3}, "sample: expected a number >= 0, got -0.001"),
        ({"threads": -1}, "threads: expected an integer >= 0, got -1"),
        ({"max_vocab": 1}, "max_vocab: expected an integer >= 2, got 1"),
        ({"device": "tpu"}, "device: expected one of cpu, cuda, auto, got 'tpu'"),
        ({"tokenizer": "bpe"}, "tokenizer: expected one of whitespace, word, char, jieba, got 'bpe'"),
        ({"errors": "ignore"}, "errors: expected one of strict, replace, got 'ignore'"),
        ({"lowercase": "yes"}, "lowercase: expected true or false, got 'yes'"),
        ({"model": "glow"}, "model: expected one of skipgram, cbow.*, got 'glow'"),
        ({"loss": "ce"}, "loss: expected one of ns, hs, softmax, got 'ce'"),
        ({"cbow_mean": 1}, "cbow_mean: expected true or false, got 1"),
        ({"cbow_divide_gradient": "no"}, "cbow_divide_gradient: expected true or false, got 'no'"),
    ],
)
def test_other_settings(settings, message):
    with pytest.raises(ValueError, match=message):
        TrainConfig(**settings)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"model": "fasttext-cbow", "cbow_mean": True},
            "cbow_mean: only for model = cbow, got True with 'fasttext-cbow'",
        ),
        ({"cbow_divide_gradient": True}, "cbow_divide_gradient: only for model = cbow, got True with 'skipgram'"),
        ({"min_n": 2}, "min_n: only for model = fasttext or fasttext-cbow, got 2 with 'skipgram'"),
        ({"model": "cbow", "max_n": 7}, "max_n: only for model = fasttext or fasttext-cbow, got 7 with 'cbow'"),
        ({"model": "glove", "buckets": 5}, "buckets: only for model = fasttext or fasttext-cbow, got 5 with 'glove'"),
        ({"x_max": 100}, "x_max: only for model = glove, got 100 with 'skipgram'"),
        ({"alpha": 1.0}, "alpha: only for model = glove, got 1.0 with 'skipgram'"),
        ({"model": "fasttext", "vectors": "in"}, "vectors: only for model = glove, got 'in' with 'fasttext'"),
        ({"model": "glove", "sample": 0}, "sample: only for model = skipgram, cbow, fasttext or fasttext-cbow, got 0"),
        ({"model": "glove", "noise_power": 0.5}, "noise_power: only for model = skipgram, cbow, .* 0.5 with 'glove'"),
    ],
)
def test_settings_that_the_model_does_not_use(settings, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        TrainConfig.for_model(**{"model": "skipgram", **settings})


@pytest.mark.parametrize("model", ["skipgram", "cbow", "fasttext", "fasttext-cbow", "glove"])
def test_saved_settings_can_be_read_again(model):
    config = TrainConfig.for_model(model)
    assert TrainConfig.from_dict(config.to_dict()) == config


def test_flags_that_the_model_does_not_use(capsys):
    with pytest.raises(SystemExit) as stop:
        parse_arguments(["--model", "fasttext-cbow", "--cbow-mean"])
    assert stop.value.code == 2
    assert "cbow_mean: only for model = cbow" in capsys.readouterr().err


def test_probe_words_may_be_a_list():
    assert TrainConfig(probe=["king", "queen"]).probe_words == ["king", "queen"]


def test_flags():
    config, resume = parse_arguments(
        "--corpus a.txt b.txt --out v --dim 50 --min-count 2 --max-vocab 1000 --sample 1e-4 --lr 0.05 "
        "--probe king,queen --lowercase --resume".split()
    )
    assert config.corpus == ("a.txt", "b.txt")
    assert (config.out, config.dim, config.min_count, config.max_vocab) == ("v", 50, 2, 1000)
    assert (config.sample, config.lr, config.lowercase) == (1e-4, 0.05, True)
    assert config.probe_words == ["king", "queen"]
    assert resume == "yes"


def test_defaults_are_word2vecs():
    config, resume = parse_arguments([])
    assert config == TrainConfig()
    assert (config.dim, config.window, config.negative, config.sample, config.lr) == (100, 5, 5, 1e-3, 0.025)
    assert resume == "no"


@pytest.mark.parametrize("name", ["settings.yaml", "settings.json"])
def test_flags_win_over_the_config_file(tmp_path, name):
    path = tmp_path / name
    settings = {"dim": 64, "min-count": 3, "sample": 1e-4, "corpus": ["x.txt"]}
    path.write_text(
        json.dumps(settings) if name.endswith("json") else "dim: 64\nmin-count: 3\nsample: 1e-4\ncorpus: [x.txt]"
    )
    config, _ = parse_arguments(["--config", str(path), "--dim", "32"])
    assert (config.dim, config.min_count, config.sample, config.corpus) == (32, 3, 1e-4, ("x.txt",))


def test_a_models_config_file_gives_the_same_settings(tmp_path):
    config = TrainConfig(corpus=("a", "b"), dim=7, max_vocab=9, lowercase=True)
    (tmp_path / "config.json").write_text(json.dumps(config.to_dict()))
    assert TrainConfig.from_file(tmp_path / "config.json") == config


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("dimm: 3", "config .*settings.yaml: unknown setting 'dimm'; known: corpus"),
        ("dim: many", "dim: expected an integer >= 1, got 'many'"),
        ("- 1\n- 2", "config: expected .*settings.yaml to hold a mapping of settings, got list"),
        ("dim: [", "config: .*settings.yaml is not valid YAML"),
        ("dim: !!python/object/apply:os.system ['true']", "is not valid YAML"),
    ],
)
def test_bad_config_files(tmp_path, text, message):
    path = tmp_path / "settings.yaml"
    path.write_text(text)
    with pytest.raises(ValueError, match=message):
        TrainConfig.from_file(path)
