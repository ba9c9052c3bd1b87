from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from benchmarks.naive_model import NaiveDcnV2, NaiveFeatures, naive_weights  # noqa: E402
from benchmarks.ranking_arms import make_bodies  # noqa: E402
from benchmarks.seeded import scenarios  # noqa: E402
from optimize.models.dcn_v2 import DcnV2  # noqa: E402
from optimize.models.registry import DcnV2Settings, build  # noqa: E402
from serving.contract.errors import PilotageError  # noqa: E402
from serving.contract.fields import FeatureSpec  # noqa: E402

SETTINGS = DcnV2Settings(cross_layers=2, hidden=(8, 4))
CANDIDATES = 7


def _model(spec: FeatureSpec) -> DcnV2:
    torch.manual_seed(0)
    model = build(SETTINGS, spec).eval()
    assert isinstance(model, DcnV2)
    return model


def _naive(model: DcnV2) -> NaiveDcnV2:
    naive = NaiveDcnV2(model.spec, SETTINGS)
    naive.load_state_dict(naive_weights(model))
    return naive.eval()


def test_rival_has_the_same_parameters(tiny_spec: FeatureSpec) -> None:
    model = _model(tiny_spec)
    assert sum(p.numel() for p in _naive(model).parameters()) == sum(p.numel() for p in model.parameters())


def test_rival_gives_the_same_probabilities_for_the_same_rows(tiny_spec: FeatureSpec) -> None:
    model = _model(tiny_spec)
    rng = np.random.default_rng(0)
    ours, theirs = [], {}
    for hashed in tiny_spec.hashed:
        count = CANDIDATES if tiny_spec.is_per_candidate(hashed) else 1
        is_list = tiny_spec.is_list(hashed)
        rows = torch.from_numpy(rng.integers(1, hashed.rows, (count, 3) if is_list else (count,)))
        ours.append(rows)
        repeated = rows.expand(CANDIDATES, *rows.shape[1:])
        theirs[hashed.name] = (repeated.reshape(-1), torch.arange(CANDIDATES) * 3) if is_list else repeated
    numbers = {}
    for number in tiny_spec.numeric:
        numbers[number.name] = torch.from_numpy(rng.normal(size=CANDIDATES if number.part == "candidate" else 1).astype(np.float32))
        ours.append(numbers[number.name])
    ours.append(torch.zeros(CANDIDATES, dtype=torch.int64))
    columns = [numbers[name].expand(CANDIDATES) for name in ("age", "price")]  # of the request, then of the candidate
    with torch.inference_mode():
        expected = model(*ours)
        found = _naive(model)(theirs, torch.stack(columns, dim=1))
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)  # float32, sums in another order


@pytest.mark.parametrize("scenario", scenarios(), ids=lambda scenario: scenario.name)
def test_rival_answers_made_up_requests(scenario: object) -> None:
    import json

    from benchmarks.seeded import Scenario

    assert isinstance(scenario, Scenario)
    features, model = NaiveFeatures(scenario.spec), NaiveDcnV2(scenario.spec, SETTINGS).eval()
    for body, ids in make_bodies(scenario.spec, CANDIDATES, count=3, seed=0):
        document = json.loads(body)
        assert "top_k" not in document
        assert {candidate["id"] for candidate in document["candidates"]} == ids
        with torch.inference_mode():
            probabilities = model(*features(document["user"], document["context"], document["candidates"]))
        assert probabilities.shape == (CANDIDATES,)
        assert torch.isfinite(probabilities).all()


def test_low_rank_crosses_are_refused_not_ignored(tiny_spec: FeatureSpec) -> None:
    with pytest.raises(PilotageError, match="cross_rank is 4"):
        NaiveDcnV2(tiny_spec, DcnV2Settings(cross_rank=4))
