"""Made-up personal data for the columns that must never leave the shop."""

from datetime import date, timedelta
from random import Random
from typing import Any

_FIRST = ("Ailsa", "Bram", "Cosima", "Dougal", "Elspeth", "Fergus", "Greer", "Hamish", "Kirsty")
_LAST = ("Abernathy", "Blackwood", "Carmichael", "Drummond", "Erskine", "Fairbairn", "Haldane")
_STREETS = ("Larkspur Lane", "Quarry Rise", "Weaver Row", "Juniper Close", "Foundry Walk")


def email(rng: Random, patient_id: int) -> str:
    """Return a fresh e-mail address for a patient."""
    return f"{rng.choice(_FIRST)}.{patient_id}.{rng.randrange(10**6)}@mail.example".lower()


def address(rng: Random) -> dict[str, Any]:
    """Return the columns of an address."""
    return {
        "address": f"{rng.randint(1, 199)} {rng.choice(_STREETS)}",
        "postcode": f"PC{rng.randrange(10**5):05d}",
    }


def phone(rng: Random) -> str:
    """Return a telephone number."""
    return f"+61 4{rng.randrange(10**8):08d}"


def personal(rng: Random, patient_id: int) -> dict[str, Any]:
    """Return a new patient's personal columns."""
    return {
        "first_name": rng.choice(_FIRST),
        "last_name": rng.choice(_LAST),
        "email": email(rng, patient_id),
        "phone": phone(rng),
        **address(rng),
        "date_of_birth": date(1940, 1, 1) + timedelta(days=rng.randrange(24_000)),
    }
