import re
from typing import Any

import pytest
from pydantic import BaseModel, ValidationError

from manta.config import (
    DataConfig,
    ExperimentConfig,
    Range,
    RegistryConfig,
    Section,
    ServeConfig,
    TrainConfig,
    field_names,
    nearest,
    set_by_name,
)

MINIMAL = {"name": "support", "data": {"train": "train.csv"}}


def sections(section: type[BaseModel] = Section) -> list[type[BaseModel]]:
    return [inner for direct in section.__subclasses__() for inner in (direct, *sections(direct))]


def with_space(**space: Any) -> dict[str, Any]:
    return MINIMAL | {"tune": {"space": {name.replace("__", "."): values for name, values in space.items()}}}


def test_a_setting_of_an_earlier_version_is_read_with_its_default_only() -> None:
    document = {"name": "desk", "data": {"train": "r.csv"}, "train": {"gce_q": 0.0}}
    assert ExperimentConfig.model_validate(document).train.label_noise == "auto"
    with pytest.raises(ValueError, match=r"train\.gce_q is gone; remove it"):
        ExperimentConfig.model_validate(document | {"train": {"gce_q": 0.7}})


def test_another_method_leaves_out_what_has_no_effect_on_it() -> None:
    train = {"method": "full", "label_noise": 0.1, "early_stopping": 2, "deepspeed": {"wall_clock_breakdown": True}, "seed": 3}
    config = ExperimentConfig.model_validate({"name": "desk", "data": {"train": "r.csv"}, "model": {"lora": {}}, "train": train})
    other = config.with_method("linear")
    assert (other.train.method, other.train.seed, other.train.label_noise) == ("linear", 3, "auto")
    assert (other.model.lora, other.train.early_stopping, other.train.deepspeed) == (None, None, {})
    assert config.with_method("full") == config


def test_a_name_and_training_rows_are_a_whole_config() -> None:
    config = ExperimentConfig.model_validate(MINIMAL)
    assert config.registered_name == "support"
    assert config.data.validation is config.data.test is None
    assert config.model.pretrained == "embedded"


@pytest.mark.parametrize("missing", ["name", "data"])
def test_name_and_data_are_required(missing: str) -> None:
    with pytest.raises(ValidationError, match=missing):
        ExperimentConfig.model_validate({key: value for key, value in MINIMAL.items() if key != missing})


@pytest.mark.parametrize("name", ["", "-x", "a/b", "a b", "ü", "x" * 101])
def test_a_name_must_do_as_a_folder_and_model_name(name: str) -> None:
    with pytest.raises(ValidationError, match="name"):
        ExperimentConfig.model_validate(MINIMAL | {"name": name})


def test_registry_model_overrules_the_name() -> None:
    assert ExperimentConfig.model_validate(MINIMAL | {"registry": {"model": "desk"}}).registered_name == "desk"


@pytest.mark.parametrize("model", ["team/desk", "a:b", ""])
def test_a_registry_name_that_mlflow_refuses_is_found_before_training(model: str) -> None:
    with pytest.raises(ValidationError, match="registry"):
        ExperimentConfig.model_validate(MINIMAL | {"registry": {"model": model}})


@pytest.mark.parametrize("value", [0, 1, 1.5, -0.1, "most"])
def test_a_target_precision_that_no_share_can_be_is_refused(value: object) -> None:
    with pytest.raises(ValidationError, match="target_precision"):
        RegistryConfig.model_validate({"target_precision": value})
    assert RegistryConfig.model_validate({"target_precision": None}).target_precision is None


def test_the_earlier_name_of_fast_formats_is_read() -> None:
    assert not RegistryConfig.model_validate({"onnx": False}).fast_formats
    assert RegistryConfig.model_validate({"onnx": True}) == RegistryConfig()
    with pytest.raises(ValidationError, match=r"registry\.onnx is the earlier name of registry\.fast_formats, which is given, too"):
        RegistryConfig.model_validate({"onnx": True, "fast_formats": False})


def test_a_guarantee_without_a_target_is_refused() -> None:
    with pytest.raises(ValidationError, match="guarantee needs a target_precision"):
        RegistryConfig.model_validate({"target_precision": None, "guarantee": 0.9})


@pytest.mark.parametrize("section", sections(), ids=lambda section: section.__name__)
def test_every_field_is_explained(section: type[BaseModel]) -> None:
    unexplained = [name for name, field in section.model_fields.items() if not (field.description or "").strip()]
    assert unexplained == []


@pytest.mark.parametrize("section", sections(), ids=lambda section: section.__name__)
def test_every_section_is_frozen_and_knows_its_keys(section: type[BaseModel]) -> None:
    assert section.model_config["frozen"]
    assert section.model_config["extra"] == "forbid"


def test_a_config_cannot_be_changed_in_place() -> None:
    config = ExperimentConfig.model_validate(MINIMAL)
    with pytest.raises(ValidationError, match="frozen"):
        config.train.learning_rate = 1.0  # type: ignore[misc]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"text": "label"}, "both name the column 'label'"),
        ({"header": False, "text": 1, "label": 1}, "both name the column 1"),
        ({"header": False}, "must be positions"),
        ({"header": False, "text": 0}, "must be positions"),
        ({"header": False, "text": [0, "b"], "label": 2}, "must be positions"),
        ({"text": ["a"]}, "data.text lists 1 columns; give one column, or exactly two"),
        ({"text": ["a", "b", "c"]}, "data.text lists 3 columns; give one column, or exactly two"),
        ({"text": ["a", "a"]}, "names the column 'a' twice"),
        ({"text": ["a", "label"]}, "both name the column 'label'"),
        ({"label_separator": ""}, "at least 1 character"),
        ({"validation_fraction": 0.5, "test_fraction": 0.5}, "leave no rows to train on"),
        ({"validation_fraction": 0.0}, "greater than 0"),
        ({"test_fraction": 1.0}, "less than 1"),
        ({"split_seed": -1}, "greater than or equal to 0"),
    ],
)
def test_data_settings_that_cannot_work_are_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        DataConfig.model_validate({"train": "train.csv"} | values)


def test_positions_do_without_a_header() -> None:
    config = DataConfig.model_validate({"train": "train.csv", "header": False, "text": 1, "label": 0})
    assert (config.text, config.label, config.text_columns) == (1, 0, (1,))


def test_two_columns_are_a_text_pair() -> None:
    config = DataConfig.model_validate({"train": "train.csv", "text": ["premise", "hypothesis"]})
    assert config.text == config.text_columns == ("premise", "hypothesis")
    assert DataConfig.model_validate(config.model_dump(mode="json")) == config
    assert DataConfig.model_validate({"train": "t.csv", "header": False, "text": [2, 0], "label": 1}).text_columns == (2, 0)


def test_a_batch_has_a_row_for_every_worker() -> None:
    assert TrainConfig(batch_size=4, num_workers=4).batch_size == 4
    with pytest.raises(ValidationError, match=r"batch_size 3 leaves some of the 4 workers .* set it to 4 or more"):
        TrainConfig(batch_size=3, num_workers=4)


@pytest.mark.parametrize(
    ("values", "name"),
    [
        ({"model": {"lora": {"rank": 4}}}, "model.lora"),
        ({"train": {"early_stopping": 2}}, "train.early_stopping"),
        ({"train": {"label_smoothing": 0.1}}, "train.label_smoothing"),
        ({"train": {"focal_gamma": 2}}, "train.focal_gamma"),
        ({"train": {"label_noise": 0.1}}, "train.label_noise"),
        ({"train": {"deepspeed": {"prescale_gradients": True}}}, "train.deepspeed"),
    ],
)
def test_what_only_fine_tuning_knows_is_refused_for_other_methods(values: dict[str, Any], name: str) -> None:
    for method in ("linear", "contrastive"):
        with pytest.raises(ValidationError, match=f"{name} has no effect with train.method {method}"):
            ExperimentConfig.model_validate(with_method(method, values))
    for method in ("auto", "full"):
        assert ExperimentConfig.model_validate(with_method(method, values)).train.method == method


def with_method(method: str, values: dict[str, Any]) -> dict[str, Any]:
    return {"name": "desk", "data": {"train": "rows.csv"}, **values, "train": {**values.get("train", {}), "method": method}}


@pytest.mark.parametrize("metric", ["accuracy", "f1_macro", "loss"])
def test_only_the_loss_is_better_when_lower(metric: str) -> None:
    assert TrainConfig.model_validate({"metric": metric}).metric_mode == ("min" if metric == "loss" else "max")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({}, "exactly one of"),
        ({"uniform": [0, 1], "choice": [1]}, "exactly one of"),
        ({"uniform": [0, 1], "loguniform": [1, 2]}, "exactly one of"),
        ({"choice": []}, "choice is empty"),
        ({"uniform": [0.3, 0.3]}, "empty or reversed"),
        ({"uniform": [0.4, 0.1]}, "empty or reversed"),
        ({"loguniform": [1e-3, 1e-5]}, "empty or reversed"),
        ({"loguniform": [0, 1e-3]}, "above 0"),
        ({"loguniform": [-1, 1e-3]}, "above 0"),
        ({"randint": [4, 2]}, "empty or reversed"),
        ({"randint": [2, 2]}, "empty or reversed"),
        ({"randint": [1, 2.5]}, "valid integer"),
        ({"randint": [1, 3], "choice": [2]}, "exactly one of"),
        ({"uniform": [0, float("inf")]}, "finite"),
    ],
)
def test_ranges_that_nothing_can_be_drawn_from_are_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        Range.model_validate(values)


@pytest.mark.parametrize(
    ("space", "message"),
    [
        ({"train__learning_rat": {"uniform": [0, 1]}}, "did you mean train.learning_rate"),
        ({"learning_rate": {"uniform": [0, 1]}}, "did you mean train.learning_rate"),
        ({"train": {"choice": [1]}}, "train is not a setting"),
        ({"train__num_epochs": {"choice": [2, "many"]}}, "train.num_epochs cannot be 'many': input should be a valid integer"),
        ({"train__num_epochs": {"choice": [2, "auto"]}}, "train.num_epochs can be searched by numbers only"),
        (
            {"model__dropout": {"uniform": [0.0, 1.5]}},
            "dropout cannot be 1.5: input should be less than 1; change its uniform",
        ),
        ({"train__learning_rate": {"uniform": [0.0, 1.0]}}, "train.learning_rate cannot be 0.0: input should be greater than 0"),
        ({"train__batch_size": {"choice": [8, 0]}}, "train.batch_size cannot be 0: input should be greater than or equal to 1"),
        ({"train__batch_size": {"randint": [0, 8]}}, "train.batch_size cannot be 0: input should be greater than or equal to 1"),
        ({"train__num_epochs": {"uniform": [1, 5]}}, r"train.num_epochs is a whole number, .* write randint: \[1, 5\]"),
        ({"train__batch_size": {"loguniform": [8, 64]}}, r"train.batch_size is a whole number, .* write randint: \[8, 64\]"),
        ({"model__freeze_layers": {"uniform": [0.1, 0.4]}}, "model.freeze_layers is a whole number, .* write choice"),
        ({"train__schedule": {"uniform": [0, 1]}}, "train.schedule is not a number, .* choice"),
        ({"model__freeze_embeddings": {"randint": [0, 1]}}, "model.freeze_embeddings is not a number, .* choice"),
        ({"train__deepspeed": {"randint": [0, 1]}}, "train.deepspeed is not a number, .* choice"),
        ({"model__lora__rank": {"choice": [4, 8]}}, r"model.lora.rank is searched, but model.lora is off; turn it on"),
        ({"model__lora": {"choice": [{"rank": 4}, {"rnk": 4}]}}, "model.lora cannot be {'rnk': 4}"),
    ],
)
def test_a_search_over_what_a_field_cannot_be_is_refused(space: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        ExperimentConfig.model_validate(with_space(**space))


@pytest.mark.parametrize(
    "name",
    [
        *("name", "storage", "data.train", "data.split_seed", "tune.seed", "tune.budget.num_trials"),
        *("registry.promote", "serve.port"),
        *("train.num_workers", "train.use_gpu", "train.cpus_per_worker", "train.max_failures", "train.checkpoint_minutes"),
        *("train.checkpoint_steps", "train.cost_per_hour", "train.tensorboard", "train.method"),
    ],
)
def test_what_is_no_property_of_a_model_is_not_searched(name: str) -> None:
    with pytest.raises(ValidationError, match=rf"{name} cannot be searched; remove it: .* model and train can be searched"):
        ExperimentConfig.model_validate(with_space(**{name: {"choice": [1, 2]}}))


@pytest.mark.parametrize("name", ["model.pretrained", "model.task", "model.max_length"])
def test_what_texts_are_tokenised_by_is_the_same_for_all_trials(name: str) -> None:
    with pytest.raises(ValidationError, match=f"{name} cannot be searched, because texts are .* --set {name}="):
        ExperimentConfig.model_validate(with_space(**{name: {"choice": [64, 128]}}))


def test_what_trials_are_compared_by_is_the_same_for_all() -> None:
    with pytest.raises(ValidationError, match=r"trials are compared by train\.metric"):
        ExperimentConfig.model_validate(with_space(train__metric={"choice": ["accuracy", "loss"]}))


def test_a_seed_is_not_chosen_by_its_score() -> None:
    with pytest.raises(ValidationError, match=r"train\.seed cannot be searched, because the best seed"):
        ExperimentConfig.model_validate(with_space(train__seed={"choice": [0, 1]}))


def test_an_empty_space_is_refused() -> None:
    with pytest.raises(ValidationError, match=r"tune\.space is empty; name a setting"):
        ExperimentConfig.model_validate(MINIMAL | {"tune": {"space": {}}})


def test_whole_numbers_words_and_sections_can_be_searched() -> None:
    space = {
        "train__num_epochs": {"randint": [2, 5]},
        "train__micro_batch_size": {"randint": [1, 8]},
        "train__zero_stage": {"choice": [0, 2]},
        "train__schedule": {"choice": ["linear", "cosine"]},
        "train__class_weights": {"choice": [None, "balanced"]},
        "model__lora": {"choice": [None, {"rank": 4}]},
    }
    config = ExperimentConfig.model_validate(with_space(**space))
    assert ExperimentConfig.model_validate(config.document()) == config
    assert config.tune.searched["train.num_epochs"].extremes == [2, 5]


def test_an_exponent_without_a_dot_is_a_number_in_a_choice() -> None:
    assert Range.model_validate({"choice": ["3e-5", "-1E+2", 2, "linear"]}).choice == [3e-5, -100.0, 2, "linear"]


@pytest.mark.parametrize(
    ("tune", "message"),
    [
        ({"search": "grid"}, "tune.search: grid .* default space has none; set tune.space"),
        ({"search": "grid", "space": {"model.dropout": {"uniform": [0, 0.4]}}}, "but model.dropout has uniform; list its values"),
        (
            {"search": "grid", "space": {"train.num_epochs": {"randint": [1, 4]}}},
            "but train.num_epochs has randint",
        ),
    ],
)
def test_a_space_that_the_search_cannot_go_through_is_refused(tune: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        ExperimentConfig.model_validate(MINIMAL | {"tune": tune})


@pytest.mark.parametrize(
    "tune",
    [
        {"search": "grid", "space": {"train.num_epochs": {"choice": [2, 3]}, "train.schedule": {"choice": ["linear", "cosine"]}}},
        {"search": "optuna", "scheduler": "none"},
    ],
)
def test_spaces_that_fit_their_search_are_taken(tune: dict[str, Any]) -> None:
    config = ExperimentConfig.model_validate(MINIMAL | {"tune": tune})
    assert ExperimentConfig.model_validate(config.document()) == config


def test_no_confirmation_stays_none() -> None:
    config = ExperimentConfig.model_validate(MINIMAL | {"tune": {"confirm": None}})
    assert config.with_values({"train.seed": 3}).tune.confirm is None


def test_what_is_auto_has_no_number_yet() -> None:
    config = ExperimentConfig.model_validate(MINIMAL)
    for name in ("peak_learning_rate", "planned_epochs"):
        with pytest.raises(ValueError, match="is still auto"):
            getattr(config.train, name)
    with pytest.raises(ValueError, match="is still the default"):
        _ = config.tune.searched
    told = config.with_values({"train.learning_rate": 3e-5, "train.num_epochs": 2}).train
    assert (told.peak_learning_rate, told.planned_epochs) == (3e-5, 2)


def test_a_searched_batch_must_also_reach_every_worker() -> None:
    with pytest.raises(ValidationError, match="leaves some of the 4 workers"):
        ExperimentConfig.model_validate(with_space(train__batch_size={"choice": [2, 8]}) | {"train": {"num_workers": 4}})


def test_with_values_replaces_by_dotted_name_and_keeps_the_rest() -> None:
    config = ExperimentConfig.model_validate(MINIMAL | {"train": {"seed": 7}})
    changed = config.with_values({"train.learning_rate": 3e-5, "model.dropout": 0.2})
    assert (changed.train.learning_rate, changed.model.dropout, changed.train.seed) == (3e-5, 0.2, 7)
    assert changed.tune == config.tune
    assert config.train.learning_rate != 3e-5


@pytest.mark.parametrize(("name", "value"), [("train.learning_rate", -1), ("train.batch_size", "big"), ("train.nothing", 1)])
def test_with_values_checks_anew(name: str, value: object) -> None:
    with pytest.raises(ValueError, match=re.escape(name)):
        ExperimentConfig.model_validate(MINIMAL).with_values({name: value})


def test_field_names_are_those_of_the_yaml() -> None:
    names = field_names(ExperimentConfig)
    assert names[:2] == ["name", "data.train"]
    assert {"train.learning_rate", "tune.space", "tune.budget.num_trials", "storage"} <= set(names)
    assert len(names) == len(set(names))


def test_set_by_name_makes_missing_sections() -> None:
    document: dict[str, Any] = {}
    set_by_name(document, "tune.budget.num_trials", 3, section=ExperimentConfig)
    set_by_name(document, "tune.space.train.batch_size", {"choice": [1]}, section=ExperimentConfig)
    assert document == {"tune": {"budget": {"num_trials": 3}, "space": {"train.batch_size": {"choice": [1]}}}}


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("supprt", "did you mean support?"),
        ("zzz", "known ones are support, model.dropout"),
        ("dropout", "did you mean model.dropout?"),
    ],
)
def test_the_hint_names_the_nearest_or_all(name: str, hint: str) -> None:
    assert nearest(name, ["support", "model.dropout"]) == hint


@pytest.mark.parametrize(
    ("section", "values", "words"),
    [
        ("train", {"num_workers": [3, 2]}, "train.num_workers [3, 2] is reversed"),
        ("train", {"num_workers": [1, 64]}, "leaves some of the 64 workers without a row"),
        ("train", {"label_smoothing": 0.1, "label_noise": 0.1}, "train.label_smoothing and train.label_noise both keep"),
        ("train", {"focal_gamma": 2, "label_noise": 0.1}, "train.focal_gamma makes rows count more that the model gets wrong"),
        ("train", {"offload_optimizer": True, "zero_stage": 0}, "train.offload_optimizer needs train.zero_stage 1, 2 or 3"),
        ("train", {"offload_parameters": True, "zero_stage": 2}, "train.offload_parameters needs train.zero_stage 3, not 2"),
        ("train", {"offload_parameters": True, "zero_stage": 0}, "train.offload_parameters needs train.zero_stage 3, not 0"),
        ("train", {"deepspeed": {"optimizer": {}}}, "optimizer contradicts train.learning_rate"),
        ("train", {"deepspeed": {"bf16": {"enabled": True}}}, "bf16 contradicts train.precision"),
        ("train", {"deepspeed": {"train_batch_size": 8}}, "train_batch_size contradicts train.batch_size"),
        ("train", {"deepspeed": {"zero_optimization": {"stage": 1}}}, "zero_optimization.stage contradicts train.zero_stage"),
        ("train", {"deepspeed": {"zero_optimization": 2}}, "zero_optimization must be a mapping"),
        ("model", {"lora": {"rank": 4}, "freeze_layers": 2}, "model.lora freezes the whole encoder, so model.freeze_layers"),
        ("model", {"lora": {"rank": 4}, "freeze_embeddings": True}, "so model.freeze_embeddings has no effect"),
    ],
)
def test_settings_that_contradict_each_other_are_refused_by_name(section: str, values: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError) as refused:
        ExperimentConfig.model_validate({"name": "x", "data": {"train": "x.csv"}, section: values})
    assert words in str(refused.value)


def test_the_stage_is_auto_and_begins_where_offloading_works() -> None:
    assert TrainConfig().zero_stage == "auto"
    assert [
        TrainConfig(**settings).lowest_zero_stage
        for settings in ({}, {"offload_optimizer": True}, {"offload_parameters": True, "offload_optimizer": True})
    ] == [0, 1, 3]
    assert TrainConfig(zero_stage=2).chosen_zero_stage == 2
    with pytest.raises(ValueError, match=r"train\.zero_stage is still auto"):
        TrainConfig().chosen_zero_stage  # noqa: B018  # it is the question that fails


def test_workers_may_be_a_number_or_a_range() -> None:
    fixed, elastic = (
        ExperimentConfig.model_validate({"name": "x", "data": {"train": "x.csv"}, "train": {"num_workers": number}}).train
        for number in (3, [2, 4])
    )
    assert (fixed.min_workers, fixed.max_workers) == (3, 3)
    assert (elastic.min_workers, elastic.max_workers) == (2, 4)


def test_replicas_may_be_a_number_or_a_range_that_starts_at_none() -> None:
    bounds = [ServeConfig.model_validate({"num_replicas": number}) for number in (2, [1, 3], [0, 1])]
    assert [(config.min_replicas, config.max_replicas) for config in bounds] == [(2, 2), (1, 3), (0, 1)]


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"num_replicas": [3, 2]}, "serve.num_replicas [3, 2] is reversed"),
        ({"sample_texts": True}, "serve.sample_texts needs serve.feedback: true"),
        ({"num_replicas": 0}, "greater than or equal to 1"),
        ({"num_replicas": [0, 0]}, "greater than or equal to 1"),
        ({"max_texts": 2000}, "serve.max_queued_texts 1024 leaves no room for a request of serve.max_texts 2000; set it to 2000"),
        ({"traffic": {"candidate": 101}}, "less than or equal to 100"),
        ({"deadline_s": 0}, "greater than 0"),
    ],
)
def test_serving_settings_that_cannot_work_are_refused(values: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError) as refused:
        ServeConfig.model_validate(values)
    assert words in str(refused.value)


def test_an_optional_section_can_be_set_and_searched_by_name() -> None:
    config = ExperimentConfig.model_validate({"name": "x", "data": {"train": "x.csv"}})
    assert config.model.lora is None
    changed = config.with_values({"model.lora.rank": 4})
    assert changed.model.lora is not None
    assert (changed.model.lora.rank, changed.model.lora.alpha) == (4, 16.0)
    assert {"model.lora", "model.lora.rank"} <= set(field_names(ExperimentConfig))
    with pytest.raises(ValueError, match=r"model.lora.rnk is not a setting; did you mean model.lora.rank"):
        config.with_values({"model.lora.rnk": 4})
