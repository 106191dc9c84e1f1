"""The contracts as JSON Schemas, for editors and for tools in other languages.

`python -m specs.schema` writes them to `docs/schema/`.
"""

import json
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from specs.comparison import Alternatives, Comparison
from specs.plan import Plan
from specs.prediction import Configuration, Prediction
from specs.scenario import Scenario

FOLDER = Path(__file__).parents[1] / "docs" / "schema"


def schemas() -> dict[str, dict[str, Any]]:
    """Return the JSON Schema (draft 2020-12) of each contract by name."""
    return {
        "scenario": _schema(Scenario, "Cleave scenario"),
        "plan": _schema(Plan, "Cleave plan"),
        "comparison": _schema(Comparison, "Cleave comparison"),
        "alternatives": _schema(Alternatives, "Cleave alternatives"),
        "configuration": _schema(Configuration, "Cleave configuration"),
        "prediction": _schema(Prediction, "Cleave prediction"),
    }


def _schema(kind: type[BaseModel], title: str) -> dict[str, Any]:
    schema = kind.model_json_schema(by_alias=True, mode="validation")
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema, "title": title}


def write() -> None:
    """Write the schemas to `docs/schema/`."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    for name, schema in schemas().items():
        (FOLDER / f"{name}.json").write_text(json.dumps(schema, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    write()
