"""How far the judges that come with pkedit agree with people: what `pkedit judge-agreement` printed for them."""

import json
from importlib.resources import files
from typing import Any

from pkedit.judges.base import Judge


def shipped_agreement(judge: Judge) -> dict[str, Any] | None:
    """The measured agreement of this version of the judge, or None: another version's would say nothing about it.

    `labels` names the labelled answers; `measured` has a row for whole answers and one for cut ones.
    """
    content = json.loads((files("pkedit.judges") / "data" / "agreement.json").read_text(encoding="utf-8"))
    own = [row for row in content["judges"] if (row["judge"], row["version"]) == (judge.name, judge.version)]
    return {"labels": content["labels"], "measured": own} if own else None
