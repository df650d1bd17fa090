"""Fail with one line if the user USER could not run this python, or not come to the folder FOLDER."""

import subprocess
import sys

user, folder = sys.argv[1:]
look = "import os, sys; os.chdir(sys.argv[1])"
try:
    ran = subprocess.run(
        [sys.executable, "-I", "-c", look, folder], cwd="/", stderr=subprocess.PIPE, text=True,
        user=user, group=user, extra_groups=[],
    )  # fmt: skip
except PermissionError:
    sys.exit(
        f"user {user} may not run {sys.executable}: name a python for all users in the inventory (ssh: python:)"
    )
if ran.returncode:
    said = (ran.stderr.strip().splitlines() or [f"exit status {ran.returncode}"])[-1]
    sys.exit(f"user {user} can not run {sys.executable} in {folder}: {said}")
