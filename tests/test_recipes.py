"""The recipes of docs/recipes.md are fit to be copied: configurations are accepted, scripts are shell."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from servers import CHECKOUT

PAGE = (CHECKOUT / "docs" / "recipes.md").read_text()
SECTIONS = dict(re.findall(r"^## (.+?)\n(.*?)(?=^## |\Z)", PAGE, re.MULTILINE | re.DOTALL))


def blocks(text: str, language: str) -> list[str]:
    """The code blocks of a text in this language."""
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("name", SECTIONS)
def test_configuration_of_a_recipe_is_accepted(name: str, tmp_path: Path) -> None:
    """Who copies it into sidecar.yml and puts the script in its place has nothing to mend."""
    (text,) = blocks(SECTIONS[name], "yaml")
    file = tmp_path / "sidecar.yml"
    file.write_text(text)
    done = subprocess.run([sys.executable, "-P", "-m", "sidecar", "check", "config", file], capture_output=True,
                          text=True, timeout=60, check=False)

    assert (done.returncode, done.stderr) == (0, "")
    assert yaml.safe_load(text)["actions"]["mode"] == "enforce"


@pytest.mark.parametrize("name", [name for name, text in SECTIONS.items() if blocks(text, "sh")])
def test_script_of_a_recipe_is_shell_and_the_one_that_is_allowed(name: str) -> None:
    """The shell can read it, and it stands under the name that the configuration allows and runs."""
    (script,) = blocks(SECTIONS[name], "sh")
    done = subprocess.run(["sh", "-n"], input=script, capture_output=True, text=True, timeout=60, check=False)

    assert (done.returncode, done.stderr) == (0, "")
    (config,) = blocks(SECTIONS[name], "yaml")
    ((program,),) = (yaml.safe_load(config)["actions"]["allow_exec"],)
    assert f"`{program}`" in SECTIONS[name]
    assert config.count(f"[{program}]") >= 2
