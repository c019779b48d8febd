"""Reads each dashboard with the types of Grafana's foundation SDK and says what they did not know or lost."""

import json
import sys

from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.cog.plugins import register_default_plugins
from grafana_foundation_sdk.models.dashboard import Dashboard


def lost(ours, theirs, path):
    """Paths whose value did not survive the way through the types; what they add by default is no loss."""
    if isinstance(ours, dict) and isinstance(theirs, dict):
        for key, value in ours.items():
            if key not in theirs:
                # Types leave out what says nothing.
                if value not in (None, [], {}, ""):
                    yield f"{path}.{key}: not known to the types"
            else:
                yield from lost(value, theirs[key], f"{path}.{key}")
    elif isinstance(ours, list) and isinstance(theirs, list) and len(ours) == len(theirs):
        for at, (mine, other) in enumerate(zip(ours, theirs)):
            yield from lost(mine, other, f"{path}[{at}]")
    elif ours != theirs:
        yield f"{path}: {ours!r} became {theirs!r}"


register_default_plugins()
failed = False
for name in sys.argv[1:]:
    with open(name, encoding="utf-8") as file:
        ours = json.load(file)
    theirs = json.loads(JSONEncoder(sort_keys=True).encode(Dashboard.from_json(ours)))
    for line in lost(ours, theirs, ours.get("title", name)):
        failed = True
        print(line)
sys.exit(failed)
