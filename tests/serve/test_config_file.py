"""serve/config.yaml against Ray's schema and the arguments of the builder."""

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from dpa.errors import RunError

REPOSITORY = Path(__file__).resolve().parents[2]
TEXT = (REPOSITORY / "serve" / "config.yaml").read_text(encoding="utf-8")
STAGES = {"desk", "market", "blender", "arbiter", "gate", "sizer"}

pytestmark = [
    pytest.mark.filterwarnings("ignore:Using extra keyword arguments on `Field`"),  # Serve's own
    pytest.mark.ray,
]


def uncommented() -> str:
    """The file with its example of options taken at its word."""
    head, example = TEXT.split("    # deployments:\n")
    return head + "    deployments:\n" + re.sub(r"(?m)^    # ", "    ", example)


@pytest.mark.parametrize("text", [TEXT, uncommented()], ids=["as it is", "with its example"])
def test_the_file_says_what_ray_reads(text: str) -> None:
    from ray.serve.schema import (
        DeploymentSchema,
        HTTPOptionsSchema,
        ServeApplicationSchema,
        ServeDeploySchema,
    )

    content: dict[str, Any] = yaml.safe_load(text)
    read = ServeDeploySchema.model_validate(content)  # it lets names pass that it does not know
    (application,) = content["applications"]
    assert set(content) <= set(ServeDeploySchema.model_fields)
    assert set(content["http_options"]) <= set(HTTPOptionsSchema.model_fields)
    assert set(application) <= set(ServeApplicationSchema.model_fields)
    for options in application.get("deployments", ()):
        assert set(options) <= set(DeploymentSchema.model_fields)
        assert options["name"] in STAGES or options["name"].startswith("family-")
    assert read.http_options.host == "127.0.0.1"
    assert read.applications[0].name == "dpa"
    assert read.applications[0].route_prefix == "/"


def test_every_argument_is_there_with_its_default() -> None:
    from serve.app import Arguments

    (application,) = yaml.safe_load(TEXT)["applications"]
    assert set(application["args"]) == set(Arguments.model_fields)
    assert Arguments(**application["args"]) == Arguments()
    example = re.search(r"such as (\{.*\}\})", TEXT)
    assert example is not None
    settings = yaml.safe_load(example[1])
    assert Arguments(settings=settings).load().risk.daily_loss_limit == 0.01


def test_the_file_imports_from_anywhere(tmp_path: Path) -> None:
    (application,) = yaml.safe_load(TEXT)["applications"]
    module, name = application["import_path"].split(":")
    code = f"import importlib.util as u; print(u.find_spec({module!r}).origin)"
    found = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True
    ).stdout.strip()
    assert Path(found) == REPOSITORY / "serve" / "app.py"
    import serve.app

    assert callable(getattr(serve.app, name))


def test_serve_build_finds_an_application_to_read(tmp_path, monkeypatch) -> None:
    import serve.app

    monkeypatch.chdir(tmp_path)
    with pytest.raises(RunError, match="no bundle is promoted"):
        _ = serve.app.graph
    with pytest.raises(AttributeError, match="no attribute 'other'"):
        _ = serve.app.other
