"""Print ``name==version`` of each direct dependency that this environment has: .ci/newest.txt."""

import re
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import tomllib

project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]
extras = project["optional-dependencies"]
lists = [project["dependencies"], *(extras[name] for name in extras if name != "bench")]
names = {re.split(r"[^\w.-]", text)[0].lower() for texts in lists for text in texts}
for name in sorted(names - {project["name"]}):
    try:
        print(f"{name}=={version(name).partition('+')[0]}")
    except PackageNotFoundError:
        continue  # of an extra that is not installed
