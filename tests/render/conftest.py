"""What is beside the project, and not part of it."""

from pathlib import Path

import pytest

from tests.render.plans import ROOT


@pytest.fixture(scope="session")
def crds() -> Path:
    """The custom resource definitions."""
    folder = ROOT.parent / "shared" / "data" / "crds"
    if not folder.is_dir():
        pytest.skip("../shared/data/crds is absent: manifests are not validated against the CRDs")
    return folder
