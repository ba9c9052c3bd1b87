"""Write the bill of materials of the environment that runs this: CycloneDX 1.6 as JSON on stdout, from what is installed, nothing else.

Python's packages from their metadata, Debian's from dpkg's list where there is one. The same environment gives the same bytes.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import sys
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

DPKG_STATUS = Path("/var/lib/dpkg/status")

Component = dict[str, Any]


def python_packages() -> Iterator[Component]:
    """Every installed distribution, with its licence as its metadata say it."""
    for distribution in metadata.distributions():
        name, version = distribution.name, distribution.version
        purl = f"pkg:pypi/{re.sub(r'[-_.]+', '-', name).lower()}@{version}"
        component: Component = {"type": "library", "bom-ref": purl, "name": name, "version": version, "purl": purl}
        fields = distribution.metadata
        expression, text = fields.get("License-Expression"), fields.get("License", "")
        classifiers = [line.rpartition(" :: ")[2] for line in fields.get_all("Classifier", []) if line.startswith("License ::")]
        if expression:
            component["licenses"] = [{"expression": expression}]
        elif classifiers:
            component["licenses"] = [{"license": {"name": name}} for name in classifiers]
        elif text and "\n" not in text:  # some put the whole text there
            component["licenses"] = [{"license": {"name": text}}]
        yield component


def debian_packages(status: Path = DPKG_STATUS) -> Iterator[Component]:
    """Every package that dpkg has installed."""
    if not status.is_file():
        return
    for paragraph in status.read_text(encoding="utf-8").split("\n\n"):
        fields = dict(re.findall(r"^(Package|Version|Architecture|Status): (.+)$", paragraph, re.MULTILINE))
        if fields.get("Status") == "install ok installed":
            version = fields["Version"].replace(":", "%3A").replace("+", "%2B")
            purl = f"pkg:deb/debian/{fields['Package']}@{version}?arch={fields['Architecture']}"
            yield {"type": "library", "bom-ref": purl, "name": fields["Package"], "version": fields["Version"], "purl": purl}


def bill(components: list[Component], created: datetime) -> dict[str, Any]:
    """The document; its serial number follows from what is in it."""
    components = [one for _, one in sorted({str(one["purl"]): one for one in components}.items())]
    digest = hashlib.sha256(json.dumps(components, sort_keys=True).encode()).hexdigest()
    return {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": f"urn:uuid:{uuid.uuid5(uuid.NAMESPACE_OID, digest)}",
        "version": 1,
        "metadata": {
            "timestamp": created.strftime("%Y-%m-%dT%H:%M:%SZ"),
            "component": {"type": "container", "bom-ref": "image", "name": "pilotage"},
        },
        "components": components,
    }


def main() -> None:
    """Print the bill of this environment, dated ``SOURCE_DATE_EPOCH``."""
    created = datetime.fromtimestamp(int(os.environ.get("SOURCE_DATE_EPOCH", "0")), UTC)
    json.dump(bill([*python_packages(), *debian_packages()], created), sys.stdout, indent=1, sort_keys=True)
    sys.stdout.write("\n")


if __name__ == "__main__":
    main()
