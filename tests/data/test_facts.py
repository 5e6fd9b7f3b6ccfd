from __future__ import annotations

import json

import pytest
import pytorch_lightning as pl
import torch

from oneshot.data import Digits, SearchDataModule
from oneshot.data.facts import FACTS, data_facts


@pytest.mark.parametrize("data", [Digits(), SearchDataModule(Digits())], ids=["digits", "streams"])
def test_the_facts_of_a_data_set_are_plain_json(data: pl.LightningDataModule) -> None:
    data.setup("fit")
    facts = data_facts(data)
    assert tuple(facts) == FACTS and json.loads(json.dumps(facts)) == facts
    assert facts["classes"] == [str(digit) for digit in range(10)] and facts["input_shape"] == [1, 8, 8]
    assert facts["mean"] == list(Digits().mean) and facts["std"] == list(Digits().std)


def test_what_a_data_module_does_not_say_is_none() -> None:
    assert data_facts(pl.LightningDataModule()) == dict.fromkeys(FACTS)


def test_facts_that_are_no_json_are_refused() -> None:
    data = pl.LightningDataModule()
    data.mean = torch.zeros(3)
    with pytest.raises(ValueError, match=r"is JSON.*LightningDataModule is not: .*Tensor"):
        data_facts(data)
