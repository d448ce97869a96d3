"""What is true of the simulated business: every constant that shapes its data.

An answer of the platform can be held against these. Rates are per patient and
year unless a name says otherwise, discounts are percentages off, money is in the
shop's currency.
"""

from dataclasses import dataclass
from decimal import Decimal

# --- The people and things of the opening -----------------------------------------------

CLINICS = ("Harbour Street Clinic", "Old Mill Practice", "Riverside Health", "Station Road Clinic")


@dataclass(frozen=True)
class Practitioner:
    """A prescriber: `clinic` is 1-based, `usual_discount` what patients mostly get."""

    clinic: int
    practice_type: str
    modalities: str
    certifications: str
    usual_discount: int


PRACTITIONERS = (
    Practitioner(1, "naturopath", "herbal,nutrition", "ND", 10),
    Practitioner(1, "nutritionist", "nutrition", "BSc,MSc", 5),
    Practitioner(1, "general practice", "nutrition,lifestyle", "MBBS", 6),
    Practitioner(2, "naturopath", "herbal,homeopathy", "ND,BHSc", 8),
    Practitioner(2, "acupuncturist", "acupuncture,herbal", "LAc", 11),
    Practitioner(2, "nutritionist", "nutrition,sports", "BSc", 7),
    Practitioner(3, "naturopath", "herbal,nutrition,iridology", "ND", 12),
    Practitioner(3, "general practice", "lifestyle", "MBBS,FRACGP", 5),
    Practitioner(3, "acupuncturist", "acupuncture,cupping", "LAc,DipAc", 9),
    Practitioner(4, "nutritionist", "nutrition", "MSc", 10),
    Practitioner(4, "naturopath", "herbal", "ND", 13),
    Practitioner(4, "general practice", "nutrition", "MBBS", 4),
)
PRACTITIONERS_AT_OPENING = 10
"""The others join later."""


@dataclass(frozen=True)
class Brand:
    """A brand: `practitioner_only` of its ten products need a prescription."""

    name: str
    supply_restriction: str | None
    practitioner_only: int
    price_level: float


BRANDS = (
    Brand("Alder & Finch", None, 2, 1.0),
    Brand("Bluegum Botanics", None, 3, 1.1),
    Brand("Cedarwell", None, 0, 0.8),
    Brand("Dunmore Labs", "listed practitioners", 8, 1.4),
    Brand("Evenlode", None, 1, 0.9),
    Brand("Fernhill Clinical", "listed practitioners", 6, 1.25),
    Brand("Goldenleaf", None, 2, 1.0),
    Brand("Hawthorn Daily", None, 0, 0.7),
)
PRODUCTS_PER_BRAND = 10
SUPPLY_RESTRICTIONS = ((2, 4), (8, 6))
"""(practitioner, brand) that do no business together: structural zeros."""

FAVOURED_BRANDS = {
    "naturopath": (2, 4, 7),
    "nutritionist": (1, 5),
    "general practice": (3, 8),
    "acupuncturist": (6, 2),
}
"""Brands (1-based) that a type of practice chooses `FAVOUR` times as often."""
FAVOUR = 3

SUBSTANCES = (
    "Magnesium",
    "Zinc",
    "Vitamin D",
    "Vitamin C",
    "Omega 3",
    "Probiotic",
    "Curcumin",
    "Iron",
    "B Complex",
    "Ashwagandha",
)
SIZES = (("60 capsules", "capsule", 60), ("120 tablets", "tablet", 120), ("200 ml", "ml", 200))
"""(size, what one takes, how many of it)."""
DOSES = {"capsule": (1, 2, 3), "tablet": (2, 4), "ml": (5, 10)}
"""Possible amounts a day."""

SHIPPING_METHODS = (
    ("Standard", Decimal("8.95"), 5000, Decimal("500.00")),
    ("Express", Decimal("13.95"), 3000, Decimal("500.00")),
    ("Pick up at the clinic", Decimal("0.00"), 5000, Decimal("1000.00")),
    ("Courier", Decimal("24.50"), 25000, Decimal("5000.00")),
)
"""(name, cost, largest weight in grams, largest order value)."""
SHIPPING_WEIGHTS = (70, 18, 10, 2)
PICK_UP = 3

VOUCHERS = (("SHIPFREE", 1, Decimal("8.95")), ("WELCOME5", None, Decimal("5.00")))
"""(code, method whose cost it covers, amount off); each quarter gets its own."""
VOUCHER_SHARE = 0.06

# --- Patients ----------------------------------------------------------------------------

PATIENTS_AT_OPENING = 280
REGISTRATIONS_PER_DAY = 1.4

DISCOUNT_LEVELS = tuple(range(4, 16))
NO_DISCOUNT_SHARE = 0.06
UNKNOWN_DISCOUNT_SHARE = 0.07
"""Patients whose discount is 0, and those for whom nobody has entered one (NULL)."""

DISCOUNT_CHANGES = 0.12
PRACTITIONER_CHANGES = 0.03
PERSONAL_CHANGES = 0.10
ACCOUNT_CLOSURES = 0.004
FAVOURITES_ADDED = 0.9
FAVOURITES_REMOVED = 0.35
PRESCRIPTIONS = 2.0
ACTIVE_DAYS_MEAN = 1100
"""Days from registration after which a patient orders only `DORMANT` as often."""
DORMANT = 0.05

# --- Orders ------------------------------------------------------------------------------

ORDERS_OVER_THE_COUNTER = 9.1
"""Orders of an active patient with average appetite and an order rate factor of 1."""
APPETITE_SPREAD = 0.6
APPETITE_MOST = 3.0
"""Patients differ: log-normal with this sigma, mean 1, cut off here."""

AVERAGE_ORDER_VALUE = {
    4: 91.64,
    5: 126.24,
    6: 151.54,
    7: 121.94,
    8: 148.89,
    9: 148.99,
    10: 129.44,
    11: 169.77,
    12: 148.73,
    13: 168.62,
    14: 146.12,
    15: 134.31,
    0: 104.00,
}
"""What a discount does to the order total, the case study's table as truth."""
AVERAGE_ORDER_VALUE_UNKNOWN = 112.00

ORDER_RATE = {
    0: 0.90,
    4: 0.94,
    5: 0.97,
    6: 1.00,
    7: 1.02,
    8: 1.04,
    9: 1.06,
    10: 1.08,
    11: 1.12,
    12: 1.12,
    13: 1.11,
    14: 1.10,
    15: 1.08,
}
"""What a discount does to how often a patient orders: more than 11 % brings no more."""
ORDER_RATE_UNKNOWN = 0.95

ORDER_VALUE_SPREAD = 0.35
TAX_RATE = Decimal("0.10")
ITEMS_WEIGHTS = (26, 34, 25, 15)
"""How often an order or a prescription has 1, 2, 3, 4 items."""

WEEKDAY = (1.18, 1.12, 1.06, 1.02, 0.96, 0.78, 0.88)
"""Monday first; the mean is 1."""
YEARLY_SWING = 0.14
YEARLY_PEAK_DAY = 330
"""Late November sells most, late May least."""
HOUR_WEIGHTS = (
    2,
    1,
    1,
    1,
    1,
    2,
    5,
    9,
    13,
    15,
    16,
    15,
    15,
    14,
    13,
    13,
    13,
    13,
    14,
    16,
    17,
    14,
    8,
    4,
)

UNPAID_FIRST = 0.12
PAID_LATER = 0.92
CANCELLED_IF_NEVER_PAID = 0.7
CANCELLED_THOUGH_PAID = 0.012
SHIPPING_CORRECTED = 0.008
ITEM_TAKEN_OFF = 0.006
PARTLY_REFUNDED = 0.025
FULLY_REFUNDED = 0.012
DELETED = 0.0015

# --- Prescriptions -----------------------------------------------------------------------

VALID_DAYS = (90, 180, 365)
NEVER_FILLED = 0.17
FILLED_SAME_DAY = 0.40
FILL_DELAY_DAYS_MEAN = 3.5
"""Of those neither unfilled nor filled on the day: about 75 % of all are filled by day 7."""
FILLED_AT_ONCE = 0.62
FILLED_OVER_TIME = 0.23
"""Of several items; the rest of the prescriptions is filled in part for good."""
REPEATS_WEIGHTS = (50, 20, 15, 10, 0, 5)
REFILLED_AGAIN = 0.75
VOIDED = 0.03
ITEM_REMOVED = 0.04

# --- The catalogue's changes, per day ----------------------------------------------------

PRICE_CHANGES_PER_DAY = 0.35
CATALOGUE_CHANGES_PER_DAY = 0.012
"""Vouchers of a new quarter, renamed vouchers, practitioners who join or learn."""
RESTOCK_BELOW = 60
RESTOCK_TO = 400

CHANGES_PER_PATIENT_DAY = 0.17
"""Row changes in all; only an estimate of how much history there will be."""

# --- The live shop -----------------------------------------------------------------------

LIVE_SECONDS = (1.0, 6.0)
LIVE_WEIGHTS = {
    "order": 46,
    "prescribe": 9,
    "register": 6,
    "change_discount": 14,
    "change_practitioner": 3,
    "change_personal": 5,
    "add_favourite": 7,
    "remove_favourite": 4,
    "change_price": 4,
    "restock": 2,
}
