from pathlib import Path

import pytest
import yaml

from manta.config import ExperimentConfig
from manta.config.file import load_config, write_config
from manta.errors import InputError

MINIMAL = "name: support\ndata: {train: train.csv}\n"


@pytest.fixture
def experiment(tmp_path: Path) -> Path:
    path = tmp_path / "experiment.yaml"
    path.write_text(MINIMAL)
    return path


def refused(path: Path, *, overrides: list[str] | None = None) -> str:
    with pytest.raises(InputError) as caught:
        load_config(path, overrides=overrides)
    return str(caught.value)


def test_the_minimal_file_loads(experiment: Path) -> None:
    assert load_config(experiment).name == "support"


@pytest.mark.parametrize(
    ("text", "key", "hint"),
    [
        ("train: {learning_rat: 1}", "train.learning_rat", "learning_rate"),
        ("trian: {}", "trian", "train"),
        ("tune: {budget: {num_trails: 1}}", "tune.budget.num_trails", "num_trials"),
        ("tune: {space: {model.dropout: {unifrom: [0, 1]}}}", "tune.space.model.dropout.unifrom", "uniform"),
    ],
)
def test_an_unknown_key_is_named_with_the_nearest_known_one(experiment: Path, text: str, key: str, hint: str) -> None:
    experiment.write_text(f"{MINIMAL}{text}\n")
    message = refused(experiment)
    assert f"unknown setting {key}; did you mean {hint}?" in message
    assert str(experiment) in message


LONG = """\
# the experiment of the support desk
name: support
data:
  train: train.csv
  text:
    - subject
    - true
  labl: topic
train:
  learning_rate: fast

  num_epochs: 3
  batch_size: 2
  num_workers: 4
tune:
  space:
    model.dropout:
      unifrom: [0, 0.2]
trian: {}
"""


def places(path: Path, *, overrides: list[str] | None = None) -> list[str]:
    """The place and the first words of each line of an error."""
    return sorted(" ".join(line.split()[:4]) for line in refused(path, overrides=overrides).splitlines())


def test_each_mistake_names_its_line(experiment: Path) -> None:
    experiment.write_text(LONG)
    assert places(experiment) == sorted(
        [
            f"{experiment}:5: data.text: YAML reads",
            f"{experiment}:8: unknown setting data.labl;",
            f"{experiment}:10: train.learning_rate: 'fast' is",
            f"{experiment}:18: unknown setting tune.space.model.dropout.unifrom;",
            f"{experiment}:19: unknown setting trian;",
        ]
    )


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("data: {}\n\nname: x\n", ":1: data.train is required;"),
        ("data: {train: r.csv}\n", ": name is required;"),
        (MINIMAL + "train:\n  num_workers: 4\n  batch_size: 2\n", ":5: train.batch_size 2 leaves"),
        (MINIMAL + "train:\n  num_workers: 64\n", ":3: train.batch_size 32 leaves"),
        (MINIMAL + "tune:\n  space:\n    model.dropout: {choice: [0.1, 2]}\n", ":5: tune.space: model.dropout cannot"),
        (MINIMAL + "tune:\n  search: grid\n", ":4: tune.search: grid tries"),
        (MINIMAL + "\n\non: 1\n", ":5: the experiment: YAML"),
        ("name: x\ndata:\n  train: r.csv\n  text: label\n", ":4: data.text and data.label"),
    ],
)
def test_a_rule_or_a_missing_setting_names_the_line_that_is_nearest(experiment: Path, text: str, place: str) -> None:
    experiment.write_text(text)
    assert places(experiment) == [f"{experiment}{place}"]


def test_mistakes_of_the_file_keep_their_lines_beside_a_set(experiment: Path) -> None:
    experiment.write_text(MINIMAL + "train:\n  sead: 1\n")
    assert places(experiment, overrides=["train.num_epochs=1"]) == [f"{experiment}:4: unknown setting train.sead;"]


def test_a_mistake_in_a_set_is_not_looked_for_in_the_file(experiment: Path) -> None:
    experiment.write_text(MINIMAL + "train:\n  seed: 1\n")
    assert places(experiment, overrides=["train.seed=one"]) == ["--set train.seed=one: train.seed: 'one'"]
    assert places(experiment, overrides=["train.batch_size=2", "train.num_workers=4"]) == [
        "--set train.batch_size=2: train.batch_size 2"
    ]
    assert places(experiment, overrides=["tune.space.train.num_epochs={choice: [1, many]}"]) == [
        "--set tune.space.train.num_epochs={choice: [1, many]}:"
    ]


def test_a_key_like_no_other_lists_the_known_ones(experiment: Path) -> None:
    experiment.write_text(MINIMAL + "tune: {budget: {zzz: 1}}\n")
    assert "unknown setting tune.budget.zzz; known ones are num_trials" in refused(experiment)


@pytest.mark.parametrize(
    ("text", "fragments"),
    [
        (
            "train: {learning_rate: fast}",
            ["train.learning_rate: 'fast'", "Allowed: auto or a number. Peak learning rate of AdamW"],
        ),
        ("train: {num_epochs: 2.5}", ["train.num_epochs: 2.5", "integer", "Passes over the training rows"]),
        ("train: {zero_stage: 7}", ["train.zero_stage: 7", "Allowed: 0, 1, 2, 3, auto.", "What DeepSpeed splits"]),
        ("train: {metric: auc}", ["train.metric: 'auc'", "Allowed: accuracy, f1_macro"]),
        ("model: {task: ranking}", ["model.task: 'ranking'", "Allowed: auto, binary, multiclass, multilabel."]),
        ("model: {dropout: 1.0}", ["model.dropout: 1.0", "less than 1", "Probability of every dropout"]),
        ("train: {learning_rate: .nan}", ["train.learning_rate: nan", "finite"]),
        ("train: 3", ["train: 3", "Settings of the fine-tuning"]),
    ],
)
def test_a_wrong_value_is_shown_with_its_field_and_what_is_allowed(experiment: Path, text: str, fragments: list[str]) -> None:
    experiment.write_text(f"{MINIMAL}{text}\n")
    message = refused(experiment)
    assert [fragment for fragment in fragments if fragment not in message] == []
    assert "\n" not in message


@pytest.mark.parametrize(
    ("text", "start"),
    [
        ("train: {use_gpu: maybe}", "train.use_gpu: 'maybe' "),
        ("train: {cpus_per_worker: 0}", "train.cpus_per_worker: 0 "),
        ("registry: {promote: [1]}", "registry.promote: [1] "),
        ("serve: {host: [a]}", "serve.host: ['a'] "),
    ],
)
def test_a_field_of_several_types_goes_by_its_own_name(experiment: Path, text: str, start: str) -> None:
    experiment.write_text(f"{MINIMAL}{text}\n")
    names = [line.removeprefix(f"{experiment}:3: ") for line in refused(experiment).splitlines()]
    assert [name for name in names if not name.startswith(start)] == []


def test_every_wrong_setting_has_its_line(experiment: Path) -> None:
    experiment.write_text("data: {train: 1, tesst: x}\n")
    lines = refused(experiment).splitlines()
    assert len(lines) == 3
    assert any("name is required" in line for line in lines)
    assert any("data.train: YAML reads the value as the number 1; quote it" in line for line in lines)
    assert any("unknown setting data.tesst; did you mean test?" in line for line in lines)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name: x\ndata: {train: r.csv, label: on}", "data.label: YAML reads the value as true (yes and on, too); quote it"),
        ("name: x\ndata: {train: r.csv, label: no}", "data.label: YAML reads the value as false (no and off, too); quote it"),
        ("name: x\ndata: {train: r.csv, text: [a, true]}", "data.text: YAML reads the value as true"),
        ("name: x\ndata: {train: r.csv, label: 2024-01-31}", "data.label: YAML reads the value as the date 2024-01-31; quote it"),
        ("name: 2024\ndata: {train: r.csv}", "name: YAML reads the value as the number 2024; quote it"),
        ("name: x\ndata: {train: 1.5}", "data.train: YAML reads the value as the number 1.5; quote it"),
        (MINIMAL + "train: {num_epochs: true}", "train.num_epochs: YAML reads the value as true (yes and on, too); give a number"),
        (MINIMAL + "train: {learning_rate: on}", "train.learning_rate: YAML reads the value as true"),
        (MINIMAL + "train: {zero_stage: on}", "train.zero_stage: YAML reads the value as true"),
        (MINIMAL + "train: {num_workers: [1, yes]}", "train.num_workers: YAML reads the value as true"),
        (
            MINIMAL + "tune: {space: {model.dropout: {uniform: [no, yes]}}}",
            "tune.space.model.dropout.uniform: YAML reads the value",
        ),
        (MINIMAL + "tune: {space: {train.num_epochs: {choice: [1, yes]}}}", "YAML reads the value as true"),
        (MINIMAL + "model: {lora: {target_modules: [query, 1]}}", "target_modules: YAML reads the value as the number 1; quote it"),
        (
            MINIMAL + "train: {class_weights: {0: 1, 1: 2}}",
            "train.class_weights: YAML reads a label as the number 0; give the labels' ",
        ),
        (
            MINIMAL + "train: {class_weights: {no: 1}}",
            "train.class_weights: YAML reads a label as false (no and off, too); give the",
        ),
        (MINIMAL + "train: {class_weights: {a: yes}}", "train.class_weights: YAML reads the value as true"),
        (
            MINIMAL + "tune: {space: {yes: {choice: [1]}}}",
            "tune.space: YAML reads the name True as true (yes and on, too); quote it",
        ),
        (
            MINIMAL + "on: 1",
            "the experiment: YAML reads the name of a setting as true (yes and on, too); quote it or remove it",
        ),
    ],
)
def test_no_type_of_yaml_counts_as_another(experiment: Path, text: str, message: str) -> None:
    experiment.write_text(text)
    assert refused(experiment).startswith((f"{experiment}:1: name", f"{experiment}:{text.count(chr(10)) + 1}: "))
    assert message in refused(experiment)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("model:", "model has no value; give one, or remove the line."),
        ("model: bert", "model: 'bert' is wrong: expected settings of its own, each on a line below it."),
        ("tune: {space: [train.seed]}", "expected names with their values, such as {name: value}. Searched settings"),
        ("train: {class_weights: [1, 2]}", "train.class_weights: [1, 2] is wrong: expected names with their values"),
        ("serve: {allowed_hosts: api}", "serve.allowed_hosts: 'api' is wrong: expected a list, such as [a, b]."),
        ("registry: {model: a b}", "registry.model: 'a b' is wrong: it has a character that is not allowed"),
        ("train:\n  learning_rate: 0,001", "train.learning_rate: '0,001' is wrong: write a point instead of the comma."),
        ("storage: ''", "storage: it is empty; give a value, or leave the setting out"),
        ("storage: s3:/bucket/runs", "storage 's3:/bucket/runs' has one slash after the colon; write s3://bucket/runs"),
        ("model: {pretrained: ' '}", "model.pretrained: it is empty"),
    ],
)
def test_a_wrong_value_is_said_in_the_words_of_yaml(experiment: Path, text: str, message: str) -> None:
    experiment.write_text(f"{MINIMAL}{text}\n")
    assert message in refused(experiment)


@pytest.mark.parametrize("name", ["validation", "test", "behaviour"])
def test_an_empty_location_is_not_the_folder_of_the_yaml(experiment: Path, name: str) -> None:
    experiment.write_text(f"name: x\ndata:\n  train: rows.csv\n  {name}: ''\n")
    assert f"{experiment}:4: data.{name}: it is empty; give a value, or leave the setting out" in refused(experiment)


def test_of_very_many_wrong_settings_the_first_are_told(experiment: Path) -> None:
    experiment.write_text(MINIMAL + "".join(f"k{number}: 1\n" for number in range(500)))
    lines = refused(experiment).splitlines()
    assert len(lines) == 21
    assert lines[-1] == f"{experiment}: 480 more settings are wrong"


def test_a_setting_merged_from_another_section_has_its_own_line(experiment: Path) -> None:
    experiment.write_text(f"{MINIMAL}train: &t\n  num_epochs: 2\n  seed: 1\ntune:\n  <<: *t\n  seed: -2\n")
    message = refused(experiment)
    start = MINIMAL.count("\n")
    assert f"{experiment}:{start + 2}: unknown setting tune.num_epochs" in message
    assert f"{experiment}:{start + 6}: tune.seed: -2 is wrong" in message


def test_a_time_stays_text_and_a_switch_stays_a_switch(experiment: Path) -> None:
    experiment.write_text("name: x\ndata: {train: r.csv, label: 90:00, header: yes}\ntrain: {use_gpu: off, seed: 1_000}\n")
    config = load_config(experiment)
    assert (config.data.label, config.data.header, config.train.use_gpu, config.train.seed) == ("90:00", True, False, 1000)


def test_of_a_value_of_several_types_the_nearest_error_is_told(experiment: Path) -> None:
    experiment.write_text(MINIMAL + "train: {class_weights: {a: -1}}\n")
    assert "train.class_weights: -1 is wrong: input should be greater than 0" in refused(experiment)


def test_a_section_given_twice_is_named_with_both_lines(experiment: Path) -> None:
    experiment.write_text(MINIMAL + "train: {seed: 1}\ntrain: {num_epochs: 2}\n")
    assert refused(experiment) == f"{experiment}: train is given twice, on line 3 and on line 4; keep one of them."


def test_a_rule_over_several_fields_is_one_sentence(experiment: Path) -> None:
    experiment.write_text(MINIMAL + "train: {batch_size: 2, num_workers: 4}\n")
    message = refused(experiment)
    assert message.startswith(f"{experiment}:3: train.batch_size 2 leaves some of the 4 workers without a row")


def test_a_searched_value_that_does_not_fit_is_one_sentence(experiment: Path) -> None:
    experiment.write_text(MINIMAL + "tune: {space: {train.num_epochs: {choice: [1, many]}}}\n")
    message = refused(experiment)
    assert f"{experiment}:3: tune.space: train.num_epochs cannot be 'many': input should be a valid integer" in message
    assert "\n" not in message


@pytest.mark.parametrize(
    ("pair", "name", "value"),
    [
        ("name=other", "name", "other"),
        ("train.learning_rate=3e-5", "train.learning_rate", 3e-5),
        ("train.seed=4", "train.seed", 4),
        ("tune.budget.num_trials=2", "tune.budget.num_trials", 2),
        ("data.header=true", "data.header", True),
        ("data.text=a=b", "data.text", "a=b"),
    ],
)
def test_set_replaces_any_setting(experiment: Path, pair: str, name: str, value: object) -> None:
    found: object = load_config(experiment, overrides=[pair])
    for part in name.split("."):
        found = getattr(found, part)
    assert found == value


def test_set_reaches_the_searched_fields(experiment: Path) -> None:
    config = load_config(experiment, overrides=["tune.space.train.batch_size={choice: [16, 32]}"])
    assert config.tune.searched["train.batch_size"].choice == [16, 32]


def test_set_adds_to_the_searched_fields_of_the_file(experiment: Path) -> None:
    experiment.write_text(MINIMAL + "tune: {space: {model.dropout: {uniform: [0, 0.2]}}}\n")
    config = load_config(experiment, overrides=["tune.space.train.batch_size={choice: [16]}"])
    assert list(config.tune.searched) == ["model.dropout", "train.batch_size"]


def test_the_last_set_of_a_name_holds(experiment: Path) -> None:
    assert load_config(experiment, overrides=["train.seed=1", "train.seed=2"]).train.seed == 2


@pytest.mark.parametrize(
    ("pair", "fragment"),
    [
        ("train.learning_rat=1", "train.learning_rat is not a setting; did you mean train.learning_rate?"),
        ("learning_rate=1", "learning_rate is not a setting; did you mean train.learning_rate?"),
        ("train=1", "train is not a setting"),
        ("train.learning_rate", "write it as name=value"),
        ("=3", "write it as name=value"),
        ("train.seed=[1", "--set train.seed=[1: not valid YAML"),
        ("train.seed=one", "train.seed: 'one' is wrong"),
        ("tune.space.train.lr={uniform: [0, 1]}", "train.lr is not a setting"),
    ],
)
def test_a_bad_set_is_refused(experiment: Path, pair: str, fragment: str) -> None:
    assert fragment in refused(experiment, overrides=[pair])


@pytest.mark.parametrize("text", ["5e-5", "5.0e-5", "0.00005", "5E-5"])
def test_exponents_are_numbers_with_and_without_a_dot(experiment: Path, text: str) -> None:
    experiment.write_text(
        f"{MINIMAL}train: {{learning_rate: {text}}}\ntune: {{space: {{train.learning_rate: {{loguniform: [{text}, 1e-3]}}}}}}\n"
    )
    config = load_config(experiment)
    assert config.train.learning_rate == pytest.approx(5e-5, rel=1e-12)
    assert config.tune.searched["train.learning_rate"].loguniform == pytest.approx((5e-5, 1e-3), rel=1e-12)


def test_relative_data_paths_start_at_the_yaml(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, elsewhere = tmp_path / "experiments", tmp_path / "elsewhere"
    folder.mkdir()
    elsewhere.mkdir()
    (folder / "e.yaml").write_text("name: x\ndata: {train: rows/a.csv, validation: ../b.csv, test: c.csv}\n")
    monkeypatch.chdir(elsewhere)
    data = load_config(Path("../experiments/e.yaml"), overrides=["data.test=d.csv"]).data
    assert Path(data.train) == folder / "rows" / "a.csv"
    assert Path(str(data.validation)).resolve() == tmp_path / "b.csv"
    assert data.test == "d.csv"


@pytest.mark.parametrize("location", ["/rows/a.csv", "s3://rows/a.csv", "hf://owner/name", "sample:support", "~/a.csv"])
def test_other_locations_stay_as_they_are(experiment: Path, location: str) -> None:
    experiment.write_text(f"name: x\ndata: {{train: '{location}'}}\n")
    assert load_config(experiment).data.train == location


@pytest.mark.parametrize("pretrained", ["encoder", "./encoder"])
def test_a_model_folder_beside_the_yaml_is_found_there(experiment: Path, pretrained: str) -> None:
    (experiment.parent / "encoder").mkdir()
    experiment.write_text(f"{MINIMAL}model: {{pretrained: {pretrained}}}\n")
    assert Path(load_config(experiment).model.pretrained) == experiment.parent / "encoder"


def test_a_hub_id_is_no_path(experiment: Path) -> None:
    experiment.write_text(MINIMAL + "model: {pretrained: bert-base-uncased}\n")
    assert load_config(experiment).model.pretrained == "bert-base-uncased"


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    assert refused(tmp_path / "none.yaml") == f"{tmp_path / 'none.yaml'}: no such config file; check the path."


def test_a_folder_is_no_config(tmp_path: Path) -> None:
    assert f"{tmp_path}: cannot be read" in refused(tmp_path)


@pytest.mark.parametrize(
    ("content", "fragment"),
    [
        (b"name: x\ndata: {train: [}\n", ":2: not valid YAML"),
        (b"name: x\n\tdata: 1\n", ":2: not valid YAML"),
        (b"- name\n", "found a list"),
        (b"", "found nothing"),
        (b"just words\n", "found one text"),
        (b"name: x\nstorage: caf\xe9\n", ", line 2: byte 0xe9 is not UTF-8; save the file as UTF-8."),
        (b"name: 2024-13-45\n", ":1: not valid YAML (month must be in 1..12; quote it)"),
    ],
    ids=["bracket", "tab", "list", "empty", "words", "bytes", "impossible-date"],
)
def test_a_broken_file_is_refused_with_the_place(experiment: Path, content: bytes, fragment: str) -> None:
    experiment.write_bytes(content)
    message = refused(experiment)
    assert message.startswith(str(experiment))
    assert fragment in message


def test_a_written_config_loads_as_the_same(tmp_path: Path, experiment: Path) -> None:
    experiment.write_text(
        MINIMAL
        + "model: {dropout: 0.25, task: binary}\ntrain: {learning_rate: 2e-5, use_gpu: false, cpus_per_worker: 2}\n"
        + "tune: {space: {train.batch_size: {choice: [8, 16]}, train.learning_rate: {loguniform: [1e-5, 1e-3]}}}\n"
        + "registry: {model: desk, promote: false}\nstorage: somewhere\n"
    )
    config = load_config(experiment)
    (tmp_path / "copy").mkdir()
    write_config(config, tmp_path / "copy" / "config.yaml")
    assert load_config(tmp_path / "copy" / "config.yaml") == config


def test_a_written_config_holds_every_default(tmp_path: Path, experiment: Path) -> None:
    write_config(load_config(experiment), tmp_path / "config.yaml")
    document = yaml.safe_load((tmp_path / "config.yaml").read_text())
    assert set(document) == set(ExperimentConfig.model_fields) - {"storage"}
    assert document["train"]["learning_rate"] == ExperimentConfig.model_validate(document).train.learning_rate
