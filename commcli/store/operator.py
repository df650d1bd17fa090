"""Who is at the keyboard, for the lock and the audit."""

from __future__ import annotations

import os
import pwd
import socket


def operator() -> str:
    """`user@host`; behind sudo also the user who called it. By user id: LOGNAME says whatever one likes."""
    try:
        user = pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        user = f"uid-{os.getuid()}"
    behind = os.environ.get("SUDO_USER")
    by = f" (sudo by {behind})" if behind and behind != user else ""
    return f"{user}@{socket.gethostname()}{by}"
