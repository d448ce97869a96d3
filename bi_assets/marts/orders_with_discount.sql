/*
question  = "Which discount did each patient have when they ordered?"
grain     = ["order_id"]
partition = "order_date"
not_null  = ["ordered_at", "order_date", "order_state", "discount_source"]

[columns]
order_id        = "the order"
patient_id      = "the patient who ordered"
practitioner_id = "the practitioner on the order"
clinic_id       = "the clinic on the order"
ordered_at      = { unit = "UTC", meaning = "when it was ordered" }
order_date      = { unit = "date", meaning = "business date of the order" }
order_state     = "deleted, refunded, part_refunded, cancelled, unpaid or paid; the first that applies"
amount_total    = { unit = "money", meaning = "what was charged, with tax and shipping" }
amount_subtotal = { unit = "money", meaning = "the goods after discount, without tax and shipping" }
net_goods       = { unit = "money", meaning = "the goods less what was paid back: the revenue" }
discount        = { unit = "percent", meaning = "the patient's discount at that moment as the shop stores it, negative: -5 is 5 % off" }
discount_pct    = { unit = "percent", meaning = "the same, positive: 5 is 5 % off" }
discount_source = "asof: known then; asof_null: known that there was none; backfill_first_known: ordered before the first version known of the patient, whose discount is assumed; missing_patient: no such patient then; quarantined: what the shop said of the patient by then could not land, and no discount is given until it does"
match_quality   = "exact; same_second: the discount changed in the second of the order; not_exact: it is not known since when the discount was in force"
patient_practitioner_id_asof = "the practitioner whom the patient belonged to at that moment"
n_order_versions      = { unit = "count", meaning = "versions of the order so far, its deletion included" }
order_practitioner_id = "the practitioner on the order (name of the metric specification)"
last_event_at         = { unit = "UTC", meaning = "when the order last changed at the shop" }

[[checks]]
name     = "every_order_once"
sentence = "Every order that has landed for these days has a row, and no other."
breaches = """
  SELECT coalesce(id, order_id) FROM refreshed FULL JOIN (
    SELECT id FROM history.orders WHERE valid_to = TIMESTAMP '9999-12-31 00:00:00' AND rekeyed_to IS NULL
      AND ((SELECT count(*) FROM days) = 0 OR business_date IN (SELECT day FROM days))) ON id = order_id
  WHERE id IS NULL OR order_id IS NULL"""

[[checks]]
name     = "discount_is_a_percentage"
sentence = "A discount is between 0 and 100 percent off."
holds    = "discount_pct BETWEEN 0 AND 100"

[[checks]]
name     = "refunds_agree"
sentence = "What the items say was paid back is what the order says."
breaches = """
  SELECT o.id FROM refreshed r JOIN state.orders o ON o.id = r.order_id
  WHERE least(o.amount_refunded, o.amount_subtotal) <>
    (SELECT sum(i.refunded_amount) FROM state.order_items i WHERE i.order_id = o.id)
    AND o.amount_refunded IS NOT NULL"""
severity = "warning"

[[checks]]
name     = "refund_within_order"
sentence = "Not more goods are paid back than were bought."
holds    = "net_goods >= 0"
severity = "warning"
*/
-- 1. An order is its newest version; a deleted one keeps what it last was. One whose primary key was
--    changed is no deleted one: it is counted under the key that it has now.
-- 2. Goods paid back are those of its items; where items say nothing, the order's own figure.
-- 3. The discount is that of the patient's version in force at the order's own time, whenever the
--    order was corrected since.
-- 4. From when on a change of the patient is in quarantine, nothing is known.
-- 5. Before the patient's first known version, that version's discount is assumed, and marked.
WITH newest AS (
  SELECT *
  FROM history.orders
  WHERE valid_to = TIMESTAMP '9999-12-31 00:00:00' AND rekeyed_to IS NULL
),
paid_back AS (
  SELECT
    o.*,
    coalesce(
      (SELECT sum(i.refunded_amount) FROM state.order_items i WHERE i.order_id = o.id),
      CASE WHEN o.amount_refunded IS NOT NULL THEN least(o.amount_refunded, o.amount_subtotal) END,
      0
    ) AS refunded_goods
  FROM newest o
),
in_force AS (
  SELECT
    o.*,
    v.valid_from_is_exact AS since_is_exact,
    v.valid_from AS since,
    CASE
      WHEN q.id IS NOT NULL THEN 'quarantined'
      WHEN v.id IS NULL OR (v.is_deleted AND o.date >= v.valid_from) THEN 'missing_patient'
      WHEN v.version_no = 0 OR o.date < v.valid_from THEN 'backfill_first_known'
      WHEN v.practitioner_discount IS NULL THEN 'asof_null'
      ELSE 'asof'
    END AS discount_source,
    v.practitioner_discount,
    v.practitioner_id AS practitioner_then
  FROM paid_back o
  LEFT JOIN history.users v
    ON v.id = o.user_id AND o.date < v.valid_to AND (o.date >= v.valid_from OR v.is_first)
  LEFT JOIN state.quarantined_users q
    ON q.id = o.user_id AND o.date >= q.since
),
known AS (
  SELECT
    *,
    CASE WHEN discount_source NOT IN ('missing_patient', 'quarantined') THEN practitioner_discount END
      AS stored_discount,
    CASE WHEN discount_source NOT IN ('missing_patient', 'quarantined') THEN practitioner_then END
      AS patient_practitioner_id_asof
  FROM in_force
)
SELECT
  id AS order_id,
  user_id AS patient_id,
  practitioner_id,
  clinic_id,
  date AS ordered_at,
  business_date AS order_date,
  CASE
    WHEN is_deleted THEN 'deleted'
    WHEN refunded_goods > 0 AND refunded_goods >= coalesce(amount_subtotal, amount_total) THEN 'refunded'
    WHEN refunded_goods > 0 THEN 'part_refunded'
    WHEN cancelled_at IS NOT NULL THEN 'cancelled'
    WHEN transaction_id IS NULL THEN 'unpaid'
    ELSE 'paid'
  END AS order_state,
  amount_total,
  amount_subtotal,
  CAST(amount_subtotal - refunded_goods AS DECIMAL(18, 4)) AS net_goods,
  CAST(stored_discount AS DECIMAL(5, 2)) AS discount,
  CAST(-stored_discount AS DECIMAL(5, 2)) AS discount_pct,
  discount_source,
  CASE
    WHEN discount_source IN ('missing_patient', 'quarantined') THEN NULL
    WHEN discount_source = 'backfill_first_known' OR NOT since_is_exact THEN 'not_exact'
    WHEN date_trunc('second', date) = date_trunc('second', since) THEN 'same_second'
    ELSE 'exact'
  END AS match_quality,
  patient_practitioner_id_asof,
  version_no AS n_order_versions,
  practitioner_id AS order_practitioner_id,
  valid_from AS last_event_at
FROM known
