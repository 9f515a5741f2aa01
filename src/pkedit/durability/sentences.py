"""What a durability table says in sentences; they stand in `durability.json`, for the terminal and the report."""

from pkedit.durability.names import AS_IS
from pkedit.durability.record import DurabilityRecord
from pkedit.run.wording import metric_text


def worst(record: DurabilityRecord) -> list[str]:
    """For each arm, attack success as it is, and where it is highest."""
    lines, text = [], metric_text("asr")
    for arm in arms_of(record):
        measured = {
            name: row.arms[arm].metrics["asr"]
            for name, row in record.rows.items()
            if arm in row.arms and "asr" in row.arms[arm].metrics
        }
        if AS_IS not in measured or len(measured) == 1:
            continue
        highest = max(measured, key=lambda name: measured[name].value)
        found = f"at most {text.number(measured[highest].value)} % ({record.rows[highest].label})"
        if highest == AS_IS:
            found = "no more under any other condition"
        lines.append(f"{arm}: {text.number(measured[AS_IS].value)} % of attacks answered harmfully as it is; {found}")
    return lines


def notes(record: DurabilityRecord) -> list[str]:
    """What has to be known of conditions, each said once with the arms that it is about."""
    said: dict[tuple[str, str], list[str]] = {}
    for row in record.rows.values():
        for arm, cell in row.arms.items():
            if cell.note:
                said.setdefault((row.label, cell.note), []).append(arm)
    return [f"{label} ({', '.join(arms)}): {note}" for (label, note), arms in said.items()]


def arms_of(record: DurabilityRecord) -> list[str]:
    """The arms of any row, in the order in which they were measured."""
    return list(dict.fromkeys(arm for row in record.rows.values() for arm in row.arms))
