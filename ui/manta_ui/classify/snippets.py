"""The page's request as a command and as a program. Both name the variable of the key and never contain the key."""

from __future__ import annotations

import json
import shlex
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from manta_ui.clients.api import Text

KEY_VARIABLE = "MANTA_API_KEY"


def as_curl(texts: Text, *, url: str, needs_key: bool) -> str:
    """Return a command for a POSIX shell that sends the same request."""
    key = f' \\\n  -H "Authorization: Bearer ${KEY_VARIABLE}"' if needs_key else ""
    where, body = shlex.quote(f"{url}/v1/classify"), shlex.quote(_body(texts))
    return f"curl -s {where}{key} \\\n  -H 'Content-Type: application/json' -d {body}"


def as_python(texts: Text, *, url: str, needs_key: bool) -> str:
    """Return a Python program that sends the same request and prints the answer."""
    key = f', "Authorization": "Bearer " + os.environ["{KEY_VARIABLE}"]' if needs_key else ""
    modules = "import json\nimport os\n" if needs_key else "import json\n"
    return (
        f"{modules}import urllib.request\n\n"
        f"body = {json.loads(_body(texts))!r}\n"
        "request = urllib.request.Request(\n"
        f'    "{url}/v1/classify", data=json.dumps(body).encode(), headers={{"Content-Type": "application/json"{key}}}\n'
        ")\n"
        "print(json.load(urllib.request.urlopen(request))['predictions'][0])\n"
    )


def _body(texts: Text) -> str:
    return json.dumps({"text": texts[0] if len(texts) == 1 else list(texts)}, ensure_ascii=False)
