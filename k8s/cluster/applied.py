"""What the chart's values were when it was applied last, as a rollout needs it that changes values: `values.json` of its ConfigMap."""

from __future__ import annotations

import json
from typing import Any

from k8s.cluster.api import Api
from k8s.cluster.names import Names
from k8s.cluster.values import ValuesFile
from k8s.errors import Unavailable

BODY = "values.json"


def applied_values(api: Api, names: Names) -> dict[str, Any] | None:
    """Return what the values say: `change`, mark of the last one, `cookie`, and `arms`; None where rollouts write to the cluster."""
    found = api.get(names.config_map(names.rollout))
    text = ((found or {}).get("data") or {}).get(BODY)
    return json.loads(text) if text else None


def is_applied(api: Api, names: Names, file: ValuesFile) -> bool:
    """Whether the last change of the file is in the cluster, or on its way there: no earlier one can come after it."""
    return bool((applied_values(api, names) or {}).get("change", "") == file.mark)


def require_applied(api: Api, names: Names, file: ValuesFile) -> None:
    """Check that the last change of the file is in the cluster.

    Raises
    ------
    Unavailable
        It is not, not yet maybe.
    """
    if not is_applied(api, names, file):
        raise Unavailable(f"what {file} says is not in the cluster yet: whoever applies the chart has not taken its last change")
