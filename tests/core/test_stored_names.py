import pytest

from alphabar.core import stored_names
from alphabar.core.stored_names import renamed

ALIASES = {"train.start": "train.init_from", "notes": "record", "record.net": "record.extractor", "rows.n": "rows.count"}


@pytest.mark.parametrize(
    ("stored", "read"),
    [
        ({"train": {"start": "x", "lr": 1}}, {"train": {"init_from": "x", "lr": 1}}),
        ({"train.start": "x"}, {"train.init_from": "x"}),
        ({"notes": {"net": "e", "n": 3}}, {"record": {"extractor": "e", "n": 3}}),
        ({"record": {"net": "e"}}, {"record": {"extractor": "e"}}),
        ({"rows": [{"n": 1}, {"n": 2}]}, {"rows": [{"count": 1}, {"count": 2}]}),
        ({"start": 1, "model": {"start": 2}}, {"start": 1, "model": {"start": 2}}),
        ({"train": {"init_from": "x"}}, {"train": {"init_from": "x"}}),
    ],
)
def test_old_names_are_read_as_new_ones(stored, read):
    assert renamed(stored, ALIASES) == read


def test_the_order_of_keys_is_kept_and_the_argument_is_not_changed():
    stored = {"train": {"a": 1, "start": 2, "z": 3}}
    assert list(renamed(stored, ALIASES)["train"]) == ["a", "init_from", "z"]
    assert list(stored["train"]) == ["a", "start", "z"]


def test_both_names_of_one_value_are_refused():
    with pytest.raises(ValueError, match=r"train\.start is the old name of train\.init_from, .*delete train\.start"):
        renamed({"train": {"init_from": "a", "start": "b"}}, ALIASES)


def test_every_alias_stays_in_its_table_and_no_new_name_is_old_at_once():
    tables = [v for k, v in vars(stored_names).items() if k.isupper()]
    assert stored_names.RECIPE in tables
    for aliases in tables:
        for old, new in aliases.items():
            assert old.rpartition(".")[0] == new.rpartition(".")[0]
            assert new not in aliases
