/*
question = "What does an order come to on average, by discount and year of the order?"
grain    = ["discount", "order_year"]

[columns]
discount        = { unit = "percent", meaning = "discount as stored, negative" }
order_year      = "calendar year of the business date"
avg_order_value = { unit = "money", meaning = "average of amount_total, rounded as ksqlDB rounds (ties upwards); null without amounts" }
n_orders        = { unit = "count", meaning = "orders with an amount" }

[[checks]]
name     = "ties_to_all_years"
sentence = "The years of a discount add up to its orders over all years."
breaches = """
  SELECT discount, CAST(sum(n_orders) AS BIGINT) FROM refreshed GROUP BY discount
  EXCEPT SELECT discount, n_orders FROM marts.avg_order_value_by_discount"""
*/
SELECT
  discount,
  CAST(extract(year FROM order_date) AS INTEGER) AS order_year,
  CAST(floor(CAST(CAST(CAST(sum(sum_amount) AS DOUBLE) / nullif(sum(n_amounts), 0) AS VARCHAR)
    AS DECIMAL(38, 17)) * 100 + 0.5) / 100 AS DECIMAL(18, 2)) AS avg_order_value,
  CAST(sum(n_amounts) AS BIGINT) AS n_orders
FROM marts.order_value_by_discount_day
GROUP BY discount, order_year
