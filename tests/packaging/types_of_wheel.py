"""What a user writes, checked against the types of an installed wheel by mypy and pyright in their strict modes."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

USER_CODE = Path(__file__).with_name("user_code.py")

STRICT = {"typeCheckingMode": "strict", "reportUnnecessaryTypeIgnoreComment": True, "enableTypeIgnoreComments": False}


def check_types(python: Path, folder: Path) -> None:
    """Check the code of a user in a folder, against the package that is installed where a Python is."""
    shutil.copy(USER_CODE, folder)
    (folder / "pyrightconfig.json").write_text(json.dumps(STRICT), "utf-8")
    tools = Path(sys.executable).parent
    for command in (
        (tools / "mypy", "--strict", "--python-executable", python, USER_CODE.name),
        (tools / "pyright", "--pythonpath", python, USER_CODE.name),
    ):
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{command[0].name}: {done.stdout}{done.stderr}"
        sys.stdout.write(f"{command[0].name}: {done.stdout.splitlines()[-1]}\n")
