/*
question = "What does an order come to on average, by the discount that the patient had?"
grain    = ["discount"]

[columns]
discount        = { unit = "percent", meaning = "discount as stored, negative" }
avg_order_value = { unit = "money", meaning = "average of amount_total, rounded as ksqlDB rounds (ties upwards); null without amounts" }
n_orders        = { unit = "count", meaning = "orders with an amount" }
last_event_at   = { unit = "UTC", meaning = "when one of these orders last changed" }
rowtime_ms      = { unit = "ms", meaning = "the same in epoch milliseconds: ksqlDB's ROWTIME" }

[[checks]]
name     = "every_discount"
sentence = "Every discount of the day sums has its average."
breaches = "SELECT discount FROM marts.order_value_by_discount_day EXCEPT SELECT discount FROM refreshed"
*/
-- The mean is a double, as in ksqlDB; ROUND works on its shortest decimal form, ties upwards (G3).
SELECT
  discount,
  CAST(floor(CAST(CAST(CAST(sum(sum_amount) AS DOUBLE) / nullif(sum(n_amounts), 0) AS VARCHAR)
    AS DECIMAL(38, 17)) * 100 + 0.5) / 100 AS DECIMAL(18, 2)) AS avg_order_value,
  CAST(sum(n_amounts) AS BIGINT) AS n_orders,
  max(last_event_at) AS last_event_at,
  CAST(epoch_ms(max(last_event_at)) AS BIGINT) AS rowtime_ms
FROM marts.order_value_by_discount_day
GROUP BY discount
